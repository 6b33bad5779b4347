"""Stores that were changed and sealed anew, so that they say what docs/format.md rules out: each is found."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_stores import GOLDEN, reseal

from ecgstore import IngestSettings, StoreFormatError, ingest_folder, open_store
from ecgstore.build.augment import augment_store
from ecgstore.lineage.subset import subset_store
from ecgstore.signals.noise import NoiseSettings
from ecgstore.storage import layout, tables

COMMIT = "commits/000000.arrow"


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(GOLDEN / "v2.ecg", tmp_path / "a.ecg")


def edit(root, change):
    content = json.loads((root / layout.ROOT).read_text())
    change(content["attributes"])
    (root / layout.ROOT).write_text(json.dumps(content))
    reseal(root)


def put(root, name, column, values):
    table = tables.from_parquet((root / name).read_bytes())
    pq.write_table(table.set_column(*with_values(table, column, values)), root / name)
    reseal(root)


def with_values(table, column, values):
    field = table.schema.field(column)
    return table.column_names.index(column), field, pa.array(values, field.type)


def commit(root, change):
    written, about = tables.from_arrow((root / COMMIT).read_bytes())
    (root / COMMIT).write_bytes(tables.to_arrow(change(written), about))
    reseal(root)


def replace(root, name, columns):
    schema = tables.from_parquet((root / name).read_bytes()).schema
    pq.write_table(pa.table(columns, schema=schema), root / name)
    reseal(root)


def problems(root, *, deep):
    try:
        return open_store(root).verify(deep=deep)
    except StoreFormatError as error:
        return [str(error)]


# --- the root -----------------------------------------------------------------------------------------------------


def test_statistics_of_a_fold_without_records_are_found(root):
    edit(root, lambda about: about["statistics"].update({"77": about["statistics"]["1"]}))
    problem, _ = problems(root, deep=False)
    assert problem.startswith("records.parquet: statistics are stated of a fold that no record is in")
    assert "77" in problem


@pytest.mark.parametrize("i", range(3))
def test_statistics_are_the_sums_of_the_samples(root, i):
    def change(about):
        about["statistics"]["5"][("n", "sum_counts", "sum_squared_counts")[i]][3] += 1

    edit(root, change)
    assert problems(root, deep=False) == ["zarr.json: the statistics are not the sums that the commits state"]
    path = root / COMMIT
    written, about = tables.from_arrow(path.read_bytes())
    about["sums"]["5"][i][3] += 1
    path.write_bytes(tables.to_arrow(written, about))
    reseal(root)
    assert problems(root, deep=False) == []
    assert problems(root, deep=True) == ["zarr.json: the statistics of fold '5' are not the sums of its samples"]


def test_the_rate_of_a_raw_store_is_that_of_each_record(tmp_path, write_record):
    write_record(tmp_path / "src", leads=("I", "II"))
    root = tmp_path / "raw.ecg"
    ingest_folder(tmp_path / "src", root, IngestSettings(profile="raw"))
    assert problems(root, deep=True) == []
    edit(root, lambda about: about.update(fs_hz=2 * about["fs_hz"]))
    assert "another rate than the root of the store states for all" in problems(root, deep=False)[0]


# --- what is said of samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("lead_states", ["m" * 12, "mma" + "m" * 9, "m" * 12], "record 54: lead III has samples, and is said to be"),
        ("n_not_recorded", [0, 5, 0], "record 54: n_not_recorded is 5, and of its samples 0 are missing"),
        ("n_clipped", [0, 0, 1], "record 96: n_clipped is 1, and of its samples 0 can have been clipped"),
    ],
)
def test_what_is_said_of_samples_is_so(root, column, values, said):
    put(root, layout.RECORDS, column, values)
    assert f"a commit doesn't say of its records what the tables say; in {root}/{COMMIT}; got '{column}'" in str(
        problems(root, deep=False)
    )
    commit(root, lambda table: table.set_column(*with_values(table, column, values)))
    assert problems(root, deep=False) == []
    (problem,) = problems(root, deep=True)
    assert problem.startswith(said)


def test_what_commands_make_of_absent_missing_and_clipped_samples_passes(tmp_path, write_record):
    counts_tl = np.random.default_rng(1).normal(0, 100, (2000, 3)).astype("<i2")
    counts_tl[100:200, 1] = -32768
    counts_tl[50:60, 0] = 4000  # 40 mV
    write_record(tmp_path / "src", "a", counts_tl, ("V1", "V2", "V3"), gain="100.0(0)/mV")
    write_record(tmp_path / "src", "b")
    settings = IngestSettings(fs_hz=500, filters=())
    ingest_folder(tmp_path / "src", tmp_path / "a.ecg", settings)
    store = open_store(tmp_path / "a.ecg")
    assert store.verify(deep=True) == []
    assert store.column("n_not_recorded").max() == 100
    assert store.column("n_clipped").max() == 10
    assert any("a" in states for states in store.column("lead_states"))
    augment_store(store, tmp_path / "noisy.ecg", NoiseSettings(kind="muscle", snr_db=-20, seed=1))
    assert open_store(tmp_path / "noisy.ecg").verify(deep=True) == []
    subset_store(store, tmp_path / "part.ecg", leads=["V2", "V6", "I"])
    assert open_store(tmp_path / "part.ecg").verify(deep=True) == []


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["warnings", "suspects", "signature", "source_crc32"])
def test_what_is_never_null_is_never_null(root, column):
    before = tables.from_parquet((root / layout.RECORDS).read_bytes())[column].to_pylist()
    put(root, layout.RECORDS, column, [*before[:2], None])
    assert f"column {column} lacks a value" in problems(root, deep=False)[0]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("flat_fraction", 7.0, "flat_fraction is out of range"),
        ("flat_fraction", -1.0, "flat_fraction is out of range"),
        ("mains_mv", -0.5, "mains_mv is out of range"),
        ("sqi", math.nan, "sqi is out of range"),
        ("snr_db", math.nan, "snr_db is out of range"),
        ("n_not_recorded", 2**60, "n_not_recorded is out of range"),
        ("n_clipped", 2**60, "n_clipped is out of range"),
        ("record_id", "", "record_id holds an empty text"),
        ("patient_key", "Mr Smith", "patient_key holds what is no hash"),
        ("patient_key", "BF9544F7FB7862E1", "patient_key holds what is no hash"),
    ],
)
def test_values_are_within_their_bounds(root, column, value, said):
    before = tables.from_parquet((root / layout.RECORDS).read_bytes())[column].to_pylist()
    put(root, layout.RECORDS, column, [value, *before[1:]])
    (problem,) = problems(root, deep=False)
    assert said in problem
    assert "Smith" not in problem


@pytest.mark.parametrize("column", ["patient_key", "lead_states", "sex"])
def test_a_text_that_is_not_utf_8_is_one_line(root, column):
    """Also where it comes as one of a list of texts: a long one does."""
    table = tables.from_parquet((root / layout.RECORDS).read_bytes())
    for text in (b"\xff" * 16, b"\xff" * 5000):
        odd = pa.array([text] * 3, pa.binary())
        odd = pa.StringArray.from_buffers(3, odd.buffers()[1], odd.buffers()[2])
        pq.write_table(table.set_column(table.column_names.index(column), column, odd), root / layout.RECORDS)
        reseal(root)
        with pytest.raises(StoreFormatError, match=f"{column} holds"):
            open_store(root)


def test_ids_that_are_said_to_be_hashed_are_hashes(root):
    edit(root, lambda about: about.update(record_ids="hashed"))
    assert "record_id holds what is no hash" in problems(root, deep=False)[0]


@pytest.mark.parametrize("value", [[7.0] * 12, [-1.0] * 12, [math.nan] * 12, None])
def test_measures_of_leads_are_within_their_bounds(root, value):
    before = tables.from_parquet((root / layout.LEADS).read_bytes())["flat_fraction"].to_pylist()
    put(root, layout.LEADS, "flat_fraction", [value, *before[1:]])
    (problem,) = problems(root, deep=False)
    assert "flat_fraction lacks a value" in problem or "flat_fraction is out of range" in problem


def test_only_a_raw_store_has_gains(root):
    put(root, layout.LEADS, "gain_per_mv", [[1000.0] * 12] * 3)
    assert "gain_per_mv is for raw stores" in problems(root, deep=False)[0]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("likelihood", 500.0, "likelihood is out of range"),
        ("likelihood", -5.0, "likelihood is out of range"),
        ("code", "", "code holds an empty text"),
        ("system", "", "system holds an empty text"),
    ],
)
def test_statements_are_within_their_bounds(root, column, value, said):
    table = tables.from_parquet((root / layout.STATEMENTS).read_bytes())
    put(root, layout.STATEMENTS, column, [value, *table[column].to_pylist()[1:]])
    assert said in problems(root, deep=False)[0]


def test_a_coding_system_that_records_state_is_in_the_vocabulary(root):
    edit(root, lambda about: about.update(vocabulary={"mine": ["NORM"]}))
    assert "the vocabulary lacks a coding system" in problems(root, deep=False)[0]


def test_what_was_left_out_is_sorted(root):
    columns = {"record_id": ["b", "a"], "reason": ["no_samples"] * 2, "detail": [""] * 2}
    replace(root, layout.REJECTED, columns)
    assert "not sorted by record_id" in problems(root, deep=False)[0]
    replace(root, layout.REJECTED, {**columns, "record_id": ["a", "b"]})
    assert problems(root, deep=True) == []


def test_a_detail_is_never_null(root):
    replace(root, layout.REJECTED, {"record_id": ["z"], "reason": ["no_samples"], "detail": [None]})
    assert "detail lacks a value" in problems(root, deep=False)[0]


@pytest.mark.parametrize("name", [layout.RECORDS, layout.LEADS, layout.STATEMENTS, layout.BEATS, layout.REJECTED])
def test_the_order_of_columns_is_part_of_the_format(root, name):
    table = tables.from_parquet((root / name).read_bytes())
    pq.write_table(table.select(table.column_names[::-1]), root / name)
    reseal(root)
    assert "stand in another order" in problems(root, deep=False)[0]
