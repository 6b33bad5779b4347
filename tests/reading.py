"""What is said at the end of a test run in which something failed: where to read, and what to run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: In the folder that pytest keeps anyway; each run writes it anew.
LOG = "failures.txt"


def say_how_to_read(terminal: Any, folder: Path) -> None:
    """Write all failures into one file, and say where it is and how to run one of them again."""
    reports = [*terminal.stats.get("failed", []), *terminal.stats.get("error", [])]
    if not reports:
        return
    log = folder / LOG
    folder.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(f"{report.nodeid}\n{_text(report)}\n" for report in reports), encoding="utf-8")
    one = reports[0].nodeid
    terminal.section("how to read this")
    terminal.write_line(f"all failures, with what the tests and the code said:  {log}")
    terminal.write_line(
        f"one of them again, in this process, with every value:  .venv/bin/python -m pytest -n 0 -vv '{one}'"
    )
    terminal.write_line(
        "all of them again:                                     .venv/bin/python -m pytest -n 0 --last-failed"
    )
    terminal.write_line(
        "A line that begins with E says what was expected and what came. A test that names a golden value fails"
    )
    terminal.write_line(
        "where numbers changed: on purpose, say so in the changelog; else look at what you changed last."
    )


def _text(report: Any) -> str:
    sections = (f"--- {title} ---\n{content}" for title, content in report.sections)
    return "\n".join([report.longreprtext, *sections])
