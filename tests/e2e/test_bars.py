"""What is drawn on a terminal while bytes are on their way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecgstore import open_store


def on_a_terminal(*words: object) -> tuple[int, str]:
    """Exit status, and all that a command draws on stderr where that is a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", "from ecgstore.cli import main; main()", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        drawn = bytearray()
        try:
            while some := os.read(ours, 1 << 16):
                drawn += some
        except OSError:  # nobody has the other end any more
            pass
        os.close(ours)
    return process.returncode, drawn.decode(errors="replace")


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)], ids=["push", "all"])
def test_push_pull_and_withdrawal_show_bytes_rate_and_time_left(mini_store: Path, tmp_path: Path, n: int) -> None:
    share, patient = tmp_path / "share", open_store(mini_store).column("patient_key")[0]
    each = (
        (("push", mini_store, f"{share}@v1"), "pushing"),
        (("pull", f"{share}@v1", tmp_path / "pulled.ecg"), "pulling"),
        (("withdraw", mini_store, tmp_path / "v2.ecg", "--patient", patient, "--push", f"{share}@v2"), "pushing"),
    )
    for words, label in each[:n]:
        status, drawn = on_a_terminal(*words)
        assert status == 0, drawn
        assert label in drawn
        assert "MB" in drawn or "kB" in drawn
        assert "error" not in drawn
