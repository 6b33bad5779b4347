"""One visible training loop, read top to bottom; no callbacks.

Training counts steps. What step s sees is planned (:mod:`ecgtrain.data.plan`), what is drawn in it hangs on
sample numbers (:class:`ecgtrain.views.draw.Draw`) or on the step, so a run that was killed goes on to the same weights,
bit for bit on a CPU; and one that was moved to fewer ranks, to the same global batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ecgstore.inner import innermost_difference
from ecgtrain import distributed
from ecgtrain.config import Training
from ecgtrain.data.feed import Batch, Feed
from ecgtrain.data.plan import batch_plan, evaluation_plans, steps_per_epoch
from ecgtrain.errors import CheckpointError, DivergedError, StoppedError
from ecgtrain.methods import LossTerms, Moment, Objective
from ecgtrain.training import checkpoint, optim
from ecgtrain.training.layout import BEST, CHECKPOINTS
from ecgtrain.training.log import STOP, Clock, Metrics, Reading, Readings
from ecgtrain.training.step import (
    autocast,
    compiled,
    layers,
    own_torch_generator,
    refuse_division,
    step_seed,
    tensor_float,
)
from ecgtrain.training.trackers import Tracked
from ecgtrain.training.watcher import UNTRAINED, Watcher
from ecgtrain.views.passport import Passport

#: Turns a batch into what the objective looks at; ``validating`` keeps those draws apart from training's.
MakeViews = Callable[[Batch, bool], Any]

#: Called after every step with (steps done, steps in all, what to show).
Progress = Callable[[int, int, Mapping[str, float]], None]
#: Asked at every step: why training should stop now, or None.
ShouldStop = Callable[[], str | None]

#: Asked now and then, by the first rank: figures on the representation as it is.
Probe = Callable[[], Mapping[str, float]]

#: How long a run trains: these may grow.
_BUDGETS = ("pretrain.steps", "pretrain.epochs")

log = logging.getLogger(__name__)


def train(
    objective: Objective,
    feed: Feed,
    make_views: MakeViews,
    training: Training,
    *,
    seed: int,
    run_dir: Path,
    config: Mapping[str, Any],
    passport: Passport,
    validation: Feed | None = None,
    keep_best: bool = False,
    resume: bool = False,
    begin: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
    should_stop: ShouldStop = lambda: None,
    probe: Probe | None = None,
    name: str = "",
) -> None:
    """Train ``objective`` on ``feed``, as long and as often checked as ``training`` says.

    Metrics and checkpoints go to ``run_dir``; every checkpoint holds ``config`` and ``passport``. The loss on
    ``validation`` is computed without gradient, in evaluation mode, on windows side by side over whole records;
    ``keep_best`` keeps the weights with the lowest such loss in ``checkpoints/best``. With ``resume``, training goes
    on from the newest whole checkpoint, if there is one. ``begin`` is called once that one is known to fit: until then
    nothing is written. What ``probe`` finds is written down with each validation, or as often as there would be one.
    Trackers call the run ``name``. On several ranks (:mod:`ecgtrain.distributed`) each takes its slice of every batch,
    and the first writes.

    Raises DivergedError naming step, loss and records as soon as loss or gradient is not finite; no step is taken
    from there on. StoppedError if ``should_stop`` gives a reason, after a checkpoint. CheckpointError if a
    checkpoint can't be written, or belongs to a run with other settings. ConfigError if the batch can't be divided
    as the method needs it.
    """
    device = feed.device
    per_epoch = steps_per_epoch(feed.n_records, training.batch_size)
    n_steps = training.n_steps(per_epoch)
    n_parts, world = training.accumulate, distributed.world()
    refuse_division(objective, training)
    plan = partial(
        batch_plan,
        feed.records,
        window_samples=feed.window_samples,
        seed=seed,
        batch_size=training.batch_size,
        world=world * n_parts,
    )
    objective.to(device).train()
    if objective.wants_sync_batchnorm if training.sync_batchnorm is None else training.sync_batchnorm:
        distributed.synchronise_batchnorm(objective)
    optimiser = optim.build(training.optimiser, layers(objective))
    scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "float16")
    cast = autocast(training, device)

    with own_torch_generator(device), tensor_float(device):
        state = _State()
        if resume and (path := _newest(run_dir)) is not None:
            state = _restore(path, objective, optimiser, scaler, config, training)
        begin()
        first_step = n_steps if _ran_out(state, training) else state.step
        network = distributed.replicate(
            compiled(objective, training),
            unused_parameters=objective.leaves_parameters_out,
        )

        def save(folder: Path, done: int, keep: int) -> None:
            if distributed.rank() == 0:
                trainer = {**state._replace(step=done)._asdict(), "optimiser": optimiser.state_dict()}
                trainer |= {"scaler": scaler.state_dict()} if scaler.is_enabled() else {}
                checkpoint.save(
                    folder, done, model=objective, trainer=trainer, config=config, passport=passport, keep=keep
                )

        mine = range(distributed.rank() * n_parts, (distributed.rank() + 1) * n_parts)
        plans = (plan(step=step, rank=part) for step in range(first_step, n_steps) for part in mine)
        with (
            Metrics(
                Tracked(run_dir, name or run_dir.name, config, state.step),
                training.trackers,
                writes=distributed.rank() == 0,
            ) as metrics,
            Watcher(
                metrics.write,
                n_steps,
                training.optimiser.warmup_steps,
                metrics.before.get(UNTRAINED, {}),
                aside=device.type == "cuda",
            ) as watcher,
            closing(feed.batches(plans)) as batches,
        ):
            if first_step == 0 and objective.chance:
                metrics.write(0, "chance", objective.chance)
            clock = Clock(training.batch_size)
            readings = Readings(optimiser, lag=1 if device.type == "cuda" else 0)
            for step in range(first_step, n_steps):
                moment = Moment(step, n_steps, per_epoch)
                done = step + 1
                lr = optim.learning_rate(training.optimiser, step, n_steps)
                optim.set_learning_rate(optimiser, lr)
                optimiser.zero_grad(set_to_none=True)
                shares: list[tuple[LossTerms, float]] = []
                rows: list[int] = []

                for part in mine:
                    with clock.waiting():
                        batch = next(batches)
                    torch.manual_seed(step_seed(seed, step, part))
                    share = len(batch.rows_b) / training.batch_size
                    with distributed.averaging(network, now=part == mine[-1]):
                        with cast():
                            terms: LossTerms = network(make_views(batch, False))
                        # The average over ranks divides by their number, whatever their shares.
                        scaler.scale(terms.total * (share * world)).backward()  # type: ignore[no-untyped-call]
                    shares.append((terms, share))
                    rows += batch.rows_b.tolist()
                if step == 0:
                    watcher.look(0, UNTRAINED, {}, shares[-1][0].features_vbd)

                objective.before_step(moment)
                scaler.unscale_(optimiser)
                gradient_norm = optim.clip(objective.parameters(), training.optimiser.clip_norm)
                stop = should_stop()
                readings.put(step, shares, gradient_norm, stop is not None, rows)
                if not scaler.is_enabled():
                    readings.hold_back_if_broken()
                scaler.step(optimiser)
                scaler.update()
                objective.after_step(moment)

                last = done == n_steps
                logs = last or done % training.log_every_steps == 0
                validates = last or done % training.validate_every_steps == 0
                saves = last or done % training.checkpoint_every_steps == 0
                stops = False
                for reading in readings.due(everything=logs or validates or saves):
                    stops |= reading.values.pop(STOP) > 0
                    _refuse_broken(reading, feed, loss_only=scaler.is_enabled())
                    clock.tick(reading.values)
                    if progress is not None:
                        progress(reading.step + 1, n_steps, {**reading.values, **watcher.newest, **clock.rates()})
                if logs:
                    where = {"epoch": done * training.batch_size / feed.n_records, "learning_rate": lr}
                    # Of this rank's slice of the last batch.
                    watcher.look(done, "train", clock.means() | where | clock.rates(), shares[-1][0].features_vbd)
                    clock.reset()
                watcher.due(everything=validates or saves or stops)

                if validation is not None and validates:
                    held_out = validate(objective, validation, make_views, training)
                    metrics.write(done, "validation", held_out)
                    state = _judged(state, held_out["loss"])
                    if keep_best and state.stale == 0:
                        save(run_dir / BEST, done, keep=1)
                    clock.pause_over()

                if probe is not None and validates and distributed.rank() == 0:
                    metrics.write(done, "probe", probe())
                    clock.pause_over()

                if saves or stops or _ran_out(state, training):
                    save(run_dir / CHECKPOINTS, done, keep=2)
                    clock.pause_over()
                if _ran_out(state, training):
                    log.info("no lower validation loss in %d validations: stopped at step %d", state.stale, done)
                    break
                if stops and not last:
                    raise StoppedError(
                        f"training was stopped: {stop or 'another rank was told to'}",
                        where=f"{run_dir}, after step {done} of {n_steps}",
                        fix="run the same command with --resume to go on",
                    )


def validate(objective: Objective, feed: Feed, make_views: MakeViews, training: Training) -> dict[str, float]:
    """Loss and its parts on ``feed``, averaged over windows; no gradient, the same draws every time.

    Ranks take whole batches in turn, so that each batch is judged as one rank would judge it.
    """
    plans = list(
        evaluation_plans(
            feed.records,
            window_samples=feed.window_samples,
            stride_samples=feed.window_samples,
            batch_size=training.batch_size,
        )
    )
    mine = range(distributed.rank(), len(plans), distributed.world())
    cast = autocast(training, feed.device)
    measured: list[tuple[int, int, dict[str, float]]] = []
    was_training = objective.training
    objective.eval()
    try:
        with torch.no_grad(), distributed.alone():
            for number, batch in zip(mine, feed.batches([plans[i] for i in mine]), strict=True):
                with cast():
                    terms: LossTerms = objective(make_views(batch, True))
                measured.append((number, len(batch.rows_b), _values({"loss": terms.total, **terms.parts})))
    finally:
        objective.train(was_training)
    sums: dict[str, float] = {}
    n_windows = 0
    # In the order of batches, so that any number of ranks comes to the same sum.
    for _, n, values in sorted((one for its in distributed.told_by_all(measured) for one in its), key=lambda m: m[0]):
        n_windows += n
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + n * value
    return {name: total / n_windows for name, total in sums.items()}


class _State(NamedTuple):
    """Where a run stands besides its weights: steps done, lowest validation loss, validations since then."""

    step: int = 0
    best_loss: float = math.inf
    stale: int = 0


def _judged(state: _State, loss: float) -> _State:
    if loss < state.best_loss:
        return state._replace(best_loss=loss, stale=0)
    return state._replace(stale=state.stale + 1)


def _ran_out(state: _State, training: Training) -> bool:
    """Whether validation has not become better for too long."""
    return training.patience is not None and state.stale >= training.patience


def _refuse_broken(reading: Reading, feed: Feed, *, loss_only: bool) -> None:
    """Raise DivergedError, on all ranks alike, if a step's loss or gradient is not finite.

    Where the loss is scaled (float16), a gradient that overflows is expected now and then, and the step is skipped.
    """
    if math.isfinite(reading.values["loss"]) and (loss_only or math.isfinite(reading.values["gradient_norm"])):
        return
    told = distributed.told_by_all((math.isfinite(reading.own_loss), feed.record_ids(reading.rows)))
    unfit = [name for finite, names in told if not finite for name in names]
    raise DivergedError(reading.step, reading.values, unfit or [name for _, names in told for name in names])


def _values(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as plain numbers, in one transfer."""
    return dict(zip(scalars, torch.stack([value.detach().float() for value in scalars.values()]).tolist(), strict=True))


def _newest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint as the first rank finds it: not all nodes need to see the same at once."""
    return distributed.told_by_first(checkpoint.last(run_dir / CHECKPOINTS) if distributed.rank() == 0 else None)


def _restore(
    path: Path,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: Mapping[str, Any],
    training: Training,
) -> _State:
    """Put weights and optimiser back as they were at ``path``; returns where the run stood."""
    written = checkpoint.load_config(path)
    for key in sorted({*config, *written}):
        if key in _BUDGETS and isinstance(config.get(key), int) and isinstance(written.get(key), int):
            _refuse_other_budget(key.removeprefix("pretrain."), written[key], config[key], objective, training, path)
        elif config.get(key) != written.get(key):
            differs = innermost_difference({key: config.get(key)}, {key: written.get(key)})
            assert differs is not None
            raise CheckpointError(
                f"the checkpoint belongs to a run with other settings: {differs.name} differs",
                where=path,
                expected=differs.one,
                got=differs.other,
                fix="resume with the settings of the run, or start another one",
            )
    trainer = checkpoint.load_trainer(path)
    weights = checkpoint.load_weights(path, objective.state_dict())
    try:
        objective.load_state_dict(weights)
        _restore_optimiser(optimiser, trainer["optimiser"])
        if scaler.is_enabled():
            scaler.load_state_dict(trainer["scaler"])
        return _State(int(trainer["step"]), float(trainer["best_loss"]), int(trainer.get("stale", 0)))
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "the checkpoint doesn't fit this run", where=path, got=" ".join(str(error).split())[:200]
        ) from error


def _refuse_other_budget(
    name: str, before: int, now: int, objective: Objective, training: Training, path: Path
) -> None:
    """A run may take more steps than it was begun with where nothing that it did hung on how many there would be."""
    if now == before:
        return
    if now < before:
        what = f"the run was begun with more {name} than that"
        fix = "resume with as many, or with more"
    elif training.optimiser.schedule == "cosine":
        what = f"a run can't be given more {name} where the learning rate falls to zero at the last step (cosine)"
        fix = "begin another run with this one's network: pretrain.init_from"
    elif objective.follows_budget:
        what = f"a run can't be given more {name} where its method ({type(objective).__name__}) goes by the share done"
        fix = "begin another run with this one's network: pretrain.init_from"
    else:
        return
    raise CheckpointError(what, where=path, expected=before, got=now, fix=fix)


def _restore_optimiser(optimiser: torch.optim.Optimizer, written: Mapping[str, Any]) -> None:
    """What it remembers of each parameter; its settings are the recipe's. Raises one of several errors."""
    own = optimiser.state_dict()["param_groups"]
    numbers = [number for group in own for number in group["params"]]
    if [number for group in written["param_groups"] for number in group["params"]] != numbers:
        raise ValueError("its optimiser is of other parameters")
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, remembered in written["state"].items():
        for name, value in remembered.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameters[numbers.index(number)].shape:
                raise ValueError(f"{name} of its optimiser has another shape")
    optimiser.load_state_dict({"state": written["state"], "param_groups": own})
