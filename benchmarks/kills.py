"""Kill an ingest at random moments, again and again, and see whether the store comes out the same.

    python benchmarks/kills.py [--source FOLDER] [--kills N] [--way threads|processes|parts] [--seed N] [--json]

Each line is one attempt: when SIGKILL hit the whole process group, how many commits stood there then. A store
that was sealed is compared with the undisturbed one (fingerprint, and every byte of it by ``verify --deep``) and
begun anew, until all kills are spent.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.build.planning import list_source

MINI = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini"
COPIES = 30


def many(folder: Path) -> Path:
    """The bundled records under many names, so that there is time to kill."""
    records = list_source(MINI, None)[2].records
    for copy in range(COPIES):
        (folder / str(copy)).mkdir(parents=True)
        for ref in records:
            for suffix in (".hea", ".dat"):
                os.link(ref.path.with_suffix(suffix), folder / str(copy) / f"{ref.path.name}{suffix}")
    return folder


def attempt(source: Path, out: Path, way: str, delay_s: float) -> bool:
    """Run one ingest, and kill it after ``delay_s``; returns whether it was killed before it ended."""
    command = [sys.executable, "-m", "ecgstore", "ingest", str(source), str(out), "--workers", "2", "--resume"]
    commands = {
        "threads": [command],
        "processes": [[*command, "--processes"]],
        "parts": [[*command, "--parts", f"{i}/2"] for i in (1, 2)] + [[*command[:3], "seal", str(out)]],
    }[way]
    ends = time.monotonic() + delay_s
    for one in commands:
        process = subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    return False


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="Default: bundled records, many times.")
@click.option("--kills", type=click.IntRange(1), default=20, show_default=True)
@click.option("--way", type=click.Choice(["threads", "processes", "parts"]), default="threads", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(source: Path | None, kills: int, way: str, seed: int, as_json: bool) -> None:
    """Kill, resume, compare."""
    draw = random.Random(seed)
    scratch = Path(tempfile.mkdtemp(dir=None if source is None else source.parent))
    try:
        # Hard links don't cross file systems.
        source = source or many(Path(tempfile.mkdtemp(dir=MINI.parents[2])) / "src")
        undisturbed = ingest_folder(source, scratch / "undisturbed.ecg", IngestSettings(), workers=2)
        began = time.monotonic()
        attempt(source, scratch / "timed.ecg", way, 600)
        whole_s = time.monotonic() - began
        click.echo(f"undisturbed: {undisturbed.records} records, {whole_s:.1f} s, {undisturbed.fingerprint[:16]}…")
        out, done, compared = scratch / "killed.ecg", 0, 0
        while done < kills:
            delay_s = draw.uniform(0.2, 1.1) * whole_s
            killed = attempt(source, out, way, delay_s)
            done += killed
            commits = len(list(out.glob("commits/*.arrow")))
            is_sealed = (out / "manifest.json").exists()
            click.echo(
                f"{'kill ' + str(done) if killed else 'ended':<8} after {delay_s:5.2f} s: {commits:3d} of "
                f"{undisturbed.n_shards} commits{', sealed' if is_sealed else ''}"
            )
            if is_sealed:
                compared += 1
                _compare(out, undisturbed.fingerprint)
                shutil.rmtree(out)
        attempt(source, out, way, 600)
        _compare(out, undisturbed.fingerprint)
        click.echo(f"{done} kills; {compared + 1} finished stores, each with the fingerprint of the undisturbed one")
        if as_json:
            click.echo(json.dumps({"benchmark": "kills", "way": way, "kills": done, "compared": compared + 1}))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if source is not None and source.parent.parent == MINI.parents[2]:
            shutil.rmtree(source.parent, ignore_errors=True)


def _compare(out: Path, fingerprint: str) -> None:
    store = open_store(out)
    problems = store.verify(deep=True)
    if store.fingerprint != fingerprint or problems:
        raise click.ClickException(f"{out} came out otherwise: {store.fingerprint} {problems[:3]}")


if __name__ == "__main__":
    main()
