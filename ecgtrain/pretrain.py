"""Settings + store → objects → loop; and the backbone that comes out, with its passport.

A run directory explains itself::

    config.yaml          the resolved recipe                 environment.json    versions, machine
    preprocessing.json   the passport                        seen.parquet        patients and records seen
    metrics.jsonl        loss, speed, validation             tensorboard/        the same, where installed
    checkpoints/         the last two, and best/ if kept     export/             the backbone alone, to load
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from ecgstore import COUNTS_PER_MV, ConfigError, Settings, Store, load_bank, occupant, open_store, parse
from ecgtrain import augmentations, checkpoint, diagnostics, distributed, loop, tasks, views
from ecgtrain.augmentations import Banks
from ecgtrain.backbones import Backbone
from ecgtrain.checkpoint import Passport
from ecgtrain.config import Data, Feeding, Pretrain, RunConfig, dump
from ecgtrain.errors import CheckpointError, LeakageError
from ecgtrain.feed import Batch, Feed, Part, open_feed, open_feed_of
from ecgtrain.methods import Objective, WindowBatch
from ecgtrain.plan import Int64, batch_plan, evaluation_plans
from ecgtrain.tasks import Targets
from ecgtrain.views import Draw, Normalisation

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
SEEN = "seen.parquet"
EXPORT = "export"

log = logging.getLogger(__name__)

#: Streams of the run's draw.
_TRAINING, _VALIDATION = 0, 1
#: Batches that set the BatchNorm statistics of an untrained network.
_CALIBRATION_BATCHES = 20
#: Records of an online probe.
_PROBED_RECORDS = 400


class Trained(NamedTuple):
    """A backbone in evaluation mode, and how the signals for it must be prepared."""

    backbone: Backbone
    passport: Passport


class WindowFeatures(NamedTuple):
    """``features_nd``: float32, one row per window; ``record_row_n``: the store's row of its record."""

    features_nd: npt.NDArray[np.float32]
    record_row_n: Int64


def pretrain(
    config: RunConfig,
    run_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: loop.Progress | None = None,
    say: Callable[[str], None] = log.info,
    should_stop: loop.ShouldStop = lambda: None,
) -> Trained:
    """Pretrain as ``config`` says, into ``run_dir``; returns the exported backbone and its passport.

    With ``resume``, goes on from the newest whole checkpoint in ``run_dir``, and returns at once if the run
    was finished. ``should_stop`` is asked at every step for a reason to stop. Within :func:`distributed.ranks` all
    ranks call this alike; the first writes the run directory, and the others return the last weights.

    Raises ConfigError (no pretraining in the recipe; ``run_dir`` holds a run and ``resume`` is not set; folds, leads
    or windows that the store hasn't), LeakageError (a patient in training and in validation folds), the store's
    errors, and what :func:`ecgtrain.loop.train` raises.
    """
    run_dir = Path(run_dir)
    settings = pretrain_of(config)
    first = distributed.rank() == 0
    if distributed.told_by_first((run_dir / loop.METRICS).exists()) and not resume:
        raise ConfigError("there is already a run", where=run_dir, fix="resume it, or choose another directory")
    made = prepare(config, device)
    feed = open_windows(config, made.parts, made.passport, device)
    validation = open_windows(config, made.validation_parts, made.passport, device) if made.validation_parts else None
    identity = _identity(config, made, feed)
    distributed.refuse_different(identity, "what they train on")
    if first:
        say(feed.description)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / CONFIG).write_text(dump(config), encoding="utf-8")
        _write_environment(run_dir, device, feed)
        _write_json(run_dir / checkpoint.PASSPORT, made.passport.model_dump(mode="json"))
        _write_seen(run_dir / SEEN, {"train": made.parts, "validation": made.validation_parts})

    loop.train(
        made.objective,
        feed,
        made.make_views,
        settings,
        seed=config.seed,
        run_dir=run_dir,
        config=identity,
        passport=made.passport,
        validation=validation,
        keep_best=settings.keep == "best",
        resume=resume,
        progress=progress if first else None,
        should_stop=should_stop,
        probe=_online_probe(settings, made, device),
    )
    if not first:
        return Trained(made.objective.backbone.eval(), made.passport)
    _write_environment(run_dir, device, feed)
    _export(run_dir, made.objective, settings, made.passport)
    return load_backbone(run_dir, device=device)


class Prepared(NamedTuple):
    """All of a pretraining but its windows. ``noise_sha256``: recorded noise, by kind."""

    passport: Passport
    parts: list[Part]
    validation_parts: list[Part]
    objective: Objective
    make_views: loop.MakeViews
    noise_sha256: dict[str, str]


def prepare(config: RunConfig, device: torch.device | str) -> Prepared:
    """Turn a recipe into objects, and refuse what can be known to be wrong before a sample is read."""
    settings = pretrain_of(config)
    store = open_store(config.data.store)
    passport = _passport(store, config.data.leads or store.leads, settings)
    parts = select_parts(config.data, store, settings.folds, passport)
    held_out = select_parts(config.data, store, settings.validation_folds, passport)
    _refuse_shared_patients(parts, held_out)
    targets = _targets(config, store, parts)
    objective = build_objective(settings.method, settings.backbone, len(passport.leads), config.seed, targets)
    objective.check(settings.window_samples, settings.batch_size, passport.fs_hz)
    loop.refuse_division(objective, settings)
    bank = None if config.data.noise_bank is None else load_bank(config.data.noise_bank)
    banks = None if bank is None else _on_device(bank.at_rate(passport.fs_hz), device)
    chain = getattr(settings.method, "augmentations", ())
    n_samples = augmentations.check(chain, settings.window_samples, passport.fs_hz, banks)
    _try_on_nothing(objective.backbone, n_samples)
    return Prepared(
        passport,
        _labelled(parts, targets),
        _labelled(held_out, targets) if settings.validation_folds else [],
        objective,
        _make_views(settings.method, passport, config.seed, device, targets, banks),
        {} if bank is None else {kind: its.sha256 for kind, its in bank.recordings.items()},
    )


def _try_on_nothing(backbone: Backbone, n_samples: int) -> None:
    """Let a backbone refuse windows of this length now, rather than at the first step."""
    was_training = backbone.training
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, backbone.n_leads, n_samples))
    backbone.train(was_training)


def select_parts(data: Data, store: Store, folds: Sequence[int], passport: Passport) -> list[Part]:
    """The records of ``folds`` that ``data`` selects, in ``store`` and in the stores mixed in.

    Raises PassportError if a store was prepared otherwise than ``store``, and ConfigError if the list of patients to
    leave out can't be read, or is of nobody here.
    """
    folds = [fold for fold in folds if fold not in data.exclude_folds]
    rows = store.select(folds=folds, sources=data.sources, sites=data.sites, where=data.where)
    parts = [Part(store, rows, data.weight)]
    for other in data.stores:
        mixed = open_store(other.path)
        passport.refuse_other(mixed)
        parts.append(Part(mixed, mixed.select(folds=folds, where=other.where), other.weight))
    unwanted = None if data.exclude_patients is None else _patients(Path(data.exclude_patients), parts)
    return [part._replace(rows=_wanted(part, data.exclude_sources, unwanted)) for part in parts]


def _wanted(part: Part, exclude_sources: Sequence[str], unwanted: frozenset[str] | None) -> Int64:
    store, rows, _ = part
    kept = ~np.isin(store.column("source")[rows], exclude_sources)
    if unwanted is not None:
        kept &= ~np.isin(store.column("patient_key")[rows].astype(str), sorted(unwanted))
    return rows[kept]


def _patients(path: Path, parts: Sequence[Part]) -> frozenset[str]:
    """The patient keys that a file lists."""
    try:
        if path.suffix == ".parquet":
            keys = pq.ParquetFile(path).read(columns=["patient_key"], use_threads=False)["patient_key"].to_pylist()
        else:
            keys = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError("the patients to leave out can't be read", where=path, got=said) from error
    listed = frozenset(key for key in keys if key)
    here = {str(key) for part in parts for key in part.store.column("patient_key")}
    if not listed & here:
        raise ConfigError(
            "none of the patients to leave out is in the stores",
            where=path,
            expected=f"keys such as {next(iter(sorted(here - {''})), 'these stores have none')}",
            got=f"{len(listed)} keys",
            fix="take the keys of records.parquet; they hang on the key that patients were hashed with",
        )
    return listed


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


def build_backbone(settings: Settings, n_leads: int, seed: int) -> Backbone:
    """A backbone with fresh weights: the same for the same settings and seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        room = occupant("ecgtrain.backbones", cast(Any, settings).name)
        return cast(Backbone, room.build(settings, n_leads))


def build_objective(
    method: Settings, backbone: Settings, n_leads: int, seed: int, targets: Targets | None = None
) -> Objective:
    """The objective of ``method`` over a fresh backbone (:func:`build_backbone` with the same seed).

    ``targets`` for a method that learns them.
    """
    network = build_backbone(backbone, n_leads, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = occupant("ecgtrain.methods", cast(Any, method).name).build
        return cast(Objective, build(method, network, *([] if targets is None else [len(targets.classes)])))


def load_backbone(run_dir: str | Path, *, device: torch.device | str = "cpu") -> Trained:
    """The exported backbone of a finished run, in evaluation mode, and its passport.

    Raises CheckpointError if there is none, or if it isn't whole.
    """
    path = Path(run_dir) / EXPORT if (Path(run_dir) / EXPORT).exists() else Path(run_dir)
    problem = checkpoint.torn(path)
    if problem is not None:
        raise CheckpointError("no whole exported backbone", where=path, got=problem, fix="finish the run first")
    about = checkpoint.load_config(path)
    try:
        settings = parse(
            occupant("ecgtrain.backbones", about["backbone"]["name"]).Settings, about["backbone"], where=path
        )
        backbone = build_backbone(settings, int(about["n_leads"]), seed=0)
        backbone.load_state_dict(checkpoint.load_weights(path))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            "this isn't an exported backbone", where=path, got=" ".join(str(error).split())[:200]
        ) from error
    return Trained(backbone.to(device).eval(), checkpoint.load_passport(path))


def random_backbone(
    config: RunConfig, seed: int, *, calibrated: bool = True, device: torch.device | str = "cpu"
) -> Trained:
    """The null of a pretrained backbone: the same network, untrained, under the same passport.

    Its BatchNorm statistics are those of the pretraining records; without that, a random network is mostly judged
    worse than it is. Unless ``calibrated``, they are those that it was made with: mean 0, variance 1. With the seed
    of the run it is the network that pretraining started from.
    """
    settings = pretrain_of(config)
    store = open_store(config.data.store)
    passport = _passport(store, config.data.leads or store.leads, settings)
    backbone = build_backbone(settings.backbone, len(passport.leads), seed).to(device)
    if calibrated:
        feed = open_windows(config, select_parts(config.data, store, settings.folds, passport), passport, device)
        batch_size = min(settings.batch_size, feed.n_records)
        calibrate_batchnorm(backbone, feed, passport, batch_size=batch_size, seed=seed)
    return Trained(backbone.eval(), passport)


def calibrate_batchnorm(
    backbone: nn.Module,
    feed: Feed,
    passport: Passport,
    *,
    batch_size: int,
    seed: int,
    n_batches: int = _CALIBRATION_BATCHES,
) -> None:
    """Set the running statistics of every BatchNorm to their averages over ``n_batches`` batches of ``feed``.

    Nothing else changes: weights, other buffers and the modules' modes stay as they are.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average instead of a moving one
        norm.train()
    normalise = _normaliser(passport, feed.device)
    try:
        with torch.no_grad():
            for step in range(n_batches if norms else 0):
                plan = batch_plan(
                    feed.records,
                    window_samples=feed.window_samples,
                    seed=seed,
                    step=step,
                    batch_size=batch_size,
                )
                backbone(normalise(views.to_mv(feed.batch(plan).counts_blt)))
    finally:
        for norm, momentum, training in modes:
            norm.momentum = momentum
            norm.train(training)


def window_features(
    backbone: Backbone,
    store: Store,
    rows: Int64,
    *,
    passport: Passport,
    window_samples: int,
    stride_samples: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> WindowFeatures:
    """Pooled features of every window of the records at ``rows``, cut as evaluation cuts them.

    Windows come in the order of ``rows``, then of time: 7 for a record of 1,000 samples in windows of 250
    every 125. A record shorter than a window gives one, padded. Raises PassportError if ``store`` was
    prepared otherwise than the backbone's signals, IntegrityError if a record can't be read, and what
    :func:`ecgtrain.feed.open_feed` raises.
    """
    passport.refuse_other(store)
    # Strict: features of fewer records than were asked for would be another test than the one that is reported.
    feed = open_feed(
        store,
        rows,
        window_samples=window_samples,
        leads=passport.leads,
        short_records="pad",
        device=device,
        feeding=Feeding(strict=True),
    )
    plans = evaluation_plans(
        feed.records, window_samples=window_samples, stride_samples=stride_samples, batch_size=batch_size
    )
    normalise = _normaliser(passport, feed.device)
    features, record_rows = [], []
    was_training = backbone.training
    backbone.to(device).eval()
    try:
        with torch.no_grad():
            for batch in feed.batches(plans):
                pooled_bd = backbone(normalise(views.to_mv(batch.counts_blt))).pooled_bd
                features.append(pooled_bd.float().cpu().numpy())
                record_rows.append(batch.rows_b)
    finally:
        backbone.train(was_training)
    return WindowFeatures(np.concatenate(features), np.concatenate(record_rows))


def environment(device: torch.device | str) -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = ("ecgstore", "torch", "numpy", "zarr", "pyarrow", "pydantic", "scikit-learn", "safetensors")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    cuda = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "versions": versions,
    }


def pretrain_of(config: RunConfig) -> Pretrain:
    """The section ``pretrain`` of a recipe; raises ConfigError where there is none."""
    if config.pretrain is None:
        raise ConfigError("the recipe has no section pretrain", where=config.name)
    return config.pretrain


def _identity(config: RunConfig, made: Prepared, feed: Feed) -> dict[str, Any]:
    """What a run and its resumption must share; the place of the stores may change."""
    content = config.model_dump(mode="json", include={"seed", "data", "pretrain"})
    # How the work is done, not what is learned; a network that is compiled differs by rounding only.
    manner = {
        "online_probe",
        "log_every_steps",
        "validate_every_steps",
        "checkpoint_every_steps",
        "accumulate",
        "compile",
    }
    store = made.parts[0].store
    # Settings of the data count where they are not the default, so that older checkpoints can be resumed.
    plain = Data(store="").model_dump(mode="json")
    elsewhere = {"store", "stores", "noise_bank", "leads", "feed", "draws", "pool_shards", "cache_dir", "strict"}
    mixed = [
        {**other.model_dump(mode="json", exclude={"path"}), "fingerprint": part.store.fingerprint}
        for other, part in zip(config.data.stores, made.parts[1:], strict=True)
    ]
    return {
        "seed": content["seed"],
        "leads": list(config.data.leads or store.leads),
        "store_fingerprint": store.fingerprint,
        **{f"pretrain.{name}": value for name, value in content["pretrain"].items() if name not in manner},
        **{
            f"data.{name}": value
            for name, value in content["data"].items()
            if name not in elsewhere and value != plain[name]
        },
        **({"data.stores": mixed} if mixed else {}),
        **({"data.noise_bank": made.noise_sha256} if made.noise_sha256 else {}),
        **feed.identity(),
    }


def _passport(store: Store, leads: Sequence[str], settings: Pretrain) -> Passport:
    return Passport(
        leads=tuple(leads),
        fs_hz=store.fs_hz,
        counts_per_mv=COUNTS_PER_MV,
        window_samples=settings.window_samples,
        normalisation=_normalisation(store, leads, settings),
        recipe=store.recipe,
        recipe_sha256=store.recipe_sha256,
        store_fingerprint=store.fingerprint,
    )


def _normalisation(store: Store, leads: Sequence[str], settings: Pretrain) -> Normalisation:
    if settings.normalise != "lead":
        return Normalisation(mode=settings.normalise)
    statistics = store.statistics(folds=settings.folds)
    mean_mv, std_mv = {}, {}
    for lead, mean, std, n in zip(store.leads, statistics.mean_mv_l, statistics.std_mv_l, statistics.n_l, strict=True):
        # A lead that no training record has is 0 everywhere, and stays so.
        mean_mv[lead], std_mv[lead] = (float(mean), float(std)) if n else (0.0, 1.0)
    return Normalisation(
        mode="lead",
        mean_mv={lead: mean_mv[lead] for lead in leads},
        std_mv={lead: std_mv[lead] for lead in leads},
    )


def _normaliser(passport: Passport, device: torch.device | str) -> Any:
    normalisation = passport.normalisation
    return partial(views.normalise, mode=normalisation.mode, statistics=normalisation.vectors(passport.leads, device))


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


def _online_probe(settings: Pretrain, made: Prepared, device: torch.device | str) -> loop.Probe | None:
    """A quick look at what the backbone's features say of a task, on held-out records."""
    if settings.online_probe is None:
        return None
    store, rows, _ = made.validation_parts[0]
    targets = tasks.load(settings.online_probe).targets(store)
    labelled = targets.labelled(rows)
    few = labelled[np.linspace(0, len(labelled) - 1, min(_PROBED_RECORDS, len(labelled)), dtype=np.int64)]
    n_samples = settings.window_samples

    def probe() -> dict[str, float]:
        windows = window_features(
            made.objective.backbone,
            store,
            few,
            passport=made.passport,
            window_samples=n_samples,
            stride_samples=n_samples,
            device=device,
        )
        _, first, n = np.unique(windows.record_row_n, return_index=True, return_counts=True)
        of_record = np.add.reduceat(windows.features_nd, first, axis=0) / n[:, None]
        return {"online_probe_auroc": diagnostics.online_probe(of_record, targets.y_nc[few])}

    return probe


def _on_device(bank: Mapping[str, npt.NDArray[np.float32]], device: torch.device | str) -> Banks:
    return {kind: torch.tensor(unit_st).to(device) for kind, unit_st in bank.items()}


def _labelled(parts: list[Part], targets: Targets | None) -> list[Part]:
    """The records that have a target at all; all of them where none is learned."""
    if targets is None:
        return parts
    return [part._replace(rows=targets.labelled(part.rows)) for part in parts]


def _make_views(
    method: Settings,
    passport: Passport,
    seed: int,
    device: torch.device | str,
    targets: Targets | None = None,
    banks: Banks | None = None,
) -> loop.MakeViews:
    y_nc = None if targets is None else torch.from_numpy(targets.y_nc.astype(np.float32)).to(device)
    cut = occupant("ecgtrain.methods", cast(Any, method).name).views
    normalise = _normaliser(passport, device)

    def make_views(batch: Batch, validating: bool) -> Any:
        draw = Draw(seed).fork(_VALIDATION if validating else _TRAINING)
        mv = views.to_mv(batch.counts_blt)
        targets_bc = None if y_nc is None else y_nc[torch.from_numpy(batch.rows_b).to(y_nc.device)]
        return cut(
            method,
            WindowBatch(mv, batch.sample_numbers_b, passport.fs_hz, normalise, draw, batch.step, targets_bc, banks),
        )

    return make_views


def _refuse_shared_patients(parts: Sequence[Part], validation_parts: Sequence[Part]) -> None:
    seen, held_out = (
        {str(key) for part in some for key in part.store.column("patient_key")[part.rows]}
        for some in (parts, validation_parts)
    )
    shared = (seen & held_out) - {""}
    if shared:
        raise LeakageError(
            f"{len(shared)} patients are in the training and in the validation folds",
            where=", ".join(part.store.path for part in parts),
            fix="ingest again with patient-disjoint folds",
        )


def _write_seen(path: Path, roles: dict[str, Sequence[Part]]) -> None:
    """Who was seen: the evaluation's guard against leaks reads this."""
    tables = []
    for role, parts in roles.items():
        for store, rows, _ in parts:
            table = store.records.select(["record_id", "patient_key", "source", "fold"]).take(pa.array(rows))
            table = table.append_column("role", pa.array([role] * len(rows), type=pa.string()))
            tables.append(table.replace_schema_metadata(None))
    fingerprint = next(iter(roles.values()))[0].store.fingerprint
    together = pa.concat_tables(tables).replace_schema_metadata({"store_fingerprint": fingerprint})
    pq.write_table(together, path)


def _export(run_dir: Path, objective: Objective, settings: Pretrain, passport: Passport) -> None:
    """Write the backbone alone, from the last or the best checkpoint."""
    folder = run_dir / (loop.BEST if settings.keep == "best" else loop.CHECKPOINTS)
    chosen = checkpoint.last(folder)
    if chosen is None:
        raise CheckpointError("no whole checkpoint to export", where=folder)
    objective.load_state_dict(checkpoint.load_weights(chosen))
    about = {
        "backbone": settings.backbone.model_dump(mode="json"),
        "method": settings.method.model_dump(mode="json"),
        "n_leads": len(passport.leads),
        "checkpoint": chosen.name,
    }
    try:
        checkpoint.write(run_dir / EXPORT, objective.backbone, about, passport)
    except OSError as error:
        raise CheckpointError("the backbone can't be exported", where=run_dir / EXPORT, got=str(error)) from error


def _write_environment(run_dir: Path, device: torch.device | str, feed: Feed) -> None:
    fed = {"feed": feed.description, **({"records_left_out": feed.left_out} if feed.left_out else {})}
    _write_json(run_dir / ENVIRONMENT, {**environment(device), "ranks": distributed.world(), **fed})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
