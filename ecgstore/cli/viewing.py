"""The verb that shows a store in the browser: view."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from ecgstore.cli.printing import STORE, plain_errors, say


@click.command(short_help="Look at ECGs in the browser")
@STORE
@click.option("--raw", metavar="STORE", help="A store of the same records without filters, drawn beneath them.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What a model says, as `ecgtrain predict` writes it: shown beside the statements.",
)
@click.option(
    "--notes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where your notes are kept. Default: STORE.notes.parquet; of an address, in this folder.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Default: any that is free.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser.")
@plain_errors
def view(store: str, raw: str | None, predictions: Path | None, notes: Path | None, port: int, browser: bool) -> None:
    """Show a store in the browser: a list to filter, each record on ECG paper, calipers, notes.

    The page is served to this machine alone, under an address that holds a secret. Ctrl-C ends it.
    """
    from ecgstore.look.view.view import open_view

    shown = open_view(store, raw=raw, predictions=predictions, notes=notes)
    from ecgstore.look.view.server import Serving

    serving = Serving(shown, port)
    say(serving.address)
    if browser and not _open(serving.address):
        say("no browser can be started here: open that address yourself", err=True)
    say("Ctrl-C ends it; notes are kept in", shown.notes.path, err=True)
    with contextlib.suppress(KeyboardInterrupt):
        serving.run()


def _open(address: str) -> bool:
    """Whether a browser was told the address; one in a terminal would take the terminal."""
    import webbrowser

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False


VERBS = (view,)
