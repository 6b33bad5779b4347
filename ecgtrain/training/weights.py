"""Weights as safetensors, whose header is looked at before anything is allocated: a file may come from anywhere.

The format (huggingface.co/docs/safetensors): eight bytes with the length of a JSON header, which names each array with
its type, shape and place; then the arrays.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from ecgtrain.errors import CheckpointError

#: Header and file: a network of a thousand million parameters, with room.
MAX_HEADER_BYTES, MAX_BYTES = 10_000_000, 16_000_000_000
#: Heads are small.
MAX_HEAD_BYTES = 2_000_000_000
_ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
_OF_TORCH = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}
_OF_TORCH |= {"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


class Described(NamedTuple):
    """Type and shape of one array."""

    dtype: str
    shape: tuple[int, ...]


def described(tensor: Tensor) -> Described:
    """What a tensor is called in a header."""
    return Described(_OF_TORCH[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape))


def read_header(path: Path, most_bytes: int = MAX_BYTES) -> dict[str, Described]:
    """What arrays the file holds; raises CheckpointError unless they fill it without gap or overlap, and OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise _broken(path, "it is not a plain file")
        if about.st_size > most_bytes:
            raise _broken(path, f"it has {about.st_size} bytes, and {most_bytes} are the most")
        n_header = int.from_bytes(file.read(8), "little")
        if n_header > min(MAX_HEADER_BYTES, about.st_size - 8):
            raise _broken(path, f"a header of {n_header} bytes")
        try:
            header = json.loads(file.read(n_header))
        except (ValueError, RecursionError) as error:
            raise _broken(path, f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is no mapping")
    header.pop("__metadata__", None)
    found = {str(name): _entry(path, name, one) for name, one in header.items()}
    end = 0
    for begin, stop in sorted(offsets for _, offsets in found.values()):
        if begin != end:
            raise _broken(path, "its arrays overlap, or leave a gap")
        end = stop
    if end != about.st_size - 8 - n_header:
        raise _broken(path, "its arrays don't fill it")
    return {name: what for name, (what, _) in found.items()}


def _entry(path: Path, name: str, entry: Any) -> tuple[Described, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not all(type(n) is int and 0 <= n <= MAX_BYTES for n in numbers):
            raise ValueError
        if end - begin != _ITEM_BYTES[dtype] * math.prod(shape):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _broken(path, f"its entry {str(name)[:100]!r} can't be understood") from None
    return Described(dtype, tuple(shape)), (begin, end)


def read_weights(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights at ``path``, on the CPU, if they are those that ``expected`` has, in name, type and shape.

    Without it, whatever is there. Raises CheckpointError before anything is allocated for them.
    """
    try:
        found = read_header(path)
        wanted = found if expected is None else {name: described(tensor) for name, tensor in expected.items()}
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"the weights don't fit the network: {name[:100]} differs",
                    where=path,
                    expected=_shown(wanted.get(name)),
                    got=_shown(found.get(name)),
                )
        return load_tensors(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the weights can't be read", where=path, got=str(error)) from error


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a head's file; what they must be, its protocol knows. Raises CheckpointError and OSError."""
    read_header(path, MAX_HEAD_BYTES)
    return load_arrays(path)


def _shown(what: Described | None) -> str:
    return "none" if what is None else f"{what.dtype} {list(what.shape)}"


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError("the weights can't be read", where=path, got=why)
