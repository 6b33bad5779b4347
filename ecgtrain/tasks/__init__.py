"""Room of tasks: one file each says what is predicted, from which statements.

A task's file offers ``DESCRIPTION``, ``LABEL_SETS`` (name to what it holds) and
``targets(store, label_set) -> Targets``. A task is addressed as ``file/label_set``, like
``ptbxl/superdiagnostic``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ecgstore import ConfigError, Store, occupants
from ecgstore.inner import occupant


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """What is to be predicted for every record of one store.

    ``y_nc`` is bool (records of the store, classes): which record is stated to be of which class.
    ``rows_with_label`` (int64, ascending) are the records with any statement of the label set; the others
    were not judged in its terms, so they are neither positive nor negative and take no part.
    ``titles`` spells the classes out. ``dropped`` says which classes of the label set are not here, and why.
    """

    task: str
    classes: tuple[str, ...]
    y_nc: npt.NDArray[np.bool_]
    rows_with_label: npt.NDArray[np.int64]
    titles: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

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
    known: Mapping[str, str] = occupant(__name__, room).LABEL_SETS
    if label_set not in known:
        raise unknown_label_set(label_set, known, room)
    return Task(room, label_set)


def unknown_label_set(label_set: str, known: Mapping[str, str], room: str) -> ConfigError:
    """The error that says which label set was probably meant."""
    near = difflib.get_close_matches(label_set, known, n=1)
    return ConfigError(
        f"unknown label set {label_set!r}" if label_set else "a task reads file/label_set",
        where=f"task {room}/{label_set}",
        fix=f"did you mean {room}/{near[0]}?" if near else f"known: {', '.join(f'{room}/{one}' for one in known)}",
    )
