"""From a folder to a plan: list its records, check their files, read their headers. Nothing is written."""

from __future__ import annotations

import contextlib
import functools
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ecgstore.build.construct import Progress
from ecgstore.build.folds import draw_folds
from ecgstore.build.patients import patient_hash, with_record_ids
from ecgstore.build.plan import Occupied, Plan, Scanned, make_plan, scan
from ecgstore.build.scan import read_headers, without_segments
from ecgstore.build.schedule import Workers, cluster
from ecgstore.build.settings import IngestSettings, detect_source, module_of
from ecgstore.errors import EcgError, SourceError
from ecgstore.fetching import checksums
from ecgstore.record import Listing, RecordRef, Rejection
from ecgstore.rooms import occupants
from ecgstore.settings import Settings
from ecgstore.sources._listed import MAX_ID_BYTES, checked_description, checked_listing
from ecgstore.sources._reader import read_headers as read_own_headers
from ecgstore.sources._reader import reader_of
from ecgstore.storage.withdrawn import Withdrawn

#: Letters of the detail of a record that is left out, and of an id that is too long.
_MAX_DETAIL, _SHOWN = 1000, 200
#: Is shown records and the name of their source's file; may refuse them by an error.
Look = Callable[[Sequence[RecordRef], str], None]


def list_source(source_root: Path, source: Settings | None) -> tuple[Path, Settings, Listing]:
    """The folder's resolved path, its kind, and its records. Raises SourceError where nothing is there."""
    if not source_root.is_dir():
        kind = "a file" if source_root.exists() else "nothing"
        raise SourceError("the source folder is not there", where=source_root, got=kind, fix="check the path")
    source_root = source_root.resolve()
    source = source or detect_source(source_root)
    module = module_of(source)
    with _plain_source_errors(module):
        listing: Listing = module.list_records(source_root, source)
    if not is_ours(module):
        listing = checked_listing(listing, module.__file__)
    if not listing.records and not listing.rejected:
        got = "; ".join(listing.notes) or None
        what = "no record" if hasattr(module, "read_header") else "no WFDB record (*.hea)"
        raise SourceError(f"{what} was found", where=source_root, got=got, fix="check the path")
    return source_root, source, listing


def is_ours(module: ModuleType) -> bool:
    """Whether a source is one of this package, and no file of a user's own."""
    return module.__name__.rpartition(".")[2] in occupants("ecgstore.sources")


@contextlib.contextmanager
def _plain_source_errors(module: ModuleType) -> Iterator[None]:
    """What a source of somebody else's raises is said in one line, with the place in it."""
    try:
        yield
    except EcgError:
        raise
    except Exception as error:
        if is_ours(module):
            raise  # one of ours: a bug, and its traceback is wanted
        places = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == module.__file__]
        where = f"{module.__file__}:{places[-1].lineno}" if places else module.__file__
        got = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SourceError("the source file failed", where=where, got=got, fix="mend it") from error


def plan(
    source_root: Path,
    settings: IngestSettings,
    *,
    verify_source: bool = False,
    scan_table: Path | None = None,
    occupied: Occupied | None = None,
    look: Look | None = None,
    inherited: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Plan:
    """List the source, read every header and plan the store. Nothing is written but ``scan_table``.

    Headers are read by the ``workers`` where these have a scheduler.

    ``look`` is shown the records as they are listed, before a header is read, and again where the source makes more of
    them by their headers. ``inherited``: attributes that a store takes over from its version before; who has withdrawn
    from that is passed over.

    Raises SourceError where the folder is absent or no record in it can be used.
    """
    source_root, source, listing = list_source(source_root, settings.source)
    # Not the name of its terms, which a source of a user's own may choose.
    kind = module_of(source).__name__.rpartition(".")[2]
    if settings.folds is not None:
        listing = draw_folds(listing, settings.folds, settings.secret_key or listing.terms.name)
    listing = _storable(with_record_ids(listing, settings.record_ids, settings.secret_key))
    has_gone = functools.partial(
        _has_gone, Withdrawn.of(inherited or {}), settings.secret_key or listing.terms.name, listing.terms.name
    )
    listing = _without(listing, has_gone)
    if look is not None:
        look(listing.records, kind)
    reader = reader_of(source)
    if verify_source:
        listing = _verified(source_root, listing, reader is not None, progress)
    bound = functools.partial(_describe, source) if hasattr(module_of(source), "describe") else None
    recipe = settings.recipe
    scanned: list[Scanned | Rejection] = []
    with _plain_source_errors(module_of(source)), cluster(workers or Workers(), source_root) as crew:
        if reader is None:
            headers = read_headers(listing.records, source_root, scan_table, progress, crew)
        else:
            headers = read_own_headers(listing.records, reader, progress)
        for ref, header, comments in headers:
            if isinstance(header, Rejection):
                scanned.append(header)
            else:
                scanned.append(scan(ref, header, comments, recipe, bound))
    scanned = [one for one in scanned if isinstance(one, Rejection) or not has_gone(one.ref)]
    if look is not None and bound is not None:
        look([one.ref for one in scanned if not isinstance(one, Rejection)], kind)
    made = make_plan(
        listing,
        without_segments(listing.records, scanned) if reader is None else scanned,
        recipe,
        source,
        source_root,
        storage=settings.storage,
        patient_key=settings.secret_key,
        hides_names=settings.record_ids == "hashed",
        noise_bank=settings.noise_bank,
        occupied=occupied,
        inherited=inherited or {},
    )
    if made.n_records == 0:
        first = made.rejected[0]
        counts = ", ".join(f"{reason} × {count}" for reason, count in count_reasons(made.rejected).items())
        raise SourceError(
            f"none of {len(made.rejected)} records can be used ({counts})",
            where=source_root,
            got=f"{first.record_id}: {first.reason} {first.detail}".strip(),
        )
    return made


def _storable(listing: Listing) -> Listing:
    """The listing without the records whose ids a store can't hold: one of them would make all of it unreadable."""
    kept = tuple(ref for ref in listing.records if _id_bytes(ref.record_id) <= MAX_ID_BYTES)
    if len(kept) == len(listing.records) and all(
        _id_bytes(one.record_id) <= MAX_ID_BYTES and len(one.detail) <= _MAX_DETAIL for one in listing.rejected
    ):
        return listing
    too_long = tuple(
        Rejection(
            ref.record_id,
            "too_large",
            f"an id of {_id_bytes(ref.record_id)} bytes; the limit is {MAX_ID_BYTES}: --record-ids stem or hashed",
        )
        for ref in listing.records
        if _id_bytes(ref.record_id) > MAX_ID_BYTES
    )
    rejected = (
        Rejection(f"{one.record_id[:_SHOWN]}…", one.reason, one.detail[:_MAX_DETAIL])
        if _id_bytes(one.record_id) > MAX_ID_BYTES
        else replace(one, detail=one.detail[:_MAX_DETAIL])
        for one in (*listing.rejected, *too_long)
    )
    return replace(listing, records=kept, rejected=tuple(rejected))


def _id_bytes(record_id: str) -> int:
    # Nearly all ids are short, and need not be encoded.
    return len(record_id) if 4 * len(record_id) <= MAX_ID_BYTES else len(record_id.encode("utf-8", "replace"))


def _has_gone(withdrawn: Withdrawn, key: str, source: str, ref: RecordRef) -> bool:
    return bool(withdrawn) and withdrawn.names(
        ref.record_id, patient_hash(key, ref.patient_id) if ref.patient_id else None, source
    )


def _without(listing: Listing, has_gone: Callable[[RecordRef], bool]) -> Listing:
    """The listing without those who have withdrawn from the version before; how many is said, and not who."""
    records = tuple(ref for ref in listing.records if not has_gone(ref))
    rejected = tuple(one for one in listing.rejected if not has_gone(RecordRef(one.record_id, Path())))
    if not (n := len(listing.records) - len(records) + len(listing.rejected) - len(rejected)):
        return listing
    note = f"{n} records of the source were withdrawn from the version before, and were passed over"
    return replace(listing, records=records, rejected=rejected, notes=(*listing.notes, note))


def _describe(source: Settings, ref: RecordRef, comments: tuple[str, ...], gains: tuple[float, ...]) -> RecordRef:
    module = module_of(source)
    described: RecordRef = module.describe(ref, comments, source, gains)
    # As for listings: what somebody else's file gives is checked before the work, not by whoever writes it down.
    return described if is_ours(module) else checked_description(described, ref, module.__file__)


def _verified(root: Path, listing: Listing, has_reader: bool, progress: Progress | None) -> Listing:
    """The listing without the records one of whose files differs from the source's own list of checksums.

    Of WFDB records those are all files that have their name, of others (``has_reader``) the one that is listed.
    """
    sums = checksums.load_sums(root)
    by_stem: dict[str, list[str]] = {}
    for name in sums:
        by_stem.setdefault(name.rpartition(".")[0], []).append(name)
    rejected: list[Rejection] = []
    for done, ref in enumerate(listing.records, start=1):
        # Not relative_to: a source of a user's own may list what stands elsewhere, and no list of this folder holds it.
        stem = Path(os.path.relpath(ref.path, root)).as_posix()
        files = [stem] if has_reader else by_stem.get(stem) or [f"{stem}.hea"]
        bad = checksums.bad_files(root, files, sums)
        # By its suffix alone: the path below the folder may name a patient.
        said = [f"the {Path(name).suffix} file: {why}" for name, why in bad.items()]
        rejected += [Rejection(ref.record_id, "bad_source_checksum", detail) for detail in said][:1]
        if progress is not None and (done % 64 == 0 or done == len(listing.records)):
            progress("verify", done, len(listing.records))
    left_out = {one.record_id for one in rejected}
    kept = tuple(ref for ref in listing.records if ref.record_id not in left_out)
    return replace(listing, records=kept, rejected=(*listing.rejected, *rejected))


def count_reasons(rejected: Sequence[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(one.reason for one in rejected).items()))
