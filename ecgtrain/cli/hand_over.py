"""From a run to a hospital: export a model, ask it about recordings, take its features."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from ecgtrain.cli.printing import AS_JSON, DEVICE, EXIT_ERROR, device_of, folds_of, phases_bar, say, say_json

#: Records that are told one by one on a terminal; all stand in the table.
_MOST_TOLD = 200
_PHASES = {
    "verify": "checking files",
    "scan": "reading headers",
    "shards": "preparing recordings",
    "seal": "preparing recordings",
    "predict": "predicting",
    "embed": "computing features",
}

NAME = click.option(
    "--name", metavar="QUESTION", help="Which head, by the name of its question, where there are several."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a file that stands at --out.")


@click.command(short_help="Pack a trained head to pass it on")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@NAME
@click.option("--onnx", is_flag=True, help="Also write model.onnx: windows of conditioned mV in, scores out.")
@AS_JSON
def export(run_dir: Path, out: Path, name: str | None, onnx: bool, as_json: bool) -> None:
    """Write a trained head of RUN, and all it needs, into the new folder OUT, with a card of what it is worth.

    OUT holds weights, settings, classes, thresholds, how signals are prepared, and whom the model has learned from;
    `predict`, `embed` and `evaluate` read it.
    """
    from ecgtrain.deployment.export import CARD
    from ecgtrain.run import export_run

    model = export_run(run_dir, out, name=name, onnx=onnx)
    if as_json:
        head = model.head
        say_json({"export": str(out), "question": head.name, "classes": list(head.classes), "kind": head.kind})
    else:
        say(f"export: {out}")
        say(f"read this first: {out / CARD}")


@click.command(short_help="Ask a model about recordings")
@click.argument("export_dir", metavar="EXPORT", type=click.Path(path_type=Path))
@click.argument("recordings", metavar="RECORDINGS", type=click.Path())
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The Parquet file to write."
)
@NAME
@click.option("--source", metavar="SOURCE", help="Which kind of folder, as for an ingest. Default: found out.")
@click.option(
    "--extra-leads",
    type=click.Choice(["refuse", "drop"]),
    help="Leave out recordings with a signal that is no lead, or that signal alone. Default: as the model's own were.",
)
@click.option("--workers", type=click.IntRange(1), default=None, help="To prepare recordings. Default: one per core.")
@OVERWRITE
@DEVICE
@AS_JSON
def predict(
    export_dir: Path,
    recordings: str,
    out: Path,
    name: str | None,
    source: str | None,
    extra_leads: Literal["refuse", "drop"] | None,
    workers: int | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Ask a model about recordings: EXPORT is an export or a run, RECORDINGS a folder of WFDB records, one, or a store.

    Recordings are prepared as those that the model learned from; a store must have been. FILE gets one row per record:
    probability:CLASS (or predicted:NAME), said:CLASS where there are thresholds, and the reason where a record could
    not be predicted; these are also told, one line each. Exit status 1 if no record could be.
    """
    from ecgtrain.run import predict_records

    with _ended_in_order(), phases_bar(_PHASES) as progress:
        found = predict_records(
            export_dir,
            recordings,
            out,
            name=name,
            source=source,
            extra_leads=extra_leads,
            workers=workers or os.cpu_count() or 1,
            device=device_of(device),
            overwrite=overwrite,
            progress=progress,
        )
    for one in found.left_out[:_MOST_TOLD]:
        say(f"left out: {one.record_id}: {one.reason}{f': {one.detail}' if one.detail else ''}", err=True)
    if len(found.left_out) > _MOST_TOLD:
        say(f"left out: {len(found.left_out) - _MOST_TOLD} more; all stand in {out}", err=True)
    for note in found.notes:
        say(f"note: {note}", err=True)
    if as_json:
        left_out = [{"record_id": one.record_id, "reason": one.reason, "detail": one.detail} for one in found.left_out]
        say_json({"path": str(out), "predicted": found.n_predicted, "left_out": left_out, "notes": list(found.notes)})
    else:
        of = f" of {found.table.num_rows}" if found.left_out else ""
        say(f"predicted {found.n_predicted}{of} records: {out}")
    if not found.n_predicted:
        sys.exit(EXIT_ERROR)


@click.command(short_help="Write a network's features as a table")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The Parquet file to write."
)
@click.option("--folds", metavar="LIST", help="Only records of these folds, such as 8 or 9,10. Default: all records.")
@click.option(
    "--per",
    type=click.Choice(["record", "window"]),
    default="record",
    show_default=True,
    help="One row per record, the mean over its windows; or one per window.",
)
@click.option(
    "--window", "window_s", type=float, metavar="SECONDS", help="Length of a window. Default: as in pretraining."
)
@click.option(
    "--stride", "stride_s", type=float, metavar="SECONDS", help="From one window to the next. Default: a window."
)
@OVERWRITE
@DEVICE
@AS_JSON
def embed(
    run_dir: Path,
    store_path: str,
    out: Path,
    folds: str | None,
    per: Literal["record", "window"],
    window_s: float | None,
    stride_s: float | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Write the features of STORE's records, by the pretrained network of RUN (a run or an export), as a table.

    FILE gets record_id, row, start_s where there is a row per window, and features: a float32 list of fixed size.
    """
    from ecgtrain.run import embed_store

    chosen = folds_of(folds)
    with phases_bar(_PHASES) as progress:
        found = embed_store(
            run_dir,
            store_path,
            out,
            folds=None if chosen == "all" else chosen,
            per=per,
            window_s=window_s,
            stride_s=stride_s,
            device=device_of(device),
            overwrite=overwrite,
            tell=lambda done, total: progress("embed", done, total),
        )
    for record_id in found.left_out[:_MOST_TOLD]:
        say(f"left out: {record_id}: too_short", err=True)
    if len(found.left_out) > _MOST_TOLD:
        say(f"left out: {len(found.left_out) - _MOST_TOLD} more: too_short", err=True)
    if as_json:
        answer = {"path": str(out), "rows": found.rows, "features": found.n_features, "left_out": list(found.left_out)}
        say_json(answer)
    else:
        say(f"{found.rows} rows of {found.n_features} features: {out}")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the process as an error does: what was prepared of somebody's recordings is removed first."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


VERBS = (export, predict, embed)
