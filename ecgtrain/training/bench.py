"""How fast a recipe runs on this machine: feed, views and step alone, and all of them in the training loop.

Every figure is told as a share of what the machine could do at most, measured in the same run: a plain copy of the
same bytes for the feed, the rate of a large matrix product for the step. What is slow then shows by itself.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ecgstore import ConfigError
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Batch, Feed
from ecgtrain.data.plan import BatchPlan, batch_plan, steps_per_epoch
from ecgtrain.methods import LossTerms, Moment
from ecgtrain.training import loop, optim
from ecgtrain.training import step as its_step
from ecgtrain.training.environment import environment
from ecgtrain.training.log import read_metrics
from ecgtrain.training.prepare import Prepared, open_windows, prepare, pretrain_of
from ecgtrain.training.step import autocast, compiled, tensor_float

#: Turns of each measurement; the median counts.
ROUNDS = 3
#: Batches that may have been prepared before the clock runs: two ahead, and one in the making.
_PREPARED = 3
#: Copies read from at least so many bytes, so that they don't come from a cache of the processor.
_COPIED_BYTES = 200_000_000
#: Side of the matrices whose product is the machine's ceiling, by kind of device; and on a processor in half precision,
#: which some have no instructions for: there the larger product takes 12 seconds (AMD EPYC, Zen 3).
_SIDE, _SIDE_OF_HALVES = {"cpu": 1536, "cuda": 8192}, 256

NOT_COUNTED = "element-wise operations, normalisations, softmax, gathering, FFTs, the optimiser"

Say = Callable[[str], None]
#: Does something so many times.
Contender = Callable[[int], Any]


def bench(
    config: RunConfig, *, device: torch.device | str = "cpu", seconds: float = 5.0, say: Say = lambda _: None
) -> dict[str, Any]:
    """Measure the pretraining of ``config`` for about ``seconds`` per part; returns plain numbers.

    ``feed``, ``views`` and ``step`` run alone (``processor_s``: processor time of one step, whatever else the machine
    does); ``loop`` is :func:`ecgtrain.training.loop.train` itself, into a folder that is removed. All run in turns,
    :data:`ROUNDS` times: medians count, and ``spread`` is the largest of the turns minus the smallest, over the median.
    Rates are in windows of the whole batch per second. ``peak_memory_bytes`` is taken after the loop's first steps,
    before anything else is allocated: of the GPU what torch took, on a processor all of the process. Raises what
    :func:`ecgtrain.training.pretrain.pretrain` raises.
    """
    device = torch.device(device)
    settings = pretrain_of(config)
    if settings.steps == 0:
        raise ConfigError("steps: 0 trains nothing, so there is nothing to measure", where=config.name)
    # A network that was trained before is as fast as a fresh one.
    settings = settings.model_copy(update={"init_from": None})
    config = config.model_copy(update={"pretrain": settings})
    _forget_peak(device)
    made = prepare(config, device)
    feed = open_windows(config, made.parts, made.passport, device)
    say(feed.description)
    say("the first steps of the loop, which set up what later ones use")
    steps_per_s = _loop(config, made, feed, each=1, measured=2).windows_per_s / settings.batch_size
    peak_memory_bytes = _peak_memory(device)

    plans = _plans(feed, config)
    parts = [feed.batch(next(plans)) for _ in range(settings.accumulate)]
    step = _Step(config, made, parts, feed.n_records, device)
    with tensor_float(device):
        step(1)
    flop = step.flop()
    alone: dict[str, Contender] = {
        "copy": _copy(parts, feed, device),
        "views": lambda n: [made.make_views(part, False) for _ in range(n) for part in parts],
        "step": step,
        "product": _product(settings.precision, device),
    }
    turn_s = seconds / ROUNDS
    each = max(1, min(settings.log_every_steps, round(turn_s * steps_per_s)))
    measured = max(1, round(turn_s * steps_per_s / each))
    turns: dict[str, list[float]] = {name: [] for name in ("feed", *alone)}
    whole: list[_Whole] = []
    processor: list[float] = []
    for number in range(ROUNDS):
        say(f"turn {number + 1} of {ROUNDS}: {', '.join(turns)}, loop")
        turns["feed"].append(_fed_per_s(feed, plans, settings.accumulate, turn_s, device))
        for name, contender in alone.items():
            with tensor_float(device):  # as the loop has it
                turns[name].append(_per_s(contender, turn_s, device))
        processor.append(_processor_s(step, device))
        whole.append(_loop(config, made, feed, each=each, measured=measured))
    rate = {name: statistics.median(values) for name, values in turns.items()}
    spread = {name: _spread(values) for name, values in turns.items()}
    processor_s = statistics.median(processor)
    side = _side(settings.precision, device)
    ceiling = 2 * side**3 * rate["product"]
    looped = statistics.median(one.windows_per_s for one in whole)

    batch_size = settings.batch_size
    per_epoch = steps_per_epoch(feed.n_records, batch_size)
    total = settings.n_steps(per_epoch)
    return {
        "recipe": config.name,
        "batch": [batch_size, *parts[0].counts_blt.shape[1:]],
        "accumulate": settings.accumulate,
        "precision": settings.precision,
        "compile": settings.compile,
        "parameters": sum(parameter.numel() for parameter in made.objective.parameters() if parameter.requires_grad),
        "turns": ROUNDS,
        "feed": {
            "way": feed.way,
            "windows_per_s": batch_size * rate["feed"],
            "bytes_per_s": _n_bytes(parts) * rate["feed"],
            "of_copy": rate["feed"] / rate["copy"],
            "copy": _way_of_copy(feed, device),
            "copy_bytes_per_s": _n_bytes(parts) * rate["copy"],
            "spread": spread["feed"],
        },
        "views": {"windows_per_s": batch_size * rate["views"], "spread": spread["views"]},
        "step": {
            "windows_per_s": batch_size * rate["step"],
            "steps_per_s": rate["step"],
            "processor_s": processor_s,
            "flop_per_step": flop.total,
            "flop_by_formula": flop.by_formula,
            "flop_not_counted": NOT_COUNTED,
            "flop_per_s": flop.total * rate["step"],
            "ceiling_flop_per_s": ceiling,
            "ceiling": f"product of two {_multiplied_as(settings.precision, device)} matrices of {side} x {side}",
            "of_ceiling": flop.total * rate["step"] / ceiling,
            "spread": spread["step"],
        },
        "loop": {
            "windows_per_s": looped,
            "waiting": statistics.median(one.waiting for one in whole),
            "of_step": looped / (batch_size * rate["step"]),
            "steps_per_turn": each * measured,
            "spread": _spread([one.windows_per_s for one in whole]),
        },
        "peak_memory_bytes": peak_memory_bytes,
        "whole_recipe": {
            "steps": total,
            "epochs": total / per_epoch,
            "seconds_per_epoch": per_epoch * batch_size / looped,
            "hours": total * batch_size / looped / 3600,
        },
        "machine": environment(device),
    }


def table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What :func:`bench` found, as rows of two columns."""
    feed, views, step, whole = (result[name] for name in ("feed", "views", "step", "loop"))
    recipe = result["whole_recipe"]
    budget = f"{recipe['steps']:,} steps, {recipe['epochs']:,.1f} epochs of {_duration(recipe['seconds_per_epoch'])}"
    return [
        (f"feed alone ({feed['way']})", f"{feed['windows_per_s']:,.0f} windows/s,"),
        ("", f"{feed['bytes_per_s'] / 1e6:,.0f} MB/s, {feed['of_copy']:.0%} of a copy {feed['copy']}"),
        ("views alone", f"{views['windows_per_s']:,.0f} windows/s"),
        ("step alone", f"{step['windows_per_s']:,.1f} windows/s, {step['steps_per_s']:.2f} steps/s"),
        ("", f"{step['flop_per_step'] / 1e9:,.1f} GFLOP a step, {step['flop_per_s'] / 1e9:,.1f} GFLOP/s,"),
        ("", f"{step['of_ceiling']:.0%} of a large matrix product ({step['ceiling_flop_per_s'] / 1e9:,.0f} GFLOP/s)"),
        ("the loop", f"{whole['windows_per_s']:,.1f} windows/s, {whole['of_step']:.0%} of the step alone"),
        ("waiting for data", f"{whole['waiting']:.2%} of the time"),
        ("peak memory", f"{result['peak_memory_bytes'] / 1e9:,.2f} GB"),
        ("the whole recipe", f"{budget}: {_duration(3600 * recipe['hours'])}"),
    ]


def _duration(seconds: float) -> str:
    for unit, its_s in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * its_s:
            return f"{seconds / its_s:.1f} {unit}"
    return f"{seconds:.1f} s"


# --- the feed -----------------------------------------------------------------------------------------------


def _plans(feed: Feed, config: RunConfig) -> Iterator[BatchPlan]:
    """The plans of an endless run, each batch in the parts that the loop takes it in."""
    settings = pretrain_of(config)
    n_parts = settings.accumulate
    for number in itertools.count():
        step, part = divmod(number, n_parts)
        yield batch_plan(
            feed.records,
            window_samples=feed.window_samples,
            seed=config.seed,
            step=step,
            batch_size=settings.batch_size,
            rank=part,
            world=n_parts,
        )


def _fed_per_s(feed: Feed, plans: Iterator[BatchPlan], n_parts: int, seconds: float, device: torch.device) -> float:
    """Whole batches a second; closed after each turn, so that nothing is kept for it while others run."""
    with closing(feed.batches(plans)) as batches:

        def pull(n: int) -> None:
            for _ in range(n * n_parts):
                next(batches)

        return _per_s(pull, seconds, device, prepared=_PREPARED)


def _crosses(feed: Feed, device: torch.device) -> bool:
    """Whether windows cross from the processor's memory to the device, batch by batch."""
    return device.type != "cpu" and feed.way != "device"


def _way_of_copy(feed: Feed, device: torch.device) -> str:
    if device.type == "cpu":
        return "by one thread"
    return "from pinned memory to the GPU" if _crosses(feed, device) else "within the GPU"


def _n_bytes(parts: list[Batch]) -> int:
    return sum(part.counts_blt.numel() * part.counts_blt.element_size() for part in parts)


def _copy(parts: list[Batch], feed: Feed, device: torch.device) -> Contender:
    """Copy as many bytes as a batch has, the way that they come: see :func:`_way_of_copy`."""
    one = torch.cat([part.counts_blt.flatten() for part in parts])
    target = torch.empty_like(one)
    n = max(2, _COPIED_BYTES // _n_bytes(parts)) if device.type == "cpu" else 2
    sources = [one + i for i in range(n)]
    turning = itertools.cycle([source.cpu().pin_memory() for source in sources] if _crosses(feed, device) else sources)

    def copy(n: int) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in range(n):
            target.copy_(next(turning), non_blocking=True)
        torch.set_num_threads(threads)

    return copy


# --- the step -----------------------------------------------------------------------------------------------


class Flop(NamedTuple):
    """Floating point operations; ``by_formula`` are those of recurrent layers that torch's counter doesn't see."""

    total: int
    by_formula: int


class _Step:
    """Forward, backward and optimiser as the loop has them, on the views of one batch, made once."""

    def __init__(
        self, config: RunConfig, made: Prepared, parts: list[Batch], n_records: int, device: torch.device
    ) -> None:
        self._training = training = pretrain_of(config)
        self._objective = made.objective.to(device).train()
        self._network = compiled(self._objective, training)
        self._optimiser = optim.build(training.optimiser, its_step.layers(self._objective))
        # A rate of next to nothing, so that nothing diverges however long it is measured.
        optim.set_learning_rate(self._optimiser, 1e-12)
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "float16")
        self._autocast = autocast(training, device)
        self._views = [(made.make_views(part, False), len(part.rows_b) / training.batch_size) for part in parts]
        per_epoch = steps_per_epoch(n_records, training.batch_size)
        self._moment = Moment(0, training.n_steps(per_epoch), per_epoch)

    def _backward(self, network: nn.Module) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        for views, share in self._views:
            with self._autocast():
                terms: LossTerms = network(views)
            self._scaler.scale(terms.total * share).backward()  # type: ignore[no-untyped-call]

    def __call__(self, n: int) -> None:
        for _ in range(n):
            self._backward(self._network)
            self._objective.before_step(self._moment)
            self._scaler.unscale_(self._optimiser)
            optim.clip(self._objective.parameters(), self._training.optimiser.clip_norm)
            self._scaler.step(self._optimiser)
            self._scaler.update()
            self._objective.after_step(self._moment)

    def flop(self) -> Flop:
        """Of one step, forward and backward, of the network as it is written rather than as it was compiled."""
        device = next(self._objective.parameters()).device
        return count_flop(lambda: self._backward(self._objective), self._objective, device)


def count_flop(run: Callable[[], Any], network: nn.Module, device: torch.device) -> Flop:
    """Multiplications and additions of products of matrices, convolutions, attention and recurrent layers in ``run``.

    ``run`` takes ``network`` forward, and backward wherever gradients are on. torch's counter sees no recurrent layer
    on most devices; those that it doesn't are counted by formula, as often as they are called.
    """
    seen: dict[nn.Module, int] = {}
    unseen: list[int] = []

    def before(rnn: nn.Module, _: Any) -> None:
        seen[rnn] = int(counter.get_total_flops())

    def after(rnn: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        if int(counter.get_total_flops()) == seen[rnn]:
            unseen.append(_recurrent_flop(rnn, inputs[0]))

    layers = [module for module in network.modules() if isinstance(module, nn.RNNBase)]
    handles = [one.register_forward_pre_hook(before) for one in layers]
    handles += [one.register_forward_hook(after) for one in layers]
    # A processor's fused attention isn't seen by the counter either; taken apart, it is two products.
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        try:
            with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: _product_flop}) as counter:
                run()
        finally:
            for handle in handles:
                handle.remove()
    return Flop(int(counter.get_total_flops()) + sum(unseen), sum(unseen))


def _product_flop(a_shape: Sequence[int], b_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Of two batches of matrices. torch's own formula fails where the type of the result is told (torch 2.13)."""
    n, rows, inner = a_shape
    return 2 * n * rows * inner * b_shape[-1]


def _recurrent_flop(rnn: Any, x: Tensor) -> int:
    """A multiplication and an addition per weight and token; backward, by inputs and by weights, twice as much."""
    weights: int = sum(parameter.numel() for parameter in rnn.parameters() if parameter.dim() == 2)
    tokens = x.numel() // int(rnn.input_size)
    return 2 * weights * tokens * (3 if torch.is_grad_enabled() else 1)


def _side(precision: str, device: torch.device) -> int:
    return _SIDE_OF_HALVES if device.type == "cpu" and precision != "float32" else _SIDE[device.type]


def _multiplied_as(precision: str, device: torch.device) -> str:
    return "TF32" if device.type == "cuda" and precision == "float32" else precision


def _product(precision: str, device: torch.device) -> Contender:
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    side = _side(precision, device)
    one = torch.randn(side, side, device=device).to(dtype)
    into = torch.empty_like(one)

    def product(n: int) -> None:
        for _ in range(n):
            torch.mm(one, one, out=into)

    return product


# --- the loop and the clock ---------------------------------------------------------------------------------


class _Whole(NamedTuple):
    """What the loop says of itself."""

    windows_per_s: float
    waiting: float


def _loop(config: RunConfig, made: Prepared, feed: Feed, *, each: int, measured: int) -> _Whole:
    """The loop's own figures, told every ``each`` steps, over ``measured`` times as many; the first are left out."""
    n_steps = each * (1 + measured)
    settings = pretrain_of(config).model_copy(
        update={"steps": n_steps, "epochs": None, "log_every_steps": each, "patience": None, "trackers": ()}
        | dict.fromkeys(("validate_every_steps", "checkpoint_every_steps"), n_steps)
    )
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
        lines = read_metrics(Path(folder))
    told = [line.values for line in lines if line.split == "train"][1:]
    # All lines are of as many steps: their times, rather than their rates, add up.
    seconds = [each * settings.batch_size / line["windows_per_s"] for line in told]
    waited = sum(line["waiting"] * its for line, its in zip(told, seconds, strict=True))
    return _Whole(len(told) * each * settings.batch_size / sum(seconds), waited / sum(seconds))


def _per_s(contender: Contender, seconds: float, device: torch.device, *, prepared: int = 1) -> float:
    """How often a second it is done, after what was ``prepared`` has been used up."""
    contender(prepared)
    _finish(device)
    n, chunk = 0, 1
    began_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        contender(chunk)
        n += chunk
        chunk = min(2 * chunk, 64)
        _finish(device)
    return n / elapsed_s


def _processor_s(step: Contender, device: torch.device) -> float:
    """Of one step, all threads together: what other processes take of the cores adds little to it."""
    began_s = time.process_time()
    with tensor_float(device):
        step(1)
        _finish(device)
    return time.process_time() - began_s


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    """Begin to look for the peak anew, where the system lets us (Linux does)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
