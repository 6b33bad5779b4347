"""One visible training loop, read top to bottom; no callbacks.

Training counts steps. What step s sees is planned (:mod:`ecgtrain.plan`), what is drawn in it hangs on
sample numbers (:class:`ecgtrain.views.Draw`), so a run that was killed goes on to the same weights, bit for
bit on a CPU.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ecgtrain import checkpoint, optim
from ecgtrain.checkpoint import Passport
from ecgtrain.config import Training
from ecgtrain.errors import CheckpointError, DivergedError
from ecgtrain.feed import Batch, Feed
from ecgtrain.methods import LossTerms, Moment, Objective
from ecgtrain.plan import batch_plan, evaluation_plans, steps_per_epoch

#: Turns a batch into what the objective looks at; ``validating`` keeps those draws apart from training's.
MakeViews = Callable[[Batch, bool], Any]
#: Called after every step with (steps done, steps in all, what to show).
Progress = Callable[[int, int, Mapping[str, float]], None]

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
BEST = "checkpoints/best"

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
    progress: Progress | None = None,
) -> None:
    """Train ``objective`` on ``feed``, as long and as often checked as ``training`` says.

    Metrics and checkpoints go to ``run_dir``; every checkpoint holds ``config`` and ``passport``. The loss on
    ``validation`` is computed without gradient, in evaluation mode, on windows side by side over whole
    records; ``keep_best`` keeps the weights with the lowest such loss in ``checkpoints/best``. With
    ``resume``, training goes on from the newest whole checkpoint, if there is one.

    Raises DivergedError naming step, loss and records as soon as loss or gradient is not finite, and
    CheckpointError if a checkpoint can't be written, or belongs to a run with other settings.
    """
    device = feed.device
    per_epoch = steps_per_epoch(feed.n_records, training.batch_size)
    n_steps = training.n_steps(per_epoch)
    plan = partial(
        batch_plan,
        feed.lengths_n,
        window_samples=feed.window_samples,
        seed=seed,
        batch_size=training.batch_size,
    )
    objective.to(device).train()
    optimiser = optim.build(training.optimiser, objective.parameters())
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=training.precision == "bfloat16")

    with _own_torch_generator(seed, device):
        first_step, best_loss = 0, math.inf
        if resume and (path := checkpoint.last(run_dir / CHECKPOINTS)) is not None:
            first_step, best_loss = _restore(path, objective, optimiser, config, device)

        def save(folder: Path, done: int, keep: int) -> None:
            trainer = _trainer_state(done, best_loss, optimiser, device)
            checkpoint.save(folder, done, model=objective, trainer=trainer, config=config, passport=passport, keep=keep)

        plans = (plan(step=step) for step in range(first_step, n_steps))
        with Metrics(run_dir, first_step) as metrics, closing(feed.batches(plans)) as batches:
            if first_step == 0 and objective.chance:
                metrics.write(0, "chance", objective.chance)
            clock = _Clock(training.batch_size)
            for step in range(first_step, n_steps):
                lr = optim.learning_rate(training.optimiser, step, n_steps)
                optim.set_learning_rate(optimiser, lr)

                with clock.waiting():
                    batch = next(batches)

                with autocast():
                    terms: LossTerms = objective(make_views(batch, False))
                optimiser.zero_grad(set_to_none=True)
                terms.total.backward()  # type: ignore[no-untyped-call]
                moment = Moment(step, n_steps, per_epoch)
                objective.before_step(moment)
                gradient_norm = optim.clip(objective.parameters(), training.optimiser.clip_norm)

                values = _values({"loss": terms.total, **terms.parts, "gradient_norm": gradient_norm})
                if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
                    raise DivergedError(step, values, batch.rows_b.tolist())
                optimiser.step()
                done = step + 1
                objective.after_step(moment)

                clock.tick(values)
                if progress is not None:
                    progress(done, n_steps, values | clock.rates())
                if done % training.log_every_steps == 0 or done == n_steps:
                    state = {"epoch": done * training.batch_size / feed.n_records, "learning_rate": lr}
                    metrics.write(done, "train", clock.means() | state | clock.rates())
                    clock.reset()

                if validation is not None and (done % training.validate_every_steps == 0 or done == n_steps):
                    held_out = validate(objective, validation, make_views, training)
                    metrics.write(done, "validation", held_out)
                    if held_out["loss"] < best_loss:
                        best_loss = held_out["loss"]
                        if keep_best:
                            save(run_dir / BEST, done, keep=1)

                if done % training.checkpoint_every_steps == 0 or done == n_steps:
                    save(run_dir / CHECKPOINTS, done, keep=2)


def validate(objective: Objective, feed: Feed, make_views: MakeViews, training: Training) -> dict[str, float]:
    """Loss and its parts on ``feed``, averaged over windows; no gradient, the same draws every time."""
    plans = evaluation_plans(
        feed.lengths_n,
        window_samples=feed.window_samples,
        stride_samples=feed.window_samples,
        batch_size=training.batch_size,
    )
    sums: dict[str, float] = {}
    n_windows = 0
    was_training = objective.training
    objective.eval()
    try:
        with torch.no_grad():
            for batch in feed.batches(plans):
                with torch.autocast(feed.device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
                    terms: LossTerms = objective(make_views(batch, True))
                n = len(batch.rows_b)
                n_windows += n
                for name, value in _values({"loss": terms.total, **terms.parts}).items():
                    sums[name] = sums.get(name, 0.0) + n * value
    finally:
        objective.train(was_training)
    return {name: total / n_windows for name, total in sums.items()}


class Metrics:
    """``metrics.jsonl``, one line per event, and TensorBoard beside it where that is installed.

    Lines after ``first_step`` are dropped: a resumed run writes them again. A tracker's failure is logged and
    never stops a run.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._path = run_dir / METRICS
        kept = [line for line in _lines(self._path) if first_step and line["step"] <= first_step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        except ImportError:
            log.info("TensorBoard is not installed")
        except Exception as error:
            log.warning("TensorBoard can't write and is left out: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._tell_board(lambda board: board.close())

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write one line: what was measured after ``step`` steps on ``split``."""
        rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **rounded}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tell_board(partial(_add_scalar, name=f"{split}/{name}", value=value, step=step))

    def _tell_board(self, tell: Callable[[Any], None]) -> None:
        if self._board is None:
            return
        try:
            tell(self._board)
        except Exception as error:
            log.warning("TensorBoard failed and is left out from here on: %s", error)
            self._board = None


class _Clock:
    """Since the last reset: mean loss, windows per second, share of time spent waiting for data."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        self._began_s = time.perf_counter()
        self._waited_s = 0.0
        self._n = 0
        self._sums: dict[str, float] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - began_s

    def tick(self, values: Mapping[str, float]) -> None:
        self._n += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / self._n for name, total in self._sums.items()}

    def rates(self) -> dict[str, float]:
        elapsed_s = max(time.perf_counter() - self._began_s, 1e-9)
        return {
            "windows_per_s": self._n * self._batch_size / elapsed_s,
            "waiting": self._waited_s / elapsed_s,
        }


def _values(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as plain numbers, in one transfer."""
    return dict(zip(scalars, torch.stack([value.detach().float() for value in scalars.values()]).tolist(), strict=True))


def _add_scalar(board: Any, name: str, value: float, step: int) -> None:
    board.add_scalar(name, value, step)


@contextmanager
def _own_torch_generator(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for the run, and give them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _trainer_state(
    step: int, best_loss: float, optimiser: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    state = {
        "step": step,
        "best_loss": best_loss,
        "optimiser": optimiser.state_dict(),
        "torch_generator": torch.random.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(device)
    return state


def _restore(
    path: Path,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    config: Mapping[str, Any],
    device: torch.device,
) -> tuple[int, float]:
    """Put weights, optimiser and generators back as they were at ``path``; returns its step and best loss."""
    written = checkpoint.load_config(path)
    for key in sorted({*config, *written}):
        if config.get(key) != written.get(key):
            raise CheckpointError(
                f"the checkpoint belongs to a run with other settings: {key} differs",
                where=path,
                expected=json.dumps(config.get(key)),
                got=json.dumps(written.get(key)),
                fix="resume with the settings of the run, or start another one",
            )
    state = checkpoint.load_trainer(path)
    try:
        objective.load_state_dict(checkpoint.load_weights(path))
        optimiser.load_state_dict(state["optimiser"])
        torch.random.set_rng_state(state["torch_generator"])
        if device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], device)
        return int(state["step"]), float(state["best_loss"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            "the checkpoint doesn't fit this run", where=path, got=" ".join(str(error).split())[:200]
        ) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a torn last one is dropped."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
