"""Lazy arrays: the samples that reading gives, with their coordinates; and what other packages read by themselves."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from ecgstore import IngestSettings, Record, Store, ingest_folder, open_store, write_records

array = pytest.importorskip("dask.array")
xarray = pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three records in two shards, with a gap between, and samples that were not recorded."""
    rng = np.random.default_rng(0)
    signals = [rng.standard_normal((2, 15_000), dtype=np.float32) for _ in range(3)]
    signals[1][0, 100:200] = np.nan
    records = [Record(f"r{i}", ("I", "V1"), 100.0, signal) for i, signal in enumerate(signals)]
    out = tmp_path_factory.mktemp("lazy") / "gappy.ecg"
    write_records(out, records, IngestSettings(leads=("I", "V1"), filters=(), fs_hz=100.0, patient_key="public"))
    return open_store(out)


def test_a_record_is_where_the_table_says(gappy: Store) -> None:
    lazy = gappy.to_dask()
    assert (lazy.shape, lazy.dtype, lazy.chunks[1]) == ((2, 55_000), np.float32, (40_000, 15_000))
    for row, record_id in enumerate(gappy.column("record_id")):
        begin, end = (int(ends[row]) for ends in gappy.spans)
        np.testing.assert_array_equal(lazy[:, begin:end].compute(), gappy.read(record_id).signal_mv_lt)
    assert np.isnan(lazy[:, 30_000:40_000].compute()).all()
    counts = gappy.to_dask(counts=True)
    assert counts.dtype == np.int16
    assert (counts[:, 30_000:40_000].compute() == -32768).all()


@pytest.mark.parametrize(
    "key", [np.s_[0], np.s_[:, 5], np.s_[::-1, 10:50:7], np.s_[1, 39_990:40_010], np.s_[:, 50:10:-3], np.s_[:, 9:9]]
)
def test_any_part_is_what_numpy_gives(gappy: Store, key: object) -> None:
    lazy = gappy.to_dask(counts=True)
    np.testing.assert_array_equal(lazy[key].compute(), lazy.compute()[key])


def test_coordinates_say_which_record_and_when(gappy: Store) -> None:
    data = gappy.to_xarray()
    assert dict(data.sizes) == {"lead": 2, "time": 55_000, "row": 3}
    assert data["lead"].values.tolist() == ["I", "V1"]
    assert data["signal"].attrs["units"] == "mV"
    record, time_s = data["record"].compute().values, data["time_s"].compute().values
    assert record[[0, 14_999, 15_000, 30_000, 39_999, 40_000]].tolist() == [0, 0, 1, -1, -1, 2]
    assert time_s[[0, 150, 15_000, 40_100]].tolist() == [0.0, 1.5, 0.0, 1.0]
    assert np.isnan(time_s[35_000])
    one = data["signal"].sel(lead="V1").isel(time=slice(40_000, 55_000))
    np.testing.assert_array_equal(one.compute().values, gappy.read("r2", leads=["V1"]).signal_mv_lt[0])
    assert data["record_id"].values.tolist() == ["r0", "r1", "r2"]
    assert data.attrs["fingerprint"] == gappy.fingerprint


def test_nothing_is_read_before_it_is_computed(gappy: Store, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(gappy.path, tmp_path / "copy.ecg")
    store = open_store(tmp_path / "copy.ecg")
    (tmp_path / "copy.ecg" / "signal" / "c" / "0" / "1").unlink()
    data = store.to_xarray()
    assert data["signal"][:, :15_000].mean().compute() == pytest.approx(0, abs=0.1)


def test_arrays_travel_to_other_processes(gappy: Store) -> None:
    lazy = pickle.loads(pickle.dumps(gappy.to_dask()))
    np.testing.assert_array_equal(lazy[:, :15_000].compute(), gappy.read("r0").signal_mv_lt)


def test_a_raw_store_comes_in_millivolts_too(tmp_path: Path, write_record) -> None:
    write_record(tmp_path / "src", "one", gain="200.5(-17)/mV")
    write_record(tmp_path / "src", "two", gain="100(3)/mV", fs="250")
    ingest_folder(tmp_path / "src", tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    store = open_store(tmp_path / "raw.ecg")
    data = store.to_xarray()
    for row, record_id in enumerate(store.column("record_id")):
        begin, end = (int(ends[row]) for ends in store.spans)
        np.testing.assert_array_equal(data["signal"][:, begin:end].compute(), store.read(record_id).signal_mv_lt)
    starts = store.spans[0]
    assert data["time_s"][starts + 500].compute().values.tolist() == [1.0, 2.0]


def test_others_read_the_array_without_a_warning(mini_store: Path) -> None:
    store = open_store(mini_store)
    counts_lt = store.to_dask(counts=True).compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(zarr.open_array(mini_store / "signal", mode="r")[:], counts_lt)
        np.testing.assert_array_equal(array.from_zarr(str(mini_store / "signal")).compute(), counts_lt)
        np.testing.assert_array_equal(array.from_zarr(str(mini_store), component="signal").compute(), counts_lt)
        assert zarr.open_array(mini_store / "signal", mode="r").metadata.dimension_names == ("lead", "time")


def test_xarray_opens_the_folder_by_itself_without_a_warning(mini_store: Path) -> None:
    # The root tells of the array: a folder that is listed has tables, on each of which zarr would remark.
    data = xarray.open_zarr(mini_store)
    assert dict(data.sizes) == {"lead": 12, "time": 53_000}
    np.testing.assert_array_equal(data["signal"].values, open_store(mini_store).to_dask(counts=True).compute())
    assert [name for name, _ in zarr.open_group(mini_store, mode="r").members()] == ["signal"]
