"""The scripts by which anyone measures what docs/results.md says: each does its work, at the least size it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: Their own tests try these.
TRIED_ELSEWHERE = {"feed", "gpu"}
#: Words behind the script's name; ``STORE`` is a small store.
LEAST = {
    "afar": "STORE --rounds 1",
    "augment": "--store STORE --records 1",
    "hostile": "--stores 1 --runs 1 --workers 1",
    "ingest": "--rounds 1",
    "kills": "--kills 1",
    "plan": "--records 200",
    "scale": "--records 20000",
    "share": "--megabytes 0.1 --rounds 1",
    "shifted_copies": "STORE --other STORE",
    "stages": "--rounds 1",
    "step": "--method none --seconds 0.1 --terms 8 --repeats 1",
    "view": "--store STORE --records 20000",
    "views": "--seconds 0.01 --repeats 1",
    "windows": "--hours 0.1 --windows 5 --rounds 1",
}


def test_every_script_is_tried():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == LEAST.keys() | TRIED_ELSEWHERE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LEAST)
def test_it_does_its_work(name, mini_store, tmp_path):
    words = [str(mini_store) if word == "STORE" else word for word in LEAST[name].split()]
    script = [sys.executable, str(BENCHMARKS / f"{name}.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
