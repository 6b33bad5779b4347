"""The passport: how signals were prepared for a model; it travels with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ecgstore import Settings, Store
from ecgstore.inner import NOT_SAID, first_difference
from ecgtrain.errors import PassportError
from ecgtrain.views.normalise import Normalisation, NormalisedPart, Normaliser

#: Parts of a store's recipe that its signals don't depend on, or that are compared by themselves; and the calibration
#: of a source that states none, which is a fact about that source: see :func:`assumed_calibration`.
_NOT_OF_SIGNALS = frozenset({"fs_hz", "leads", "extra_leads", "uncalibrated"})


class Passport(Settings):
    """How signals were prepared for a model: it travels with the weights, from store to exported model.

    ``recipe`` is the store's preparation (rate, filters, quantisation), and ``recipe_sha256`` its hash; ``leads``
    their order at the model's input. ``fs_hz``: samples per second. ``counts_per_mv``: of the store's int16.
    ``window_samples``: of a window of the pretraining. ``normalisation``: what is done to millivolts at the input.
    ``store_fingerprint``: of the store that it was pretrained on.
    """

    leads: tuple[str, ...]
    fs_hz: float
    counts_per_mv: int
    window_samples: int
    normalisation: Normalisation
    recipe: dict[str, Any]
    recipe_sha256: str
    store_fingerprint: str

    @property
    def n_inputs(self) -> int:
        """Rows of a window at the network's input: its leads, or those of several networks, one below the other."""
        return sum(len(part.leads) for part in self.normalisation.inputs(self.leads))

    def refuse_other(self, store: Store) -> None:
        """Raise PassportError unless ``store`` holds the same leads, prepared in the same way."""
        if store.fs_hz != self.fs_hz:
            raise PassportError(
                "the store has another sampling rate than the model was trained on",
                where=store.path,
                expected=f"{self.fs_hz:g} Hz",
                got=f"{store.fs_hz:g} Hz",
                fix="ingest the records at the model's rate",
            )
        missing = [lead for lead in self.leads if lead not in store.leads]
        if missing:
            raise PassportError(
                f"the store lacks lead {', '.join(missing)}",
                where=store.path,
                expected=", ".join(self.leads),
                got=", ".join(store.leads),
            )
        # Rate and leads are compared above.
        differing = first_difference(
            *(
                {key: value for key, value in recipe.items() if key not in _NOT_OF_SIGNALS}
                for recipe in (self.recipe, store.recipe)
            )
        )
        if differing is not None:
            is_old = differing.one == NOT_SAID
            raise PassportError(
                f"the store was prepared otherwise than the model's records: {differing.name} differs",
                where=store.path,
                expected=differing.one,
                got=differing.other,
                fix="this release makes no such store: take one that was made before, or train again"
                if is_old
                else "ingest the records as the model's were (preprocessing.json)",
            )


def side_by_side(passports: Mapping[str, Passport]) -> Passport:
    """That of several networks together, each with its own leads and normalisation, by where they are from.

    Its leads are all of theirs, its window the shortest. Raises PassportError unless all see signals that are prepared
    alike.
    """
    first, *others = passports.values()
    for place, other in list(passports.items())[1:]:
        if differing := first_difference(_of_signals(first), _of_signals(other)):
            raise PassportError(
                f"networks side by side must see signals that are prepared alike: {differing.name} differs",
                where=place,
                expected=differing.one,
                got=differing.other,
            )
    each = (first, *others)
    parts = tuple(NormalisedPart(leads=one.leads, normalisation=one.normalisation) for one in each)
    update = {
        "leads": tuple(dict.fromkeys(lead for one in each for lead in one.leads)),
        "window_samples": min(one.window_samples for one in each),
        "normalisation": Normalisation(mode="each", parts=parts),
    }
    return first.model_copy(update=update)


def _of_signals(passport: Passport) -> dict[str, Any]:
    recipe = {key: value for key, value in passport.recipe.items() if key not in _NOT_OF_SIGNALS}
    return {**recipe, "fs_hz": passport.fs_hz, "counts_per_mv": passport.counts_per_mv}


def assumed_calibration(store: Store) -> tuple[str, ...]:
    """What must be said of a store whose records may have no calibration but the one that its maker assumed."""
    assumed = store.recipe.get("uncalibrated", "refuse")
    if assumed == "refuse":
        return ()
    counts = str(assumed).removeprefix("assume=")
    return (f"records without a calibration were taken to have {counts} counts per mV, as whoever made the store says",)


def normaliser(passport: Passport, device: torch.device | str) -> Normaliser:
    """What turns millivolts of the passport's leads into what its network eats."""
    return Normaliser(passport.normalisation, passport.leads).to(device)
