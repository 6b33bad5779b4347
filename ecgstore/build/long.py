"""Records too long for the memory: read, conditioned and counted piece by piece, and described as any other."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ecgstore.build import describe, pipeline
from ecgstore.build.describe import Described, Full, Stored
from ecgstore.build.pipeline import Harmonised, Recording, store_hz
from ecgstore.build.plan import Planned, Work
from ecgstore.build.sums import Tally, tally
from ecgstore.record import Rejection
from ecgstore.signals import conditioning, leads, quality, stretches
from ecgstore.signals.stretches import Stretch
from ecgstore.storage import layout
from ecgstore.wfdb_io.samples import NativeCounts

#: A record with more values than this is read and conditioned piece by piece (80 MB of float32).
LONG_VALUES = 20_000_000
#: No stretch shorter than this is judged by itself: what lies below 0.5 Hz can't be told from less.
LEAST_JUDGED_S = 10.0


def is_long(record: Planned, work: Work) -> bool:
    """Whether a record goes in pieces."""
    # Noise is drawn for a whole record.
    return _n_values(record, work) > LONG_VALUES and work.recipe.noise is None


def _n_values(record: Planned, work: Work) -> int:
    return max(record.header.n_samples, record.n_samples) * _n_rows(record, work)


def _n_rows(record: Planned, work: Work) -> int:
    return max(len(record.header.lead_names), len(work.leads))


def _piece_samples(record: Planned, work: Work) -> int:
    return max(1, LONG_VALUES // _n_rows(record, work))


class LongRecord:
    """A long record: its counts as they come, and what is to be said of it once all of them have come.

    :meth:`by_shard` or :meth:`fill` gives the counts, then :meth:`describe` the description. All of them raise
    RecordError where the record can't be read.
    """

    def __init__(self, record: Planned, work: Work) -> None:
        self._record, self._work = record, work
        self._source = _Source(record, work)
        self._tally: Tally | None = None
        self._n_clipped_l = np.zeros(len(work.leads), dtype=np.int64)
        self._signature = 0
        self._crc32 = 0

    def by_shard(self) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
        """Whole shards, int16 (leads, shard samples), each as soon as its last sample is known, with their numbers.

        The record is longer than a shard and so begins at the beginning of one.
        """
        size, record = self._work.shard_samples, self._record
        for number, counts_lt in enumerate(_in_shards(self._pieces(), len(self._work.leads), size)):
            own_lt = counts_lt[:, : record.n_samples - number * size]
            self._crc32 = layout.crc32_of_counts(own_lt, size, self._crc32)
            yield record.start // size + number, counts_lt

    def fill(self, counts_lt: npt.NDArray[np.int16]) -> None:
        """Put all counts into int16 (leads, samples of the record): one that shares its shard with others."""
        for first, piece_lt in self._pieces():
            counts_lt[:, first : first + piece_lt.shape[1]] = piece_lt
        self._crc32 = layout.crc32_of_counts(counts_lt, self._work.shard_samples)

    def _pieces(self) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
        """Counts of the conditioned record with the first sample of each piece."""
        for first, counts_lt in self._native() if pipeline.is_raw(self._work) else self._conditioned():
            found = tally(counts_lt)
            self._tally = found if self._tally is None else self._tally + found
            if first == 0:
                fs_hz = store_hz(self._record, self._work)
                self._signature = quality.signature(counts_lt, fs_hz, self._work.leads)
            yield first, counts_lt

    def _native(self) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
        n_samples, step = self._record.header.n_samples, _piece_samples(self._record, self._work)
        for start in range(0, n_samples, step):
            yield start, self._source.read_native(start, min(n_samples, start + step))

    def _conditioned(self) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
        header, fs_hz = self._record.header, store_hz(self._record, self._work)
        piece_s = LONG_VALUES / max(header.fs_hz, fs_hz) / _n_rows(self._record, self._work)
        conditioned = conditioning.condition_pieces(
            self._source.read, header.n_samples, header.fs_hz, fs_hz, self._work.recipe.filters, piece_s
        )
        for first, signal_mv_lt in conditioned:
            counts_lt, n_clipped_l = layout.mv_to_counts(signal_mv_lt)
            self._n_clipped_l += n_clipped_l
            yield first, counts_lt

    def describe(self) -> Described | Rejection:
        """Verify what was read, and say what became of the record."""
        read, judged_one_by_one, full = self._source.finish()
        if self._tally is None:
            raise RuntimeError("a long record is described before it was read")
        states = describe.final_states(read, self._tally, self._n_clipped_l, self._work)
        judged = stretches.combine(judged_one_by_one, states, self._work.leads)
        n_clipped = int(self._n_clipped_l.sum())
        stored = Stored(states, self._tally, n_clipped, self._n_clipped_l, self._crc32, self._signature)
        return describe.describe(read, judged, full, stored, self._work)


class _Source:
    """Reads the pieces of a record in the store's leads, and judges each sample once, when it first comes by."""

    def __init__(self, record: Planned, work: Work) -> None:
        self._record, self._work = record, work
        self._reader = pipeline.pieces_of(record, work)
        self._least = round(LEAST_JUDGED_S * record.header.fs_hz)
        self._stretches: list[Stretch] = []
        self._n_judged = 0
        #: Signals that never change, in the whole of the record.
        self._dead: frozenset[int] | None = None
        #: The first piece without its samples, and what is told by it alone.
        self._first: Harmonised | None = None
        self._full = Full()

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples ``start`` to ``stop`` - 1 as float32 (leads, samples) in mV; pieces may overlap."""
        return self._piece(start, stop).signal_mv_lt

    def read_native(self, start: int, stop: int) -> npt.NDArray[np.int16]:
        """The same as the counts that a raw store keeps, int16."""
        return pipeline.given(self._piece(start, stop).native).counts_lt

    def _piece(self, start: int, stop: int) -> Harmonised:
        samples = pipeline.samples_of(self._reader, self._record, start, stop, self._work)
        if self._dead is None:
            # A raw store derives nothing.
            self._dead = frozenset() if isinstance(samples, NativeCounts) else self._find_dead(samples.signal_mv_lt)
        piece = pipeline.harmonise(Recording(self._record, samples), self._work, self._dead)
        if self._first is None:
            self._first = _without_samples(piece)
            self._full = describe.full(piece, self._work)
        # A rest too short to be judged by itself is judged with the end of what comes before it.
        rest = self._record.header.n_samples - stop
        self._judge(piece, start, stop if rest == 0 or rest >= self._least else stop - self._least)
        return piece

    def _find_dead(self, signal_mv_lt: npt.NDArray[np.float32]) -> frozenset[int]:
        """The limb leads that are dead in all of the record, which begins with this piece; most are alive in it."""
        header, work = self._record.header, self._work
        found = leads.arrange(header.lead_names, work.leads, work.recipe.extra_leads, self._record.ref.record_id)
        lowest_mv, highest_mv = dict.fromkeys(found.sources, math.inf), dict.fromkeys(found.sources, -math.inf)
        stop, step = signal_mv_lt.shape[1], _piece_samples(self._record, work)
        while True:
            for row in lowest_mv:
                lowest_mv[row] = min(lowest_mv[row], float(np.fmin.reduce(signal_mv_lt[row], initial=math.inf)))
                highest_mv[row] = max(highest_mv[row], float(np.fmax.reduce(signal_mv_lt[row], initial=-math.inf)))
            dead = frozenset(row for row in lowest_mv if highest_mv[row] - lowest_mv[row] < leads.LEAST_SPAN_MV)
            if not dead or stop >= header.n_samples:
                return dead
            start, stop = stop, min(header.n_samples, stop + step)
            signal_mv_lt = self._reader.read(start, stop)

    def _judge(self, piece: Harmonised, start: int, stop: int) -> None:
        """Judge what lies behind the samples that were judged before; pieces overlap by their halo."""
        if not start <= self._n_judged < stop:
            return
        fs_hz = self._record.header.fs_hz
        stretch = replace(piece, signal_mv_lt=piece.signal_mv_lt[:, self._n_judged - start : stop - start])
        found = conditioning.condition_alike(
            [stretch.signal_mv_lt], fs_hz, fs_hz, (), quality.BANDS_HZ, quality.NOISE_HZ
        )
        power_mv2_lb, envelope = pipeline.given(found.band_power_mv2_lb), pipeline.given(found.envelope)
        (judged,) = describe.judge([stretch], [stretch.states], power_mv2_lb, envelope, self._work)
        self._stretches.append(stretches.stretch_of(stretch.signal_mv_lt, judged))
        self._n_judged = stop

    def finish(self) -> tuple[Harmonised, list[Stretch], Full]:
        """Judge what is left and verify the whole: the record without samples, its stretches, its heart rate."""
        n_samples = self._record.header.n_samples
        step = max(2 * self._least, _piece_samples(self._record, self._work))
        while self._n_judged < n_samples:
            self.read(self._n_judged, min(n_samples, self._n_judged + step))
        source_crc32, warnings = self._reader.finish()
        first = pipeline.given(self._first)
        return (
            replace(first, source_crc32=source_crc32, warnings=(*warnings, *first.warnings)),
            self._stretches,
            self._full,
        )


def _without_samples(piece: Harmonised) -> Harmonised:
    native = piece.native
    if native is not None:
        native = replace(native, counts_lt=native.counts_lt[:, :0].copy())
    return replace(piece, signal_mv_lt=piece.signal_mv_lt[:, :0].copy(), native=native)


def _in_shards(
    pieces: Iterator[tuple[int, npt.NDArray[np.int16]]], n_leads: int, size: int
) -> Iterator[npt.NDArray[np.int16]]:
    """Put pieces together to whole shards; what is behind the last piece is not recorded."""
    empty = functools.partial(np.full, (n_leads, size), layout.NOT_RECORDED, dtype=np.int16)
    buffer_lt, filled = empty(), 0
    for _, counts_lt in pieces:
        done = 0
        while done < counts_lt.shape[1]:
            n = min(size - filled, counts_lt.shape[1] - done)
            buffer_lt[:, filled : filled + n] = counts_lt[:, done : done + n]
            done, filled = done + n, filled + n
            if filled == size:
                yield buffer_lt
                buffer_lt, filled = empty(), 0
    if filled:
        yield buffer_lt
