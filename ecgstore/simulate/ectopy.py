"""Sinus beats and ventricular beats of known origin, from the two ventricles of one virtual patient to twelve leads.

Each point of the heart's surface keeps a transmembrane voltage: it rises when the wave arrives and falls after the
duration of the action potential. A double layer of that strength in a spherical chest gives the potentials at the
electrodes. All beats of a patient are of the same heart in the same chest: only where they begin differs.

Body frame, in mm from the centre of the chest: x to the left, y to the feet, z to the back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ecgstore.errors import need
from ecgstore.record import Sex
from ecgstore.simulate import dipole, torso, ventricles
from ecgstore.simulate.ventricles import Bools, Floats, Ints, Speeds, Ventricles

#: Height of an action potential, and conductivity inside the cells over that of the chest.
ACTION_POTENTIAL_MV, CONDUCTIVITY_RATIO = 100.0, 0.34
#: Width of the upstroke as a Gaussian; a single cell is faster, but points are some ms apart.
UPSTROKE_S = 0.0045
#: The fall of an action potential: slow at first, then faster (standard deviations before and after its steepest part).
FALL_S = (0.052, 0.026)
#: Where the network of Purkinje excites the muscle first (after Durrer et al. 1970, doi:10.1161/01.CIR.41.6.899):
#: wall, angle about the long axis in degrees, level from base to apex, delay in s.
EARLY_SITES = (
    (ventricles.LV, 170.0, 0.45, 0.0),
    (ventricles.LV, 112.0, 0.40, 0.003),
    (ventricles.LV, 245.0, 0.60, 0.004),
    (ventricles.RV, 165.0, 0.60, 0.009),
)
#: Beats that begin earlier before a recording have ended when it begins.
MARGIN_S = 1.2
#: Purkinje's network ends so far from the base.
BARE_MM = 15.0


@dataclass(frozen=True, slots=True)
class Scar:
    """Muscle that an infarct has left: points nearer than ``radius_mm`` to ``point``; or of its inner part."""

    point: int
    radius_mm: float
    is_transmural: bool


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """One virtual patient: heart and chest.

    ``scale`` (3,) stretches the reference heart along its axes. ``yaw_deg`` is the angle of the long axis from the
    front to the left, ``pitch_deg`` to the feet, ``roll_deg`` turns the heart about it. ``base_mm`` (3,) is the centre
    of the mitral ring in the chest of radius ``chest_mm``. Speeds are in m/s; ``gain`` stands for all that makes
    voltages high or low; ``apd_s`` is the duration of an action potential at an RR interval of 1 s.
    """

    age_years: int
    sex: Sex
    scale: Floats
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    base_mm: Floats
    chest_mm: float
    electrodes_deg: Floats
    muscle_speed: float
    endocardium_speed: float
    purkinje_speed: float
    gain: float
    apd_s: float
    rate_bpm: float
    pr_s: float
    scar: Scar | None


class Model(NamedTuple):
    """A patient's heart with all that beats share: places, what is scar, sinus activation and lengths of action."""

    heart: Ventricles
    blocked: Bools
    sinus_s: Floats
    #: Difference of each point's action potential from the patient's mean, in s.
    apd_change_s: Floats


class Recording(NamedTuple):
    """Twelve leads, (12, samples) in mV, with the beats in it: samples of their middles and which are ectopic.

    ``qrs_s`` is the time from the first to the last activation of the ectopic beats.
    """

    signal_mv_lt: Floats
    beat_samples: Ints
    is_ectopic: Bools
    qrs_s: float


# ── Who it is ────────────────────────────────────────────────────────────────────────────────────────────


def draw_patient(draw: np.random.Generator, *, fast_endocardium: bool = True, scars: float = 0.3) -> Patient:
    """Draw somebody; a share ``scars`` has an infarct scar. Sex and age say nothing of where beats begin."""
    age_years = int(np.clip(draw.normal(55, 15), 18, 90))
    sex: Sex = "female" if draw.random() < 0.5 else "male"
    size = (0.95 if sex == "female" else 1.02) * float(np.exp(draw.normal(0, 0.05)))
    width, length = np.exp(draw.normal(0, 0.05, 2))
    chest_mm = (143.0 if sex == "female" else 153.0) * float(np.exp(draw.normal(0, 0.05)))
    speed = float(np.clip(draw.normal(0.58, 0.045), 0.48, 0.70))
    return Patient(
        age_years=age_years,
        sex=sex,
        scale=size * np.array([width, width, length]),
        yaw_deg=float(draw.normal(51, 8)),
        pitch_deg=float(draw.normal(38 + 0.1 * (55 - age_years), 8)),
        roll_deg=float(draw.normal(10, 8)),
        base_mm=chest_mm * np.array([0.10, -0.10, -0.27]) + draw.normal(0, (5.0, 6.0, 5.0)),
        chest_mm=chest_mm,
        electrodes_deg=draw.normal(0, (3.0, 3.5), (len(torso.ELECTRODES), 2)),
        muscle_speed=speed,
        endocardium_speed=speed * (float(draw.uniform(1.35, 1.75)) if fast_endocardium else 1.0),
        purkinje_speed=float(np.clip(draw.normal(1.65, 0.15), 1.3, 2.1)),
        gain=float(np.exp(draw.normal(0, 0.18))),
        apd_s=float(np.clip(draw.normal(0.290, 0.015), 0.25, 0.33)),
        rate_bpm=float(np.clip(draw.normal(72, 9), 52, 98)),
        pr_s=float(np.clip(draw.normal(0.155, 0.018), 0.115, 0.198)),
        scar=_draw_scar(draw) if draw.random() < scars else None,
    )


def _draw_scar(draw: np.random.Generator) -> Scar:
    heart = ventricles.reference_heart()
    inside = np.flatnonzero((heart.wall == ventricles.LV) & (heart.layer == ventricles.ENDO))
    return Scar(int(draw.choice(inside)), float(draw.uniform(12, 22)), bool(draw.random() < 0.5))


def model(patient: Patient) -> Model:
    """The heart of ``patient``, and how a sinus beat goes through it."""
    heart = ventricles.scaled(ventricles.reference_heart(), patient.scale)
    blocked = _blocked(heart, patient.scar)
    origins, delays_s = zip(*(early_site(heart, *site, blocked) for site in EARLY_SITES), strict=True)
    speeds = Speeds(patient.muscle_speed, patient.purkinje_speed, BARE_MM)
    sinus_s = ventricles.activation_s(heart, speeds, origins, delays_s, blocked)
    return Model(heart, blocked, sinus_s, _apd_change_s(heart, sinus_s))


def _blocked(heart: Ventricles, scar: Scar | None) -> Bools:
    if scar is None:
        return np.zeros(heart.n_points, dtype=bool)
    near = np.linalg.norm(heart.xyz_mm - heart.xyz_mm[scar.point], axis=1) < scar.radius_mm
    # An infarct begins at the inside. It is of the left ventricle, whatever lies on the other side of the septum.
    scarred: Bools = near & (heart.wall == ventricles.LV) & (scar.is_transmural | (heart.layer != ventricles.EPI))
    return scarred


def early_site(
    heart: Ventricles, wall: int, angle: float, level: float, delay_s: float, blocked: Bools
) -> tuple[int, float]:
    """The healthy point of the endocardium nearest to where Purkinje's network comes out, and its delay."""
    among = (heart.wall == wall) & (heart.layer == ventricles.ENDO) & ~blocked
    turn = np.abs((ventricles.angle_deg(heart.xyz_mm) - angle + 180) % 360 - 180)
    length_mm = heart.xyz_mm[heart.wall == wall][:, 2].max()
    away = np.hypot(turn / 45, (heart.xyz_mm[:, 2] / length_mm - level) * 3)
    return int(np.argmin(np.where(among, away, np.inf))), delay_s


def _apd_change_s(heart: Ventricles, sinus_s: Floats) -> Floats:
    """Action potentials are shorter outside than inside, and shorter where the wave comes late: T is upright."""
    change: Floats = np.array([0.002, 0.001, -0.003])[heart.layer]
    # Late walls have little time: the wave of recovery runs against the order of activation.
    finite = np.where(np.isfinite(sinus_s), sinus_s, 0.0)
    change = change - 1.40 * (finite - finite.mean())
    # The base is long, the apex short (after Franz et al. 1987, doi:10.1161/01.CIR.75.2.379).
    change -= 0.006 * (heart.xyz_mm[:, 2] / ventricles.LV_LENGTH_MM - 0.5)
    return change


def ectopic_activation_s(patient: Patient, made: Model, origin: int) -> Floats:
    """When a beat that begins at the point ``origin`` reaches each point, in s: (points,)."""
    speeds = Speeds(patient.muscle_speed, patient.endocardium_speed, BARE_MM)
    return ventricles.activation_s(made.heart, speeds, [origin], [0.0], made.blocked)


def axes(patient: Patient) -> Floats:
    """Rows x, y, z of the heart frame in the body frame: (3, 3)."""
    yaw, pitch, roll = np.deg2rad([patient.yaw_deg, patient.pitch_deg, patient.roll_deg])
    long = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), -np.cos(pitch) * np.cos(yaw)])
    level = np.array([np.cos(yaw), 0.0, np.sin(yaw)])
    up = np.cross(long, level)
    lateral = np.cos(roll) * level + np.sin(roll) * up
    return np.stack([lateral, np.cross(long, lateral), long])


def transfer(patient: Patient, heart: Ventricles, shift_deg: Floats) -> Floats:
    """What each electrode sees of each point's voltage, (9, points); ``shift_deg`` (9, 2) is of this visit."""
    turn = axes(patient)
    electrodes = torso.electrodes_mm(patient.chest_mm, patient.electrodes_deg + shift_deg)
    xyz_mm = heart.xyz_mm @ turn + patient.base_mm
    ratio = CONDUCTIVITY_RATIO * patient.gain
    return torso.transfer(electrodes, xyz_mm, heart.area_mm2 @ turn, patient.chest_mm, ratio)


# ── A recording ──────────────────────────────────────────────────────────────────────────────────────────


class Beats(NamedTuple):
    """Onsets of ventricular activation in s, RR intervals before them, which are ectopic."""

    onset_s: Floats
    rr_s: Floats
    ectopic: Bools


def record(
    patient: Patient, made: Model, origin: int, duration_s: float, fs_hz: int, draw: np.random.Generator
) -> Recording:
    """Record ``patient`` once, with beats from the point ``origin`` among sinus beats."""
    n_samples = round(duration_s * fs_hz)
    ectopic_s = ectopic_activation_s(patient, made, origin)
    beats = draw_beats(patient, duration_s, draw)
    weights = transfer(patient, made.heart, draw.normal(0, (1.0, 1.0), (len(torso.ELECTRODES), 2)))
    heart_mv = ventricular_mv(patient, made, weights, ectopic_s, beats, fs_hz, n_samples, draw)
    beat_samples, inside = _middles(heart_mv, beats, made.sinus_s, ectopic_s, fs_hz)
    heart_mv = heart_mv + atrial_mv(patient, beats, fs_hz, n_samples)
    measured_mv = dipole.MONTAGE @ (heart_mv + dipole.electrode_noise(n_samples, fs_hz, draw))
    # As a machine does: measured leads in whole microvolts, the others computed from these, so that III = II − I holds.
    measured_mv = np.round(measured_mv, 3)
    qrs_s = float(ectopic_s[np.isfinite(ectopic_s)].max())
    return Recording(dipole.twelve_leads(measured_mv), beat_samples, beats.ectopic[inside], qrs_s)


def draw_beats(patient: Patient, duration_s: float, draw: np.random.Generator) -> Beats:
    """Sinus rhythm with single ectopic beats and compensatory pauses, or with a run of ventricular tachycardia."""
    mean_s = 60 / patient.rate_bpm
    n_beats = int((duration_s + 4) / (0.85 * mean_s)) + 4
    rr_s = mean_s * (1 + np.clip(draw.normal(0, 0.02, n_beats), -0.06, 0.06))
    onset_s = np.cumsum(rr_s) - 2 - rr_s[0] * draw.random()
    ectopic = np.zeros(n_beats, dtype=bool)
    if draw.random() < 0.25:
        return _with_run(onset_s, mean_s, duration_s, draw)
    # Every second beat at most; a beat that comes early leaves a pause, for the next sinus beat finds its time.
    inside = np.flatnonzero((onset_s > 0.6) & (onset_s < duration_s - 0.9))
    n_ectopic = round(int(draw.integers(3, 6)) * max(1.0, duration_s / 10))
    chosen = draw.permutation(inside[int(draw.integers(2)) :: 2])[:n_ectopic]
    ectopic[chosen] = True
    coupling_s = np.clip(draw.uniform(0.56, 0.72) * mean_s + draw.normal(0, 0.012, chosen.size), 0.40, 0.62)
    onset_s[chosen] = onset_s[chosen - 1] + coupling_s
    return Beats(onset_s, np.diff(onset_s, prepend=onset_s[0] - mean_s), ectopic)


def _with_run(onset_s: Floats, mean_s: float, duration_s: float, draw: np.random.Generator) -> Beats:
    cycle_s = float(draw.uniform(0.34, 0.46))
    n_run = min(int(draw.integers(4, 12)), int((duration_s - 2) / cycle_s))
    begins_s = draw.uniform(0.8, max(0.81, duration_s - 1 - n_run * cycle_s))
    before = onset_s[onset_s < begins_s - 0.40]
    # The run begins early after a sinus beat, and the node needs its time after it.
    run_s = before[-1] + max(cycle_s, 0.40) + cycle_s * np.arange(n_run) + draw.normal(0, 0.004, n_run)
    after = np.arange(run_s[-1] + 1.25 * mean_s, duration_s + 2, mean_s)
    both = np.concatenate([before, run_s, after])
    ectopic = np.zeros(both.size, dtype=bool)
    ectopic[before.size : before.size + run_s.size] = True
    return Beats(both, np.diff(both, prepend=both[0] - mean_s), ectopic)


def ventricular_mv(
    patient: Patient,
    made: Model,
    weights: Floats,
    ectopic_s: Floats,
    beats: Beats,
    fs_hz: float,
    n_samples: int,
    draw: np.random.Generator | None = None,
) -> Floats:
    """Potentials at the electrodes of all ventricular beats, without noise: (9, samples) in mV.

    ``weights`` as of :func:`transfer`; ``ectopic_s`` when ectopic beats reach each point. Breathing changes the size
    of beats a little if there is a ``draw``.
    """
    margin = round(MARGIN_S * fs_hz)
    rises, falls = (np.zeros((len(weights), n_samples + 2 * margin)) for _ in range(2))
    breath_hz, phase = (0.25, 0.0) if draw is None else (draw.uniform(0.18, 0.33), draw.uniform(0, 2 * np.pi))
    depth = 0.0 if draw is None else draw.uniform(0.01, 0.05)
    for is_ectopic, at_s in ((False, made.sinus_s), (True, ectopic_s)):
        chosen = (beats.ectopic == is_ectopic) & (beats.onset_s > 0.3 - MARGIN_S)
        if not chosen.any():
            continue
        reached = np.isfinite(at_s)
        up = _histogram(weights[:, reached], at_s[reached] * fs_hz)
        down = _histogram(weights[:, reached], (at_s + made.apd_change_s)[reached] * fs_hz)
        for onset_s, rr_s in zip(beats.onset_s[chosen], beats.rr_s[chosen], strict=True):
            gain = 1 + depth * np.sin(2 * np.pi * breath_hz * onset_s + phase)
            # The duration of an action potential follows the root of RR (Bazett), with a memory of more than one beat.
            apd_s = patient.apd_s * np.sqrt(np.clip(0.6 * 60 / patient.rate_bpm + 0.4 * rr_s, 0.35, 1.6))
            _add(rises, up, gain, onset_s * fs_hz + margin)
            _add(falls, down, gain, (onset_s + apd_s) * fs_hz + margin)
    changes = _smoothed(rises, UPSTROKE_S, UPSTROKE_S, fs_hz) - _smoothed(falls, *FALL_S, fs_hz)
    # Whatever rises falls: summed over time it comes back to nothing.
    potential: Floats = ACTION_POTENTIAL_MV * np.cumsum(changes, axis=1)[:, margin : margin + n_samples]
    return potential


def _histogram(weights: Floats, at: Floats) -> tuple[int, Floats]:
    """The points' weights summed by time in samples, each shared between the two samples beside it, from the first."""
    low = np.floor(at).astype(np.int64)
    share, first = at - low, int(low.min())
    low -= first
    n = int(low.max()) + 2
    late = weights * share
    found = np.zeros((len(weights), n + 2))
    for row, early, later in zip(found, weights - late, late, strict=True):
        # A column of nothing on both sides, for what is shared between samples once more.
        row[1:-1] = np.bincount(low, early, n) + np.bincount(low + 1, later, n)
    return first, found


def _add(into: Floats, part: tuple[int, Floats], gain: float, at: float) -> None:
    """Add ``part``, ``at`` samples later, to ``into``; what comes after its end is left out."""
    first, weights = part
    low = int(np.floor(at))
    begin, share = first + low, at - low
    n = min(weights.shape[1] - 1, into.shape[1] - begin)
    if n > 0:
        into[:, begin : begin + n] += gain * ((1 - share) * weights[:, 1 : n + 1] + share * weights[:, :n])


def _smoothed(changes: Floats, before_s: float, after_s: float, fs_hz: float) -> Floats:
    """``changes`` spread over time by a bell of unit area with different widths on its two sides."""
    half = int(np.ceil(4 * max(before_s, after_s) * fs_hz))
    lag_s = np.arange(-half, half + 1) / fs_hz
    bell = np.exp(-0.5 * (lag_s / np.where(lag_s < 0, before_s, after_s)) ** 2)
    spread: Floats = need("scipy.signal", "ingest").fftconvolve(changes, bell[None] / bell.sum(), "same", axes=1)
    return spread


def _middles(heart_mv: Floats, beats: Beats, sinus_s: Floats, ectopic_s: Floats, fs_hz: float) -> tuple[Ints, Bools]:
    """The sample of the largest deflection within each QRS complex, and which beats lie in the recording whole."""
    n_samples = heart_mv.shape[1]
    size = np.linalg.norm(dipole.MONTAGE @ heart_mv, axis=0)
    samples = []
    inside = np.zeros(beats.onset_s.size, dtype=bool)
    ends_s = {True: ectopic_s[np.isfinite(ectopic_s)].max(), False: sinus_s[np.isfinite(sinus_s)].max()}
    for number, (onset_s, is_ectopic) in enumerate(zip(beats.onset_s, beats.ectopic, strict=True)):
        first, last = round(onset_s * fs_hz), round((onset_s + ends_s[bool(is_ectopic)]) * fs_hz)
        if first >= 0 and last < n_samples:
            inside[number] = True
            samples.append(first + int(np.argmax(size[first : last + 1])))
    return np.array(samples, dtype=np.int64), inside


def atrial_mv(patient: Patient, beats: Beats, fs_hz: float, n_samples: int) -> Floats:
    """P waves before sinus beats: the right atrium, then the left one, each a dipole with a Gaussian course."""
    electrodes = torso.electrodes_mm(patient.chest_mm, patient.electrodes_deg)
    atria_mm = patient.base_mm + np.array([[-28.0, -12.0, -6.0], [2.0, -14.0, 22.0]])
    moment = 240.0 * patient.gain * np.array([[0.35, 0.75, -0.55], [0.75, 0.45, 0.35]])
    field = torso.lead_field(electrodes, atria_mm, patient.chest_mm)
    sides_mv = np.einsum("eak,ak->ea", field, moment)
    time_s = np.arange(n_samples) / fs_hz
    potential = np.zeros((len(electrodes), n_samples))
    for onset_s in beats.onset_s[~beats.ectopic] - patient.pr_s:
        for side, (centre_s, width_s) in enumerate(((0.038, 0.017), (0.066, 0.018))):
            first, last = np.searchsorted(time_s, onset_s + centre_s + 4 * np.array([-width_s, width_s]))
            bell = np.exp(-0.5 * ((time_s[first:last] - onset_s - centre_s) / width_s) ** 2)
            potential[:, first:last] += sides_mv[:, side : side + 1] * bell
    return potential
