"""Verbs of stores that several teams share: push, pull, copy, tag, log, diff, repair, remote."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import click

from ecgstore.cli.printing import AS_JSON, STORE, bytes_bar, plain_errors, say, say_json

if TYPE_CHECKING:
    from ecgstore.sharing.delivery import Delivered
    from ecgstore.sharing.differences import Difference

#: Ids that are shown of a difference.
_MOST_SHOWN = 10

PRIVATE = click.option(
    "--private-target",
    is_flag=True,
    help="Everybody who can read there has agreed to the terms of sources that may not be passed on.",
)
HARMLESS = click.option(
    "--findings-are-harmless", is_flag=True, help="You looked at what `ecgstore scrub-check` finds: it names nobody."
)


@click.command(short_help="Share a store under a tag")
@STORE
@click.argument("url")
@PRIVATE
@HARMLESS
@AS_JSON
@plain_errors
def push(store: str, url: str, private_target: bool, findings_are_harmless: bool, as_json: bool) -> None:
    """Bring the sealed STORE into the share URL[@TAG], and let the tag (or `main`) mean it.

    A share is a folder, file://, s3://bucket/name or hf://datasets/owner/name. Credentials for S3 come from the
    environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …) or from the profile AWS_PROFILE, those for the hub from
    `hf auth login`. What is there already is not sent again. Interrupted at any moment, the same command goes on; until
    it is done, the tag means what it meant before. Its card and its sidecars go with it.

    Refused are sources that may not be passed on (but with --private-target), patients of such sources that are hashed
    with a public key, and whatever `ecgstore scrub-check` finds.
    """
    from ecgstore import sharing

    with bytes_bar("pushing", silent=as_json) as progress:
        done = sharing.push(
            store,
            url,
            private_target=private_target,
            findings_are_harmless=findings_are_harmless,
            progress=progress,
        )
    if as_json:
        say_json(dataclasses.asdict(done))
    else:
        _say_delivered(done, url)


def _say_delivered(done: Delivered, where: str) -> None:
    what = (
        f"{done.sent} objects sent ({done.bytes_sent / 1e6:.1f} MB), {done.copied} copied there, {done.kept} were there"
    )
    tag = f"{done.tag} means {done.fingerprint}" + ("" if done.tag_moved else ", as before")
    say(f"{where}: {what}")
    if done.beside:
        say(f"  with it went {', '.join(done.beside)}")
    say(f"  {tag}" + (f"; before, {done.previous[:16]}…" if done.tag_moved and done.previous else ""))


@click.command(short_help="Fetch a shared store")
@click.argument("url")
@click.argument("dest", type=click.Path())
@click.option("--base", type=click.Path(), metavar="OLD", help="A store of which equal objects are taken.")
@click.option(
    "--expect",
    metavar="FINGERPRINT",
    help="Refuse any version but this one: all of its fingerprint, or its first 32 digits or more.",
)
@AS_JSON
@plain_errors
def pull(url: str, dest: str, base: str | None, expect: str | None, as_json: bool) -> None:
    """Fetch the version URL[@TAG], or URL@FINGERPRINT, into the folder DEST.

    A share is a folder, file://, s3://, hf:// or http(s)://. Every object is hashed before DEST gets its name, so DEST
    is whole or not there. Interrupted, the same command goes on. With --base, what an older store has is linked from it
    and not fetched; the older store stays as it is. Card and sidecars come to DEST.sidecars. Who has the server can
    show an old version under a tag: --expect finds it out, with a fingerprint that you were told on another way.
    """
    from ecgstore import sharing

    if expect is not None and not re.fullmatch(r"[0-9a-f]{32,64}", expect.rstrip("….").lower()):
        raise click.BadParameter("a fingerprint has 64 hexadecimal digits; give 32 or more", param_hint="--expect")
    expect = None if expect is None else expect.rstrip("….").lower()
    with bytes_bar("pulling", silent=as_json) as progress:
        done = sharing.pull(url, dest, base=base, expect=expect, progress=progress)
    if as_json:
        say_json(dataclasses.asdict(done))
        return
    if done.already_there:
        say(f"{dest}: is this version already, {done.fingerprint}")
    else:
        what = f"{done.fetched} objects fetched ({done.bytes_fetched / 1e6:.1f} MB)"
        say(f"{dest}: {what}, {done.linked} taken from the older store, {done.kept} were there; {done.fingerprint}")
    if done.beside:
        say(f"  with it came {', '.join(done.beside)}")
    for note in done.notes:
        say(f"note: {note}")
    if done.tag_means_now:
        say(f"note: the tag {done.tag} was moved meanwhile, to {done.tag_means_now}")


@click.command(name="copy", short_help="Copy tags into another share")
@click.argument("url")
@click.argument("url2")
@click.option("--only", metavar="TAG", help="This tag alone. Default: all.")
@PRIVATE
@HARMLESS
@AS_JSON
@plain_errors
def copy(
    url: str, url2: str, only: str | None, private_target: bool, findings_are_harmless: bool, as_json: bool
) -> None:
    """Bring what the tags of the share URL mean into the share URL2, through this machine.

    The same is refused as by push. A tag that means something else in URL2 is left alone. Notes that a version was
    withdrawn come along; nothing is removed.
    """
    from ecgstore import sharing

    with bytes_bar("copying", silent=as_json) as progress:
        done = sharing.copy(
            url,
            url2,
            only=only,
            private_target=private_target,
            findings_are_harmless=findings_are_harmless,
            progress=progress,
        )
    if as_json:
        say_json(dataclasses.asdict(done))
        return
    for one in done.tags:
        _say_delivered(one, url2)
    for name in done.skipped:
        say(f"note: the tag {name} means a version that was withdrawn, and was left out")
    for note in done.notes:
        say(f"note: {note}")
    for fingerprint in done.withdrawn_but_here:
        say(f"note: {fingerprint} was withdrawn in {url}, and is still in {url2}")


@click.command(short_help="Let a tag mean a version")
@click.argument("url")
@click.argument("name")
@click.argument("fingerprint")
@click.option("--from", "expected", metavar="OLD", help="Only if the tag still means this fingerprint.")
@AS_JSON
@plain_errors
def tag(url: str, name: str, fingerprint: str, expected: str | None, as_json: bool) -> None:
    """Let the tag NAME of the share URL mean the version FINGERPRINT, which is there already.

    It may be an older one, too: nothing is lost, and `ecgstore log` shows what the tag meant before.
    """
    from ecgstore import sharing

    done = sharing.tag(url, name, fingerprint, expected=expected)
    if as_json:
        say_json(dataclasses.asdict(done))
    else:
        before = f"; before, {done.previous}" if done.moved and done.previous else "" if done.moved else ", as before"
        say(f"{url}: {done.tag} means {done.fingerprint}{before}")


@click.command(short_help="Say what a tag meant, and when")
@click.argument("url")
@AS_JSON
@plain_errors
def log(url: str, as_json: bool) -> None:
    """List what the tag of URL[@TAG] means and meant, the newest first, with the time that the server states."""
    from ecgstore import sharing

    entries = sharing.log(url)
    if as_json:
        say_json({"url": url, "entries": [_with_time(dataclasses.asdict(one)) for one in entries]})
        return
    for one in entries:
        when = "-" if one.modified is None else one.modified.strftime("%Y-%m-%d %H:%M:%S UTC")
        say(one.number, when, one.fingerprint, *(["withdrawn"] if one.withdrawn else []))


def _with_time(about: dict[str, Any]) -> dict[str, Any]:
    modified = about["modified"]
    return about | {"modified": None if modified is None else modified.isoformat()}


@click.command(short_help="Say what is in a share")
@click.argument("url")
@AS_JSON
@plain_errors
def remote(url: str, as_json: bool) -> None:
    """List the versions in a share: size, tags, whether they are whole, whether they were withdrawn.

    A web server can't list: of https://… only the tag that is named (or `main`) is shown.
    """
    from ecgstore import sharing

    found = sharing.remote(url)
    if as_json:
        say_json(dataclasses.asdict(found))
        return
    for one in found.versions:
        state = "withdrawn" if one.withdrawn else "whole" if one.sealed else "not finished"
        size = f"{one.n_objects} objects, {one.n_bytes / 1e6:.1f} MB"
        say(one.fingerprint, state, size, ", ".join(one.tags) or "-")
    if not found.versions:
        say(f"{found.place}: nothing was pushed yet")
    if not found.complete:
        say("note: a web server can't list; there may be other tags and versions")


@click.command(short_help="Say how two stores differ")
@click.argument("a")
@click.argument("b")
@AS_JSON
@plain_errors
def diff(a: str, b: str, as_json: bool) -> None:
    """Compare two stores: folders, addresses, or versions of shares (URL@TAG, URL@FINGERPRINT).

    Objects, records that were added, removed or changed, settings, counts. Exit status 0 whether they differ or not.
    """
    from ecgstore import sharing

    found = sharing.diff(a, b)
    if as_json:
        say_json(dataclasses.asdict(found) | {"same": found.same})
    else:
        _say_difference(found)


def _say_difference(found: Difference) -> None:
    if found.same:
        say(f"the same store, {found.fingerprints[0]}")
        return
    equal = f"{found.objects_equal} equal ({found.bytes_equal / 1e6:.1f} MB)"
    n_objects = [len(its) for its in (found.objects_added, found.objects_removed, found.objects_changed)]
    say(f"{equal}, {n_objects[0]} added, {n_objects[1]} removed, {n_objects[2]} changed", label="objects")
    for name in ("added", "removed", "changed"):
        ids = getattr(found, f"records_{name}")
        some = f": {', '.join(ids[:_MOST_SHOWN])}{' …' if len(ids) > _MOST_SHOWN else ''}" if ids else ""
        say(f"{len(ids)} {name}{some}", label="records")
    for name, n in found.columns.items():
        say(f"{n} records with another {name}", label="columns")
    if found.statements_changed:
        say(f"{found.statements_changed} records with other statements", label="statements")
    for name, pair in found.settings.items():
        say(f"{name}: {_short(pair[0])} → {_short(pair[1])}", label="settings")
    for name, pair in found.counts.items():
        say(f"{name}: {pair[0]} → {pair[1]}", label="counts")


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@click.command(short_help="Fetch what is damaged in a store")
@STORE
@click.option("--from", "url", required=True, metavar="URL", help="A share that has this version: URL, or URL@TAG.")
@AS_JSON
@plain_errors
def repair(store: str, url: str, as_json: bool) -> None:
    """Hash every object of STORE, a folder, and fetch those that are damaged or missing from the share URL.

    The version is found by the store's own fingerprint. Where manifest.json itself is damaged, name it: URL@TAG.
    """
    from ecgstore import sharing

    with bytes_bar("repairing", silent=as_json) as progress:
        done = sharing.repair(store, url, progress=progress)
    if as_json:
        say_json(dataclasses.asdict(done))
        return
    for name in done.objects:
        say(f"mended: {name}")
    manifest = " and the manifest" if done.manifest_too else ""
    say(f"{store}: {len(done.objects)} objects{manifest} fetched ({done.n_bytes / 1e6:.1f} MB); {done.fingerprint}")


VERBS = (push, pull, copy, tag, log, remote, diff, repair)
