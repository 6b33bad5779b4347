"""What was prepared, trained into a run directory (:mod:`ecgtrain.training.layout`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ecgstore import ConfigError
from ecgstore.inner import load_split
from ecgtrain import distributed
from ecgtrain.config import RunConfig, dump
from ecgtrain.data.seen import write_seen
from ecgtrain.training import loop
from ecgtrain.training.environment import write_environment
from ecgtrain.training.files import write_bytes, write_json, write_text
from ecgtrain.training.layout import CONFIG, METRICS, PASSPORT, SEEN, SPLITS, split_table
from ecgtrain.training.prepare import Prepared, identity_of, open_windows, pretrain_of

log = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """How a run is tried this time; none of it changes what is learned.

    With ``resume``, it goes on from the newest whole checkpoint. ``progress`` and ``say`` are told how it goes,
    ``should_stop`` is asked at every step for a reason to stop.
    """

    device: torch.device | str = "cpu"
    resume: bool = False
    progress: loop.Progress | None = None
    say: Callable[[str], None] = log.info
    should_stop: loop.ShouldStop = lambda: None


def pretrain(
    config: RunConfig, made: Prepared, run_dir: Path, attempt: Attempt, probe: loop.Probe | None = None
) -> None:
    """Pretrain what :func:`prepare` made of ``config``, into ``run_dir``.

    Returns at once if the run is resumed and was finished. ``probe`` is asked now and then for figures on the
    representation. Within :func:`distributed.ranks` all ranks call this alike, and the first writes the run directory.

    Raises ConfigError (``run_dir`` holds a run and ``resume`` is not set; folds, leads or windows that the store
    hasn't), the store's errors, and what :func:`ecgtrain.training.loop.train` raises.
    """
    settings, device = pretrain_of(config), attempt.device
    first = distributed.rank() == 0
    if distributed.told_by_first((run_dir / METRICS).exists()) and not attempt.resume:
        raise ConfigError("there is already a run", where=run_dir, fix="resume it, or choose another directory")
    feed = open_windows(config, made.parts, made.passport, device)
    validation = open_windows(config, made.validation_parts, made.passport, device) if made.validation_parts else None
    identity = identity_of(config, made, feed)
    distributed.refuse_different(identity, "what they train on")

    def explain() -> None:
        """Let the run directory say what it is; a run that may not go on there has left it as it was."""
        if not first:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / CONFIG, dump(config))
        keep_splits(config, run_dir)
        write_environment(run_dir, device, feed)
        write_json(run_dir / PASSPORT, made.passport.model_dump(mode="json"))
        unknown = made.initial is not None and made.initial.seen is None
        write_seen(run_dir / SEEN, made.seen(), made.parts[0].store.fingerprint, nobody_knows=unknown)

    if first:
        attempt.say(feed.description)
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
        resume=attempt.resume,
        begin=explain,
        progress=attempt.progress if first else None,
        should_stop=attempt.should_stop,
        probe=probe,
        name=config.name,
    )
    if first:
        write_environment(run_dir, device, feed)


def keep_splits(config: RunConfig, run_dir: Path) -> None:
    """Copy the split tables that a recipe names into the run. Raises OSError."""
    data = config.data
    named = [data.split, *(other.split for other in data.stores), *(question.split for question in config.downstream)]
    for path in dict.fromkeys(named):
        if path is not None:
            split = load_split(path)
            (run_dir / SPLITS).mkdir(exist_ok=True)
            write_bytes(split_table(run_dir, split.sha256), split.to_bytes())
