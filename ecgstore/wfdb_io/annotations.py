"""Beats and other annotations of a record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecgstore.errors import RecordError
from ecgstore.record import Beat
from ecgstore.wfdb_io.files import crc32_of_files, header_content, import_wfdb, refuse_outside, size_of, why
from ecgstore.wfdb_io.parse import MAX_HZ, MIN_HZ, content_lines, decode, read_claims

#: Annotation files longer than this are left alone: half a million annotations, or four days of beats.
MAX_ANNOTATION_BYTES = 1 << 20
#: Notes that name a rhythm, as PhysioNet's databases write them (MIT-BIH and AF, European ST-T, VF). Any other note
#: is free text, which may name a person.
RHYTHMS = frozenset(
    f"({name}"
    for name in (
        "AB",
        "AFIB",
        "AFL",
        "ASYS",
        "B",
        "B3",
        "BI",
        "BII",
        "HGEA",
        "IVR",
        "J",
        "N",
        "NOD",
        "NOISE",
        "NSR",
        "P",
        "PM",
        "PREX",
        "SAB",
        "SBR",
        "SVT",
        "SVTA",
        "T",
        "VER",
        "VF",
        "VFL",
        "VT",
    )
)
#: Codes of the format's words that are no annotation: a long interval, and a text with its length.
_SKIP, _AUX = 59, 63
#: wfdb, which reads the header for the annotations' rate, takes a time that grows with the square of a line's length.
MAX_LINE = 500


def is_annotation_file(path: Path) -> bool:
    """Whether a file is one of annotations in WFDB's own format, told by its words from beginning to end."""
    try:
        if not path.is_file() or not 2 <= path.stat().st_size <= MAX_ANNOTATION_BYTES:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    at = 0
    while at + 2 <= len(content):
        word = int.from_bytes(content[at : at + 2], "little")
        at += 2
        if word == 0:
            return at == len(content)
        code, value = word >> 10, word & 0x3FF
        at += 4 if code == _SKIP else value + value % 2 if code == _AUX else 0
    return False


def annotation_crc32(path: Path, annotators: Sequence[str]) -> int:
    """CRC-32 of the record's annotation files, one behind the other; 0 where there is none that may be read."""
    crc = 0
    for annotator in annotators:
        try:
            crc = crc32_of_files(os.fspath(path), [f"{path.name}.{annotator}"], path.name, crc)
        except RecordError:
            continue
    return crc


def read_beats(
    path: Path, annotator: str, record_id: str, keeps_text: bool = False
) -> tuple[tuple[Beat, ...], tuple[str, ...]]:
    """Read the annotations of ``path.annotator``, and warnings: a record is a record without them, too.

    Every annotation comes with its symbol, be it a beat or not. Times are by the annotation file's own rate,
    where it states one, else by the header's frames. A note that is none of :data:`RHYTHMS` is left out, and counted
    in a warning, unless ``keeps_text``.
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
        beats, n_texts = _beats(found, rate_hz, annotator.lower(), keeps_text)
    except RecordError as error:
        detail = "there is no annotation file" if error.reason == "missing_signal" else error.detail
        return (), (f"no annotations: {detail}",)
    except Exception as error:  # wfdb raises whatever its decoding meets
        return (), (f"no annotations: {said}: {why(error)}",)
    warnings = []
    if lost := len(found.sample) - len(beats):
        warnings.append(f"{lost} annotations of {said} have no time or symbol")
    if n_texts:
        warnings.append(f"{n_texts} notes of {said} are no rhythm and were left out")
    return beats, tuple(warnings)


def _beats(found: Any, rate_hz: float, annotator: str, keeps_text: bool) -> tuple[tuple[Beat, ...], int]:
    """What wfdb found, and how many notes were left out."""
    beats: list[Beat] = []
    n_texts = 0
    fields = (found.sample.tolist(), found.symbol, found.aux_note, found.subtype, found.chan, found.num)
    for sample, symbol, note, *numbers in zip(*fields, strict=True):
        if not isinstance(symbol, str) or sample < 0:
            continue
        text = str(note or "").replace("\0", "").strip()
        if text and not keeps_text and text not in RHYTHMS:
            text, n_texts = "", n_texts + 1
        subtype, channel, num = map(int, numbers)
        beats.append(Beat(sample / rate_hz, symbol, text, subtype, channel, num, annotator))
    return tuple(beats), n_texts
