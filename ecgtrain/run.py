"""One recipe from beginning to end: pretrain → judge, nulls beside it → report, in one run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from ecgstore import ConfigError, open_store
from ecgtrain import distributed
from ecgtrain.config import RunConfig, dump
from ecgtrain.data.selection import select_parts
from ecgtrain.evaluation import evaluate
from ecgtrain.reporting import report
from ecgtrain.representation.export import Trained, export_backbone, load_backbone
from ecgtrain.representation.nulls import random_backbone
from ecgtrain.representation.online import online_probe
from ecgtrain.training import loop
from ecgtrain.training.files import plain, read_json
from ecgtrain.training.layout import ENVIRONMENT
from ecgtrain.training.log import read_metrics, train_seconds
from ecgtrain.training.prepare import prepare, pretrain_of
from ecgtrain.training.pretrain import pretrain

#: Called with one line about what is being done.
Say = Callable[[str], None]


def run(
    config: RunConfig,
    run_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: loop.Progress | None = None,
    say: Say = lambda _: None,
    until: AbstractContextManager[loop.ShouldStop] | None = None,
) -> dict[str, Any] | None:
    """Do all that a recipe says, into ``run_dir``; returns the report that was written there.

    Under ``torchrun`` all ranks pretrain; the first goes on to judge, the others return None. ``until`` is entered
    while pretraining, and gives the function that says when to stop (:func:`ecgtrain.training.stopping.told_to_stop`).

    What can be known to be wrong is refused before any training: tasks that don't exist, stores that can't be
    opened. Raises what :func:`ecgtrain.training.pretrain.pretrain` and
    :func:`ecgtrain.evaluation.evaluate.judge` raise.
    """
    run_dir = Path(run_dir)
    settings = config.pretrain
    if settings is None:
        raise ConfigError("the recipe has no section pretrain", where=config.name)
    for question in config.downstream:
        evaluate.check(question, open_store(question.store or config.data.store))
    method = str(settings.method.model_dump()["name"])
    store = open_store(config.data.store)
    with distributed.ranks(device) as own_device, until or nullcontext(lambda: None) as should_stop:
        first = distributed.rank() == 0
        if first:
            ranks = f" on {distributed.world()} ranks" if distributed.world() > 1 else ""
            say(f"{config.name}: {method} on {store.path} ({store.n_records} records), into {run_dir}{ranks}")
        trained = learn(
            config, run_dir, device=own_device, resume=resume, progress=progress, say=say, should_stop=should_stop
        )
    if not first:
        return None
    results: list[dict[str, Any]] = []
    for question in config.downstream:
        answers: dict[str, evaluate.Judged] = {}
        for pretraining in (method, *question.nulls):
            say(f"{question.name}: {question.protocol} of {question.task} on {pretraining} features")
            representation = (
                trained
                if pretraining == method
                else random_backbone(config, config.seed, calibrated=pretraining == "random", device=device)
            )
            result, answers[pretraining] = evaluate.judge(
                question,
                representation,
                pretraining,
                store_path=question.store or config.data.store,
                run_dir=run_dir,
                seed=config.seed,
                device=device,
            )
            results.append(result)
        asked = results[-1 - len(question.nulls)]
        asked["difference_to"] = {
            null: evaluate.difference(answers[method], answers[null], config.seed) for null in question.nulls
        }
    made = {
        "title": config.name,
        "results": results,
        "caveats": [*_left_out(run_dir), *(text for result in results for text in result.get("caveats", []))],
        **_about_run(config, run_dir, trained, device),
    }
    report.write_report(run_dir, made)
    return report.read_report(run_dir)


def learn(
    config: RunConfig,
    run_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: loop.Progress | None = None,
    say: Say = lambda _: None,
    should_stop: loop.ShouldStop = lambda: None,
) -> Trained:
    """The first half of a run: prepare → train → export; returns the exported backbone and its passport.

    Of several ranks the first exports; the others return the last weights. Raises what
    :func:`ecgtrain.training.prepare.prepare` and :func:`ecgtrain.training.pretrain.pretrain` raise.
    """
    run_dir, settings = Path(run_dir), pretrain_of(config)
    made = prepare(config, device)
    pretrain(
        config,
        made,
        run_dir,
        device=device,
        resume=resume,
        progress=progress,
        say=say,
        should_stop=should_stop,
        probe=online_probe(settings, made, device),
    )
    if distributed.rank() != 0:
        return Trained(made.objective.backbone.eval(), made.passport)
    export_backbone(run_dir, made.objective, settings, made.passport)
    return load_backbone(run_dir, device=device)


def evaluate_store(
    run_dir: str | Path,
    store_path: str,
    *,
    folds: Sequence[int] | Literal["all"] | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Judge the trained heads of a run on another store; writes a report into ``out`` if that is given."""
    results = evaluate.evaluate(
        run_dir,
        store_path,
        folds=folds,
        names=names,
        allow_overlap=allow_overlap,
        device=device,
    )
    made: dict[str, Any] = {"title": f"{Path(run_dir).name} on {Path(store_path).name}", "results": results}
    said = [text for result in results for text in result.get("caveats", [])]
    made["caveats"] = list(dict.fromkeys([*said, *report.caveats(plain(made))]))
    if out is not None:
        report.write_report(out, made)
    return made


def _about_run(config: RunConfig, run_dir: Path, trained: Trained, device: torch.device | str) -> dict[str, Any]:
    """What the report says of a run besides its results."""
    settings = config.pretrain
    assert settings is not None
    store = open_store(config.data.store)
    parts = select_parts(config.data, store, settings.folds, trained.passport)
    lines = read_metrics(run_dir)
    curves = report.loss_curves(lines)
    environment = read_json(run_dir / ENVIRONMENT)
    return {
        "run": {
            "name": config.name,
            "method": settings.method.model_dump()["name"],
            "backbone": settings.backbone.model_dump()["name"],
            "n_parameters": sum(parameter.numel() for parameter in trained.backbone.parameters()),
            "n_records": sum(len(part.rows) for part in parts),
            "folds": settings.folds,
            "steps": max(map(int, curves.get("train", {}).get("step", [0]))),
            "batch_size": settings.batch_size,
            "seconds": train_seconds(lines, settings.batch_size),
            "device": environment.get("device", str(device)),
            "seed": config.seed,
        },
        "store": {
            "path": store.path,
            "fingerprint": store.fingerprint,
            "n_records": store.n_records,
            "fs_hz": store.fs_hz,
            "leads": store.leads,
            "recipe": store.recipe,
            "terms": store.terms,
        },
        "curves": curves,
        "settings": dump(config),
        "environment": environment,
    }


def _left_out(run_dir: Path) -> list[str]:
    """A sentence on the records that could not be read, if there were any."""
    names = read_json(run_dir / ENVIRONMENT).get("records_left_out", ())
    if not names:
        return []
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return [f"Training went on without {len(names)} records that can't be read: {shown}."]
