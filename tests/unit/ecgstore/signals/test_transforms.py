"""Fourier transforms by scipy's compiled module alone: the bits of scipy.fft, which serves where that can't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft

from ecgstore.signals import transforms

ASK = (
    "import sys, numpy as np; from ecgstore.signals.conditioning import condition; "
    "condition(np.ones((12, 5000), dtype=np.float32), 500, 100); "
    "print([name for name in ('scipy.fft', 'scipy.special', 'numpy.f2py') if name in sys.modules])"
)


@pytest.fixture(params=["compiled", "scipy.fft"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "scipy.fft":
        monkeypatch.delitem(sys.modules, transforms._NAME)
        monkeypatch.setattr(transforms, "_FOLDER", ("fft", "moved"))
    transforms._compiled.cache_clear()
    assert (transforms._compiled() is None) == (request.param == "scipy.fft")
    yield request.param
    transforms._compiled.cache_clear()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("n", [2, 9, 1000, 3000, 4999])
def test_both_ways_are_those_of_scipy_fft(n: int) -> None:
    x_lt = np.random.default_rng(n).normal(size=(5, n)).astype(np.float32)
    x_lf = scipy.fft.rfft(x_lt, axis=1)
    np.testing.assert_array_equal(transforms.rfft(x_lt), x_lf)
    for n_points in (n, max(1, n // 2), 2 * n + 1):
        few_lf = x_lf[:, : n // 3 + 1]
        np.testing.assert_array_equal(transforms.irfft(few_lf, n_points), scipy.fft.irfft(few_lf, n_points, axis=1))
        np.testing.assert_array_equal(
            transforms.ifft(few_lf.copy(), n_points), scipy.fft.ifft(few_lf, n_points, axis=1)
        )


@pytest.mark.usefixtures("way")
def test_lengths_are_those_of_scipy_fft() -> None:
    for real in (True, False):
        found = [transforms.next_fast_len(n, real=real) for n in range(1, 400)]
        assert found == [scipy.fft.next_fast_len(n, real=real) for n in range(1, 400)]


def test_conditioning_imports_no_more_of_scipy_than_it_uses() -> None:
    # The parent's scipy.fft is not the child's.
    said = subprocess.run([sys.executable, "-c", ASK], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def _of_another_sign(module: Any) -> SimpleNamespace:
    def c2r(*args: Any) -> Any:
        return -module.c2r(*args)

    return SimpleNamespace(r2c=module.r2c, c2r=c2r, c2c=module.c2c, good_size=module.good_size)


def _with_other_arguments(module: Any) -> SimpleNamespace:
    return SimpleNamespace(r2c=lambda x_lt: module.r2c(x_lt, (1,), True, 0, None, 1))


@pytest.mark.parametrize("change", [_of_another_sign, _with_other_arguments])
def test_a_module_that_does_something_else_is_not_used(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = transforms._compiled()
    assert compiled is not None
    monkeypatch.setitem(sys.modules, transforms._NAME, change(compiled))
    transforms._compiled.cache_clear()
    x_lt = np.arange(12, dtype=np.float32)[None]
    try:
        assert transforms._compiled() is None
        np.testing.assert_array_equal(
            transforms.irfft(transforms.rfft(x_lt), 12), scipy.fft.irfft(scipy.fft.rfft(x_lt))
        )
    finally:
        transforms._compiled.cache_clear()
