"""Records that a source reads by itself, from CSV, NumPy or HDF5 files, say: what its reader gives is checked here.

A source that offers ``read_header`` and ``read_samples`` needs no WFDB files. Its headers become headers as those of
WFDB records, so that plan, shards and seal are the same; what its reader raises leaves out the one record.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ecgstore.errors import ConfigError, RecordError
from ecgstore.record import RecordRef, Rejection
from ecgstore.rooms import name_own_file, occupant, occupants, own_file_sha256
from ecgstore.settings import Settings, parse
from ecgstore.wfdb_io.files import BLOCK_VALUES, crc32_of, open_file, size_of
from ecgstore.wfdb_io.header import MV_PER_UNIT, NOT_RECORDED, NOT_STATED, Header, shared_layout
from ecgstore.wfdb_io.parse import MAX_HZ, MIN_HZ, refuse_claims
from ecgstore.wfdb_io.scale import plain_mv, scale_of

ROOM = "ecgstore.sources"
#: A record of more signals than this is none of an ECG.
MAX_SIGNALS = 1000
#: No heart gives more millivolts than this: what lies beyond is in another unit, or is no number of volts.
MAX_MV = 1e6
#: What a raw store keeps of samples that come without counts: steps of 1 µV.
VALUES_PER_MV = 1000.0
#: How a header says what its reader gives: values in the signals' units, or a converter's counts.
VALUES, COUNTS = "values", "counts"
#: Farther from a whole number of microvolts than this is not rounded without a word; float32 alone is nearer.
_WHOLE = 0.01


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _listed(value: Any) -> Any:
    """One value that is meant for every signal, in a tuple."""
    value = _plain(value)
    return (value,) if isinstance(value, str | int | float) else value


class RecordHeader(Settings):
    """What ``read_header`` of a source says of a record before its samples are read.

    ``fs_hz``: samples per second; ``n_samples``: of each lead. ``leads`` are the signals' names as the file has them;
    they are recognised as those of WFDB records are. Without ``gains``, ``read_samples`` gives values in ``units``;
    with them (counts per unit, 0 or NaN where it is not known), it gives a converter's counts, and value = (count -
    baseline) / gain. ``units``, ``gains`` and ``baselines`` have one entry per signal, or one for all. ``checksum`` is
    any text that is another one when the samples are others; it stands for them in the plan, for a source whose
    records don't have a file each.
    """

    fs_hz: Annotated[float, BeforeValidator(_plain)] = Field(ge=MIN_HZ, le=MAX_HZ, allow_inf_nan=False)
    n_samples: Annotated[int, BeforeValidator(_plain)] = Field(ge=0)
    leads: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], BeforeValidator(_plain)] = Field(
        min_length=1, max_length=MAX_SIGNALS
    )
    units: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], BeforeValidator(_listed)] = ("mV",)
    gains: Annotated[tuple[Annotated[float, Field(allow_inf_nan=True)], ...] | None, BeforeValidator(_listed)] = None
    baselines: Annotated[tuple[Annotated[int, Field(gt=-(2**31), lt=2**31)], ...], BeforeValidator(_listed)] = (0,)
    checksum: str = Field("", max_length=256)

    @model_validator(mode="after")
    def _one_for_each(self) -> RecordHeader:
        for name in ("units", "gains", "baselines"):
            value = getattr(self, name)
            if value is not None and len(value) not in (1, len(self.leads)):
                raise ValueError(f"{len(value)} {name} for {len(self.leads)} leads")
        return self


@dataclass(frozen=True, slots=True)
class OwnReader:
    """The reader of a source. It crosses process walls as the name of its file, never as code."""

    module: ModuleType
    settings: Settings
    name: str
    #: Of the source file; None of what stands in the room.
    sha256: str | None

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.name, self.sha256, self.settings.model_dump_json())

    def header(self, ref: RecordRef, has_file: bool) -> Header:
        """The checked header of a record; ``has_file`` says that its path is of no other record.

        Raises RecordError: bad_header, missing_header, no_samples, too_large, or what the reader chose.
        """
        said = self.call("read_header", "missing_header", "bad_header", ref)
        if not isinstance(said, RecordHeader):
            raise RecordError(ref.record_id, "bad_header", f"read_header gives {_kind(said)}, not a RecordHeader")
        if said.n_samples == 0:
            raise RecordError(ref.record_id, "no_samples", "read_header states 0 samples")
        refuse_claims(said.n_samples, len(said.leads), ref.record_id)
        file = (ref.path.name,) if has_file and not ref.inside and ref.path.is_file() else ()
        return header_of(said, file, self._identity(said, ref, file))

    def _identity(self, said: RecordHeader, ref: RecordRef, file: Sequence[str]) -> str:
        """What decides on a record's samples: the code that reads them, its settings, its header, its file's bytes."""
        crc = f"{_crc32_of_file(ref):08x}" if file else ""
        its_settings = {
            name: value for name, value in self.settings.model_dump().items() if not isinstance(value, Path)
        }
        told = [self.sha256 or self.name, its_settings, said.model_dump(), ref.inside, crc]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def call(self, function: str, missing: str, bad: str, ref: RecordRef, *more: int) -> Any:
        """What a function of the source gives; whatever it raises is said as a RecordError.

        The reason is ``missing`` for a file that isn't there, else ``bad``. Of somebody else's error its kind and its
        line are told, not its words, which may name a person.
        """
        try:
            return getattr(self.module, function)(ref, self.settings, *more)
        except RecordError as error:
            raise RecordError(ref.record_id, error.reason, str(error.detail)[:200]) from None
        except MemoryError:
            raise  # says something of the machine, and nothing of the record
        except (Exception, SystemExit) as error:
            if self.sha256 is None:
                raise  # one of ours: a bug, and its traceback is wanted
            detail = f"{function} raises {type(error).__name__}{self._line_of(error)}{_of_header(error)}"
            raise RecordError(ref.record_id, missing if isinstance(error, FileNotFoundError) else bad, detail) from None

    def _line_of(self, error: BaseException) -> str:
        entries = traceback.extract_tb(error.__traceback__)
        lines = [entry.lineno for entry in entries if entry.filename == self.module.__file__]
        return f" in line {lines[-1]} of the source file" if lines else ""


def reader_of(source: Settings) -> OwnReader | None:
    """The reader that a source brings, by its settings; None for one whose records are WFDB records."""
    module = sys.modules[type(source).__module__]
    if not hasattr(module, "read_samples"):
        return None
    stem = module.__name__.rpartition(".")[2]
    if stem in occupants(ROOM):
        return OwnReader(module, source, stem, None)
    if getattr(module, "__file__", None) is None:
        raise ConfigError("a source with a reader stands in no file, so that other processes can't run it", where=stem)
    name = str(module.__file__)
    return OwnReader(module, source, name, own_file_sha256(name) or name_own_file(name, "source"))


@lru_cache(maxsize=8)
def _again(name: str, sha256: str | None, settings: str) -> OwnReader:
    """The reader in another process, of the same file: another one would give other samples."""
    content: dict[str, Any] = json.loads(settings)
    if sha256 is not None:
        if name_own_file(name, "source") != sha256:
            raise ConfigError("the source file changed while the store was being made", where=name)
        content.pop("name", None)
    module = occupant(ROOM, name)
    return OwnReader(module, parse(module.Settings, content), name, sha256)


def read_headers(
    refs: Sequence[RecordRef], reader: OwnReader, progress: Callable[[str, int, int], None] | None = None
) -> Iterator[tuple[RecordRef, Header | Rejection, tuple[str, ...]]]:
    """The header of every record in order, or why it has none; there are no comments."""
    times = Counter(ref.path for ref in refs)
    for done, ref in enumerate(refs, start=1):
        header: Header | Rejection
        try:
            header = reader.header(ref, has_file=times[ref.path] == 1)
        except RecordError as error:
            header = Rejection(error.record_id, error.reason, error.detail)
        yield ref, header, ()
        if progress is not None and (done % 64 == 0 or done == len(refs)):
            progress("scan", done, len(refs))


def _of_header(error: BaseException) -> str:
    """What is wrong with a RecordHeader, by the names of its fields; of other models nothing is told."""
    if not isinstance(error, ValidationError) or error.title != RecordHeader.__name__:
        return ""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f": {where}{': ' if where else ''}{first['msg']}"[:160]


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"


def header_of(said: RecordHeader, files: tuple[str, ...] = (), sha256: str = "") -> Header:
    """What was said, in the form that WFDB headers come in."""
    n = len(said.leads)
    units = said.units if len(said.units) == n else said.units * n
    baselines = said.baselines if len(said.baselines) == n else said.baselines * n
    if said.gains is None:
        gains = tuple(VALUES_PER_MV * MV_PER_UNIT.get(unit.lower(), 1.0) for unit in units)
        baselines = (0,) * n
    else:
        gains = said.gains if len(said.gains) == n else said.gains * n
        gains = tuple(0.0 if np.isnan(gain) else gain for gain in gains)
    form = VALUES if said.gains is None else COUNTS
    names = tuple(name or f"signal {i}" for i, name in enumerate(said.leads))
    layout = shared_layout(names, gains, baselines, units, (0,) * n, (form,) * n, (1,) * n, (0,) * n, (0,) * n)
    stated = np.full(2 * n, NOT_STATED, dtype=np.int32).tobytes()
    return Header(said.fs_hz, said.n_samples, names, False, layout, files, stated, sha256)


def _crc32_of_file(ref: RecordRef) -> int:
    size_of(os.fspath(ref.path), "its file", ref.record_id)
    with open_file(os.fspath(ref.path), "its file", ref.record_id) as file:
        return crc32_of(file, None)


class OwnPieces:
    """A record of a source's own reader, piece by piece: as :class:`ecgstore.wfdb_io.pieces.PieceReader` in all."""

    def __init__(self, reader: OwnReader, ref: RecordRef, header: Header) -> None:
        self._reader, self._ref, self._header = reader, ref, header
        self._gives_counts = header.layout.formats[0] == COUNTS
        self._checked = 0
        self._crc = 0
        self._any_recorded = False
        self._was_rounded = False

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples ``start`` .. ``stop`` - 1 as float32 (signals, samples) in mV, NaN = not recorded.

        Raises RecordError: bad_signal, missing_signal, truncated, or what the reader chose.
        """
        values_lt = self._values(start, stop)
        if not self._gives_counts:
            signal_mv_lt: npt.NDArray[np.float32] = values_lt
            return signal_mv_lt
        layout = self._header.layout
        signal_mv_lt = plain_mv(values_lt, layout)
        if max(map(abs, layout.baselines)) > 2**15:
            # The difference of two large numbers: float32 would lose counts.
            mv_per_count_l1 = np.array(scale_of(layout).mv_per_count)[:, None]
            signal_mv_lt = ((values_lt - np.array(layout.baselines)[:, None]) * mv_per_count_l1).astype(np.float32)
        signal_mv_lt[values_lt == NOT_RECORDED] = np.nan
        return signal_mv_lt

    def read_counts(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """The same as counts, int32, -2**31 where there is none; without a converter's counts whole microvolts."""
        values_lt = self._values(start, stop)
        if self._gives_counts:
            counts_lt: npt.NDArray[np.int32] = values_lt
            return counts_lt
        steps_lt = values_lt.astype(np.float64) * VALUES_PER_MV
        whole_lt = np.rint(steps_lt)
        self._was_rounded = self._was_rounded or bool((np.abs(steps_lt - whole_lt) > _WHOLE).any())
        return np.where(np.isnan(whole_lt), NOT_RECORDED, whole_lt).astype(np.int32)

    def finish(self) -> tuple[int, tuple[str, ...]]:
        """Read what no piece has covered: the CRC-32 of the record's file, or of its samples, and warnings.

        Raises RecordError: no_samples, and what :meth:`read` raises.
        """
        header = self._header
        step = max(1, BLOCK_VALUES // len(header.lead_names))
        while self._checked < header.n_samples:
            self._values(self._checked, min(header.n_samples, self._checked + step))
        if not self._any_recorded:
            raise RecordError(self._ref.record_id, "no_samples", "every sample is marked as not recorded")
        rounded = ("rounded to steps of 1 µV, because the source gives no counts",) if self._was_rounded else ()
        crc32 = _crc32_of_file(self._ref) if header.files else self._crc
        return crc32, (*header.warnings, *rounded)

    def _values(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Checked samples: counts as int32, or millivolts as float32, noted down as far as they are new."""
        n_samples = self._header.n_samples
        if not 0 <= start <= stop <= n_samples:
            raise ValueError(f"no samples {start} to {stop} in {n_samples}")
        if start == stop:
            dtype = np.int32 if self._gives_counts else np.float32
            return np.empty((len(self._header.lead_names), 0), dtype=dtype)
        given = self._reader.call("read_samples", "missing_signal", "bad_signal", self._ref, start, stop)
        try:
            values_lt = checked_samples(given, self._header, stop - start)
        except RecordError as error:
            raise RecordError(self._ref.record_id, error.reason, error.detail) from None
        if start <= self._checked < stop:
            new_lt = values_lt[:, self._checked - start :]
            is_there_lt = new_lt != NOT_RECORDED if self._gives_counts else ~np.isnan(new_lt)
            self._any_recorded = self._any_recorded or bool(is_there_lt.any())
            # By sample, so that it is the same for any pieces.
            self._crc = zlib.crc32(np.ascontiguousarray(new_lt.T).data, self._crc)
            self._checked = stop
        return values_lt


def checked_samples(given: Any, header: Header, n_samples: int) -> npt.NDArray[Any]:
    """What a reader gave of all signals, as a new array (signals, ``n_samples``): int32 counts, or float32 millivolts.

    Where nothing was recorded there is NaN, a masked value, or the least value of a signed integer type.

    Raises RecordError, of a record without an id: truncated (fewer samples), bad_signal (anything else).
    """
    n_signals, gives_counts = len(header.lead_names), header.layout.formats[0] == COUNTS
    try:
        array = given if isinstance(given, np.ndarray) else np.asarray(given)
    except Exception as error:  # whatever an object does that is asked to be an array
        raise _bad(f"the samples are no array: {type(error).__name__}") from None
    if array.dtype.kind not in "iuf":
        raise _bad(f"the samples are an array of {array.dtype}: numbers are wanted")
    if array.shape != (n_signals, n_samples):
        _refuse_shape(array.shape, (n_signals, n_samples))
    is_masked_lt = np.ma.getmaskarray(array)
    array = np.asarray(array)
    is_missing_lt = is_masked_lt | np.isnan(array)
    if array.dtype.kind == "i":
        is_missing_lt = is_missing_lt | (array == np.iinfo(array.dtype).min)
    if gives_counts:
        return _as_counts(array, is_missing_lt)
    return _as_millivolts(array, is_missing_lt, header.layout.units)


def _as_counts(array: npt.NDArray[Any], is_missing_lt: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    counts_lt = np.where(is_missing_lt, 0, array)
    if counts_lt.dtype.kind == "f" and not (counts_lt == np.rint(counts_lt)).all():
        # An infinite value is equal to itself, and is found below.
        raise _bad("counts that are no whole numbers")
    if (counts_lt <= NOT_RECORDED).any() or (counts_lt >= 2**31).any():
        raise _bad("counts of more than 32 bits")
    out_lt = counts_lt.astype(np.int32)
    out_lt[is_missing_lt] = NOT_RECORDED
    return out_lt


def _as_millivolts(
    array: npt.NDArray[Any], is_missing_lt: npt.NDArray[np.bool_], units: Sequence[str]
) -> npt.NDArray[np.float32]:
    factors = [MV_PER_UNIT.get(unit.lower(), np.nan) for unit in units]
    signal_mv_lt = np.empty(array.shape, dtype=np.float32)
    for row, factor in enumerate(factors):
        if np.isnan(factor):
            signal_mv_lt[row] = np.nan
            continue
        level_t = np.where(is_missing_lt[row], 0, array[row])
        if factor != 1:
            level_t = level_t.astype(np.float64) * factor
        if level_t.size and not -MAX_MV <= level_t.min() <= level_t.max() <= MAX_MV:
            raise _bad(f"signal {row}: a value beyond ±{MAX_MV:g} mV, or an infinite one")
        signal_mv_lt[row] = level_t
    signal_mv_lt[is_missing_lt] = np.nan
    return signal_mv_lt


def _refuse_shape(shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    detail = f"the samples have the shape {shape}, where (leads, samples) are {wanted}"
    if len(shape) == 2 and shape[0] == wanted[0] and shape[1] < wanted[1]:
        raise RecordError("", "truncated", detail)
    raise _bad(f"{detail}: turn it (.T)" if shape == wanted[::-1] else detail)


def _bad(detail: str) -> RecordError:
    return RecordError("", "bad_signal", detail)
