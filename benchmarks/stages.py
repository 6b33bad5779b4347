"""Where the processor time of an ingest goes: microseconds per record and stage, in one thread.

    python benchmarks/stages.py --source FOLDER [--rounds N] [--json]

Each stage is the time spent in its functions less that of the stages within them; `rest` is what is in none. Of the
rounds, each a whole ingest in this process, the least counts for every stage: others may use the machine, too. `first`
is what the first round took beyond that: imports, and tables that are made once.
"""

from __future__ import annotations

import functools
import importlib
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ecgstore import IngestSettings, ingest_folder

MINI = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini"

#: Stage → the functions that are it, as module:name.
STAGES = {
    "list": ["ecgstore.build.planning:list_source"],
    "headers": ["ecgstore.build.scan:_read"],
    "plan": ["ecgstore.build.ingest:plan", "ecgstore.build.ingest:task_sha256"],
    "read and verify": ["ecgstore.build.pipeline:read"],
    "leads by name": ["ecgstore.build.pipeline:harmonise_all"],
    "condition": ["ecgstore.build.pipeline:condition"],
    "round to counts": ["ecgstore.build.pipeline:quantise"],
    "quality": ["ecgstore.build.describe:judge"],
    "sums": ["ecgstore.build.describe:tally"],
    "signature": ["ecgstore.signals.quality:signatures"],
    "crc of counts": ["ecgstore.storage.layout:crc32_of_counts"],
    "describe": ["ecgstore.build.describe:describe_all"],
    "shard": ["ecgstore.build.shards:write_counts"],
    "table of a task": ["ecgstore.build.describe:to_table", "ecgstore.build.commits:write"],
    "seal": ["ecgstore.build.ingest:seal_ingested"],
}


class Clock:
    """Processor time by stage, each without the stages within it."""

    def __init__(self) -> None:
        self.spent_s: Counter[str] = Counter()
        self._within_s = [0.0]

    def watch(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            self._within_s.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - began
                self.spent_s[stage] += took - self._within_s.pop()
                self._within_s[-1] += took

        return watched


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--source", type=click.Path(path_type=Path, exists=True), default=MINI, help="WFDB folder.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(source: Path, rounds: int, as_json: bool) -> None:
    """Ingest several times and take the least of each stage."""
    clock = Clock()
    for stage, places in STAGES.items():
        for place in places:
            module_name, _, name = place.partition(":")
            module = importlib.import_module(module_name)
            setattr(module, name, clock.watch(stage, getattr(module, name)))
    found: list[Counter[str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            clock.spent_s.clear()
            began = time.process_time()
            report = ingest_folder(source, Path(scratch, "out.ecg"), IngestSettings(), overwrite=True)
            whole_s = time.process_time() - began
            found.append(clock.spent_s + Counter({"rest": whole_s - sum(clock.spent_s.values())}))
    us = 1e6 / report.records
    least = {stage: min(one[stage] for one in found) * us for stage in (*STAGES, "rest")}
    whole_s = [sum(one.values()) for one in found]
    figures = {
        "us_per_record": {stage: round(value, 1) for stage, value in least.items()},
        "sum_of_least_us": round(sum(least.values()), 1),
        "least_round_us": round(min(whole_s) * us, 1),
        "first_s": round(whole_s[0] - min(whole_s), 3),
    }
    for stage, value in least.items():
        click.echo(f"{stage:<18} {value:8.1f} µs per record")
    click.echo(
        f"{'all':<18} {figures['least_round_us']:8.1f} in the least round, {figures['first_s']} s more in the first"
    )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "benchmark": "stages",
                    "machine": {"system": platform.platform(), "python": platform.python_version()},
                    "shapes": {"records": report.records, "rounds": rounds},
                    **figures,
                }
            )
        )


if __name__ == "__main__":
    main()
