"""Repair: fetch what is damaged in a store of one's own, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecgstore.errors import ConfigError, IntegrityError, StoreError, StoreFormatError, StoreIncomplete
from ecgstore.sharing import versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.folder import FolderTarget, disk_errors, refuse_odd_folder, replace
from ecgstore.sharing.opening import open_target
from ecgstore.sharing.pulling import fetch_object
from ecgstore.sharing.target import Meter, Progress, Target, checked, each
from ecgstore.storage import layout, manifest, publish
from ecgstore.storage.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Repaired:
    """Objects that were damaged or missing, and are whole now; ``manifest_too``: the seal was, as well."""

    fingerprint: str
    objects: tuple[str, ...]
    n_bytes: int
    manifest_too: bool


def repair(store: str | Path, url: str, *, progress: Progress | None = None) -> Repaired:
    """Hash every object of the store in the folder ``store``, and fetch those that are not as they were sealed.

    From the version with the store's own fingerprint; where its manifest is damaged too, from the one that ``url``
    names. What is fetched is hashed before it takes the place of what stood there; other stores that share the file
    by a hard link stay as they are. Raises as :func:`pull`.
    """
    root = Path(store)
    if "://" in str(store):
        raise ConfigError("only a store in a folder of this machine can be repaired", where=store)
    address = parse_address(url)
    target = open_target(address)
    sealed, content = None, b""
    try:
        sealed = manifest.load(root)
    except (IntegrityError, StoreFormatError, StoreIncomplete) as error:
        if not (root / layout.SIGNAL).is_dir() or not (address.tag or address.fingerprint):
            raise
        if isinstance(error, StoreIncomplete) and (root / layout.BUILDING).exists():
            raise
    if address.fingerprint and sealed is not None and sealed.fingerprint != address.fingerprint:
        raise IntegrityError(
            "the store is another version than the one that is named",
            where=store,
            expected=address.fingerprint,
            got=sealed.fingerprint,
            fix="leave the version out: it is found by the store's own fingerprint",
        )
    fingerprint = sealed.fingerprint if sealed is not None else versions.fingerprint_at(target, address)
    versions.refuse_withdrawn(target, fingerprint)
    there, content = versions.read_manifest(target, fingerprint)
    with disk_errors(root):
        return _repair(root, target, there, content if sealed is None else None, progress)


def _repair(root: Path, target: Target, sealed: Manifest, content: bytes | None, progress: Progress | None) -> Repaired:
    here = FolderTarget(root)
    meter = Meter(sum(one.size for one in sealed.objects.values()), progress)

    def mend(name: str) -> bool:
        stated = sealed.objects[name]
        is_bad = False
        try:
            for _ in checked(here.blocks(name, stated.size), stated, name, ""):
                pass
        except (FileNotFoundError, StoreError):
            is_bad = True
            path = root
            for part in name.split("/")[:-1]:
                path = path / part
                path.mkdir(exist_ok=True)
                refuse_odd_folder(path)
            fetch_object(target, sealed, name, root / name)
            publish.flush_folder(path)
        meter.add(stated.size)
        return is_bad

    names = sorted(sealed.objects)
    mended = tuple(name for name, was_bad in zip(names, each(mend, names), strict=True) if was_bad)
    if content is not None:
        replace(root / layout.MANIFEST, [content])
        publish.flush_folder(root)
    n_bytes = sum(sealed.objects[name].size for name in mended)
    return Repaired(sealed.fingerprint, mended, n_bytes, content is not None)
