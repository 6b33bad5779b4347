"""Features as a table: those of the network, by record or by window."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgstore import ConfigError, open_store
from ecgstore.inner import occupant
from ecgtrain.backbones import build_backbone
from ecgtrain.errors import PassportError, ProtocolError
from ecgtrain.representation.embed import embed
from ecgtrain.representation.export import Trained
from ecgtrain.representation.extract import window_features
from ecgtrain.views.normalise import Normalisation
from ecgtrain.views.passport import Passport


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.fixture(scope="module")
def trained(store):
    settings = occupant("ecgtrain.backbones", "cpc_lstm").Settings(encoder={"width": 6}, lstm_width=5, lstm_layers=1)
    passport = Passport(
        leads=store.leads,
        fs_hz=store.fs_hz,
        counts_per_mv=1000,
        window_samples=400,
        normalisation=Normalisation(),
        recipe=store.recipe,
        recipe_sha256=store.recipe_sha256,
        store_fingerprint=store.fingerprint,
    )
    return Trained(build_backbone(settings, 12, seed=0).eval(), passport)


def read(path):
    return pq.ParquetFile(path).read(use_threads=False)


def test_windows_and_records_are_those_of_the_network(store, trained, tmp_path):
    rows = store.select(folds=[8])
    by_window = embed(trained, store, rows, tmp_path / "w.parquet", per="window", stride_s=3.0)
    by_record = embed(trained, store, rows, tmp_path / "r.parquet", stride_s=3.0)
    features_nd, record_row_n = window_features(
        trained.backbone, store, rows, passport=trained.passport, window_samples=400, stride_samples=300
    )
    windows, records = read(tmp_path / "w.parquet"), read(tmp_path / "r.parquet")
    assert windows.column_names == ["record_id", "row", "start_s", "features"]
    assert windows["row"].to_pylist() == record_row_n.tolist()
    assert windows["start_s"].to_pylist()[:3] == [0.0, 3.0, 6.0]
    np.testing.assert_array_equal(np.array(windows["features"].to_pylist(), dtype=np.float32), features_nd)
    assert by_window.rows == 3 * by_record.rows == 3 * len(rows)
    assert records["record_id"].to_pylist() == store.column("record_id")[rows].tolist()
    expected = features_nd.reshape(len(rows), 3, -1).mean(axis=1)
    np.testing.assert_allclose(np.array(records["features"].to_pylist()), expected, rtol=1e-4, atol=1e-6)
    assert str(records.schema.field("features").type) == f"fixed_size_list<element: float>[{by_record.n_features}]"


def test_what_can_not_be_embedded_is_one_line(store, trained, tmp_path):
    out, rows = tmp_path / "e.parquet", store.select(folds=[8])
    with pytest.raises(ProtocolError, match="no record is selected"):
        embed(trained, store, rows[:0], out)
    with pytest.raises(ProtocolError, match="shorter than a window"):
        embed(trained, store, rows, out, window_s=11)
    for length in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="no length"):
            embed(trained, store, rows, out, window_s=length)
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        embed(trained, store, rows, out)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]
    other = trained.passport.model_copy(update={"recipe": {**store.recipe, "filters": []}})
    with pytest.raises(PassportError, match="prepared otherwise"):
        embed(Trained(trained.backbone, other), store, rows, out, overwrite=True)
    assert out.read_text() == "mine"
