"""The origin of beats as a task: regions of five kinds, regions of one's own, and places in mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgstore import ConfigError, Store, open_store
from ecgstore.inner import aha_segments, origin_sites
from ecgtrain import tasks
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Targets


@pytest.fixture(scope="module")
def store(beat_store: Path) -> Store:
    return open_store(beat_store)


def asked(store: Store, **more: object) -> Targets:
    return tasks.load({"kind": "vt_origin", **more}).targets(store)


def codes_of(store: Store, system: str) -> dict[int, str]:
    return {one["row"]: one["code"] for one in store.statements.to_pylist() if one["system"] == system}


@pytest.mark.parametrize(
    ("labels", "system", "n"),
    [("four", "vt_region", 4), ("sites", "vt_site", 25), ("aha17", "aha17", 17), ("outflow", "vt_region", 2)],
)
def test_each_record_is_of_the_region_that_it_states(store: Store, labels: str, system: str, n: int) -> None:
    targets, stated = asked(store, labels=labels), codes_of(store, system)
    assert (targets.kind, len(targets.classes)) == ("exclusive", n)
    known = {row for row, code in stated.items() if code in targets.classes}
    assert set(targets.rows_with_label.tolist()) == known
    for row in known:
        assert targets.classes[int(targets.y_nc[row].argmax())] == stated[row]
        assert targets.y_nc[row].sum() == 1


def test_ten_groups_hold_every_segment_once(store: Store) -> None:
    from ecgtrain.tasks.vt_origin import _TEN

    assert sorted(segment for of in _TEN.values() for segment in of) == list(range(1, 18))
    targets, stated = asked(store, labels="segments10"), codes_of(store, "aha17")
    for row in targets.rows_with_label.tolist():
        assert int(stated[row]) in _TEN[targets.classes[int(targets.y_nc[row].argmax())]]


@pytest.mark.parametrize("labels", ["four", "outflow", "sites", "aha17", "segments10"])
def test_neighbours_are_mutual_and_middles_are_known(store: Store, labels: str) -> None:
    places = asked(store, labels=labels).places
    for name, near in places.neighbours.items():
        assert name not in near
        assert all(name in places.neighbours[other] for other in near)
    assert set(places.centroid_mm) >= set(places.neighbours)


def test_neighbours_are_those_of_the_tables(store: Store) -> None:
    segments, sites = asked(store, labels="aha17").places, asked(store, labels="sites").places
    for one in aha_segments():
        assert segments.neighbours[str(one.segment)] == {str(near) for near in one.neighbours}
    for site in origin_sites():
        assert sites.neighbours[site.site] == set(site.neighbours)
    assert asked(store, labels="segments10").places.neighbours["apex"] == {"apical"}


def test_places_are_whole_millimetres_of_either_heart(store: Store) -> None:
    reference, own = asked(store, ask="coords"), asked(store, ask="coords", system="vt_place_mm")
    assert (reference.kind, reference.unit, reference.classes) == ("regression", "mm", ("x", "y", "z"))
    assert reference.places.in_reference_heart
    assert not own.places.in_reference_heart
    assert len(reference.rows_with_label) == len(own.rows_with_label) == store.n_records
    # Hearts differ in size by a few percent: the places differ, and not by much.
    apart_mm = np.linalg.norm(reference.y_nc - own.y_nc, axis=1)
    assert 0 < np.median(apart_mm) < 10


def test_whole_recordings_are_said_to_be_so(vt_store: Path, store: Store) -> None:
    assert "whole recordings" in asked(open_store(vt_store)).caveats[-1]
    assert asked(store).caveats == ()


TABLE = "region,codes,neighbours,x_mm,y_mm,z_mm\nright,RVOT RV,left,-30,20,10\nleft,LVOT LV,,0,0,30\n"


def test_a_table_of_ones_own_becomes_part_of_the_recipe(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE)
    task = tasks.load({"kind": "vt_origin", "labels": str(path), "system": "vt_region"})
    path.unlink()
    again = tasks.load(task.content)
    assert again == task
    targets = again.targets(store)
    assert targets.classes == ("right", "left")
    assert len(targets.rows_with_label) == store.n_records
    assert targets.places.neighbours == {"right": {"left"}, "left": {"right"}}
    assert targets.places.centroid_mm["right"] == (-30, 20, 10)
    assert targets.task == "vt_origin: regions, right left, vt_region"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("region,codes\na,RVOT\na,LVOT\n", "line 3.*a region needs a name of its own"),
        ("region,codes\na,RVOT\n", "regions are at least two"),
        ("region,codes\na,RVOT\nb,RVOT\n", "a code may stand in one region alone"),
        ("region,codes,neighbours\na,RVOT,c\nb,LVOT,\n", "a neighbour that is no region: c"),
        ("region,codes,x_mm,y_mm,z_mm\na,RVOT,1,2,\nb,LVOT,1,2,3\n", "three numbers, or none"),
    ],
)
def test_tables_that_can_not_be_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        tasks.load({"kind": "vt_origin", "labels": str(path), "system": "vt_region"})


@pytest.mark.parametrize(
    "more", [{"labels": "aha18"}, {"ask": "coords", "labels": "aha17"}, {"labels": "four", "system": "aha17"}]
)
def test_what_does_not_fit_together_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        tasks.load({"kind": "vt_origin", **more})


@pytest.mark.parametrize("labels", ["aha18", 5, ["four"]])
def test_what_regions_can_be_named_by_is_told(labels: object) -> None:
    with pytest.raises(ConfigError, match=r"four, outflow, .*or regions of your own: the path of a CSV file") as told:
        tasks.load({"kind": "vt_origin", "labels": labels})
    assert "literal[" not in str(told.value)
    assert ("did you mean aha17?" in str(told.value)) == (labels == "aha18")


def test_a_store_without_origins_says_so(mini_store: Path) -> None:
    for more in ({}, {"ask": "coords"}):
        with pytest.raises(ProtocolError, match=r"vt_region|vt_reference_mm"):
            asked(open_store(mini_store), **more)
