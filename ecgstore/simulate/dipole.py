"""The heart as a rotating dipole: from what is stated of a patient to twelve leads in millivolts.

Its path over a beat is a sum of Gaussian waves in three dimensions (the dynamical model of McSharry et al.
2003, doi:10.1109/TBME.2003.808805, in the vector form of Sameni et al. 2007, doi:10.1155/2007/43407), and the
leads are its projections by the matrix of Dower et al. 1980. A disease is a change of that path: a lost
initial vector, a late one, a current of injury, no P wave. What hides it is drawn too: anatomy, electrode
places, breathing, rate, muscle noise, mains and wander.

The signals look like ECGs and their statements are true by construction. They are no substitute for
patients: a score on them says that the machinery works, never how well a method diagnoses.

Axes of the dipole, in mV: x to the left, y to the feet, z to the back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.record import Sex

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Patient:
    """What is stated of a person, as far as the heart shows it.

    ``diagnoses`` are NORM or keys of :data:`CHANGES`, ``rhythm`` is a key of :data:`RATE_LIMITS_BPM`.
    """

    age_years: int
    sex: Sex
    diagnoses: tuple[str, ...]
    rhythm: str
    has_pvc: bool


# ── The heart of a patient ───────────────────────────────────────────────────────────────────────────────


class Waves(NamedTuple):
    """Gaussian waves of a dipole: centres and widths in s, vectors in mV of shape (waves, 3)."""

    centre_s: Floats
    width_s: Floats
    vector_mv: Floats


#: Rows of a normal QRS complex, counted from its onset.
SEPTUM, EARLY, MAIN, LATE, BASE, END = range(6)


@dataclass(slots=True)
class Heart:
    """What the heart of one patient does in a beat. Built step by step, then only read.

    QRS waves are counted from the onset of the QRS complex, P waves from their own onset, T waves from the
    onset of the QRS complex at an RR interval of 1 s.
    """

    p: Waves
    qrs: Waves
    st_mv: Floats
    t: Waves
    pr_s: float
    qrs_s: float


def _waves(*rows: tuple[float, float, float, float, float]) -> Waves:
    """Rows of (centre in ms, width in ms, x, y, z in mV)."""
    table = np.array(rows, dtype=np.float64)
    return Waves(table[:, 0] / 1000, table[:, 1] / 1000, table[:, 2:])


def _normal_heart() -> Heart:
    """A textbook heart: septum to the right and front, then left and down, the ventricles' base last."""
    return Heart(
        p=_waves((38, 17, 0.03, 0.06, -0.03), (66, 18, 0.045, 0.05, 0.03)),
        qrs=_waves(
            (12, 6, -0.06, -0.03, -0.16),
            (25, 7, 0.40, 0.20, -0.25),
            (37, 8, 0.95, 0.62, 0.35),
            (49, 8, 0.25, 0.15, 0.55),
            (62, 9, -0.08, -0.02, 0.30),
            (76, 8, -0.03, -0.02, 0.08),
        ),
        st_mv=np.zeros(3),
        t=_waves((165, 45, 0.015, 0.01, -0.06), (255, 50, 0.10, 0.05, -0.12), (315, 34, 0.24, 0.13, -0.15)),
        pr_s=0.16,
        qrs_s=0.088,
    )


def _widened(waves: Waves, factor: float) -> Waves:
    return Waves(waves.centre_s * factor, waves.width_s * factor, waves.vector_mv)


def _shift_t(heart: Heart, x_mv: float, y_mv: float, z_mv: float) -> None:
    """Add a vector to the peak of the T wave, and half of it to its upstroke."""
    heart.t.vector_mv[1:] += np.array([[0.5], [1.0]]) * np.array([x_mv, y_mv, z_mv])


def _inferior_infarction(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """No forces to the feet at first (Q in II, III, aVF); ST rises there when fresh, T falls when old."""
    fresh = draw.random()
    heart.qrs.vector_mv[SEPTUM : MAIN + 1, 1] -= severity * np.array([0.20, 0.50, 0.45])
    heart.st_mv += (0.04 + fresh * severity * 0.28) * np.array([-0.15, 1.0, 0.1])
    _shift_t(heart, 0.0, severity * (0.25 * fresh - 0.45 * (1 - fresh)), 0.0)


def _septal_infarction(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """No forces to the front at first (QS in V1 to V3)."""
    fresh = draw.random()
    heart.qrs.vector_mv[SEPTUM : MAIN + 1, 2] += severity * np.array([0.22, 0.45, 0.25])
    heart.qrs.vector_mv[MAIN, 0] *= 1 - 0.3 * severity
    heart.st_mv += (0.04 + fresh * severity * 0.22) * np.array([0.0, 0.0, -1.0])
    _shift_t(heart, -0.10 * severity, 0.0, severity * (0.45 * (1 - fresh) - 0.12 * fresh))


def _anterior_infarction(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """Forces to the front and to the left are lost (poor R from V2 to V5)."""
    fresh = draw.random()
    heart.qrs.vector_mv[SEPTUM : MAIN + 1, 2] += severity * np.array([0.20, 0.40, 0.15])
    heart.qrs.vector_mv[EARLY : MAIN + 1] *= np.array([1 - 0.6 * severity, 1 - 0.25 * severity, 1.0])
    heart.st_mv += (0.04 + fresh * severity * 0.22) * np.array([0.6, 0.1, -0.9])
    _shift_t(heart, -0.40 * severity * (1 - fresh), 0.0, severity * (0.40 * (1 - fresh) - 0.1 * fresh))


def _t_abnormality(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """Flat T waves that point anywhere."""
    heart.t.vector_mv[:] *= 1 - 0.85 * severity
    _shift_t(heart, *(severity * draw.normal(0, 0.05, 3)))


def _ischaemia(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """ST depression and T inversion over the left ventricle."""
    depth = draw.uniform(0.7, 1.3) * severity
    heart.st_mv += depth * np.array([-0.11, -0.07, 0.04])
    _shift_t(heart, *(depth * np.array([-0.36, -0.18, 0.04])))


def _st_change(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """A small displacement of ST, mostly away from the left."""
    heart.st_mv += (0.02 + 0.07 * severity) * (np.array([-0.9, -0.5, 0.3]) + draw.normal(0, 0.3, 3))
    heart.t.vector_mv[:] *= 1 - 0.3 * severity


def _left_bundle_branch_block(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """The septum from right to left, then slowly the left ventricle; ST and T against the QRS complex."""
    heart.qrs_s = 0.124 + 0.046 * severity
    stretch = heart.qrs_s / 0.150
    heart.qrs = _widened(
        _waves(
            (14, 8, 0.12, 0.03, -0.06 * draw.random()),
            (38, 14, 0.55, 0.30, 0.85),
            (62, 16, 0.45, 0.28, 1.20),
            (92, 16, 0.50, 0.05, 0.70),
            (118, 13, 0.25, -0.06, 0.22),
        ),
        stretch,
    )
    heart.st_mv += np.array([-0.09, -0.03, -0.20])
    heart.t.vector_mv[1:] = np.array([[-0.10, -0.04, -0.26], [-0.12, -0.04, -0.42]])
    heart.t = Waves(heart.t.centre_s + heart.qrs_s - 0.088, heart.t.width_s * 1.2, heart.t.vector_mv)


def _right_bundle_branch_block(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """The right ventricle last and slowly: R' in V1, a broad S in I and V6, T inverted in front."""
    heart.qrs_s = 0.122 + 0.036 * severity
    heart.qrs.vector_mv[MAIN:END, 2] -= np.array([0.20, 0.40, 0.30])
    slow = heart.qrs_s / 0.140
    terminal = _waves((76 * slow, 12 * slow, -0.20, -0.03, -0.34), (101 * slow, 16 * slow, -0.36, -0.06, -0.40))
    heart.qrs = Waves(*(np.concatenate(pair) for pair in zip(heart.qrs, terminal, strict=True)))
    _shift_t(heart, 0.04, 0.0, draw.uniform(0.18, 0.34))


def _incomplete_right_block(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """A small late vector to the right and front: rSr' in V1, still narrow."""
    heart.qrs_s = 0.098 + 0.016 * severity
    strength = (0.4 + 0.6 * severity) * draw.uniform(0.8, 1.2)
    terminal = _waves((78, 9, *(strength * np.array([-0.20, -0.02, -0.34]))))
    heart.qrs = Waves(*(np.concatenate(pair) for pair in zip(heart.qrs, terminal, strict=True)))


def _left_anterior_block(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """First to the feet, then for the rest of the complex to the head and left: axis beyond −45°."""
    heart.qrs_s = 0.096
    blocked_y_mv = np.array([0.12, 0.15, -0.22, -0.55, -0.38, -0.12]) * draw.uniform(0.85, 1.15)
    share = 0.55 + 0.45 * severity
    heart.qrs.vector_mv[:, 1] += share * (blocked_y_mv - heart.qrs.vector_mv[:, 1])
    heart.qrs = _widened(heart.qrs, 1.1)


def _atrioventricular_block(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    heart.pr_s = 0.205 + 0.11 * severity * draw.uniform(0.6, 1.0)


def _left_hypertrophy(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """Large forces to the left and back, a little slower; strain in some."""
    heart.qrs_s *= 1 + 0.14 * severity
    heart.qrs = _widened(heart.qrs, 1 + 0.14 * severity)
    heart.qrs.vector_mv[EARLY:] *= 1 + severity * np.array([0.75, 0.25, 0.95])
    strain = severity * draw.random()
    heart.st_mv += strain * np.array([-0.09, -0.04, -0.07])
    _shift_t(heart, *(strain * np.array([-0.48, -0.20, -0.12])))


def _right_hypertrophy(heart: Heart, severity: float, draw: np.random.Generator) -> None:
    """Forces to the right and front where the left ventricle used to win; P tall in II."""
    heart.qrs.vector_mv[MAIN : BASE + 1] += severity * np.array(
        [[-0.75, 0.10, -0.75], [-0.45, 0.05, -0.75], [-0.25, 0.0, -0.25]]
    )
    heart.p.vector_mv[0] *= 1 + 0.8 * severity
    _shift_t(heart, 0.0, -0.08 * severity, severity * draw.uniform(0.25, 0.45))


#: What each diagnosis does to the heart, in the order in which they are applied.
CHANGES: dict[str, Callable[[Heart, float, np.random.Generator], None]] = {
    "LVH": _left_hypertrophy,
    "RVH": _right_hypertrophy,
    "CLBBB": _left_bundle_branch_block,
    "LAFB": _left_anterior_block,
    "1AVB": _atrioventricular_block,
    "IMI": _inferior_infarction,
    "ASMI": _septal_infarction,
    "AMI": _anterior_infarction,
    "NDT": _t_abnormality,
    "ISC_": _ischaemia,
    "NST_": _st_change,
    # Last, because they append waves to the six that the others know.
    "CRBBB": _right_bundle_branch_block,
    "IRBBB": _incomplete_right_block,
}


# ── Its anatomy and its leads ────────────────────────────────────────────────────────────────────────────


MEASURED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
#: Dipole (x, y, z) to the eight measured leads (Dower et al. 1980).
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
#: Electrodes (RA, LA, LL, V1 to V6) to the eight measured leads: noise arises at the electrodes, so that
#: one bad arm shows in every lead that uses it.
MONTAGE = np.block(
    [
        [np.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]), np.zeros((2, 6))],
        [np.full((6, 3), -1 / 3), np.eye(6)],
    ]
)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A heart, where it lies, and how the electrodes see it: all that a patient's visits share."""

    heart: Heart
    ectopic: Waves
    leads_mv: Floats
    rate_bpm: float
    breath_mv: float


def anatomy(patient: Patient, draw: np.random.Generator) -> Anatomy:
    """Draw the heart of ``patient`` and how electrodes see it: everybody's is different."""
    heart = _normal_heart()
    heart.pr_s = float(np.clip(draw.normal(0.155, 0.018), 0.115, 0.198))
    slow = float(np.clip(draw.normal(1.0, 0.07), 0.85, 1.18))
    heart.qrs, heart.qrs_s = _widened(heart.qrs, slow), heart.qrs_s * slow
    heart.qrs.centre_s[:] += draw.normal(0, 0.0012, heart.qrs.centre_s.size)
    heart.t = _widened(heart.t, float(np.clip(draw.normal(1.0, 0.045), 0.9, 1.12)))
    for waves, spread, jitter_mv in ((heart.p, 0.2, 0.008), (heart.qrs, 0.15, 0.045), (heart.t, 0.15, 0.02)):
        waves.vector_mv[:] *= np.exp(draw.normal(0, spread, waves.vector_mv.shape))
        waves.vector_mv[:] += draw.normal(0, jitter_mv, waves.vector_mv.shape)
    heart.t.vector_mv[:] *= np.exp(draw.normal(0, 0.25))
    heart.st_mv += draw.normal(0, 0.012, 3)
    for code, change in CHANGES.items():
        if code in patient.diagnoses:
            # A share of every disease is subtle: the classes overlap, as they do in patients.
            change(heart, 0.15 + 0.85 * float(draw.beta(2.0, 1.5)), draw)
    _turn(heart, patient, draw)
    gain = np.exp(draw.normal(-0.06 if patient.sex == "female" else 0.04, 0.2))
    electrodes = np.exp(np.concatenate([draw.normal(0, 0.04, 2), draw.normal(0, 0.14, 6)]))
    places = DOWER * (1 + draw.normal(0, 0.08, DOWER.shape))
    return Anatomy(
        heart=heart,
        ectopic=_ectopic(draw),
        leads_mv=gain * electrodes[:, None] * places,
        rate_bpm=float(_rate_bpm(patient, draw)),
        breath_mv=float(draw.uniform(0.01, 0.05)),
    )


def _turn(heart: Heart, patient: Patient, draw: np.random.Generator) -> None:
    """Turn the heart in the chest: slim and young hang down, old and broad lie to the left."""
    frontal_deg, level_deg, sagittal_deg = draw.normal(0, (14.0, 12.0, 8.0))
    frontal_deg += 8.0 - 0.3 * (patient.age_years - 50)
    turn = _rotation(frontal_deg, level_deg, sagittal_deg)
    # Atria turn less than ventricles, and repolarisation follows with an error of its own.
    heart.p.vector_mv[:] @= _rotation(frontal_deg / 3, level_deg / 3, sagittal_deg / 3).T
    heart.qrs.vector_mv[:] @= turn.T
    heart.st_mv @= turn.T
    heart.t.vector_mv[:] @= (_rotation(*draw.normal(0, 9.0, 3)) @ turn).T


def _rotation(frontal_deg: float, level_deg: float, sagittal_deg: float) -> Floats:
    """Rotate about z (positive turns left to feet), then y, then x."""
    angles = np.deg2rad([frontal_deg, level_deg, sagittal_deg])
    (a, b, c), (p, q, r) = np.cos(angles), np.sin(angles)
    about_z = np.array([[a, -p, 0.0], [p, a, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[b, 0.0, -q], [0.0, 1.0, 0.0], [q, 0.0, b]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, c, -r], [0.0, r, c]])
    turn: Floats = about_x @ about_y @ about_z
    return turn


def _ectopic(draw: np.random.Generator) -> Waves:
    """A beat from the wall of a ventricle: broad, no P wave, T against the QRS complex."""
    side = 1.0 if draw.random() < 0.6 else -1.0
    direction = np.array([0.35 * side, draw.normal(0.3, 0.7), 0.9 * side]) + draw.normal(0, 0.2, 3)
    direction *= draw.uniform(1.0, 1.6) / np.linalg.norm(direction)
    later = direction @ _rotation(*draw.normal(0, 20.0, 3)).T
    table = _waves((34, 15, 0, 0, 0), (64, 19, 0, 0, 0), (104, 20, 0, 0, 0), (190, 42, 0, 0, 0), (285, 48, 0, 0, 0))
    table.vector_mv[:] = np.stack(
        [0.45 * direction, 0.9 * direction, 0.6 * later, -0.18 * direction, -0.45 * direction]
    )
    return table


def _rate_bpm(patient: Patient, draw: np.random.Generator) -> float:
    usual = {"SR": (72, 9), "SBRAD": (54, 3), "STACH": (108, 5), "AFIB": (85, 15)}[patient.rhythm]
    return draw.normal(*usual)


# ── One visit ────────────────────────────────────────────────────────────────────────────────────────────


#: Between which heart rates a rhythm is what its name says.
RATE_LIMITS_BPM = {"SR": (61, 98), "SBRAD": (44, 58), "STACH": (102, 128), "AFIB": (55, 130)}


class Beats(NamedTuple):
    """Onsets of QRS complexes in s, the RR intervals before them, and which are ectopic."""

    onset_s: Floats
    rr_s: Floats
    ectopic: npt.NDArray[np.bool_]


class Visit(NamedTuple):
    """One recording: (12 leads, samples) in mV in the order of ``LEADS_12``, and whether an ectopic beat is in it."""

    signal_mv_lt: Floats
    has_pvc: bool


def visit(patient: Patient, anatomy: Anatomy, duration_s: float, fs_hz: int, draw: np.random.Generator) -> Visit:
    """Record ``patient`` once; two visits share their ``anatomy`` and differ in all that ``draw`` gives."""
    n_samples = round(duration_s * fs_hz)
    time_s = np.arange(n_samples) / fs_hz
    breath_hz, breath_phase = draw.uniform(0.18, 0.33), draw.uniform(0, 2 * np.pi)

    def breath(at_s: Floats) -> Floats:
        return np.sin(2 * np.pi * breath_hz * at_s + breath_phase)

    beats = _beats(patient, anatomy.rate_bpm, duration_s, breath, draw)
    dipole_mv = _dipole(anatomy, beats, patient.rhythm != "AFIB", breath, fs_hz, n_samples, draw)
    if patient.rhythm == "AFIB":
        dipole_mv += _fibrillation(time_s, draw)
    noise_mv = electrode_noise(n_samples, fs_hz, draw)
    noise_mv += draw.normal(0, anatomy.breath_mv, (len(noise_mv), 1)) * breath(time_s)
    measured_mv = anatomy.leads_mv @ dipole_mv + MONTAGE @ noise_mv
    return Visit(twelve_leads(measured_mv), bool(beats.ectopic.any()))


def _beats(
    patient: Patient,
    rate_bpm: float,
    duration_s: float,
    breath: Callable[[Floats], Floats],
    draw: np.random.Generator,
) -> Beats:
    """Beats from before the start to after the end, so that no wave is cut where the record is."""
    low_bpm, high_bpm = RATE_LIMITS_BPM[patient.rhythm]
    mean_s = 60 / float(np.clip(rate_bpm + draw.normal(0, 3), low_bpm, high_bpm))
    n_beats = int((duration_s + 6) / (0.6 * mean_s)) + 2
    if patient.rhythm == "AFIB":
        spread = draw.uniform(0.16, 0.28)
        rr_s = np.maximum(mean_s * draw.gamma(spread**-2, spread**2, n_beats), 0.33)
    else:
        rr_s = mean_s * (1 + _sinus_variability(patient.age_years, mean_s, n_beats, breath, draw))
    onset_s = np.cumsum(rr_s) - 3 - rr_s[0] * draw.random()
    ectopic = np.zeros(n_beats, dtype=bool)
    if patient.has_pvc:
        inside = np.flatnonzero((onset_s > 0.5) & (onset_s < duration_s - 1.0))
        # Every third beat at most: the pause after an ectopic beat lasts until the next but one.
        chosen = draw.permutation(inside[1::3])[: int(draw.integers(1, 4))]
        ectopic[chosen] = True
        onset_s[chosen] -= draw.uniform(0.25, 0.42) * rr_s[chosen]
    return Beats(onset_s, np.diff(onset_s, prepend=onset_s[0] - rr_s[0]), ectopic)


def _sinus_variability(
    age_years: int, mean_s: float, n_beats: int, breath: Callable[[Floats], Floats], draw: np.random.Generator
) -> Floats:
    """Relative change of each RR interval: breathing, less in the old, and a slow drift."""
    depth = 0.05 * float(np.exp((20 - age_years) / 40 + draw.normal(0, 0.4)))
    drift = np.cumsum(draw.normal(0, 0.006, n_beats))
    drift = np.clip(drift - drift.mean(), -0.06, 0.06)
    jitter = draw.normal(0, 0.004, n_beats)
    about_s: Floats = mean_s * np.arange(n_beats, dtype=np.float64)
    change: Floats = depth * breath(about_s) + drift + jitter
    return change


def _dipole(
    anatomy: Anatomy,
    beats: Beats,
    has_p: bool,
    breath: Callable[[Floats], Floats],
    fs_hz: float,
    n_samples: int,
    draw: np.random.Generator,
) -> Floats:
    """The heart's vector over time, in mV: (3, samples)."""
    # The QT interval follows the root of RR (Bazett), but with a memory of more than one beat.
    rr_s = 0.7 * np.median(beats.rr_s) + 0.3 * beats.rr_s
    qt = np.sqrt(np.clip(rr_s, 0.35, 1.6))
    sway = draw.normal(0, 0.035, 3)
    gain = 1 + np.outer(breath(beats.onset_s), sway) + draw.normal(0, 0.015, (beats.onset_s.size, 3))
    heart = anatomy.heart
    own = ~beats.ectopic
    parts = [
        _placed(heart.qrs, beats.onset_s[own], np.ones(own.sum()), gain[own]),
        _placed(_st(heart), beats.onset_s[own] + heart.qrs_s, qt[own], gain[own]),
        _placed(heart.t, beats.onset_s[own], qt[own], gain[own]),
        _placed(anatomy.ectopic, beats.onset_s[~own], np.ones((~own).sum()), gain[~own]),
    ]
    if has_p:
        parts.append(_placed(heart.p, beats.onset_s[own] - heart.pr_s, np.ones(own.sum()), gain[own]))
    return _rendered(Waves(*(np.concatenate(column) for column in zip(*parts, strict=True))), fs_hz, n_samples)


def _st(heart: Heart) -> Waves:
    """Overlapping waves after the end of QRS make a level that hands over to the T wave."""
    # Waves of width 30 ms every 45 ms add up to 1.67 times one of them.
    share = np.array([[0.9], [1.0], [1.0], [0.8]]) / 1.67
    return Waves(np.array([0.012, 0.057, 0.102, 0.147]), np.full(4, 0.030), share * heart.st_mv)


def _placed(waves: Waves, onset_s: Floats, stretch: Floats, gain: Floats) -> Waves:
    """One copy of ``waves`` per beat: its times stretched, its vectors scaled by axis."""
    return Waves(
        (onset_s[:, None] + stretch[:, None] * waves.centre_s).ravel(),
        (stretch[:, None] * waves.width_s).ravel(),
        (gain[:, None, :] * waves.vector_mv).reshape(-1, 3),
    )


def _rendered(waves: Waves, fs_hz: float, n_samples: int) -> Floats:
    """Sum Gaussian waves over time, each only within four widths of its centre: (3, samples)."""
    half = np.ceil(4 * waves.width_s * fs_hz).astype(np.int64)
    first = np.rint(waves.centre_s * fs_hz).astype(np.int64) - half
    length = 2 * half + 1
    wave = np.repeat(np.arange(length.size), length)
    sample = np.arange(wave.size) + (first - (np.cumsum(length) - length))[wave]
    inside = (sample >= 0) & (sample < n_samples)
    wave, sample = wave[inside], sample[inside]
    height = np.exp(-0.5 * ((sample / fs_hz - waves.centre_s[wave]) / waves.width_s[wave]) ** 2)
    return np.stack([np.bincount(sample, height * waves.vector_mv[wave, axis], n_samples) for axis in range(3)])


def _fibrillation(time_s: Floats, draw: np.random.Generator) -> Floats:
    """Fibrillatory waves: two wandering oscillations of 4 to 9 Hz, largest towards V1."""
    waves_mv = np.zeros((3, time_s.size))
    for share in (1.0, 0.5):
        rate_hz, sway_hz = draw.uniform(4.3, 8.5), draw.uniform(0.1, 0.5)
        phase = 2 * np.pi * (rate_hz * time_s + draw.random()) + 1.5 * np.sin(2 * np.pi * sway_hz * time_s)
        swell = 1 + 0.4 * np.sin(2 * np.pi * draw.uniform(0.1, 0.6) * time_s + draw.uniform(0, 2 * np.pi))
        towards = np.array([-0.25, 0.45, -0.75]) + draw.normal(0, 0.2, 3)
        size_mv = share * draw.uniform(0.025, 0.075)
        waves_mv += size_mv * towards[:, None] * swell * (np.sin(phase) + 0.35 * np.sin(2 * phase + 0.8))
    return waves_mv


def electrode_noise(n_samples: int, fs_hz: int, draw: np.random.Generator) -> Floats:
    """Wander, muscle, amplifier and mains noise at nine electrodes, in mV: (electrodes, samples)."""
    n_electrodes = MONTAGE.shape[1]
    # A longer stretch than needed, because a spectrum's signal ends where it began.
    n_drawn = n_samples + n_samples // 5 + n_samples % 2
    hz = np.fft.rfftfreq(n_drawn, 1 / fs_hz)[1:]
    wander = np.where(hz < 0.8, 1 / (hz + 0.05), 0.0)
    muscle = 1 / np.sqrt((1 + (25 / hz) ** 4) * (1 + (hz / 120) ** 4))
    white = np.ones(hz.size)
    curves = np.stack([curve / np.linalg.norm(curve) for curve in (wander, muscle, white)])
    restless = np.exp(draw.normal(0, 0.55))
    wander_mv = 0.028 * np.exp(draw.normal(0, 0.6) + draw.normal(0, 0.4, n_electrodes))
    limb = np.arange(n_electrodes) < 3
    muscle_mv = np.where(limb, 0.008, 0.004) * restless * np.exp(draw.normal(0, 0.35, n_electrodes))
    levels_mv = np.stack([wander_mv, muscle_mv, np.full(n_electrodes, 0.002)], axis=1)
    spectrum = np.zeros((n_electrodes, hz.size + 1), dtype=np.complex128)
    spectrum[:, 1:] = draw.standard_normal((n_electrodes, 2 * hz.size)).view(np.complex128)
    spectrum[:, 1:] *= np.sqrt(levels_mv**2 @ curves**2) * (n_drawn / 2)
    noise_mv = np.fft.irfft(spectrum, n_drawn, axis=1)[:, :n_samples]
    mains_mv = 0.0015 * np.exp(draw.normal(0, 0.8) + draw.normal(0, 0.4, n_electrodes))
    phase = draw.uniform(0, 2 * np.pi, n_electrodes)
    turns = 2 * np.pi * 50 / fs_hz * np.arange(n_samples)
    noise_mv += np.outer(mains_mv * np.cos(phase), np.sin(turns))
    noise_mv += np.outer(mains_mv * np.sin(phase), np.cos(turns))
    return np.asarray(noise_mv, dtype=np.float64)


def twelve_leads(measured_mv: Floats) -> Floats:
    """The eight :data:`MEASURED` leads to all twelve, in mV; the other four by Einthoven and Goldberger."""
    one, two = measured_mv[:2]
    limb_mv = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb_mv, measured_mv[2:]])
