"""How good a recording is: measures per lead, the sum of the limb leads, what looks wrong, and a fingerprint.

Everything is judged on the harmonised signal before any filter, at its native rate: a filter would hide what
is looked for. Nothing is mended and nobody is left out: records carry the numbers, and users choose.
docs/quality.md gives each measure's formula and what is usual.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore import kernel
from ecgstore.errors import EcgError, need
from ecgstore.record import LEADS_12, LeadState
from ecgstore.signals.conditioning import Envelope
from ecgstore.signals.leads import LIMB_LEADS
from ecgstore.storage.layout import MEASURES, NOT_RECORDED

#: Bands in which the power before filtering is wanted, low end included, high end not; 0 Hz itself never counts.
BANDS_HZ: tuple[tuple[float, float], ...] = ((0.0, 0.5), (49.0, 51.0), (59.0, 61.0))

#: Without change for this long is flat. Isoelectric stretches that a recorder's compression has made constant are
#: usually shorter.
FLAT_S = 0.2
#: A top or bottom is cut off if it stays at the lead's extreme value for this long …
CLIPPED_S = 0.01
#: … and is entered or left by a step of at least this share of the lead's range: round waves have no such step.
CLIPPED_STEP = 0.02
#: … and if the lead is there at this many of about 100 points a second: a few samples at the top are no rail.
CLIPPED_POINTS = 3
#: An amplifier that drifts into saturation has no such step. It stays at the extreme for FLAT_S, at least this share of
#: the range away from the lead's median, where a compressed isoelectric line would be; or for so long that no heart
#: beats. A range of fewer steps of the converter than the last number tells nothing.
SATURATED_DISTANCE, SATURATED_S, SATURATED_STEPS = 0.2, 2.0, 20

#: Limb leads are combinations of each other; beyond this residual they are not of one recording.
RESIDUAL_MV = 0.05
#: A limb lead this much smaller than both others sees two electrodes of one potential.
FLAT_RATIO = 0.1
#: The residual's bound is at least this many times what rounding to the converter's steps leaves.
ROUNDING_RATIO = 2.0
#: A lead beyond the first is an artefact; with the middle lead beyond the second, or none above the third, the gain is
#: in doubt.
ARTEFACT_MV, HUGE_MV, TINY_MV = 20.0, 15.0, 0.2
#: Two leads more alike than neighbours ever are.
SAME_CORRELATION = 0.9999
#: An exchange is suspected if it explains the record this many times better than the leads as they are named, and
#: well by itself.
SWAP_RATIO, SWAP_FIT = 2.0, 0.3

#: Noise is looked for in this band, which every usual rate holds, so that records of different rates can be compared.
#: At least half of it must lie below half the rate.
NOISE_HZ = (20.0, 50.0)
#: Its size is stated as that of white noise that ends here.
WHITE_HZ = 50.0

# Flatness and the leads' likeness are judged on about this many samples a second.
_GRID_HZ = 100.0
_LAG_S = 0.1

# What each of I, II, V1 … V6 (rows) lacks of what the others say of it: x_j + Σ w_jk x_k. Least squares over the
# differences x(t + 0.1 s) − x(t), each record scaled to the same power, of 2,331 records of PTB-XL's folds 1 to 8.
# The limb leads are told from V1 … V6 alone, because an exchange of limb electrodes changes both.
_INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_LACK = np.array(
    [
        [1.00, 0.00, 0.61, -0.25, -0.06, 0.09, -0.09, -0.31],
        [0.00, 1.00, 0.01, 0.09, -0.11, -0.10, 0.04, -0.53],
        [0.55, 0.06, 1.00, -0.41, -0.03, 0.06, -0.03, 0.08],
        [-0.49, 0.12, -0.91, 1.00, -0.67, 0.18, -0.03, 0.10],
        [-0.09, -0.15, -0.04, -0.46, 1.00, -0.81, 0.27, 0.11],
        [0.07, -0.07, 0.06, 0.08, -0.52, 1.00, -0.85, 0.25],
        [-0.04, 0.01, -0.02, -0.01, 0.09, -0.46, 1.00, -0.73],
        [-0.16, -0.22, 0.04, 0.02, 0.04, 0.13, -0.68, 1.00],
    ]
)

# What mends an exchange of limb electrodes, as weights of (I, II), where I = LA − RA and II = LL − RA. LA with LL is
# missing on purpose: it looks like an ordinary change of axis.
_LIMB_SWAPS = (
    ("arm electrodes (LA, RA) swapped?", ((-1, 0), (-1, 1))),
    ("right arm and left leg electrodes (RA, LL) swapped?", ((1, -1), (0, -1))),
    ("limb electrodes RA, LA, LL moved round by one?", ((-1, 1), (-1, 0))),
    ("limb electrodes RA, LA, LL moved round by one?", ((0, -1), (1, -1))),
)
# What mends an exchange of chest electrodes: which lead to put in the place of V1, V2 …
_CHEST_SWAPS = (
    ("V1 and V2 swapped?", (1, 0, 2, 3, 4, 5)),
    ("V2 and V3 swapped?", (0, 2, 1, 3, 4, 5)),
    ("V3 and V4 swapped?", (0, 1, 3, 2, 4, 5)),
    ("V4 and V5 swapped?", (0, 1, 2, 4, 3, 5)),
    ("V5 and V6 swapped?", (0, 1, 2, 3, 5, 4)),
    ("V1 and V3 swapped?", (2, 1, 0, 3, 4, 5)),
    ("V4 and V6 swapped?", (0, 1, 2, 5, 4, 3)),
    ("V1 to V3 swapped with V4 to V6?", (3, 4, 5, 0, 1, 2)),
    ("V1 to V6 in reverse order?", (5, 4, 3, 2, 1, 0)),
)
_SWAPS = tuple(name for name, _ in (*_LIMB_SWAPS, *_CHEST_SWAPS))

#: The signature looks at the first 10 s of these leads, in means over 40 ms, which pass neither 50 nor 25 Hz.
SIGNED_LEADS = ("I", "II", "V2", "V5")
SIGNED_S, _BLOCK_S = 10.0, 0.04
_N_BLOCKS = round(SIGNED_S / _BLOCK_S)
# Changes of less than this are rounding.
_LEAST_COUNTS = 0.5

Signal = npt.NDArray[np.float32]


class Quality(NamedTuple):
    """What is known of one record.

    ``measured_ml`` has a row per measure (:data:`MEASURES`) and a column per lead, NaN where the lead is absent;
    ``worst_m`` is the largest over the leads, NaN where none has one. ``einthoven_mv`` is the root mean square of
    II − I − III, NaN unless all three are measured. ``suspects`` are sentences about what looks wrong.
    """

    measured_ml: npt.NDArray[np.float64]
    worst_m: npt.NDArray[np.float64]
    einthoven_mv: float
    suspects: tuple[str, ...]

    @property
    def per_lead(self) -> dict[str, tuple[float, ...]]:
        """The measures by name."""
        return {name: tuple(values_l) for name, values_l in zip(MEASURES, self.measured_ml.tolist(), strict=True)}


def judge(
    signals_mv_lt: Sequence[Signal],
    states: Sequence[Sequence[LeadState]],
    fs_hz: float,
    band_power_mv2_lb: npt.NDArray[np.floating],
    envelope: Envelope,
    leads: Sequence[str] = LEADS_12,
    step_mv_rl: Sequence[Sequence[float]] | None = None,
) -> list[Quality]:
    """Judge records of one shape before filtering.

    Each of ``signals_mv_lt`` is float32 (leads, samples) in mV with NaN where nothing was recorded; ``states`` has
    one state per record and lead. ``band_power_mv2_lb`` is the mean power in mV² of every lead (rows: the leads of
    all records one below the other) in each of :data:`BANDS_HZ` (columns), 0 for a band above half the rate.
    ``envelope`` is that of all leads in :data:`NOISE_HZ`. ``step_mv_rl`` are the converter's steps in mV of each record
    and lead, where they are known.
    Numbers are rounded to three significant digits.
    """
    n_records, n_leads = len(signals_mv_lt), len(leads)
    steps_mv_rl = np.zeros((n_records, n_leads)) if step_mv_rl is None else np.nan_to_num(np.array(step_mv_rl))
    seen = _look(signals_mv_lt, states, fs_hz, leads)
    range_l = seen.highest_l - seen.lowest_l
    baseline_l, mains_50_l, mains_60_l = np.maximum(np.asarray(band_power_mv2_lb, dtype=np.float64).T, 0.0)
    measured_ml = np.stack(
        [
            seen.flat_l,
            _clipped_fraction(signals_mv_lt, fs_hz, seen, steps_mv_rl.reshape(-1)),
            seen.missing_l,
            _noise_mv(envelope),
            np.sqrt(np.maximum(mains_50_l, mains_60_l)),
            np.sqrt(baseline_l),
            range_l,
        ]
    )
    # Of a lead without any sample only that is known; of an absent one not even that.
    is_empty_l = seen.missing_l == 1.0
    if is_empty_l.any():
        measured_ml[:, is_empty_l] = np.nan
        measured_ml[MEASURES.index("missing_fraction"), is_empty_l] = 1.0
        measured_ml[:, [state is LeadState.ABSENT for of_record in states for state in of_record]] = np.nan
    measured_mrl = rounded(measured_ml).reshape(len(MEASURES), n_records, n_leads)
    worst_mr = np.fmax.reduce(measured_mrl, axis=2)
    einthoven_mv = rounded(seen.einthoven_mv_r).tolist()
    gram_rll = _gram(seen.grid_lg.reshape(n_records, n_leads, -1), fs_hz / seen.step)
    suspects = _suspects(gram_rll, range_l.reshape(n_records, n_leads), states, tuple(leads), steps_mv_rl)
    return [Quality(measured_mrl[:, r], worst_mr[:, r], einthoven_mv[r], suspects[r]) for r in range(n_records)]


def with_clipped(judged: Quality, stored_clipped_l: npt.NDArray[np.float64]) -> Quality:
    """``judged`` with the share of each lead's samples that a store's range cuts off, where that is more."""
    if not stored_clipped_l.any():
        return judged
    row = MEASURES.index("clipped_fraction")
    measured_ml, worst_m = judged.measured_ml.copy(), judged.worst_m.copy()
    measured_ml[row] = np.maximum(measured_ml[row], rounded(stored_clipped_l))
    worst_m[row] = np.fmax.reduce(measured_ml[row])
    return judged._replace(measured_ml=measured_ml, worst_m=worst_m)


class _Seen(NamedTuple):
    """What one look at every sample gives; ``grid_lg`` holds every ``step``-th sample, about 100 a second."""

    lowest_l: Signal
    highest_l: Signal
    #: Shares: of samples that are not recorded; of points of the grid in runs of at least FLAT_S.
    missing_l: npt.NDArray[np.float64]
    flat_l: npt.NDArray[np.float64]
    #: How many points of the grid are at the lowest and at the highest value.
    n_lowest_l: npt.NDArray[np.int64]
    n_highest_l: npt.NDArray[np.int64]
    einthoven_mv_r: npt.NDArray[np.float64]
    step: int
    grid_lg: Signal


def _look(
    signals_mv_lt: Sequence[Signal], states: Sequence[Sequence[LeadState]], fs_hz: float, leads: Sequence[str]
) -> _Seen:
    step = max(1, round(fs_hz / _GRID_HZ))
    least = max(2, math.ceil(FLAT_S * fs_hz / step))
    grid_lg, lowest_l, highest_l, n_missing_l, n_flat_l, n_lowest_l, n_highest_l = kernel.look(
        signals_mv_lt, step, least
    )
    missing_l, flat_l = n_missing_l / signals_mv_lt[0].shape[1], n_flat_l / grid_lg.shape[1]
    einthoven_mv_r = _einthoven(signals_mv_lt, states, leads)
    return _Seen(lowest_l, highest_l, missing_l, flat_l, n_lowest_l, n_highest_l, einthoven_mv_r, step, grid_lg)


def _einthoven(
    signals_mv_lt: Sequence[Signal], states: Sequence[Sequence[LeadState]], leads: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Root mean square of II − I − III per record, NaN where one of them was not measured."""
    einthoven_mv_r = np.full(len(signals_mv_lt), np.nan)
    if not {"I", "II", "III"} <= set(leads):
        return einthoven_mv_r
    limb = [list(leads).index(lead) for lead in ("I", "II", "III")]
    total_mv2_r, n_recorded_r = kernel.residual(signals_mv_lt, limb)
    is_measured_r = np.array([all(its[i] is LeadState.MEASURED for i in limb) for its in states])
    np.divide(total_mv2_r, n_recorded_r, out=einthoven_mv_r, where=is_measured_r & (n_recorded_r > 0))
    np.sqrt(einthoven_mv_r, out=einthoven_mv_r)
    return einthoven_mv_r


def _clipped_fraction(
    signals_mv_lt: Sequence[Signal], fs_hz: float, seen: _Seen, step_mv_l: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of a lead's samples in runs that are stuck at its lowest or highest value (CLIPPED_S, SATURATED_S)."""
    n_leads = len(signals_mv_lt[0])
    fraction_l = np.zeros(len(seen.lowest_l))
    for extreme_l, n_there_l in ((seen.lowest_l, seen.n_lowest_l), (seen.highest_l, seen.n_highest_l)):
        # Nearly every lead is at its extreme once; one that is cut off is there again and again, or for long.
        for lead in np.flatnonzero(n_there_l >= CLIPPED_POINTS).tolist():
            signal_mv_t = signals_mv_lt[lead // n_leads][lead % n_leads]
            span_mv = float(seen.highest_l[lead] - seen.lowest_l[lead])
            if span_mv > 0:
                is_fine = span_mv >= SATURATED_STEPS * step_mv_l[lead]
                saturated_s = _saturated_s(signal_mv_t, float(extreme_l[lead]), span_mv) if is_fine else math.inf
                # From one of the converter's steps to the next is no jump.
                jump_mv = max(CLIPPED_STEP * span_mv, 1.5 * step_mv_l[lead])
                fraction_l[lead] += _stuck(signal_mv_t, float(extreme_l[lead]), fs_hz, jump_mv, saturated_s)
    return fraction_l


def _saturated_s(signal_mv_t: Signal, extreme_mv: float, span_mv: float) -> float:
    """How long a lead must stay at its extreme to be saturated, however it came there."""
    is_far = abs(float(np.nanmedian(signal_mv_t)) - extreme_mv) >= SATURATED_DISTANCE * span_mv
    return FLAT_S if is_far else SATURATED_S


def _stuck(signal_mv_t: Signal, extreme_mv: float, fs_hz: float, jump_mv: float, saturated_s: float) -> float:
    """Share of samples in runs at the extreme that a jump begins or ends, or that last ``saturated_s``."""
    least, n_samples, n_stuck = max(3, math.ceil(CLIPPED_S * fs_hz)), signal_mv_t.size, 0
    begins, ends = _runs(np.flatnonzero(signal_mv_t == extreme_mv))
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        jumps_mv = [abs(float(signal_mv_t[t]) - extreme_mv) for t in (begin - 1, end) if 0 <= t < n_samples]
        is_cut = end - begin >= least and max(jumps_mv, default=0.0) >= jump_mv
        if is_cut or end - begin >= saturated_s * fs_hz:
            n_stuck += end - begin
    return n_stuck / n_samples


def _noise_mv(envelope: Envelope) -> npt.NDArray[np.float64]:
    """Noise between the beats: the power of the band in the quietest quarter of the time.

    The power of noise in a band is distributed exponentially: its lower quartile is ln(4/3) of its mean.
    """
    power_lp, whole_hz = envelope.power_mv2_lp, 3 / 8 * (NOISE_HZ[1] - NOISE_HZ[0])
    if envelope.width_hz < 0.499 * whole_hz or not power_lp.shape[1]:
        return np.full(len(power_lp), np.nan)
    is_told_lp = ~np.isnan(power_lp)
    if is_told_lp.all():
        quiet = power_lp.shape[1] // 4
        quartile_l = np.partition(power_lp, quiet, axis=1)[:, quiet]
    else:
        # What is missing is sorted behind the rest.
        quiet_l1 = np.count_nonzero(is_told_lp, axis=1, keepdims=True) // 4
        quartile_l = np.take_along_axis(np.sort(power_lp, axis=1), quiet_l1, axis=1)[:, 0]
    return np.sqrt(quartile_l.astype(np.float64) * (WHITE_HZ / envelope.width_hz / math.log(4 / 3)))


def _runs(places: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Begin and end of the runs of neighbours in ascending ``places``."""
    breaks = np.flatnonzero(places[1:] != places[:-1] + 1)
    begins = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [places.size - 1]])] + 1
    return begins, ends


def rounded(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Three significant digits: more would be noise, and would not compress."""
    values = np.asarray(values, dtype=np.float64)
    size = np.where(np.isfinite(values) & (values != 0), np.abs(values), 1.0)
    scale = 10.0 ** (2 - np.floor(np.log10(size)))
    rounded: npt.NDArray[np.float64] = np.rint(values * scale) / scale
    return rounded


def _gram(grid_rlg: Signal, grid_hz: float) -> npt.NDArray[np.float64]:
    """Mean products of the leads' differences x(t + 0.1 s) − x(t), of shape (records, leads, leads).

    Differences keep P, QRS and T and lose the baseline. What folds back from above 50 Hz does so alike in all leads.
    """
    n = grid_rlg.shape[2]
    lag = min(max(1, round(_LAG_S * grid_hz)), n - 1)
    change_rlg = grid_rlg[:, :, lag::2] - grid_rlg[:, :, : n - lag : 2]
    gram_rll = change_rlg @ change_rlg.transpose(0, 2, 1)
    if not np.isfinite(gram_rll).all():
        # An absent lead is zero everywhere; where another one has a gap, all have one.
        is_empty_rl = np.isnan(change_rlg).all(axis=2)
        change_rlg[is_empty_rl] = 0.0
        change_rlg *= ~np.isnan(change_rlg).any(axis=1, keepdims=True)
        change_rlg = np.nan_to_num(change_rlg)
        gram_rll = change_rlg @ change_rlg.transpose(0, 2, 1)
    mean_rll: npt.NDArray[np.float64] = gram_rll.astype(np.float64) / max(1, change_rlg.shape[2])
    return mean_rll


def _suspects(
    gram_rll: npt.NDArray[np.float64],
    range_rl: npt.NDArray[np.floating],
    states: Sequence[Sequence[LeadState]],
    leads: tuple[str, ...],
    step_mv_rl: npt.NDArray[np.float64],
) -> list[tuple[str, ...]]:
    about: list[list[str]] = [[] for _ in states]
    power_rl = np.einsum("rll->rl", gram_rll)
    is_measured_rl = np.array([[state is LeadState.MEASURED for state in its] for its in states]) & (power_rl > 0)
    for r, text in _amplitudes(range_rl, is_measured_rl, leads):
        about[r].append(text)
    place = {lead: i for i, lead in enumerate(leads)}
    if "I" in place and "II" in place:
        both_r = is_measured_rl[:, place["I"]] & is_measured_rl[:, place["II"]]
        for r, text in _limb_leads(gram_rll, both_r, is_measured_rl, place, step_mv_rl):
            about[r].append(text)
    if place.keys() >= set(_INDEPENDENT):
        at = np.array([place[lead] for lead in _INDEPENDENT])
        rows = np.flatnonzero(is_measured_rl[:, at].all(axis=1))
        for r, text in _exchanges(gram_rll[rows[:, None, None], at[:, None], at]):
            about[rows[r]].append(text)
    return [tuple(texts) for texts in about]


def _amplitudes(
    range_rl: npt.NDArray[np.floating], is_measured_rl: npt.NDArray[np.bool_], leads: tuple[str, ...]
) -> list[tuple[int, str]]:
    """Voltages that no heart makes."""
    range_rl = np.where(is_measured_rl, range_rl, np.nan)
    found = []
    # Most records are done after this one look.
    highest_r = np.fmax.reduce(range_rl, axis=1)
    for r in np.flatnonzero((highest_r > min(ARTEFACT_MV, HUGE_MV)) | (highest_r < TINY_MV)):
        middle_mv = float(np.nanmedian(range_rl[r]))
        if highest_r[r] < TINY_MV:
            found.append((int(r), f"no lead spans more than {highest_r[r]:.2g} mV: is the gain right?"))
        elif middle_mv > HUGE_MV:
            found.append((int(r), f"the leads span {middle_mv:.3g} mV: is the gain right?"))
        else:
            beyond = [lead for lead, span_mv in zip(leads, range_rl[r], strict=True) if span_mv > ARTEFACT_MV]
            if beyond:
                found.append((int(r), f"artefact of {highest_r[r]:.3g} mV in {', '.join(beyond)}?"))
    return found


def _limb_leads(
    gram_rll: npt.NDArray[np.float64],
    both_r: npt.NDArray[np.bool_],
    is_measured_rl: npt.NDArray[np.bool_],
    place: dict[str, int],
    step_mv_rl: npt.NDArray[np.float64],
) -> list[tuple[int, str]]:
    """Sums that don't hold, and a limb lead without voltage (Einthoven, Goldberger)."""
    found: list[tuple[int, str]] = []
    i, ii = place["I"], place["II"]
    sums = [lead for lead in LIMB_LEADS if lead in place and lead not in ("I", "II")]
    weights_s1l = np.zeros((len(sums), 1, gram_rll.shape[1]))
    for s, lead in enumerate(sums):
        weights_s1l[s, 0, [i, ii, place[lead]]] = *LIMB_LEADS[lead], -1.0
    residual_rs = _traces(gram_rll, weights_s1l) if sums else np.zeros((len(gram_rll), 0))
    # The second bound is what float32 leaves of large leads, the third what coarse steps do: each sample is off by a
    # twelfth of a squared step, and a difference of two samples by a sixth.
    large_r = 1e-3 * (gram_rll[:, i, i] + gram_rll[:, ii, ii])
    rounding_rs = (step_mv_rl**2 / 6) @ (weights_s1l[:, 0] ** 2).T
    bound_rs = np.maximum(np.maximum(RESIDUAL_MV**2, large_r)[:, None], ROUNDING_RATIO**2 * rounding_rs)
    off: dict[int, list[str]] = {}
    for r, s in np.argwhere(both_r[:, None] & (residual_rs > bound_rs)).tolist():
        if is_measured_rl[r, place[sums[s]]]:
            off.setdefault(r, []).append(sums[s])
    found += [(r, f"limb leads don't add up: {', '.join(names)}") for r, names in off.items()]
    power_r3 = np.stack(
        [gram_rll[:, i, i], gram_rll[:, ii, ii], gram_rll[:, i, i] + gram_rll[:, ii, ii] - 2 * gram_rll[:, i, ii]], 1
    )
    order = np.argsort(power_r3, axis=1)
    smallest_r, next_r = np.take_along_axis(power_r3, order[:, :2], 1).T
    causes = (
        "I is flat: both arm electrodes on the legs?",
        "II is flat: right arm and right leg electrodes (RA, RL) swapped?",
        "III is flat: left arm and right leg electrodes (LA, RL) swapped?",
    )
    is_flat_r = both_r & (smallest_r < FLAT_RATIO**2 * next_r) & (power_r3.max(axis=1) < ARTEFACT_MV**2 / 100)
    return found + [(int(r), causes[order[r, 0]]) for r in np.flatnonzero(is_flat_r)]


@lru_cache(maxsize=1)
def _hypotheses() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per hypothesis, the first of which is "as named": the lack of each lead, and the leads, by those recorded."""
    mends = [np.eye(8)]
    for _, weights in _LIMB_SWAPS:
        mend = np.eye(8)
        mend[:2, :2] = weights
        mends.append(mend)
    for _, order in _CHEST_SWAPS:
        mends.append(np.eye(8)[[0, 1, *(2 + v for v in order)]])
    mends_hjk = np.stack(mends)
    return _LACK @ mends_hjk, mends_hjk


def _exchanges(gram_rjk: npt.NDArray[np.float64]) -> list[tuple[int, str]]:
    """Exchanges of electrodes that explain a record better than its names do, and leads that are copies.

    Each of I, II, V1 … V6 can be told from the others, since all see one heart; an exchange is found by how much
    better they tell each other once it is undone (Kors and van Herpen, Am J Cardiol 2001;88:396).
    """
    if not len(gram_rjk):
        return []
    lacks_hjk, mends_hjk = _hypotheses()
    lack_rh = _traces(gram_rjk, lacks_hjk) / _traces(gram_rjk, mends_hjk)
    best_r = 1 + lack_rh[:, 1:].argmin(axis=1)
    of_best_r = np.take_along_axis(lack_rh, best_r[:, None], 1)[:, 0]
    found = [
        (int(r), _SWAPS[best_r[r] - 1])
        for r in np.flatnonzero((lack_rh[:, 0] > SWAP_RATIO * of_best_r) & (of_best_r < SWAP_FIT))
    ]
    size_rj = np.sqrt(np.einsum("rjj->rj", gram_rjk))
    alike_rjk = np.triu(gram_rjk / (size_rj[:, :, None] * size_rj[:, None, :]), 1)
    for r, j, k in np.argwhere(alike_rjk > SAME_CORRELATION):
        found.append((int(r), f"{_INDEPENDENT[j]} and {_INDEPENDENT[k]} are the same signal"))
    return found


def _traces(gram_rjk: npt.NDArray[np.float64], weights_hjk: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Trace of W G Wᵀ for every record and hypothesis."""
    squares_hkk = weights_hjk.transpose(0, 2, 1) @ weights_hjk
    return gram_rjk.reshape(len(gram_rjk), -1) @ squares_hkk.reshape(len(weights_hjk), -1).T


def signature(counts_lt: npt.NDArray[np.int16], fs_hz: float, leads: Sequence[str] = LEADS_12) -> int:
    """:func:`signatures` of one record, int16 (leads, samples)."""
    return signatures([counts_lt], fs_hz, leads)[0]


def signatures(
    counts_rlt: Sequence[npt.NDArray[np.int16]] | npt.NDArray[np.int16],
    fs_hz: float,
    leads: Sequence[str] = LEADS_12,
) -> list[int]:
    """Fingerprints of 64 bits, of conditioned records of one shape: alike for alike signals.

    Second differences of 40 ms means in four leads, each lead scaled to its own size, are projected on 64 fixed
    random directions; each bit is a sign (random hyperplanes: Charikar, STOC 2002). Gain, sampling rate, the usual
    filters and a little noise change few bits; two different records differ in about 32. Only the first 10 s count.
    Of a store without I, II, V2 or V5 its first four leads are taken. 0 means that nothing changes in them.
    """
    at = _signed(tuple(leads))
    n_samples = min(counts_rlt[0].shape[1], math.ceil(SIGNED_S * fs_hz) + 1)
    signed_rlt = np.empty((len(counts_rlt), len(at), n_samples), dtype=np.float32)
    for r, counts_lt in enumerate(counts_rlt):
        signed_rlt[r] = counts_lt[at, :n_samples]
    if signed_rlt.min() == NOT_RECORDED:
        signed_rlt[signed_rlt == NOT_RECORDED] = 0.0
    change_rlb = np.diff(block_means(signed_rlt, fs_hz), n=2, axis=2)
    # From here on whole numbers, whose sums are exact in any order: every processor gets the same bits.
    change_rlb *= 8
    np.rint(change_rlb, out=change_rlb)
    size_rl = np.sqrt(np.square(change_rlb, dtype=np.float64).sum(axis=2) / max(1, change_rlb.shape[2]))
    is_alive_rl = size_rl > 8.0 * _LEAST_COUNTS
    scale_rl = is_alive_rl * 16.0 / np.where(is_alive_rl, size_rl, 1.0)
    change_rlb *= scale_rl.astype(np.float32)[:, :, None]
    np.rint(change_rlb, out=change_rlb)
    # An artefact counts no more than a heartbeat.
    np.minimum(change_rlb, 64, out=change_rlb)
    np.maximum(change_rlb, -64, out=change_rlb)
    directions = _directions().reshape(len(SIGNED_LEADS), _N_BLOCKS - 2, 64)[: len(at), : change_rlb.shape[2]]
    sides_rk = change_rlb.reshape(len(change_rlb), -1) @ directions.reshape(-1, 64) > 0
    packed = np.packbits(sides_rk, axis=1, bitorder="little").view(np.dtype("<u8"))[:, 0]
    return [int(bits) for bits in packed]


def _signed(leads: tuple[str, ...]) -> list[int]:
    if set(SIGNED_LEADS) <= set(leads):
        return [leads.index(lead) for lead in SIGNED_LEADS]
    return list(range(min(len(leads), len(SIGNED_LEADS))))


def block_means(signal_rlt: npt.NDArray[np.float32], fs_hz: float) -> npt.NDArray[np.float32]:
    """Means over blocks of 40 ms of (records, leads, samples) by the trapezoidal rule: the rate makes no difference.

    At most 250 blocks, 10 s; a short record has fewer. A block in which anything is NaN is NaN.
    """
    n_samples = signal_rlt.shape[2]
    n_blocks = min(_N_BLOCKS, math.floor((n_samples - 1) / (fs_hz * _BLOCK_S) + 1e-9))
    if n_blocks < 1:
        return np.zeros((*signal_rlt.shape[:2], 0), dtype=np.float32)
    edges = np.arange(n_blocks + 1) * (_BLOCK_S * fs_hz)
    # Whole samples inside each block, then what its edges cut: the signal's integral, the signal taken as straight
    # between samples. Sums start at zero in each block, so float32 is enough.
    low = np.minimum(edges.astype(np.int64), n_samples - 2)
    share = (edges - low).astype(np.float32)
    inside_rlb = np.add.reduceat(signal_rlt, low, axis=2)[:, :, :-1]
    at_low_rlb, at_high_rlb = signal_rlt[:, :, low], signal_rlt[:, :, low + 1]
    # The straight line from the sample at or before an edge to the edge, and the half sample that the sum lacks.
    cut_rlb = at_low_rlb * (0.5 + share - share**2 / 2) + at_high_rlb * (share**2 / 2)
    blocks_rlb = inside_rlb + (cut_rlb[:, :, 1:] - cut_rlb[:, :, :-1])
    blocks_rlb /= np.float32(_BLOCK_S * fs_hz)
    return np.asarray(blocks_rlb)


@lru_cache(maxsize=1)
def _directions() -> npt.NDArray[np.float32]:
    """±1 for every lead, block and bit, from a hash: a generator's stream may change between releases of NumPy."""
    n = len(SIGNED_LEADS) * (_N_BLOCKS - 2) * 64
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"ecgstore signature 1").digest(n // 8), dtype=np.uint8))
    return bits.astype(np.float32) * 2 - 1


def full(signal_mv_lt: Signal, leads: Sequence[str], fs_hz: float) -> tuple[float, float]:
    """Heart rate in beats per minute and signal quality index (0 to 1) of one record by neurokit2; tens of ms.

    R peaks are those of II (or the first lead that is whole); the index is neurokit2's "averageQRS", the mean
    likeness of each beat to the average one. NaN for what can't be told. Raises MissingExtra without neurokit2.
    """
    lead_t = _for_peaks(signal_mv_lt, leads)
    neurokit = need("neurokit2", "ingest")
    heart_rate_bpm = sqi = math.nan
    if lead_t is None or not lead_t.any():
        return heart_rate_bpm, sqi
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # neurokit2 fails in many ways on signals without beats; none of them says more than "can't be told".
        try:
            cleaned_t = neurokit.ecg_clean(lead_t.astype(np.float64), sampling_rate=round(fs_hz))
            _, found = neurokit.ecg_peaks(cleaned_t, sampling_rate=round(fs_hz))
            peaks = np.asarray(found["ECG_R_Peaks"])
            if peaks.size >= 2:
                heart_rate_bpm = 60.0 * fs_hz / float(np.median(np.diff(peaks)))
            quality_t = neurokit.ecg_quality(cleaned_t, rpeaks=peaks, sampling_rate=round(fs_hz), method="averageQRS")
            sqi = float(np.nanmean(np.asarray(quality_t, dtype=np.float64)))
        except EcgError:
            raise
        except Exception:
            pass
    return float(rounded(np.array(heart_rate_bpm))), float(rounded(np.array(sqi)))


def _for_peaks(signal_mv_lt: Signal, leads: Sequence[str]) -> Signal | None:
    order = sorted(range(len(leads)), key=lambda i: leads[i] != "II")
    return next((signal_mv_lt[i] for i in order if np.isfinite(signal_mv_lt[i]).all()), None)
