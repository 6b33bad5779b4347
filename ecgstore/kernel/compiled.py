"""The loops as ``loops.c`` has them. They let go of the interpreter while they run: threads run beside each other."""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: Of ``loops.c``; another one is of another version of the package, and not used.
VERSION = 1

Signal = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int16]

_N, _AT = ctypes.c_int64, ctypes.c_void_p


def _load() -> ctypes.CDLL:
    """Raises OSError where there is no library, or one of another version."""
    library = ctypes.CDLL(str(Path(__file__).with_name(f"_loops{sysconfig.get_config_var('EXT_SUFFIX')}")))
    try:
        library.loops_version.restype = ctypes.c_int
        version = library.loops_version()
    except AttributeError:
        version = 0
    if version != VERSION:
        raise OSError(f"loops of version {version} instead of {VERSION}")
    library.decode.argtypes = [_AT, _N, _N, _AT, _AT, _AT, _AT]
    library.decode.restype = _N
    library.decimate.argtypes = [_AT, _N, _N, _N, _N, _N, _AT, _N, _AT, _AT]
    library.decimate.restype = ctypes.c_int
    library.quantise.argtypes = [_AT, _N, _N, _AT, _AT]
    library.quantise.restype = None
    library.tally.argtypes = [_AT, _N, _N, _AT, _AT, _AT, _AT, _AT]
    library.tally.restype = None
    return library


_LOOPS = _load()


def decode(
    counts_tl: Counts, mv_per_count_l: Signal, offset_mv_l: Signal, signal_mv_lt: Signal, sum_l: npt.NDArray[np.uint16]
) -> int:
    counts_tl, out_lt = _as(counts_tl, np.int16), signal_mv_lt
    scale_l, offset_mv_l = _as(mv_per_count_l, np.float32), _as(offset_mv_l, np.float32)
    if not (out_lt.flags.c_contiguous and sum_l.flags.c_contiguous and out_lt.dtype == np.float32):
        raise ValueError("decode fills contiguous arrays")
    n_samples, n_leads = counts_tl.shape
    if not (out_lt.shape == (n_leads, n_samples) and scale_l.size == offset_mv_l.size == sum_l.size == n_leads):
        raise ValueError("shapes that don't belong together")
    return int(
        _LOOPS.decode(_at(counts_tl), n_samples, n_leads, _at(scale_l), _at(offset_mv_l), _at(out_lt), _at(sum_l))
    )


def decimate(
    signals_lt: Sequence[Signal], left: int, n_padded: int, factor: int, half: Sequence[float]
) -> tuple[Signal, Signal]:
    n_leads, n = sum(map(len, signals_lt)), signals_lt[0].shape[1]
    if n < 1 or left < 0 or left + n > n_padded or factor < 1 or n_padded % factor or len(half) > n_padded:
        raise ValueError("shapes that don't belong together")
    half_k = np.array(half, dtype=np.float32)
    out_lm, jump_l = np.empty((n_leads, n_padded // factor), dtype=np.float32), np.empty(n_leads, dtype=np.float32)
    done = 0
    for one_lt in signals_lt:
        signal_lt = _as(one_lt, np.float32)
        if signal_lt.shape[1] != n:
            raise ValueError("signals of different lengths")
        its_lm, its_jump_l = out_lm[done:], jump_l[done:]
        if not _LOOPS.decimate(
            _at(signal_lt),
            len(signal_lt),
            n,
            left,
            n_padded,
            factor,
            _at(half_k),
            len(half) - 1,
            _at(its_lm),
            _at(its_jump_l),
        ):
            raise MemoryError
        done += len(signal_lt)
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


def _as(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array, dtype=dtype)


def _at(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data
