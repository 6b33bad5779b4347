"""The verb that brings data from elsewhere: fetch."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgstore.cli.printing import AS_JSON, EXIT_REJECTED, plain_errors, progress_bars, say, say_json

if TYPE_CHECKING:
    pass

#: What `ecgstore fetch --dry-run --json` says of the plan, besides the number of files.
FETCH_PLAN = ("url", "dest", "version", "n_records", "n_here", "about_bytes", "free_bytes")


def _list_open_sets(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from ecgstore.fetching.fetch import open_sets

    for name, one in open_sets().items():
        size = f"about {one.about_bytes / 1e9:.2f} GB" if one.about_bytes else "size not stated"
        say(f"{name:<20} {one.title} {one.version}; {one.records or '?'} records, {size}; {one.licence}")
    context.exit()


@click.command(short_help="Download an open set, verified")
@click.argument("name")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_open_sets,
    help="List the sets that can be fetched by name, with licence and size.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Only files whose path fits, such as 'records500/*'. Tables and terms of use always come along.",
)
@click.option(
    "--max-records", type=click.IntRange(1), metavar="N", help="At most so many records, spread over the set."
)
@click.option("--version", metavar="VERSION", help="Another version of a named set than the stated one.")
@click.option("--base-url", metavar="URL", help="A mirror, in the place of https://physionet.org/files/.")
@click.option("--workers", type=click.IntRange(1, 8), default=2, show_default=True, help="Connections at once.")
@click.option("--recheck", is_flag=True, help="Read files again that were verified before, and repair them.")
@click.option("--dry-run", is_flag=True, help="Say licence, number of files and size, and fetch nothing.")
@AS_JSON
@plain_errors
def fetch(name: str, dest: Path, workers: int, recheck: bool, dry_run: bool, as_json: bool, **which: Any) -> None:
    """Bring an open set of ECGs into the folder DEST, verified file by file.

    NAME is one of --list, or the address of a folder with a SHA256SUMS.txt. Interrupted at any moment, the same
    command goes on where it stopped.
    """
    from ecgstore.fetching import fetch as fetching

    which["only"] = which["only"] or None
    if dry_run:
        plan = fetching.plan_fetch(name, dest, **which)
        if as_json:
            say_json({field: getattr(plan, field) for field in FETCH_PLAN} | {"files": len(plan.files)})
        else:
            say(_fetch_words(plan))
        return
    with progress_bars({"fetch": "fetching"}) as progress:
        report = fetching.fetch(
            name,
            dest,
            **which,
            workers=workers,
            recheck=recheck,
            announce=lambda plan: say(_fetch_words(plan), err=True),
            progress=lambda done, total, _: progress("fetch", done, total),
        )
    for path, why in report.failed.items():
        say(f"error: {path}: {why}", err=True)
    if as_json:
        say_json(dataclasses.asdict(report))
    else:
        say(
            f"{dest}: {report.fetched} files fetched ({report.bytes_fetched / 1e6:.1f} MB in {report.seconds:.0f} s), "
            f"{report.kept} were there; next: ecgstore ingest {dest} {dest.name}.ecg"
        )
    if not report.ok:
        say(f"error: {len(report.failed)} files are missing; run the same command again", err=True)
        sys.exit(EXIT_REJECTED)


def _fetch_words(plan: Any) -> str:
    terms = plan.terms
    what = plan.url if terms is None else f"{terms.title} {plan.version}, {terms.licence}, doi:{terms.doi}"
    size = f"about {plan.about_bytes / 1e9:.2f} GB" if plan.about_bytes else "size not known"
    hint = "" if terms is None or not terms.hint else f"; {terms.hint}"
    return f"{what}: {len(plan.files)} files ({plan.n_here} here), {size}, {plan.free_bytes / 1e9:.0f} GB free{hint}"


VERBS = (fetch,)
