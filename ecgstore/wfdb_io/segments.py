"""The whole header of a record: one file, or one for each of its segments."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.files import beside, but_for_case, find_header, header_content, refuse_outside
from ecgstore.wfdb_io.header import Header, Segment, SignalLayout
from ecgstore.wfdb_io.parse import (
    DIGITS,
    capped,
    content_lines,
    decode,
    fastest,
    read_claims,
    read_layout,
    refuse_claims,
    segment_count,
    single_header,
    surplus,
    text_lines,
)

MAX_SEGMENTS = 10_000


def read_header(path: Path, record_id: str) -> Header:
    """Read ``path.hea``. ``path`` is the record's path without suffix.

    Raises RecordError: missing_header, bad_header, missing_signal, truncated, too_large, unsafe_path, bad_signal.
    Nothing but headers, the signal files' sizes and the first bytes of FLAC files is looked at. Units and gains
    don't matter here: see :func:`refuse_unusable`.
    """
    return _read_header(os.fspath(path), record_id)[0]


def read_header_and_comments(path: Path, record_id: str) -> tuple[Header, tuple[str, ...]]:
    """:func:`read_header`, and the header's comment lines without their leading ``#`` and blanks."""
    header, text = _read_header(os.fspath(path), record_id)
    return header, tuple(line.lstrip("# \t") for line in text_lines(text) if line.startswith("#"))


def _read_header(base: str, record_id: str) -> tuple[Header, str]:
    content = header_content(f"{base}.hea", record_id)
    sha256 = hashlib.sha256(content).hexdigest()
    text = decode(content)
    lines = content_lines(text)
    if segment_count(lines) is not None:
        return _segments_header(base, lines, sha256, record_id), text
    return single_header(base, lines, sha256, record_id), text


def _segments_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    """A record of several segments: each is a record of its own, and is read and verified as one."""
    claims = read_claims(lines, record_id)
    count = capped(segment_count(lines) or "0")
    if not 0 < count < len(lines):
        raise RecordError(record_id, "bad_header", f"{len(lines) - 1} segment lines for {count} segments")
    if count > MAX_SEGMENTS:
        raise RecordError(record_id, "too_large", f"{count} segments; the limit is {MAX_SEGMENTS}")
    refuse_claims(claims.n_frames or 0, claims.n_signals, record_id)
    places = [_segment_line(line, i, record_id) for i, line in enumerate(lines[1 : count + 1])]
    refuse_outside((name for name, _ in places), "segment", record_id)
    n_frames = sum(n for _, n in places)
    if claims.n_frames not in (None, n_frames) or n_frames == 0:
        raise RecordError(record_id, "bad_header", f"segments of {n_frames} samples for {claims.n_frames}")
    # A layout header, of no samples, goes before segments that don't all have the same signals.
    layout = _layout_segment(base, places[0][0], record_id) if places[0][1] == 0 else None
    headers: dict[str, Header] = {}
    segments = []
    for number, (name, n) in enumerate(places):
        if number == 0 and layout is not None:
            continue
        if name == "~" or n == 0:
            segments.append(Segment(name, n, None, ()))
            continue
        if name not in headers:
            headers[name] = _segment_header(base, name, number, claims.frame_hz, record_id)
        header = headers[name]
        if header.n_samples < n * header.samples_per_frame:
            raise RecordError(record_id, "truncated", f"segment {number}: fewer than {n} samples")
        if layout is None and len(header.lead_names) != claims.n_signals:
            raise RecordError(record_id, "bad_header", f"segment {number}: {len(header.lead_names)} signals")
        names, its = (layout or header.layout).names, header.lead_names
        rows = range(len(its)) if layout is None else (its.index(one) if one in its else -1 for one in names)
        segments.append(Segment(name, n, header, tuple(rows)))
    if not headers:
        raise RecordError(record_id, "no_samples", "every segment is a gap")
    common = layout or next(iter(headers.values())).layout
    if len(common.names) != claims.n_signals:
        raise RecordError(record_id, "bad_header", f"{len(common.names)} of {claims.n_signals} signals")
    samples_per_frame = fastest([common, *(header.layout for header in headers.values())])
    refuse_claims(n_frames * samples_per_frame, claims.n_signals, record_id)
    return Header(
        fs_hz=claims.frame_hz * samples_per_frame,
        n_samples=n_frames * samples_per_frame,
        lead_names=common.names,
        plain=False,
        layout=common,
        files=tuple(dict.fromkeys(name for header in headers.values() for name in header.files)),
        sha256=hashlib.sha256("".join([sha256, *(header.sha256 for header in headers.values())]).encode()).hexdigest(),
        samples_per_frame=samples_per_frame,
        segments=tuple(segments),
        warnings=surplus(lines, count, "segment"),
    )


def segment_names(path: Path) -> tuple[str, ...]:
    """The segments, layout included, that the header ``path.hea`` names; none if it isn't a record of several."""
    try:
        lines = content_lines(decode(header_content(f"{path}.hea", path.name)))
    except RecordError:
        return ()
    count = segment_count(lines)
    named = () if count is None else (line.split(maxsplit=1)[0] for line in lines[1 : capped(count) + 1])
    return tuple(_as_on_disk(path, name) for name in named)


def _as_on_disk(path: Path, name: str) -> str:
    """A segment's name as its file spells it."""
    base = beside(os.fspath(path), name)
    try:
        if "/" in name or find_header(base) is not None:
            return name
        return Path(but_for_case(f"{base}.hea", name, name)).stem
    except (RecordError, ValueError):
        return name


def _segment_line(line: str, number: int, record_id: str) -> tuple[str, int]:
    name, count = (*line.split(), "")[:2]
    if not DIGITS.fullmatch(count):
        raise RecordError(record_id, "bad_header", f"segment {number}: the number of samples is no number")
    return name, capped(count)


def _segment_lines(base: str, name: str, number: int, record_id: str) -> tuple[str, list[str], str]:
    path = beside(base, name)
    content = header_content(f"{path}.hea", record_id, f"the header of segment {number}")
    lines = content_lines(decode(content))
    if segment_count(lines) is not None:
        raise RecordError(record_id, "bad_header", f"segment {number} has segments itself")
    return path, lines, hashlib.sha256(content).hexdigest()


def _segment_header(base: str, name: str, number: int, frame_hz: float, record_id: str) -> Header:
    path, lines, sha256 = _segment_lines(base, name, number, record_id)
    try:
        header = single_header(path, lines, sha256, record_id)
    except RecordError as error:
        raise RecordError(record_id, error.reason, f"segment {number}: {error.detail}") from None
    own_hz = header.fs_hz / header.samples_per_frame
    if not math.isclose(own_hz, frame_hz, rel_tol=1e-6):
        raise RecordError(record_id, "bad_header", f"segment {number}: {own_hz:g} Hz for {frame_hz:g} Hz")
    return header


def _layout_segment(base: str, name: str, record_id: str) -> SignalLayout:
    _, lines, _ = _segment_lines(base, name, 0, record_id)
    return read_layout(lines, read_claims(lines, record_id), record_id)[0]
