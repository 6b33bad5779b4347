"""Augmentations: batched, on the batch's device, in millivolts before any normalisation.

Each has frozen settings, which a recipe holds by ``name``, and a function; :func:`apply` finds the function by the
settings, :func:`chain` applies several in turn. Millivolts go in and come out: ``x_blt`` float32 (batch, leads,
samples) of mV, and ``recorded_blt``, bool. What was not recorded stays 0, and nothing is added to it. What an
augmentation takes away (time_out, lead_dropout) is from then on "not recorded", so that it is 0 after any
normalisation too.

Every random number is drawn by global sample number, so that it does not matter how a batch is divided among
ranks; nothing waits for the device, and no Python loop runs over windows. Times are in seconds or in shares of the
window, amplitudes in mV. docs/views.md shows all of them on a real record.

Sources. B: Mehari & Strodthoff, Comput. Biol. Med. 141:105114 (2022), by its method section and published code.
C: Liu et al., Appl. Soft Comput. 172:112871 (2025). Where B's code differs from its formula, the formula is the
default, and the code is an option.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.views.base import Base
from ecgtrain.views.distortions import (
    DownSample,
    DynamicTimeWarp,
    FourierCrop,
    GaussianBlur,
    LeadDropout,
    LeadScaling,
    Negation,
    Permutation,
    RandomResizedCrop,
    TimeOut,
    TimeReversal,
    TimeWarp,
    down_sample,
    dynamic_time_warp,
    fourier_crop,
    gaussian_blur,
    lead_dropout,
    lead_scaling,
    negation,
    permutation,
    random_resized_crop,
    time_out,
    time_reversal,
    time_warp,
)
from ecgtrain.views.draw import Draw
from ecgtrain.views.noise import (
    Banks,
    BaselineShift,
    BaselineWander,
    GaussianNoise,
    Muscle,
    Powerline,
    RecordedNoise,
    baseline_shift,
    baseline_wander,
    gaussian_noise,
    muscle,
    powerline,
    recorded_noise,
)
from ecgtrain.views.normalise import Millivolts

#: All but recorded noise, which takes its recording too.
_FUNCTIONS: Mapping[type[Base], Callable[[Millivolts, Draw, Tensor, Any, float], Millivolts]] = {
    RandomResizedCrop: random_resized_crop,
    FourierCrop: fourier_crop,
    TimeWarp: time_warp,
    DynamicTimeWarp: dynamic_time_warp,
    DownSample: down_sample,
    Permutation: permutation,
    TimeReversal: time_reversal,
    TimeOut: time_out,
    LeadDropout: lead_dropout,
    GaussianBlur: gaussian_blur,
    LeadScaling: lead_scaling,
    Negation: negation,
    GaussianNoise: gaussian_noise,
    BaselineWander: baseline_wander,
    Powerline: powerline,
    Muscle: muscle,
    BaselineShift: baseline_shift,
}
_WITH_RECORDING: tuple[type[Base], ...] = (RecordedNoise,)

#: Settings of every augmentation, by name.
AUGMENTATIONS: Mapping[str, type[Base]] = {
    str(kind.model_fields["name"].default): kind for kind in (*_FUNCTIONS, *_WITH_RECORDING)
}


def _by_name(content: Any) -> Any:
    """Parse by the settings that are named, so that an error is about these alone."""
    if isinstance(content, Base):
        return content
    if isinstance(content, str):
        content = {"name": content}
    if not isinstance(content, Mapping) or "name" not in content:
        raise ConfigError("an augmentation must be a name, or a mapping with a name", got=repr(content))
    name = str(content["name"])
    if name not in AUGMENTATIONS:
        near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(AUGMENTATIONS)}"
        raise ConfigError(f"unknown augmentation {name}", fix=hint)
    return parse(AUGMENTATIONS[name], content)


#: What a recipe holds: a name, or a mapping with a name and settings.
Augmentation = Annotated[
    RandomResizedCrop
    | FourierCrop
    | TimeWarp
    | DynamicTimeWarp
    | DownSample
    | Permutation
    | TimeReversal
    | TimeOut
    | LeadDropout
    | GaussianBlur
    | LeadScaling
    | Negation
    | GaussianNoise
    | BaselineWander
    | Powerline
    | Muscle
    | BaselineShift
    | RecordedNoise,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]

#: B's views for SimCLR, BYOL and SwAV.
CROP_AND_TIME_OUT: tuple[Augmentation, ...] = (RandomResizedCrop(), TimeOut())
#: C's views.
FOURIER_CROP_AND_TIME_OUT: tuple[Augmentation, ...] = (FourierCrop(), TimeOut(share=(0.0, 0.5)))
#: B's physiological noise, in its order and strength; powerline needs a rate above 100 Hz.
PHYSIOLOGICAL: tuple[Augmentation, ...] = (BaselineWander(), Powerline(), Muscle(), BaselineShift())
#: The same as B's code does it.
PHYSIOLOGICAL_AS_PUBLISHED: tuple[Augmentation, ...] = (
    BaselineWander(lead_gain="common", first_tone=0),
    Powerline(squared=True, aliased=True),
    Muscle(),
    BaselineShift(),
)


def check(settings: Sequence[Augmentation], n_samples: int, fs_hz: float, banks: Banks | None = None) -> int:
    """Refuse what can't be done to windows of ``n_samples``; return how many samples come out at the end.

    Raises ConfigError: a window too short, mains at or above half the rate, recorded noise without its recording.
    """
    for one in settings:
        n_samples = _check(one, n_samples, fs_hz, banks)
    return n_samples


def _check(settings: Augmentation, n_samples: int, fs_hz: float, banks: Banks | None) -> int:
    needed, out = 1, n_samples
    if isinstance(settings, RandomResizedCrop):
        needed, out = settings.n_samples or 4, settings.n_samples or n_samples
    elif isinstance(settings, DynamicTimeWarp):
        if round(settings.radius_s * fs_hz) < 1:
            raise ConfigError(
                "dynamic_time_warp: radius_s is less than one sample",
                expected=f"at least {1 / fs_hz:g} s",
                got=f"{settings.radius_s:g} s",
            )
        needed = 2 * (settings.step + 1) * round(settings.radius_s * fs_hz) + 3
    elif isinstance(settings, FourierCrop | TimeWarp | DownSample):
        needed = 4
    elif isinstance(settings, Permutation):
        needed = settings.n_segments
    elif isinstance(settings, Powerline) and not settings.aliased and settings.mains_hz >= fs_hz / 2:
        raise ConfigError(
            f"powerline: windows of {fs_hz:g} Hz hold nothing at {settings.mains_hz:g} Hz",
            expected=f"more than {2 * settings.mains_hz:g} Hz",
            fix="leave powerline out, or set aliased: true for what the published code does there",
        )
    elif isinstance(settings, RecordedNoise) and settings.kind not in (banks or {}):
        raise ConfigError(
            f"recorded_noise: there is no recording {settings.kind}",
            expected=f"one of {', '.join(banks)}" if banks else None,
            fix="get the recordings with `ecgstore fetch nstdb DEST` and hand them over as banks",
        )
    if n_samples < needed:
        raise ConfigError(f"the window is too short for {settings.name}", expected=f"{needed} samples", got=n_samples)
    return out


#: Whether an augmentation is applied at all must not be tied to what it draws.
_WHETHER, _WHAT = 0, 1


def apply(
    x_blt: Tensor,
    recorded_blt: Tensor,
    draw: Draw,
    sample_numbers_b: Tensor,
    settings: Augmentation,
    fs_hz: float,
    banks: Banks | None = None,
) -> Millivolts:
    """One augmentation of a batch: ``x_blt`` float32 mV (batch, leads, samples), 0 where not ``recorded_blt``.

    ``sample_numbers_b`` int64 are the global sample numbers that everything is drawn by. What comes in is left as
    it is. Raises ConfigError as :func:`check` does.
    """
    _check(settings, x_blt.shape[2], fs_hz, banks)
    before = Millivolts(x_blt, recorded_blt)
    if isinstance(settings, RecordedNoise):
        assert banks is not None
        bank_st = banks[settings.kind]
        after = recorded_noise(before, draw.fork(_WHAT), sample_numbers_b, settings, fs_hz, bank_st)
    else:
        after = _FUNCTIONS[type(settings)](before, draw.fork(_WHAT), sample_numbers_b, settings, fs_hz)
    if settings.probability == 1:
        return after
    applied_b11 = (draw.fork(_WHETHER).uniform(sample_numbers_b, 1) < settings.probability)[..., None]
    return Millivolts(
        torch.where(applied_b11, after.x_blt, x_blt), torch.where(applied_b11, after.recorded_blt, recorded_blt)
    )


def chain(
    x_blt: Tensor,
    recorded_blt: Tensor,
    draw: Draw,
    sample_numbers_b: Tensor,
    settings: Sequence[Augmentation],
    fs_hz: float,
    banks: Banks | None = None,
) -> Millivolts:
    """One augmentation after the other, as :func:`apply` does each; each has draws of its own."""
    mv = Millivolts(x_blt, recorded_blt)
    for place, one in enumerate(settings):
        mv = apply(*mv, draw.fork(place), sample_numbers_b, one, fs_hz, banks)
    return mv
