"""Two stores together: shards as they were, records of both, and refusals where they don't go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lineage_records import SECRET

from ecgstore import ConfigError, Store, merge_stores, open_store, subset_store, withdraw_records
from ecgstore.cli import main
from ecgstore.storage import layout


@pytest.fixture(scope="module")
def other(make) -> Path:
    """Five records of another ward, on the same grid."""
    return make("other.ecg", range(5), prefix="elsewhere/rec")


@pytest.fixture(scope="module")
def coarse(make) -> Path:
    """Records that need larger shards."""
    return make("coarse.ecg", range(3), prefix="long/rec", n_samples=50_000)


def holds(merged: Store, store: Store) -> None:
    """All records of ``store`` stand in ``merged`` as they were."""
    for record_id in store.column("record_id"):
        one, copy = store.read(record_id), merged.read(record_id)
        np.testing.assert_array_equal(one.signal_mv_lt, copy.signal_mv_lt)
        assert (one.statements, one.patient_key, one.fold) == (copy.statements, copy.patient_key, copy.fold)
    rows = [merged.column("record_id").tolist().index(one) for one in store.column("record_id")]
    for name in set(store.records.column_names) - {"start", "shard"}:
        assert merged.records[name].take(rows).equals(store.records[name]), name
    assert merged.lead_quality.take(rows).equals(store.lead_quality)


def test_shards_are_taken_over_as_they_are(ward: Path, other: Path, tmp_path: Path) -> None:
    one, two = open_store(ward), open_store(other)
    report = merge_stores(one, two, tmp_path / "both.ecg")
    both = open_store(tmp_path / "both.ecg")
    assert both.verify(deep=True) == []
    assert (report.records, report.shards_written, report.shards_kept) == (13, 0, one.n_shards + two.n_shards)
    for store, path, first in ((one, ward, 0), (two, other, one.n_shards)):
        holds(both, store)
        for shard in range(store.n_shards):
            name = layout.shard_object(first + shard)
            assert (tmp_path / "both.ecg" / name).read_bytes() == (path / layout.shard_object(shard)).read_bytes()
    assert both.attributes["lineage"] == [{"made_by": "merge", "parents": [one.fingerprint, two.fingerprint]}]
    counts_lt = np.concatenate([both.read(one).signal_mv_lt for one in both.column("record_id")], axis=1)
    np.testing.assert_allclose(both.statistics().mean_mv_l, counts_lt.mean(axis=1, dtype=np.float64), atol=1e-6)
    assert merge_stores(one, two, tmp_path / "again.ecg").fingerprint == both.fingerprint


@pytest.mark.parametrize("turned", [False, True])
def test_the_coarser_grid_stays(ward: Path, coarse: Path, tmp_path: Path, turned: bool) -> None:
    stores = [open_store(ward), open_store(coarse)][:: -1 if turned else 1]
    assert stores[0].shard_samples != stores[1].shard_samples
    report = merge_stores(*stores, tmp_path / "both.ecg")
    both = open_store(tmp_path / "both.ecg")
    assert both.verify(deep=True) == []
    assert report.shards_kept == open_store(coarse).n_shards
    for store in stores:
        holds(both, store)
    # Whoever withdraws from it is gone, wherever the record came from.
    withdraw_records(both, tmp_path / "v2.ecg", records=["long/rec-0001", "ward/rec-0001"])
    after = open_store(tmp_path / "v2.ecg")
    assert (after.verify(deep=True), after.n_records) == ([], both.n_records - 2)


def test_a_code_is_a_no_only_where_it_is_looked_for(make, tmp_path: Path) -> None:
    one = open_store(make("north.ecg", range(2), prefix="north/r", site="north"))
    two = open_store(make("south.ecg", range(2, 4), prefix="south/r", site="south"))
    merge_stores(one, two, tmp_path / "both.ecg")
    both = open_store(tmp_path / "both.ecg")
    assert both.vocabulary("diagnosis") == one.vocabulary("diagnosis") | two.vocabulary("diagnosis")
    codes = ["AFIB", "RARE1", "RARE2"]
    known = [[True, True, False]] * 2 + [[True, False, True]] * 2
    assert both.statement_mask(codes, "diagnosis").tolist() == known


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"leads": ("I", "II")}, "different leads"),
        ({"fs_hz": 50.0}, "different sampling rates"),
        (
            {"filters": ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},)},
            "different ways of preparing records: filters differs",
        ),
        ({"patient_key": f"not {SECRET}"}, "different keys"),
        ({"patient_key": "public"}, "different keys"),
        ({"record_ids": "stem"}, "different kinds of record ids"),
        ({"quality": "basic", "codec": "pcodec"}, "codec differs"),
    ],
)
def test_what_does_not_go_together_is_refused(make, ward: Path, tmp_path: Path, settings: dict, words: str) -> None:
    unlike = make("unlike.ecg", range(1), prefix="unlike/rec", settings=settings)
    with pytest.raises(ConfigError, match=words):
        merge_stores(open_store(ward), open_store(unlike), tmp_path / "both.ecg")
    assert not (tmp_path / "both.ecg").exists()


def test_a_record_is_in_one_of_them(ward: Path, tmp_path: Path) -> None:
    store = open_store(ward)
    subset_store(store, tmp_path / "part.ecg", folds=[1])
    done = CliRunner().invoke(main, ["merge", str(ward), str(tmp_path / "part.ecg"), str(tmp_path / "both.ecg")])
    assert (done.exit_code, "have an id that is in both stores" in done.stderr) == (1, True)


def test_who_withdrew_from_one_does_not_come_back_by_the_other(ward: Path, tmp_path: Path) -> None:
    store = open_store(ward)
    subset_store(store, tmp_path / "odd.ecg", where="fold == 1")
    subset_store(store, tmp_path / "even.ecg", where="fold != 1")
    odd, even = open_store(tmp_path / "odd.ecg"), open_store(tmp_path / "even.ecg")
    withdraw_records(store, tmp_path / "v2.ecg", patients=[even.column("patient_key")[0]])
    subset_store(open_store(tmp_path / "v2.ecg"), tmp_path / "rest.ecg", where="fold == 1")
    rest = open_store(tmp_path / "rest.ecg")
    assert rest.column("record_id").tolist() == odd.column("record_id").tolist()
    with pytest.raises(ConfigError, match="were withdrawn from"):
        merge_stores(even, rest, tmp_path / "both.ecg")
