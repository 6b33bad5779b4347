"""Noise at a stated strength: drawn from five generators, or cut from the recorded noise of NSTDB.

Everything here is pure. What a record gets depends on the seed, its id and the kind of noise, never on the
number of workers, the order of records or which of its leads a store has: each draw comes from a generator of
its own, counter-based (Philox), keyed by a hash of those names. The strength is not part of the key: the same
noise is scaled, so that a sweep over strengths compares like with like.

The generators are those of Mehari and Strodthoff (Comput. Biol. Med. 141:105114, 2022), as formulae. Where
their code differs is said at each; ``origin: published`` does as their code does. docs/noise.md has the table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ecgstore.errors import ConfigError
from ecgstore.record import LEADS_12
from ecgstore.settings import Settings
from ecgstore.signals.recorded_noise import RECORDED, Bank, Float32, Recording, recording_at_rate
from ecgstore.storage import layout

Float64 = npt.NDArray[np.float64]

Kind = Literal["wander", "powerline", "muscle", "shift", "motion", "physiological", "nstdb-bw", "nstdb-ma", "nstdb-em"]
#: The generators that have levels; ``physiological`` is their sum.
GENERATORS: tuple[Kind, ...] = ("wander", "powerline", "muscle", "shift")

#: Largest amplitude C in mV of each generator at each level: wander, powerline, muscle, shift.
LEVELS_MV: Mapping[int, tuple[float, float, float, float]] = {
    1: (0.05, 0.1, 0.25, 0.5),
    2: (0.1, 0.2, 0.5, 1.0),
    3: (0.1, 0.2, 1.0, 2.0),
    4: (0.2, 0.4, 1.0, 2.0),
    5: (0.2, 0.4, 1.5, 2.5),
    6: (0.3, 0.5, 2.0, 3.0),
}
#: Whose proportions ``physiological`` has when an SNR is asked for: those that the paper trains with.
MIXING_LEVEL = 2

WANDER_TONES = 50
WANDER_STEP_HZ = 0.01

HARMONICS = 3
SHIFTS_PER_S = 0.3
SHIFT_S, SHIFT_SPREAD_S = 3.0, 0.6
MOTIONS_PER_S = 0.5
MOTION_RISE_S = (0.02, 0.2)
#: An obtained SNR is brought this near to the one asked for, and a warning is due where it is farther than that.
SNR_TOLERANCE_DB, SNR_WARNING_DB = 0.02, 0.1


class NoiseSettings(Settings):
    """Which noise, how strong, and where it arises. Exactly one of ``snr_db`` and ``level``."""

    #: What it looks like, see docs/noise.md; ``nstdb-…`` is recorded noise.
    kind: Kind
    #: 10 log10(signal power / noise power); what power is of is said at ``power``.
    snr_db: float | None = Field(None, ge=-60, le=100)
    #: One of the paper's six levels: amplitudes in mV, whatever the signal. Only for the paper's generators.
    level: int | None = Field(None, ge=1, le=6)
    #: What is drawn, for each record anew: the same seed gives the same noise.
    seed: int = Field(0, ge=0)
    #: What the SNR is a ratio of. ``record``: mean squares over all recorded samples of all leads, of the signal
    #: about each lead's mean, and of what was added: one gain for all leads. ``lead``: the same lead by lead.
    #: ``qrs``: as ``record``, with the signal's power as NSTDB measures it: (QRS peak to peak)² / 8.
    power: Literal["record", "lead", "qrs"] = "record"
    #: ``electrodes``: noise arises at the electrodes, so that the limb leads keep Einthoven's and Goldberger's
    #: laws. ``leads``: each lead has its own. ``published``: the same, as the paper's code has it.
    origin: Literal["electrodes", "leads", "published"] = "electrodes"
    #: Baseline wander: a gain for each origin, ± N(1, 1), or the same trace on every lead.
    lead_gain: Literal["random", "common"] = "random"
    #: Frequency of ``powerline``.
    mains_hz: float = Field(50.0, gt=0, le=1000)
    #: Recorded muscle noise and electrode motion are taken from this frequency on. Below 0.5 Hz lie two thirds of
    #: the power of NSTDB's ma: the baseline's drift, which is bw's part. 0 takes them as they were recorded.
    recorded_from_hz: float = Field(0.5, ge=0, le=40)
    #: SHA-256 of the recorded noise; filled in by :func:`with_bank`.
    bank_sha256: str | None = None

    @model_validator(mode="after")
    def _one_strength(self) -> NoiseSettings:
        if (self.snr_db is None) == (self.level is None):
            raise ValueError("say how strong the noise is: by snr_db or by level, not by both")
        if self.level is not None and self.kind not in (*GENERATORS, "physiological"):
            raise ValueError(f"{self.kind} has no levels: say snr_db")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> NoiseSettings:
        if self.origin == "published" and self.kind not in (*GENERATORS, "physiological"):
            raise ValueError(f"{self.kind} is not of the paper: origin is electrodes or leads")
        if self.origin == "electrodes" and self.lead_gain == "common":
            raise ValueError(
                "the same wander on every lead breaks Einthoven's law: lead_gain common needs origin leads"
            )
        if self.origin == "electrodes" and self.power == "lead":
            raise ValueError("a gain for each lead breaks Einthoven's law: power lead needs origin leads")
        return self


class Noisy(NamedTuple):
    """One record with noise: mV of shape (leads, samples) in whole microvolts, and what was really added.

    ``noise_rms_mv`` is over the recorded samples of all leads that change; ``snr_db`` as the settings define it,
    infinite where the draw held no noise, NaN where the record has no signal to compare with. ``n_clipped``
    samples did not fit into ±32.767 mV, before or after. ``warning`` is empty if all went as asked.
    """

    signal_mv_lt: Float32
    noise_rms_mv: float
    snr_db: float
    n_clipped: int = 0
    warning: str = ""
    #: Per lead, those that did not fit before noise was added.
    n_clipped_l: tuple[int, ...] = ()


#: The random numbers of one record and one kind: a generator for each name; "" is what its leads share.
Draw = Callable[[str], np.random.Generator]


def draw_of(seed: int, record_id: str, kind: str) -> Draw:
    """Random numbers that depend on these names alone."""
    names = hashlib.blake2b(json.dumps([seed, record_id, kind]).encode(), digest_size=16)

    def draw(name: str) -> np.random.Generator:
        with_name = names.copy()
        with_name.update(name.encode())
        return np.random.Generator(np.random.Philox(key=np.frombuffer(with_name.digest(), dtype="<u8")))

    return draw


def _for_each(places: Sequence[str], draw: Draw, law: Callable[[np.random.Generator, int], Float64]) -> Float64:
    """Numbers for each place by ``law(random, how many)``, the same whichever places are asked for.

    Those of electrodes and standard leads come from one generator, because to make one takes longer than to draw.
    """
    standard = law(draw("standard places"), len(_STANDARD))
    return np.stack([standard[_STANDARD[p]] if p in _STANDARD else law(draw(p), 1)[0] for p in places])


class Mix(NamedTuple):
    """Names of the places where noise arises, and the leads as weights of them, float64 (leads, places)."""

    places: tuple[str, ...]
    weights_lp: Float64


_LIMB = {
    "I": {"LA": 1.0, "RA": -1.0},
    "II": {"LL": 1.0, "RA": -1.0},
    "III": {"LL": 1.0, "LA": -1.0},
    "aVR": {"RA": 1.0, "LA": -0.5, "LL": -0.5},
    "aVL": {"LA": 1.0, "RA": -0.5, "LL": -0.5},
    "aVF": {"LL": 1.0, "RA": -0.5, "LA": -0.5},
}
_STANDARD = {place: i for i, place in enumerate(("RA", "LA", "LL", *(f"C{i}" for i in range(1, 7)), *LEADS_12))}
#: A precordial lead is its own electrode against Wilson's terminal, the mean of the three limb electrodes.
_ELECTRODES = _LIMB | {f"V{i}": {f"C{i}": 1.0, "RA": -1 / 3, "LA": -1 / 3, "LL": -1 / 3} for i in range(1, 7)}
#: Makes the mean power of the twelve leads that of one electrode, so that levels mean the same for any origin.
_TO_UNIT_POWER = (12 / sum(weight**2 for of in _ELECTRODES.values() for weight in of.values())) ** 0.5


def mix_of(leads: Sequence[str], origin: str) -> Mix:
    """How noise comes into ``leads``. A lead that is none of the twelve has a place of its own.

    With origin ``electrodes`` III = II − I, aVR = −(I + II) / 2, aVL = I − II / 2 and aVF = II − I / 2 hold.
    """
    return _mix_of(tuple(leads), origin)


@lru_cache(maxsize=256)
def _mix_of(leads: tuple[str, ...], origin: str) -> Mix:
    if origin != "electrodes":
        return Mix(leads, np.eye(len(leads)))
    of = [_ELECTRODES.get(lead, {lead: 1 / _TO_UNIT_POWER}) for lead in leads]
    # In one order, because sums of floats depend on it.
    places = tuple(sorted({place for weights in of for place in weights}, key=lambda p: (_STANDARD.get(p, 99), p)))
    weights_lp = np.array([[weights.get(place, 0.0) for place in places] for weights in of]) * _TO_UNIT_POWER
    weights_lp.setflags(write=False)
    return Mix(places, weights_lp)


def _spread(trace_t: Float64, mix: Mix, gain_p: Float64) -> Float32:
    """One trace on all leads, with a gain for each place."""
    gain_l = mix.weights_lp @ gain_p
    return np.asarray(np.multiply.outer(gain_l.astype(np.float32), trace_t.astype(np.float32)))


def _to_leads(noise_pt: Float32, mix: Mix, c_mv: float = 1.0) -> Float32:
    """Noise of each place, (places, samples), to leads.

    Term by term: how a product of matrices adds up in float32 depends on how many threads it is given.
    """
    noise_lt = np.zeros((len(mix.weights_lp), noise_pt.shape[1]), dtype=np.float32)
    for lead, place in np.argwhere(mix.weights_lp):
        noise_lt[lead] += np.float32(mix.weights_lp[lead, place] * c_mv) * noise_pt[place]
    return noise_lt


def _either_sign(random: np.random.Generator, number: int) -> Float64:
    """± N(1, 1): the law of the paper's gains; its mean square is 2."""
    return random.choice((-1.0, 1.0), number) * random.normal(1.0, 1.0, number)


def _uniform(random: np.random.Generator, number: int) -> Float64:
    return random.uniform(-1, 1, number)


def baseline_wander(
    n_samples: int, fs_hz: float, mix: Mix, draw: Draw, c_mv: float = 1.0, *, lead_gain: str = "random", first: int = 1
) -> Float32:
    """C Σ_k a_k cos(2πk Δf t + φ_k), k = 1 … 50, Δf = 0.01 Hz, a_k ~ U(0, 1), φ_k ~ U(0, 2π): up to 0.5 Hz.

    One trace for all leads, with a gain ± N(1, 1) for each place (``lead_gain: random``) or none. It repeats
    after 100 s. The paper's code has ``first`` = 0: k = 0 … 49, so an offset too, and no gains.
    """
    random = draw("")
    amplitudes, phases = random.uniform(0, 1, WANDER_TONES), random.uniform(0, 2 * np.pi, WANDER_TONES)
    trace_t = c_mv * _tones(n_samples, fs_hz, first, amplitudes * np.exp(1j * phases))
    gain_p = np.ones(len(mix.places)) if lead_gain == "common" else _for_each(mix.places, draw, _either_sign)
    return _spread(trace_t, mix, gain_p)


#: Samples whose tones are computed once per rate; the rest are turned copies.
_TONE_BLOCK = 256


@lru_cache(maxsize=32)
def _tone_block(fs_hz: float, first: int) -> npt.NDArray[np.complex128]:
    k = np.arange(first, first + WANDER_TONES)
    return np.exp(2j * np.pi * WANDER_STEP_HZ / fs_hz * np.multiply.outer(k, np.arange(_TONE_BLOCK)))


def _tones(n_samples: int, fs_hz: float, first: int, coefficients_k: npt.NDArray[np.complex128]) -> Float64:
    """Real part of Σ_k c_k exp(2πi k Δf t): e^(i(a + b)) = e^(ia) e^(ib) makes it one product of matrices."""
    begins = np.arange(0, n_samples, _TONE_BLOCK)
    k = np.arange(first, first + WANDER_TONES)
    turns_bk = np.exp(2j * np.pi * WANDER_STEP_HZ / fs_hz * np.multiply.outer(begins, k)) * coefficients_k
    block_kt = _tone_block(fs_hz, first)
    # Real and imaginary parts apart: half the work of a complex product of which only the real part is wanted.
    trace_bt = turns_bk.real @ block_kt.real - turns_bk.imag @ block_kt.imag
    return np.asarray(trace_bt.ravel()[:n_samples])


def powerline(
    n_samples: int,
    fs_hz: float,
    mix: Mix,
    draw: Draw,
    c_mv: float = 1.0,
    *,
    mains_hz: float = 50.0,
    aliased: bool = False,
) -> Float32:
    """C Σ_k a_k cos(2πk f t + φ), k = 1 … 3, f the mains frequency, a_k ~ U(0, 1), one phase φ ~ U(0, 2π).

    A gain ~ U(−1, 1) for each place. A harmonic at or above half the rate is dropped: no amplifier that
    samples properly lets it through. So a record of 100 Hz has no 50 Hz mains at all. The paper's code lets it
    fold down (``aliased``), to an alternation of neighbouring samples and an offset, and has C² for C.
    """
    random = draw("")
    amplitudes, phase = random.uniform(0, 1, HARMONICS), random.uniform(0, 2 * np.pi)
    turns_t = np.arange(n_samples) * (2 * np.pi * mains_hz / fs_hz)
    trace_t = np.zeros(n_samples)
    for k, amplitude in enumerate(amplitudes, start=1):
        if aliased or k * mains_hz < fs_hz / 2:
            trace_t += c_mv * amplitude * np.cos(k * turns_t + phase)
    return _spread(trace_t, mix, _for_each(mix.places, draw, _uniform))


def muscle(n_samples: int, fs_hz: float, mix: Mix, draw: Draw, c_mv: float = 1.0) -> Float32:
    """N(0, C²), independent from sample to sample and from place to place: white up to half the rate."""
    white_pt = [draw(place).standard_normal(n_samples, dtype=np.float32) for place in mix.places]
    return _to_leads(np.stack(white_pt), mix, c_mv)


def baseline_shift(
    n_samples: int, fs_hz: float, mix: Mix, draw: Draw, c_mv: float = 1.0, *, at_least: int = 0
) -> Float32:
    """Stretches in which the baseline stands elsewhere: by C a, a ~ U(−1, 1), the later one overwriting.

    Their number is uniform in 0 … M, M = 0.3 per second, rounded. The centre is uniform in the record, the
    length ~ N(3 s, 0.6 s), cut off at the record's ends. A gain ± N(1, 1) for each place.
    """
    random = draw("")
    most = max(at_least, round(SHIFTS_PER_S * n_samples / fs_hz))
    trace_t = np.zeros(n_samples)
    for _ in range(random.integers(at_least, most + 1)):
        centre, length = random.uniform(0, n_samples), random.normal(SHIFT_S, SHIFT_SPREAD_S) * fs_hz
        begin, end = math.floor(centre - length / 2), math.ceil(centre + length / 2)
        trace_t[max(0, begin) : max(0, end)] = c_mv * random.uniform(-1, 1)
    return _spread(trace_t, mix, _for_each(mix.places, draw, _either_sign))


def electrode_motion(n_samples: int, fs_hz: float, mix: Mix, draw: Draw, c_mv: float = 1.0) -> Float32:
    """Jolts with their recoil: 1.6 A h((t − t₀) / τ), h(u) = u (1 − u / 2) e^(1 − u) from u = 0 on; its sum is 0.

    Each place has its own, 0.5 per second on average (Poisson, at least one), the peak A ~ N(0, C²) anywhere in
    the record, τ log-uniform in 20 to 200 ms. Most of the power lies at 0.5 to 10 Hz, as that of NSTDB's em: in
    the midst of the QRS and T wave, so that no filter removes it.
    """
    motion_pt = np.stack([_jolts(n_samples, fs_hz, draw(place)) for place in mix.places])
    return _to_leads(motion_pt, mix, c_mv)


def _jolts(n_samples: int, fs_hz: float, random: np.random.Generator) -> Float32:
    trace_t = np.zeros(n_samples, dtype=np.float32)
    number = max(1, random.poisson(MOTIONS_PER_S * n_samples / fs_hz))
    amplitudes, peaks = random.normal(0, 1, number), random.uniform(0, n_samples, number)
    rises = np.exp(random.uniform(math.log(MOTION_RISE_S[0]), math.log(MOTION_RISE_S[1]), number)) * fs_hz
    for amplitude, peak, rise in zip(amplitudes, peaks, rises, strict=True):
        start = peak - _JOLT_PEAK * rise
        # After 20 rises it is down to a millionth.
        begin, end = max(0, math.ceil(start)), min(n_samples, math.ceil(start + 20 * rise))
        u = (np.arange(begin, end) - start) / rise
        trace_t[begin:end] += amplitude / _JOLT_HEIGHT * u * (1 - u / 2) * np.exp(1 - u)
    return trace_t


#: Where h(u) is highest, and how high.
_JOLT_PEAK = 2 - 2**0.5
_JOLT_HEIGHT = _JOLT_PEAK * (1 - _JOLT_PEAK / 2) * math.exp(1 - _JOLT_PEAK)


def with_bank(settings: NoiseSettings, bank: Bank | None) -> NoiseSettings:
    """The settings with the hash of the recording that they use; unchanged where they use none.

    Raises ConfigError where the recording is absent, or not the one that the settings name.
    """
    if settings.kind not in RECORDED:
        return settings
    recording = _recording(settings, bank)
    return settings.model_copy(update={"bank_sha256": recording.sha256})


def _recording(settings: NoiseSettings, bank: Bank | None) -> Recording:
    if bank is None or settings.kind not in bank.recordings:
        raise ConfigError(
            f"{settings.kind} is recorded noise, and there is no recording of it",
            where=None if bank is None else bank.folder,
            expected=f"the WFDB record {' or '.join(RECORDED[settings.kind])}",
            fix="get it with `ecgstore fetch nstdb DEST` and name the folder with --noise-bank DEST",
        )
    recording = bank.recordings[settings.kind]
    if settings.bank_sha256 not in (None, recording.sha256):
        raise ConfigError(
            f"the recording {recording.name} is not the one that was used before",
            where=bank.folder,
            expected=f"SHA-256 {settings.bank_sha256}",
            got=recording.sha256,
        )
    return recording


def recorded(
    n_samples: int, fs_hz: float, mix: Mix, draw: Draw, recording: Recording, *, from_hz: float = 0.5
) -> Float32:
    """A cut of recorded noise for each place, of unit size.

    Each place has a combination of the recording's two signals, cos θ and sin θ of them, θ ~ U(0, 2π): every
    mixture and both polarities. Where it is cut is drawn for each place too, but for ``bw`` once for all, because
    breathing moves all electrodes together. A cut is centred; one longer than the recording goes back and forth.
    """
    wave_st = recording_at_rate(recording, fs_hz, from_hz)
    noise_pt = np.empty((len(mix.places), n_samples), dtype=np.float32)
    shared = draw("").uniform()
    for noise_t, (turn, where) in zip(noise_pt, _for_each(mix.places, draw, _two_of_unit), strict=True):
        angle = 2 * np.pi * turn
        cut_st = _cut(wave_st, n_samples, shared if recording.name == "bw" else where)
        # The first and the last signal: of a recording with one signal, that one, in a random polarity and size.
        noise_t[:] = np.float32(np.cos(angle)) * cut_st[0] + np.float32(np.sin(angle)) * cut_st[-1]
        noise_t -= noise_t.mean(dtype=np.float64)
    return _to_leads(noise_pt, mix)


def _two_of_unit(random: np.random.Generator, number: int) -> Float64:
    return random.uniform(0, 1, (number, 2))


def _cut(wave_st: Float32, n_samples: int, where: float) -> Float32:
    """``n_samples`` out of a recording; ``where``, in 0 to 1, says where it begins."""
    n_recorded = wave_st.shape[1]
    if n_samples <= n_recorded:
        begin = int(where * (n_recorded - n_samples + 1))
        return wave_st[:, begin : begin + n_samples]
    there_and_back = max(1, 2 * n_recorded - 2)
    at = (int(where * there_and_back) + np.arange(n_samples)) % there_and_back
    return wave_st[:, np.where(at < n_recorded, at, there_and_back - at)]


def check_noise(settings: NoiseSettings, fs_hz: float, bank: Bank | None = None) -> None:
    """Refuse, before any work, what can't be done to records of this rate.

    Raises ConfigError: mains at or above half the rate, recorded noise without its recording.
    """
    if settings.kind in RECORDED:
        _recording(settings, bank)
    if settings.kind == "powerline" and settings.origin != "published" and settings.mains_hz >= fs_hz / 2:
        raise ConfigError(
            f"records of {fs_hz:g} Hz hold nothing at {settings.mains_hz:g} Hz, so there is no mains hum to add",
            expected=f"more than {2 * settings.mains_hz:g} Hz",
            fix="use a store of a higher rate",
        )


def generate(
    n_samples: int,
    fs_hz: float,
    record_id: str,
    settings: NoiseSettings,
    bank: Bank | None = None,
    *,
    leads: Sequence[str] = LEADS_12,
) -> Float32:
    """The noise of one record before it is scaled: float32 mV of shape (leads, samples).

    With a level it is what will be added: each generator's amplitude C ~ U(0, C_max), drawn once per record.
    With an SNR only its shape counts.
    """
    mix = mix_of(leads, settings.origin)
    if settings.kind in RECORDED:
        draw = draw_of(settings.seed, record_id, settings.kind)
        recording = _recording(settings, bank)
        return recorded(n_samples, fs_hz, mix, draw, recording, from_hz=settings.recorded_from_hz)
    if settings.kind == "motion":
        return electrode_motion(n_samples, fs_hz, mix, draw_of(settings.seed, record_id, settings.kind))
    kinds = GENERATORS if settings.kind == "physiological" else (settings.kind,)
    noise_lt = np.zeros((len(leads), n_samples), dtype=np.float32)
    for kind in kinds:
        noise_lt += _drawn(kind, n_samples, fs_hz, mix, draw_of(settings.seed, record_id, kind), settings)
    return noise_lt


def _drawn(kind: str, n_samples: int, fs_hz: float, mix: Mix, draw: Draw, settings: NoiseSettings) -> Float32:
    most_mv = LEVELS_MV[settings.level or MIXING_LEVEL][GENERATORS.index(kind)]
    alone = settings.snr_db is not None and settings.kind != "physiological"
    c_mv = 1.0 if alone else draw("amplitude").uniform(0, most_mv)
    published = settings.origin == "published"
    if kind == "wander":
        lead_gain = "common" if published else settings.lead_gain
        return baseline_wander(n_samples, fs_hz, mix, draw, c_mv, lead_gain=lead_gain, first=0 if published else 1)
    if kind == "powerline":
        c_mv = c_mv**2 if published else c_mv
        return powerline(n_samples, fs_hz, mix, draw, c_mv, mains_hz=settings.mains_hz, aliased=published)
    if kind == "muscle":
        return muscle(n_samples, fs_hz, mix, draw, c_mv)
    # What is to be scaled must not be nothing.
    return baseline_shift(n_samples, fs_hz, mix, draw, c_mv, at_least=1 if alone else 0)


def add_noise(
    signal_mv_lt: Float32,
    fs_hz: float,
    record_id: str,
    settings: NoiseSettings,
    bank: Bank | None = None,
    *,
    leads: Sequence[str] = LEADS_12,
) -> Noisy:
    """Add noise to one record: ``signal_mv_lt`` is mV of shape (leads, samples), rows in the order of ``leads``.

    The signal is brought to whole microvolts first, and the noise is what then differs after rounding, so the
    result is the same before and after a record was stored, and RMS and SNR are those of what was really added.
    Samples that were not recorded stay NaN. A lead that never changes stays as it is: nothing was measured
    there; neither its signal nor its noise counts.

    Raises ConfigError where the recording that the settings name is absent.
    """
    counts_lt, clipped_l = layout.mv_to_counts(signal_mv_lt)
    n_clipped = int(clipped_l.sum())
    clean = _clean(counts_lt)
    if not clean.live_l.any():
        warning = "no noise was added: the record has no signal that an SNR could be of"
        return Noisy(layout.counts_to_mv(counts_lt), 0.0, math.nan, n_clipped, warning, tuple(clipped_l.tolist()))
    noise_lt = generate(counts_lt.shape[1], fs_hz, record_id, settings, bank, leads=leads)[clean.live_l]
    noise_lt *= np.float32(layout.COUNTS_PER_MV)
    added = _add(clean, noise_lt, fs_hz, settings)
    counts_lt[clean.live_l] = np.where(clean.recorded_lt, added.counts_lt, layout.NOT_RECORDED)
    return Noisy(
        signal_mv_lt=layout.counts_to_mv(counts_lt),
        noise_rms_mv=added.power**0.5 / layout.COUNTS_PER_MV,
        snr_db=added.snr_db,
        n_clipped=n_clipped + added.n_clipped,
        warning=added.warning,
        n_clipped_l=tuple(clipped_l.tolist()),
    )


class _Clean(NamedTuple):
    """The leads that change: float32 counts, 0 where not recorded; which those are; recorded samples of each."""

    live_l: npt.NDArray[np.bool_]
    counts_lt: Float32
    recorded_lt: npt.NDArray[np.bool_]
    n_l: npt.NDArray[np.int64]


def _clean(counts_lt: npt.NDArray[np.int16]) -> _Clean:
    recorded_lt = counts_lt != layout.NOT_RECORDED
    lowest_l = np.where(recorded_lt, counts_lt, layout.MAX_COUNT).min(axis=1)
    live_l = np.where(recorded_lt, counts_lt, -layout.MAX_COUNT).max(axis=1) > lowest_l
    live_counts_lt, recorded_lt = counts_lt[live_l].astype(np.float32), recorded_lt[live_l]
    live_counts_lt[~recorded_lt] = 0
    return _Clean(live_l, live_counts_lt, recorded_lt, np.count_nonzero(recorded_lt, axis=1))


class _Added(NamedTuple):
    counts_lt: Float32
    power: float
    snr_db: float
    n_clipped: int
    warning: str = ""


def _add(clean: _Clean, noise_lt: Float32, fs_hz: float, settings: NoiseSettings) -> _Added:
    """Add ``noise_lt``, in counts, at the strength that was asked for."""
    noise_lt *= clean.recorded_lt
    signal_l = _signal_power(clean, fs_hz, settings.power)
    asked_db = settings.snr_db
    if asked_db is None:
        return _rounded(clean, noise_lt, np.float64(1), signal_l, settings.power)
    with np.errstate(divide="ignore", invalid="ignore"):
        unscaled_db = _ratio_db(signal_l, _mean_square(noise_lt, clean.n_l), clean.n_l, settings.power)
    if not np.isfinite(unscaled_db).all():
        return _Added(clean.counts_lt, 0.0, math.nan, 0, "no noise was added: what was drawn is silent here")
    scale = 10 ** ((unscaled_db - asked_db) / 20)
    # Rounding and clipping change the noise a little, so that its gain is sought: by what is missing, or by halving
    # where that leads in a circle, as it does for steps in the baseline that are rounded as a whole.
    gain_db, too_soft_db, too_loud_db = 0.0, -math.inf, math.inf
    best, best_off_db = None, math.inf
    for _ in range(20):
        added = _rounded(clean, noise_lt, scale * 10 ** (gain_db / 20), signal_l, settings.power)
        off_db = added.snr_db - asked_db
        if best is None or abs(off_db) < abs(best_off_db):
            best, best_off_db = added, off_db
        if abs(off_db) <= SNR_TOLERANCE_DB or not math.isfinite(off_db):
            break
        too_soft_db, too_loud_db = (gain_db, too_loud_db) if off_db > 0 else (too_soft_db, gain_db)
        gain_db += off_db
        if not too_soft_db < gain_db < too_loud_db:
            gain_db = (too_soft_db + too_loud_db) / 2
    assert best is not None
    if not abs(best_off_db) <= SNR_WARNING_DB:
        why = "the range of ±32.767 mV" if best.n_clipped else "the store's step of 1 µV"
        best = best._replace(warning=f"asked for {asked_db:g} dB, obtained {best.snr_db:.2f} dB because of {why}")
    return best


def _rounded(clean: _Clean, noise_lt: Float32, scale: np.float64 | Float64, signal_l: Float64, power: str) -> _Added:
    """Add scaled noise, in counts, and measure what differs after rounding and clipping."""
    noisy_lt = noise_lt * np.asarray(scale, dtype=np.float32).reshape(-1, 1)
    noisy_lt += clean.counts_lt
    np.rint(noisy_lt, out=noisy_lt)
    n_clipped = 0
    if max(noisy_lt.max(), -noisy_lt.min()) > layout.MAX_COUNT:
        beyond_lt = (np.abs(noisy_lt) > layout.MAX_COUNT) & (np.abs(clean.counts_lt) < layout.MAX_COUNT)
        n_clipped = int(np.count_nonzero(beyond_lt))
        np.clip(noisy_lt, -layout.MAX_COUNT, layout.MAX_COUNT, out=noisy_lt)
    noise_l = _mean_square(noisy_lt - clean.counts_lt, clean.n_l)
    with np.errstate(divide="ignore"):
        snr_db = float(np.mean(_ratio_db(signal_l, noise_l, clean.n_l, power)))
    return _Added(noisy_lt, float(np.average(noise_l, weights=clean.n_l)), snr_db, n_clipped)


def _mean_square(signal_lt: Float32, n_l: npt.NDArray[np.int64]) -> Float64:
    return np.asarray(np.einsum("lt,lt->l", signal_lt, signal_lt, dtype=np.float64) / n_l)


def _ratio_db(signal_l: Float64, noise_l: Float64, n_l: npt.NDArray[np.int64], power: str) -> Float64:
    """10 log10 of the powers' ratio: for each lead, or of the means over all recorded samples."""
    if power == "lead":
        return np.asarray(10 * np.log10(signal_l / noise_l))
    return np.asarray(10 * np.log10((signal_l @ n_l) / np.float64(noise_l @ n_l)))


def _signal_power(clean: _Clean, fs_hz: float, power: str) -> Float64:
    if power == "qrs":
        return qrs_power(clean.counts_lt, fs_hz, clean.recorded_lt)
    mean_l = clean.counts_lt.sum(axis=1, dtype=np.float64) / clean.n_l
    return np.asarray(np.maximum(_mean_square(clean.counts_lt, clean.n_l) - mean_l**2, 1e-30))


def qrs_power(signal_lt: Float32, fs_hz: float, recorded_lt: npt.NDArray[np.bool_] | None = None) -> Float64:
    """(peak-to-peak amplitude of the QRS)² / 8 of each lead, the power of a sine of that height; shape (leads,).

    This is how NSTDB's program nst measures an ECG, with the beats of the reference annotator. Here the steepest
    tenth of a second of every 1.5 s is taken for a beat: at 40 or more beats a minute each such stretch has one.
    The amplitude is the mean over those, without the highest and the lowest 5 %.
    """
    recorded_lt = np.ones(signal_lt.shape, dtype=np.bool_) if recorded_lt is None else recorded_lt
    n_samples = signal_lt.shape[1]
    slope_lt = np.zeros(signal_lt.shape)
    lag = min(max(1, round(0.02 * fs_hz)), n_samples - 1)
    both_lt = recorded_lt[:, lag:] & recorded_lt[:, :-lag]
    slope_lt[:, lag // 2 : lag // 2 + n_samples - lag] = (signal_lt[:, lag:] - signal_lt[:, :-lag]) * both_lt
    box = min(max(1, round(0.1 * fs_hz)), n_samples)
    steepness_t = np.convolve(np.einsum("lt,lt->t", slope_lt, slope_lt), np.ones(box), mode="same")
    window = min(max(1, round(1.5 * fs_hz)), n_samples)
    n_windows = n_samples // window
    centres_w = steepness_t[: n_windows * window].reshape(n_windows, window).argmax(axis=1)
    centres_w += np.arange(n_windows) * window
    around = np.arange(-round(0.075 * fs_hz), round(0.075 * fs_hz) + 1)
    at_wt = np.clip(centres_w[:, None] + around, 0, n_samples - 1)
    highest_lw = np.where(recorded_lt, signal_lt, -np.inf)[:, at_wt].max(axis=2)
    lowest_lw = np.where(recorded_lt, signal_lt, np.inf)[:, at_wt].min(axis=2)
    # A stretch that a lead did not record says nothing of it; the lead's other stretches do.
    height_lw = np.sort(np.where(highest_lw >= lowest_lw, highest_lw - lowest_lw, 0.0), axis=1)
    cut = n_windows // 20
    kept_lw = height_lw[:, cut : n_windows - cut]
    n_kept_l = np.maximum(1, np.count_nonzero(kept_lw, axis=1))
    return np.asarray((kept_lw.sum(axis=1) / n_kept_l) ** 2 / 8)
