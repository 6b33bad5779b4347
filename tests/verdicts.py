"""What becomes of a forged thing under the commands: refused in one line, or right; everything else is a fault.

"Right" is told by reading the same files without this package: what a command shows must be what stands in them.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from watched import Answer, Watch, answer, fault_of, watching

from ecgstore import EcgError, cli, open_store

REFUSED, RIGHT = "refused", "right"
#: Told before each command: what hangs is known by the last word.
Tell = Callable[[str], None]
_PRINTED_DIGITS = 1e-6


def judge_store(root: Path, watch: Watch, *, is_changed: bool, whole: bool = True, tell: Tell = lambda _: None) -> str:
    """What the commands make of the store at ``root``: :data:`REFUSED`, :data:`RIGHT`, or a fault in words.

    ``is_changed``: objects are not those that were sealed, so that ``verify --deep`` must say so. ``whole``: with the
    commands that draw, which take seconds.
    """
    record_id = _first_id(root)
    commands: list[list[object]] = [
        ["info", root],
        ["info", root, "--json"],
        ["verify", root],
        ["verify", root, "--deep"],
    ]
    commands += [["records", root, "--json"], ["records", root, "--rejected", "--json"], ["scrub-check", root]]
    if whole:
        commands.append(["plot", root, f"--out={watch.out / 'plot.svg'}", "--", record_id])
        commands.append(["report", root, "--pages", 1, "--out", watch.out / "store.html"])
    with watching(watch, root):
        told = [_told(words, tell) for words in commands]
    answers = {one.words: one for one in told}
    for one in told:
        if fault := fault_of(one, many_lines=one.words[0] == "verify"):
            return f"{' '.join(one.words[:1])}: {fault}"
    if watch.did:
        return watch.did[0]
    opened, about, _, deep, listed = (answers[tuple(map(str, words))] for words in commands[:5])
    if opened.status != about.status:
        return "wrong: info and info --json don't agree"
    if deep.status == 0 and is_changed:
        return "wrong: verify --deep passes what was not sealed"
    if about.status == 0 and (fault := _fault_of_about(root, json.loads(about.out))):
        return f"wrong: {fault}"
    if listed.status == 0 and (fault := _fault_of_records(root, json.loads(listed.out))):
        return f"wrong: {fault}"
    if deep.status == 0:
        failed = next((one for one in told if one.status and one.words[0] != "scrub-check"), None)
        if failed is not None:
            return f"wrong: verify --deep passes, and {failed.words[0]} says {failed.err[:200]}"
        if fault := _fault_of_samples(root):
            return f"wrong: {fault}"
    return RIGHT if deep.status == 0 else REFUSED


def _told(words: Sequence[object], tell: Tell) -> Answer:
    tell(str(words[0]))
    return answer(cli.main, words)


def _table(root: Path, name: str) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader((root / name).read_bytes())).read(use_threads=False)


def _first_id(root: Path) -> str:
    """An id that ``plot`` is asked for; of a table that can't be read, any."""
    try:
        path = root / "records.parquet"
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1_000_000:
            return "50"
        found = pq.ParquetFile(path)
        if found.metadata.num_rows > 1000:
            return "50"
        record_id = found.read(columns=["record_id"], use_threads=False)["record_id"][0].as_py()
    except Exception:  # whatever is wrong with it is for the commands to say
        return "50"
    is_word = isinstance(record_id, str) and "\x00" not in record_id
    return record_id if is_word else "50"


def _fault_of_about(root: Path, said: dict[str, Any]) -> str:
    """Where ``info --json`` doesn't say what stands in the files, "" where it does."""
    about = json.loads((root / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    sealed = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["objects"]
    listing = "".join(f"{name}\t{size}\t{sha256}\n" for name, (size, sha256) in sorted(sealed.items()))
    records, rejected = _table(root, "records.parquet"), _table(root, "rejected.parquet")
    stated = _table(root, "statements.parquet")
    folds = Counter("none" if fold is None else str(fold) for fold in records["fold"].to_pylist())
    codes = Counter(map(":".join, zip(stated["system"].to_pylist(), stated["code"].to_pylist(), strict=True)))
    expected = {
        "fingerprint": hashlib.sha256(listing.encode()).hexdigest(),
        "records": len(records),
        "patients": len(set(filter(None, records["patient_key"].to_pylist()))),
        "leads": about["leads"],
        "fs_hz": about["fs_hz"],
        "recipe": about["recipe"],
        "software": about["software"],
        "sources": about["sources"],
        "folds": dict(folds),
        "statements": dict(codes),
        "rejected": dict(Counter(rejected["reason"].to_pylist())),
    }
    for name, value in expected.items():
        if said[name] != value:
            return f"info says of {name} {str(said[name])[:80]!r}, and there stands {str(value)[:80]!r}"
    return ""


def _fault_of_records(root: Path, said: list[dict[str, Any]]) -> str:
    rows = _table(root, "records.parquet").to_pylist()
    if len(rows) != len(said):
        return f"records lists {len(said)}, and there are {len(rows)}"
    for shown, row in zip(said, rows, strict=True):
        for name, value in shown.items():
            if not _is_equal(value, row[name]):
                return f"records says of {name} {str(value)[:80]!r}, and there stands {str(row[name])[:80]!r}"
    return ""


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(other, float):
        if not math.isfinite(other):
            return one is None
        return one is not None and math.isclose(one, other, rel_tol=_PRINTED_DIGITS, abs_tol=1e-30)
    return bool(one == other)


def _fault_of_samples(root: Path) -> str:
    """Where a record that passes for whole is not what zarr reads at its place."""
    store = open_store(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that PCodec is not in the specification
        signal = zarr.open_array(root / "signal", mode="r", zarr_format=3)
    for row in _table(root, "records.parquet").to_pylist():
        record_id = row["record_id"]
        try:
            signal_mv_lt = store.read(record_id).signal_mv_lt
        except EcgError as error:
            return f"record {record_id[:80]!r} can't be read after verify --deep: {error}"
        counts_lt = signal[:, row["start"] : row["start"] + row["n_samples"]]
        if store.encoding == "microvolt":
            expected = np.where(counts_lt == -32768, np.nan, counts_lt / np.float32(1000)).astype(np.float32)
            if not np.array_equal(signal_mv_lt, expected, equal_nan=True):
                return f"record {record_id[:80]!r} has other samples than zarr reads"
    return ""


# --- runs ---------------------------------------------------------------------------------------------------------


def judge_run(
    root: Path, watch: Watch, store: Path, *, good: Path, is_sealed: bool, tell: Tell = lambda _: None
) -> str:
    """What ``evaluate`` and ``report`` make of the run at ``root``: :data:`REFUSED`, :data:`RIGHT`, or a fault.

    ``good``: the run as it was, of which ``evaluate`` says what stands in its own report. ``is_sealed``: whether the
    seal of the export was made again.
    """
    from ecgtrain import cli as trained

    commands: list[list[object]] = [
        ["evaluate", root, "--store", store, "--folds", 8, "--device", "cpu", "--json"],
        ["report", root, "--out", watch.out / "report", "--json"],
    ]
    told = []
    with watching(watch, root):
        for words in commands:
            tell(str(words[0]))
            told.append(answer(trained.main, words))
    for one in told:
        if fault := fault_of(one):
            return f"{one.words[0]}: {fault}"
    if watch.did:
        return watch.did[0]
    evaluated, reported = told
    if evaluated.status == 0 and (fault := _fault_of_evaluation(root, json.loads(evaluated.out), good, is_sealed)):
        return f"wrong: {fault}"
    if reported.status == 0 and (fault := _fault_of_report(root, json.loads(reported.out))):
        return f"wrong: {fault}"
    return RIGHT if evaluated.status == reported.status == 0 else REFUSED


def _fault_of_evaluation(root: Path, said: dict[str, Any], good: Path, is_sealed: bool) -> str:
    from hostile_runs import read_by_evaluate

    for result in said["results"]:
        for name, span in result["metrics"].items():
            if not all(value is None or 0 <= value <= 1 for value in span.values()):
                return f"evaluate says of {name} {span}"
    now, before = read_by_evaluate(root), read_by_evaluate(good)
    changed = {name for name in {*now, *before} if now.get(name) != before.get(name)}
    if not is_sealed and changed & {f"export/{name}" for name in SEALED}:
        return f"evaluate takes what was not sealed: {', '.join(sorted(changed))[:200]}"
    if not changed:
        stated = json.loads((good / "report.json").read_text(encoding="utf-8"))["results"]
        expected = [result["metrics"] for result in stated if result["pretraining"] not in ("random", "uncalibrated")]
        if [_rounded(result["metrics"]) for result in said["results"]] != [_rounded(one) for one in expected]:
            return "evaluate says other numbers than the run's own report"
    return ""


#: What the seal of an export holds.
SEALED = ("model.safetensors", "config.json", "preprocessing.json")


def _rounded(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: None if value is None else round(value, 4) for key, value in span.items()}
        for name, span in metrics.items()
    }


def _fault_of_report(root: Path, said: dict[str, Any]) -> str:
    stated = json.loads((root / "report.json").read_text(encoding="utf-8"))["results"]
    if len(stated) != len(said["results"]):
        return "report shows another number of results"
    for shown, result in zip(said["results"], stated, strict=True):
        for name in ("name", "task", "pretraining", "store", "n_train", "n_test"):
            if shown[name] != result[name]:
                return f"report says of {name} {str(shown[name])[:80]!r}, and there stands {str(result[name])[:80]!r}"
    return ""
