"""A finished run with heads of several kinds, an export of one, and a folder of recordings as hospitals have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_runs import RECIPE

from ecgstore.inner import parse
from ecgtrain.config import RunConfig
from ecgtrain.run import export_run, run

_ONE_EPOCH = {"stages": [{"trains": "all", "epochs": 1}], "head": {"hidden": None}}
_ATTENTION = {"stages": [{"epochs": 1}], "keep": "last"}
_ONE_OF = {
    "kind": "statements",
    "system": "scp_ecg",
    "codes": {"MI": ["IMI", "ASMI"], "LVH": ["LVH"]},
    "exclusive": True,
}


def _questions() -> list[dict]:
    (q,) = RECIPE["downstream"]
    return [
        {**q, "nulls": ["random"]},
        {**q, "name": "tuned", "protocol": "fine_tune", "settings": {**_ONE_EPOCH, "keep": "last"}},
        {**q, "name": "near", "protocol": "knn", "settings": {"neighbours": [3]}},
        {**q, "name": "looks", "protocol": "attention_probe", "settings": _ATTENTION},
        {**q, "name": "one", "task": _ONE_OF},
        {**q, "name": "age", "task": {"kind": "regression", "column": "age_years"}},
    ]


@pytest.fixture(scope="session")
def finished(mini_store, tmp_path_factory) -> Path:
    """Never changed."""
    place = tmp_path_factory.mktemp("handed over") / "run"
    run(parse(RunConfig, {**RECIPE, "downstream": _questions(), "data": {"store": str(mini_store)}}), place)
    return place


@pytest.fixture(scope="session")
def baselines(mini_store, tmp_path_factory) -> Path:
    """A run of the heads that no network is asked for; never changed."""
    (q,) = RECIPE["downstream"]
    asked = [
        {**q, "name": "qrs", "protocol": "qrs_integrals", "settings": {"penalties": [1.0]}},
        {**q, "name": "sex", "protocol": "sex_only", "settings": {}},
    ]
    place = tmp_path_factory.mktemp("baselines") / "run"
    run(parse(RunConfig, {**RECIPE, "downstream": asked, "data": {"store": str(mini_store)}}), place)
    return place


@pytest.fixture(scope="session")
def exported(finished) -> Path:
    """An export of the linear probe; never changed."""
    out = finished.with_name("export")
    export_run(finished, out, name="q")
    return out


@pytest.fixture
def mine(exported, tmp_path) -> Path:
    """A copy to change."""
    shutil.copytree(exported, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def recordings(tmp_path, mini, write_record) -> Path:
    """Recordings that can be predicted, and some that can't."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for suffix in (".hea", ".dat"):
        shutil.copy(mini / "records500" / "00000" / f"00050_hr{suffix}", folder)
    rng = np.random.default_rng(0)
    limb = ("I", "II")
    write_record(folder, "limb", (200 * rng.standard_normal((5000, 2))).astype("<i2"), limb)
    write_record(folder, "short", (200 * rng.standard_normal((300, 2))).astype("<i2"), limb)
    write_record(folder, "flat", np.full((5000, 2), 7, dtype="<i2"), limb)
    write_record(folder, "breath", (200 * rng.standard_normal((5000, 2))).astype("<i2"), ("II", "RESP"))
    (folder / "broken.hea").write_text("this is no header\n")
    return folder
