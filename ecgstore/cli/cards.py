"""The verb that tells of a store: card."""

from __future__ import annotations

from pathlib import Path

import click

from ecgstore.cli.printing import AS_JSON, STORE, plain_errors, say, say_json


@click.command(short_help="Write the card of a store")
@STORE
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.md",
    help="Default: STORE with .card.md behind it; of an address, in this folder.",
)
@click.option(
    "--croissant",
    "croissant_out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Croissant, for search engines and loaders. Default: STORE with .croissant.json behind it.",
)
@click.option(
    "--from",
    "given",
    type=click.Path(path_type=Path),
    metavar="CARD.yaml",
    help="What people know of the store: title, licence, contact, citation and more. Kept beside the store.",
)
@AS_JSON
@plain_errors
def card(store: str, out: Path | None, croissant_out: Path | None, given: Path | None, as_json: bool) -> None:
    """Write what STORE is into a page in Markdown and into a file of Croissant (JSON-LD).

    Title, licence, contact and citation come from --from, or from what was given before, also to `ecgstore ingest
    --card`. The store itself stays as it is.
    """
    from ecgstore.look.card import card as page_of
    from ecgstore.look.croissant import croissant
    from ecgstore.storage.beside import card_of, read_card, write_card
    from ecgstore.storage.outside import refuse_within_store
    from ecgstore.storage.publish import write_bytes
    from ecgstore.storage.store import open_store

    said = None if given is None else read_card(given)
    opened = open_store(store)
    if said is None:
        said = card_of(store)
    elif "://" not in store:
        write_card(store, said)
    beside = Path(store.rstrip("/")).name if "://" in store else store.rstrip("/")
    page, about = out or Path(f"{beside}.card.md"), croissant_out or Path(f"{beside}.croissant.json")
    for path in (page, about):
        refuse_within_store(path)
    write_bytes(page, page_of(opened, said).encode())
    write_bytes(about, croissant(opened, said, _way_to(store, about)).encode())
    if as_json:
        say_json(
            {"card": str(page), "croissant": str(about), "fingerprint": opened.fingerprint, "told": said is not None}
        )
        return
    say(page)
    say(about)
    if said is None:
        say("note: nobody has said what it is called, or under which licence it is: --from CARD.yaml")


def _way_to(store: str, about: Path) -> str:
    """How the store is reached from where the file of Croissant stands; by its name alone where it isn't below that."""
    if "://" in store:
        return store.rstrip("/") + "/"
    place, folder = Path(store).absolute(), about.absolute().parent
    return f"{place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.name}/".removeprefix("./")


VERBS = (card,)
