from __future__ import annotations

import os
import signal

import pytest

from ecgstore import ConfigError
from ecgtrain.training.stopping import SIGNALS, seconds, told_to_stop


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3h", 10800),
        ("90m", 5400),
        ("90min", 5400),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2.5h", 9000),
        ("45", 45),
        ("45s", 45),
        ("1d", 86400),
        ("1-12:00:00", 129600),
        ("02:30", 9000),
        ("0:00:20", 20),
    ],
)
def test_lengths_of_time(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "3 hours", "h", "-3h", "3h!", "1:2:3"])
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match="not a length of time"):
        seconds(text)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_heard_and_ends_nothing(number):
    before = signal.getsignal(number)
    with told_to_stop() as reason:
        assert reason() is None
        os.kill(os.getpid(), number)
        assert reason() == f"it was sent {number.name}"
        # The next one would end the process as ever.
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_the_clock_leaves_time_for_a_checkpoint(monkeypatch):
    from ecgtrain.training import stopping

    now = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with told_to_stop(1000.0) as reason, told_to_stop(100_000.0) as later:
        now[0] += 979
        assert reason() is None
        now[0] += 2
        assert reason() == "its 1000 s are almost over"
        now[0] = 1000 + 100_000 - 301
        assert later() is None
        now[0] += 2
        assert later() is not None
