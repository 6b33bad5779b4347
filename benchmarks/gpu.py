"""One script for a GPU: how fast everything is there, as a share of what the card can do, and whether it is right.

In this order, each part with a share of ``--seconds`` (400 by default, so that all of it ends within eight minutes):

- ``matrix``: the card's own rate, of a product of two large matrices in bfloat16, TF32 and float32;
- ``lstm``: what torch's autocast makes of an LSTM, what this package does, and how long CPC's takes in each precision;
- ``right``: each method at its published width against this machine's processor: the same weights, the same windows,
  the same draws; views, loss and gradient. The processor computes in float64, so that what differs is the other's. And
  half precision is judged where the recipe trains in it: of a loss of which little hangs on the network, it is noise;
- ``feed``: windows a second by every way of feeding (``benchmarks/feed.py`` with a store);
- ``train``: ``ecgtrain bench`` of each published recipe: feed, views, step, the loop, waiting, memory, hours;
- ``compile``: the step of two of them again, compiled, and of one with CUDA graphs, if there is time left.

CPC's hours for the paper's schedule (1,000 epochs of 54,574 records) come from the rate of the loop. What fails is
written down in a line, and the rest goes on. Windows are of random waves: how fast they are learned from does not hang
on what they show.

    python benchmarks/gpu.py --json gpu.json > gpu.md       on a GPU
    python benchmarks/gpu.py --device cpu --small           on a processor, small recipes: that the script works

Prints tables in Markdown, as docs/results.md has them.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# OpenMP threads that spin for long while they wait would fight other processes for the cores. Before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import feed as feeds
import numpy as np
import torch
from torch import Tensor, nn

from ecgstore import LEADS_12, IngestSettings, Record, Statement, Store, open_store, write_records
from ecgstore.inner import keep_freed_memory
from ecgtrain import config
from ecgtrain.backbones import cpc_lstm
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Batch
from ecgtrain.data.plan import batch_plan
from ecgtrain.methods import Objective
from ecgtrain.training.bench import bench
from ecgtrain.training.environment import environment
from ecgtrain.training.prepare import open_windows, prepare, pretrain_of
from ecgtrain.training.step import own_torch_generator, tensor_float

#: Each method at its published size; and one that has none.
PUBLISHED = {
    "cpc": "paper_b_cpc",
    "cpc_fast": "paper_b_cpc_fast",
    "cpc_s4": "paper_b_cpc_s4",
    "simclr": "paper_b_simclr",
    "byol": "paper_b_byol",
    "swav": "paper_b_swav",
    "stj": "paper_a_stj",
    "lcd": "paper_c_lcd",
    "mae": "st_mem",
    "jepa": "ecg_jepa",
    "supervised": "small/supervised",
}
SMALL = {name: f"small/{name}" for name in PUBLISHED if name != "cpc_fast"}
#: Records and epochs of the paper that CPC is of, and the records of PTB-XL's folds 1 to 8.
PAPER_RECORDS, PAPER_EPOCHS, PTBXL_RECORDS = 54_574, 1000, 17_418
PARTS = ("matrix", "lstm", "right", "feed", "train", "compile")
#: What of the time may go to each part.
SHARES = {"matrix": 0.03, "lstm": 0.05, "right": 0.2, "feed": 0.07, "train": 0.45, "compile": 0.2}
#: What is compiled, and how. The compiler alone takes up to a minute, and can't be hurried.
COMPILED = (("cpc_s4", "compile"), ("cpc_s4", "cuda_graphs"), ("simclr", "compile"))
#: What is left of the time when a part of a method, and when the compiler, may begin at the latest.
LEAST_S, LEAST_TO_COMPILE_S = 4.0, 40.0


class Tolerance(NamedTuple):
    """How far a loss and the length of its gradient may be from the processor's: relative, of a loss of 1 or more."""

    loss: float
    gradient_norm: float


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3),
    "tf32": Tolerance(1e-2, 5e-2),
    "float16": Tolerance(1e-2, 5e-2),  # as long a mantissa as TF32's
    "bfloat16": Tolerance(3e-2, 1.5e-1),
}


HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
#: Below 6e-8 float16 has nothing: a loss is multiplied before its gradient is taken, and the gradient divided.
LOSS_SCALE = 64.0


class Sizes(NamedTuple):
    """What is measured on: all of it much smaller where only the script itself is tried."""

    recipes: dict[str, str]
    overrides: tuple[str, ...]
    of_xresnets: tuple[str, ...]
    n_records: int
    n_long: int
    matrix_side: int
    n_compared: int
    lstm_width: int
    lstm_batches: tuple[int, ...]
    lstm_samples: int


FULL = Sizes(PUBLISHED, (), (), 5120, 320, 8192, 16, 512, (32, 256), 1000)
_SHORT = ("pretrain.batch_size=4", "pretrain.window_samples=250")
TRIED = Sizes(SMALL, _SHORT, ("pretrain.backbone.depths=[1, 1]",), 64, 24, 256, 4, 32, (4,), 50)


# --- the clock ------------------------------------------------------------------------------------------------


class Budget:
    """How much time is left, of all and of the part that is under way."""

    def __init__(self, seconds: float) -> None:
        self._all_s, self._ends_s = seconds, time.perf_counter() + seconds

    def of(self, part: str) -> float:
        """Seconds for ``part``, which gets no more than what is left."""
        return max(0.0, min(SHARES[part] * self._all_s, self._ends_s - time.perf_counter()))


def per_s(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """How often a second ``run`` is done, the first time left out."""
    run()
    _finish(device)
    n, chunk, began_s = 0, 1, time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        for _ in range(chunk):
            run()
        _finish(device)
        n += chunk
        chunk = min(2 * chunk, 32)
    return n / elapsed_s


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# --- the machine ----------------------------------------------------------------------------------------------


def matrix(sizes: Sizes, device: torch.device, seconds: float) -> dict[str, float]:
    """Multiplications and additions a second of a large product, by how its factors are taken."""
    side, found = sizes.matrix_side, {}
    before = torch.get_float32_matmul_precision()
    kinds = [("bfloat16", torch.bfloat16, "high"), ("float32", torch.float32, "highest")]
    if device.type == "cuda":  # a processor has no TF32
        kinds.insert(1, ("tf32", torch.float32, "high"))
    for name, dtype, how in kinds:
        torch.set_float32_matmul_precision(how)
        one = torch.randn(side, side, device=device).to(dtype)
        into = torch.empty_like(one)
        found[name] = (
            2.0 * side**3 * per_s(lambda one=one, into=into: torch.mm(one, one, out=into), device, seconds / 3)
        )
    torch.set_float32_matmul_precision(before)
    return found


def lstm(sizes: Sizes, device: torch.device, seconds: float) -> dict[str, Any]:
    """Types inside an LSTM under bfloat16, as torch has it and as CPC's network has it; milliseconds of its step."""
    width = sizes.lstm_width
    settings = cpc_lstm.Settings.model_validate({"encoder": {"width": width}, "lstm_width": width})
    network = cpc_lstm.build(settings, len(LEADS_12)).to(device)
    seen: dict[str, str] = {}

    def look(_: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Any]) -> None:
        seen.update(given=str(inputs[0].dtype), gave=str(outputs[0].dtype))

    x_bsd = torch.randn(2, 20, width, device=device, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        handle = network.lstm.register_forward_hook(look)
        network.context(x_bsd)
        handle.remove()
        by_torch = network.lstm(x_bsd)[0].dtype
    found: dict[str, Any] = {"of_cpc": {name: its.removeprefix("torch.") for name, its in seen.items()}}
    found["left_to_autocast"] = str(by_torch).removeprefix("torch.")
    found["step_ms"] = {}
    ways = ("float32", "float16") if device.type == "cuda" else ("float32",)
    each_s = seconds / (len(ways) * len(sizes.lstm_batches))
    for name in ways:
        for n in sizes.lstm_batches:
            x_bsd = torch.randn(n, sizes.lstm_samples, width, device=device, requires_grad=True)

            def both_ways(x_bsd: Tensor = x_bsd, halves: bool = name == "float16") -> None:
                with torch.autocast(device.type, torch.float16, enabled=halves):
                    contexts_bsd = network.context(x_bsd)
                contexts_bsd.sum().backward()

            with tensor_float(device):
                found["step_ms"][f"{name}, {n} x {sizes.lstm_samples}"] = 1000 / per_s(both_ways, device, each_s)
    return found


# --- right or wrong -------------------------------------------------------------------------------------------


def right(run: RunConfig, n_windows: int, device: torch.device) -> dict[str, Any]:
    """Views, loss and gradient of ``run``'s first windows there, against this processor's in float64."""
    run = _without_dropout(run)
    cpu = torch.device("cpu")
    here, there = prepare(run, cpu), prepare(run, device)
    batch_of = {of.type: _batch(run, made, n_windows, of) for of, made in ((cpu, here), (device, there))}
    views = here.make_views(batch_of["cpu"], False)
    found: dict[str, Any] = {"windows": n_windows}
    found["views_apart"] = _apart(views, there.make_views(batch_of[device.type], False))
    expected = _step(here.objective.double(), _as(views, cpu, torch.float64), cpu, "float64")
    views = _as(views, device, torch.float32)
    found["of"] = {}
    before = {name: value.clone() for name, value in there.objective.to(device).state_dict().items()}
    for how in ("float32", *(("tf32", "float16") if device.type == "cuda" else ()), "bfloat16"):
        there.objective.load_state_dict(before)  # BatchNorm has remembered something
        compared = _compared(_step(there.objective, views, device, how), expected, TOLERANCES[how])
        is_used = how not in HALVES or pretrain_of(run).precision == how
        found["of"][how] = compared if is_used else {**compared, "right": None}
    found["loss"] = expected.loss
    return found


class Stepped(NamedTuple):
    """What one step came to: its loss, and all gradients one behind the other, in float64 on the processor."""

    loss: float
    gradient: Tensor


def _step(objective: Objective, views: Any, device: torch.device, how: str) -> Stepped:
    objective.train().zero_grad(set_to_none=True)
    convolves, before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = how == "tf32"
    torch.set_float32_matmul_precision("high" if how == "tf32" else "highest")
    try:
        with torch.autocast(device.type, HALVES.get(how, torch.bfloat16), enabled=how in HALVES):
            terms = objective(views)
        scale = LOSS_SCALE if how == "float16" else 1.0
        (terms.total * scale).backward()
    finally:
        torch.backends.cudnn.allow_tf32 = convolves
        torch.set_float32_matmul_precision(before)
    parts = [one.grad / scale for one in objective.parameters() if one.grad is not None]
    return Stepped(terms.total.item(), torch.cat([part.detach().flatten().to("cpu", torch.float64) for part in parts]))


def _compared(found: Stepped, expected: Stepped, tolerance: Tolerance) -> dict[str, Any]:
    norm, its = expected.gradient.norm().item(), found.gradient.norm().item()
    loss_off = abs(found.loss - expected.loss) / max(abs(expected.loss), 1.0)
    norm_off = abs(its - norm) / norm
    return {
        "loss": found.loss,
        "loss_off": loss_off,
        "gradient_norm_off": norm_off,
        # Not judged: in half precision directions differ where lengths don't.
        "gradient_off": ((found.gradient - expected.gradient).norm() / norm).item(),
        "tolerance": tolerance._asdict(),
        "right": loss_off <= tolerance.loss and norm_off <= tolerance.gradient_norm,
    }


def _without_dropout(run: RunConfig) -> RunConfig:
    """Dropout draws from the device's own generator: no two kinds of device draw the same."""
    training = pretrain_of(run)
    off = {name: 0.0 for name in ("dropout", "drop_path") if hasattr(training.backbone, name)}
    backbone = training.backbone.model_copy(update=off)
    return run.model_copy(update={"pretrain": training.model_copy(update={"backbone": backbone})})


def _batch(run: RunConfig, made: Any, n_windows: int, device: torch.device) -> Batch:
    feed = open_windows(run, made.parts, made.passport, device)
    plan = batch_plan(feed.records, window_samples=feed.window_samples, seed=run.seed, step=0, batch_size=n_windows)
    return feed.batch(plan)


def _as(made: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """All tensors in ``made`` there, and those of floating point numbers of that type."""
    if isinstance(made, Tensor):
        return made.to(device, dtype if made.is_floating_point() else None)
    if isinstance(made, tuple):
        parts = [_as(part, device, dtype) for part in made]
        return type(made)(*parts) if hasattr(made, "_fields") else tuple(parts)
    return made


def _tensors(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, tuple):
        for part in made:
            yield from _tensors(part)


def _apart(one: Any, other: Any) -> float:
    """The largest difference of two sets of views; infinite where they differ in what is drawn."""
    largest = 0.0
    for its, theirs in zip(_tensors(one), _tensors(other), strict=True):
        theirs = theirs.to(its.device)
        if its.is_floating_point():
            largest = max(largest, (its - theirs).abs().max().item())
        elif not torch.equal(its, theirs):
            return float("inf")
    return largest


# --- stores and recipes ---------------------------------------------------------------------------------------


def store_of(folder: Path, n_records: int, fs_hz: float) -> Path:
    """A store of ``n_records`` of 10 s of random waves, in the folds of PTB-XL, half of them with a statement."""
    rng, n = np.random.default_rng(0), int(10 * fs_hz)
    waves_lt = np.cumsum(rng.standard_normal((len(LEADS_12), 4 * n), dtype=np.float32), axis=1) * np.float32(0.02)
    waves_lt -= waves_lt.mean(axis=1, keepdims=True)

    def records() -> Iterator[Record]:
        for number in range(n_records):
            start = int(rng.integers(3 * n))
            signal_mv_lt = waves_lt[:, start : start + n] + rng.standard_normal((len(LEADS_12), 1), dtype=np.float32)
            code = "NORM" if number % 2 else "IMI"
            yield Record(
                record_id=f"w{number}",
                leads=LEADS_12,
                fs_hz=fs_hz,
                signal_mv_lt=signal_mv_lt,
                patient_id=f"p{number}",
                fold=number % 8 + 1,
                statements=(Statement(code, "scp_ecg", 100.0),),
            )

    out = folder / f"waves-{fs_hz:g}.ecg"
    write_records(
        out, records(), IngestSettings(fs_hz=fs_hz, filters=(), patient_key="public"), workers=os.cpu_count() or 1
    )
    return out


def recipe_of(name: str, sizes: Sizes, stores: dict[float, Path]) -> RunConfig:
    """A shipped recipe on a store that it can be on; nothing is held out and nothing asked."""
    recipe = sizes.recipes[name]
    rate = 250.0 if recipe in ("st_mem", "ecg_jepa") else 100.0
    alone = ("pretrain.validation_folds=[]", "pretrain.keep=last", "pretrain.online_probe=null", "downstream=[]")
    shallow = sizes.of_xresnets if name in ("simclr", "byol", "swav", "supervised") else ()
    made = config.load(recipe, [f"data.store={stores[rate]}", *alone, *sizes.overrides, *shallow])
    return made.model_copy(update={"curves": ()})


def hours(result: dict[str, Any]) -> dict[str, float]:
    """Hours of CPC's published schedule at the rate of the loop: the paper's records, and folds 1 to 8 of PTB-XL."""
    windows_per_s = result["loop"]["windows_per_s"]
    batch = result["batch"][0]
    return {
        name: PAPER_EPOCHS * (n // batch) * batch / windows_per_s / 3600
        for name, n in (("of_the_papers_records", PAPER_RECORDS), ("of_ptbxl_folds_1_to_8", PTBXL_RECORDS))
    }


def trained(run: RunConfig, device: torch.device, seconds: float) -> dict[str, Any]:
    """What ``ecgtrain bench`` finds within about ``seconds``: six parts, and as long again to begin."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return bench(run, device=device, seconds=max(seconds / 9, 0.03))


# --- all of it ------------------------------------------------------------------------------------------------


def measure(
    sizes: Sizes, device: torch.device, methods: Sequence[str], parts: Sequence[str], seconds: float, say: Any
) -> dict[str, Any]:
    """All ``parts`` within about ``seconds``; what fails or finds no time is a line under ``left_out``.

    A minute of a GPU is dear: where this is interrupted, what was found until then is returned.
    """
    began_s = time.perf_counter()
    found: dict[str, Any] = {"benchmark": "gpu", "machine": environment(device), "left_out": {}}
    found |= {"small": sizes is TRIED, "seconds_allowed": seconds, "paper_epochs": PAPER_EPOCHS}

    def attempt(what: str, seconds: float, run: Callable[[], Any], least_s: float = LEAST_S) -> Any:
        if seconds < least_s and sizes is FULL:  # small ones are all tried: that is what they are for
            found["left_out"][what] = "no time was left"
            return None
        say(f"{time.perf_counter() - began_s:5.0f} s  {what}")
        try:
            return run()
        except Exception as error:
            found["left_out"][what] = _one_line(error)
            return None

    try:
        _measure(found, attempt, sizes, device, methods, parts, Budget(seconds), say)
    except KeyboardInterrupt:
        found["left_out"]["the rest"] = "it was interrupted"
    return found | {"seconds": time.perf_counter() - began_s}


def _measure(
    found: dict[str, Any],
    attempt: Callable[..., Any],
    sizes: Sizes,
    device: torch.device,
    methods: Sequence[str],
    parts: Sequence[str],
    budget: Budget,
    say: Any,
) -> None:
    """Put each part into ``found`` as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="ecgtrain-gpu-") as folder, own_torch_generator(device):
        torch.manual_seed(0)
        if "matrix" in parts:
            found["matrix"] = attempt("matrix", LEAST_S, lambda: matrix(sizes, device, budget.of("matrix")))
        if "lstm" in parts:
            found["lstm"] = attempt("lstm", LEAST_S, lambda: lstm(sizes, device, budget.of("lstm")))
        say("         stores")
        rates = {100.0: sizes.n_records, 250.0: sizes.n_long}
        stores = {rate: store_of(Path(folder), n, rate) for rate, n in rates.items()}
        runs = {name: recipe_of(name, sizes, stores) for name in methods}
        if "right" in parts:
            ends_s, found["right"] = time.perf_counter() + budget.of("right"), {}
            for name, run in runs.items():
                left_s = ends_s - time.perf_counter()
                found["right"][name] = attempt(
                    f"right: {name}", left_s, lambda run=run: right(run, sizes.n_compared, device)
                )
        if "feed" in parts:
            opened: Store = open_store(stores[100.0])
            each_s = max(budget.of("feed") / 8, 0.02)
            found["feed"] = attempt(
                "feed", LEAST_S, lambda: feeds.ways(opened, 250, Path(folder), 1, each_s, device.type)
            )
        if "train" in parts:
            ends_s, found["train"] = time.perf_counter() + budget.of("train"), {}
            for number, (name, run) in enumerate(runs.items()):
                its_s = (ends_s - time.perf_counter()) / (len(runs) - number)
                result = attempt(f"train: {name}", its_s, lambda run=run, s=its_s: trained(run, device, s))
                if result is not None and name.startswith("cpc"):
                    result["hours_of_the_paper"] = hours(result)
                found["train"][name] = result
        if "compile" in parts:
            found["compile"] = {}
            for name, how in (one for one in COMPILED if one[0] in runs):
                training = pretrain_of(runs[name]).model_copy(
                    update={"compile": True, "cuda_graphs": how == "cuda_graphs"}
                )
                run = runs[name].model_copy(update={"pretrain": training})
                left_s = budget.of("compile")
                result = attempt(
                    f"compile: {name}, {how}",
                    left_s,
                    lambda run=run, s=left_s / 9: trained(run, device, s),
                    LEAST_TO_COMPILE_S,
                )
                found["compile"].setdefault(name, {})[how] = result and result["step"]["windows_per_s"]


# --- tables ---------------------------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    machine = found["machine"]
    lines = [f"{machine['device']}, {machine['processors']} processors, torch {machine['versions']['torch']}"]
    lines.append(f"{found['seconds']:.0f} s for all of it" + (", at small sizes: no figures" if found["small"] else ""))
    if its := found.get("matrix"):
        rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in its.items())
        lines += ["", f"A large product of matrices, TFLOP/s: {rates}."]
    if its := found.get("lstm"):
        times = ", ".join(f"{name}: {value:.1f}" for name, value in its["step_ms"].items())
        lines += ["", f"An LSTM under bfloat16 is given {its['of_cpc']['given']}, and left to autocast it gives "]
        lines[-1] += f"{its['left_to_autocast']}. Two layers, forward and backward, ms: {times}."
    if its := found.get("feed"):
        lines += ["", "| way of feeding | windows/s | first batch, s |", "|---|---|---|"]
        lines += [f"| {way} | {n:,} | {its['first_batch_s'][way]:.3f} |" for way, n in its["windows_per_s"].items()]
    lines += _train_table(found.get("train") or {}) + _right_table(found.get("right") or {})
    if its := found.get("compile"):
        lines += ["", "| step, windows/s | as it is | compiled | with CUDA graphs |", "|---|---|---|---|"]
        for name, of in its.items():
            plain = ((found.get("train") or {}).get(name) or {}).get("step", {}).get("windows_per_s")
            lines.append(f"| {name} | {_told(plain)} | {_told(of.get('compile'))} | {_told(of.get('cuda_graphs'))} |")
    lines += [""] + [f"Left out: {what}: {why}" for what, why in found["left_out"].items()]
    return "\n".join(lines).rstrip()


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _train_table(train: dict[str, Any]) -> list[str]:
    lines = ["", "| method | windows | views, windows/s | step, windows/s | TFLOP/s | of the matrix rate "]
    lines[-1] += "| loop, windows/s | waiting | memory, GB |"
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, its in train.items():
        if its is None:
            continue
        step, loop, batch = its["step"], its["loop"], its["batch"]
        windows = f"{batch[0]} of {batch[1]} × {batch[2]}"
        lines.append(
            f"| {name}, {its['precision']} | {windows} | {_told(its['views']['windows_per_s'])} "
            f"| {_told(step['windows_per_s'])} | {step['flop_per_s'] / 1e12:.3g} | {step['of_ceiling']:.2f} "
            f"| {_told(loop['windows_per_s'])} | {loop['waiting']:.2%} | {its['peak_memory_bytes'] / 1e9:.1f} |"
        )
    told = [(name, its["hours_of_the_paper"]) for name, its in train.items() if its and "hours_of_the_paper" in its]
    for name, of in told:
        lines += [] if lines[-1].startswith("1,000") else [""]
        lines.append(
            f"1,000 epochs of {name}: {of['of_the_papers_records']:.1f} hours on the paper's records, "
            f"{of['of_ptbxl_folds_1_to_8']:.1f} on folds 1 to 8 of PTB-XL."
        )
    return lines if len(lines) > 3 else []


_VERDICTS = {True: "yes", False: "**no**", None: "not used"}


def _right_table(compared: dict[str, Any]) -> list[str]:
    lines = ["", "| method | precision | views apart | loss off | length of the gradient off | gradient off | right |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, its in compared.items():
        for how, of in (its or {"of": {}})["of"].items():
            limit = of["tolerance"]
            lines.append(
                f"| {name} | {how} | {its['views_apart']:.1e} | {of['loss_off']:.1e} (≤ {limit['loss']:.0e}) "
                f"| {of['gradient_norm_off']:.1e} (≤ {limit['gradient_norm']:.1e}) | {of['gradient_off']:.1e} "
                f"| {_VERDICTS[of['right']]} |"
            )
    return lines if len(lines) > 3 else []


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", default="cuda", show_default=True, help="cuda or cpu.")
@click.option("--small", is_flag=True, help="Small recipes and stores: to see that the script works.")
@click.option("--seconds", default=400.0, show_default=True, help="Time for all of it; with --small 40 will do.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(PUBLISHED)), help="Only these.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these; by default all.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(
    device: str, small: bool, seconds: float, methods: tuple[str, ...], parts: tuple[str, ...], out: Path | None
) -> None:
    """Measure everything on a GPU, and compare each method with the processor."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("no GPU is found here; to see that the script works: --device cpu --small")
    keep_freed_memory()
    sizes = TRIED if small else FULL
    chosen = [name for name in sizes.recipes if not methods or name in methods]
    # A processor takes minutes to compile a network: only where it is asked for.
    wanted = parts or (PARTS if device == "cuda" else PARTS[:-1])
    say = lambda line: click.echo(line, err=True)  # noqa: E731
    found = measure(sizes, torch.device(device), chosen, wanted, seconds, say)
    click.echo(tables(found))
    if out is not None:
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    # Whoever lends a GPU may end this with SIGTERM: that is as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
