"""Looks at the features of logged steps, beside the training rather than in its way, and warns once of a collapse."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ecgtrain.training import diagnostics

log = logging.getLogger(__name__)

#: The split of the line that says how the features of the untrained network lay.
UNTRAINED = "untrained"

#: Writes a line: steps done, split, values.
Write = Callable[[int, str, Mapping[str, float]], None]


class _Line(NamedTuple):
    done: int
    split: str
    values: Mapping[str, float]
    most: int
    found: Future[dict[str, float]]


class Watcher:
    """Adds what :func:`diagnostics.watch` finds to the lines of the log, and says once if it looks like collapse.

    With ``aside``, as on a GPU, features are copied to the host and looked at there by a thread of its own: a
    decomposition on the device would make the host wait for all that was asked of it before. A line is then
    written by a later :meth:`due`. Else everything is done at once.

    ``untrained``: the figures of the untrained network where they are known already, of a run that is resumed.
    """

    def __init__(
        self, write: Write, n_steps: int, warmup_steps: int, untrained: Mapping[str, float], *, aside: bool
    ) -> None:
        self._write, self._n_steps, self._warmup_steps = write, n_steps, warmup_steps
        self._untrained = untrained
        self._thread = ThreadPoolExecutor(1, "ecgtrain-watcher") if aside else None
        self._pending: deque[_Line] = deque()
        self._has_warned = False
        #: The newest figures, to be shown.
        self.newest: Mapping[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def look(self, done: int, split: str, values: Mapping[str, float], features_vbd: Tensor | None) -> None:
        """Look at ``features_vbd``, and write what is found beside ``values``; without features, these alone."""
        most = 0 if features_vbd is None else diagnostics.most_directions(features_vbd)
        self._pending.append(_Line(done, split, values, most, self._find(features_vbd)))
        self.due(everything=self._thread is None)

    def due(self, *, everything: bool) -> None:
        """Write the lines whose features have been looked at, in order; with ``everything``, wait for all of them."""
        while self._pending and (everything or self._pending[0].found.done()):
            self._tell(self._pending.popleft())

    def _find(self, features_vbd: Tensor | None) -> Future[dict[str, float]]:
        if features_vbd is not None and self._thread is not None:
            few = features_vbd.detach()[:, : diagnostics.MOST_WINDOWS]
            on_host = few.to("cpu", non_blocking=True)
            arrived = None
            if few.is_cuda:
                arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
                arrived.record()
            return self._thread.submit(_figures, on_host, arrived)
        found: Future[dict[str, float]] = Future()
        found.set_result({} if features_vbd is None else _figures(features_vbd))
        return found

    def _tell(self, line: _Line) -> None:
        figures = line.found.result()
        if line.split == UNTRAINED:
            self._untrained = figures
            if figures:
                self._write(line.done, UNTRAINED, figures)
            return
        self.newest = figures
        self._write(line.done, line.split, {**line.values, **figures})
        if self._has_warned or not diagnostics.settled(line.done, self._n_steps, self._warmup_steps):
            return
        if (warning := diagnostics.verdict(figures, self._untrained, line.most)) is not None:
            log.warning("step %d: %s", line.done, warning)
            self._has_warned = True


def _figures(features_vbd: Tensor, arrived: Any = None) -> dict[str, float]:
    """What is found, as plain numbers, in one transfer; ``arrived``: when the features are there."""
    if arrived is not None:
        arrived.synchronize()
    found = diagnostics.watch(features_vbd)
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
