"""What a run writes down while it trains, how it is read again, and how fast it goes."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ecgtrain import distributed
from ecgtrain.errors import CheckpointError
from ecgtrain.methods import LossTerms
from ecgtrain.training.files import read_plain, write_text
from ecgtrain.training.layout import METRICS
from ecgtrain.training.trackers import Tracked, Trackers

log = logging.getLogger(__name__)

_WHEN = ("step", "split")
#: A million lines, and no line, step or file beyond what a training writes.
MAX_METRICS_BYTES, _MOST_OF_A_LINE, _MOST_STEPS = 500_000_000, 100_000, 2**53
#: Not a part of the loss, and read together with it: whether any rank was told to stop.
STOP = "stop"


class Line(NamedTuple):
    """A line of ``metrics.jsonl``: what was measured after ``step`` steps on ``split``."""

    step: int
    split: str
    values: Mapping[str, float]

    def text(self) -> str:
        """As it stands in the file."""
        return json.dumps({"step": self.step, "split": self.split, **self.values}) + "\n"


def read_metrics(run_dir: Path) -> list[Line]:
    """The lines of a run's ``metrics.jsonl``; none where there is no such file.

    A last line that is torn is left out, as a run that was killed can leave it. Raises CheckpointError for any other
    that can't be understood, and for a file that no training writes.
    """
    path = run_dir / METRICS
    lines: list[Line] = []
    try:
        texts = read_plain(path, MAX_METRICS_BYTES).decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return lines
    except OSError as error:
        raise CheckpointError("the log of the run can't be read", where=path, got=error.strerror) from error
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(_line(text))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            if number < len(texts):
                raise CheckpointError(
                    "the log of the run can't be understood",
                    where=f"{path}, line {number}",
                    got=text[:80],
                    fix="remove that line",
                ) from error
            log.warning("%s ends at line %d, which is torn", path, number)
    return lines


def _line(text: str) -> Line:
    """Raises one of several errors where ``text`` is no such line."""
    if len(text) > _MOST_OF_A_LINE:
        raise ValueError
    content = json.loads(text)
    values = {name: math.nan if value is None else float(value) for name, value in content.items() if name not in _WHEN}
    if type(content["step"]) is not int or type(content["split"]) is not str:
        raise TypeError
    if not 0 <= content["step"] < _MOST_STEPS or (content["split"] == "train" and "windows_per_s" not in values):
        raise ValueError
    return Line(content["step"], content["split"], values)


def train_seconds(lines: Sequence[Line], batch_size: int) -> float:
    """Seconds of training, summed over the log: right also for a run that was killed and resumed."""
    seconds, before = 0.0, 0
    for line in lines:
        if line.split == "train":
            seconds += (line.step - before) * batch_size / max(line.values["windows_per_s"], 1e-9)
            before = line.step
    return seconds


class Metrics:
    """``metrics.jsonl``, one line per event, and the ``trackers`` beside it (:mod:`ecgtrain.training.trackers`).

    Lines after the run's ``first_step`` are dropped: a resumed run writes them again. Unless it ``writes``, as only one
    rank does, nothing happens.

    ``before``: of each split, the values of the first line that was there already.
    """

    def __init__(self, run: Tracked, trackers: Sequence[str] = (), *, writes: bool = True) -> None:
        self._file: Any = None
        self.before: dict[str, Mapping[str, float]] = {}
        if not writes:
            return
        run_dir, first_step = run.run_dir, run.first_step
        kept = [line for line in read_metrics(run_dir) if first_step and line.step <= first_step]
        for line in kept:
            self.before.setdefault(line.split, line.values)
        write_text(run_dir / METRICS, "".join(line.text() for line in kept))
        self._file = (run_dir / METRICS).open("a", encoding="utf-8")
        self._trackers = Trackers(trackers, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._trackers.close(kind is None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write one line: what was measured after ``step`` steps on ``split``."""
        if self._file is None:
            return
        rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
        self._file.write(Line(step, split, rounded).text())
        self._file.flush()
        self._trackers.write(step, split, values)


class Clock:
    """Since the last reset: mean loss, windows per second, share of time spent waiting for data."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        self._began_s = self._ticked_s = time.perf_counter()
        self._waited_s = 0.0
        self._n = 0
        self._sums: dict[str, float] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - began_s

    def pause_over(self) -> None:
        """Leave out what was done since the last tick: it was not training."""
        now_s = time.perf_counter()
        self._began_s += now_s - self._ticked_s
        self._ticked_s = now_s

    def tick(self, values: Mapping[str, float]) -> None:
        self._ticked_s = time.perf_counter()
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


class Reading(NamedTuple):
    """What one step came to. ``own_loss`` is this rank's, ``rows`` its records."""

    step: int
    values: dict[str, float]
    own_loss: float
    rows: list[int]


class Readings:
    """The scalars of the last steps, on their way from the device.

    On a GPU they are read ``lag`` steps late, so that it never waits to be told what to do next. What must not
    wait is decided there: :meth:`hold_back_if_broken`.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, lag: int) -> None:
        self._optimiser, self._lag = optimiser, lag
        self._pending: deque[tuple[int, list[str], Tensor, Any, list[int]]] = deque()
        self._broken: Tensor | None = None

    def put(
        self,
        step: int,
        shares: Sequence[tuple[LossTerms, float]],
        gradient_norm: Tensor,
        stop: bool,
        rows: list[int],
    ) -> None:
        """Take the scalars of a step: those of the loss are averaged over parts and ranks, by their shares."""
        names = ["loss", *shares[0][0].parts]
        scalars = [(share, [terms.total, *terms.parts.values()]) for terms, share in shares]
        own = sum(share * torch.stack([one.detach().float() for one in its]) for share, its in scalars)
        assert isinstance(own, Tensor)
        whole = distributed.total(torch.cat([own, own.new_tensor([float(stop)])]))
        measured = torch.cat([whole, gradient_norm.detach().float().reshape(1), own[:1]])
        self._now = measured[[0, -2]]
        arrived = None
        if measured.is_cuda:
            measured = measured.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._pending.append((step, [*names, STOP, "gradient_norm"], measured, arrived, rows))

    def hold_back_if_broken(self) -> None:
        """Let the optimiser take no step from the first on whose loss or gradient is not finite."""
        broken = (~torch.isfinite(self._now)).any().float()
        self._broken = broken if self._broken is None else torch.maximum(self._broken, broken)
        self._optimiser.found_inf = self._broken  # type: ignore[attr-defined]

    def due(self, *, everything: bool) -> Iterator[Reading]:
        """What should have arrived by now, in order."""
        while len(self._pending) > (0 if everything else self._lag):
            step, names, measured, arrived, rows = self._pending.popleft()
            if arrived is not None:
                arrived.synchronize()
            *values, own_loss = measured.tolist()
            yield Reading(step, dict(zip(names, values, strict=True)), own_loss, rows)
