"""The test records that an answer is most wrong about, from the predictions that a run keeps; some as ECG pages.

They are found anew for each page and stand in no ``report.json``: an export holds that file, and names no record.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore import ConfigError, EcgError, Store, open_store, record_png
from ecgtrain.data.parquet import read_table
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.words import NULLS
from ecgtrain.training.files import read_json
from ecgtrain.training.layout import HEAD_ABOUT, PREDICTIONS, answer, one_of_seeds

#: Records of a table, and classes told of one.
N_RECORDS, _MOST_SAID = 6, 5
#: ECG pages of a report, unless somebody asks for another number: each makes it 60 kB larger.
N_PAGES = 6
#: A head has fewer classes.
_MOST_CLASSES = 10_000

Floats = npt.NDArray[np.float64]


class Wrong(NamedTuple):
    """One record: what it states, what is most wrong, what is said of it; ``picture``: its page, a PNG in base64."""

    record_id: str
    stated: str
    wrong: str
    said: str
    picture: str = ""


class Worst(NamedTuple):
    """Those of one answer, the most wrong first; ``note``: what is to be said of them."""

    run: str | None
    name: str
    pretraining: str
    records: tuple[Wrong, ...]
    note: str = ""

    def is_of(self, result: Result) -> bool:
        """Whether that is the answer."""
        return (self.run, self.name, self.pretraining) == (result.run, result.name, result.pretraining)


def worst_of(run_dir: Path, results: Sequence[Result]) -> list[Worst]:
    """Those of each answer of a run that has predictions, but of its nulls; of several seeds, of the first."""
    found = []
    first = one_of_seeds(run_dir) or run_dir
    for result in results:
        if result.pretraining in NULLS:
            continue
        try:
            folder = answer(first, result.name, result.pretraining)
            if not _is_below(folder, first) or not (folder / PREDICTIONS).is_file():
                continue
            records, note = _records(folder, result), ""
        except (CheckpointError, OSError, ValueError) as error:
            records, note = (), f"The predictions can't be read: {error}."
        found.append(Worst(result.run, result.name, result.pretraining, records, note))
    return found


def _is_below(folder: Path, run_dir: Path) -> bool:
    """Names of questions come from a file, and may lead anywhere."""
    return folder.resolve().is_relative_to(run_dir.resolve())


def _records(folder: Path, result: Result) -> tuple[Wrong, ...]:
    classes = read_json(folder / HEAD_ABOUT).get("classes")
    if not isinstance(classes, list) or not 0 < len(classes) <= _MOST_CLASSES:
        raise ValueError("the head names no classes")
    names = [str(name) for name in classes]
    is_number = result.kind == "regression"
    said, stated = "predicted" if is_number else "probability", pa.float64() if is_number else pa.bool_()
    columns = {"record_id": pa.string()}
    columns |= {f"{said}:{name}": pa.float64() for name in names} | {f"stated:{name}": stated for name in names}
    table = read_table(folder / PREDICTIONS, columns)
    ids = table["record_id"]
    said_rc = _matrix(table, [f"{said}:{name}" for name in names])
    stated_rc = _matrix(table, [f"stated:{name}" for name in names])
    if is_number:
        far_r = np.linalg.norm(said_rc - stated_rc, axis=1)
        return tuple(_number(str(ids[r].as_py()), stated_rc[r], said_rc[r], names, result.unit) for r in _most(far_r))
    off_rc = np.abs(stated_rc - said_rc)
    wrong_r = np.where(stated_rc > 0, off_rc, 0).max(axis=1) if result.kind == "exclusive" else off_rc.max(axis=1)
    titles = {name: one.title for name, one in result.per_class.items()}
    return tuple(_classes(str(ids[r].as_py()), stated_rc[r] > 0, said_rc[r], names, titles) for r in _most(wrong_r))


def _matrix(table: pa.Table, columns: Sequence[str]) -> Floats:
    """(records, columns); what is not known is 0, and so never the most wrong."""
    found = [
        # Of a chunk, and not of the column: that would import pandas.
        np.concatenate([np.zeros(0), *(chunk.cast(pa.float64()).to_numpy(False) for chunk in table[name].chunks)])
        for name in columns
    ]
    matrix: Floats = np.nan_to_num(np.stack(found, axis=1), posinf=0.0, neginf=0.0)
    return matrix


def _most(wrong_r: Floats) -> list[int]:
    return [int(r) for r in np.argsort(-wrong_r, kind="stable")[:N_RECORDS]]


def _classes(
    record_id: str,
    stated_c: npt.NDArray[np.bool_],
    said_c: Floats,
    names: Sequence[str],
    titles: Mapping[str, str],
) -> Wrong:
    worst = int(np.abs(stated_c - said_c).argmax())
    title = titles.get(names[worst])
    which = f"{names[worst]} ({title})" if title else names[worst]
    told = [c for c in np.argsort(-said_c, kind="stable") if stated_c[c] or said_c[c] >= 0.5][:_MOST_SAID]
    return Wrong(
        record_id,
        ", ".join(itertools.compress(names, stated_c)) or "none of the classes",
        f"{which}: {'stated' if stated_c[worst] else 'not stated'}, said with {_share(said_c[worst])}",
        ", ".join(f"{names[c]} {_share(said_c[c])}" for c in told) or "no class with 0.5 or more",
    )


def _share(value: float) -> str:
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def _number(record_id: str, known_c: Floats, said_c: Floats, names: Sequence[str], unit: str) -> Wrong:
    def told(value_c: Floats) -> str:
        if len(names) == 1:
            return f"{value_c[0]:.4g} {unit}".rstrip()
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, value_c, strict=True))

    off = said_c[0] - known_c[0] if len(names) == 1 else np.linalg.norm(said_c - known_c)
    by = f"{off:+.4g}".replace("-", "−") if len(names) == 1 else f"{off:.4g}"
    return Wrong(record_id, told(known_c), f"off by {by} {unit}".rstrip(), told(said_c))


def with_pages(worst: Sequence[Worst], results: Sequence[Result], n_pages: int | None) -> list[Worst]:
    """The same with ECG pages of the first ``n_pages`` records, in turns from every answer.

    None: N_PAGES of them, and none of a store whose sources may not be passed on. Raises ConfigError for a negative
    number. Where a store isn't there any more, or is another, the note says that.
    """
    if n_pages is not None and n_pages < 0:
        raise ConfigError("the number of ECG pages can't be negative", got=n_pages)
    stores: dict[str, Store | str] = {}
    left = N_PAGES if n_pages is None else n_pages
    of = [next(result for result in results if one.is_of(result)) for one in worst]
    drawn: dict[tuple[int, int], str] = {}
    why = [""] * len(worst)
    for turn, i in itertools.product(range(N_RECORDS), range(len(worst))):
        if left <= 0 or why[i] or turn >= len(worst[i].records):
            continue
        store = _store(of[i], stores, is_asked_for=n_pages is not None)
        page = store if isinstance(store, str) else _page(store, worst[i].records[turn].record_id)
        if isinstance(page, str):
            why[i] = f"ECG pages are left out: {page}."
            continue
        drawn[i, turn] = base64.b64encode(page).decode()
        left -= 1
    return [
        one._replace(
            records=tuple(wrong._replace(picture=drawn.get((i, r), "")) for r, wrong in enumerate(one.records)),
            note=" ".join(filter(None, (one.note, why[i]))),
        )
        for i, one in enumerate(worst)
    ]


def _store(result: Result, opened: dict[str, Store | str], *, is_asked_for: bool) -> Store | str:
    """The store of an answer, or why none of its records is shown."""
    if result.store not in opened:
        opened[result.store] = _opened(result.store, is_asked_for=is_asked_for)
    store = opened[result.store]
    if isinstance(store, Store) and store.fingerprint != result.store_fingerprint:
        return f"another store stands at {result.store} now"
    return store


def _opened(path: str, *, is_asked_for: bool) -> Store | str:
    if "://" in path:
        return f"{path} is not on this machine"
    try:
        store = open_store(path)
    except EcgError:
        return f"the store is not at {path} any more"
    bound = [terms.name for terms in store.terms if not terms.redistributable]
    if bound and not is_asked_for:
        return (
            f"recordings of {', '.join(bound)} may not be passed on, and a page with them may not either. "
            f"`ecgtrain report RUN --pages {N_PAGES}` draws them"
        )
    return store


def _page(store: Store, record_id: str) -> bytes | str:
    try:
        return record_png(store, record_id)
    except EcgError as error:
        return str(error)
