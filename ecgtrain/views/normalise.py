"""From int16 windows to what a network eats: millivolts, normalised, cut; all batched, on the batch's device.

Random parameters are drawn by :class:`Draw`, a counter-based generator over global sample numbers: a window
gets the same draw whatever batch, rank or device it lands on, and a resumed run needs no generator state.
Augmentations are in :mod:`ecgtrain.views.augmentations`; here is what they stand on, and what a pretext task hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from ecgstore import COUNTS_PER_MV, NOT_RECORDED, Settings
from ecgtrain.errors import PassportError
from ecgtrain.views.draw import Draw

NormaliseMode = Literal["none", "record", "record_lead", "lead", "each"]

#: Spreads below one count (1 µV) are no signal: dividing by them would only blow up rounding.
_MIN_STD_MV = 1.0 / COUNTS_PER_MV


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError("the lower bound must not be above the upper one")
    return bounds


#: Bounds (low, high) of a uniform draw; those of a share of something, and those of a length in seconds.
Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]
_Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[_Share, _Share], AfterValidator(_ordered)]
_Length = Annotated[float, Field(gt=0)]
Seconds = Annotated[tuple[_Length, _Length], AfterValidator(_ordered)]


class Millivolts(NamedTuple):
    """``x_blt``: float32 mV, 0 where nothing was recorded; ``recorded_blt``: bool."""

    x_blt: Tensor
    recorded_blt: Tensor


class Normalisation(Settings):
    """How millivolts are normalised, with the statistics it takes, by lead name, so that it can travel.

    ``none``: left in mV. ``record``: each window by one mean and one standard deviation over all its leads,
    which keeps the leads' relative size. ``record_lead``: each lead of each window by its own, which does not: limb
    leads no longer add up, and how large a lead is can't be seen. ``lead``: each lead by fixed statistics of the
    training folds. ``each``: for several networks side by side, each of which has its own leads, normalised in its own
    way; ``parts``, in their order.
    """

    mode: NormaliseMode = "none"
    mean_mv: dict[str, float] = Field(default_factory=dict)
    std_mv: dict[str, float] = Field(default_factory=dict)
    parts: Annotated[tuple[NormalisedPart, ...], Field(max_length=4)] = ()

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if (self.mode == "each") != bool(self.parts):
            raise ValueError("the mode each and parts go together")
        if any(part.normalisation.mode == "each" for part in self.parts):
            raise ValueError("a part can't have parts")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Passports of before have no parts, and are to keep their hashes.
        content: dict[str, Any] = dumped(self)
        if not self.parts:
            del content["parts"]
        return content

    def inputs(self, leads: Sequence[str]) -> tuple[NormalisedPart, ...]:
        """What stands one below the other at a network's input: leads, and how they are normalised."""
        return self.parts or (NormalisedPart(leads=tuple(leads), normalisation=self),)

    def vectors(self, leads: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation in mV in the order of ``leads``, or None if the mode takes none."""
        if self.mode != "lead":
            return None
        missing = [lead for lead in leads if lead not in self.mean_mv or lead not in self.std_mv]
        if missing:
            raise PassportError(
                "no normalisation statistics for a lead",
                expected=f"one of {', '.join(self.mean_mv)}",
                got=", ".join(missing),
            )
        return (
            torch.tensor([self.mean_mv[lead] for lead in leads], dtype=torch.float32, device=device),
            torch.tensor([self.std_mv[lead] for lead in leads], dtype=torch.float32, device=device),
        )


class NormalisedPart(Settings):
    """Leads that are normalised together: the rows that one network sees. ``leads``: their names, in its order."""

    leads: Annotated[tuple[str, ...], Field(min_length=1)]
    normalisation: Normalisation


def to_mv(counts_blt: Tensor) -> Millivolts:
    """Turn int16 counts (batch, leads, samples) into float32 millivolts and a mask of what was recorded."""
    recorded_blt = counts_blt > int(NOT_RECORDED)
    # "Not recorded" is the lowest count there is, so a threshold does what the mask would, in half the time.
    x_blt = torch.threshold_(counts_blt.to(torch.float32), float(NOT_RECORDED), 0.0).div_(COUNTS_PER_MV)
    return Millivolts(x_blt, recorded_blt)


def normalise(mv: Millivolts, mode: NormaliseMode, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Normalise (batch, leads, samples) as :class:`Normalisation` says; what was not recorded stays 0.

    ``statistics`` are the ``vectors`` of a :class:`Normalisation`; needed in mode ``lead``. What has parts is
    normalised by :class:`Normaliser`.
    """
    x_blt, recorded_blt = mv
    if mode == "none":
        return x_blt
    if mode in ("record", "record_lead"):
        over = (1, 2) if mode == "record" else (2,)
        n = recorded_blt.sum(dim=over, keepdim=True).clamp_min(1)
        mean = x_blt.sum(dim=over, keepdim=True) / n
        centred_blt = (x_blt - mean).masked_fill_(~recorded_blt, 0.0)
        std = (centred_blt.square().sum(dim=over, keepdim=True) / n).sqrt()
        return centred_blt / std.clamp_min(_MIN_STD_MV)
    if statistics is None:
        raise ValueError("mode 'lead' needs the leads' mean and standard deviation")
    mean_l, std_l = statistics
    scaled_blt = (x_blt - mean_l[:, None]) / std_l[:, None].clamp_min(_MIN_STD_MV)
    return scaled_blt.masked_fill_(~recorded_blt, 0.0)


class Normaliser(nn.Module):
    """Millivolts of ``leads`` → what a network eats, (batch, rows, samples): :func:`normalise`, or of several parts.

    A module, so that it can be a part of a network that is written as one file. Raises PassportError where statistics
    of a lead are missing.
    """

    mean_l: Tensor
    std_l: Tensor

    def __init__(self, normalisation: Normalisation, leads: Sequence[str]) -> None:
        super().__init__()
        self.mode = normalisation.mode
        self.has_statistics = (statistics := normalisation.vectors(leads)) is not None
        mean_l, std_l = statistics or (torch.zeros(0), torch.ones(0))
        self.register_buffer("mean_l", mean_l)
        self.register_buffer("std_l", std_l)
        self.parts = nn.ModuleList(Normaliser(part.normalisation, part.leads) for part in normalisation.parts)
        for number, part in enumerate(normalisation.parts):
            if missing := [lead for lead in part.leads if lead not in leads]:
                raise PassportError("a network sees leads that are not there", got=", ".join(missing))
            self.register_buffer(f"rows_{number}", torch.tensor([list(leads).index(lead) for lead in part.leads]))

    def forward(self, mv: Millivolts) -> Tensor:
        """The windows, normalised."""
        if self.mode != "each":
            return normalise(mv, self.mode, (self.mean_l, self.std_l) if self.has_statistics else None)
        rows = [self.get_buffer(f"rows_{number}") for number in range(len(self.parts))]
        return torch.cat(
            [
                part(Millivolts(mv.x_blt.index_select(1, its), mv.recorded_blt.index_select(1, its)))
                for part, its in zip(self.parts, rows, strict=True)
            ],
            dim=1,
        )


def crop(x_blt: Tensor, offsets_b: Tensor, n_samples: int) -> Tensor:
    """Cut ``n_samples`` from each window, starting at its own offset: (batch, leads, n_samples)."""
    time_bt = offsets_b[:, None] + torch.arange(n_samples, device=x_blt.device)
    n_windows, n_leads, n_before = x_blt.shape
    x_btl = x_blt.transpose(1, 2)
    if not x_btl.is_contiguous():
        return x_blt.gather(2, time_bt[:, None, :].expand(-1, n_leads, -1))
    # As windows come from the feed, all leads of an instant side by side: moved at once, in a fifth of the time.
    row_bt = time_bt + torch.arange(n_windows, device=x_blt.device)[:, None] * n_before
    rows = x_btl.reshape(-1, n_leads).index_select(0, row_bt.view(-1))
    return rows.view(n_windows, n_samples, n_leads).transpose(1, 2)


def shuffle_time(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor) -> Tensor:
    """Permute the samples of each window, all leads alike: a negative control without any temporal order."""
    keys_bt = draw.words(sample_numbers_b, x_blt.shape[2])
    order_bt = keys_bt.argsort(dim=1, stable=True)
    return x_blt.gather(2, order_bt[:, None, :].expand_as(x_blt))


def at_times(mv: Millivolts, below_bt: Tensor, weight_bt: Tensor) -> Millivolts:
    """Each window at other times, all leads alike, by linear interpolation: (batch, leads, times).

    ``below_bt`` int64 are samples of the window, ``weight_bt`` float32 in [0, 1) how far it is from there to the
    next. What lies next to something not recorded is not recorded.
    """
    x_blt, recorded_blt = mv
    n_windows, n_leads, n_samples = x_blt.shape
    n_times = below_bt.shape[1]
    first = below_bt + torch.arange(n_windows, device=below_bt.device)[:, None] * n_samples
    second = (first + (weight_bt > 0)).view(-1)
    first = first.view(-1)
    # All leads of an instant are moved at once: rows of (instants, leads), in which the feed has them anyway.
    rows = x_blt.transpose(1, 2).reshape(-1, n_leads)
    below = rows.index_select(0, first)
    moved = rows.index_select(0, second).sub_(below).mul_(weight_bt.reshape(-1, 1)).add_(below)
    rows = recorded_blt.transpose(1, 2).reshape(-1, n_leads)
    known = rows.index_select(0, first).logical_and_(rows.index_select(0, second))
    moved.masked_fill_(~known, 0.0)
    shape = (n_windows, n_times, n_leads)
    return Millivolts(moved.view(shape).transpose(1, 2), known.view(shape).transpose(1, 2))
