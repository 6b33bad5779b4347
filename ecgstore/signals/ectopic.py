"""Which beats of a recording are ectopic, and what they look like on average.

QRS complexes are where all leads together are steep. They are sorted into forms: beats that look alike in all leads.
One form is the patient's own, the others are judged against it: a ventricular beat is wide, comes early or in a fast
run, and looks different. Nothing is learned and nothing is drawn: the same signal gives the same beats. docs/beats.md
says how often that is right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import need

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Differences are of means over so long, and steepness is a mean over so long.
_MEAN_S, _ENVELOPE_S = 0.02, 0.1
#: No two beats are closer; a beat has so much of the steepness (squared) of the usual one.
APART_S, _LEAST_SHARE = 0.24, 0.05
#: What follows a beat within this time and has less than this share of its steepness (squared) is its T wave.
T_WAVE_S, _T_WAVE_SHARE = 0.40, 0.25
#: What two beats are compared by: from so long before to so long after their middle, and moved by at most so much.
_FORM_S, _MOVED_S = 0.12, 0.04
#: Beats whose correlation is at least this are of one form.
ALIKE = 0.85
#: How far from its middle a QRS complex reaches at most.
_REACH_S = 0.14
#: An ectopic form is wider than the patient's own by this factor, and comes earlier than its next beat would by this.
WIDER, EARLIER = 1.06, 0.93
#: Where all beats are of one form it is ectopic if its complexes are as wide as this, in s, and as fast as this: a
#: tachycardia from the first to the last sample. A wide complex at a slower rate is a bundle branch block.
WIDE_S, FAST_S = 0.11, 0.6


class Complexes(NamedTuple):
    """QRS complexes, (beats,): the sample of their middle, and how wide they are, in s.

    Middle and width are the mean and four standard deviations of where the steepness (squared) lies in time.
    """

    middles: Ints
    widths_s: Floats


class Forms(NamedTuple):
    """Of each beat the number of its form, 0 for the most common one, (beats,); and which beats are ectopic."""

    form: Ints
    is_ectopic: Bools


def complexes(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float) -> Complexes:
    """The QRS complexes of (leads, samples) in mV; NaN, what was not recorded, is flat."""
    find_peaks = need("scipy.signal", "ingest").find_peaks
    squared_t = steepness(signal_mv_lt, fs_hz)
    steep_t = _mean(squared_t[None], _ENVELOPE_S, fs_hz)[0]
    usual = _usual(steep_t, fs_hz)
    if not usual > 0:
        return Complexes(np.empty(0, np.int64), np.empty(0))
    least = _LEAST_SHARE * usual
    peaks, _ = find_peaks(steep_t, height=least, distance=max(1, round(APART_S * fs_hz)), prominence=least)
    found = [_extent(squared_t, peak, fs_hz) for peak in _without_t_waves(steep_t, peaks.tolist(), fs_hz)]
    # A beat that is cut off by an end of the recording looks like no other.
    reach = _REACH_S * fs_hz
    found = [one for one in found if reach <= one[0] < len(steep_t) - reach]
    return Complexes(np.array([one for one, _ in found], np.int64), np.array([one for _, one in found], np.float64))


def _without_t_waves(steep_t: Floats, peaks: list[int], fs_hz: float) -> list[int]:
    kept: list[int] = []
    for peak in peaks:
        follows = bool(kept) and peak - kept[-1] < T_WAVE_S * fs_hz
        if not (follows and steep_t[peak] < _T_WAVE_SHARE * steep_t[kept[-1]]):
            kept.append(peak)
    return kept


def steepness(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float) -> Floats:
    """How steep all leads together are, squared: (mV/s)², (samples,)."""
    signal_lt = np.asarray(signal_mv_lt, dtype=np.float64)
    change_lt = np.diff(signal_lt, axis=1, prepend=signal_lt[:, :1]) * fs_hz
    change_lt = _mean(np.nan_to_num(change_lt), _MEAN_S, fs_hz)
    return np.asarray(np.square(change_lt).sum(axis=0))


def steepest_complex(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float) -> tuple[float, float]:
    """Middle and width in s, from the first sample on, of the steepest QRS complex; NaN where all is flat."""
    squared_t = steepness(signal_mv_lt, fs_hz)
    steep_t = _mean(squared_t[None], _ENVELOPE_S, fs_hz)[0]
    if not steep_t.size or not steep_t.max() > 0:
        return float("nan"), float("nan")
    middle, width_s = _extent(squared_t, int(steep_t.argmax()), fs_hz)
    return middle / fs_hz, width_s


def _mean(values_lt: Floats, width_s: float, fs_hz: float) -> Floats:
    """Mean over ``width_s`` around each sample, with zeros beyond the ends."""
    half = max(0, round(width_s * fs_hz / 2))
    sums_lt = np.cumsum(np.pad(values_lt, ((0, 0), (half + 1, half))), axis=1)
    means: Floats = (sums_lt[:, 2 * half + 1 :] - sums_lt[:, : -2 * half - 1]) / (2 * half + 1)
    return means


def _usual(steep_t: Floats, fs_hz: float) -> float:
    """The steepness of a usual beat: the median of what each 1.5 s reach, which hold a beat at 40 a minute or more."""
    length = max(1, round(1.5 * fs_hz))
    most = [steep_t[i : i + length].max() for i in range(0, len(steep_t), length) if len(steep_t) - i >= length / 2]
    return float(np.median(most)) if most else 0.0


def _extent(squared_t: Floats, peak: int, fs_hz: float) -> tuple[int, float]:
    """Middle and width in s of the QRS complex at ``peak``; a second look is around the middle of the first."""
    reach, middle, width_s = round(_REACH_S * fs_hz), float(peak), 0.0
    for _ in range(2):
        at_t = np.arange(max(0, round(middle) - reach), min(len(squared_t), round(middle) + reach + 1))
        weight_t = squared_t[at_t] / squared_t[at_t].sum()
        middle = float(weight_t @ at_t)
        width_s = 4 * float(np.sqrt(weight_t @ np.square(at_t - middle))) / fs_hz
    return round(middle), width_s


def forms(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, found: Complexes) -> Forms:
    """Sort beats by how they look, and judge which are ectopic."""
    n = len(found.middles)
    if n == 0:
        return Forms(np.empty(0, np.int64), np.empty(0, np.bool_))
    form = _sorted(signal_mv_lt, fs_hz, found.middles)
    return Forms(form, _ectopic(form, found, fs_hz))


def _sorted(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, middles: Ints) -> Ints:
    """Average linkage by the likeness of beats, until no two forms are alike any more."""
    alike_nn = likeness(signal_mv_lt, fs_hz, middles)
    cluster = need("scipy.cluster.hierarchy", "ingest")
    if len(middles) == 1:
        return np.zeros(1, np.int64)
    upper = np.triu_indices(len(middles), 1)
    tree = cluster.linkage(np.maximum(1 - alike_nn[upper], 0), "average")
    label = cluster.fcluster(tree, 1 - ALIKE, "distance")
    _, label, counts = np.unique(label, return_inverse=True, return_counts=True)
    first = [int(np.flatnonzero(label == one)[0]) for one in range(len(counts))]
    order = sorted(range(len(counts)), key=lambda one: (-counts[one], first[one]))
    rank = np.empty(len(counts), np.int64)
    rank[order] = np.arange(len(counts))
    form: Ints = rank[label]
    return form


def likeness(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, middles: Ints) -> Floats:
    """Correlation of each beat with each other over all leads, at the best of small shifts: (beats, beats)."""
    half, most = round(_FORM_S * fs_hz), round(_MOVED_S * fs_hz)
    steps = range(-most, most + 1, max(1, round(0.004 * fs_hz)))
    still_nd = _cut(signal_mv_lt, middles, half)
    best_nn = np.full((len(middles), len(middles)), -1.0)
    for step in steps:
        np.maximum(best_nn, still_nd @ _cut(signal_mv_lt, middles + step, half).T, out=best_nn)
    both: Floats = np.maximum(best_nn, best_nn.T)
    return both


def _cut(signal_mv_lt: npt.NDArray[np.floating], middles: Ints, half: int) -> Floats:
    """Beats without their mean, of length 1, (beats, leads · samples); what is not there is 0."""
    padded_lt = np.pad(np.asarray(signal_mv_lt, np.float64), ((0, 0), (2 * half, 2 * half)), constant_values=np.nan)
    at_nt = np.clip(middles[:, None] + np.arange(-half, half + 1) + 2 * half, 0, padded_lt.shape[1] - 1)
    cut_nlt = padded_lt[:, at_nt].transpose(1, 0, 2)
    there_nlt = np.isfinite(cut_nlt)
    n_nl = np.maximum(there_nlt.sum(axis=2, keepdims=True), 1)
    cut_nlt = np.where(there_nlt, cut_nlt, 0)
    cut_nlt = np.where(there_nlt, cut_nlt - cut_nlt.sum(axis=2, keepdims=True) / n_nl, 0)
    flat_nd = cut_nlt.reshape(len(middles), -1)
    norm_n1 = np.linalg.norm(flat_nd, axis=1, keepdims=True)
    unit: Floats = flat_nd / np.where(norm_n1 > 0, norm_n1, 1)
    return unit


def _ectopic(form: Ints, found: Complexes, fs_hz: float) -> Bools:
    """Which beats are of an ectopic form."""
    n_forms = int(form.max()) + 1
    width_f = np.array([np.median(found.widths_s[form == one]) for one in range(n_forms)])
    counts_f = np.bincount(form)
    rr_s = np.diff(found.middles) / fs_hz
    if n_forms == 1:
        is_fast = bool(rr_s.size and np.median(rr_s) < FAST_S)
        return np.full(len(form), is_fast and bool(width_f[0] >= WIDE_S))
    own = _own_form(form, width_f, counts_f)
    own_rr_s = rr_s[(form[:-1] == own) & (form[1:] == own)]
    is_ectopic_f = np.zeros(n_forms, np.bool_)
    for one in range(n_forms):
        coupled_s = rr_s[form[1:] == one]
        if one == own or not coupled_s.size:
            continue
        # In bigeminy no own beat follows another: then a beat is early that comes before the middle of its neighbours.
        usual_s = np.median(own_rr_s) if own_rr_s.size else rr_s.mean()
        is_early = bool(np.median(coupled_s) < EARLIER * usual_s)
        is_ectopic_f[one] = is_early and width_f[one] >= WIDER * width_f[own]
    return is_ectopic_f[form]


def _own_form(form: Ints, width_f: Floats, counts_f: Ints) -> int:
    """The patient's own beats: the narrowest form of those that are not rare."""
    common = np.flatnonzero(counts_f >= max(2, 0.15 * counts_f.sum()))
    common = common if common.size else np.arange(len(counts_f))
    return int(common[np.argmin(width_f[common])])


def ectopic_beats(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float) -> Ints:
    """The middles of the ectopic beats of the commonest ectopic form, ascending; none where there are none."""
    found = complexes(signal_mv_lt, fs_hz)
    judged = forms(signal_mv_lt, fs_hz, found)
    if not judged.is_ectopic.any():
        return np.empty(0, np.int64)
    middles: Ints = found.middles[judged.form == judged.form[judged.is_ectopic].min()]
    return middles


def commonest_form(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, samples: Ints) -> Ints:
    """The middles of the complexes at ``samples``, near which somebody marked beats: those of the commonest form.

    A mark stands somewhere in its complex: at its beginning, its R peak or its largest deflection.
    """
    squared_t = steepness(signal_mv_lt, fs_hz)
    steep_t = _mean(squared_t[None], _ENVELOPE_S, fs_hz)[0]
    reach, middles = round(APART_S * fs_hz / 2), []
    for sample in samples.tolist():
        begin = max(0, sample - reach)
        near_t = steep_t[begin : sample + reach + 1]
        if near_t.size and near_t.max() > 0:
            middles.append(_extent(squared_t, begin + int(near_t.argmax()), fs_hz)[0])
    found = np.unique(np.array(middles, np.int64))
    commonest: Ints = found[_sorted(signal_mv_lt, fs_hz, found) == 0] if found.size else found
    return commonest


def average(
    signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, middles: Ints, n_before: int, n_after: int
) -> tuple[npt.NDArray[np.float32], int]:
    """The mean of the beats at ``middles`` and how many they are: (leads, ``n_before`` + ``n_after``) in mV, float32.

    Beats are moved by up to 40 ms until they lie upon each other, all leads together; the middle of the mean beat is at
    sample ``n_before``. Those that are cut off by an end of the recording, or have a gap, count only where no other is
    whole; what is in none of them is NaN.
    """
    middles = _aligned(signal_mv_lt, fs_hz, middles)
    padded_lt = np.asarray(signal_mv_lt, np.float64)
    room = n_before + n_after + round(2 * _REACH_S * fs_hz)
    padded_lt = np.pad(padded_lt, ((0, 0), (room, room)), constant_values=np.nan)
    is_absent_l = ~np.isfinite(padded_lt).any(axis=1)
    at_nt = middles[:, None] + np.arange(-n_before, n_after) + room
    beats_nlt = padded_lt[:, at_nt].transpose(1, 0, 2)
    is_whole_n = np.isfinite(beats_nlt[:, ~is_absent_l]).all(axis=(1, 2))
    if is_whole_n.any():
        mean_lt = beats_nlt[is_whole_n].mean(axis=0)
        return mean_lt.astype(np.float32), int(is_whole_n.sum())
    there_nlt = np.isfinite(beats_nlt)
    sums_lt, n_lt = np.where(there_nlt, beats_nlt, 0).sum(axis=0), there_nlt.sum(axis=0)
    mean_lt = np.where(n_lt > 0, sums_lt / np.maximum(n_lt, 1), np.nan)
    return mean_lt.astype(np.float32), len(middles)


def _aligned(signal_mv_lt: npt.NDArray[np.floating], fs_hz: float, middles: Ints) -> Ints:
    """Middles of which all are the same moment of their beat; the mean beat keeps its own middle."""
    half, most = round(_FORM_S * fs_hz), round(_MOVED_S * fs_hz)
    steps = np.arange(-most, most + 1)
    best_n = np.zeros(len(middles), np.int64)
    if len(middles) > 1:
        cuts_snd = np.stack([_cut(signal_mv_lt, middles + step, half) for step in steps])
        best_n = np.full(len(middles), most)
        for _ in range(2):
            mean_d = cuts_snd[best_n, np.arange(len(middles))].mean(axis=0)
            best_n = (cuts_snd @ mean_d).argmax(axis=0)
        best_n = best_n - most
    moved = middles + best_n
    whole = moved[(moved >= 2 * half) & (moved < np.shape(signal_mv_lt)[1] - 2 * half)]
    if not whole.size:
        return moved
    around = np.asarray(signal_mv_lt, np.float64)[:, whole[:, None] + np.arange(-2 * half, 2 * half + 1)].mean(axis=1)
    middle, _ = _extent(steepness(around, fs_hz), 2 * half, fs_hz)
    return moved + (middle - 2 * half)
