"""Runs as anybody could forge them: a small one, changed in one of many ways, its export sealed again or not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import pyarrow.parquet as pq
import yaml
from hostile_values import (
    bomb,
    change_cells,
    change_columns,
    change_footer,
    change_json,
    change_rows,
    change_text,
    written,
)
from safetensors.numpy import load_file, save_file
from watched import PRIVATE, RAN, TRAP

HERE = Path(__file__).parent

Kind = Callable[[Path, random.Random], None]

TASK = "ptbxl/superdiagnostic"
#: Two steps of a small network, and one question.
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "pretrain": {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
        "folds": [1, 2, 3, 4, 5, 6],
        "window_samples": 100,
        "batch_size": 8,
        "steps": 2,
    },
    "downstream": [
        {
            "name": "q",
            "task": TASK,
            "train_folds": [1, 2, 3, 4, 5, 6],
            "test_folds": [8],
            "window_samples": 100,
            "stride_samples": 500,
            "settings": {"penalties": [1.0]},
        }
    ],
}


def make_run(store: Path, place: Path) -> Path:
    """A finished run of :data:`RECIPE` on a store of the bundled records."""
    from ecgstore.inner import parse
    from ecgtrain.config import RunConfig
    from ecgtrain.run import run

    run(parse(RunConfig, {**RECIPE, "data": {"store": str(store)}}), place)
    return place


def make_goods(work: Path, with_run: bool = True) -> None:
    """What is forged: small stores of each format and codec in ``store``, a run in ``run``, a store to judge it on."""
    from ecgstore import IngestSettings, ingest_folder

    (work / "store").mkdir(parents=True)
    for version in (1, 2):
        shutil.copytree(HERE / "golden" / f"v{version}.ecg", work / "store" / f"v{version}.ecg")
    some = work / "some"
    some.mkdir()
    for header in sorted((HERE / "data" / "ptbxl_mini").rglob("*.hea"))[:4]:
        for suffix in (".hea", ".dat"):
            shutil.copy(header.with_suffix(suffix), some)
    ingest_folder(some, work / "store" / "raw.ecg", IngestSettings(source="wfdb_folder", profile="raw", codec="pcodec"))
    if with_run:
        store = work / "judged_on.ecg"
        filters = ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}, {"name": "notch", "freq_hz": 50.0})
        ingest_folder(HERE / "data" / "ptbxl_mini", store, IngestSettings(fs_hz=100, filters=filters))
        (work / "run").mkdir()
        make_run(store, work / "run" / "run")


def change(root: Path, kind: str, rng: random.Random) -> None:
    """Change the run at ``root`` in one way, if it still can be changed in it."""
    with contextlib.suppress(Exception):  # what an earlier change has broken can't be changed again
        KINDS[kind](root, rng)


def read_by_evaluate(root: Path) -> dict[str, bytes]:
    """What an evaluation reads of a run, by name; nothing where one of them is no plain file."""
    names = [*(root / "export").iterdir(), *(root / "downstream").rglob("*"), root / "seen.parquet"]
    named = [path for path in names if path.name not in ("question.json", "result.json", "predictions.parquet")]
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() and not path.is_symlink() else b"?"
        for path in sorted(named)
        if not path.is_dir() or path.is_symlink()
    }


# --- files --------------------------------------------------------------------------------------------------------

_READ = ("export/*", "export/*", "downstream/*/*/*", "seen.parquet", "report.json", "*", "checkpoints/*/*")


def _any_file(root: Path, rng: random.Random, pattern: str = "") -> Path:
    while True:
        found = [
            path for path in sorted(root.glob(pattern or rng.choice(_READ))) if path.is_file() and not path.is_symlink()
        ]
        if found or pattern:
            return rng.choice(found)


def _to_any_file(do: hostile_files.Change) -> Kind:
    return lambda root, rng: do(_any_file(root, rng), rng)


# --- JSON and YAML ------------------------------------------------------------------------------------------------

_JSONS = ("export/*.json", "downstream/*/*/head.json", "downstream/*/*/*.json", "report.json", "*.json")


def _edited(path: Path, do: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    do(content)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")


def json_value(root: Path, rng: random.Random) -> None:
    path = _any_file(root, rng, rng.choice(_JSONS))
    _edited(path, lambda content: [change_json(content, rng) for _ in range(rng.choice([1, 1, 3]))])


def report_value(root: Path, rng: random.Random) -> None:
    _edited(root / "report.json", lambda content: [change_json(content, rng) for _ in range(rng.choice([1, 1, 2, 5]))])


def json_text(root: Path, rng: random.Random) -> None:
    path = _any_file(root, rng, rng.choice(_JSONS))
    path.write_bytes(change_text(path.read_text(encoding="utf-8"), rng))


YAMLS = (
    "!!python/object/apply:os.system ['touch ran']",
    "!!python/name:os.system",
    "!!python/object/new:trap.X []",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!timestamp 2021-13-45",
    "a: &a [1, 1]\nb: [*a, *a]",
    "a: &a\n  <<: *a",
    "<<: {name: x}",
    "? [1, 2]\n: 3",
    "{" * 60,
    "[" * 20_000,
    "- " * 10_000,
    "a: " + "x" * 300_000,
    "a: 1\na: 2",
    "name: 0x" + "f" * 5000,
    "name: " + "9" * 10_000,
    "name: 1e999",
    "name: .nan",
    "name: 1:2:3:4:5:6:7",
    "name: 99999999999-99-99",
    "%YAML 9.9\n---\nname: x",
    "%TAG ! tag:x,2000:\n---\n!y {}",
    "--- a\n--- b",
    "name: \x00",
    "name: \x85\u2028\ufeff",
    "name: 'unclosed",
    "\tname: x",
    "name: |\n" + "  x\n" * 1000,
    "name: ~\ndata: ~\ndownstream: ~",
    "data: {store: /dev/zero}\nname: x",
    "",
    "\ufeff",
    "null",
    "[]",
    "7",
)


def recipe_text(root: Path, rng: random.Random) -> None:
    path = root / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(hostile_recipe(text, rng), encoding="utf-8", errors="surrogatepass")


def hostile_recipe(text: str, rng: random.Random) -> str:
    """A recipe with YAML in it, or in its place, that nobody writes in good faith."""
    bad, lines = rng.choice(YAMLS), text.splitlines()
    match rng.randrange(4):
        case 0:
            return bad
        case 1:
            at = rng.randrange(len(lines) + 1)
            return "\n".join([*lines[:at], bad, *lines[at:]])
        case 2:
            at = rng.randrange(len(lines))
            lines[at] = lines[at].partition(":")[0] + ": " + bad.replace("\n", " ")
            return "\n".join(lines)
    content = yaml.safe_load(text)
    for _ in range(rng.choice([1, 1, 2])):
        change_json(content, rng)
    return yaml.safe_dump(content, allow_unicode=True)


def names_of_code(root: Path, rng: random.Random) -> None:
    """A backbone, task, protocol or method that is a path to code, or the name of a module."""
    trap = root.parent / TRAP
    names = [
        str(trap),
        f"../{TRAP}",
        os.path.relpath(trap),
        "os",
        "os.path",
        "ecgtrain.cli",
        "../backbones/s4",
        "s4.py",
    ]
    name = rng.choice(
        [*names, "__init__", "layers", "_private", "cpc_lstm\x00", "", ".", "x" * 10_000, "CPC_LSTM", "s4"]
    )
    match rng.randrange(4):
        case 0:
            _edited(root / "export" / "config.json", lambda about: about["backbone"].update(name=name))
        case 1:
            _edited(root / "downstream/q/cpc/head.json", lambda head: head.update(protocol=name))
        case 2:
            task = rng.choice([name, f"{name}/x", f"ptbxl/{name}", f"codes/{name}"])
            _edited(root / "downstream/q/cpc/head.json", lambda head: head.update(task=task))
        case _:
            own = {Path(name).name: hashlib.sha256(trap.read_bytes()).hexdigest()}
            _edited(root / "downstream/q/cpc/head.json", lambda head: head.update(task=f"{name}/x", own_files=own))


# --- weights ------------------------------------------------------------------------------------------------------


def _weights(root: Path, rng: random.Random) -> Path:
    return rng.choice([root / "export/model.safetensors", root / "downstream/q/cpc/head.safetensors"])


def weights_header(root: Path, rng: random.Random) -> None:
    path = _weights(root, rng)
    content = hostile_files.beginning(path)
    n_header = int.from_bytes(content[:8], "little")
    header, arrays = json.loads(content[8 : 8 + n_header]), content[8 + n_header :]
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    huge = rng.choice([0, -1, 2**31, 2**62, 2**64, 1.5, None, "1", 10**400])
    match rng.randrange(8):
        case 0:
            entry["shape"] = rng.choice([[], [huge], [huge, 0], [2**32, 2**32], [1] * 10_000, "x", None, [0] * 3])
        case 1:
            entry["data_offsets"][rng.randrange(2)] = huge
        case 2:
            entry["dtype"] = rng.choice(["F8_E4M3", "F64", "O", "", None, "object", ["F32"], "BOOL", "C64"])
        case 3:
            header["__metadata__"] = rng.choice([{"format": "pt" * 100_000}, [1], {"a": 1}, {"format": "\ud800"}])
        case 4:
            header["added"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        case 5:
            change_json(header, rng)
        case 6:
            text = change_text(json.dumps(header), rng)
            path.write_bytes(struct.pack("<Q", len(text)) + text + arrays)
            return
        case _:
            n = rng.choice([0, 1, n_header - 1, n_header + 1, len(content), 2**31, 2**63, 2**64 - 1])
            path.write_bytes(struct.pack("<Q", n) + content[8:])
            return
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + arrays)


def weights_values(root: Path, rng: random.Random) -> None:
    """Numbers that no training leaves, of the right shape."""
    path = _weights(root, rng)
    arrays = load_file(path)
    name = rng.choice(sorted(arrays))
    wild = arrays[name].copy()
    if wild.dtype.kind == "f":
        wild.flat[rng.choice([0, slice(None)])] = rng.choice([np.nan, np.inf, -np.inf, 1e38, -1e38, 0, 1e-45])
    else:
        wild.flat[:] = rng.choice([0, -1, np.iinfo(wild.dtype).max])
    arrays[name] = wild
    save_file(arrays, path)


def weights_shapes(root: Path, rng: random.Random) -> None:
    """Other arrays than the network has."""
    path = _weights(root, rng)
    arrays = load_file(path)
    name = rng.choice(sorted(arrays))
    value = arrays[name]
    ways: tuple[Callable[[], Any], ...] = (
        lambda: arrays.pop(name),
        lambda: arrays.update({f"{name}.x": value.copy()}),
        lambda: arrays.update({name: value[None].copy()}),
        lambda: arrays.update({name: value.reshape(-1)[:-1].copy()}),
        lambda: arrays.update({name: value.astype(rng.choice(["f8", "f2", "i4", "?", "u1"]))}),
        lambda: arrays.update({name: np.zeros((0, 5), "f4")}),
        lambda: arrays.update({name: np.zeros(rng.choice([10**6, 2 * 10**7]), "f4")}),
        lambda: arrays.clear(),
    )
    rng.choice(ways)()
    save_file(arrays, path)


class _Runs:
    """What runs a program where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._place}",)


def pickles(root: Path, rng: random.Random) -> None:
    """Pickles that run a program, in the place of whatever a run holds."""
    bad = pickle.dumps({"state": _Runs(root.parent / RAN)}, protocol=rng.choice([0, 2, 4]))
    names = [
        "checkpoints/step-00000002/trainer.pt",
        "export/model.safetensors",
        "export/trainer.pt",
        "export/model.bin",
    ]
    name = rng.choice(
        [*names, "downstream/q/cpc/head.safetensors", "seen.parquet", "export/config.json", "export/model.pkl"]
    )
    if rng.random() < 0.5:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("archive/data.pkl", bad)
            file.writestr("archive/version", "3\n")
        bad = packed.getvalue()
    (root / name).write_bytes(bad)


# --- tables -------------------------------------------------------------------------------------------------------


def _in_table(do: Callable[[Any, random.Random], bytes]) -> Kind:
    def made(root: Path, rng: random.Random) -> None:
        path = _any_file(
            root, rng, rng.choice(["seen.parquet", "downstream/*/*/seen.parquet", "downstream/*/*/*.parquet"])
        )
        table = pq.ParquetFile(path)
        if table.metadata.num_rows < 10_000:  # one that has become a bomb is left alone
            path.write_bytes(do(table.read(use_threads=False), rng))

    return made


def footer(root: Path, rng: random.Random) -> None:
    path = _any_file(root, rng, rng.choice(["seen.parquet", "downstream/*/*/seen.parquet"]))
    path.write_bytes(change_footer(hostile_files.beginning(path), rng))


# --- the whole ----------------------------------------------------------------------------------------------------


def many_heads(root: Path, rng: random.Random) -> None:
    """Heads under other names, links among them, and names that no question has."""
    names = ["../../../x", "\x1b[2J", "n" * 200, "\u202egnp", "random", "q\n", "q.", "$(touch ran)", "a b", "<b>"]
    for name in rng.sample(names, 3):
        place = root / "downstream" / name
        if rng.random() < 0.3:
            place.symlink_to(rng.choice([root.parent, root / "downstream" / "q", root / "downstream"]))
        elif not place.exists():
            shutil.copytree(root / "downstream" / "q", place)


def many_files(root: Path, rng: random.Random) -> None:
    for k in range(rng.choice([3, 500])):
        (root / rng.choice([".", "export", "downstream"]) / f"x{k}").write_bytes(b"")
    deep = root / "deep"
    for _ in range(rng.choice([3, 300])):
        deep = deep / "d"
    deep.mkdir(parents=True, exist_ok=True)


def links_out(root: Path, rng: random.Random) -> None:
    path = _any_file(root, rng)
    where = [
        root.parent / PRIVATE,
        root.parent / TRAP,
        root.parent,
        Path("/etc"),
        Path("/dev/zero"),
        Path("/proc/self"),
    ]
    path.with_name(rng.choice([path.name, "linked", "x.json"])).unlink(missing_ok=True)
    path.with_name("linked").symlink_to(rng.choice(where))


#: Name → the way in which a run is changed.
KINDS: dict[str, Kind] = {
    **{name: _to_any_file(do) for name, do in hostile_files.CHANGES.items()},
    "a JSON value": json_value,
    "a value of the report": report_value,
    "JSON text": json_text,
    "the recipe": recipe_text,
    "names of code": names_of_code,
    "a header of weights": weights_header,
    "numbers of weights": weights_values,
    "other weights": weights_shapes,
    "pickles": pickles,
    "cells": _in_table(lambda table, rng: written(change_cells(table, rng), rng)),
    "columns": _in_table(lambda table, rng: written(change_columns(table, rng), rng)),
    "rows": _in_table(lambda table, rng: written(change_rows(table, rng), rng)),
    "the footer of a table": footer,
    "a bomb of a table": _in_table(bomb),
    "heads of other names": many_heads,
    "files without end": many_files,
    "links out": links_out,
}


def reseal(root: Path) -> None:
    """Make the seals of the export and the checkpoints fit, as anybody can."""
    for seal in root.glob("*/**/checkpoint.json"):
        if seal.is_symlink() or not seal.is_file() or seal.stat().st_size > 1_000_000:
            continue
        names = [path for path in seal.parent.iterdir() if path.is_file() and path.stat().st_size < 50_000_000]
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names if path != seal}
        known = {"model.safetensors", "config.json", "preprocessing.json", "trainer.pt"}
        seal.write_text(json.dumps({"sha256": {name: value for name, value in hashes.items() if name in known}}))
