"""What a store hands out is the asker's own: whoever changes it changes no store."""

from __future__ import annotations

import marshal
from typing import Any

import numpy as np
import numpy.typing as npt


def copied(value: Any) -> Any:
    """A value of JSON with all that is in it anew: through bytes, which is several times as fast as piece by piece."""
    return marshal.loads(marshal.dumps(value))


def fixed(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The array, which nobody can write into any more."""
    array.setflags(write=False)
    return array
