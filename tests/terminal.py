"""What a command said, without its lines of progress: it adds one every few seconds, so a busy machine shows some."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r"^[a-z ]+: \d+ of \d+\n", re.MULTILINE)


def without_progress(stderr: str) -> str:
    """All other lines."""
    return _PROGRESS.sub("", stderr)
