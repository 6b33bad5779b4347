"""Room of tasks: one file each says what is predicted, from which statements.

A task's file offers ``DESCRIPTION``, ``LABEL_SETS`` (name to what it holds) and
``targets(store, label_set) -> Targets``. A task is addressed as ``file/label_set``, like
``ptbxl/superdiagnostic``. A file whose label sets can't be listed says ``is_label_set(text) -> bool``, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ecgstore import ConfigError, Store, occupants
from ecgstore.inner import nearest, occupant
from ecgtrain.errors import ProtocolError


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """What is to be predicted for every record of one store.

    ``y_nc`` is bool (records of the store, classes): which record is stated to be of which class.
    ``rows_with_label`` (int64, ascending) are the records with any statement of the label set; the others
    were not judged in its terms, so they are neither positive nor negative and take no part.
    ``titles`` spells the classes out. ``dropped`` says which classes of the label set are not here, and why;
    ``caveats`` are sentences that belong to every result.
    """

    task: str
    classes: tuple[str, ...]
    y_nc: npt.NDArray[np.bool_]
    rows_with_label: npt.NDArray[np.int64]
    titles: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def labelled(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of ``rows`` that have a label, ascending and each once."""
        return np.intersect1d(rows, self.rows_with_label)

    def fittable(self, train_rows: npt.NDArray[np.int64]) -> Targets:
        """Drop the classes that no record among ``train_rows`` has: nothing can be learned of them.

        Which records have a label stays as it is: a record whose only class is dropped still says "no" to the
        others.
        """
        seen_c: npt.NDArray[np.bool_] = np.any(self.y_nc[self.labelled(train_rows)], axis=0)
        gone = {name: "no training record has it" for name, seen in zip(self.classes, seen_c, strict=True) if not seen}
        return replace(
            self,
            classes=tuple(name for name in self.classes if name not in gone),
            y_nc=self.y_nc[:, seen_c],
            dropped={**self.dropped, **gone},
        )


def from_statements(
    store: Store, task: str, system: str, codes_of: Mapping[str, Sequence[str]], titles: Mapping[str, str]
) -> Targets:
    """Targets of classes that statements make: ``codes_of`` says which codes of ``system`` make a record one of which.

    A code that the store's sources never state is not a "no": a class of which no code is in their vocabulary
    is dropped and listed, not counted as "no" everywhere. Of a class with several codes, those that are in
    the vocabulary decide. Where sites have vocabularies of their own, a record takes part only if its site states
    a code of every class that is left.

    Raises ProtocolError where the vocabulary holds none of the codes.
    """
    vocabulary = store.vocabulary(system)
    known = {name: [code for code in of if code in vocabulary] for name, of in codes_of.items()}
    known = {name: of for name, of in known.items() if of}
    if not known:
        raise ProtocolError(
            f"the sources of this store state none of the {system} codes of task {task}",
            where=store.path,
            fix="absent is not negative: choose a task that fits the store, or another store",
        )
    codes = tuple(code for of in known.values() for code in of)
    column = {code: k for k, code in enumerate(codes)}
    stated_nk, is_known_nk = store.statement_matrix(codes, system), store.statement_mask(codes, system)
    columns = [[column[code] for code in of] for of in known.values()]
    y_nc = np.stack([stated_nk[:, its].any(axis=1) for its in columns], axis=1)
    is_judged_n = np.all([is_known_nk[:, its].any(axis=1) for its in columns], axis=0)
    unjudged = int((y_nc.any(axis=1) & ~is_judged_n).sum())
    said = f"{unjudged} records with a label took no part: their site never states some of the classes"
    return Targets(
        task=task,
        classes=tuple(known),
        y_nc=y_nc,
        rows_with_label=np.flatnonzero(y_nc.any(axis=1) & is_judged_n),
        titles={name: titles[name] for name in known if name in titles},
        dropped={name: "the store's sources never state it" for name in codes_of if name not in known},
        caveats=(said,) if unjudged else (),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """One question: a task's file together with one of its label sets."""

    room: str
    label_set: str

    @property
    def name(self) -> str:
        """Its address."""
        return f"{self.room}/{self.label_set}"

    def targets(self, store: Store) -> Targets:
        """Its targets for every record of ``store``; raises ProtocolError where the store can't answer it."""
        targets: Targets = occupant(__name__, self.room).targets(store, self.label_set)
        return targets


def names() -> tuple[str, ...]:
    """Addresses of all tasks, by listing the room."""
    return tuple(f"{room}/{one}" for room in occupants(__name__) for one in occupant(__name__, room).LABEL_SETS)


def load(name: str) -> Task:
    """Find the task addressed as ``file/label_set``; raises ConfigError naming the nearest match."""
    # Of a file's path the last part is the label set.
    room, _, label_set = name.rpartition("/") if ".py/" in name else name.partition("/")
    file = occupant(__name__, room)
    known: Mapping[str, str] = file.LABEL_SETS
    if not getattr(file, "is_label_set", known.__contains__)(label_set):
        raise unknown_label_set(label_set, known, room)
    return Task(room, label_set)


def unknown_label_set(label_set: str, known: Mapping[str, str], room: str) -> ConfigError:
    """The error that says which label set was probably meant."""
    near = nearest(label_set, known)
    return ConfigError(
        f"unknown label set {label_set!r}" if label_set else "a task reads file/label_set",
        where=f"task {room}/{label_set}",
        fix=f"did you mean {room}/{near}?" if near else f"known: {', '.join(f'{room}/{one}' for one in known)}",
    )
