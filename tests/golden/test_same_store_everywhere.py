"""The bundled records come out as the same store on any machine: bytes with the tested versions, counts with any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Per settings: SHA-256 over the bytes of everything but the names of the software, and over all counts in order.
GOLDEN = {
    "filtered": (
        "f87ec9926f0111e9f2cb6a859891c1509354806e6de22525b119cc1d785ee378",
        "e98657b885b3f39f596f380765b5b5f950f607f099e45f863d2a36c00be4f7f0",
    ),
    "diagnostic": (
        "38f92fe2a28a57b5730cc7ca4547ae6bf0d14d615c72bc30d76ac16850d6362e",
        "23c8789985e307cfeb0100d4e9656d1d5bacfdcf4d537ffc1d87205832ebfb27",
    ),
    "raw": (
        "4de678c1425936f0f288b4d20bc592f42b507af144ed177523b25619963d4f23",
        "8ffd574578804109b9fa9a4b294dd450b13b369a23e2614652f767599629a41e",
    ),
}
SETTINGS = {
    "filtered": {"profile": "train"},
    "diagnostic": {"profile": "diagnostic"},
    "raw": {"profile": "raw"},
}
#: What packs and writes: another version may spell the same content in other bytes.
WRITERS = ("numcodecs", "numpy", "pyarrow", "scipy", "zarr")

INGEST = """
import hashlib, json, sys
from pathlib import Path
from ecgstore import IngestSettings, ingest_folder, open_store
found = {}
for name, settings in json.loads(sys.argv[3]).items():
    out = Path(sys.argv[2], f"{name}.ecg")
    ingest_folder(sys.argv[1], out, IngestSettings(**settings), workers=2)
    objects = json.loads((out / "manifest.json").read_text())["objects"]
    root = json.loads((out / "zarr.json").read_text())
    del objects["zarr.json"], root["attributes"]["software"]
    store, counts = open_store(out), hashlib.sha256()
    for shard in range(store.n_shards):
        counts.update(store.read_shard(shard).counts_lt.tobytes())
    content = json.dumps([objects, root], sort_keys=True).encode()
    found[name] = hashlib.sha256(content).hexdigest(), counts.hexdigest()
print(json.dumps(found))
"""


def pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def ingested(out, names, **environment):
    settings = json.dumps({name: SETTINGS[name] for name in names})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INGEST, ROOT / "tests" / "data" / "ptbxl_mini", out, settings],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare(found):
    as_tested = all(version(package) == pinned()[package] for package in WRITERS)
    for name, (in_bytes, in_counts) in found.items():
        assert in_counts == GOLDEN[name][1], f"{name}: a sample came out otherwise"
        if as_tested:
            assert in_bytes == GOLDEN[name][0], (
                f"{name}: the same samples are written in other bytes, or judged otherwise"
            )


def test_the_bundled_records_give_the_same_stores_on_any_machine(tmp_path):
    compare(ingested(tmp_path, SETTINGS))


def test_no_bit_hangs_on_what_the_processor_can_do(tmp_path):
    from numpy._core import _multiarray_umath as numpy_core

    plain = {
        # NumPy, OpenBLAS, Arrow: each chooses its routines by the processor it finds.
        "NPY_DISABLE_CPU_FEATURES": " ".join(
            name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name]
        ),
        "OPENBLAS_CORETYPE": "Nehalem",
        "ARROW_USER_SIMD_LEVEL": "NONE",
        "OPENBLAS_NUM_THREADS": "1",
        # And the loops of an ingest, which are compiled where they can be.
        "ECGSTORE_KERNEL": "numpy",
    }
    compare(ingested(tmp_path, ["filtered"], **plain))
