"""Records given as arrays become a store: put aside in a folder, one by one, and ingested as any other source.

So there is one way for all data: the same plan, checks, shards and seal. The folder stands beside the store and goes
with the call, whatever ends it.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ecgstore.build import building
from ecgstore.build.construct import Progress
from ecgstore.build.ingest import IngestReport, ingest_folder
from ecgstore.build.schedule import Workers
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import ConfigError, RecordError, SourceError, StoreExists
from ecgstore.record import LeadState, Record, Terms
from ecgstore.sources import arrays
from ecgstore.sources._listed import Said, SaidTerms, what_is_wrong
from ecgstore.sources._reader import checked_samples, header_of
from ecgstore.storage import layout


def write_records(
    out: str | Path,
    records: Iterable[Record],
    settings: IngestSettings | None = None,
    *,
    terms: Terms | None = None,
    workers: int | Workers = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the store ``out`` from arrays: ``records`` is any iterable of :class:`ecgstore.Record`, taken one by one.

    ``signal_mv_lt`` is (leads, samples) in mV, NaN where nothing was recorded; ``leads`` are recognised by name as
    those of files are. Leads that are absent or derived by their ``lead_states`` are left out, and derived anew. The
    ``settings`` are those of :func:`ecgstore.ingest_folder`, without a source; ``terms`` say whose records these are.

    Until all records were taken, their samples are put aside beside ``out``: there must be space for them as float32.
    A record whose signals can't be used is left out and written down with its reason, and so is a second one of the
    same id. If anything is raised, by ``records`` too, nothing is left behind but what was there before.

    Raises ConfigError where something is no record, or what is said of it is out of bounds; StoreExists; and what
    :func:`ecgstore.ingest_folder` raises.
    """
    settings, out = settings or IngestSettings(), Path(out)
    if settings.source is not None:
        raise ConfigError("records that are given have no source to be read from", fix="leave source out")
    building.prepare(out)
    if (out / layout.MANIFEST).exists() and not overwrite:
        raise StoreExists("a sealed store is there already", where=out, fix="choose another output, or overwrite=True")
    # Beside the store, where there is room for it; its own folder may not be there yet.
    parent = next(folder for folder in building.behind_links(out).absolute().parents if folder.is_dir())
    with building.plain_disk_errors(out):
        aside = tempfile.TemporaryDirectory(prefix=f".{out.name[:100]}.records-", dir=parent)
    with aside as folder:
        _put_aside(Path(folder), out, records, terms or arrays.TERMS)
        try:
            return ingest_folder(
                folder,
                out,
                settings.model_copy(update={"source": arrays.Settings()}),
                workers=workers,
                overwrite=overwrite,
                progress=progress,
            )
        except SourceError as error:
            # Not where they were put aside: that folder is gone by now.
            raise SourceError(error.what, where="the records that were given", got=error.got) from None


def _put_aside(folder: Path, out: Path, records: Iterable[Record], terms: Terms) -> None:
    try:
        SaidTerms.model_validate(terms)
    except ValidationError as error:
        raise ConfigError("the terms are wrong", got=what_is_wrong(error)) from None
    about = {name: getattr(terms, name) for name in SaidTerms.model_fields}
    with building.plain_disk_errors(out):
        (folder / arrays.ABOUT).write_text(json.dumps(about), encoding="utf-8")
        samples, lines = (folder / arrays.SAMPLES).open("wb"), (folder / arrays.RECORDS).open("w", encoding="utf-8")
    with samples, lines:
        for number, record in enumerate(records):
            said = _said(record, number)
            try:
                leads, signal_mv_lt = _signal(record, number)
                place = _header(record, leads, signal_mv_lt)
                values_lt = checked_samples(signal_mv_lt, header_of(place), place.n_samples)
            except RecordError as error:
                row: dict[str, Any] = {"record_id": said.record_id, "reason": error.reason, "detail": error.detail}
            else:
                with building.plain_disk_errors(out):
                    row = {"said": said.model_dump(), "place": _append(samples, values_lt, place)}
            with building.plain_disk_errors(out):
                lines.write(json.dumps(row) + "\n")


def _append(samples: BinaryIO, values_lt: npt.NDArray[np.float32], place: arrays.Place) -> str:
    """Write the samples behind those that are there; returns what finds them again."""
    content = np.ascontiguousarray(values_lt, dtype=arrays.VALUE)
    its = {"offset": samples.tell(), "checksum": f"{zlib.crc32(content.data):08x}"}
    samples.write(content.data)
    return place.model_copy(update=its).model_dump_json()


def _said(record: object, number: int) -> Said:
    if not isinstance(record, Record):
        raise ConfigError(f"record {number} is no ecgstore.Record", got=type(record).__name__)
    if record.patient_key is not None and record.patient_id is None:
        raise ConfigError(
            f"record {number} names its patient by patient_key, which is a hash already",
            fix="say patient_id; of records of a store, patient_id=record.patient_key, patient_key=None will do, but "
            "their patients can't be compared with those of that store any more",
        )
    try:
        return Said.model_validate(record)
    except ValidationError as error:
        raise ConfigError(f"record {number} is wrong", got=what_is_wrong(error)) from None


def _signal(record: Record, number: int) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
    """The leads that were measured, and their samples as they were given."""
    states, leads = tuple(record.lead_states), tuple(record.leads)
    given: Any = record.signal_mv_lt
    try:
        signal_mv_lt = given if isinstance(given, np.ndarray) else np.asarray(given)
    except Exception as error:  # whatever an object does that is asked to be an array
        raise RecordError(record.record_id, "bad_signal", f"no array: {type(error).__name__}") from None
    if not states:
        return leads, signal_mv_lt
    if len(states) != len(leads):
        raise ConfigError(f"record {number} is wrong", got=f"{len(states)} lead_states for {len(leads)} leads")
    rows = [row for row, state in enumerate(states) if state not in (LeadState.ABSENT, LeadState.DERIVED)]
    if not rows:
        raise RecordError(record.record_id, "no_leads", "all leads are derived or absent")
    if len(rows) < len(leads) and signal_mv_lt.shape[:1] == (len(leads),):
        return tuple(leads[row] for row in rows), signal_mv_lt[rows]
    return leads, signal_mv_lt


def _header(record: Record, leads: tuple[str, ...], signal_mv_lt: npt.NDArray[Any]) -> arrays.Place:
    shape = signal_mv_lt.shape
    # One that lies on its side is told so.
    lies = len(shape) == 2 and shape[0] != len(leads) == shape[1]
    n_samples = 0 if len(shape) != 2 else shape[0] if lies else shape[1]
    try:
        return arrays.Place(fs_hz=record.fs_hz, n_samples=n_samples, leads=leads, offset=0)
    except ValidationError as error:
        raise RecordError(record.record_id, "bad_header", what_is_wrong(error)) from None
