"""How fast a recipe runs on this machine: feed, views and step alone, and all of them in the training loop.

Every figure is told as a share of what the machine could do at most, measured in the same run: a plain copy of the
same bytes for the feed, the rate of a large matrix product for the step. What is slow then shows by itself.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ecgtrain import loop, optim
from ecgtrain.config import RunConfig
from ecgtrain.feed import Batch, Feed
from ecgtrain.methods import LossTerms
from ecgtrain.plan import BatchPlan, batch_plan, steps_per_epoch
from ecgtrain.pretrain import Prepared, environment, open_windows, prepare, pretrain_of

#: Turns of each measurement; the median counts.
ROUNDS = 3
#: Copies read from at least so many bytes, so that they don't come from a cache of the processor.
_COPIED_BYTES = 200_000_000
#: Side of the matrices whose product is the machine's ceiling, by kind of device.
_SIDE = {"cpu": 1536, "cuda": 8192}

Say = Callable[[str], None]
#: Does something so many times.
Contender = Callable[[int], Any]


def bench(
    config: RunConfig, *, device: torch.device | str = "cpu", seconds: float = 5.0, say: Say = lambda _: None
) -> dict[str, Any]:
    """Measure the pretraining of ``config`` for about ``seconds`` per part; returns plain numbers.

    ``feed``, ``views`` and ``step`` run alone, in turns; ``loop`` is :func:`ecgtrain.loop.train` itself, into a folder
    that is removed. Rates are in windows of the whole batch per second; ``spread`` is the largest of the turns minus
    the smallest, over the median. Raises what :func:`ecgtrain.pretrain.pretrain` raises.
    """
    device = torch.device(device)
    settings = pretrain_of(config)
    made = prepare(config, device)
    feed = open_windows(config, made.parts, made.passport, device)
    say(feed.description)
    batch_size = settings.batch_size
    batch = feed.batch(next(_plans(feed, config)))
    step = _Step(config, made, batch, device)
    say("the first step, which sets up what later ones use")
    step(1)
    flop = step.flop()
    contenders: dict[str, Contender] = {
        "copy": _copy(batch, device),
        "feed": _pull(feed, config),
        "views": lambda n: [made.make_views(batch, False) for _ in range(n)],
        "step": step,
        "product": _product(settings.precision, device),
    }
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS):
        say(f"turn {number + 1} of {ROUNDS}: {', '.join(contenders)}")
        for name, contender in contenders.items():
            turns[name].append(_per_s(contender, seconds / ROUNDS, device))
    rate = {name: statistics.median(values) for name, values in turns.items()}
    spread = {name: (max(values) - min(values)) / rate[name] for name, values in turns.items()}
    ceiling = 2 * _SIDE[device.type] ** 3 * rate["product"]

    n_steps = max(4, int(seconds * rate["step"]))
    say(f"the loop itself, {2 * n_steps} steps of which the second half counts")
    whole = _loop(config, n_steps, device)
    n_bytes = 2 * batch.counts_blt.numel()
    per_epoch = steps_per_epoch(feed.n_records, batch_size)
    total = settings.n_steps(per_epoch)
    return {
        "recipe": config.name,
        "batch": list(batch.counts_blt.shape),
        "precision": settings.precision,
        "compile": settings.compile,
        "feed": {
            "way": feed.way,
            "windows_per_s": batch_size * rate["feed"],
            "bytes_per_s": n_bytes * rate["feed"],
            "of_copy": rate["feed"] / rate["copy"],
            "spread": spread["feed"],
        },
        "views": {"windows_per_s": batch_size * rate["views"], "spread": spread["views"]},
        "step": {
            "windows_per_s": batch_size * rate["step"],
            "steps_per_s": rate["step"],
            "flop_per_step": flop,
            "flop_per_s": flop * rate["step"],
            "ceiling_flop_per_s": ceiling,
            "of_ceiling": flop * rate["step"] / ceiling,
            "spread": spread["step"],
        },
        "loop": {
            "windows_per_s": whole["windows_per_s"],
            "waiting": whole["waiting"],
            "of_step": whole["windows_per_s"] / (batch_size * rate["step"]),
        },
        "peak_memory_bytes": _peak_memory(device),
        "whole_recipe": {
            "steps": total,
            "epochs": total / per_epoch,
            "hours": total * batch_size / whole["windows_per_s"] / 3600,
        },
        "machine": environment(device),
    }


def table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What :func:`bench` found, as rows of two columns."""
    feed, views, step, whole = (result[name] for name in ("feed", "views", "step", "loop"))
    recipe = result["whole_recipe"]
    budget = f"{recipe['steps']:,} steps, {recipe['epochs']:,.1f} epochs"
    return [
        (f"feed alone ({feed['way']})", f"{feed['windows_per_s']:,.0f} windows/s, {feed['of_copy']:.0%} of a copy"),
        ("views alone", f"{views['windows_per_s']:,.0f} windows/s"),
        ("step alone", f"{step['windows_per_s']:,.1f} windows/s, {step['steps_per_s']:.2f} steps/s"),
        ("", f"{step['flop_per_step'] / 1e9:,.1f} GFLOP a step, {step['flop_per_s'] / 1e9:,.1f} GFLOP/s,"),
        ("", f"{step['of_ceiling']:.0%} of a large matrix product ({step['ceiling_flop_per_s'] / 1e9:,.0f} GFLOP/s)"),
        ("the loop", f"{whole['windows_per_s']:,.1f} windows/s, {whole['of_step']:.0%} of the step alone"),
        ("waiting for data", f"{whole['waiting']:.2%} of the time"),
        ("peak memory", f"{result['peak_memory_bytes'] / 1e9:,.2f} GB"),
        ("the whole recipe", f"{budget}: {_duration(recipe['hours'])}"),
    ]


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


# --- contenders: each does something n times ----------------------------------------------------------------


class _Step:
    """Forward, backward and optimiser on the views of one batch, made once."""

    def __init__(self, config: RunConfig, made: Prepared, batch: Batch, device: torch.device) -> None:
        self._training = pretrain_of(config)
        self._objective = made.objective.to(device).train()
        self._network = loop.compiled(self._objective) if self._training.compile else self._objective
        self._optimiser = optim.build(self._training.optimiser, loop.layers(self._objective))
        # A rate of next to nothing, so that nothing diverges however long it is measured.
        optim.set_learning_rate(self._optimiser, 1e-12)
        self._autocast = loop.autocast(self._training, device)
        self._views = made.make_views(batch, False)

    def _backward(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        with self._autocast():
            terms: LossTerms = self._network(self._views)
        terms.total.backward()  # type: ignore[no-untyped-call]

    def __call__(self, n: int) -> None:
        for _ in range(n):
            self._backward()
            optim.clip(self._objective.parameters(), self._training.optimiser.clip_norm)
            self._optimiser.step()

    def flop(self) -> int:
        """Floating point operations of one step: products of matrices and convolutions, forward and backward.

        torch's counter doesn't see inside its recurrent layers on every device; theirs are added by their formula.
        """
        network, self._network = self._network, self._objective
        recurrent: list[int] = []
        handles = [
            module.register_forward_hook(lambda its, x, _: recurrent.append(_lstm_flop(its, x[0])))
            for module in self._objective.modules()
            if isinstance(module, nn.LSTM)
        ]
        try:
            with FlopCounterMode(display=False) as counter:
                self._backward()
        finally:
            self._network = network
            for handle in handles:
                handle.remove()
        counted = int(counter.get_total_flops())
        return counted if _lstm_is_counted(next(self._objective.parameters()).device) else counted + sum(recurrent)


def _lstm_flop(lstm: Any, x_bsd: Tensor) -> int:
    """Of forward and backward, which costs twice as much: 2 x 4 h (inputs + h) for each layer and token."""
    tokens = x_bsd.shape[0] * x_bsd.shape[1]
    widths = [lstm.input_size] + [lstm.hidden_size] * (lstm.num_layers - 1)
    return sum(3 * 8 * lstm.hidden_size * (width + lstm.hidden_size) * tokens for width in widths)


def _lstm_is_counted(device: torch.device) -> bool:
    lstm = nn.LSTM(4, 4, batch_first=True).to(device)
    with FlopCounterMode(display=False) as counter:
        lstm(torch.zeros(1, 3, 4, device=device))
    return int(counter.get_total_flops()) > 0


def _plans(feed: Feed, config: RunConfig) -> Iterator[BatchPlan]:
    batch_size = pretrain_of(config).batch_size
    for step in itertools.count():
        yield batch_plan(
            feed.records, window_samples=feed.window_samples, seed=config.seed, step=step, batch_size=batch_size
        )


def _pull(feed: Feed, config: RunConfig) -> Contender:
    batches = feed.batches(_plans(feed, config))

    def pull(n: int) -> None:
        for _ in range(n):
            next(batches)

    return pull


def _copy(batch: Batch, device: torch.device) -> Contender:
    """Copy as many bytes as a batch has, on one thread of a processor, or within a GPU."""
    one = batch.counts_blt.contiguous()
    n = max(2, _COPIED_BYTES // (2 * one.numel())) if device.type == "cpu" else 2
    sources = itertools.cycle([one + i for i in range(n)])
    target = torch.empty_like(one)

    def copy(n: int) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in range(n):
            target.copy_(next(sources))
        torch.set_num_threads(threads)

    return copy


def _product(precision: str, device: torch.device) -> Contender:
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    one = torch.randn(_SIDE[device.type], _SIDE[device.type], device=device).to(dtype)
    into = torch.empty_like(one)

    def product(n: int) -> None:
        for _ in range(n):
            torch.mm(one, one, out=into)

    return product


def _per_s(contender: Contender, seconds: float, device: torch.device) -> float:
    """How often a second it is done, after what was prepared ahead has been used up."""
    contender(3)
    _finish(device)
    n, chunk = 0, 1
    began_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        contender(chunk)
        n += chunk
        chunk = min(2 * chunk, 64)
        _finish(device)
    return n / elapsed_s


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _loop(config: RunConfig, n_steps: int, device: torch.device) -> dict[str, float]:
    """The loop's own figures over its second ``n_steps`` steps."""
    settings = pretrain_of(config).model_copy(
        update={"steps": 2 * n_steps, "epochs": None, "log_every_steps": n_steps, "patience": None}
        | dict.fromkeys(("validate_every_steps", "checkpoint_every_steps"), 2 * n_steps)
    )
    made = prepare(config, device)
    feed = open_windows(config, made.parts, made.passport, device)
    with tempfile.TemporaryDirectory(prefix="ecgtrain-bench-") as folder:
        loop.train(
            made.objective,
            feed,
            made.make_views,
            settings,
            seed=config.seed,
            run_dir=Path(folder),
            config={},
            passport=made.passport,
        )
        lines = [json.loads(text) for text in (Path(folder) / loop.METRICS).read_text("utf-8").splitlines()]
    last: dict[str, float] = [line for line in lines if line["split"] == "train"][-1]
    return last


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
