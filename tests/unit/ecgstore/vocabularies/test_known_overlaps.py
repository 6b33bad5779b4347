"""Sets that hold each other's records: known by the names that stores give them."""

from __future__ import annotations

import pytest

from ecgstore.rooms import occupant, occupants
from ecgstore.sources._challenge import DATABASES
from ecgstore.vocabularies.known_overlaps import Origin, known_overlaps, overlaps_between

SOURCES = {occupant("ecgstore.sources", name).TERMS.name for name in occupants("ecgstore.sources")}


def plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def test_sets_and_sites_go_by_the_names_that_sources_give_them():
    ours = {plain(name): name for name in SOURCES}
    sets = {(one.set_a, one.site_a) for one in known_overlaps()} | {(one.set_b, one.site_b) for one in known_overlaps()}
    assert {name for name, _ in sets} & SOURCES == {"ptbxl", "mitdb", "cinc2020", "cinc2021"}
    for name, site in sets:
        assert ours.get(plain(name), name) == name
        assert not site or site in DATABASES


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (("qtdb", ""), ("mitdb", ""), ["15 of 105"]),
        (("sddb", ""), ("QTDB", ""), ["24 of 105"]),
        (("code15", ""), ("CODE", ""), ["15 % of the patients"]),
        (("mitdb", ""), ("nstdb", ""), ["118 and 119"]),
        (("challenge-2021", "ptb-xl"), ("ptb-xl", ""), ["HR00001"]),
        (("ptb", ""), ("cinc2020", "ptb"), ["516 of 549"]),
        (("qtdb", ""), ("ptbxl", ""), []),
        (("mitdb", ""), ("mitdb", ""), []),
    ],
)
def test_either_may_be_the_one_that_is_tested(one, other, said):
    for some, others in ((one, other), (other, one)):
        found = overlaps_between([Origin(*some)], [Origin(*others)])
        assert len(found) == len(said)
        assert all(text in known.note for text, known in zip(said, found, strict=True))
