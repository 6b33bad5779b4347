"""Being told to stop: by a signal, or by the clock of a batch system."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ecgstore import ConfigError

#: What batch systems send before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: Share of a time limit that is kept for the last checkpoint, and the most that is.
_MARGIN, _LONGEST_MARGIN_S = 0.02, 300.0

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "": 1.0}


def seconds(text: str) -> float:
    """Read a length of time: ``3h``, ``90m``, ``1h30m``, ``5400s``, ``5400`` or SLURM's ``1-12:00:00``.

    Raises ConfigError for anything else.
    """
    if slurm := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip()):
        days, hours, minutes, rest = (int(part or 0) for part in slurm.groups())
        return 86400.0 * days + 3600 * hours + 60 * minutes + rest
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s|)", text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        raise ConfigError("this is not a length of time", got=repr(text), expected="such as 3h, 90m or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


@contextmanager
def told_to_stop(time_limit_s: float | None = None) -> Iterator[Callable[[], str | None]]:
    """Inside, SIGTERM and SIGUSR1 don't end the process; the function that is given says why to stop, or None.

    A reason is there from a signal on, and shortly before ``time_limit_s`` from now: a fiftieth of it, but five
    minutes at most, is left for a checkpoint. A second signal of the same kind does what it would do without.
    """
    began_s = time.monotonic()
    margin_s = 0.0 if time_limit_s is None else min(_MARGIN * time_limit_s, _LONGEST_MARGIN_S)
    heard: list[str] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(f"it was sent {signal.Signals(number).name}")
        signal.signal(number, before[signal.Signals(number)])

    def reason() -> str | None:
        if heard:
            return heard[0]
        if time_limit_s is not None and time.monotonic() - began_s > time_limit_s - margin_s:
            return f"its {time_limit_s:.0f} s are almost over"
        return None

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield reason
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
