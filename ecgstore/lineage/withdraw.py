"""Sealed store → its successor without some patients or records: no sample and no id of theirs is left in it.

Only the shards that hold them are written anew, with "not recorded" in their places; every other shard is the parent's
own, byte for byte. Rows go from all tables and from the commits, sums are done again, and hashes are kept so that a
store that grows doesn't take anybody back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.build import building, commits, shards
from ecgstore.build.commits import Commit
from ecgstore.build.patients import ids_are_public, key_check, patient_hash
from ecgstore.build.seal import root_metadata, software
from ecgstore.build.sums import Sums, by_fold, fold_name, statistics, tally
from ecgstore.errors import ConfigError, IntegrityError, nearest
from ecgstore.lineage.parents import LINEAGE, Parent, sums_of_root, with_step
from ecgstore.lineage.publishing import begin, publish
from ecgstore.sources._labels import names_patient
from ecgstore.storage import asked, layout, manifest, tables
from ecgstore.storage.manifest import ObjectHash, hash_object
from ecgstore.storage.plain import open_plain
from ecgstore.storage.store import Store, open_store
from ecgstore.storage.where import texts_in
from ecgstore.storage.withdrawn import Withdrawn, patient_gone, record_gone

Progress = Callable[[str, int, int], None]

MOST_LISTED_BYTES = 20_000_000
#: Shorter identifiers are not looked for in ids of records that were left out.
LEAST_LETTERS = 4
_KEY = re.compile(r"[0-9a-f]{16}")

#: What no command can reach.
BEYOND_REACH = (
    "copies of the store that others have pulled, and backups",
    "other stores of the same records: at other rates, with noise, of beats, subsets and merged ones",
    "tables beside the store: splits and sidecars",
    "models that have seen a record: `ecgtrain report RUN --withdrawn STORE` says which runs have",
)


@dataclass(frozen=True, slots=True)
class WithdrawReport:
    """What was done: ``records`` of ``parent`` (its fingerprint) are at ``path``, a store of this ``fingerprint``.

    Gone are ``withdrawn_records`` of ``withdrawn_patients``, and ``withdrawn_rejected`` from the list of what was left
    out. ``unknown``: how many of the patients and records asked for were not there. ``shards_written`` were made anew,
    ``shards_kept`` are files of the parent.
    """

    path: str
    parent: str
    fingerprint: str
    records: int
    withdrawn_records: int
    withdrawn_patients: int
    withdrawn_rejected: int
    unknown: int
    shards_written: int
    shards_kept: int
    #: Where something of them may still be, a line each.
    beyond_reach: tuple[str, ...]


class _Gone(NamedTuple):
    """Who goes: records (bool, one per record), ids among the rejected, and what is kept of them."""

    is_gone_n: npt.NDArray[np.bool_]
    ids: frozenset[str]
    keys: frozenset[str]
    kept: Withdrawn
    n_patients: int
    n_unknown: int


class Left(NamedTuple):
    """What a successor will say, before it is made: its tables, its attributes but for sums, who has withdrawn."""

    tables: dict[str, pa.Table]
    attributes: dict[str, Any]
    withdrawn: Withdrawn


def what_is_left(
    store: Store,
    *,
    patients: Sequence[str] = (),
    records: Sequence[str] = (),
    secret_key: str = "",
    skip_unknown: bool = False,
) -> Left:
    """What :func:`withdraw_records` would leave; raises ConfigError as it does, and writes nothing."""
    gone = _gone(store, patients, records, secret_key, skip_unknown)
    return Left(_tables(store, gone), _said(store, gone), gone.kept)


def withdraw_records(
    store: Store,
    out: str | Path,
    *,
    patients: Sequence[str] = (),
    records: Sequence[str] = (),
    secret_key: str = "",
    skip_unknown: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WithdrawReport:
    """Make the store ``out``: ``store`` without these ``patients`` and ``records``.

    A patient is named by ``patient_key`` as it stands in the store, or by the identifier in the source, for which a
    store of a secret key needs that ``secret_key``. ``skip_unknown`` passes over whoever is not in the store.
    ``overwrite`` replaces a sealed store once the new one is sealed; ``out`` may then be the store itself.

    Raises ConfigError (nobody, somebody unknown, everybody; a store of format 1, or not in a folder), StoreExists,
    StoreError (the disk refuses), IntegrityError (the store is damaged), StoreFormatError.
    """
    out = Path(out)
    replaced = overwrite and Path(store.path).resolve() == out.resolve()
    building.prepare(out, *(() if replaced else (store.path,)))
    parent = Parent.of(store)
    gone = _gone(store, patients, records, secret_key, skip_unknown)
    plan_sha256 = _identity(store, gone.kept)
    sealed = publish(out, plan_sha256, overwrite, lambda root: _make(root, parent, gone, plan_sha256, progress))
    its = sealed.objects
    n_shards = sum(name.startswith(layout.shard_object(0)[:-1]) for name in its)
    n_kept = sum(
        its.get(layout.shard_object(k)) == parent.sealed.objects[layout.shard_object(k)] for k in parent.shards
    )
    before = Withdrawn.of(store.attributes)
    made = open_store(out)
    return WithdrawReport(
        path=str(out),
        parent=store.fingerprint,
        fingerprint=sealed.fingerprint,
        records=made.n_records,
        withdrawn_records=store.n_records - made.n_records,
        withdrawn_patients=len(gone.kept.patients - before.patients),
        withdrawn_rejected=store.rejected.num_rows - made.rejected.num_rows,
        unknown=gone.n_unknown,
        shards_written=n_shards - n_kept,
        shards_kept=n_kept,
        beyond_reach=(() if replaced else (f"{store.path} itself, until you delete it",)) + BEYOND_REACH,
    )


def read_list(path: Path) -> tuple[list[str], list[str]]:
    """Patients and records of a text file: one a line, behind the word ``patient`` or ``record``.

    Empty lines, and those that begin with ``#``, say nothing. Raises ConfigError, naming the line.
    """
    found: dict[str, list[str]] = {"patient": [], "record": []}
    try:
        with open_plain(path) as file:
            content = file.read(MOST_LISTED_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError("the list can't be read", where=path, got=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError("the list is no text in UTF-8", where=path, got=str(error)) from None
    if len(content) > MOST_LISTED_BYTES:
        raise ConfigError("this is too large to be a list", where=path, expected=f"{MOST_LISTED_BYTES} bytes at most")
    for number, line in enumerate(text.split("\n"), start=1):
        kind, _, name = line.strip().partition(" ")
        if not kind or kind.startswith("#"):
            continue
        if kind not in found or not name.strip():
            raise ConfigError(
                "a line of the list is not understood",
                where=f"{path}, line {number}",
                expected="patient and an identifier, or record and an id",
                got=repr(line.strip()[:80]),
            )
        found[kind].append(name.strip())
    return found["patient"], found["record"]


# --- who ----------------------------------------------------------------------------------------------------------


def _gone(store: Store, patients: Sequence[str], records: Sequence[str], secret_key: str, skip_unknown: bool) -> _Gone:
    patients, records = asked.texts(patients, "patients", store.path), asked.texts(records, "records", store.path)
    if not patients and not records:
        raise ConfigError("nobody is named who withdraws", fix="name a --patient or a --record")
    before = Withdrawn.of(store.attributes)
    id_n, key_n, source_n = (store.column(name) for name in ("record_id", "patient_key", "source"))
    known_ids, known_keys = set(id_n.tolist()), set(key_n.tolist()) - {""}
    left_out = set(store.rejected["record_id"].to_pylist())
    keys: set[str] = set()
    ids: set[str] = set()
    named: set[str] = set()
    n_unknown = 0
    for patient in dict.fromkeys(patients):
        its_keys = _patient_keys(store, patient, known_keys, secret_key)
        its_names = _names_among(left_out, patient, store)
        found = its_keys & known_keys
        if not found and not its_names:
            was = any(patient_gone(key) in before.patients for key in its_keys)
            n_unknown += _unknown(f"no patient {patient!r}", store, was, skip_unknown)
        keys |= found
        named |= its_names
    for record_id in dict.fromkeys(records):
        if record_id in known_ids or record_id in left_out:
            ids.add(record_id)
            continue
        was = any(before.names(record_id, None, source) for source in set(source_n.tolist()))
        n_unknown += _unknown(f"no record {record_id!r}", store, was, skip_unknown, nearest(record_id, known_ids))
    is_gone_n = np.isin(key_n, list(keys)) | np.isin(id_n, list(ids))
    if not is_gone_n.any() and not ids and not named:
        raise ConfigError("none of those who are named is in the store", where=store.path, got=f"{n_unknown} unknown")
    if is_gone_n.all():
        raise ConfigError("no record would be left", where=store.path, fix="delete the store instead")
    gone_ids = set(id_n[is_gone_n].tolist())
    hashes = {
        record_gone(record_id, key or None, source)
        for record_id, key, source in zip(id_n[is_gone_n], key_n[is_gone_n], source_n[is_gone_n], strict=True)
        if key not in keys
    }
    hashes |= {record_gone(one, None, terms.name) for one in ids - gone_ids for terms in store.terms}
    kept = before | Withdrawn(frozenset(map(patient_gone, keys)), frozenset(hashes))
    # A second record of an id stands among the rejected; what is known by that id goes there as well.
    return _Gone(is_gone_n, frozenset(ids | named | gone_ids), frozenset(keys), kept, len(keys), n_unknown)


def _names_among(left_out: Iterable[str], patient: str, store: Store) -> set[str]:
    """Ids of records that were left out and contain the patient's identifier, where ids are no public numbers."""
    if len(patient) < LEAST_LETTERS or any(ids_are_public(terms.name) for terms in store.terms):
        return set()
    return {one for one in left_out if names_patient(one, patient)}


def _unknown(what: str, store: Store, was_there: bool, skip: bool, near: str | None = None) -> int:
    if skip:
        return 1
    fix = "say --skip-unknown to pass over who is not there"
    if was_there:
        fix = f"it was withdrawn before; {fix}"
    elif near:
        fix = f"did you mean {near}? {fix}"
    raise ConfigError(what, where=store.path, fix=fix)


def _patient_keys(store: Store, patient: str, known: set[str], secret_key: str) -> set[str]:
    """What a patient may be called in the store, who is named by a key in it or by the identifier in the source."""
    if patient in known:
        return {patient}
    if "secret" not in str(store.attributes["patients"]):
        return {patient, *(patient_hash(terms.name, patient) for terms in store.terms)}
    check = store.attributes.get("patient_key_check")
    if _KEY.fullmatch(patient) and not secret_key:
        return {patient}
    if not secret_key or (check is not None and key_check(secret_key) != check):
        raise ConfigError(
            f"the patient is named by no key in the store, and identifiers were hashed with "
            f"{'another' if secret_key else 'a'} secret key",
            where=store.path,
            fix="set ECGSTORE_PATIENT_KEY to that secret, or name the patient's patient_key",
        )
    return {patient, patient_hash(secret_key, patient)}


def _identity(store: Store, kept: Withdrawn) -> str:
    about = ["withdraw", layout.FORMAT_VERSION, store.fingerprint, sorted(kept.patients), sorted(kept.records)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


# --- the successor ------------------------------------------------------------------------------------------------


def _make(root: Path, parent: Parent, gone: _Gone, plan_sha256: str, progress: Progress | None) -> manifest.Manifest:
    store, size = parent.store, parent.store.shard_samples
    starts, ends = store.spans
    total_samples = int(ends[~gone.is_gone_n].max())
    begin(root, plan_sha256, {"parent": store.fingerprint}, store, total_samples, size)
    rows = np.flatnonzero(gone.is_gone_n)
    touched = {k for row in rows for k in range(int(starts[row]) // size, -(-int(ends[row]) // size))}
    n_shards = -(-total_samples // size)
    objects: dict[str, ObjectHash] = {}
    sums_of_row: dict[int, dict[str, Sums]] = {}
    there = parent.shards
    for done, shard in enumerate(there, start=1):
        if shard in touched:
            objects |= _without(root, parent, shard, gone.is_gone_n, n_shards, sums_of_row)
        elif shard < n_shards:
            objects |= parent.take(layout.shard_object(shard), root)
        if progress is not None:
            progress("shards", done, len(there))
    objects |= _commits(root, parent, gone, objects, plan_sha256, sums_of_row)
    objects[layout.SIGNAL_JSON] = hash_object(root / layout.SIGNAL_JSON)
    taken = by_fold(part for parts in sums_of_row.values() for part in parts.items())
    small = {name: tables.to_parquet(table.combine_chunks(), name) for name, table in _tables(store, gone).items()}
    attributes = _attributes(store, gone, plan_sha256, taken)
    small[layout.ROOT] = root_metadata(root, attributes, small[layout.RECORDS])
    return building.seal(root, small.items(), objects, plan_sha256)


def _without(
    root: Path,
    parent: Parent,
    shard: int,
    is_gone_n: npt.NDArray[np.bool_],
    n_shards: int,
    sums_of_row: dict[int, dict[str, Sums]],
) -> dict[str, ObjectHash]:
    """A shard with nothing in the places of those who go; what was counted in them is noted down."""
    signal = parent.store.read_shard(shard)
    counts_lt = signal.counts_lt.copy()
    fold = parent.store.records["fold"]
    for row, start, length in zip(signal.rows.tolist(), signal.starts, signal.lengths, strict=True):
        if is_gone_n[row]:
            its_lt = counts_lt[:, start : start + length]
            name = fold_name(fold[row].as_py())
            counted = {name: tally(its_lt).sums}
            sums_of_row[row] = by_fold([*sums_of_row.get(row, {}).items(), *counted.items()])
            its_lt[:] = layout.NOT_RECORDED
    if shard >= n_shards or (counts_lt == layout.NOT_RECORDED).all():
        return {}
    return shards.write_counts(root, shard, counts_lt, parent.store.shard_samples)


def _commits(
    root: Path,
    parent: Parent,
    gone: _Gone,
    objects: Mapping[str, ObjectHash],
    plan_sha256: str,
    sums_of_row: Mapping[int, dict[str, Sums]],
) -> dict[str, ObjectHash]:
    """The commits, each as it was unless it tells of somebody who goes, or of a shard that was written anew."""
    row_of = {one: row for row, one in enumerate(parent.store.column("record_id").tolist()) if gone.is_gone_n[row]}
    kept_folds = _folds(parent.store, ~gone.is_gone_n)
    found: dict[str, ObjectHash] = {}
    for name in parent.commits:
        commit = parent.commit(name)
        ids = commit.written["record_id"].to_pylist()
        goes = [one in row_of for one in ids]
        its = {key: objects[key] for key in commit.objects if key in objects}
        left_out = tuple(one for one in commit.rejected if one.record_id not in gone.ids)
        if not any(goes) and its == commit.objects and left_out == commit.rejected:
            found |= parent.take(name, root)
            continue
        stays = pa.array([not one for one in goes], pa.bool_())
        taken = by_fold(part for one in ids if one in row_of for part in sums_of_row.get(row_of[one], {}).items())
        sums = {fold: part for fold, part in _less(commit.sums, taken, name).items() if fold in kept_folds}
        rest = Commit(its, commit.written.filter(stays), left_out, sums if any(stays.to_pylist()) else {})
        if rest.written.num_rows or rest.rejected or rest.objects:
            first_shard = int(name.removeprefix(f"{layout.COMMITS}/").removesuffix(".arrow"))
            commits.write(root, first_shard, rest, plan_sha256)
            found[name] = hash_object(root / name)
    return found


def _folds(store: Store, chosen_n: npt.NDArray[np.bool_]) -> set[str]:
    folds = store.records["fold"].filter(pa.array(chosen_n)).unique().to_pylist()
    return {fold_name(fold) for fold in folds}


def _less(sums: Mapping[str, Sums], taken: Mapping[str, Sums], where: object) -> dict[str, Sums]:
    rest = {fold: part - taken[fold] if fold in taken else part for fold, part in sums.items()}
    if not taken.keys() <= sums.keys() or any(min(part.n) < 0 or min(part.squares) < 0 for part in rest.values()):
        raise IntegrityError("the sums that the store states are not those of its samples", where=where)
    return rest


def _tables(store: Store, gone: _Gone) -> dict[str, pa.Table]:
    kept_n = ~gone.is_gone_n
    mask = pa.array(kept_n)
    small = {
        layout.RECORDS: store.records.filter(mask),
        layout.STATEMENTS: tables.renumbered(store.statements, kept_n),
        layout.REJECTED: _left_out(store, gone),
    }
    if store.lead_quality.num_columns:
        small[layout.LEADS] = store.lead_quality.filter(mask)
    if store.beats.num_columns:
        small[layout.BEATS] = tables.renumbered(store.beats, kept_n)
    return small


def _left_out(store: Store, gone: _Gone) -> pa.Table:
    stays = [one not in gone.ids for one in store.rejected["record_id"].to_pylist()]
    return store.rejected.filter(pa.array(stays, pa.bool_()))


def _attributes(store: Store, gone: _Gone, plan_sha256: str, taken: Mapping[str, Sums]) -> dict[str, Any]:
    kept_folds = _folds(store, ~gone.is_gone_n)
    stated: dict[str, Any] = {}
    if store.attributes["statistics"]:
        rest = _less(sums_of_root(store), taken, f"{store.path}/{layout.ROOT}")
        stated = statistics({fold: part for fold, part in rest.items() if fold in kept_folds})
    return {**_said(store, gone), "plan_sha256": plan_sha256, "statistics": stated, "software": software()}


def _said(store: Store, gone: _Gone) -> dict[str, Any]:
    n_records = int(gone.is_gone_n.sum())
    steps = with_step([store], "withdraw", {"records": n_records, "patients": gone.n_patients})
    return {
        **store.attributes,
        **_vocabularies(store, gone.is_gone_n),
        **gone.kept.attribute(),
        LINEAGE: [_scrubbed(step, gone.ids | gone.keys) for step in steps],
    }


def _scrubbed(step: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A step without a condition that names somebody who goes."""
    condition = step.get("where")
    if not isinstance(condition, str) or not any(one in names for one in texts_in(condition)):
        return dict(step)
    return {**step, "where": "not told: it named somebody who has withdrawn"}


def _vocabularies(store: Store, is_gone_n: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The vocabularies without codes that only those state who go, where a list is of what records state.

    A list that holds codes that nobody states is the source's own, and stays.
    """
    site_n = store.column("site")
    before: dict[tuple[str | None, str], set[str]] = {}
    after: dict[tuple[str | None, str], set[str]] = {}
    said = (store.statements[name].to_pylist() for name in ("row", "system", "code"))
    for row, system, code in zip(*said, strict=True):
        for site in (None, site_n[row]):
            before.setdefault((site, system), set()).add(code)
            if not is_gone_n[row]:
                after.setdefault((site, system), set()).add(code)

    def pruned(known: Sequence[str], site: str | None, system: str) -> list[str]:
        if set(known) - before.get((site, system), set()):
            return list(known)
        return sorted(after.get((site, system), ()))

    found: dict[str, Any] = {
        "vocabulary": {system: pruned(known, None, system) for system, known in store.attributes["vocabulary"].items()}
    }
    if (by_site := store.attributes.get("vocabulary_by_site")) is not None:
        left = set(site_n[~is_gone_n].tolist())
        found["vocabulary_by_site"] = {
            site: {system: pruned(known, site, system) for system, known in systems.items()}
            for site, systems in by_site.items()
            if site in left
        }
    return found
