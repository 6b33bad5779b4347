"""WFDB in: header, samples and annotations of one record, verified, in millivolts.

Two ways to the same numbers:

* the *plain* way, for records whose signals all stand in one file of format 16 (``.dat``, or MATLAB v4
  ``.mat`` written as ``16+24``): our own header parser and NumPy, because wfdb spends 80 % of a read on
  looking up header fields;
* everything else, and every header that the plain parser doesn't understand in full, goes to wfdb, which is
  asked for nothing but the numbers as they stand in the file. Skew, rates, segments, gains and checksums are
  dealt with here, because a piece of a record must be what the whole record has in that place.

Bad units and gains refuse a record only where their signal is used: see :func:`refuse_unusable`. Files are
taken for what they may be, hostile: nothing is allocated, opened or followed on a header's word alone.

Only this file imports wfdb, and only here do the words "segment" and "frame" mean what WFDB means by them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError, need
from ecgstore.record import Beat

#: Millivolts per unit, by the unit's lower-case name (µ in both its Unicode spellings).
MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
#: WFDB's word for "no sample here" in format 16.
INVALID_16 = -32768
#: Headers that claim more than this are refused before anything is allocated: 24 h of 12 leads at 1 kHz is half.
MAX_VALUES = 2_000_000_000
MAX_SIGNALS = 256
MAX_SEGMENTS = 10_000
MAX_SAMPLES_PER_FRAME = 10_000
#: Header files longer than this, and lines longer than that which would go to wfdb, are refused unread.
MAX_HEADER_BYTES = 1 << 20
MAX_LINE = 500
#: Annotation files longer than this are left alone: half a million annotations, or four days of beats.
MAX_ANNOTATION_BYTES = 1 << 20
#: Samples per second that a heart may be recorded with: what lies outside is a broken header.
MIN_HZ, MAX_HZ = 1e-3, 1e7
#: Millivolts per count beyond which float32 holds no millivolts.
MIN_MV_PER_COUNT, MAX_MV_PER_COUNT = 1e-30, 1e28

#: "No sample here" in counts of 32 bits: see :meth:`PieceReader.read_counts`.
NOT_RECORDED = -(2**31)
#: "Not stated" in ``Header.stated``.
_NONE = NOT_RECORDED
#: Bytes per so many samples, by format; the FLAC formats 508, 516 and 524 say their length themselves.
_BYTES_PER_SAMPLES = {
    "8": (1, 1),
    "16": (2, 1),
    "24": (3, 1),
    "32": (4, 1),
    "61": (2, 1),
    "80": (1, 1),
    "160": (2, 1),
    "212": (3, 2),
    "310": (4, 3),
    "311": (4, 3),
}
_FLAC = ("508", "516", "524")
#: "No sample here", by format; format 8, which stores differences, has no word for it.
_INVALID = {
    **dict.fromkeys(("80", "508"), -(2**7)),
    **dict.fromkeys(("310", "311"), -(2**9)),
    "212": -(2**11),
    **dict.fromkeys(("16", "61", "160", "516"), -(2**15)),
    **dict.fromkeys(("24", "524"), -(2**23)),
    "32": -(2**31),
}
#: Values that are read at once where nobody has said how many.
_BLOCK_VALUES = 1 << 20
_HEADER_BLOCK = 1 << 14

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# The fields of a signal line: file format[xSPF][:skew][+offset] gain[(baseline)][/unit] resolution zero initial
# checksum block description. Everything behind the format may be missing, from the right.
_N_FIELDS = 9
_GAIN = re.compile(rf"({_NUMBER})(?:\(([-+]?\d+)\))?(?:/(\S+))?", re.ASCII)
_PLAIN_FORM = re.compile(r"16(?:x1)?(?::0)?(?:\+(\d+))?", re.ASCII)
_FREQUENCY = re.compile(r"(\d+\.?\d*(?:[eE][-+]?\d+)?)(?:/.*)?", re.ASCII)
_DIGITS = re.compile(r"\d+", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_DEFAULT_GAIN, _DEFAULT_UNIT, _DEFAULT_HZ = 200.0, "mV", 250.0

# O_NONBLOCK, because opening a pipe that nobody writes to would wait for ever. It means nothing to real files.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class SignalLayout:
    """What a header says of its signals and thousands of headers say alike: kept once, shared by all of them.

    One entry per signal. ``gains`` are counts per unit. ``whole`` says that wfdb can't read a part of it.
    """

    names: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    baselines: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    byte_offsets: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    samples_per_frame: tuple[int, ...] = ()
    skews: tuple[int, ...] = ()
    #: Which of the header's files each signal stands in.
    file_numbers: tuple[int, ...] = ()
    whole: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Headers cross process walls in millions; on the other side, too, they share their layouts.
        return _shared_layout, tuple(getattr(self, name) for name in self.__slots__)


@lru_cache(maxsize=4096)
def _shared_layout(*fields: Any) -> SignalLayout:
    return SignalLayout(*fields)


class Segment(NamedTuple):
    """A part of a multi-segment record.

    ``header`` is None for a gap; ``rows`` has per signal of the record its number in the segment, -1 where the
    segment doesn't have it.
    """

    name: str
    n_frames: int
    header: Header | None
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. ``plain`` records are read by NumPy, the others by wfdb.

    ``fs_hz`` and ``n_samples`` are those of the fastest voltage: where a header has several samples per frame,
    ``samples_per_frame`` of them make one of its frames. ``stated`` packs the initial values and then the
    checksums of all signals, int32 each, -2**31 where one isn't stated. ``sha256`` is that of the header file; for
    a record of several segments, that of its own hash and theirs.
    """

    fs_hz: float
    n_samples: int
    lead_names: tuple[str, ...]
    plain: bool
    layout: SignalLayout = SignalLayout()
    files: tuple[str, ...] = ()
    stated: bytes = b""
    sha256: str = ""
    samples_per_frame: int = 1
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RawSignal:
    """Samples as recorded: ``signal_mv_lt`` float32 (signals, samples) in mV, NaN = not recorded.

    A signal that isn't a voltage, or has no usable gain, is NaN throughout. ``source_crc32`` is over the bytes of
    the signal files, in the header's order.
    """

    signal_mv_lt: npt.NDArray[np.float32]
    source_crc32: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class NativeCounts:
    """Samples as the converter gave them: ``counts_lt`` int16 (signals, samples), -32768 = not recorded.

    mV = (count - ``baseline_l``) / ``gain_per_mv_l``; the gain is NaN for a signal that isn't a voltage.
    """

    counts_lt: npt.NDArray[np.int16]
    gain_per_mv_l: npt.NDArray[np.float64]
    baseline_l: npt.NDArray[np.int32]
    source_crc32: int
    warnings: tuple[str, ...] = ()


# --- headers --------------------------------------------------------------------------------------------------


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
    lines = (line.strip() for line in text.splitlines())
    return header, tuple(line.lstrip("# \t") for line in lines if line.startswith("#"))


def parse_plain(text: str) -> Header | None:
    """Parse a header that the plain way can serve; None where it holds anything else (wfdb decides then)."""
    return _parse_plain(_lines(text), "")


def refuse_unusable(header: Header, rows: Iterable[int], record_id: str) -> None:
    """Refuse a record for its signals number ``rows`` if no millivolts can be made from one of them.

    Raises RecordError: unknown_unit, bad_gain.
    """
    layout = header.layout
    if not header.segments and not _unusable(layout).intersection(rows):
        return
    # A segment may state another unit or gain than the record; it is the segment's that counts.
    parts = [(segment.header.layout, segment.rows) for segment in header.segments if segment.header is not None]
    for row in rows:
        found = [(part, its_rows[row]) for part, its_rows in parts if its_rows[row] >= 0] or [(layout, row)]
        for part, its_row in found:
            unit, gain = part.units[its_row], part.gains[its_row]
            if unit.lower() not in MV_PER_UNIT:
                raise RecordError(record_id, "unknown_unit", f"{header.lead_names[row]}: {unit}")
            if math.isnan(_scale(part).mv_per_count[its_row]):
                raise RecordError(record_id, "bad_gain", f"{header.lead_names[row]}: {gain:g}")


def voltages(header: Header) -> tuple[bool, ...]:
    """Per signal whether its unit is a voltage; its gain may be unusable all the same."""
    return tuple(unit.lower() in MV_PER_UNIT for unit in header.layout.units)


def gains(header: Header) -> tuple[float, ...]:
    """Per signal the counts per mV that the header states, NaN where no millivolts can be made from it."""
    return _scale(header.layout).gain_per_mv


def header_to_row(header: Header) -> dict[str, Any]:
    """The header as plain values, for a table of headers; what many headers share is one and the same text."""
    return {
        "fs_hz": header.fs_hz,
        "n_samples": header.n_samples,
        "plain": int(header.plain),
        "layout": _layout_text(header.layout),
        "files": list(header.files),
        "stated": header.stated,
        "sha256": header.sha256,
        "samples_per_frame": header.samples_per_frame,
        "segments": json.dumps(
            [
                [name, n_frames, None if part is None else header_to_row(part), rows]
                for name, n_frames, part, rows in header.segments
            ],
            default=bytes.hex,
        )
        if header.segments
        else "",
    }


def header_from_row(row: Mapping[str, Any]) -> Header:
    """The header that :func:`header_to_row` made ``row`` of."""
    layout, stated = _layout_from_text(row["layout"]), row["stated"]
    segments = (
        Segment(name, n_frames, None if part is None else header_from_row(part), tuple(rows))
        for name, n_frames, part, rows in json.loads(row["segments"] or "[]")
    )
    return Header(
        fs_hz=row["fs_hz"],
        n_samples=row["n_samples"],
        lead_names=layout.names,
        plain=bool(row["plain"]),
        layout=layout,
        files=tuple(row["files"]),
        stated=stated if isinstance(stated, bytes) else bytes.fromhex(stated),
        sha256=row["sha256"],
        samples_per_frame=row["samples_per_frame"],
        segments=tuple(segments),
    )


@lru_cache(maxsize=4096)
def _layout_text(layout: SignalLayout) -> str:
    return json.dumps([getattr(layout, name) for name in SignalLayout.__slots__], separators=(",", ":"))


@lru_cache(maxsize=4096)
def _layout_from_text(text: str) -> SignalLayout:
    return _shared_layout(*(tuple(field) if isinstance(field, list) else field for field in json.loads(text)))


def _read_header(base: str, record_id: str) -> tuple[Header, str]:
    content = _header_content(f"{base}.hea", record_id)
    sha256 = hashlib.sha256(content).hexdigest()
    text = _decode(content)
    lines = _lines(text)
    if lines and "/" in lines[0].split(maxsplit=1)[0]:
        return _segments_header(base, lines, sha256, record_id), text
    return _single_header(base, lines, sha256, record_id), text


def _single_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    header = _parse_plain(lines, sha256)
    if header is None:
        return _wfdb_header(base, lines, sha256, record_id)
    name = header.files[0]
    _refuse_outside(header.files, record_id)
    _refuse_claims(header.n_samples, len(header.lead_names), record_id)
    size = _size(_beside(base, name), name, record_id)
    expected = header.layout.byte_offsets[0] + 2 * header.n_samples * len(header.lead_names)
    if size < expected:
        raise RecordError(record_id, "truncated", f"{name}: {size} of {expected} bytes")
    return header


def _header_content(name: str, record_id: str) -> bytes:
    try:
        descriptor = os.open(name, _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_header", os.path.basename(name)) from None  # noqa: PTH119 never a Path here
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the name
        raise RecordError(record_id, "bad_header", _one_line(error)) from None
    try:
        # Most headers are there after one call. A pipe gives nothing, and of a device no more than a header is read.
        content = block = os.read(descriptor, _HEADER_BLOCK)
        while len(block) == _HEADER_BLOCK and len(content) <= MAX_HEADER_BYTES:
            block = os.read(descriptor, _HEADER_BLOCK)
            content += block
    except OSError as error:
        raise RecordError(record_id, "bad_header", _one_line(error)) from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_HEADER_BYTES:
        raise RecordError(record_id, "too_large", f"a header of more than {MAX_HEADER_BYTES} bytes")
    return content


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # latin-1 decodes any byte: comments of real headers hold every encoding there is.
        return content.decode("latin-1")


def _lines(text: str) -> list[str]:
    """The lines that say something: neither blank nor comment."""
    return [line for raw in text.splitlines() if (line := raw.strip()) and line[0] != "#"]


class _Claims(NamedTuple):
    """What a record line says. ``n_frames`` is None where it isn't stated."""

    n_signals: int
    frame_hz: float
    n_frames: int | None


@lru_cache(maxsize=4096)
def _claims(fields: tuple[str, ...]) -> _Claims | None:
    """Understand the second to fourth field of a record line; None where they are not to be understood.

    Base time and date, fields five and six, are not needed, so their many spellings can't hurt: Georgia's 2020
    headers put the date first, and wfdb refuses them.
    """
    n_signals = fields[0]
    frequency = fields[1] if len(fields) > 1 else f"{_DEFAULT_HZ}"
    n_frames = fields[2] if len(fields) > 2 else ""
    match = _FREQUENCY.fullmatch(frequency)
    if match is None or not _DIGITS.fullmatch(n_signals) or not (n_frames == "" or _DIGITS.fullmatch(n_frames)):
        return None
    frame_hz = float(match[1])
    if not MIN_HZ <= frame_hz <= MAX_HZ:
        return None
    return _Claims(_capped(n_signals), frame_hz, _capped(n_frames) if n_frames else None)


def _capped(digits: str) -> int:
    # Python refuses to convert thousands of digits, and nobody needs to know a number of that size exactly.
    return int(digits) if len(digits) < 19 else 10**18


def _read_claims(lines: list[str], record_id: str) -> _Claims:
    fields = tuple(lines[0].split(maxsplit=4)[1:4]) if lines else ()
    claims = _claims(fields) if fields else None
    if claims is None:
        raise RecordError(record_id, "bad_header", f"record line {lines[0][:80]!r}" if lines else "empty")
    return claims


def _refuse_claims(n_samples: int, n_signals: int, record_id: str) -> None:
    if n_signals > MAX_SIGNALS or n_samples * n_signals > MAX_VALUES:
        raise RecordError(record_id, "too_large", f"{n_signals} signals of {n_samples:.7g} samples")


def _refuse_outside(names: Iterable[str], record_id: str) -> None:
    """Signal and segment files stand beside their header; a path that leaves the folder is never followed."""
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name in ("..", "."):
            raise RecordError(record_id, "unsafe_path", repr(name[:80]))


def _beside(base: str, name: str) -> str:
    return f"{base[: base.rfind(os.sep) + 1]}{name}"


def _size(path: str, name: str, record_id: str) -> int:
    try:
        state = os.stat(path)  # noqa: PTH116 a Path costs more than this
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", name[:80]) from None
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{name[:80]}: {_one_line(error)}") from None
    if not stat.S_ISREG(state.st_mode):
        raise RecordError(record_id, "bad_signal", f"{name[:80]}: not a file")
    return state.st_size


# --- plain headers ----------------------------------------------------------------------------------------------


def _parse_plain(lines: list[str], sha256: str) -> Header | None:
    """Columns, not lines: a million headers have twelve million signal lines that say much the same."""
    fields = lines[0].split(maxsplit=4) if lines else ()
    claims = _claims(tuple(fields[1:4])) if len(fields) > 3 and "/" not in fields[0] else None
    if claims is None or not claims.n_frames or not 0 < claims.n_signals == len(lines) - 1 <= MAX_SIGNALS:
        return None
    rows: list[Sequence[str | None]] = [line.split(None, _N_FIELDS - 1) for line in lines[1:]]
    if any(len(row) != _N_FIELDS for row in rows):
        rows = [(*row, *(None,) * (_N_FIELDS - len(row))) for row in rows]
    files, forms, gain_fields, resolutions, zeros, initials, sums, blocks, names = zip(*rows, strict=True)
    if files.count(files[0]) != len(files):
        return None
    layout = _plain_layout(forms, gain_fields, resolutions, zeros, blocks, names)
    stated = _pack(initials, sums)
    if layout is None or stated is None:
        return None
    return Header(claims.frame_hz, claims.n_frames, layout.names, True, layout, (files[0],), stated, sha256)


@lru_cache(maxsize=4096)
def _plain_layout(
    forms: tuple[str | None, ...],
    gain_fields: tuple[str | None, ...],
    resolutions: tuple[str | None, ...],
    zeros: tuple[str | None, ...],
    blocks: tuple[str | None, ...],
    names: tuple[str | None, ...],
) -> SignalLayout | None:
    matches = [_PLAIN_FORM.fullmatch(form or "") for form in forms]
    offsets = {match and int((match[1] or "0")[:18]) for match in matches}
    scales = [_stated_scale(gain, zero) for gain, zero in zip(gain_fields, zeros, strict=True)]
    others_are_integers = all(field is None or _INTEGER.fullmatch(field) for field in (*resolutions, *blocks))
    if len(offsets) != 1 or None in offsets or None in scales or not others_are_integers:
        return None
    n_signals = len(forms)
    gain_values, baselines, units = zip(*(scale for scale in scales if scale is not None), strict=True)
    return _shared_layout(
        tuple(name or f"signal {i}" for i, name in enumerate(names)),
        gain_values,
        baselines,
        units,
        tuple(offset for offset in offsets if offset is not None) * n_signals,
        ("16",) * n_signals,
        (1,) * n_signals,
        (0,) * n_signals,
        (0,) * n_signals,
        False,
    )


def _stated_scale(gain_field: str | None, zero: str | None) -> tuple[float, int, str] | None:
    """Gain, baseline and unit from the fields ``gain(baseline)/unit`` and ADC zero; None where they aren't that."""
    match = _GAIN.fullmatch(gain_field) if gain_field is not None else None
    if (gain_field is not None and match is None) or (zero is not None and not _INTEGER.fullmatch(zero)):
        return None
    gain, baseline, unit = match.groups() if match is not None else (None, None, None)
    level = baseline or zero or "0"
    if len(level) > 18 or not -(2**31) <= int(level) < 2**31:
        return None
    # WFDB's manual takes 200 units per mV for a gain left out; a gain that is stated as 0 stays 0.
    return (_DEFAULT_GAIN if gain is None else float(gain)), int(level), unit or _DEFAULT_UNIT


def _pack(initials: Iterable[Any], sums: Iterable[Any]) -> bytes | None:
    """Initial values and checksums as int32; None where one is no such number."""
    values = (*initials, *sums)
    try:
        return array("i", [_NONE if value is None else int(value) for value in values]).tobytes()
    except (ValueError, OverflowError):
        return None


# --- headers that are not plain ---------------------------------------------------------------------------------


def _wfdb_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    claims = _read_claims(lines, record_id)
    layout, files, stated = _wfdb_layout(base, lines, claims, record_id)
    if "~" in files:
        raise RecordError(record_id, "no_samples", "a layout header, which only says what segments may hold")
    n_frames = _inferred_frames(base, layout, files, record_id) if claims.n_frames is None else claims.n_frames
    if n_frames == 0:
        raise RecordError(record_id, "no_samples", "the header or its signal file says 0 samples")
    samples_per_frame = _fastest([layout])
    values = n_frames * max(sum(layout.samples_per_frame), samples_per_frame * claims.n_signals)
    _refuse_claims(values, 1, record_id)
    if max(layout.skews) >= n_frames:
        raise RecordError(record_id, "bad_header", f"a skew of {max(layout.skews)} in {n_frames} samples")
    for number, name in enumerate(files):
        found = _frames_in(base, layout, number, name, record_id)
        if found is not None and found < n_frames:
            raise RecordError(record_id, "truncated", f"{name}: {found} of {n_frames} samples")
    return Header(
        fs_hz=claims.frame_hz * samples_per_frame,
        n_samples=n_frames * samples_per_frame,
        lead_names=layout.names,
        plain=False,
        layout=layout,
        files=files,
        stated=stated,
        sha256=sha256,
        samples_per_frame=samples_per_frame,
    )


def _wfdb_layout(
    base: str, lines: list[str], claims: _Claims, record_id: str
) -> tuple[SignalLayout, tuple[str, ...], bytes]:
    """What wfdb makes of the signal lines, with what their fields say where they are plainly to be understood.

    wfdb drops every byte that isn't ASCII, so that µV become V, and takes a gain of 0 for 200.
    """
    _refuse_claims(claims.n_frames or 0, claims.n_signals, record_id)
    if not 0 < claims.n_signals == len(lines) - 1:
        raise RecordError(record_id, "bad_header", f"{len(lines) - 1} signal lines for {claims.n_signals} signals")
    _refuse_outside((line.split(maxsplit=1)[0] for line in lines[1:]), record_id)
    header = _rdheader(base, lines, record_id)
    fields = [_signal_fields(line) for line in lines[1:]]
    files = tuple(dict.fromkeys(header.file_name))
    file_numbers = tuple(files.index(name) for name in header.file_name)
    scales, stated = [], []
    for i, own in enumerate(fields):
        scale, initial, total, name = own or (None, header.init_value[i], header.checksum[i], header.sig_name[i])
        unit, gain = str(header.units[i]), float(header.adc_gain[i])
        scales.append((*(scale or (gain, int(header.baseline[i] or 0), unit)), name or f"signal {i}"))
        stated.append((initial, total))
    gain_values, baselines, units, names = zip(*scales, strict=True)
    samples_per_frame = tuple(1 if n is None else int(n) for n in header.samps_per_frame)
    packed = _pack(*zip(*stated, strict=True))
    if packed is None or not all(-(2**31) <= baseline < 2**31 for baseline in baselines):
        raise RecordError(record_id, "bad_header", "a baseline, initial value or checksum of more than 32 bits")
    if 0 in samples_per_frame:
        raise RecordError(record_id, "bad_header", "a signal of 0 samples per frame")
    if max(samples_per_frame) > MAX_SAMPLES_PER_FRAME:
        raise RecordError(record_id, "too_large", f"{max(samples_per_frame)} samples per frame")
    formats = tuple(str(fmt) for fmt in header.fmt)
    skews = tuple(int(skew or 0) for skew in header.skew)
    offsets = tuple(int(offset or 0) for offset in header.byte_offset)
    whole = "8" in formats or claims.n_frames is None
    layout = _shared_layout(
        names, gain_values, baselines, units, offsets, formats, samples_per_frame, skews, file_numbers, whole
    )
    return layout, files, packed


def _rdheader(base: str, lines: list[str], record_id: str) -> Any:
    wfdb = need("wfdb", "ingest")
    # wfdb's patterns take a time that grows with the square of a line's length.
    if any(len(line) > MAX_LINE for line in lines):
        raise RecordError(record_id, "bad_header", f"a line of more than {MAX_LINE} characters")
    try:
        header = wfdb.rdheader(base)
    except FileNotFoundError as error:
        raise RecordError(record_id, "missing_header", Path(str(error.filename)).name) from None
    except Exception as error:  # wfdb raises whatever its parsing meets: every kind means "not understood"
        raise RecordError(record_id, "bad_header", _one_line(error)) from None
    if isinstance(header, wfdb.MultiRecord) or len(header.file_name or ()) != len(lines) - 1:
        raise RecordError(record_id, "bad_header", "wfdb reads another number of signals")
    if header.n_sig != len(lines) - 1 or not all(header.file_name):
        raise RecordError(record_id, "bad_header", "a signal without a file")
    return header


def _signal_fields(line: str) -> tuple[tuple[float, int, str], str | None, str | None, str | None] | None:
    """Scale, initial value, checksum and name of a signal line whose fields are all what they should be."""
    row: list[str | None] = [*line.split(None, _N_FIELDS - 1)]
    row += [None] * (_N_FIELDS - len(row))
    _, _, gain_field, resolution, zero, initial, total, block, name = row
    scale = _stated_scale(gain_field, zero)
    numbers = (resolution, initial, total, block)
    if scale is None or not all(field is None or _INTEGER.fullmatch(field) for field in numbers):
        return None
    return scale, initial, total, name


def _fastest(layouts: Sequence[SignalLayout]) -> int:
    """Samples per frame of the fastest voltage; of the fastest signal where none is a voltage."""
    every = [pair for one in layouts for pair in zip(one.samples_per_frame, one.units, strict=True)]
    return max([n for n, unit in every if unit.lower() in MV_PER_UNIT] or [n for n, _ in every])


def _inferred_frames(base: str, layout: SignalLayout, files: tuple[str, ...], record_id: str) -> int:
    """Number of frames where the header leaves it out: as many as are in its first file, as wfdb has it."""
    found = _frames_in(base, layout, 0, files[0], record_id)
    if found is None or layout.formats[0] in _FLAC:
        raise RecordError(record_id, "bad_header", "no length, which wfdb doesn't find out of a FLAC file")
    return found


def _frames_in(base: str, layout: SignalLayout, number: int, name: str, record_id: str) -> int | None:
    """How many frames there are in a signal file; None where a FLAC file doesn't say."""
    path = _beside(base, name)
    size = _size(path, name, record_id)
    rows = [i for i, file_number in enumerate(layout.file_numbers) if file_number == number]
    formats, per_frame = {layout.formats[i] for i in rows}, sum(layout.samples_per_frame[i] for i in rows)
    (fmt, *others), offset = formats, layout.byte_offsets[rows[0]]
    if others or fmt not in (*_BYTES_PER_SAMPLES, *_FLAC):
        raise RecordError(record_id, "bad_header", f"{name}: format {'/'.join(sorted(formats))}"[:80])
    if fmt in _FLAC:
        n_samples = _flac_samples(path, name, record_id)
        return None if n_samples == 0 else max(0, n_samples - offset) // layout.samples_per_frame[rows[0]]
    n_bytes, n_samples = _BYTES_PER_SAMPLES[fmt]
    return max(0, size - offset) * n_samples // (n_bytes * per_frame)


def _flac_samples(path: str, name: str, record_id: str) -> int:
    """Samples per channel that a FLAC file states in its first block (0: not known), which is where they stand."""
    with _open(path, name, record_id) as file:
        start = file.read(26) or b""
    if len(start) < 26 or start[:4] != b"fLaC" or start[4] & 0x7F != 0:
        raise RecordError(record_id, "bad_signal", f"{name}: not a FLAC file")
    return int.from_bytes(start[21:26], "big") & (2**36 - 1)


def _segments_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    """A record of several segments: each is a record of its own, and is read and verified as one."""
    claims = _read_claims(lines, record_id)
    count = lines[0].split(maxsplit=1)[0].partition("/")[2]
    if not _DIGITS.fullmatch(count) or _capped(count) != len(lines) - 1 or len(lines) == 1:
        raise RecordError(record_id, "bad_header", f"{len(lines) - 1} segments for {count[:40]!r}")
    if len(lines) - 1 > MAX_SEGMENTS:
        raise RecordError(record_id, "too_large", f"{len(lines) - 1} segments")
    _refuse_claims(claims.n_frames or 0, claims.n_signals, record_id)
    places = [_segment_line(line, record_id) for line in lines[1:]]
    _refuse_outside((name for name, _ in places), record_id)
    n_frames = sum(n for _, n in places)
    if claims.n_frames not in (None, n_frames) or n_frames == 0:
        raise RecordError(record_id, "bad_header", f"segments of {n_frames} samples for {claims.n_frames}")
    # A layout header, of no samples, goes before segments that don't all have the same signals.
    layout = _layout_segment(base, places[0][0], record_id) if places[0][1] == 0 else None
    headers: dict[str, Header] = {}
    segments = []
    for name, n in places if layout is None else places[1:]:
        if name == "~" or n == 0:
            segments.append(Segment(name, n, None, ()))
            continue
        if name not in headers:
            headers[name] = _segment_header(base, name, claims.frame_hz, record_id)
        header = headers[name]
        if header.n_samples < n * header.samples_per_frame:
            raise RecordError(record_id, "truncated", f"segment {name}: fewer than {n} samples")
        if layout is None and len(header.lead_names) != claims.n_signals:
            raise RecordError(record_id, "bad_header", f"segment {name}: {len(header.lead_names)} signals")
        names, its = (layout or header.layout).names, header.lead_names
        rows = range(len(its)) if layout is None else (its.index(one) if one in its else -1 for one in names)
        segments.append(Segment(name, n, header, tuple(rows)))
    if not headers:
        raise RecordError(record_id, "no_samples", "every segment is a gap")
    common = layout or next(iter(headers.values())).layout
    if len(common.names) != claims.n_signals:
        raise RecordError(record_id, "bad_header", f"{len(common.names)} of {claims.n_signals} signals")
    samples_per_frame = _fastest([common, *(header.layout for header in headers.values())])
    _refuse_claims(n_frames * samples_per_frame, claims.n_signals, record_id)
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
    )


def segment_names(path: Path) -> tuple[str, ...]:
    """The segments, layout included, that the header ``path.hea`` names; none if it isn't a record of several."""
    try:
        lines = _lines(_decode(_header_content(f"{path}.hea", path.name)))
    except RecordError:
        return ()
    if not lines or "/" not in lines[0].split(maxsplit=1)[0]:
        return ()
    return tuple(line.split(maxsplit=1)[0] for line in lines[1:])


def _segment_line(line: str, record_id: str) -> tuple[str, int]:
    name, count = (*line.split(), "")[:2]
    if not _DIGITS.fullmatch(count):
        raise RecordError(record_id, "bad_header", f"segment line {line[:80]!r}")
    return name, _capped(count)


def _segment_lines(base: str, name: str, record_id: str) -> tuple[str, list[str], str]:
    path = _beside(base, name)
    content = _header_content(f"{path}.hea", record_id)
    lines = _lines(_decode(content))
    if lines and "/" in lines[0].split(maxsplit=1)[0]:
        raise RecordError(record_id, "bad_header", f"segment {name[:80]} has segments itself")
    return path, lines, hashlib.sha256(content).hexdigest()


def _segment_header(base: str, name: str, frame_hz: float, record_id: str) -> Header:
    path, lines, sha256 = _segment_lines(base, name, record_id)
    header = _single_header(path, lines, sha256, record_id)
    own_hz = header.fs_hz / header.samples_per_frame
    if not math.isclose(own_hz, frame_hz, rel_tol=1e-6):
        raise RecordError(record_id, "bad_header", f"segment {name}: {own_hz:g} Hz for {frame_hz:g} Hz")
    return header


def _layout_segment(base: str, name: str, record_id: str) -> SignalLayout:
    path, lines, _ = _segment_lines(base, name, record_id)
    return _wfdb_layout(path, lines, _read_claims(lines, record_id), record_id)[0]


# --- samples: whole records --------------------------------------------------------------------------------------


def read_signal(path: Path, header: Header, record_id: str) -> RawSignal:
    """Read all samples of the record at ``path`` (without suffix), in the header's signal order.

    Raises RecordError: missing_signal, truncated, bad_checksum, bad_initial_value, bad_signal, no_samples.
    """
    (outcome,) = read_signals([(path, header, record_id)])
    if isinstance(outcome, RecordError):
        raise outcome
    return outcome


def read_signals(records: Sequence[tuple[Path, Header, str]]) -> list[RawSignal | RecordError]:
    """:func:`read_signal` for several records; one that can't be read gives its error instead.

    Plain records of one shape are decoded together: what a record costs is not arithmetic but calls, each of
    which lets go of the interpreter and must win it back from the other threads.
    """
    outcomes: list[RawSignal | RecordError | None] = [None] * len(records)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (path, header, record_id) in enumerate(records):
        if header.plain:
            alike.setdefault((header.n_samples, len(header.lead_names)), []).append(i)
            continue
        try:
            reader = PieceReader(path, header, record_id)
            signal_mv_lt = reader.read(0, header.n_samples)
            outcomes[i] = RawSignal(signal_mv_lt, *reader.finish())
        except RecordError as error:
            outcomes[i] = error
    for indices in alike.values():
        for i, outcome in zip(indices, _read_plain([records[i] for i in indices]), strict=True):
            outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def read_native_counts(path: Path, header: Header, record_id: str) -> NativeCounts:
    """Read all samples as the converter gave them, and what makes millivolts of them.

    Raises RecordError: what :func:`read_signal` raises; not_16_bit where a voltage has counts beyond ±32767;
    bad_gain where the segments of a record have different gains, so that its counts have no common meaning.
    """
    reader = PieceReader(path, header, record_id)
    counts_lt = reader.read_counts(0, header.n_samples)
    source_crc32, warnings = reader.finish()
    gain_per_mv_l, baseline_l = _native_scale(header, record_id)
    out_lt = np.empty(counts_lt.shape, dtype=np.int16)
    for row, counts_t in enumerate(counts_lt):
        is_out_t = (counts_t <= INVALID_16) | (counts_t > -INVALID_16 - 1)
        if is_out_t.any():
            if not math.isnan(gain_per_mv_l[row]) and (is_out_t & (counts_t != NOT_RECORDED)).any():
                detail = f"{header.lead_names[row]}: {counts_t[is_out_t & (counts_t != NOT_RECORDED)][0]}"
                raise RecordError(record_id, "not_16_bit", detail)
            counts_t = np.where(is_out_t, INVALID_16, counts_t)
        out_lt[row] = counts_t
    return NativeCounts(out_lt, np.array(gain_per_mv_l), np.array(baseline_l, dtype=np.int32), source_crc32, warnings)


def read_counts(path: Path) -> tuple[npt.NDArray[np.float32], float, tuple[str, ...]]:
    """Read a record's counts whatever its units and gains: float32 (signals, samples), NaN = not recorded; the
    rate in Hz; the signals' names. For noise, which has a shape but no millivolts.

    Raises RecordError as :func:`read_header` and :func:`read_signal` do.
    """
    header = read_header(path, path.name)
    reader = PieceReader(path, header, path.name)
    counts_lt = reader.read_counts(0, header.n_samples)
    reader.finish()
    counts_or_nan_lt = counts_lt.astype(np.float32)
    counts_or_nan_lt[counts_lt == NOT_RECORDED] = np.nan
    return counts_or_nan_lt, header.fs_hz, header.lead_names


def _native_scale(header: Header, record_id: str) -> tuple[list[float], list[int]]:
    """Counts per mV and baselines, which all segments must share; a signal that is in none keeps the layout's."""
    own = _scale(header.layout)
    scales = list(zip(own.gain_per_mv, own.baselines, strict=True))
    seen: set[int] = set()
    for segment in header.segments:
        for row, its_row in enumerate(segment.rows):
            if its_row < 0 or segment.header is None:
                continue
            its = _scale(segment.header.layout)
            found = its.gain_per_mv[its_row], its.baselines[its_row]
            both_unusable = math.isnan(found[0]) and math.isnan(scales[row][0])
            if row in seen and found != scales[row] and not both_unusable:
                detail = f"{header.lead_names[row]}: gain or baseline differs between segments"
                raise RecordError(record_id, "bad_gain", detail)
            scales[row] = found
            seen.add(row)
    return [gain_per_mv for gain_per_mv, _ in scales], [baseline for _, baseline in scales]


def _read_plain(records: Sequence[tuple[Path, Header, str]]) -> list[RawSignal | RecordError]:
    """Plain records of one shape: files → counts (records, leads, samples) → verified → millivolts."""
    _, first, _ = records[0]
    n_signals = len(first.lead_names)
    counts_btl = np.empty((len(records), first.n_samples, n_signals), dtype="<i2")
    outcomes: list[RawSignal | RecordError | None] = [None] * len(records)
    source_crc32s = [0] * len(records)
    for i, (path, header, record_id) in enumerate(records):
        try:
            source_crc32s[i] = _read_plain_file(os.fspath(path), header, record_id, counts_btl[i])
        except RecordError as error:
            outcomes[i] = error
            counts_btl[i] = 0
    # One transpose here, so that every later step runs along contiguous samples.
    counts_blt = np.ascontiguousarray(counts_btl.transpose(0, 2, 1))
    # Unsigned 16-bit arithmetic wraps around just as the checksum does.
    sums_bl = counts_blt.view(np.uint16).sum(axis=2, dtype=np.uint16)
    stated_b2l = np.frombuffer(b"".join(header.stated for _, header, _ in records), np.int32)
    is_right_b = _agree(stated_b2l.reshape(-1, 2, n_signals), counts_blt[:, :, 0], sums_bl)
    signal_mv_blt = _plain_mv(counts_blt, [header.layout for _, header, _ in records])
    if counts_blt.min() == INVALID_16:
        invalid_blt = counts_blt == INVALID_16
        signal_mv_blt[invalid_blt] = np.nan
        for i in np.flatnonzero(invalid_blt.all(axis=(1, 2))).tolist():
            outcomes[i] = RecordError(records[i][2], "no_samples", "every sample is marked as not recorded")
    for i, (_, header, record_id) in enumerate(records):
        if outcomes[i] is None and not is_right_b[i]:
            outcomes[i] = _disagreement(header, counts_blt[i, :, 0].tolist(), sums_bl[i].tolist(), record_id)
        if outcomes[i] is None:
            outcomes[i] = RawSignal(signal_mv_blt[i], source_crc32s[i])
    return [outcome for outcome in outcomes if outcome is not None]


def _plain_mv(counts_blt: npt.NDArray[Any], layouts: Sequence[SignalLayout]) -> npt.NDArray[np.float32]:
    scales = [_scale(layout) for layout in layouts]
    mv_per_count_bl1 = np.array([scale.mv_per_count for scale in scales], dtype=np.float32)[:, :, None]
    baseline_bl1 = np.array([scale.baselines for scale in scales], dtype=np.float32)[:, :, None]
    signal_mv_blt: npt.NDArray[np.float32] = np.multiply(counts_blt, mv_per_count_bl1, dtype=np.float32)
    if baseline_bl1.any():
        signal_mv_blt -= baseline_bl1 * mv_per_count_bl1
    return signal_mv_blt


def _read_plain_file(base: str, header: Header, record_id: str, counts_tl: npt.NDArray[np.int16]) -> int:
    """Fill ``counts_tl`` (samples, leads) from the record's one signal file; returns the file's CRC-32."""
    name, offset = header.files[0], header.layout.byte_offsets[0]
    try:
        with _open(_beside(base, name), name, record_id) as file:
            crc = _crc32_of(file, offset) if offset else 0
            n_bytes = _fill(file, counts_tl.reshape(-1).view(np.uint8).data)
            crc = _crc32_of(file, None, zlib.crc32(counts_tl.data, crc))
    except OSError as error:
        raise RecordError(record_id, "bad_signal", f"{name}: {_one_line(error)}") from None
    if n_bytes < counts_tl.nbytes:
        whole = n_bytes // (2 * counts_tl.shape[1])
        raise RecordError(record_id, "truncated", f"{name}: {whole} of {header.n_samples} samples")
    return crc


def _open(path: str, name: str, record_id: str) -> FileIO:
    """Open a signal file, which is a file and nothing else: a pipe or a device might give samples for ever."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", name) from None
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{name}: {_one_line(error)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordError(record_id, "bad_signal", f"{name}: not a file")
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _fill(file: FileIO, view: memoryview) -> int:
    """Read until ``view`` is full or the file at its end: one call gives at most 2 GiB. Returns bytes read."""
    n_bytes = 0
    while n_bytes < len(view) and (got := file.readinto(view[n_bytes:])):
        n_bytes += got
    return n_bytes


def _crc32_of(file: FileIO, n_bytes: int | None, crc: int = 0) -> int:
    """Go on with a CRC-32 over the next ``n_bytes`` of a file, or all that is left of it."""
    while n_bytes is None or n_bytes > 0:
        block = file.read(_BLOCK_VALUES if n_bytes is None else min(n_bytes, _BLOCK_VALUES))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        n_bytes = None if n_bytes is None else n_bytes - len(block)
    return crc


class _Scale(NamedTuple):
    """Per signal mV per count and counts per mV, NaN where there is no telling, and the count that is 0 mV."""

    mv_per_count: tuple[float, ...]
    gain_per_mv: tuple[float, ...]
    baselines: tuple[int, ...]


@lru_cache(maxsize=4096)
def _scale(layout: SignalLayout) -> _Scale:
    mv_per_count = tuple(_mv_per_count(unit, gain) for unit, gain in zip(layout.units, layout.gains, strict=True))
    gain_per_mv = tuple(
        math.nan if math.isnan(its_mv) else gain / MV_PER_UNIT[unit.lower()]
        for its_mv, unit, gain in zip(mv_per_count, layout.units, layout.gains, strict=True)
    )
    return _Scale(mv_per_count, gain_per_mv, layout.baselines)


@lru_cache(maxsize=4096)
def _unusable(layout: SignalLayout) -> frozenset[int]:
    return frozenset(row for row, its_mv in enumerate(_scale(layout).mv_per_count) if math.isnan(its_mv))


def _mv_per_count(unit: str, gain: float) -> float:
    mv_per_unit = MV_PER_UNIT.get(unit.lower())
    # WFDB reads gain 0 as "uncalibrated": any number of millivolts made from it would be invented.
    if mv_per_unit is None or not math.isfinite(gain) or gain <= 0:
        return math.nan
    mv_per_count = mv_per_unit / gain if gain > mv_per_unit / MAX_MV_PER_COUNT else math.inf
    return mv_per_count if MIN_MV_PER_COUNT <= mv_per_count <= MAX_MV_PER_COUNT else math.nan


def _agree(stated_b2l: npt.NDArray[Any], initial_bl: npt.NDArray[Any], sums_bl: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Per record whether first samples and sums are those that its header states, where it states any."""
    initial_right_bl = (stated_b2l[:, 0] == _NONE) | (stated_b2l[:, 0] == initial_bl)
    # Headers write the 16-bit checksum signed or unsigned, so both sides are taken modulo 2**16.
    sum_right_bl = (stated_b2l[:, 1] == _NONE) | ((stated_b2l[:, 1] - sums_bl.astype(np.int64)) % 65536 == 0)
    right_b: npt.NDArray[Any] = (initial_right_bl & sum_right_bl).all(axis=1)
    return right_b


def _disagreement(header: Header, initial_l: Sequence[int], sum_l: Sequence[int], record_id: str) -> RecordError | None:
    """What :func:`_agree` found wrong in one record, in words."""
    stated_2l = np.frombuffer(header.stated, dtype=np.int32).reshape(2, -1).tolist()
    for name, stated_initial, stated, initial, total in zip(
        header.lead_names, *stated_2l, initial_l, sum_l, strict=True
    ):
        if stated != _NONE and (total - stated) % 65536 != 0:
            return RecordError(record_id, "bad_checksum", f"{name}: header {stated % 65536}, samples {total % 65536}")
        if stated_initial not in (_NONE, initial):
            return RecordError(record_id, "bad_initial_value", f"{name}: header {stated_initial}, samples {initial}")
    return None


# --- samples: pieces ----------------------------------------------------------------------------------------------


def read_piece(path: Path, header: Header, record_id: str, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Samples ``start`` .. ``stop`` - 1 of a record, float32 (signals, samples) in mV, exactly as the whole has them.

    Nothing is verified; a :class:`PieceReader` is what verifies. Raises RecordError as :func:`read_signal` does.
    """
    return PieceReader(path, header, record_id).read(start, stop)


class PieceReader:
    """Read a long record piece by piece, and verify it as a whole.

    Pieces may overlap and come in any order; every sample counts once for the checksums. What no piece
    has covered is read by :meth:`finish`. Memory is bounded by the piece, except for format 8, whose samples are
    differences, and headers without a length: wfdb reads those records only as a whole.
    """

    def __init__(self, path: Path, header: Header, record_id: str) -> None:
        self._header, self._record_id = header, record_id
        base = os.fspath(path)
        self._source: _Files | _Segments = (_Segments if header.segments else _Files)(base, header, record_id)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples ``start`` .. ``stop`` - 1 as float32 (signals, samples) in mV, NaN = not recorded.

        Raises RecordError: missing_signal, truncated, bad_signal.
        """
        signal_mv_lt: npt.NDArray[np.float32] = self._frames(start, stop, self._source.millivolts)
        return signal_mv_lt

    def read_counts(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """The same samples as the converter gave them, int32, :data:`NOT_RECORDED` where there is none."""
        counts_lt: npt.NDArray[np.int32] = self._frames(start, stop, self._source.counts)
        return counts_lt

    def finish(self) -> tuple[int, tuple[str, ...]]:
        """Verify the record: its signal files' CRC-32, in the header's order, and warnings.

        Raises RecordError: bad_checksum, bad_initial_value, no_samples, and what :meth:`read` raises.
        """
        self._source.finish()
        if not self._source.any_recorded:
            raise RecordError(self._record_id, "no_samples", "every sample is marked as not recorded")
        return self._source.crc32(), ()

    def _frames(self, start: int, stop: int, read: Callable[[int, int, int], npt.NDArray[Any]]) -> Any:
        header, k = self._header, self._header.samples_per_frame
        if not 0 <= start <= stop <= header.n_samples:
            raise ValueError(f"no samples {start} to {stop} in {header.n_samples}")
        first = start // k
        return read(first, max(first, -(-stop // k)), k)[:, start - first * k : stop - first * k]


class _Files:
    """The signal files of one header. Frames in: counts or millivolts out; sums are kept of what came by in order."""

    def __init__(self, base: str, header: Header, record_id: str) -> None:
        self._base, self._header, self._record_id = base, header, record_id
        self.any_recorded = False
        self._n_frames = header.n_samples // header.samples_per_frame
        self._checked = 0
        self._initials = [0] * len(header.lead_names)
        self._sums = [0] * len(header.lead_names)
        self._crc = 0
        self._whole: list[npt.NDArray[Any]] | None = None

    def counts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.int32]:
        """Frames as int32 (signals, frames × ``per_frame``): skew undone, slower signals held."""
        layout = self._header.layout
        n = stop - start
        stored = self._stored(start, min(self._n_frames, stop + max(layout.skews)))
        out_lt = np.full((len(stored), n * per_frame), NOT_RECORDED, dtype=np.int32)
        for row, (counts_t, own, skew, fmt) in enumerate(
            zip(stored, layout.samples_per_frame, layout.skews, layout.formats, strict=True)
        ):
            counts_t = counts_t[skew * own : (skew + n) * own]
            if own != per_frame:
                counts_t = counts_t.reshape(-1, own)[:, np.arange(per_frame) * own // per_frame].reshape(-1)
            out_t = out_lt[row, : len(counts_t)]
            out_t[:] = counts_t
            if fmt in _INVALID:
                out_t[counts_t == _INVALID[fmt]] = NOT_RECORDED
        return out_lt

    def millivolts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.float32]:
        """The same in millivolts, NaN where nothing was recorded."""
        layout = self._header.layout
        counts_lt = self.counts(start, stop, per_frame)
        if self._header.plain:
            # To the last bit what reading the whole record gives, which works in float32.
            signal_mv_lt: npt.NDArray[np.float32] = _plain_mv(counts_lt[None], [layout])[0]
        else:
            signal_mv_lt = np.full(counts_lt.shape, np.nan, dtype=np.float32)
            usable = np.isfinite(_scale(layout).mv_per_count)
            for row in np.flatnonzero(usable).tolist():
                level_t = (counts_lt[row].astype(np.float64) - layout.baselines[row]) / layout.gains[row]
                signal_mv_lt[row] = level_t * MV_PER_UNIT[layout.units[row].lower()]
        signal_mv_lt[counts_lt == NOT_RECORDED] = np.nan
        return signal_mv_lt

    def finish(self) -> None:
        """Read what nobody has read yet, and compare the sums with the header's."""
        header = self._header
        step = max(1, _BLOCK_VALUES // sum(header.layout.samples_per_frame))
        while self._checked < self._n_frames:
            self._stored(self._checked, min(self._n_frames, self._checked + step))
        # First samples are compared in plain records alone: FLAC records of today state 0 whatever comes first.
        stated = np.frombuffer(header.stated, dtype=np.int32)[: len(self._sums)].tolist()
        initials = self._initials if header.plain else stated
        error = _disagreement(header, initials, self._sums, self._record_id)
        if error is not None:
            raise error

    def crc32(self) -> int:
        """CRC-32 over the signal files, one behind the other."""
        if self._header.plain:
            name = self._header.files[0]
            with _open(_beside(self._base, name), name, self._record_id) as file:
                file.seek(self._header.layout.byte_offsets[0] + 2 * self._n_frames * len(self._sums))
                return _crc32_of(file, None, self._crc)
        return _crc32_of_files(self._base, self._header.files, self._record_id)

    def _stored(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        """Frames as they stand in the files, per signal, added to the sums as far as they go on where these end."""
        layout = self._header.layout
        read = self._plain_frames if self._header.plain else self._wfdb_frames
        stored = read(start, stop) if stop > start else [np.empty(0, dtype=np.int16)] * len(self._sums)
        if start <= self._checked < stop:
            for row, (counts_t, own, fmt) in enumerate(
                zip(stored, layout.samples_per_frame, layout.formats, strict=True)
            ):
                new_t = counts_t[(self._checked - start) * own :]
                self._sums[row] = (self._sums[row] + int(new_t.sum(dtype=np.int64))) % 65536
                self.any_recorded = self.any_recorded or fmt not in _INVALID or bool((new_t != _INVALID[fmt]).any())
                if self._checked == 0:
                    self._initials[row] = int(new_t[0])
            self._checked = stop
        return stored

    def _plain_frames(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        name, offset = self._header.files[0], self._header.layout.byte_offsets[0]
        counts_tl = np.empty((stop - start, len(self._sums)), dtype="<i2")
        try:
            with _open(_beside(self._base, name), name, self._record_id) as file:
                if start == self._checked == 0:
                    self._crc = _crc32_of(file, offset)
                file.seek(offset + start * 2 * len(self._sums))
                n_bytes = _fill(file, counts_tl.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise RecordError(self._record_id, "bad_signal", f"{name}: {_one_line(error)}") from None
        if n_bytes < counts_tl.nbytes:
            raise RecordError(self._record_id, "truncated", f"{name}: ends before sample {stop}")
        if start <= self._checked < stop:
            self._crc = zlib.crc32(counts_tl[self._checked - start :].data, self._crc)
        return list(np.ascontiguousarray(counts_tl.T))

    def _wfdb_frames(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        layout = self._header.layout
        if not layout.whole:
            return self._rdrecord(start, stop)
        if self._whole is None:
            self._whole = self._rdrecord(0, self._n_frames)
        return [
            counts_t[start * own : stop * own]
            for counts_t, own in zip(self._whole, layout.samples_per_frame, strict=True)
        ]

    def _rdrecord(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        wfdb = need("wfdb", "ingest")
        header, record_id = self._header, self._record_id
        for number, name in enumerate(header.files):
            # Once more, because the header may have been read long ago: wfdb would wait for a pipe for ever.
            found = _frames_in(self._base, header.layout, number, name, record_id)
            if found is not None and found < stop:
                raise RecordError(record_id, "truncated", f"{name}: {found} of {self._n_frames} samples")
        # wfdb stumbles over the big-endian counts of format 61, so that these are made from its physical values:
        # exactly, because a double holds any count of 16 bits times any gain.
        physical = "61" in header.layout.formats
        try:
            # Skew is ignored here because checksums cover the samples as stored, before any realignment.
            record = wfdb.rdrecord(
                self._base,
                sampfrom=start,
                sampto=None if header.layout.whole else stop,
                physical=physical,
                smooth_frames=False,
                ignore_skew=True,
                return_res=64 if physical else 32,
            )
            stored = [np.asarray(counts_t) for counts_t in (record.e_p_signal if physical else record.e_d_signal)]
            if physical:
                stored = [
                    np.where(np.isnan(value_t), _INVALID.get(fmt, 0), np.rint(value_t * gain + baseline)).astype(
                        np.int64
                    )
                    for value_t, fmt, gain, baseline in zip(
                        stored, record.fmt, record.adc_gain, record.baseline, strict=True
                    )
                ]
        except FileNotFoundError as error:
            raise RecordError(record_id, "missing_signal", Path(str(error.filename)).name) from None
        except Exception as error:  # whatever wfdb's decoding meets means that the record can't be read
            raise RecordError(record_id, "bad_signal", _one_line(error)) from None
        expected = [(stop - start) * own for own in header.layout.samples_per_frame]
        if [len(counts_t) for counts_t in stored] != expected:
            raise RecordError(record_id, "bad_signal", "the signal files don't hold what the header says")
        return stored


class _Segments:
    """The segments of a record, each with files of its own; a gap, or a signal that a segment lacks, is unrecorded."""

    def __init__(self, base: str, header: Header, record_id: str) -> None:
        self._base, self._header, self._record_id = base, header, record_id
        self._starts = np.cumsum([0, *(segment.n_frames for segment in header.segments)]).tolist()
        # By name, so that a file named by thousands of segments is verified once.
        self._files: dict[str, _Files] = {}

    @property
    def any_recorded(self) -> bool:
        """Whether any segment holds a sample."""
        return any(files.any_recorded for files in self._files.values())

    def counts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.int32]:
        """As :meth:`_Files.counts`; segments may count differently."""
        out_lt = np.full((len(self._header.lead_names), (stop - start) * per_frame), NOT_RECORDED, dtype=np.int32)
        self._gather(out_lt, start, stop, per_frame, _Files.counts)
        return out_lt

    def millivolts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.float32]:
        """As :meth:`_Files.millivolts`, each segment by its own gains."""
        out_lt = np.full((len(self._header.lead_names), (stop - start) * per_frame), np.nan, dtype=np.float32)
        self._gather(out_lt, start, stop, per_frame, _Files.millivolts)
        return out_lt

    def finish(self) -> None:
        """Verify every segment."""
        for segment in self._header.segments:
            files = self._files_of(segment)
            if files is not None:
                files.finish()

    def crc32(self) -> int:
        """CRC-32 over the signal files of all segments, one behind the other."""
        return _crc32_of_files(self._base, self._header.files, self._record_id)

    def _files_of(self, segment: Segment) -> _Files | None:
        if segment.header is None:
            return None
        if segment.name not in self._files:
            self._files[segment.name] = _Files(_beside(self._base, segment.name), segment.header, self._record_id)
        return self._files[segment.name]

    def _gather(
        self, out_lt: npt.NDArray[Any], start: int, stop: int, per_frame: int, read: Callable[..., npt.NDArray[Any]]
    ) -> None:
        for i in range(bisect_right(self._starts, start) - 1, len(self._header.segments)):
            segment, begin, end = self._header.segments[i], self._starts[i], self._starts[i + 1]
            if begin >= stop:
                break
            files = self._files_of(segment)
            first, last = max(start, begin), min(stop, end)
            if files is None or first >= last:
                continue
            part_lt = read(files, first - begin, last - begin, per_frame)
            there = slice((first - start) * per_frame, (last - start) * per_frame)
            for row, its_row in enumerate(segment.rows):
                if its_row >= 0:
                    out_lt[row, there] = part_lt[its_row]


def _crc32_of_files(base: str, names: Iterable[str], record_id: str) -> int:
    crc = 0
    for name in names:
        with _open(_beside(base, name), name, record_id) as file:
            crc = _crc32_of(file, None, crc)
    return crc


# --- annotations --------------------------------------------------------------------------------------------------


def annotation_crc32(path: Path, annotator: str | None) -> int:
    """CRC-32 of the record's annotation file, 0 where there is none that may be read."""
    if annotator is None:
        return 0
    try:
        return _crc32_of_files(os.fspath(path), [f"{path.name}.{annotator}"], path.name)
    except RecordError:
        return 0


def read_beats(path: Path, annotator: str, record_id: str) -> tuple[tuple[Beat, ...], tuple[str, ...]]:
    """Read the annotations of ``path.annotator``, and warnings: a record is a record without them, too.

    Every annotation comes with its symbol, be it a beat or not. Times are by the annotation file's own rate,
    where it states one, else by the header's frames.
    """
    base, name = os.fspath(path), f"{path.name}.{annotator}"
    try:
        _refuse_outside((name,), record_id)
        if (size := _size(f"{base}.{annotator}", name, record_id)) > MAX_ANNOTATION_BYTES:
            raise RecordError(record_id, "too_large", f"{name}: {size} bytes")
        lines = _lines(_decode(_header_content(f"{base}.hea", record_id)))
        frame_hz = _read_claims(lines, record_id).frame_hz
        wfdb = need("wfdb", "ingest")
        if any(len(line) > MAX_LINE for line in lines):
            raise RecordError(record_id, "bad_header", f"a line of more than {MAX_LINE} characters")
        found = wfdb.rdann(base, annotator)
        # wfdb itself takes the rate from the header, if it can, but a date before the time stops it.
        rate_hz = float(found.fs or frame_hz)
        if not MIN_HZ <= rate_hz <= MAX_HZ:
            raise RecordError(record_id, "bad_signal", f"{name}: {rate_hz} Hz")
        pairs = zip(found.sample.tolist(), found.symbol, strict=True)
        beats = [Beat(sample / rate_hz, symbol) for sample, symbol in pairs if isinstance(symbol, str) and sample >= 0]
    except RecordError as error:
        detail = "there is no annotation file" if error.reason == "missing_signal" else error.detail
        return (), (f"no annotations: {detail}",)
    except Exception as error:  # wfdb raises whatever its decoding meets
        return (), (f"no annotations: {name}: {_one_line(error)}",)
    lost = len(found.sample) - len(beats)
    return tuple(beats), ((f"{lost} annotations of {name} have no time or symbol",) if lost else ())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
