"""Settings of the data: which records, and how they are fed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ecgstore import LEADS_12, Settings
from ecgtrain.data.plan import MAX_DRAWS
from ecgtrain.data.values import EachOnce, FewFolds, each_once


class Feeding(Settings):
    """How decoded records are kept, and which of their windows training draws.

    ``feed``: device, resident, memmap and stream are described in :mod:`ecgtrain.data.feed`; auto takes the first
    that the records fit. ``cache_dir``: where a memmap goes. ``edge_s``: seconds at both ends of every record
    that no window touches. ``windows``: one window per record and epoch, or as many as lie side by side in it.
    ``balance``: sources, or statements (a record goes by its rarest one), come alike; ``balance_strength`` below 1
    stops short of that. ``draws`` windows are taken from each record of a stream while its shard is decoded, and
    ``pool_shards`` shards are mixed. ``strict``: stop at a record that can't be read, instead of going on without.
    """

    feed: Literal["auto", "device", "resident", "memmap", "stream"] = "auto"
    cache_dir: str | None = None
    edge_s: NonNegativeFloat = 0.0
    windows: Literal["record", "length"] = "record"
    balance: Literal["none", "source", "statement"] = "none"
    balance_strength: PositiveFloat = Field(default=1.0, le=1.0)
    draws: int = Field(default=8, ge=8, le=MAX_DRAWS)
    pool_shards: PositiveInt = 16
    strict: bool = False


class MixedStore(Settings):
    """Another store to pretrain on; ``where`` selects records, ``weight`` is its share of the windows.

    ``path``: where it is. ``split``: a table whose folds take the place of the store's.
    """

    path: str
    split: str | None = None
    weight: PositiveFloat | None = None
    where: str = ""


def _each_mixed_once(stores: tuple[MixedStore, ...]) -> tuple[MixedStore, ...]:
    each_once([f"{one.path} where {one.where}" if one.where else one.path for one in stores])
    return stores


#: The leads of the challenge of 2021, by their number (Reyna et al., CinC 48, 2021).
LEAD_SUBSETS: dict[int, tuple[str, ...]] = {
    12: LEADS_12,
    6: ("I", "II", "III", "aVR", "aVL", "aVF"),
    4: ("I", "II", "III", "V2"),
    3: ("I", "II", "V2"),
    2: ("I", "II"),
}


def _leads(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if value not in LEAD_SUBSETS:
            raise ValueError(
                f"a number of leads is one of {', '.join(map(str, LEAD_SUBSETS))}; others are named one by one"
            )
        return LEAD_SUBSETS[value]
    return value


#: Leads by their names, or a number of the challenge's.
LeadNames = Annotated[tuple[str, ...], BeforeValidator(_leads), Field(min_length=1), EachOnce]


class Data(Feeding):
    """Where the records come from.

    ``store``: a sealed store, by its path or address.

    ``split``: a table of `ecgstore split` for ``store``; its folds take the place of the store's own wherever a recipe
    names folds of this store.

    ``leads`` picks some of the store's, in this order; all by default. A number stands for a subset of the challenge of
    2021: 12, 6, 4, 3 or 2.

    ``where``, ``sources`` and ``sites`` select records of ``store`` for pretraining, within the folds.
    ``exclude_sources``, ``exclude_folds`` and ``exclude_patients`` leave records of all stores out of pretraining. The
    last is a text file with a patient key on each line, or the ``seen.parquet`` of another run.

    ``noise_bank``: a folder with the recorded noise of NSTDB, for views that add it.

    ``expects``: what the preparation of ``store`` must say, such as `{fs_hz: 100, filters: []}`; a store that was
    prepared otherwise is refused. Of a filter only what is named is compared.

    ``stores`` are mixed in; with ``weight`` set on all of them and here, windows come in those proportions, else
    every record counts alike. Passport and statistics are those of ``store``.
    """

    store: str
    split: str | None = None
    leads: LeadNames | None = None
    where: str = ""
    sources: Annotated[tuple[str, ...], Field(min_length=1), EachOnce] | None = None
    sites: Annotated[tuple[str, ...], Field(min_length=1), EachOnce] | None = None
    exclude_sources: Annotated[tuple[str, ...], EachOnce] = ()
    exclude_folds: FewFolds = ()
    exclude_patients: str | None = None
    noise_bank: str | None = None
    expects: dict[str, Any] = Field(default_factory=dict)
    weight: PositiveFloat | None = None
    stores: Annotated[tuple[MixedStore, ...], AfterValidator(_each_mixed_once)] = ()

    @model_validator(mode="after")
    def _weights(self) -> Self:
        weights = [self.weight, *(other.weight for other in self.stores)]
        if len({weight is None for weight in weights}) > 1:
            raise ValueError("give every store a weight (data.weight is that of data.store), or none of them")
        return self
