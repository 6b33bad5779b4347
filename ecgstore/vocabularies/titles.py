"""What codes and symbols mean in words, for people who look at a record. Codes of one's own have no title here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from ecgstore.vocabularies import packaged
from ecgstore.vocabularies.vocabulary import YEARS

#: The system of which PTB-XL states codes; a number in any other is taken for one of SNOMED CT, which mean the same everywhere.
SCP = "scp_ecg"


def title_of(code: str, system: str) -> str:
    """What a statement says, in words; empty where that is not known."""
    return _scp().get(code, "") if system == SCP else _snomed().get(code, "")


@cache
def _scp() -> Mapping[str, str]:
    return MappingProxyType({row["code"]: row["title"] for row in packaged.rows("scp_titles")})


@cache
def _snomed() -> Mapping[str, str]:
    titles = {row["snomed"]: row["snomed_name"] for row in packaged.rows("scp_snomed")}
    for year in YEARS:
        titles |= {row["snomed"]: row["name"] for row in packaged.rows(f"scored_{year}")}
    return MappingProxyType(titles)


@cache
def beat_titles() -> Mapping[str, str]:
    """WFDB symbol of a beat → what it means."""
    return MappingProxyType({row["symbol"]: row["meaning"] for row in packaged.rows("aami_beats")})
