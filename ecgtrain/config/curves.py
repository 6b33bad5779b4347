"""Curves: questions asked over and over while one thing changes, each kind with its settings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from ecgstore import NoiseSettings, Settings
from ecgtrain.config.names import Name
from ecgtrain.data.settings import LEAD_SUBSETS, LeadNames
from ecgtrain.data.values import EachOnce, Folds, each_once


class CurveOf(Settings):
    """One question asked over and over while one thing changes.

    ``questions``: downstream entries, by default all of this recipe; each with its nulls. ``reference``: the entry
    whose score is taken from the others' at each point, such as the one that learns from scratch. ``name`` is by
    default the kind.
    """

    kind: str
    name: Name | None = None
    questions: Annotated[tuple[Name, ...], EachOnce] = ()
    reference: Name | None = None

    @property
    def called(self) -> str:
        """Its name: a folder is called so."""
        return self.name or str(self.kind)


class LabelEfficiency(CurveOf):
    """Answers learned from shares of the labels.

    ``fractions`` of the training and validation patients; ``draws``: how many times those are drawn anew. With a
    ``reference`` it is told at which fraction the others reach what that one does with all labels.
    """

    kind: Literal["label_efficiency"]
    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=50), EachOnce
    ] = (
        0.01, 0.03, 0.1, 0.3, 0.6, 1.0,
    )  # fmt: skip
    draws: int = Field(default=3, ge=1, le=100)


class NoiseRobustness(CurveOf):
    """Heads as they are, judged on test records with noise; each record gets the same one in every run.

    ``noise`` is what ``ecgstore augment`` adds. ``levels``: 1 to 6, those of Mehari & Strodthoff (2022). ``snr_db``:
    signal-to-noise ratios instead, the only way for recorded noise, which is read from ``data.noise_bank``.
    """

    kind: Literal["noise_robustness"]
    noise: str = "physiological"
    levels: Annotated[tuple[Annotated[int, Field(ge=1, le=6)], ...], Field(max_length=6), EachOnce] = ()
    snr_db: Annotated[tuple[Annotated[float, Field(ge=-60, le=100)], ...], Field(max_length=50), EachOnce] = ()

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.levels and self.snr_db:
            raise ValueError("levels and snr_db are two scales: make two curves")
        self.strengths()
        return self

    def strengths(self) -> list[tuple[float, NoiseSettings]]:
        """Levels or ratios, as they are told, each with the noise that it is."""
        levels = self.levels or (() if self.snr_db else (1, 2, 3, 4, 5, 6))
        asked = [(level, {"level": level}) for level in levels] + [(db, {"snr_db": db}) for db in self.snr_db]
        return [(float(told), NoiseSettings.model_validate({"kind": self.noise, **how})) for told, how in asked]


def _each_set_once(leads: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    each_once([tuple(sorted(one)) for one in leads])
    return leads


class LeadSubsets(CurveOf):
    """Heads as they are, judged on test records of which only some leads are there; the others are not recorded.

    ``leads``: a number stands for a subset of the challenge of 2021: 12, 6, 4, 3 or 2.
    """

    kind: Literal["lead_subsets"]
    leads: Annotated[tuple[LeadNames, ...], Field(min_length=1, max_length=50), AfterValidator(_each_set_once)] = tuple(
        LEAD_SUBSETS.values()
    )


class RateAndGain(CurveOf):
    """Heads as they are, judged on test records that were recorded otherwise.

    ``rates_hz``: sampled at that rate and brought back to the store's, so that what is above half of it is lost.
    ``gains``: calibrated wrongly by that factor.
    """

    kind: Literal["rate_and_gain"]
    rates_hz: Annotated[tuple[PositiveFloat, ...], Field(max_length=50), EachOnce] = (50.0, 25.0)
    gains: Annotated[tuple[Annotated[float, Field(ge=1e-3, le=1e3)], ...], Field(max_length=50), EachOnce] = (
        0.5, 0.8, 1.25, 2.0,
    )  # fmt: skip

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.rates_hz and not self.gains:
            raise ValueError("rates_hz and gains are both empty: name one rate or gain at least")
        return self


class Transfer(CurveOf):
    """Heads as they are, judged on the records of other stores: a matrix of questions by stores.

    ``stores`` must be prepared as the run's own is. ``folds``: which of their records; by default the test folds of the
    question, and all records where a store has no folds.
    """

    kind: Literal["transfer"]
    stores: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=50), EachOnce]
    folds: Folds | Literal["all"] | None = None


Curve = Annotated[LabelEfficiency | NoiseRobustness | LeadSubsets | RateAndGain | Transfer, Field(discriminator="kind")]
