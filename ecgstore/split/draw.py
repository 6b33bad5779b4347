"""Draw folds for the records of a sealed store; who may not be apart, and what folds are balanced by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError, nearest
from ecgstore.look.overlap import near_duplicates
from ecgstore.settings import parse
from ecgstore.split.stratify import Int64, Positives, iterative_folds
from ecgstore.storage.splits import MAX_FOLDS, Folds, Split, SplitSettings
from ecgstore.storage.store import Store

#: More values than this are names, not something to balance.
MAX_VALUES = 1000
#: Numbers are balanced by so many parts of equal size.
_PARTS = 5
#: Of codes that can't be in every fold, and of the commonest, so many are named.
_NAMED, _COMMONEST = 5, 5


#: What a record has of a column in which nothing is said of it.
_NOT_STATED = "not stated"


@dataclass(frozen=True, eq=False)
class Labels:
    """What records are labelled with: of the pair ``p``, record ``row_p`` has label ``label_p``; each pair once."""

    names: tuple[str, ...]
    row_p: Int64
    label_p: Int64

    def counts(self) -> Int64:
        """Records of each label."""
        return np.bincount(self.label_p, minlength=len(self.names))


class FoldCounts(NamedTuple):
    """What is in one fold: records, patients (a record of nobody is one), and records of the commonest labels."""

    fold: int
    name: str
    records: int
    patients: int
    positives: dict[str, int]


def split_records(
    store: Store, *, folds: int = 10, stratify: str | None = None, site: bool = False, seed: int = 0
) -> Split:
    """Draw folds 1 to ``folds`` for the records of ``store``, all records of a patient in the same one.

    ``stratify`` balances them by all codes of a coding system (``scp_ecg``), by some (``scp_ecg:AFIB,NORM``), or by a
    column of the table of records (``sex``; a number such as ``age_years`` by fifths): iterative stratification, after
    Sechidis et al. (2011). ``site`` makes a fold for each site instead, and leaves the number of folds to the sites.

    Patients with recordings that are nearly the same stay together, too. The same store, settings and ``seed`` give
    the same folds; what else must be known of them stands in :attr:`Split.notes`. Nothing is written:
    :meth:`Split.write` is.

    Raises ConfigError: fewer patients than folds, fewer than two sites, a code, system or column that is not there.
    """
    wanted = {"folds": None if site and folds == 10 else folds, "stratify": stratify, "site": site, "seed": seed}
    settings = parse(SplitSettings, wanted, where="split")
    labels = None if stratify is None else labels_of(store, stratify)
    group_n, notes = _together(store)
    names: Mapping[int, str] = {}
    if site:
        fold_n, names, more = _by_site(store, group_n)
    else:
        assert settings.folds is not None
        fold_n, more = _drawn(store, group_n, labels, settings.folds, seed)
    ids = tuple(store.column("record_id").tolist())
    return Split(store.fingerprint, ids, fold_n, settings, names, (*notes, *more))


def counts_of(store: Store, split: Split) -> list[FoldCounts]:
    """What is in each fold of ``split``, ascending; positives are of the commonest of what it was balanced by.

    Where it was balanced by nothing, they are of the commonest codes of the store.
    """
    asked = split.settings.stratify
    labels = _all_codes(store) if asked is None else labels_of(store, asked)
    n_l = labels.counts()
    shown = [int(label) for label in np.argsort(-n_l, kind="stable")[:_COMMONEST] if n_l[label]]
    fold_p = split.fold_n[labels.row_p]
    person_n = _persons(store)
    return [
        FoldCounts(
            fold,
            split.names.get(fold, ""),
            int((split.fold_n == fold).sum()),
            len(np.unique(person_n[split.fold_n == fold])),
            {labels.names[label]: int(((labels.label_p == label) & (fold_p == fold)).sum()) for label in shown},
        )
        for fold in split.folds
    ]


# --- who stays together -------------------------------------------------------------------------------------------


def _persons(store: Store) -> Int64:
    """A number for each patient, int64 (records,), in the order of their first records; a record of nobody has one."""
    numbers: dict[object, int] = {}
    keys = store.column("patient_key").tolist()
    found = [numbers.setdefault(key or (row,), len(numbers)) for row, key in enumerate(keys)]
    return np.array(found, dtype=np.int64)


def _together(store: Store) -> tuple[Int64, list[str]]:
    """The group of each record, int64 (records,): a patient, or patients with recordings that are nearly the same."""
    person_n = _persons(store)
    notes = []
    nobody = int((store.column("patient_key") == "").sum())
    if nobody:
        notes.append(
            f"{nobody} of {store.n_records} records name no patient; each counts as a patient of its own, so that "
            "records of one person may be in several folds"
        )
    pairs = [(i, j) for i, j, _ in near_duplicates(store) if person_n[i] != person_n[j]]
    leader = np.arange(person_n.max(initial=-1) + 1)

    def lead(person: int) -> int:
        while leader[person] != person:
            leader[person] = leader[leader[person]]
            person = int(leader[person])
        return person

    for i, j in pairs:
        one, other = sorted((lead(int(person_n[i])), lead(int(person_n[j]))))
        leader[other] = one
    if pairs:
        said = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        notes.append(f"records of different patients that are nearly the same stay in one fold: {said}")
    notes.append("recordings that begin later, are cut or lack leads are not looked for: see `ecgstore overlap`")
    group_n = np.array([lead(person) for person in person_n.tolist()], dtype=np.int64)
    return np.unique(group_n, return_inverse=True)[1].astype(np.int64), notes


# --- what folds are balanced by -----------------------------------------------------------------------------------


def labels_of(store: Store, asked: str) -> Labels:
    """The labels that ``asked`` names: of a system, of some of its codes, or of a column.

    Raises ConfigError, also where no record says anything of it.
    """
    labels, not_stated = _asked_for(store, asked), f"{asked} {_NOT_STATED}"
    if not any(n for name, n in zip(labels.names, labels.counts().tolist(), strict=True) if name != not_stated):
        raise ConfigError(
            f"no record states anything of {asked}, so there is nothing to stratify by",
            where=store.path,
            expected="a value or a code of some records",
            got=f"none of {store.n_records} records",
            fix="name another column or coding system, or leave --stratify out",
        )
    return labels


def _asked_for(store: Store, asked: str) -> Labels:
    systems = store.attributes["vocabulary"]
    if asked in systems:
        return _codes(store, asked, sorted(store.vocabulary(asked)))
    system, colon, listed = asked.partition(":")
    if colon and system in systems:
        codes = [code.strip() for code in listed.split(",")]
        if not all(codes) or len(set(codes)) < len(codes):
            raise ConfigError("codes to stratify by are a list such as AFIB,NORM, each once", got=asked)
        return _codes(store, system, codes)
    if not colon and asked in store.records.column_names:
        return _of_column(store, asked)
    known = [*systems, *store.records.column_names]
    near = nearest(system, known)
    raise ConfigError(
        f"there is neither a coding system nor a column {system!r} to stratify by",
        where=store.path,
        fix=f"did you mean {near}?" if near else f"it has codes of: {', '.join(sorted(systems)) or 'no system'}",
    )


def _codes(store: Store, system: str, codes: list[str]) -> Labels:
    for code in codes:
        if code not in store.vocabulary(system):
            store.statement_matrix([code], system)  # which names the nearest
    stated = store.statements.filter(pc.equal(store.statements["system"], system))
    label_p = pc.index_in(stated["code"], value_set=pa.array(codes, pa.string()))
    kept = pc.is_valid(label_p)
    rows, labels = stated["row"].filter(kept).to_numpy(), label_p.filter(kept).to_numpy()
    return _each_once(tuple(codes), rows, labels)


def _all_codes(store: Store) -> Labels:
    stated = store.statements
    names = [
        f"{system}:{code}"
        for system, code in zip(stated["system"].to_pylist(), stated["code"].to_pylist(), strict=True)
    ]
    unique, label_p = np.unique(np.array(names, dtype=object), return_inverse=True)
    return _each_once(
        tuple(str(name) for name in unique), stated["row"].to_numpy(), np.asarray(label_p, dtype=np.int64)
    )


def _of_column(store: Store, name: str) -> Labels:
    value_n = store.column(name)
    if value_n.dtype.kind == "f":
        value_n = _parts(value_n)
    stated = [_NOT_STATED if one in ("", -1) else str(one) for one in value_n.tolist()]
    unique, label_n = np.unique(np.array(stated, dtype=object), return_inverse=True)
    if len(unique) > MAX_VALUES:
        raise ConfigError(
            f"the column {name} has too many values to stratify by",
            where=store.path,
            expected=f"{MAX_VALUES} at most",
            got=len(unique),
        )
    names = tuple(f"{name} {value}" for value in unique)
    return Labels(names, np.arange(store.n_records), label_n.astype(np.int64))


def _parts(value_n: npt.NDArray[np.floating]) -> npt.NDArray[np.object_]:
    """Numbers as the part of equal size that each is in, in words; "" for what is no number."""
    known = value_n[np.isfinite(value_n)]
    edges = np.unique(np.quantile(known, np.arange(1, _PARTS) / _PARTS)) if len(known) else np.empty(0)
    words = [f"from {edge:g}" for edge in edges]
    words = [f"below {edges[0]:g}" if len(edges) else "stated", *words]
    part_n = np.searchsorted(edges, np.nan_to_num(value_n), side="right")
    return np.array(
        [words[part] if known else "" for part, known in zip(part_n, np.isfinite(value_n), strict=True)], object
    )


def _each_once(names: tuple[str, ...], row_p: npt.NDArray[np.int64], label_p: npt.NDArray[np.int64]) -> Labels:
    pairs = np.unique(row_p.astype(np.int64) * max(len(names), 1) + label_p)
    return Labels(names, pairs // max(len(names), 1), pairs % max(len(names), 1))


# --- the folds ----------------------------------------------------------------------------------------------------


def _drawn(store: Store, group_n: Int64, labels: Labels | None, n_folds: int, seed: int) -> tuple[Folds, list[str]]:
    size_g = np.bincount(group_n)
    if len(size_g) < n_folds:
        n_persons = len(np.unique(_persons(store)))
        alike = f", as some of {n_persons} have nearly the same recordings" if n_persons > len(size_g) else ""
        fewer = "ask for fewer folds (--folds)" if len(size_g) > 1 else "one patient can't be split"
        raise ConfigError(
            "there are fewer patients than folds",
            where=store.path,
            expected=f"{n_folds} patients or more",
            got=f"{len(size_g)}{alike}",
            fix=f"{fewer}; `ecgstore overlap` shows which stay together" if alike else fewer,
        )
    labels = labels or Labels((), np.empty(0, np.int64), np.empty(0, np.int64))
    n_labels = len(labels.names)
    pairs, n_p = np.unique(group_n[labels.row_p] * max(n_labels, 1) + labels.label_p, return_counts=True)
    positives = Positives(pairs // max(n_labels, 1), pairs % max(n_labels, 1), n_p)
    fold_g = iterative_folds(n_folds, size_g, positives, n_labels, seed)
    n_groups_l = np.bincount(positives.label_p, minlength=n_labels)
    rare = [name for name, n in zip(labels.names, n_groups_l.tolist(), strict=True) if n < n_folds]
    notes = []
    is_stated_l = np.array([not name.endswith(f" {_NOT_STATED}") for name in labels.names], dtype=np.bool_)
    if n_labels and n_groups_l[is_stated_l].max(initial=0) <= 1:
        notes.append("no two patients share any of what was asked for, so that folds are balanced by nothing")
    elif len(labels.label_p) and (n_groups_l == len(size_g)).sum() == 1 == np.count_nonzero(n_groups_l):
        notes.append("all patients have the same of what was asked for, so that folds are balanced by nothing")
    elif rare:
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        notes.append(f"too few patients to be in every fold: {', '.join(rare[:_NAMED])}{more}")
    return (fold_g[group_n] + 1).astype(np.int16), notes


def _by_site(store: Store, group_n: Int64) -> tuple[Folds, dict[int, str], list[str]]:
    """A fold for each site, in alphabetical order; who is of several sites, or of none, is in no fold."""
    site_n = store.column("site") if "site" in store.records.column_names else np.full(store.n_records, "", object)
    sites = sorted(set(site_n.tolist()) - {""})
    if not 2 <= len(sites) <= MAX_FOLDS:
        raise ConfigError(
            "a fold for each site needs several sites",
            where=store.path,
            expected=f"2 to {MAX_FOLDS}",
            got=len(sites),
            fix="name the column of sites when you ingest",
        )
    number = {site: fold for fold, site in enumerate(sites, start=1)}
    fold_n = np.array([number.get(site, -1) for site in site_n.tolist()], dtype=np.int16)
    notes = []
    if nowhere := int((fold_n < 0).sum()):
        notes.append(f"{nowhere} records name no site and are in no fold")
    n_groups = int(group_n.max()) + 1
    low_g, high_g = np.full(n_groups, MAX_FOLDS + 1), np.zeros(n_groups, dtype=np.int64)
    stated = fold_n > 0
    np.minimum.at(low_g, group_n[stated], fold_n[stated])
    np.maximum.at(high_g, group_n[stated], fold_n[stated])
    astride_n = (low_g < high_g)[group_n] & stated
    if astride_n.any():
        fold_n[astride_n] = -1
        notes.append(
            f"{int(astride_n.sum())} records are of patients or recordings of several sites, and are in no fold"
        )
    if len(np.unique(fold_n[fold_n > 0])) < len(sites):
        gone = sorted(site for site, fold in number.items() if not (fold_n == fold).any())
        raise ConfigError(
            "all records of a site are of patients who are at others, too", where=store.path, got=", ".join(gone[:5])
        )
    return fold_n, {fold: site for site, fold in number.items()}, notes
