"""One record in memory, prepared as an ingest prepares it: for a model that is asked about a record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ecgstore.build import pipeline
from ecgstore.build.describe import final_states
from ecgstore.build.pipeline import Recording
from ecgstore.build.plan import Planned, Recipe, Storage, Work, scan
from ecgstore.build.sums import tally
from ecgstore.errors import RecordError
from ecgstore.record import LeadState, RecordRef, Rejection
from ecgstore.signals.conditioning import n_resampled
from ecgstore.sources._listed import what_is_wrong
from ecgstore.sources._reader import RecordHeader, checked_samples, header_of
from ecgstore.wfdb_io.parse import refuse_claims
from ecgstore.wfdb_io.samples import RawSignal


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """``counts_lt``: int16 (leads, samples) as a store holds them, 1 count = 1 µV, -32768 where not recorded.

    ``leads`` are the recipe's, each with its state; ``warnings`` what a store would say of the record.
    """

    counts_lt: npt.NDArray[np.int16]
    leads: tuple[str, ...]
    states: tuple[LeadState, ...]
    fs_hz: float
    warnings: tuple[str, ...]


def prepare_record(
    signal_mv_lt: npt.NDArray[Any],
    fs_hz: float,
    leads: Sequence[str],
    recipe: Recipe,
    record_id: str = "the record",
) -> Prepared:
    """What a store by ``recipe`` would hold of a record: leads by name, derived where they can be, filtered, resampled.

    ``signal_mv_lt`` is (leads, samples) in mV at ``fs_hz``, NaN where nothing was recorded. Noise is never added.

    Raises RecordError with the reason for which an ingest would leave the record out.
    """
    try:
        leads = tuple(leads)
        said = RecordHeader(fs_hz=fs_hz, n_samples=_n_samples(np.shape(signal_mv_lt), len(leads)), leads=leads)
    except (ValidationError, TypeError) as error:
        wrong = what_is_wrong(error) if isinstance(error, ValidationError) else "leads are no names"
        raise RecordError(record_id, "bad_header", wrong) from None
    refuse_claims(said.n_samples, len(said.leads), record_id)
    header = header_of(said)
    try:
        values_lt = checked_samples(signal_mv_lt, header, said.n_samples)
    except RecordError as error:
        raise RecordError(record_id, error.reason, error.detail) from None
    if not np.isfinite(values_lt).any():
        raise RecordError(record_id, "no_samples", "no sample was recorded")
    recipe = recipe.model_copy(update={"noise": None})
    scanned = scan(RecordRef(record_id, Path()), header, (), recipe)
    if isinstance(scanned, Rejection):
        raise RecordError(record_id, scanned.reason, scanned.detail)
    n_samples = n_resampled(said.n_samples, said.fs_hz, recipe.fs_hz or said.fs_hz)
    planned = Planned(scanned.ref, scanned.header, 0, n_samples)
    work = Work(recipe, Storage(), recipe.leads, n_samples)
    one = pipeline.harmonise(Recording(planned, RawSignal(values_lt, 0)), work)
    quantised = pipeline.quantise([one], pipeline.condition([one], work))
    counted = tally(quantised.counts_lt)
    if not any(counted.sums.n):
        raise RecordError(record_id, "no_samples", "nothing was recorded in the wanted leads")
    warnings = (*scanned.header.warnings, *one.warnings)
    states = final_states(one, counted, quantised.n_clipped_l, work)
    return Prepared(quantised.counts_lt, recipe.leads, states, pipeline.store_hz(planned, work), warnings)


def _n_samples(shape: tuple[int, ...], n_leads: int) -> int:
    """Of a signal that lies on its side too: it is told so."""
    if len(shape) != 2:
        return 0
    return shape[0] if shape[0] != n_leads == shape[1] else shape[1]
