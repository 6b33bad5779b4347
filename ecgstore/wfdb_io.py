"""WFDB in: header and samples of one record, verified, in millivolts.

Two ways to the same numbers:

* the *plain* way, for records whose signals all stand in one file of format 16 (``.dat``, or MATLAB v4
  ``.mat`` written as ``16+24``): our own header parser and NumPy, because wfdb spends 80 % of a read on
  looking up header fields;
* everything else, and every header that the plain parser doesn't understand in full, goes to wfdb.

Only this file imports wfdb, and only here does the word "segment" mean what WFDB means by it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError, need

#: Millivolts per unit, by the unit's lower-case name (µ in both its Unicode spellings).
MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
#: WFDB's word for "no sample here" in format 16.
INVALID_16 = -32768
#: Headers that claim more than this are refused before anything is allocated: 24 h of 12 leads at 1 kHz is half.
MAX_VALUES = 2_000_000_000
MAX_SIGNALS = 256

# filename format[xSPF][:skew][+offset] gain[(baseline)][/units] resolution zero initial checksum block description
# One pattern for a whole line, and one call for all lines: a million headers have twelve million of them.
_NUMBER = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"
_SIGNAL_LINES = re.compile(
    r"^(\S+)[ \t]+16(?:x1)?(?:\+(\d+))?[ \t]+"
    rf"({_NUMBER})(?:\((-?\d+)\))?(?:/(\S+))?[ \t]+"
    r"-?\d+[ \t]+(-?\d+)[ \t]+(-?\d+)[ \t]+(-?\d+)[ \t]+-?\d+[ \t]+(\S.*)$",
    re.MULTILINE,
)
_FREQUENCY = re.compile(r"(\d+\.?\d*(?:[eE][-+]?\d+)?)(?:/.*)?")


class SignalLine(NamedTuple):
    """One signal line of a header, in WFDB's terms. ``checksum`` and ``initial`` are None where not stated.

    A tuple, because a million records have twelve million of them.
    """

    file_name: str
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    initial: int | None
    checksum: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. ``plain`` records are read by NumPy, the others by wfdb."""

    fs_hz: float
    n_samples: int
    lead_names: tuple[str, ...]
    plain: bool
    signals: tuple[SignalLine, ...] = ()
    files: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class RawSignal:
    """Samples as recorded: ``signal_mv_lt`` float32 (signals, samples) in mV, NaN = not recorded.

    ``source_crc32`` is over the bytes of the signal files, in the header's order.
    """

    signal_mv_lt: npt.NDArray[np.float32]
    source_crc32: int
    warnings: tuple[str, ...] = ()


def read_header(path: Path, record_id: str) -> Header:
    """Read ``path.hea``. ``path`` is the record's path without suffix.

    Raises RecordError: missing_header, bad_header, missing_signal, truncated, too_large, unsafe_path,
    bad_gain, unknown_unit. Nothing but the header and the signal files' sizes is looked at.
    """
    try:
        content = Path(f"{path}.hea").read_bytes()
    except FileNotFoundError:
        raise RecordError(record_id, "missing_header", f"{path.name}.hea") from None
    except OSError as error:
        raise RecordError(record_id, "bad_header", str(error)) from None
    text = _decode(content)
    header = parse_plain(text)
    if header is None:
        _refuse_outside((line.split(maxsplit=1)[0] for line in _lines(text)[1:]), record_id)
        header = _wfdb_header(path, text, record_id)
    else:
        _refuse_outside(header.files, record_id)
    if len(header.lead_names) > MAX_SIGNALS or header.n_samples * len(header.lead_names) > MAX_VALUES:
        claim = f"{len(header.lead_names)} signals of {header.n_samples} samples"
        raise RecordError(record_id, "too_large", claim)
    for line in {(line.gain, line.unit): line for line in header.signals}.values():
        _mv_per_count(line, record_id)  # refuses a gain or unit that no millivolts can be made from
    _check_files(path, header, record_id)
    return replace(header, sha256=hashlib.sha256(content).hexdigest())


def _lines(text: str) -> list[str]:
    """The lines that say something: neither blank nor comment."""
    return [line for raw in text.splitlines() if (line := raw.strip()) and not line.startswith("#")]


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        # latin-1 decodes any byte: comments of real headers hold every encoding there is.
        return content.decode("latin-1")


def parse_plain(text: str) -> Header | None:
    """Parse a header that the plain way can serve; None where it holds anything else (wfdb decides then)."""
    lines = _lines(text)
    fields = lines[0].split() if lines else []
    # Base time and date, fields five and six, are not needed, so their many spellings can't hurt:
    # Georgia's 2020 headers put the date first, and wfdb refuses them.
    if len(fields) < 4 or "/" in fields[0]:
        return None
    frequency = _FREQUENCY.fullmatch(fields[2])
    if frequency is None or not fields[1].isdecimal() or not fields[3].isdecimal():
        return None
    n_signals, fs_hz, n_samples = int(fields[1]), float(frequency[1]), int(fields[3])
    if n_signals == 0 or n_samples == 0 or fs_hz <= 0 or n_signals > MAX_SIGNALS or len(lines) != n_signals + 1:
        return None
    signals = tuple(
        SignalLine(
            file,
            int(offset or 0),
            float(gain),
            int(baseline or zero),
            unit or "mV",
            int(initial),
            int(checksum),
            name,
        )
        for file, offset, gain, baseline, unit, zero, initial, checksum, name in _SIGNAL_LINES.findall(
            "\n".join(lines[1:])
        )
    )
    if len(signals) != n_signals or len({(signal.file_name, signal.byte_offset) for signal in signals}) != 1:
        return None
    return Header(
        fs_hz=fs_hz,
        n_samples=n_samples,
        lead_names=tuple(signal.name for signal in signals),
        plain=True,
        signals=signals,
        files=(signals[0].file_name,),
    )


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
            alike.setdefault((header.n_samples, len(header.signals)), []).append(i)
            continue
        try:
            outcomes[i] = _read_wfdb(path, header, record_id)
        except RecordError as error:
            outcomes[i] = error
    for indices in alike.values():
        for i, outcome in zip(indices, _read_plain([records[i] for i in indices]), strict=True):
            outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _read_plain(records: Sequence[tuple[Path, Header, str]]) -> list[RawSignal | RecordError]:
    """Plain records of one shape: files → counts (records, leads, samples) → verified → millivolts."""
    _, first, _ = records[0]
    counts_btl = np.empty((len(records), first.n_samples, len(first.signals)), dtype="<i2")
    outcomes: list[RawSignal | RecordError | None] = [None] * len(records)
    source_crc32s = [0] * len(records)
    for i, (path, header, record_id) in enumerate(records):
        try:
            source_crc32s[i] = _read_counts(path, header, record_id, counts_btl[i])
        except RecordError as error:
            outcomes[i] = error
            counts_btl[i] = 0
    # One transpose here, so that every later step runs along contiguous samples.
    counts_blt = np.ascontiguousarray(counts_btl.transpose(0, 2, 1))
    # Unsigned 16-bit arithmetic wraps around just as the checksum does.
    sums_bl = counts_blt.view(np.uint16).sum(axis=2, dtype=np.uint16).tolist()
    initial_bl = counts_blt[:, :, 0].tolist()
    lines_bl = [header.signals for _, header, _ in records]
    mv_per_count_bl1 = np.array(
        [[[_mv_per_count(line, record_id)] for line in header.signals] for _, header, record_id in records],
        dtype=np.float32,
    )
    signal_mv_blt = np.multiply(counts_blt, mv_per_count_bl1, dtype=np.float32)
    baseline_bl1 = np.array([[[line.baseline] for line in lines] for lines in lines_bl], dtype=np.float32)
    if baseline_bl1.any():
        signal_mv_blt -= baseline_bl1 * mv_per_count_bl1
    if counts_blt.min() == INVALID_16:
        invalid_blt = counts_blt == INVALID_16
        signal_mv_blt[invalid_blt] = np.nan
        for i in np.flatnonzero(invalid_blt.all(axis=(1, 2))).tolist():
            outcomes[i] = RecordError(records[i][2], "no_samples", "every sample is marked as not recorded")
    for i, (_, header, record_id) in enumerate(records):
        if outcomes[i] is None:
            try:
                for line, initial, total in zip(header.signals, initial_bl[i], sums_bl[i], strict=True):
                    _check_line(line, initial, total, record_id)
                outcomes[i] = RawSignal(signal_mv_blt[i], source_crc32s[i])
            except RecordError as error:
                outcomes[i] = error
    return [outcome for outcome in outcomes if outcome is not None]


def _read_counts(path: Path, header: Header, record_id: str, counts_tl: npt.NDArray[np.int16]) -> int:
    """Fill ``counts_tl`` (samples, leads) from the record's one signal file; returns the file's CRC-32."""
    line = header.signals[0]
    try:
        with open(f"{path.parent}{os.sep}{line.file_name}", "rb", buffering=0) as file:  # noqa: PTH123 a Path costs more
            before = file.read(line.byte_offset)
            n_bytes = file.readinto(counts_tl.data)
            behind = file.read()
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", line.file_name) from None
    except OSError as error:
        raise RecordError(record_id, "bad_signal", f"{line.file_name}: {error}") from None
    if len(before) < line.byte_offset or n_bytes < counts_tl.nbytes:
        whole = n_bytes // (2 * counts_tl.shape[1])
        raise RecordError(record_id, "truncated", f"{line.file_name}: {whole} of {header.n_samples} samples")
    return zlib.crc32(behind, zlib.crc32(counts_tl.data, zlib.crc32(before)))


def _read_file(path: Path, name: str, record_id: str) -> bytes:
    try:
        return path.with_name(name).read_bytes()
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", name) from None
    except OSError as error:
        raise RecordError(record_id, "bad_signal", f"{name}: {error}") from None


def _check_line(line: SignalLine, initial: int, total: int, record_id: str) -> None:
    # Headers write the 16-bit checksum signed or unsigned, so both sides are taken modulo 2**16.
    if line.checksum is not None and (total - line.checksum) % 65536 != 0:
        stated, found = line.checksum % 65536, total % 65536
        raise RecordError(record_id, "bad_checksum", f"{line.name}: header {stated}, samples {found}")
    if line.initial is not None and initial != line.initial:
        raise RecordError(record_id, "bad_initial_value", f"{line.name}: header {line.initial}, samples {initial}")


def _mv_per_count(line: SignalLine, record_id: str) -> float:
    mv_per_unit = MV_PER_UNIT.get(line.unit.lower())
    if mv_per_unit is None:
        raise RecordError(record_id, "unknown_unit", f"{line.name}: {line.unit}")
    # WFDB reads gain 0 as "uncalibrated": any number of millivolts made from it would be invented.
    if not math.isfinite(line.gain) or line.gain <= 0:
        raise RecordError(record_id, "bad_gain", f"{line.name}: {line.gain:g}")
    return mv_per_unit / line.gain


def _refuse_outside(names: Iterable[str], record_id: str) -> None:
    """Signal and segment files stand beside their header; a path that leaves the folder is never followed."""
    for name in names:
        if "/" in name or "\\" in name or name == "..":
            raise RecordError(record_id, "unsafe_path", name[:80])


def _check_files(path: Path, header: Header, record_id: str) -> None:
    for name in header.files:
        try:
            size = os.stat(os.path.join(path.parent, name)).st_size  # noqa: PTH116, PTH118 a Path costs more than this
        except FileNotFoundError:
            raise RecordError(record_id, "missing_signal", name) from None
        except OSError as error:
            raise RecordError(record_id, "bad_signal", f"{name}: {error}") from None
        if header.plain:
            expected = header.signals[0].byte_offset + 2 * header.n_samples * len(header.signals)
            if size < expected:
                raise RecordError(record_id, "truncated", f"{name}: {size} of {expected} bytes")


# --- everything that is not plain ---------------------------------------------------------------------------


def _wfdb_header(path: Path, text: str, record_id: str) -> Header:
    wfdb = need("wfdb", "ingest")
    _refuse_record_line(text, record_id)
    try:
        header = wfdb.rdheader(str(path), rd_segments=True)
    except FileNotFoundError as error:
        raise RecordError(record_id, "missing_header", Path(str(error.filename)).name) from None
    except Exception as error:  # wfdb raises whatever its parsing meets: every kind means "not understood"
        raise RecordError(record_id, "bad_header", _one_line(error)) from None
    multi = isinstance(header, wfdb.MultiRecord)
    names = header.get_sig_name() if multi else header.sig_name
    files = () if multi else tuple(dict.fromkeys(header.file_name or ()))
    if not names or not header.fs:
        raise RecordError(record_id, "bad_header", "no signals or no sampling frequency")
    return Header(
        fs_hz=float(header.fs),
        n_samples=int(header.sig_len or _inferred_length(path, wfdb, record_id)),
        lead_names=tuple(str(name) if name else f"signal {i}" for i, name in enumerate(names)),
        plain=False,
        signals=() if multi else _signal_lines(header, names),
        files=tuple(str(name) for name in files if name != "~"),
    )


def _signal_lines(header: Any, names: list[str]) -> tuple[SignalLine, ...]:
    count = len(names)
    return tuple(
        SignalLine(
            file_name=str(header.file_name[i]),
            byte_offset=int((header.byte_offset or [0] * count)[i] or 0),
            gain=_stated_gain(header.adc_gain[i]),
            baseline=int(header.baseline[i] or 0),
            unit=str(header.units[i] or "mV"),
            initial=None,
            checksum=(header.checksum or [None] * count)[i],
            name=str(names[i]),
        )
        for i in range(count)
    )


def _stated_gain(gain: float | None) -> float:
    # The WFDB manual's default for a gain left out is 200 units per mV; a stated 0 stays 0 and is refused.
    return 200.0 if gain is None else float(gain)


def _inferred_length(path: Path, wfdb: Any, record_id: str) -> int:
    """Number of samples where the header leaves it out: wfdb infers it from the signal file."""
    return int(_rdrecord(path, wfdb, record_id, physical=True).sig_len)


def _refuse_record_line(text: str, record_id: str) -> None:
    """Refuse what wfdb would let pass: absurd claims, and a frequency it can't read and takes for 250 Hz."""
    lines = _lines(text)
    fields = lines[0].split() if lines else []
    if len(fields) < 2 or not fields[1].isdecimal():
        raise RecordError(record_id, "bad_header", " ".join(fields)[:80] or "empty")
    if len(fields) > 2 and _FREQUENCY.fullmatch(fields[2]) is None:
        raise RecordError(record_id, "bad_header", f"sampling frequency {fields[2][:40]!r}")
    claims = [int(field) for field in fields[1:4:2] if field.isdecimal()]
    if claims[0] > MAX_SIGNALS or math.prod(claims) > MAX_VALUES:
        raise RecordError(record_id, "too_large", " × ".join(map(str, claims)))


def _read_wfdb(path: Path, header: Header, record_id: str) -> RawSignal:
    wfdb = need("wfdb", "ingest")
    record = _rdrecord(path, wfdb, record_id, physical=True)
    signal_tl = record.p_signal
    if signal_tl is None or signal_tl.size == 0:
        raise RecordError(record_id, "no_samples", "the signal files hold none")
    if np.isnan(signal_tl).all():
        raise RecordError(record_id, "no_samples", "every sample is marked as not recorded")
    if signal_tl.shape[1] != len(header.lead_names):
        raise RecordError(record_id, "bad_signal", f"{signal_tl.shape[1]} of {len(header.lead_names)} signals")
    scale = [MV_PER_UNIT.get(str(unit).lower()) for unit in record.units]
    for name, unit, mv_per_unit in zip(record.sig_name, record.units, scale, strict=True):
        if mv_per_unit is None:
            raise RecordError(record_id, "unknown_unit", f"{name}: {unit}")
    signal_mv_lt = np.ascontiguousarray((signal_tl * np.array(scale, dtype=np.float64)).T, dtype=np.float32)
    warnings = _wfdb_checksums(path, wfdb, header, record_id)
    crc = 0
    for name in header.files:
        crc = zlib.crc32(_read_file(path, name, record_id), crc)
    return RawSignal(signal_mv_lt, crc, warnings)


def _wfdb_checksums(path: Path, wfdb: Any, header: Header, record_id: str) -> tuple[str, ...]:
    """Verify what wfdb itself does not: the sums of the samples as they stand in the file."""
    if not header.signals:
        return ("checksums of a multi-segment record are not verified",)
    try:
        # Skew is ignored here because a checksum covers the samples as stored, before any realignment.
        record = _rdrecord(path, wfdb, record_id, physical=False, smooth_frames=False, ignore_skew=True)
    except RecordError as error:
        return (f"checksums are not verified: {error.detail}",)
    for line, counts_t in zip(header.signals, record.e_d_signal, strict=True):
        _check_line(line, 0, int(np.asarray(counts_t).sum(dtype=np.int64)), record_id)
    return ()


def _rdrecord(path: Path, wfdb: Any, record_id: str, **options: Any) -> Any:
    try:
        return wfdb.rdrecord(str(path), **options)
    except FileNotFoundError as error:
        raise RecordError(record_id, "missing_signal", Path(str(error.filename)).name) from None
    except Exception as error:  # as above: whatever its decoding meets means that the record can't be read
        raise RecordError(record_id, "bad_signal", _one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
