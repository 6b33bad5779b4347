"""Records in pieces: what a piece holds is what the whole record has in that place."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.decode import INVALID, decode_by_wfdb
from ecgstore.wfdb_io.files import (
    BLOCK_VALUES,
    beside,
    crc32_of,
    crc32_of_files,
    fill,
    open_file,
    said_file,
    why,
)
from ecgstore.wfdb_io.header import MV_PER_UNIT, NOT_RECORDED, Header, Segment
from ecgstore.wfdb_io.parse import frames_in
from ecgstore.wfdb_io.scale import compare_checksums, plain_mv, scale_of


def read_piece(path: Path, header: Header, record_id: str, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Samples ``start`` .. ``stop`` - 1 of a record, float32 (signals, samples) in mV, exactly as the whole has them.

    Nothing is verified; a :class:`PieceReader` is what verifies. Raises RecordError as :func:`read_signal` does.
    """
    return PieceReader(path, header, record_id).read(start, stop)


class PieceReader:
    """Read a long record piece by piece, and verify it as a whole.

    Pieces may overlap and come in any order; every sample counts once for the checksums. What no piece
    has covered is read by :meth:`finish`. Memory is bounded by the piece, except for format 8, whose samples are
    differences: wfdb reads those records only as a whole.
    """

    def __init__(self, path: Path, header: Header, record_id: str) -> None:
        self._header, self._record_id = header, record_id
        base = os.fspath(path)
        self._source: _Files | _Segments = (_Segments if header.segments else _Files)(base, header, record_id)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples ``start`` .. ``stop`` - 1 as float32 (signals, samples) in mV, NaN = not recorded.

        Raises RecordError: missing_signal, truncated, bad_signal.
        """
        signal_mv_lt: npt.NDArray[np.float32] = self._frames(start, stop, self._source.millivolts)
        return signal_mv_lt

    def read_counts(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """The same samples as the converter gave them, int32, :data:`NOT_RECORDED` where there is none."""
        counts_lt: npt.NDArray[np.int32] = self._frames(start, stop, self._source.counts)
        return counts_lt

    def finish(self) -> tuple[int, tuple[str, ...]]:
        """Verify the record: its signal files' CRC-32, in the header's order, and warnings.

        Raises RecordError: bad_checksum, no_samples, and what :meth:`read` raises.
        """
        warnings = self._source.finish()
        if not self._source.any_recorded:
            raise RecordError(self._record_id, "no_samples", "every sample is marked as not recorded")
        return self._source.crc32(), tuple(dict.fromkeys((*self._header.warnings, *warnings)))

    def _frames(self, start: int, stop: int, read: Callable[[int, int, int], npt.NDArray[Any]]) -> Any:
        header, k = self._header, self._header.samples_per_frame
        if not 0 <= start <= stop <= header.n_samples:
            raise ValueError(f"no samples {start} to {stop} in {header.n_samples}")
        first = start // k
        return read(first, max(first, -(-stop // k)), k)[:, start - first * k : stop - first * k]


class _Files:
    """The signal files of one header. Frames in: counts or millivolts out; sums are kept of what came by in order."""

    def __init__(self, base: str, header: Header, record_id: str) -> None:
        self._base, self._header, self._record_id = base, header, record_id
        self.any_recorded = False
        self._n_frames = header.n_samples // header.samples_per_frame
        self._checked = 0
        self._sums = [0] * len(header.lead_names)
        self._crc = 0
        self._whole: list[npt.NDArray[Any]] | None = None

    def counts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.int32]:
        """Frames as int32 (signals, frames × ``per_frame``): skew undone, slower signals held."""
        layout = self._header.layout
        n = stop - start
        stored = self._stored(start, min(self._n_frames, stop + max(layout.skews)))
        out_lt = np.full((len(stored), n * per_frame), NOT_RECORDED, dtype=np.int32)
        for row, (counts_t, own, skew, fmt) in enumerate(
            zip(stored, layout.samples_per_frame, layout.skews, layout.formats, strict=True)
        ):
            counts_t = counts_t[skew * own : (skew + n) * own]
            if own != per_frame:
                counts_t = counts_t.reshape(-1, own)[:, np.arange(per_frame) * own // per_frame].reshape(-1)
            out_t = out_lt[row, : len(counts_t)]
            out_t[:] = counts_t
            if fmt in INVALID:
                out_t[counts_t == INVALID[fmt]] = NOT_RECORDED
        return out_lt

    def millivolts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.float32]:
        """The same in millivolts, NaN where nothing was recorded."""
        layout = self._header.layout
        counts_lt = self.counts(start, stop, per_frame)
        if self._header.plain:
            # To the last bit what reading the whole record gives, which works in float32.
            signal_mv_lt: npt.NDArray[np.float32] = plain_mv(counts_lt, layout)
        else:
            signal_mv_lt = np.full(counts_lt.shape, np.nan, dtype=np.float32)
            usable = np.isfinite(scale_of(layout).mv_per_count)
            for row in np.flatnonzero(usable).tolist():
                level_t = (counts_lt[row].astype(np.float64) - layout.baselines[row]) / layout.gains[row]
                signal_mv_lt[row] = level_t * MV_PER_UNIT[layout.units[row].lower()]
        signal_mv_lt[counts_lt == NOT_RECORDED] = np.nan
        return signal_mv_lt

    def finish(self) -> tuple[str, ...]:
        """Read what nobody has read yet, and compare the sums with the header's; returns warnings."""
        header = self._header
        step = max(1, BLOCK_VALUES // sum(header.layout.samples_per_frame))
        while self._checked < self._n_frames:
            self._stored(self._checked, min(self._n_frames, self._checked + step))
        return (*header.warnings, *compare_checksums(header, self._sums, self._record_id))

    def crc32(self) -> int:
        """CRC-32 over the signal files, one behind the other."""
        if self._header.plain:
            name = self._header.files[0]
            with open_file(beside(self._base, name), said_file(0), self._record_id) as file:
                file.seek(self._header.layout.byte_offsets[0] + 2 * self._n_frames * len(self._sums))
                return crc32_of(file, None, self._crc)
        return crc32_of_files(self._base, self._header.files, self._record_id)

    def _stored(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        """Frames as they stand in the files, per signal, added to the sums as far as they go on where these end."""
        layout = self._header.layout
        read = self._plain_frames if self._header.plain else self._wfdb_frames
        stored = read(start, stop) if stop > start else [np.empty(0, dtype=np.int16)] * len(self._sums)
        if start <= self._checked < stop:
            for row, (counts_t, own, fmt) in enumerate(
                zip(stored, layout.samples_per_frame, layout.formats, strict=True)
            ):
                new_t = counts_t[(self._checked - start) * own :]
                self._sums[row] = (self._sums[row] + int(new_t.sum(dtype=np.int64))) % 65536
                self.any_recorded = self.any_recorded or fmt not in INVALID or bool((new_t != INVALID[fmt]).any())
            self._checked = stop
        return stored

    def _plain_frames(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        name, offset = self._header.files[0], self._header.layout.byte_offsets[0]
        counts_tl = np.empty((stop - start, len(self._sums)), dtype="<i2")
        try:
            with open_file(beside(self._base, name), said_file(0), self._record_id) as file:
                if start == self._checked == 0:
                    self._crc = crc32_of(file, offset)
                file.seek(offset + start * 2 * len(self._sums))
                n_bytes = fill(file, counts_tl.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise RecordError(self._record_id, "bad_signal", f"{said_file(0)}: {why(error)}") from None
        if n_bytes < counts_tl.nbytes:
            raise RecordError(self._record_id, "truncated", f"{said_file(0)}: ends before sample {stop}")
        if start <= self._checked < stop:
            self._crc = zlib.crc32(counts_tl[self._checked - start :].data, self._crc)
        return list(np.ascontiguousarray(counts_tl.T))

    def _wfdb_frames(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        layout = self._header.layout
        if "8" not in layout.formats:
            return self._rdrecord(start, stop)
        if self._whole is None:
            self._whole = self._rdrecord(0, self._n_frames)
        return [
            counts_t[start * own : stop * own]
            for counts_t, own in zip(self._whole, layout.samples_per_frame, strict=True)
        ]

    def _rdrecord(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        header, record_id = self._header, self._record_id
        # Once more, because the header may have been read long ago: wfdb would wait for a pipe for ever.
        for number, found in enumerate(frames_in(self._base, header.layout, header.files, record_id)):
            if found is not None and found < stop:
                raise RecordError(record_id, "truncated", f"{said_file(number)}: {found} of {self._n_frames} samples")
        try:
            stored = decode_by_wfdb(self._base, header, start, stop)
        except RecordError:
            raise
        except Exception as error:  # whatever wfdb's decoding meets means that the record can't be read
            raise RecordError(record_id, "bad_signal", f"wfdb can't decode it: {why(error)}") from None
        expected = [(stop - start) * own for own in header.layout.samples_per_frame]
        if [len(counts_t) for counts_t in stored] != expected:
            raise RecordError(record_id, "bad_signal", "the signal files don't hold what the header says")
        return stored


class _Segments:
    """The segments of a record, each with files of its own; a gap, or a signal that a segment lacks, is unrecorded."""

    def __init__(self, base: str, header: Header, record_id: str) -> None:
        self._base, self._header, self._record_id = base, header, record_id
        self._starts = np.cumsum([0, *(segment.n_frames for segment in header.segments)]).tolist()
        # By name, so that a file named by thousands of segments is verified once.
        self._files: dict[str, _Files] = {}

    @property
    def any_recorded(self) -> bool:
        """Whether any segment holds a sample."""
        return any(files.any_recorded for files in self._files.values())

    def counts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.int32]:
        """As :meth:`_Files.counts`; segments may count differently."""
        out_lt = np.full((len(self._header.lead_names), (stop - start) * per_frame), NOT_RECORDED, dtype=np.int32)
        self._gather(out_lt, start, stop, per_frame, _Files.counts)
        return out_lt

    def millivolts(self, start: int, stop: int, per_frame: int) -> npt.NDArray[np.float32]:
        """As :meth:`_Files.millivolts`, each segment by its own gains."""
        out_lt = np.full((len(self._header.lead_names), (stop - start) * per_frame), np.nan, dtype=np.float32)
        self._gather(out_lt, start, stop, per_frame, _Files.millivolts)
        return out_lt

    def finish(self) -> tuple[str, ...]:
        """Verify every segment; returns warnings."""
        warnings: dict[str, None] = {}
        for segment in self._header.segments:
            files = self._files_of(segment)
            if files is not None:
                warnings.update(dict.fromkeys(files.finish()))
        return tuple(warnings)

    def crc32(self) -> int:
        """CRC-32 over the signal files of all segments, one behind the other."""
        return crc32_of_files(self._base, self._header.files, self._record_id)

    def _files_of(self, segment: Segment) -> _Files | None:
        if segment.header is None:
            return None
        if segment.name not in self._files:
            self._files[segment.name] = _Files(beside(self._base, segment.name), segment.header, self._record_id)
        return self._files[segment.name]

    def _gather(
        self, out_lt: npt.NDArray[Any], start: int, stop: int, per_frame: int, read: Callable[..., npt.NDArray[Any]]
    ) -> None:
        for i in range(bisect_right(self._starts, start) - 1, len(self._header.segments)):
            segment, begin, end = self._header.segments[i], self._starts[i], self._starts[i + 1]
            if begin >= stop:
                break
            files = self._files_of(segment)
            first, last = max(start, begin), min(stop, end)
            if files is None or first >= last:
                continue
            part_lt = read(files, first - begin, last - begin, per_frame)
            there = slice((first - start) * per_frame, (last - start) * per_frame)
            for row, its_row in enumerate(segment.rows):
                if its_row >= 0:
                    out_lt[row, there] = part_lt[its_row]
