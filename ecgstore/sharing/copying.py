"""Copy: what tags mean in one share, into another; all goes through this machine."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ecgstore.errors import ConfigError, StoreFormatError, StoreNotFound, TagMoved
from ecgstore.look.scrub import look_through_sidecars
from ecgstore.sharing import beside, notes, tags, versions
from ecgstore.sharing.address import is_tag, parse_address
from ecgstore.sharing.delivery import Delivered, SharedSource, deliver
from ecgstore.sharing.notes import Tombstone
from ecgstore.sharing.opening import open_target, open_writable
from ecgstore.sharing.target import Progress, Target, Writable, create, prove, refuse_no_share
from ecgstore.sharing.terms import refuse_findings, refuse_unshareable
from ecgstore.storage.store import Store


@dataclass(slots=True)
class Copied:
    """What was done for each tag, and what was not."""

    tags: list[Delivered] = field(default_factory=list)
    #: Tags that mean a version that was withdrawn.
    skipped: list[str] = field(default_factory=list)
    #: Versions that were withdrawn there and are still here: `withdraw` removes them.
    withdrawn_but_here: list[str] = field(default_factory=list)
    #: A line for each card and sidecar that can't be used.
    notes: list[str] = field(default_factory=list)


def copy(
    url: str,
    to_url: str,
    *,
    only: str | None = None,
    private_target: bool = False,
    findings_are_harmless: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Bring what the tags of the share ``url`` mean (or one tag, ``only``) into the share ``to_url``.

    The same is refused as in :func:`push`, unless ``private_target`` or ``findings_are_harmless`` say that it may be.
    A tag that means in ``to_url`` what it never meant in ``url`` is left alone (TagMoved). Tombstones come along;
    nothing is removed. Raises what :func:`push` and :func:`pull` raise.
    """
    from_address, to_address = parse_address(url), parse_address(to_url)
    if from_address.fingerprint or to_address.tag or to_address.fingerprint:
        raise ConfigError("tags keep their names where they are copied", expected="URL URL2, and --only TAG")
    if only is not None and not is_tag(only):
        raise ConfigError("no tag can be called so", expected="letters, digits, . _ -; 64 at most", got=only[:80])
    source = open_target(from_address)
    refuse_no_share(source)
    target = open_writable(to_address)
    wanted = only or from_address.tag
    names = [wanted] if wanted else source.folders(notes.TAGS)
    if not names:
        fix = "push a store there first" if source.can_list else "name a tag: --only TAG"
        raise StoreNotFound("there is no tag to copy", where=source.where, fix=fix)
    prove(target)
    copied = Copied()
    _bring_tombstones(source, target, copied)
    for name in names:
        fingerprint = tags.resolve(source, name)
        if versions.tombstone_of(source, fingerprint) is not None:
            copied.skipped.append(name)
            continue
        _refuse_another_history(source, target, name)
        version = versions.open_version(source, fingerprint)
        refuse_unshareable(version, private_target=private_target, harmless=findings_are_harmless)
        versions.refuse_withdrawn(target, fingerprint)
        versions.refuse_returning(target, version.records, version.path)
        with tempfile.TemporaryDirectory() as folder:
            files = _fetch_beside(source, version, Path(folder), copied)
            if not findings_are_harmless:
                refuse_findings(look_through_sidecars(version, files), version.path)
            send = functools.partial(beside.send, target, version, files)
            copied.tags.append(deliver(SharedSource(source, fingerprint), target, name, progress, send))
    return copied


def _fetch_beside(source: Target, version: Store, folder: Path, copied: Copied) -> list[Path]:
    try:
        brought = beside.bring(source, version, beside.index_of(source, version.fingerprint), folder / "beside")
    except StoreFormatError as error:
        brought = beside.Brought(notes=[f"the card and the sidecars were left out: {error.what}"])
    copied.notes += [f"{version.fingerprint}: {note}" for note in brought.notes]
    return [folder / "beside" / name for name in brought.names]


def _bring_tombstones(source: Target, target: Writable, copied: Copied) -> None:
    for fingerprint, stone in versions.tombstones(source).items():
        if versions.tombstone_of(target, fingerprint) is not None:
            continue
        if versions.is_sealed(target, fingerprint):  # what is here is removed by whoever it belongs to
            copied.withdrawn_but_here.append(fingerprint)
        else:
            create(target, notes.tombstone_name(fingerprint), notes.tombstone(Tombstone(fingerprint, stone.successor)))


def _refuse_another_history(source: Target, target: Target, name: str) -> None:
    here = tags.current(target, name)
    if here is None:
        return
    if all(here.entry.fingerprint != one.entry.fingerprint for one in tags.history(source, name)):
        raise TagMoved(
            f"the tag {name} means a version there that it never meant in the share that is copied",
            where=target.where,
            got=here.entry.fingerprint,
            fix="copy other tags (--only), or move it with `ecgstore tag` first",
        )
