"""A run that begins with the exported backbone of another: what both must agree on, and who was seen before."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from ecgstore import ConfigError, Store
from ecgstore.inner import first_difference
from ecgtrain.backbones import Backbone
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Part
from ecgtrain.data.selection import open_under, refuse_absent_folds, refuse_unexpected
from ecgtrain.errors import PassportError
from ecgtrain.views.passport import Passport


class Initial(NamedTuple):
    """An exported backbone, how its signals are prepared, and who was seen while it was trained.

    Several side by side are one backbone, too. ``place``: where it was read from. ``sha256``: of all that it is.
    ``seen`` is a table of :mod:`ecgtrain.data.seen`, and None where nobody wrote it down.
    """

    place: str
    backbone: Backbone
    passport: Passport
    sha256: str
    seen: pa.Table | None

    def agreed(self, config: RunConfig, store: Store) -> Passport:
        """The passport that ``config`` goes on with on ``store``: signals are prepared as the network is used to.

        Raises ConfigError where the recipe has another backbone, leads or normalisation, and PassportError where the
        store was prepared otherwise.
        """
        settings = config.pretrain
        assert settings is not None
        mine, its = (one.model_dump(mode="json") for one in (settings.backbone, self.backbone.settings))
        if (differs := first_difference(its, mine)) is not None:
            raise ConfigError(
                f"the network to begin with is another one than the recipe's: {differs.name} of its backbone differs",
                where=self.place,
                expected=differs.one,
                got=differs.other,
                fix="pretrain.backbone: null takes that of the exported network",
            )
        self.passport.refuse_other(store)
        leads = config.data.leads or self.passport.leads
        told = (
            ("data.leads", ", ".join(self.passport.leads), ", ".join(leads)),
            ("pretrain.normalise", self.passport.normalisation.mode, settings.normalise),
        )
        for key, expected, got in told:
            if expected != got:
                raise PassportError(
                    f"the network to begin with was trained otherwise: {key} differs",
                    where=self.place,
                    expected=expected,
                    got=got,
                )
        if settings.steps == 0:
            return self.passport
        update = {"window_samples": settings.window_samples, "store_fingerprint": store.fingerprint}
        return self.passport.model_copy(update=update)


class TakenOver(NamedTuple):
    """A network that is not trained any further: what there is in the place of a pretraining.

    ``parts`` were trained on: none.
    """

    initial: Initial
    passport: Passport
    parts: tuple[Part, ...] = ()

    @property
    def backbone(self) -> Backbone:
        """The network."""
        return self.initial.backbone

    def seen(self) -> list[pa.Table]:
        """All records that the network has seen, as far as that is known."""
        return [] if self.initial.seen is None else [self.initial.seen]


def take_over(config: RunConfig, initial: Initial) -> TakenOver:
    """Take an exported network as it is; raises what :meth:`Initial.agreed` raises."""
    store = open_under(config.data.store, config.data.split)
    refuse_unexpected(config.data, store)
    assert config.pretrain is not None
    mixed = [open_under(other.path, other.split) for other in config.data.stores]
    refuse_absent_folds(config.pretrain.folds, [store, *mixed], "pretrain.folds")
    return TakenOver(initial, initial.agreed(config, store))
