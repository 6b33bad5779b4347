"""Which records are trained on, who is left out, who was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgstore import ConfigError, Store, open_shared, with_split
from ecgstore.inner import nearest
from ecgtrain.data.feed import Part
from ecgtrain.data.parquet import read_table
from ecgtrain.data.plan import Int64
from ecgtrain.data.settings import Data
from ecgtrain.errors import LeakageError, PassportError, ProtocolError
from ecgtrain.tasks import Targets
from ecgtrain.views.passport import Passport


def open_under(path: str, split: str | None) -> Store:
    """The store at ``path``, under the folds of the table ``split`` if there is one; raises what reading them does."""
    store = open_shared(path)
    return store if split is None else with_split(store, split)


def refuse_unexpected(data: Data, store: Store) -> None:
    """Raise PassportError where ``store`` was not prepared as ``data.expects`` says."""
    for key, expected in data.expects.items():
        got = store.fs_hz if key == "fs_hz" else store.recipe.get(key)
        if not _is_as(expected, got):
            raise PassportError(
                f"the recipe expects a store that was prepared otherwise: {key} differs",
                where=store.path,
                expected=_in_short(expected),
                got=_in_short(got),
                fix="ingest the records so (see the recipe's head), or take the store as it is: data.expects={}",
            )


def _is_as(expected: Any, got: Any) -> bool:
    """Whether ``got`` is what is expected; of a mapping only what is named is compared."""
    match expected, got:
        case dict(), dict():
            return all(name in got and _is_as(value, got[name]) for name, value in expected.items())
        case list() | tuple(), list() | tuple():
            return len(expected) == len(got) and all(map(_is_as, expected, got))
    return bool(expected == got)


def _in_short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_in_short(one) for one in value) or "none"
    if isinstance(value, dict):
        name = value.get("name", "")
        return f"{name}({', '.join(f'{key} {its}' for key, its in value.items() if key != 'name')})"
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def what_folds(store: Store) -> str:
    """What to do where folds that were asked for have no record."""
    there = sorted(set(store.column("fold").tolist()) - {-1})
    if there:
        of = "its split table" if store.split_sha256 is not None else "the store"
        return f"choose other folds: {of} has {', '.join(map(str, there[:20]))}{', …' if len(there) > 20 else ''}"
    if store.split_sha256 is not None:
        return (
            "its split table puts no record into any fold: draw another with `ecgstore split`, or leave the table out"
        )
    return f"the store has no folds: draw some with `ecgstore split {store.path}`, and name the table (data.split)"


#: Published and drawn splits mostly have folds 1 to 10. A part of such a source may lack some of them.
MOST_FOLDS = 10


def refuse_absent_folds(folds: Iterable[int] | None, stores: Sequence[Store], key: str) -> None:
    """Raise ProtocolError where the setting ``key`` names a fold that none of ``stores`` can have: it is misspelt.

    Of those that they could have, some may be of nobody: see :func:`folds_of_nobody`.
    """
    there = {fold for store in stores for fold in store.column("fold").tolist() if fold >= 0}
    drawn = max(int(store.attributes.get("folds_drawn", 0)) for store in stores)
    last = max(drawn, MOST_FOLDS, *there, -1)
    absent = [fold for fold in sorted(set(folds or ())) if fold > last]
    if absent:
        raise ProtocolError(
            f"no record is in fold {', '.join(map(str, absent))}",
            where=f"{key}, {', '.join(store.path for store in stores)}",
            fix=what_folds(stores[0]),
        )


def folds_of_nobody(folds: Iterable[int] | None, stores: Sequence[Store], key: str) -> tuple[str, ...]:
    """A sentence on those of the setting ``key`` that no record of any of ``stores`` is in, if there are any."""
    absent = sorted(set(folds or ()).difference(*(store.column("fold").tolist() for store in stores)))
    return (f"No record is in fold {', '.join(map(str, absent))} of {key}.",) if absent else ()


def refuse_absent_leads(leads: Sequence[str] | None, store: Store) -> None:
    """Raise ConfigError where ``data.leads`` names one that the store hasn't."""
    _refuse_absent("data.leads", leads or (), store.leads, [store])


def _refuse_absent(key: str, wanted: Iterable[str], known: Sequence[str], stores: Sequence[Store]) -> None:
    for name in wanted:
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(
                f"{key} names {name!r}, which is not there",
                where=", ".join(store.path for store in stores),
                expected=f"some of {', '.join(known[:20])}{', …' if len(known) > 20 else ''}" if known else "nothing",
                fix=f"did you mean {near}?" if near else None,
            )


def _names(stores: Sequence[Store], column: str) -> list[str]:
    return sorted({str(name) for store in stores for name in store.column(column).tolist()} - {""})


def refuse_nothing_left(data: Data, parts: Sequence[Part], folds: Sequence[int] | None, key: str) -> None:
    """Raise ProtocolError, naming the setting that left none, where ``parts``, those of the setting ``key``, are empty.

    Of several stores it is the setting that left no record of the first.
    """
    if any(len(part.rows) for part in parts):
        return
    store, whole = parts[0].store, Data(store=data.store)
    for name in ("sources", "sites", "where", "exclude_sources", "exclude_folds"):
        whole = whole.model_copy(update={name: getattr(data, name)})
        rows = store.select(folds=folds, sources=whole.sources, sites=whole.sites, where=whole.where)
        if not len(_wanted(Part(store, rows), whole, None)):
            break
    else:
        name = "exclude_patients"
    raise ProtocolError(
        f"no record is selected of {key}: data.{name} leaves none",
        where=", ".join(part.store.path for part in parts),
        got=repr(getattr(data, name)),
        fix=f"change data.{name}, or choose other folds",
    )


def select_parts(data: Data, store: Store, folds: Sequence[int] | None, passport: Passport) -> list[Part]:
    """The records of ``folds`` (None: all) that ``data`` selects, in ``store`` and in the stores mixed in.

    Raises PassportError if a store was prepared otherwise than ``store``, ConfigError if a source or site is not there,
    or the list of patients to leave out can't be read or is of nobody here, and ProtocolError if a fold to leave out is
    not there.
    """
    _refuse_absent("data.sources", data.sources or (), _names([store], "source"), [store])
    _refuse_absent("data.sites", data.sites or (), _names([store], "site"), [store])
    rows = store.select(folds=folds, sources=data.sources, sites=data.sites, where=data.where)
    parts = [Part(store, rows, data.weight)]
    for other in data.stores:
        mixed = open_under(other.path, other.split)
        passport.refuse_other(mixed)
        parts.append(Part(mixed, mixed.select(folds=folds, where=other.where), other.weight))
    stores = [part.store for part in parts]
    _refuse_absent("data.exclude_sources", data.exclude_sources, _names(stores, "source"), stores)
    refuse_absent_folds(data.exclude_folds, stores, "data.exclude_folds")
    unwanted = None if data.exclude_patients is None else _patients(Path(data.exclude_patients), parts)
    return [part._replace(rows=_wanted(part, data, unwanted)) for part in parts]


def _wanted(part: Part, data: Data, unwanted: frozenset[str] | None) -> Int64:
    store, rows, _ = part
    kept = ~np.isin(store.column("source")[rows], data.exclude_sources)
    kept &= ~np.isin(store.column("fold")[rows], data.exclude_folds)
    if unwanted is not None:
        kept &= ~np.isin(store.column("patient_key")[rows].astype(str), sorted(unwanted))
    return rows[kept]


def _patients(path: Path, parts: Sequence[Part]) -> frozenset[str]:
    """The patient keys that a file lists."""
    try:
        if path.suffix == ".parquet":
            keys = read_table(path, {"patient_key": pa.string()})["patient_key"].to_pylist()
        else:
            keys = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError("the patients to leave out can't be read", where=path, got=said) from error
    listed = frozenset(key for key in keys if key)
    here = {str(key) for part in parts for key in part.store.column("patient_key")}
    if not listed & here:
        raise ConfigError(
            "none of the patients to leave out is in the stores",
            where=path,
            expected=f"keys such as {next(iter(sorted(here - {''})), 'these stores have none')}",
            got=f"{len(listed)} keys",
            fix="take the keys of records.parquet; they hang on the key that patients were hashed with",
        )
    return listed


def labelled_parts(parts: list[Part], targets: Targets | None) -> list[Part]:
    """The records that have a target at all; all of them where none is learned."""
    if targets is None:
        return parts
    return [part._replace(rows=targets.labelled(part.rows)) for part in parts]


def refuse_shared_patients(parts: Sequence[Part], validation_parts: Sequence[Part]) -> None:
    seen, held_out = (
        {str(key) for part in some for key in part.store.column("patient_key")[part.rows]}
        for some in (parts, validation_parts)
    )
    shared = (seen & held_out) - {""}
    if shared:
        raise LeakageError(
            f"{len(shared)} patients are in the training and in the validation folds",
            where=", ".join(part.store.path for part in parts),
            fix="draw folds by patient: ecgstore split",
        )
