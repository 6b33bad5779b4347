"""What is done to test records to see what it costs: noise, lost leads, another rate, a wrong gain.

Every change gets a whole record in mV, float32 (leads, samples), NaN where not recorded, and gives the same shape. It
hangs on the record's id and on nothing else, so that each run changes each record alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore import Bank, ConfigError, NoiseSettings, Store, load_bank
from ecgstore.inner import add_noise, check_noise, nearest, with_bank
from ecgtrain.config import RunConfig
from ecgtrain.config.curves import LeadSubsets, NoiseRobustness, RateAndGain
from ecgtrain.data.changed import Change
from ecgtrain.data.settings import LEAD_SUBSETS

Float32 = npt.NDArray[np.float32]

#: A rate is taken for the nearest fraction of the store's with a denominator up to this.
_STEPS = 1000


class Changed(NamedTuple):
    """One place on a curve: what it is called, where it stands on the axis, and what is done; None for nothing.

    ``setting``: all that the change hangs on, as JSON holds it.
    """

    told: str
    x: float
    change: Change | None
    setting: Mapping[str, Any]


def in_full(number: float | Decimal) -> str:
    """All digits of a number, and no more: what reads alike is the same number."""
    return f"{Decimal(str(number)).normalize():f}"


def changes(curve: NoiseRobustness | LeadSubsets | RateAndGain, config: RunConfig, store: Store) -> list[Changed]:
    """The places of a curve, the first one without a change.

    Raises ConfigError where that can't be done to the records of ``store``: recorded noise without its recordings,
    mains at half the rate, leads that it hasn't, a rate that isn't lower; and where nothing would change.
    """
    match curve:
        case NoiseRobustness():
            found = _noise(curve, config, store)
        case LeadSubsets():
            found = _subsets(curve, config, store)
        case RateAndGain():
            found = _rates_and_gains(curve, store)
    if len(found) == 1:
        raise ConfigError(
            "nothing changes on the curve",
            where=f"curve {curve.called}",
            got=found[0].told,
            fix="name fewer leads than the model has",
        )
    return found


def _noise(curve: NoiseRobustness, config: RunConfig, store: Store) -> list[Changed]:
    recorded = curve.noise.startswith("nstdb")
    if recorded and config.data.noise_bank is None:
        raise ConfigError(
            f"{curve.noise} is recorded noise, and there is no recording of it",
            where=f"curve {curve.called}",
            fix="fetch it with `ecgstore fetch nstdb`, and set data.noise_bank to its folder",
        )
    bank = load_bank(str(config.data.noise_bank)) if recorded else None
    unit = "dB" if curve.snr_db else "level"
    found = [Changed("none", float("inf") if curve.snr_db else 0.0, None, {})]
    for strength, settings in curve.strengths():
        settings = with_bank(settings, bank)
        check_noise(settings, store.fs_hz, bank)
        told = f"{in_full(strength)} dB" if unit == "dB" else f"level {in_full(strength)}"
        noisy = _noisy(settings, bank, store.fs_hz, store.leads)
        found.append(Changed(told, strength, noisy, settings.model_dump(mode="json")))
    return found


def _noisy(settings: NoiseSettings, bank: Bank | None, fs_hz: float, leads: Sequence[str]) -> Change:
    return lambda name, mv_lt: add_noise(mv_lt, fs_hz, name, settings, bank, leads=leads).signal_mv_lt


def _subsets(curve: LeadSubsets, config: RunConfig, store: Store) -> list[Changed]:
    of_the_model = config.data.leads or store.leads
    found = [Changed(f"{len(of_the_model)} leads", float(len(of_the_model)), None, {})]
    for leads in curve.leads:
        for lead in leads:
            if lead not in of_the_model:
                near = nearest(lead, of_the_model)
                raise ConfigError(
                    f"there is no lead {lead!r} to keep",
                    where=f"curve {curve.called}",
                    expected=", ".join(of_the_model),
                    fix=f"did you mean {near}?" if near else None,
                )
        if set(leads) != set(of_the_model):
            told = f"{len(leads)} leads" if tuple(leads) in LEAD_SUBSETS.values() else " ".join(leads)
            lost = [i for i, lead in enumerate(store.leads) if lead not in leads]
            found.append(Changed(told, float(len(leads)), _without(lost), {"leads": list(leads)}))
    return found


def _without(lost: Sequence[int]) -> Change:
    def change(name: str, mv_lt: Float32) -> Float32:
        mv_lt[lost] = np.nan
        return mv_lt

    return change


def _rates_and_gains(curve: RateAndGain, store: Store) -> list[Changed]:
    found = [Changed("as recorded", 0.0, None, {})]
    for rate_hz in curve.rates_hz:
        if not store.fs_hz / _STEPS <= rate_hz <= store.fs_hz * (_STEPS - 1) / _STEPS:
            raise ConfigError(
                "a rate to go down to must be below that of the store",
                where=f"curve {curve.called}",
                expected=f"{store.fs_hz / _STEPS:g} to {store.fs_hz * (_STEPS - 1) / _STEPS:g} Hz",
                got=f"{rate_hz:g} Hz",
            )
        lower = _through_rate(rate_hz / store.fs_hz)
        found.append(Changed(f"{in_full(rate_hz)} Hz", float(len(found)), lower, {"rate_hz": rate_hz}))
    for gain in curve.gains:
        found.append(Changed(f"{in_full(gain)} × mV", float(len(found)), _scaled(gain), {"gain": gain}))
    return found


def _scaled(gain: float) -> Change:
    return lambda name, mv_lt: mv_lt * np.float32(gain)


def _through_rate(ratio: float) -> Change:
    """Down to that share of the rate and back, through an anti-alias filter each time."""
    from scipy.signal import resample_poly  # takes half a second

    share = Fraction(ratio).limit_denominator(_STEPS)

    def change(name: str, mv_lt: Float32) -> Float32:
        missing_lt = np.isnan(mv_lt)
        whole_lt = np.where(missing_lt, np.float32(0), mv_lt)
        low_lt = resample_poly(whole_lt, share.numerator, share.denominator, axis=1)
        back_lt = resample_poly(low_lt, share.denominator, share.numerator, axis=1)[:, : mv_lt.shape[1]]
        made_lt = np.zeros_like(mv_lt)
        made_lt[:, : back_lt.shape[1]] = back_lt
        made_lt[missing_lt] = np.nan
        return made_lt

    return change
