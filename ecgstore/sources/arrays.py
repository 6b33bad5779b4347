"""Records that :func:`ecgstore.write_records` was given as arrays, in the folder that it puts them aside in.

``samples.f32`` holds the samples of all records one behind the other, float32 millivolts, each (leads, samples);
``records.jsonl`` has one line per record, ``terms.json`` the terms. The folder lives as long as the call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from ecgstore import settings
from ecgstore.errors import REASONS, RecordError, SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Terms
from ecgstore.sources._listed import Said, SaidTerms, what_is_wrong
from ecgstore.sources._reader import RecordHeader

#: Where nothing else was said.
TERMS = Terms(name="arrays", version="", licence="as agreed with whoever made the records", redistributable=False)
SAMPLES, RECORDS, ABOUT = "samples.f32", "records.jsonl", "terms.json"
VALUE = np.dtype("<f4")


class Settings(settings.Settings):
    """There is nothing to set."""

    name: Literal["arrays"] = "arrays"


class Place(RecordHeader):
    """The header of a record and where its samples begin, in bytes: what finds it in the file."""

    offset: int = Field(ge=0, lt=2**62)


def list_records(root: Path, settings: Settings) -> Listing:
    """The records in the order in which they were given, and those that were refused at once."""
    records: list[RecordRef] = []
    rejected: list[Rejection] = []
    try:
        # A pipe in the place of a file would be waited for for ever.
        if not all((root / name).is_file() for name in (ABOUT, RECORDS, SAMPLES)):
            raise FileNotFoundError
        terms = Terms(**SaidTerms.model_validate_json((root / ABOUT).read_bytes()).model_dump())
        with (root / RECORDS).open(encoding="utf-8") as lines:
            for line in lines:
                row: dict[str, Any] = json.loads(line)
                if "reason" in row:
                    if row["reason"] not in REASONS:
                        raise ValueError(row["reason"])
                    rejected.append(Rejection(str(row["record_id"]), row["reason"], str(row["detail"])))
                else:
                    said = Said.model_validate(row["said"])
                    records.append(RecordRef(**said.fields(), path=root / SAMPLES, inside=str(row["place"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        got = what_is_wrong(error) if isinstance(error, ValidationError) else type(error).__name__
        raise SourceError(
            "this is no folder of arrays", where=root, got=got, fix="such folders are made by ecgstore.write_records"
        ) from None
    return Listing(tuple(records), tuple(rejected), terms, is_published=False)


def read_header(ref: RecordRef, settings: Settings) -> RecordHeader:
    """What was said of the signals."""
    return _place(ref)


def read_samples(ref: RecordRef, settings: Settings, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Samples ``start`` .. ``stop`` - 1 as float32 (leads, samples) in mV."""
    place = _place(ref)
    shape = len(place.leads), place.n_samples
    try:
        whole_lt = np.memmap(ref.path, VALUE, "r", place.offset, shape)
    except (OSError, ValueError):
        raise RecordError(ref.record_id, "truncated", "the samples are not all there") from None
    return np.array(whole_lt[:, start:stop])


def _place(ref: RecordRef) -> Place:
    try:
        return Place.model_validate_json(ref.inside)
    except ValidationError as error:
        raise RecordError(ref.record_id, "bad_header", what_is_wrong(error)) from None
