"""What values of a recipe have in common, wherever they stand: folds, lengths of windows, lists without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, PositiveInt

T = TypeVar("T", bound=Sequence[object])

#: No window is longer, and none begins further from the one before: at 1,000 Hz these are 16 minutes.
MAX_WINDOW_SAMPLES = 1_000_000


def each_once(values: T) -> T:
    """``values``; raises ValueError naming the first that stands there twice."""
    for i, value in enumerate(values):
        if value in values[:i]:
            told = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            raise ValueError(f"each may stand there once, and {told} stands there twice")
    return values


#: For a list in which nothing can be meant by a repetition. Folds that stand twice would count twice in statistics.
EachOnce = AfterValidator(each_once)
#: Folds, which may be none.
FewFolds = Annotated[tuple[int, ...], EachOnce]
#: Folds, one at least.
Folds = Annotated[tuple[int, ...], Field(min_length=1), EachOnce]
#: A length of windows, or the distance from one to the next.
WindowSamples = Annotated[PositiveInt, Field(le=MAX_WINDOW_SAMPLES)]
