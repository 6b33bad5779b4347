"""scipy's Fourier transforms of rows, without the rest of ``scipy.fft``.

To import ``scipy.fft`` takes longer than to ingest a hundred records: it brings scipy.special, and modules of NumPy
that nobody asked for. What it calls in the end is one compiled module, which serves by itself (ADR 36). Where scipy
has none of that name, or one that doesn't do what is expected, ``scipy.fft`` serves; results are the same to the bit.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.errors import need

_NAME, _FOLDER = "scipy.fft._pocketfft.pypocketfft", ("fft", "_pocketfft")
#: What the compiled module calls no factor, as of a transform forward, and 1/n, as of one back.
_AS_IS, _DIVIDED = 0, 2
_ROWS = (1,)
_LOCK = threading.Lock()

Real = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex64]


def load() -> None:
    """Load what transforms, before threads ask for it at the same time. Raises MissingExtra without scipy."""
    _compiled()


def next_fast_len(n: int, *, real: bool) -> int:
    """The least length from ``n`` on that is quickly transformed."""
    compiled = _compiled()
    return int(_scipy().next_fast_len(n, real=real) if compiled is None else compiled.good_size(n, real))


def rfft(x_lt: Real) -> Complex:
    """The spectrum (rows, n // 2 + 1) of real rows (rows, n)."""
    compiled = _compiled()
    spectrum: Complex = (
        _scipy().rfft(x_lt, axis=1) if compiled is None else compiled.r2c(x_lt, _ROWS, True, _AS_IS, None, 1)
    )
    return spectrum


def irfft(x_lf: Complex, n: int) -> Real:
    """Real rows (rows, n) of their spectrum, of which bins that are missing at the high end are 0."""
    x_lf, compiled = _padded(x_lf, n // 2 + 1), _compiled()
    rows: Real = (
        _scipy().irfft(x_lf, n=n, axis=1)
        if compiled is None
        else compiled.c2r(x_lf, _ROWS, n, False, _DIVIDED, None, 1)
    )
    return rows


def ifft(x_lf: Complex, n: int) -> Complex:
    """Complex rows (rows, n) of their spectrum, of which bins that are missing at the high end are 0.

    They may come to stand in the memory of ``x_lf``.
    """
    x_lf, compiled = _padded(x_lf, n), _compiled()
    rows: Complex = (
        _scipy().ifft(x_lf, axis=1, overwrite_x=True)
        if compiled is None
        else compiled.c2c(x_lf, _ROWS, False, _DIVIDED, x_lf, 1)
    )
    return rows


def _padded(x_lf: Complex, n_bins: int) -> Complex:
    if x_lf.shape[1] == n_bins:
        return x_lf
    padded_lf = np.zeros((len(x_lf), n_bins), dtype=x_lf.dtype)
    kept = min(n_bins, x_lf.shape[1])
    padded_lf[:, :kept] = x_lf[:, :kept]
    return padded_lf


def _scipy() -> Any:
    return need("scipy.fft", "ingest")


@functools.cache
def _compiled() -> ModuleType | None:
    """The compiled module, if it does what is expected; else None, and ``scipy.fft`` is there."""
    with _LOCK:
        module = sys.modules.get(_NAME) or _loaded()
        if module is None or not _is_as_expected(module):
            _scipy()
            return None
        return module


def _loaded() -> ModuleType | None:
    scipy = importlib.util.find_spec("scipy")
    folders = (scipy.submodule_search_locations or []) if scipy is not None else []
    spec = importlib.machinery.PathFinder.find_spec(_NAME, ["/".join((folder, *_FOLDER)) for folder in folders])
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    # scipy.fft, if somebody imports it later, finds this one and loads none beside it.
    return sys.modules.setdefault(_NAME, module)


def _is_as_expected(module: ModuleType) -> bool:
    x_lt = np.array([[1, 2, 4, -1, 0, 3]], dtype=np.float32)
    try:
        x_lf = module.r2c(x_lt, _ROWS, True, _AS_IS, None, 1)
        both_lf = np.concatenate([x_lf, x_lf[:, -2:0:-1].conj()], axis=1)
        rows = (
            module.c2r(x_lf, _ROWS, 6, False, _DIVIDED, None, 1),
            module.c2c(both_lf, _ROWS, False, _DIVIDED, None, 1),
        )
        lengths = module.good_size(127, True), module.good_size(127, False)
    except (AttributeError, TypeError, ValueError):
        return False
    return (
        x_lf.dtype == np.complex64
        and all(np.allclose(one, x_lt, atol=1e-5) for one in rows)
        and bool(np.isclose(x_lf[0, 0], 9))
        and all(127 <= length <= 135 for length in lengths)
    )
