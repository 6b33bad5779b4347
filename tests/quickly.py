"""Which cases of a long list the default suite runs; the slow session runs the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quickly(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """All of ``cases`` for ``parametrize``; those that are not ``quick`` are marked slow.

    A tuple is a case of several names.
    """
    cases = [*cases]
    missing = [case for case in quick if case not in cases]
    assert not missing, f"no such cases: {missing}"
    return [case if case in quick else _slow(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def _slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)
