"""Training on a version of a share: its tag is settled once, and what was fetched is enough from then on."""

from __future__ import annotations

import shutil

import pytest
import yaml
from shares import bring, fingerprint
from test_answers import PROBE, recipe

from ecgstore import IngestSettings, StoreNotFound, ingest_folder
from ecgstore.sharing.tagging import tag
from ecgtrain.errors import CheckpointError
from ecgtrain.run import evaluate_store, run


@pytest.mark.slow
def test_a_run_goes_on_with_what_its_tag_meant_and_without_the_share(mini, mini_store, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGSTORE_CACHE_DIR", str(tmp_path / "cache"))
    share, out = tmp_path / "share", tmp_path / "run"
    bring(mini_store, share, "v1")
    question = {key: value for key, value in PROBE.items() if key != "nulls"}
    config = recipe(f"{share}@v1", question)
    report = run(config, out)
    settled = yaml.safe_load((out / "config.yaml").read_text())["data"]["store"]
    assert settled == f"{share}@{fingerprint(mini_store)}"
    # The tag moves on; the run doesn't.
    other = tmp_path / "other.ecg"
    ingest_folder(mini, other, IngestSettings(fs_hz=50))
    bring(other, share, "v2")
    tag(str(share), "v1", fingerprint(other))
    again = run(config, out, resume=True)
    assert again.results[0].store_fingerprint == report.results[0].store_fingerprint == fingerprint(mini_store)
    assert evaluate_store(out, settled, allow_overlap=True).results[0].n_test == report.results[0].n_test
    # A run of its own means what the tag means now, which this directory can't become.
    (out / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="store_fingerprint|fs_hz|differs"):
        run(config, out, resume=True)
    shutil.rmtree(share)
    assert run(recipe(settled, question), tmp_path / "offline").results
    with pytest.raises(StoreNotFound):
        run(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()
