"""One header file in, one :class:`Header` out: the plain way by our own parser, the others through wfdb."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.files import beside, import_wfdb, one_line, open_file, refuse_outside, size_of
from ecgstore.wfdb_io.header import MV_PER_UNIT, NOT_STATED, Header, SignalLayout, shared_layout

#: Headers that claim more than this are refused before anything is allocated: 24 h of 12 leads at 1 kHz is half.
MAX_VALUES = 2_000_000_000
MAX_SIGNALS = 256
MAX_SAMPLES_PER_FRAME = 10_000
MAX_LINE = 500
#: Samples per second that a heart may be recorded with: what lies outside is a broken header.
MIN_HZ, MAX_HZ = 1e-3, 1e7
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
_PLAIN_FORM = re.compile(r"16(?:x1)?(?::0)?(?:\+(\d+))?", re.ASCII)
_FREQUENCY = re.compile(r"(\d+\.?\d*(?:[eE][-+]?\d+)?)(?:/.*)?", re.ASCII)
DIGITS = re.compile(r"\d+", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_DEFAULT_GAIN, _DEFAULT_UNIT, _DEFAULT_HZ = 200.0, "mV", 250.0


def parse_plain(text: str) -> Header | None:
    """Parse a header that the plain way can serve; None where it holds anything else (wfdb decides then)."""
    return _parse_plain(content_lines(text), "")


def single_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    header = _parse_plain(lines, sha256)
    if header is None:
        return _wfdb_header(base, lines, sha256, record_id)
    name = header.files[0]
    refuse_outside(header.files, record_id)
    refuse_claims(header.n_samples, len(header.lead_names), record_id)
    size = size_of(beside(base, name), name, record_id)
    expected = header.layout.byte_offsets[0] + 2 * header.n_samples * len(header.lead_names)
    if size < expected:
        raise RecordError(record_id, "truncated", f"{name}: {size} of {expected} bytes")
    return header


def decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # latin-1 decodes any byte: comments of real headers hold every encoding there is.
        return content.decode("latin-1")


def content_lines(text: str) -> list[str]:
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
    if match is None or not DIGITS.fullmatch(n_signals) or not (n_frames == "" or DIGITS.fullmatch(n_frames)):
        return None
    frame_hz = float(match[1])
    if not MIN_HZ <= frame_hz <= MAX_HZ:
        return None
    return _Claims(capped(n_signals), frame_hz, capped(n_frames) if n_frames else None)


def capped(digits: str) -> int:
    # Python refuses to convert thousands of digits, and nobody needs to know a number of that size exactly.
    return int(digits) if len(digits) < 19 else 10**18


def read_claims(lines: list[str], record_id: str) -> _Claims:
    fields = tuple(lines[0].split(maxsplit=4)[1:4]) if lines else ()
    claims = _claims(fields) if fields else None
    if claims is None:
        raise RecordError(record_id, "bad_header", f"record line {lines[0][:80]!r}" if lines else "empty")
    return claims


def refuse_claims(n_samples: int, n_signals: int, record_id: str) -> None:
    if n_signals > MAX_SIGNALS or n_samples * n_signals > MAX_VALUES:
        raise RecordError(record_id, "too_large", f"{n_signals} signals of {n_samples:.7g} samples")


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
        return array("i", [NOT_STATED if value is None else int(value) for value in values]).tobytes()
    except (ValueError, OverflowError):
        return None


def _wfdb_header(base: str, lines: list[str], sha256: str, record_id: str) -> Header:
    claims = read_claims(lines, record_id)
    layout, files, stated = wfdb_layout(base, lines, claims, record_id)
    if "~" in files:
        raise RecordError(record_id, "no_samples", "a layout header, which only says what segments may hold")
    n_frames = _inferred_frames(base, layout, files, record_id) if claims.n_frames is None else claims.n_frames
    if n_frames == 0:
        raise RecordError(record_id, "no_samples", "the header or its signal file says 0 samples")
    samples_per_frame = fastest([layout])
    values = n_frames * max(sum(layout.samples_per_frame), samples_per_frame * claims.n_signals)
    refuse_claims(values, 1, record_id)
    if max(layout.skews) >= n_frames:
        raise RecordError(record_id, "bad_header", f"a skew of {max(layout.skews)} in {n_frames} samples")
    for number, name in enumerate(files):
        found = frames_in(base, layout, number, name, record_id)
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


def wfdb_layout(
    base: str, lines: list[str], claims: _Claims, record_id: str
) -> tuple[SignalLayout, tuple[str, ...], bytes]:
    """What wfdb makes of the signal lines, with what their fields say where they are plainly to be understood.

    wfdb drops every byte that isn't ASCII, so that µV become V, and takes a gain of 0 for 200.
    """
    refuse_claims(claims.n_frames or 0, claims.n_signals, record_id)
    if not 0 < claims.n_signals == len(lines) - 1:
        raise RecordError(record_id, "bad_header", f"{len(lines) - 1} signal lines for {claims.n_signals} signals")
    refuse_outside((line.split(maxsplit=1)[0] for line in lines[1:]), record_id)
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
    layout = shared_layout(
        names, gain_values, baselines, units, offsets, formats, samples_per_frame, skews, file_numbers, whole
    )
    return layout, files, packed


def _rdheader(base: str, lines: list[str], record_id: str) -> Any:
    wfdb = import_wfdb()
    # wfdb's patterns take a time that grows with the square of a line's length.
    if any(len(line) > MAX_LINE for line in lines):
        raise RecordError(record_id, "bad_header", f"a line of more than {MAX_LINE} characters")
    try:
        header = wfdb.rdheader(base)
    except FileNotFoundError as error:
        raise RecordError(record_id, "missing_header", Path(str(error.filename)).name) from None
    except Exception as error:  # wfdb raises whatever its parsing meets: every kind means "not understood"
        raise RecordError(record_id, "bad_header", one_line(error)) from None
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


def fastest(layouts: Sequence[SignalLayout]) -> int:
    """Samples per frame of the fastest voltage; of the fastest signal where none is a voltage."""
    every = [pair for one in layouts for pair in zip(one.samples_per_frame, one.units, strict=True)]
    return max([n for n, unit in every if unit.lower() in MV_PER_UNIT] or [n for n, _ in every])


def _inferred_frames(base: str, layout: SignalLayout, files: tuple[str, ...], record_id: str) -> int:
    """Number of frames where the header leaves it out: as many as are in its first file, as wfdb has it."""
    found = frames_in(base, layout, 0, files[0], record_id)
    if found is None or layout.formats[0] in _FLAC:
        raise RecordError(record_id, "bad_header", "no length, which wfdb doesn't find out of a FLAC file")
    return found


def frames_in(base: str, layout: SignalLayout, number: int, name: str, record_id: str) -> int | None:
    """How many frames there are in a signal file; None where a FLAC file doesn't say."""
    path = beside(base, name)
    size = size_of(path, name, record_id)
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
    with open_file(path, name, record_id) as file:
        start = file.read(26) or b""
    if len(start) < 26 or start[:4] != b"fLaC" or start[4] & 0x7F != 0:
        raise RecordError(record_id, "bad_signal", f"{name}: not a FLAC file")
    return int.from_bytes(start[21:26], "big") & (2**36 - 1)
