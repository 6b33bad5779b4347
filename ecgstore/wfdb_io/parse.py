"""One header file in, one :class:`Header` out, as header(5) of WFDB's manual has it.

Most headers go the quick way, column by column; what it doesn't understand is read line by line. wfdb parses no header:
it refuses dates that it doesn't know, drops what isn't ASCII and takes a gain of 0 for 200.
"""

from __future__ import annotations

import codecs
import math
import re
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.files import beside, open_file, refuse_outside, said_file, size_of
from ecgstore.wfdb_io.header import MOST_SHARED, MV_PER_UNIT, NOT_STATED, Header, SignalLayout, shared_layout

#: Headers that claim more values (samples times signals) than this are refused before anything is allocated: 24 h of 12
#: leads at 1 kHz is half.
MAX_VALUES = 2_000_000_000
MAX_SAMPLES_PER_FRAME = 10_000
#: Samples per second that a heart may be recorded with: what lies outside is a broken header. Edges are extended by
#: seconds, so that a rate of 10 MHz would ask for gigabytes.
MIN_HZ, MAX_HZ = 1e-3, 1e5
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

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# The fields of a signal line: file format[xSPF][:skew][+offset] gain[(baseline)][/unit] resolution zero initial
# checksum block description. Everything behind the format may be missing, from the right.
_N_FIELDS = 9
_GAIN = re.compile(rf"({_NUMBER})(?:\(([-+]?\d+)\))?(?:/(\S+))?", re.ASCII)
# The same where parts are missing, or the gain is no number of counts.
_ODD_GAIN = re.compile(rf"({_NUMBER}|[-+]?(?:nan|inf|infinity))?(?:\(([-+]?\d*)\))?(?:/(\S*))?", re.ASCII | re.I)
_PLAIN_FORM = re.compile(r"16(?:x1)?(?::0)?(?:\+(\d+))?", re.ASCII)
_FORM = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?", re.ASCII)
_FREQUENCY = re.compile(r"(\d+\.?\d*(?:[eE][-+]?\d+)?)(?:/.*)?", re.ASCII)
_TIME_OR_DATE = re.compile(r".*\d[:/].*", re.ASCII)
_SEGMENTS = re.compile(r"[^/]+/(\d*)", re.ASCII)
DIGITS = re.compile(r"\d+", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_ODD_INTEGER = re.compile(r"[-+]?\d+(?:\.0*)?", re.ASCII)
_LINE_END = re.compile(r"\r\n|\n|\r")
_DEFAULT_UNIT, _DEFAULT_HZ = "mV", 250.0


def parse_plain(text: str) -> Header | None:
    """Parse a header that the quick way can serve; None where it holds anything else."""
    return _parse_plain(content_lines(text), "")


def single_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    """The header of a record of one segment, whose files are as long as it says.

    ``lines`` are its lines without comments. Raises RecordError: bad_header, too_large, unsafe_path, missing_signal,
    bad_signal, truncated, no_samples.
    """
    header = _parse_plain(lines, sha256)
    if header is None:
        return _odd_header(base, lines, sha256, record_id)
    refuse_outside(header.files, "signal", record_id)
    refuse_claims(header.n_samples, len(header.lead_names), record_id)
    size = size_of(beside(base, header.files[0]), said_file(0), record_id)
    expected = header.layout.byte_offsets[0] + 2 * header.n_samples * len(header.lead_names)
    if size < expected:
        raise RecordError(record_id, "truncated", f"{said_file(0)}: {size} of {expected} bytes")
    return header


def decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Line by line, for the comment that is in another encoding says nothing of the units in the signal lines.
        return "\n".join(map(_decode_line, re.split(rb"[\r\n]", content.removeprefix(codecs.BOM_UTF8))))


def _decode_line(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        # latin-1 decodes any byte: comments of real headers hold every encoding there is.
        return content.decode("latin-1")


def text_lines(text: str) -> list[str]:
    """The lines of a header. Nothing but CR and LF ends one: comments hold form feeds, and 0x85 is an ellipsis."""
    return [line.strip() for line in (_LINE_END.split(text) if "\r" in text else text.split("\n"))]


def content_lines(text: str) -> list[str]:
    """The lines that say something: neither blank nor comment."""
    return [line for line in text_lines(text) if line and line[0] != "#"]


def segment_count(lines: list[str]) -> str | None:
    """What a record line states as its number of segments; None where the header is that of a single record.

    The name of a single record may hold a slash, too, and digits behind it: what decides is what the next line is.
    """
    match = _SEGMENTS.fullmatch(lines[0].split(maxsplit=1)[0]) if lines else None
    if match is None or not match[1] or (len(lines) > 1 and not _is_segment_line(lines[1])):
        return None
    return match[1]


def _is_segment_line(line: str) -> bool:
    fields = line.split()
    return len(fields) == 2 and DIGITS.fullmatch(fields[1]) is not None


class _Claims(NamedTuple):
    """What a record line says. ``n_frames`` is None where it isn't stated."""

    n_signals: int
    frame_hz: float
    n_frames: int | None


@lru_cache(maxsize=4096)
def _claims(fields: tuple[str, ...]) -> _Claims | str:
    """Understand the second to fourth field of a record line; or say which of them can't be understood.

    Base time and date, fields five and six, are not needed, so their many spellings can't hurt.
    """
    n_signals = fields[0] if fields else ""
    frequency = fields[1] if len(fields) > 1 else f"{_DEFAULT_HZ}"
    n_frames = fields[2] if len(fields) > 2 and not _TIME_OR_DATE.fullmatch(fields[2]) else "0"
    if not DIGITS.fullmatch(n_signals):
        return "the number of signals is no number"
    match = _FREQUENCY.fullmatch(frequency)
    if match is None or not MIN_HZ <= float(match[1]) <= MAX_HZ:
        return f"the sampling frequency is no number from {MIN_HZ:g} to {MAX_HZ:g} Hz"
    if not DIGITS.fullmatch(n_frames):
        return "the number of samples is no number"
    # A length of 0 is one that isn't stated.
    return _Claims(capped(n_signals), float(match[1]), capped(n_frames) or None)


def capped(digits: str) -> int:
    # Python refuses to convert thousands of digits, and nobody needs to know a number of that size exactly.
    return int(digits) if len(digits) < 19 else 10**18


def read_claims(lines: list[str], record_id: str) -> _Claims:
    """What the record line says. Raises RecordError: bad_header."""
    if not lines:
        raise RecordError(record_id, "bad_header", "empty")
    claims = _claims(tuple(lines[0].split(maxsplit=4)[1:4]))
    if isinstance(claims, str):
        raise RecordError(record_id, "bad_header", f"record line: {claims}")
    return claims


def refuse_claims(n_samples: int, n_signals: int, record_id: str) -> None:
    """Raise RecordError too_large for more than MAX_VALUES values."""
    if n_samples * n_signals > MAX_VALUES:
        detail = f"{n_signals} signals of {n_samples:.7g} samples; the limit is {MAX_VALUES} values"
        raise RecordError(record_id, "too_large", detail)


def _parse_plain(lines: list[str], sha256: str) -> Header | None:
    """Columns, not lines: a million headers have twelve million signal lines that say much the same."""
    fields = lines[0].split(maxsplit=4) if lines else ()
    claims = _claims(tuple(fields[1:4])) if len(fields) > 3 and "/" not in fields[0] else ""
    if isinstance(claims, str) or not claims.n_frames or not 0 < claims.n_signals == len(lines) - 1 <= MOST_SHARED:
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
    return shared_layout(
        tuple(name or f"signal {i}" for i, name in enumerate(names)),
        gain_values,
        baselines,
        units,
        tuple(offset for offset in offsets if offset is not None) * n_signals,
        ("16",) * n_signals,
        (1,) * n_signals,
        (0,) * n_signals,
        (0,) * n_signals,
    )


def _stated_scale(
    gain_field: str | None, zero: str | None, form: re.Pattern[str] = _GAIN
) -> tuple[float, int, str] | None:
    """Gain, baseline and unit from the fields ``gain(baseline)/unit`` and ADC zero; None where they aren't that."""
    match = form.fullmatch(gain_field) if gain_field is not None else None
    if (gain_field is not None and match is None) or (zero is not None and not _INTEGER.fullmatch(zero)):
        return None
    gain, baseline, unit = match.groups() if match is not None else (None, None, None)
    level = baseline or zero or "0"
    if len(level) > 18 or not -(2**31) <= int(level) < 2**31:
        return None
    # To WFDB's manual a gain that is left out and one of 0 are the same: the signal isn't calibrated. NaN, which is
    # unlike itself, would keep equal headers from being the same.
    counts_per_unit = float(gain or 0)
    return (math.inf if math.isnan(counts_per_unit) else counts_per_unit), int(level), unit or _DEFAULT_UNIT


def _pack(initials: Iterable[Any], sums: Iterable[Any]) -> bytes | None:
    """Initial values and checksums as int32; None where one is no such number."""
    try:
        values = (*initials, *sums)
        return array("i", [NOT_STATED if value is None else int(value) for value in values]).tobytes()
    except (ValueError, OverflowError):
        return None


def _odd_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    """A header line by line: other formats, several files, fields left out, a length that isn't stated."""
    claims = read_claims(lines, record_id)
    layout, files, stated, warnings = read_layout(lines, claims, record_id)
    if "~" in files:
        raise RecordError(record_id, "no_samples", "a layout header, which only says what segments may hold")
    found = frames_in(base, layout, files, record_id)
    n_frames = claims.n_frames if claims.n_frames is not None else found[0]
    if n_frames is None:
        raise RecordError(record_id, "bad_header", "neither the header nor its FLAC file states a length")
    if n_frames == 0:
        raise RecordError(record_id, "no_samples", "no length in the header, and an empty signal file")
    samples_per_frame = fastest([layout])
    values = n_frames * max(sum(layout.samples_per_frame), samples_per_frame * claims.n_signals)
    refuse_claims(-(-values // claims.n_signals), claims.n_signals, record_id)
    if max(layout.skews) >= n_frames:
        raise RecordError(record_id, "bad_header", f"a skew of {max(layout.skews)} in {n_frames} samples")
    for number, n_found in enumerate(found):
        if n_found is not None and n_found < n_frames:
            raise RecordError(record_id, "truncated", f"{said_file(number)}: {n_found} of {n_frames} samples")
    return Header(
        fs_hz=claims.frame_hz * samples_per_frame,
        n_samples=n_frames * samples_per_frame,
        lead_names=layout.names,
        plain=claims.n_frames is not None and _is_plain(layout),
        layout=layout,
        files=files,
        stated=stated,
        sha256=sha256,
        samples_per_frame=samples_per_frame,
        warnings=warnings,
    )


def _is_plain(layout: SignalLayout) -> bool:
    """Whether NumPy alone can read these signals: interleaved 16-bit samples of one file."""
    alike = {*layout.file_numbers} == {0} and len({*layout.byte_offsets}) == 1
    return alike and {*layout.formats} == {"16"} and {*layout.samples_per_frame} == {1} and not any(layout.skews)


def read_layout(
    lines: list[str], claims: _Claims, record_id: str
) -> tuple[SignalLayout, tuple[str, ...], bytes, tuple[str, ...]]:
    """Signal lines: their layout, the files they name, initial values and checksums as packed, and warnings.

    Raises RecordError: bad_header, too_large, unsafe_path.
    """
    n_signals = claims.n_signals
    refuse_claims(claims.n_frames or 0, n_signals, record_id)
    if not 0 < n_signals < len(lines):
        raise RecordError(record_id, "bad_header", f"{len(lines) - 1} signal lines for {n_signals} signals")
    rows = [_signal_fields(line, i, record_id) for i, line in enumerate(lines[1 : n_signals + 1])]
    names_of_files = [row.file for row in rows]
    refuse_outside(names_of_files, "signal", record_id)
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names_of_files))}
    checksums = [row.checksum for row in rows]
    packed = _pack([row.initial for row in rows], checksums)
    if packed is None:
        # Sums of long records that nobody cut to 16 bits. Initial values are not looked at.
        packed = _pack([None] * n_signals, map(_cut, checksums))
    if packed is None:
        raise RecordError(record_id, "bad_header", "a checksum of thousands of digits")
    gain_values, baselines, units = zip(*(row.scale for row in rows), strict=True)
    layout = shared_layout(
        tuple(row.name or f"signal {i}" for i, row in enumerate(rows)),
        gain_values,
        baselines,
        units,
        tuple(row.byte_offset for row in rows),
        tuple(row.form for row in rows),
        tuple(row.samples_per_frame for row in rows),
        tuple(row.skew for row in rows),
        tuple(number_of[name] for name in names_of_files),
    )
    return layout, tuple(number_of), packed, surplus(lines, n_signals, "signal")


def _cut(checksum: str | None) -> int | None:
    """A checksum as those 16 bits of it that are compared, None where there is none. Raises ValueError."""
    return None if checksum is None else int(checksum) % 65536


def surplus(lines: list[str], n_wanted: int, kind: str) -> tuple[str, ...]:
    """A warning of lines behind those that the record line counts, which WFDB disregards."""
    n_more = len(lines) - 1 - n_wanted
    return (f"{n_more} {kind} lines more than the record line states were disregarded",) if n_more > 0 else ()


class _SignalLine(NamedTuple):
    file: str
    form: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    scale: tuple[float, int, str]
    initial: str | None
    checksum: str | None
    name: str


def _signal_fields(line: str, number: int, record_id: str) -> _SignalLine:
    """The fields of one signal line. Where one is missing, what stands there is taken for the description."""
    file, form, rest = (*line.split(maxsplit=2), "", "")[:3]
    match = _FORM.fullmatch(form)
    # Format 0 is that of signals that stand in no file.
    if match is None or match[1] not in (*_BYTES_PER_SAMPLES, *_FLAC, *(("0",) if file == "~" else ())):
        raise RecordError(record_id, "bad_header", f"signal {number}: not a format of WFDB")
    samples_per_frame, skew, offset = capped(match[2] or "1"), capped(match[3] or "0"), capped(match[4] or "0")
    if samples_per_frame == 0:
        raise RecordError(record_id, "bad_header", f"signal {number}: 0 samples per frame")
    if samples_per_frame > MAX_SAMPLES_PER_FRAME:
        raise RecordError(record_id, "too_large", f"signal {number}: {samples_per_frame} samples per frame")
    gain, rest = _taken(rest, _ODD_GAIN)
    if gain is None and re.match(_NUMBER, rest):
        raise RecordError(record_id, "bad_header", f"signal {number}: the gain can't be understood")
    numbers: list[str | None] = []
    for _ in range(5):
        value, rest = _taken(rest, _ODD_INTEGER)
        numbers.append(value and value.partition(".")[0])
    _, zero, initial, checksum, _ = numbers
    scale = _stated_scale(gain, zero, _ODD_GAIN)
    if scale is None:
        raise RecordError(record_id, "bad_header", f"signal {number}: a baseline or ADC zero of more than 32 bits")
    return _SignalLine(file, match[1], samples_per_frame, skew, offset, scale, initial, checksum, rest)


def _taken(rest: str, form: re.Pattern[str]) -> tuple[str | None, str]:
    """The next field and what is behind it, if the field has this form; else None and all that is left."""
    field, behind = (*rest.split(maxsplit=1), "", "")[:2]
    return (field, behind) if field and form.fullmatch(field) else (None, rest)


def fastest(layouts: Sequence[SignalLayout]) -> int:
    """Samples per frame of the fastest voltage; of the fastest signal where none is a voltage."""
    every = [pair for one in layouts for pair in zip(one.samples_per_frame, one.units, strict=True)]
    return max([n for n, unit in every if unit.lower() in MV_PER_UNIT] or [n for n, _ in every])


def frames_in(base: str, layout: SignalLayout, files: Sequence[str], record_id: str) -> list[int | None]:
    """How many frames there are in each signal file; None where a FLAC file doesn't say."""
    rows_of: list[list[int]] = [[] for _ in files]
    for row, number in enumerate(layout.file_numbers):
        rows_of[number].append(row)
    return [_frames_in_file(beside(base, files[i]), layout, i, rows, record_id) for i, rows in enumerate(rows_of)]


def _frames_in_file(path: str, layout: SignalLayout, number: int, rows: list[int], record_id: str) -> int | None:
    size = size_of(path, said_file(number), record_id)
    formats, per_frame = {layout.formats[i] for i in rows}, sum(layout.samples_per_frame[i] for i in rows)
    (fmt, *others), offset = formats, layout.byte_offsets[rows[0]]
    if others:
        raise RecordError(record_id, "bad_header", f"{said_file(number)}: several formats")
    if fmt in _FLAC:
        n_samples = _flac_samples(path, number, record_id)
        return None if n_samples == 0 else max(0, n_samples - offset) // layout.samples_per_frame[rows[0]]
    n_bytes, n_samples = _BYTES_PER_SAMPLES[fmt]
    return max(0, size - offset) * n_samples // (n_bytes * per_frame)


def _flac_samples(path: str, number: int, record_id: str) -> int:
    """Samples per channel that a FLAC file states in its first block (0: not known), which is where they stand."""
    with open_file(path, said_file(number), record_id) as file:
        start = file.read(26) or b""
    if len(start) < 26 or start[:4] != b"fLaC" or start[4] & 0x7F != 0:
        raise RecordError(record_id, "bad_signal", f"{said_file(number)}: not a FLAC file")
    return int.from_bytes(start[21:26], "big") & (2**36 - 1)
