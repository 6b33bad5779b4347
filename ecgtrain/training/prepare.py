"""Recipe + store → objects; what can be known to be wrong is refused before a sample is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ecgstore import COUNTS_PER_MV, ConfigError, LeadStatistics, Store, load_bank
from ecgstore.inner import occupant
from ecgtrain import tasks
from ecgtrain.backbones import Backbone
from ecgtrain.config import Pretrain, RunConfig
from ecgtrain.data.feed import Batch, Feed, Part, open_feed_of, refuse_unfeedable
from ecgtrain.data.seen import seen_of, trained_on_before
from ecgtrain.data.selection import (
    labelled_parts,
    open_under,
    refuse_absent_folds,
    refuse_absent_leads,
    refuse_nothing_left,
    refuse_shared_patients,
    refuse_unexpected,
    select_parts,
    what_folds,
)
from ecgtrain.data.settings import Data
from ecgtrain.data.statistics import statistics_of
from ecgtrain.errors import LeakageError, ProtocolError
from ecgtrain.methods import Objective, WindowBatch, build_objective
from ecgtrain.scoring import kinds
from ecgtrain.tasks import Targets
from ecgtrain.training import loop
from ecgtrain.training.initial import Initial
from ecgtrain.training.step import refuse_division, refuse_graphs
from ecgtrain.views import augmentations
from ecgtrain.views.draw import Draw
from ecgtrain.views.noise import Banks
from ecgtrain.views.normalise import Normalisation, shuffle_time, to_mv
from ecgtrain.views.passport import Passport, normaliser

#: Streams of the run's draw, and of those one that no method uses.
_TRAINING, _VALIDATION = 0, 1
_SHUFFLE = 1000


#: What torch says where it gets no memory, or is asked for more than there can be.
_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "overflow")

_NO_ROWS: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)


class Prepared(NamedTuple):
    """All of a pretraining but its windows. ``noise_sha256``: recorded noise, by kind.

    ``selected_rows`` of the first store, with and without labels, are those that signals are normalised by.
    ``held_out_as``: what the validation records are for, as in :data:`ecgtrain.data.seen.COLUMNS`.
    """

    passport: Passport
    parts: list[Part]
    validation_parts: list[Part]
    objective: Objective
    make_views: loop.MakeViews
    noise_sha256: dict[str, str]
    held_out_as: str = "validation"
    selected_rows: npt.NDArray[np.int64] = _NO_ROWS
    initial: Initial | None = None

    @property
    def backbone(self) -> Backbone:
        """The network that is trained."""
        return self.objective.backbone

    def taught_before(self) -> tuple[int, int]:
        """Of the validation records, how many taught the network that this run begins with; and how many there are."""
        held_out = [seen_of(part.store, part.rows, self.held_out_as) for part in self.validation_parts]
        if self.initial is None or self.initial.seen is None or not held_out:
            return 0, sum(table.num_rows for table in held_out)
        together = pa.concat_tables(held_out)
        return trained_on_before([self.initial.seen], together), together.num_rows

    def seen(self) -> list[pa.Table]:
        """All records that are trained on, those that it is validated on, and whom the network had seen before."""
        before = None if self.initial is None else self.initial.seen
        return [
            *([] if before is None else [before]),
            *(seen_of(part.store, part.rows, "train") for part in self.parts),
            *(seen_of(part.store, part.rows, self.held_out_as) for part in self.validation_parts),
        ]


def prepare(config: RunConfig, device: torch.device | str, initial: Initial | None = None) -> Prepared:
    """Turn a recipe into objects, and refuse what can be known to be wrong before a sample is read.

    ``initial``: the network that ``pretrain.init_from`` names; it must have been loaded.
    """
    settings = pretrain_of(config)
    if (settings.init_from is None) != (initial is None):
        raise ConfigError("pretrain.init_from and what it names go together", where=config.name, got=settings.init_from)
    store = open_under(config.data.store, config.data.split)
    refuse_unexpected(config.data, store)
    passport, parts = selected(config, store, None if initial is None else initial.agreed(config, store))
    if not any(len(part.rows) for part in parts) and not len(store.select(folds=settings.folds)):
        raise ProtocolError("no record is in the folds to pretrain on", where=store.path, fix=what_folds(store))
    stores = [part.store for part in parts]
    refuse_absent_folds(settings.folds, stores, "pretrain.folds")
    refuse_absent_folds(settings.validation_folds, stores, "pretrain.validation_folds")
    refuse_nothing_left(config.data, parts, settings.folds, "pretrain.folds")
    held_out = select_parts(config.data, store, settings.validation_folds, passport)
    if settings.validation_folds:
        refuse_nothing_left(config.data, held_out, settings.validation_folds, "pretrain.validation_folds")
    refuse_shared_patients(parts, held_out)
    targets = _targets(config, store, parts)
    told = () if targets is None else (len(targets.classes), targets.kind)
    begun = None if initial is None else initial.backbone
    with _what_fits():
        objective = build_objective(
            settings.method, settings.backbone, passport.n_inputs, config.seed, *told, begun=begun
        )
    objective.check(settings.window_samples, settings.batch_size, passport.fs_hz)
    refuse_division(objective, settings)
    refuse_graphs(objective, settings)
    bank = None if config.data.noise_bank is None else load_bank(config.data.noise_bank)
    banks = None if bank is None else _on_device(bank.at_rate(passport.fs_hz), device)
    chain = getattr(settings.method, "augmentations", ())
    n_samples = augmentations.check(chain, settings.window_samples, passport.fs_hz, banks)
    parts_of_both = labelled_parts(parts, targets), labelled_parts(held_out, targets)
    for its in parts_of_both:
        refuse_unfeedable(
            its,
            window_samples=settings.window_samples,
            leads=passport.leads,
            short_records=settings.short_records,
            feeding=config.data,
        )
    with _what_fits():
        _try_on_nothing(objective.backbone, n_samples)
    made = Prepared(
        passport,
        parts_of_both[0],
        parts_of_both[1] if settings.validation_folds else [],
        objective,
        _make_views(settings, passport, config.seed, device, objective.drawn, _learned(targets, parts[0].rows), banks),
        {} if bank is None else {kind: its.sha256 for kind, its in bank.recordings.items()},
        "selection" if settings.chooses_by_validation else "validation",
        parts[0].rows,
        initial,
    )
    _refuse_chosen_by_what_taught(made)
    return made


def _refuse_chosen_by_what_taught(made: Prepared) -> None:
    """What the first network has learned counts as learned here: nothing may be chosen by it."""
    if made.held_out_as != "selection" or made.initial is None:
        return
    n_taught, n = made.taught_before()
    if n_taught:
        raise LeakageError(
            f"{n_taught} of {n} validation records, by which something is chosen, taught the network that training "
            "begins with",
            where=made.initial.place,
            fix="take other validation_folds; or keep: last, without patience and online_probe",
        )


@contextmanager
def _what_fits() -> Iterator[None]:
    """Raise ConfigError where a network, or a window in it, doesn't fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not any(word in said for word in _OF_MEMORY):
            raise
        raise ConfigError(
            "the network doesn't fit into memory",
            where="pretrain.backbone",
            got=said[:200] or None,
            fix="make it narrower or shallower, or lower pretrain.window_samples",
        ) from None


def _try_on_nothing(backbone: Backbone, n_samples: int) -> None:
    """Let a backbone refuse windows of this length now, rather than at the first step."""
    was_training = backbone.training
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, backbone.n_leads, n_samples))
    backbone.train(was_training)


def open_windows(config: RunConfig, parts: Sequence[Part], passport: Passport, device: torch.device | str) -> Feed:
    """The windows of ``parts`` as the recipe feeds them."""
    settings = pretrain_of(config)
    return open_feed_of(
        parts,
        window_samples=settings.window_samples,
        leads=passport.leads,
        short_records=settings.short_records,
        device=device,
        feeding=config.data,
    )


def pretrain_of(config: RunConfig) -> Pretrain:
    """The section ``pretrain`` of a recipe; raises ConfigError where there is none."""
    if config.pretrain is None:
        raise ConfigError("the recipe has no section pretrain", where=config.name)
    return config.pretrain


def identity_of(config: RunConfig, made: Prepared, feed: Feed) -> dict[str, Any]:
    """What a run and its resumption must share; the place of the stores may change."""
    content = config.model_dump(mode="json", include={"seed", "data", "pretrain"})
    # How the work is done, not what is learned; a network that is compiled differs by rounding only.
    manner = {
        "init_from",
        "online_probe",
        "log_every_steps",
        "validate_every_steps",
        "checkpoint_every_steps",
        "trackers",
        "accumulate",
        "compile",
        "cuda_graphs",
    }
    store = made.parts[0].store
    # Settings of the data count where they are not the default, so that older checkpoints can be resumed.
    plain = Data(store="").model_dump(mode="json")
    elsewhere = {
        "store",
        "split",
        "stores",
        "noise_bank",
        "expects",
        "leads",
        "feed",
        "draws",
        "pool_shards",
        "cache_dir",
        "strict",
    }
    # Part of what is learned; checkpoints of before, when all that is excluded counted, don't name it.
    is_less = bool(config.data.exclude_folds) or not _are_whole_folds(store, made.selected_rows, config)
    by_selection = content["pretrain"]["normalise"] == "lead" and is_less and made.initial is None
    # Checkpoints of before don't name it.
    if content["pretrain"]["control"] == "none":
        del content["pretrain"]["control"]
    mixed = [
        {
            **other.model_dump(mode="json", exclude={"path", "split"}),
            "fingerprint": part.store.fingerprint,
            **_split_of(part.store),
        }
        for other, part in zip(config.data.stores, made.parts[1:], strict=True)
    ]
    return {
        "seed": content["seed"],
        "leads": list(config.data.leads or store.leads),
        "store_fingerprint": store.fingerprint,
        **{f"data.{name}": sha256 for name, sha256 in _split_of(store).items()},
        **{f"pretrain.{name}": value for name, value in content["pretrain"].items() if name not in manner},
        **{
            f"data.{name}": value
            for name, value in content["data"].items()
            if name not in elsewhere and value != plain[name]
        },
        **({"statistics": "of the selected records"} if by_selection else {}),
        **({} if made.initial is None else {"pretrain.init_from": made.initial.sha256}),
        **({"data.stores": mixed} if mixed else {}),
        **({"data.noise_bank": made.noise_sha256} if made.noise_sha256 else {}),
        **feed.identity(),
    }


def _split_of(store: Store) -> dict[str, str]:
    """The table whose folds a store is under, if it is under any."""
    return {} if store.split_sha256 is None else {"split": store.split_sha256}


def selected(config: RunConfig, store: Store, passport: Passport | None = None) -> tuple[Passport, list[Part]]:
    """The records that are trained on, and how their signals are prepared; raises what ``select_parts`` raises.

    Unless a ``passport`` is given, signals are normalised by these very records.
    """
    settings = pretrain_of(config)
    if passport is not None:
        return passport, select_parts(config.data, store, settings.folds, passport)
    refuse_absent_leads(config.data.leads, store)
    leads = config.data.leads or store.leads
    passport = Passport(
        leads=tuple(leads),
        fs_hz=store.fs_hz,
        counts_per_mv=COUNTS_PER_MV,
        window_samples=settings.window_samples,
        normalisation=Normalisation(mode=settings.normalise),
        recipe=store.recipe,
        recipe_sha256=store.recipe_sha256,
        store_fingerprint=store.fingerprint,
    )
    parts = select_parts(config.data, store, settings.folds, passport)
    if settings.normalise != "lead":
        return passport, parts
    normalisation = _of_leads(store, leads, _statistics(store, parts[0].rows, config))
    return passport.model_copy(update={"normalisation": normalisation}), parts


def _of_leads(store: Store, leads: Sequence[str], statistics: LeadStatistics) -> Normalisation:
    mean_mv, std_mv = {}, {}
    for lead, mean, std, n in zip(store.leads, statistics.mean_mv_l, statistics.std_mv_l, statistics.n_l, strict=True):
        # A lead that no training record has is 0 everywhere, and stays so.
        mean_mv[lead], std_mv[lead] = (float(mean), float(std)) if n else (0.0, 1.0)
    return Normalisation(
        mode="lead",
        mean_mv={lead: mean_mv[lead] for lead in leads},
        std_mv={lead: std_mv[lead] for lead in leads},
    )


def _statistics(store: Store, rows: npt.NDArray[np.int64], config: RunConfig) -> LeadStatistics:
    """Those of the records at ``rows``: from the store's sums where they are whole folds, else from their samples."""
    if not _are_whole_folds(store, rows, config):
        return statistics_of(store, rows, config.data.strict)
    folds = pretrain_of(config).folds
    return store.statistics(None if folds is None else [one for one in folds if one not in config.data.exclude_folds])


def _are_whole_folds(store: Store, rows: npt.NDArray[np.int64], config: RunConfig) -> bool:
    """Whether ``rows`` are all records of some folds that the store has sums of."""
    folds = pretrain_of(config).folds
    if folds is None:
        return len(rows) == store.n_records
    folds = tuple(fold for fold in folds if fold not in config.data.exclude_folds)
    return store.split_sha256 is None and len(rows) == len(store.select(folds=folds))


def _targets(config: RunConfig, store: Store, parts: Sequence[Part]) -> Targets | None:
    """What a supervised method learns, where its settings name a task: the classes that some record shows it."""
    task = getattr(pretrain_of(config).method, "task", None)
    if task is None:
        return None
    if len(parts) > 1:
        raise ConfigError(
            "a supervised method learns from one store",
            where=config.name,
            got=f"{len(parts)} stores",
            fix="leave out data.stores",
        )
    return tasks.load(task).targets(store).fittable(parts[0].rows)


def _learned(targets: Targets | None, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
    """Targets as a network learns them, float32 (records, classes): numbers standardised by the training records."""
    if targets is None:
        return None
    return kinds.scale_of(targets.kind, targets.y_nc[targets.labelled(rows)]).down(targets.y_nc)


def _on_device(bank: Mapping[str, npt.NDArray[np.float32]], device: torch.device | str) -> Banks:
    return {kind: torch.tensor(unit_st).to(device) for kind, unit_st in bank.items()}


def _make_views(
    settings: Pretrain,
    passport: Passport,
    seed: int,
    device: torch.device | str,
    drawn: Callable[[Any], Any],
    learned_nc: npt.NDArray[np.float32] | None = None,
    banks: Banks | None = None,
) -> loop.MakeViews:
    y_nc = None if learned_nc is None else torch.from_numpy(learned_nc).to(device)
    method = settings.method
    cut = occupant("ecgtrain.methods", cast(Any, method).name).views
    normalise = normaliser(passport, device)

    def make_views(batch: Batch, validating: bool) -> Any:
        draw = Draw(seed).fork(_VALIDATION if validating else _TRAINING)
        counts_blt = batch.counts_blt
        if settings.control == "time_shuffle":
            counts_blt = shuffle_time(counts_blt, draw.fork(_SHUFFLE), batch.sample_numbers_b)
        mv = to_mv(counts_blt)
        targets_bc = None if y_nc is None else y_nc[torch.from_numpy(batch.rows_b).to(y_nc.device)]
        windows = WindowBatch(
            mv, batch.sample_numbers_b, passport.fs_hz, normalise, draw, batch.step, targets_bc, banks
        )
        return drawn(cut(method, windows))

    return make_views
