"""The samples that a drawing needs, and no more of them than it has columns: all, or the envelope of their extremes.

A window of a long record is read piece by piece, so that a day of samples never stands in memory at once.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError
from ecgstore.look.parts import Reader
from ecgstore.storage.store import Store

#: Columns that may be asked for, and samples of all leads together that are unpacked at once.
MOST_COLUMNS, PIECE_VALUES = 8000, 1 << 24


class Traces(NamedTuple):
    """``values_ltk`` float32 mV, NaN where nothing was recorded: (leads, columns, 1) samples, or (leads, columns, 2)
    the lowest and the highest of each ``samples_per_column``. The first column begins at ``start_s``.
    """

    leads: tuple[str, ...]
    fs_hz: float
    start_s: float
    samples_per_column: int
    values_ltk: npt.NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Length of the head in 4 bytes, the head in JSON padded to a multiple of 4, then float32; little endian."""
        _, n_columns, n_values = self.values_ltk.shape
        head = {
            "leads": self.leads,
            "fs_hz": self.fs_hz,
            "start_s": self.start_s,
            "samples_per_column": self.samples_per_column,
            "columns": n_columns,
            "values": n_values,
        }
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 4)
        return len(text).to_bytes(4, "little") + text + self.values_ltk.astype("<f4").tobytes()


class Drawer:
    """Reads traces of the records of one store; keeps nothing but short records."""

    def __init__(self, store: Store) -> None:
        self.store, self._reader = store, Reader(store)
        self._fs_hz = store.attributes["fs_hz"] or store.column("source_fs_hz")

    def fs_hz(self, row: int) -> float:
        """Samples per second of the record in ``row``."""
        return float(self._fs_hz if isinstance(self._fs_hz, int | float) else self._fs_hz[row])

    def lasts_s(self, row: int) -> float:
        """Length of the record in ``row``."""
        return self._reader.lasts_s(row)

    def read(self, row: int, start_s: float, stop_s: float, columns: int) -> Traces:
        """What lies between two times of a record, as far as there is anything, in up to twice ``columns`` samples.

        Raises ConfigError for times or a number of columns that make no sense.
        """
        fs_hz, n_samples = self.fs_hz(row), int(self.store.records["n_samples"][row].as_py())
        if not (0 <= start_s < stop_s < 1e9 and 1 <= columns <= MOST_COLUMNS):
            raise ConfigError(
                "there is no such window",
                expected=f"from 0 s on, 1 to {MOST_COLUMNS} columns",
                got=f"{start_s:g} to {stop_s:g} s in {columns} columns",
            )
        first, last = min(round(start_s * fs_hz), n_samples - 1), min(round(stop_s * fs_hz) + 1, n_samples)
        step = max(1, -(-(last - first) // columns)) if last - first > 2 * columns else 1
        first -= first % step  # a column holds the same samples wherever the window begins
        pieces, leads = [], self.store.leads
        piece = max(step, PIECE_VALUES // len(leads) // step * step)
        for begin in range(first, last, piece):
            signal_mv_lt = self._samples(row, begin, min(begin + piece, last), fs_hz)
            pieces.append(_envelope(signal_mv_lt, step))
        return Traces(leads, fs_hz, first / fs_hz, step, np.concatenate(pieces, axis=1))

    def _samples(self, row: int, first: int, last: int, fs_hz: float) -> npt.NDArray[np.float32]:
        part = self._reader.read(row, first / fs_hz, last / fs_hz)
        begin = first - round(part.start_s * fs_hz)
        return part.record.signal_mv_lt[:, begin : begin + last - first]


def _envelope(signal_mv_lt: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    if step == 1:
        return signal_mv_lt[:, :, None]
    n_leads, n_samples = signal_mv_lt.shape
    whole = n_samples // step * step
    parts = [signal_mv_lt[:, :whole].reshape(n_leads, -1, step)]
    if whole < n_samples:
        parts.append(signal_mv_lt[:, None, whole:])
    found = [np.stack([np.fmin.reduce(part, axis=2), np.fmax.reduce(part, axis=2)], axis=2) for part in parts]
    return np.concatenate(found, axis=1).astype(np.float32)
