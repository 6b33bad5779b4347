"""Hand thousands of forged stores and runs to the commands, and see what becomes of each.

    python benchmarks/hostile.py --stores 5000 --runs 2000 [--seed 0] [--workers 2] [--json FILE]

A store is changed in one to three ways (tests/hostile_stores.py), sealed again or not, and handed to `info`, `verify`,
`verify --deep`, `records`, `scrub-check`, `plot` and `report`; a run (tests/hostile_runs.py) to `evaluate` and
`report`. Each has a process of its own, forked from one that has all packages, with a bounded address space. A command
that takes more processor time than --seconds, or waits for six times as long, counts as a hang. What becomes of each is
told by tests/verdicts.py: refused in one line, or right; anything else is a fault, and is listed with its seed:
`--only store:17` repeats one.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import click  # noqa: E402
import hostile_runs  # noqa: E402
import hostile_stores  # noqa: E402
import verdicts  # noqa: E402
import watched  # noqa: E402

COLUMNS = (verdicts.REFUSED, verdicts.RIGHT, "traceback", "hang", "memory", "outside", "executed", "wrong", "other")
#: Address space of a command beyond what the packages take.
GIB = 1 << 30


class Limits(NamedTuple):
    """Of one command: seconds of processor time until it counts as a hang, and bytes that it may ask for."""

    seconds: float
    memory_bytes: int


class Found(NamedTuple):
    """What became of one: ``kinds`` of changes, the verdict, seconds, and the largest resident memory."""

    what: str
    seed: int
    kinds: tuple[str, ...]
    verdict: str
    seconds: float
    peak_bytes: int


# --- one forged thing in a process of its own ---------------------------------------------------------------------


def forge_and_judge(what: str, seed: int, base: Path, tell: verdicts.Tell) -> tuple[tuple[str, ...], str]:
    """Make the thing of this seed in ``base``, and judge it. Returns the kinds of changes and the verdict."""
    rng = random.Random(f"{what} {seed}")
    goods = sorted((base.parent / what).iterdir())
    good = rng.choice(goods)
    watch = watched.prepared(base)
    root = base / good.name
    shutil.copytree(good, root, symlinks=True)
    made = hostile_stores if what == "store" else hostile_runs
    # Each kind in turn, the same number of times; one in three with others besides.
    kinds = [list(made.KINDS)[seed % len(made.KINDS)]]
    kinds += rng.choices(list(made.KINDS), k=rng.choice([0, 0, 0, 0, 1, 2]))
    is_sealed = rng.random() < 0.7
    tell(", ".join([*kinds, *["sealed again"] * is_sealed]))
    for kind in kinds:
        made.change(root, kind, rng)
    if is_sealed:
        made.reseal(root)
    if what == "store":
        is_changed = not is_sealed and not hostile_stores.is_as_before(root, good)
        return tuple(kinds), verdicts.judge_store(root, watch, is_changed=is_changed, tell=tell)
    store = base.parent / "judged_on.ecg"
    return tuple(kinds), verdicts.judge_run(root, watch, store, good=good, is_sealed=is_sealed, tell=tell)


def attempt(what: str, seed: int, work: Path, bounds: Limits) -> Found:
    """Judge the thing of this seed in a forked process that may die."""
    base = Path(tempfile.mkdtemp(prefix=f"{what}-{seed}-", dir=work))
    read, write = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _child(what, seed, base, write, bounds)
        finally:
            os._exit(97)
    os.close(write)
    said = _listen(pid, read, bounds.seconds)
    _, _, usage = os.wait4(pid, 0)
    noise = (base.parent / f"{base.name}.said").read_text(errors="backslashreplace")
    _removed(base)
    kinds = tuple(said[0].split(", ")) if said and said[0] != "hang" else ("?",)
    verdict = said[-1] if said and said[-1].startswith("= ") else ""
    if verdict:
        verdict = verdict[2:]
        if noise and verdict in (verdicts.REFUSED, verdicts.RIGHT):
            verdict = f"other output: {noise[:300]}"
    else:
        verdict = f"{'hang' if said[-1:] == ['hang'] else 'memory: it died'}: {' '.join(said[1:][-2:])}: {noise[-300:]}"
    return Found(what, seed, kinds, verdict, time.monotonic() - began, usage.ru_maxrss * 1024)


def _child(what: str, seed: int, base: Path, write: int, bounds: Limits) -> None:
    said = os.open(base.parent / f"{base.name}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(base.parent)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    told = 0

    def tell(word: str) -> None:
        nonlocal told
        os.write(write, f"{word}\n".encode("utf-8", "backslashreplace"))
        # What forges may take what it likes: the bound holds from the first command on.
        if (told := told + 1) == 2:
            resource.setrlimit(resource.RLIMIT_AS, (used + bounds.memory_bytes,) * 2)

    try:
        _, verdict = forge_and_judge(what, seed, base, tell)
    except Exception as error:
        verdict = (
            f"other: the judge fails: {type(error).__name__}: {error}{watched._place((0, 0, error.__traceback__))}"
        )
    os.write(write, f"= {' '.join(verdict.split())}\n".encode("utf-8", "backslashreplace"))
    os._exit(0)


def _listen(pid: int, read: int, seconds: float) -> list[str]:
    """What the child tells; where nothing is told for so long, it is killed, and the last word is "hang"."""
    content, cpu_s, last_cpu_s, idle_since = b"", 0.0, 0.0, time.monotonic()
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            if select.select([pipe], [], [], 0.5)[0]:
                part = pipe.read(1 << 16)
                if not part:
                    return content.decode().splitlines()
                content, cpu_s, idle_since = content + part, _cpu_s(pid), time.monotonic()
                last_cpu_s = cpu_s
                continue
            # A machine that is busy with others gives it no time: only what it took counts, or that it waits for ever.
            now_s = _cpu_s(pid)
            if now_s > last_cpu_s:
                last_cpu_s, idle_since = now_s, time.monotonic()
            if now_s - cpu_s > seconds or time.monotonic() - idle_since > 6 * seconds:
                os.kill(pid, signal.SIGKILL)
                return [*content.decode().splitlines(), "hang"]


def _cpu_s(pid: int) -> float:
    """Processor time of a process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _removed(base: Path) -> None:
    shutil.rmtree(os.fsencode(base), ignore_errors=True)
    (base.parent / f"{base.name}.said").unlink(missing_ok=True)


# --- all of them --------------------------------------------------------------------------------------------------


def warm() -> None:
    """Import what the commands would import each time."""
    import matplotlib.backends.backend_svg
    import sklearn.linear_model
    import torch

    import ecgtrain.evaluation.protocols.linear_probe
    import ecgtrain.reporting.page
    import ecgtrain.run  # noqa: F401

    torch.set_num_threads(1)
    assert matplotlib.backends.backend_svg
    assert sklearn.linear_model


def all_of(counts: dict[str, int], seed: int, work: Path, workers: int, bounds: Limits, ends: float) -> Iterator[Found]:
    """Judge so many of each, in turn, but begin none after ``ends``; in the order in which they end."""
    # Stores and runs at the same pace, so that both are there where time is short.
    jobs = sorted((k / n, what, seed + k) for what, n in counts.items() for k in range(n))
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        at_work: set[Future[Found]] = set()
        for _, what, one in jobs:
            if time.monotonic() > ends:
                break
            at_work.add(pool.submit(attempt, what, one, work, bounds))
            if len(at_work) > workers:
                done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in at_work)


def column_of(verdict: str) -> str:
    """The column of the table that a verdict belongs to."""
    if verdict in COLUMNS:
        return verdict
    # "wrong: …", or the name of the command before it: "info: traceback: …".
    return next((word for word in verdict.split(": ")[:2] if word in COLUMNS), "other")


def table(found: list[Found], what: str) -> list[str]:
    """One line for each kind of change; a thing that was changed in several ways counts for the first."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        if one.what == what:
            rows[one.kinds[0]][column_of(one.verdict)] += 1
            rows["all"][column_of(one.verdict)] += 1
    kinds = [*(kind for kind in rows if kind != "all"), "all"]
    lines = [f"| {what} | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    return lines + [f"| {kind} | " + " | ".join(str(rows[kind][name]) for name in COLUMNS) + " |" for kind in kinds]


@click.command()
@click.option("--stores", default=5000, show_default=True, help="Forged stores.")
@click.option("--runs", default=2000, show_default=True, help="Forged runs.")
@click.option("--seed", default=0, show_default=True, help="Of the first; each has the next.")
@click.option("--workers", default=2, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Of processor time until a command counts as a hang.")
@click.option("--gib", default=3.0, show_default=True, help="Address space of a command besides the packages.")
@click.option("--minutes", type=float, help="Begin none after so long, and say what there is.")
@click.option("--only", metavar="WHAT:SEED", help="Judge this one alone, such as store:17.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every verdict into this file.")
def main(
    stores: int,
    runs: int,
    seed: int,
    workers: int,
    seconds: float,
    gib: float,
    minutes: float | None,
    only: str | None,
    json_file: Path | None,
) -> None:
    """Print what became of each kind of change, and every fault."""
    warm()
    counts = {"store": stores, "run": runs}
    if only is not None:
        counts = {only.partition(":")[0]: 1}
        seed = int(only.partition(":")[2])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        work, bounds = Path(folder), Limits(seconds, int(gib * GIB))
        # In a process of its own: the one that all are forked from has started no threads.
        made = get_context("fork").Process(target=hostile_runs.make_goods, args=(work, bool(counts.get("run"))))
        made.start()
        made.join()
        assert made.exitcode == 0
        found = []
        ends = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        for one in all_of(counts, seed, work, workers, bounds, ends):
            found.append(one)
            if column_of(one.verdict) not in COLUMNS[:2] or only:
                print(f"{one.what}:{one.seed} ({', '.join(one.kinds)}): {one.verdict}", flush=True)
            if len(found) % 500 == 0:
                print(f"{len(found)} of {sum(counts.values())}", file=sys.stderr, flush=True)
    found.sort(key=lambda one: (one.what, one.seed))
    answer: dict[str, Any] = {"seed": seed, "seconds": round(sum(one.seconds for one in found), 1)}
    for what in counts:
        its = [one for one in found if one.what == what]
        if its:
            print("\n".join(["", *table(found, what)]))
            answer[what] = dict(Counter(column_of(one.verdict) for one in its))
            answer[f"{what}_peak_mb"] = round(max(one.peak_bytes for one in its) / 1e6)
            answer[f"{what}_slowest_s"] = round(max(one.seconds for one in its), 1)
    if json_file is not None:
        json_file.write_text(json.dumps([one._asdict() for one in found], indent=1))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
