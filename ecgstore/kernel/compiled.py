"""The loops as ``loops.c`` has them. They let go of the interpreter while they run: threads run beside each other."""

from __future__ import annotations

import ctypes
import itertools
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: Of ``loops.c``; another one is of another version of the package, and not used.
VERSION = 3

Signal = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int16]

_N, _AT = ctypes.c_int64, ctypes.c_void_p


def _load() -> ctypes.CDLL:
    """Raises OSError where there is no library, one of another version, or one that lacks a function."""
    library = ctypes.CDLL(str(Path(__file__).with_name(f"_loops{sysconfig.get_config_var('EXT_SUFFIX')}")))
    try:
        library.loops_version.restype = ctypes.c_int
        if (version := library.loops_version()) != VERSION:
            raise OSError(f"loops of version {version} instead of {VERSION}")
        return _declared(library)
    except AttributeError as error:
        raise OSError(f"loops that lack a function: {error}") from None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, told what each function takes; AttributeError where it lacks one."""
    library.decode.argtypes = [_AT, _N, _N, _N, *[_AT] * 5]
    library.decode.restype = None
    library.decimate.argtypes = [_AT, _N, _N, _N, _N, _N, _AT, _N, _AT, _AT]
    library.decimate.restype = ctypes.c_int
    library.quantise.argtypes = [_AT, _N, _N, _AT, _AT]
    library.quantise.restype = None
    library.tally.argtypes = [_AT, _N, _N, _AT, _AT, _AT, _AT, _AT]
    library.tally.restype = None
    library.look.argtypes = [_AT, _N, _N, _N, _N, *[_AT] * 7]
    library.look.restype = None
    library.residual.argtypes = [_AT, _N, _N, _AT, _AT]
    library.residual.restype = None
    return library


_LOOPS = _load()


def decode(
    counts_rtl: Counts, mv_per_count_rl: Signal, offset_mv_rl: Signal
) -> tuple[Signal, npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    counts_rtl = _as(counts_rtl, np.int16)
    scale_rl, offset_mv_rl = _as(mv_per_count_rl, np.float32), _as(offset_mv_rl, np.float32)
    n_records, n_samples, n_leads = counts_rtl.shape
    if not scale_rl.shape == offset_mv_rl.shape == (n_records, n_leads):
        raise ValueError("shapes that don't belong together")
    signal_mv_rlt = np.empty((n_records, n_leads, n_samples), dtype=np.float32)
    sum_rl, n_recorded_r = np.empty((n_records, n_leads), dtype=np.uint16), np.empty(n_records, dtype=np.int64)
    filled = signal_mv_rlt, sum_rl, n_recorded_r
    at_filled = _at(signal_mv_rlt), _at(sum_rl), _at(n_recorded_r)
    _LOOPS.decode(_at(counts_rtl), *counts_rtl.shape, _at(scale_rl), _at(offset_mv_rl), *at_filled)
    return filled


def decimate(
    signals_lt: Sequence[Signal], left: int, n_padded: int, factor: int, half: Sequence[float]
) -> tuple[Signal, Signal]:
    leads, n = _leads_of(signals_lt)
    if left < 0 or left + n > n_padded or factor < 1 or n_padded % factor or len(half) > n_padded:
        raise ValueError("shapes that don't belong together")
    half_k, n_leads = np.array(half, dtype=np.float32), len(leads.places)
    out_lm, jump_l = np.empty((n_leads, n_padded // factor), dtype=np.float32), np.empty(n_leads, dtype=np.float32)
    filter_of = _at(half_k), len(half) - 1
    if not _LOOPS.decimate(_at(leads.places), n_leads, n, left, n_padded, factor, *filter_of, _at(out_lm), _at(jump_l)):
        raise MemoryError
    return out_lm, jump_l


def quantise(signal_mv_lt: Signal) -> tuple[Counts, npt.NDArray[np.int64]]:
    signal_mv_lt = _as(signal_mv_lt, np.float32)
    counts_lt, n_clipped_l = np.empty(signal_mv_lt.shape, dtype=np.int16), np.empty(len(signal_mv_lt), dtype=np.int64)
    _LOOPS.quantise(_at(signal_mv_lt), *signal_mv_lt.shape, _at(counts_lt), _at(n_clipped_l))
    return counts_lt, n_clipped_l


def tally(counts_lt: Counts) -> tuple[npt.NDArray[Any], ...]:
    counts_lt = _as(counts_lt, np.int16)
    sums_3l = np.empty((3, len(counts_lt)), dtype=np.int64)
    ends_2l = np.empty((2, len(counts_lt)), dtype=np.int16)
    _LOOPS.tally(_at(counts_lt), *counts_lt.shape, *map(_at, sums_3l), *map(_at, ends_2l))
    return *sums_3l, *ends_2l


def look(signals_lt: Sequence[Signal], step: int, least: int) -> tuple[npt.NDArray[Any], ...]:
    leads, n = _leads_of(signals_lt)
    if step < 1 or least < 1:
        raise ValueError("shapes that don't belong together")
    n_leads = len(leads.places)
    grid_lg, ends_2l = np.empty((n_leads, -(-n // step)), np.float32), np.empty((2, n_leads), np.float32)
    filled = grid_lg, *ends_2l, *np.empty((4, n_leads), dtype=np.int64)
    _LOOPS.look(_at(leads.places), n_leads, n, step, least, *map(_at, filled))
    return filled


def residual(signals_lt: Sequence[Signal], three: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    leads, n = _leads_of(signals_lt)
    if len(set(map(len, signals_lt))) > 1:
        raise ValueError("signals of different leads")
    three_r3 = np.ascontiguousarray(leads.places.reshape(len(signals_lt), -1)[:, three])
    total_r, n_recorded_r = np.empty(len(signals_lt)), np.empty(len(signals_lt), dtype=np.int64)
    _LOOPS.residual(_at(three_r3), len(signals_lt), n, _at(total_r), _at(n_recorded_r))
    return total_r, n_recorded_r


class _Leads(NamedTuple):
    #: Where each lead lies, as long as the signals are kept.
    places: npt.NDArray[np.uintp]
    kept: list[Signal]


def _leads_of(signals_lt: Sequence[Signal]) -> tuple[_Leads, int]:
    """All leads of signals of one length, and that length. One call for many leads lets go of the interpreter once."""
    kept = [_as(one_lt, np.float32) for one_lt in signals_lt]
    n = kept[0].shape[1]
    if n < 1 or any(one_lt.shape[1] != n for one_lt in kept):
        raise ValueError("signals of different lengths, or without a sample")
    places = [range(begin, begin + one_lt.nbytes, 4 * n) for begin, one_lt in zip(map(_at, kept), kept, strict=True)]
    return _Leads(np.fromiter(itertools.chain(*places), dtype=np.uintp), kept), n


def _as(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    array = np.ascontiguousarray(array, dtype=dtype)
    return array if array.flags.aligned else array.copy()  # C may take no number from an odd place


def _at(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data
