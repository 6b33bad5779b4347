"""Beats and other annotations of a record."""

from __future__ import annotations

import os
from pathlib import Path

from ecgstore.errors import RecordError
from ecgstore.record import Beat
from ecgstore.wfdb_io.files import crc32_of_files, header_content, import_wfdb, refuse_outside, size_of, why
from ecgstore.wfdb_io.parse import MAX_HZ, MIN_HZ, content_lines, decode, read_claims

#: Annotation files longer than this are left alone: half a million annotations, or four days of beats.
MAX_ANNOTATION_BYTES = 1 << 20
#: wfdb, which reads the header for the annotations' rate, takes a time that grows with the square of a line's length.
MAX_LINE = 500


def annotation_crc32(path: Path, annotator: str | None) -> int:
    """CRC-32 of the record's annotation file, 0 where there is none that may be read."""
    if annotator is None:
        return 0
    try:
        return crc32_of_files(os.fspath(path), [f"{path.name}.{annotator}"], path.name)
    except RecordError:
        return 0


def read_beats(path: Path, annotator: str, record_id: str) -> tuple[tuple[Beat, ...], tuple[str, ...]]:
    """Read the annotations of ``path.annotator``, and warnings: a record is a record without them, too.

    Every annotation comes with its symbol, be it a beat or not. Times are by the annotation file's own rate,
    where it states one, else by the header's frames.
    """
    base, said = os.fspath(path), f"the .{annotator} file"
    try:
        refuse_outside((f"{path.name}.{annotator}",), "annotator", record_id)
        if (size := size_of(f"{base}.{annotator}", said, record_id)) > MAX_ANNOTATION_BYTES:
            raise RecordError(record_id, "too_large", f"{said}: {size} bytes")
        lines = content_lines(decode(header_content(f"{base}.hea", record_id)))
        frame_hz = read_claims(lines, record_id).frame_hz
        wfdb = import_wfdb()
        if any(len(line) > MAX_LINE for line in lines):
            raise RecordError(record_id, "bad_header", f"a line of more than {MAX_LINE} characters")
        found = wfdb.rdann(base, annotator)
        # wfdb itself takes the rate from the header, if it can, but a date before the time stops it.
        rate_hz = float(found.fs or frame_hz)
        if not MIN_HZ <= rate_hz <= MAX_HZ:
            raise RecordError(record_id, "bad_signal", f"{said}: {rate_hz} Hz")
        pairs = zip(found.sample.tolist(), found.symbol, strict=True)
        beats = [Beat(sample / rate_hz, symbol) for sample, symbol in pairs if isinstance(symbol, str) and sample >= 0]
    except RecordError as error:
        detail = "there is no annotation file" if error.reason == "missing_signal" else error.detail
        return (), (f"no annotations: {detail}",)
    except Exception as error:  # wfdb raises whatever its decoding meets
        return (), (f"no annotations: {said}: {why(error)}",)
    lost = len(found.sample) - len(beats)
    return tuple(beats), ((f"{lost} annotations of {said} have no time or symbol",) if lost else ())
