"""Stores of every format version that was ever released open for ever, and say the same.

`v1.ecg` was written by release 0.1.0 from three records of the bundled folder:

    ecgstore ingest THREE tests/golden/v1.ecg --fs 100 --bandpass 0.5 40 --notch 50

and `v2.ecg` from the same three by the first release of format 2:

    ecgstore ingest THREE tests/golden/v2.ecg

The records are of PTB-XL (CC BY 4.0), see tests/data/ptbxl_mini.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import ecgstore
from ecgstore.build import plan
from ecgtrain.errors import PassportError
from ecgtrain.views.passport import Passport

#: Per store: fingerprint, and SHA-256 over the counts of all records in order.
GOLDEN = {
    "v1.ecg": (
        "e3751d67815656f469f1dde6e5ce64cc97d75b8cbd9a26acd314d866a7ec7e01",
        "1483c1963a55dd4b2d043931af2795e128d1538724eabaead3fd96af35442fd5",
    ),
    "v2.ecg": (
        "401032008a267a9c3bc219d66cc1e211f82cda709afe509ccb5cf60dbf08a22d",
        "2a8adac627d768d770159cfd14d0b1bf64978237741bfce04afbe443577f7860",
    ),
}


def test_every_golden_store_is_expected():
    assert {path.name for path in Path(__file__).parent.glob("*.ecg")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_an_old_store_opens_and_says_the_same(name):
    store = ecgstore.open_store(Path(__file__).parent / name)
    fingerprint, counts_sha256 = GOLDEN[name]
    assert store.fingerprint == fingerprint
    assert store.verify(deep=True) == []
    digest = hashlib.sha256()
    for shard in range(store.n_shards):
        signal = store.read_shard(shard)
        for start, length in zip(signal.starts, signal.lengths, strict=True):
            digest.update(signal.counts_lt[:, start : start + length].tobytes())
    assert digest.hexdigest() == counts_sha256
    assert store.read(store.column("record_id")[0]).signal_mv_lt.shape == (12, 1000)


def test_today_the_same_files_give_nearly_the_same_millivolts_by_a_recipe_that_is_told_apart(mini, tmp_path):
    """What changed since is said in the changelog: curves and noise that don't hang on the rate of the source."""
    old = ecgstore.open_store(Path(__file__).parent / "v2.ecg")
    assert not any("response" in one for one in old.recipe["filters"])
    settings = ecgstore.IngestSettings(**old.recipe)
    ecgstore.ingest_folder(mini, tmp_path / "now.ecg", settings)
    now = ecgstore.open_store(tmp_path / "now.ecg")
    assert now.recipe_sha256 != old.recipe_sha256
    for record_id in old.column("record_id"):
        difference_mv = now.read(record_id).signal_mv_lt - old.read(record_id).signal_mv_lt
        # At 500 Hz, where the old curve was nearly that of today.
        assert abs(difference_mv).max() <= 0.02
        assert np.sqrt((difference_mv**2).mean()) < 0.002
    rows = [now.column("record_id").tolist().index(record_id) for record_id in old.column("record_id")]
    for column in ("mains_mv", "baseline_mv", "range_mv", "einthoven_mv"):
        np.testing.assert_allclose(now.column(column)[rows], old.column(column), rtol=0.01)
    # Noise is looked for in another band, and the store says so.
    assert now.storage == {**old.storage, "measures": 2}
    np.testing.assert_allclose(now.column("hf_noise_mv")[rows], old.column("hf_noise_mv"), rtol=0.3)
    differing = (now.column("signature")[rows] ^ old.column("signature")).tolist()
    assert max(bits.bit_count() for bits in differing) <= 2
    assert now.column("source_crc32")[rows].tolist() == old.column("source_crc32").tolist()


def test_format_1_lacks_what_came_later_and_says_so():
    old = ecgstore.open_store(Path(__file__).parent / "v1.ecg")
    assert (old.format_version, old.encoding, old.storage["codec"]) == (1, "microvolt", "blosc")
    assert old.lead_quality.num_rows == old.beats.num_rows == 0
    assert old.read_beats("50") == ()
    with pytest.raises(ecgstore.ConfigError, match="no column 'mains_mv'"):
        old.select(where="mains_mv < 1")


def test_curves_of_before_and_of_today_never_meet_in_one_store_or_one_judgement(mini, mini_store, tmp_path):
    """The settings say the same for both; the word that the old recipe lacks tells them apart."""
    path = shutil.copytree(Path(__file__).parent / "v2.ecg", tmp_path / "old.ecg")
    old, now = ecgstore.open_store(path), ecgstore.open_store(mini_store)
    with pytest.raises(ecgstore.ConfigError, match="response of bandpass differs.*nothing, got 'analogue'; this rel"):
        ecgstore.ingest_folder(mini, path, ecgstore.IngestSettings(**old.recipe, **old.storage), append=True)
    assert ecgstore.open_store(path).verify(deep=True) == []
    filters = [one | {"response": "analogue"} for one in old.recipe["filters"]]
    assert [one["name"] for one in filters] == ["bandpass", "notch"]
    about = {"leads": old.leads, "fs_hz": 100, "counts_per_mv": 1000, "window_samples": 250, "store_fingerprint": ""}
    about |= {"normalisation": {"mode": "record"}, "recipe_sha256": old.recipe_sha256}
    trained_before = Passport(recipe=old.recipe, **about)
    trained_before.refuse_other(old)
    with pytest.raises(PassportError, match="filters differs"):
        trained_before.refuse_other(now)
    trained_now = Passport(recipe=old.recipe | {"filters": filters}, **about)
    with pytest.raises(
        PassportError, match="response of bandpass differs.*'analogue', got nothing; ingest the records"
    ):
        trained_now.refuse_other(old)


def test_noise_that_was_measured_before_never_stands_beside_that_of_today(mini, tmp_path, monkeypatch):
    """A store without filters has the same recipe as before: how noise was measured tells them apart."""
    settings = ecgstore.IngestSettings(filters=())
    with monkeypatch.context() as before:
        before.setattr(plan.Storage, "model_dump", lambda self, **_: {"codec": "blosc", "quality": "basic"})
        ecgstore.ingest_folder(mini, tmp_path / "old.ecg", settings)
    old = ecgstore.open_store(tmp_path / "old.ecg")
    assert old.recipe == settings.recipe.model_dump(mode="json")
    assert "measures" not in old.storage
    with pytest.raises(ecgstore.ConfigError, match="measures differs.*nothing, got 2; this release makes no such"):
        ecgstore.ingest_folder(mini, tmp_path / "old.ecg", settings, append=True)
    with pytest.raises(ecgstore.StoreExists, match="other settings"):
        ecgstore.ingest_folder(mini, tmp_path / "old.ecg", settings, resume=True)
