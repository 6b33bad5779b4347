"""Room of tasks: one file each says what is predicted, from which statements or columns.

A task's file offers ``DESCRIPTION`` and, for what is asked of it, one of two:

- ``LABEL_SETS`` (name to what it holds) and ``targets(store, label_set) -> Targets``: it is addressed as
  ``file/label_set``, like ``ptbxl/superdiagnostic``;
- ``Settings`` and ``targets(store, settings) -> Targets``: it is asked by a mapping of its settings, with the file's
  name as ``kind``, like ``{kind: regression, column: age_years}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, JsonValue

from ecgstore import ConfigError, Settings, Store
from ecgstore.inner import nearest, occupant, occupants, parse
from ecgtrain.errors import ProtocolError

#: What a task's columns are: classes of which a record may be of several, classes of which it is of one, or numbers.
TargetKind = Literal["multilabel", "exclusive", "regression"]

#: How a task is named in a recipe: ``file/label_set``, or a mapping of its settings.
Asked = str | Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Challenge:
    """How a challenge rewards what is said of a record, over all of its classes, whether they can be predicted or not.

    ``y_nc``: bool (records of the store, classes). ``reward_cc`` [i, j]: for saying j where i is true. ``normal``: the
    class that is always said in the answer that counts 0.
    """

    classes: tuple[str, ...]
    y_nc: npt.NDArray[np.bool_]
    reward_cc: npt.NDArray[np.float64]
    normal: str


@dataclass(frozen=True, eq=False, slots=True)
class Places:
    """Where classes that exclude each other lie in the heart, or that three numbers are a place in it, in mm.

    ``neighbours``: the classes that touch a class, mutual. ``centroid_mm``: the middle of a class, where it is known.
    ``is_point``: the columns are x, y and z. ``in_reference_heart``: the heart in which ways through the muscle are
    known (:func:`ecgstore.inner.reference_heart`).
    """

    neighbours: Mapping[str, frozenset[str]] = field(default_factory=dict)
    centroid_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    is_point: bool = False
    in_reference_heart: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """What is to be predicted for every record of one store.

    ``y_nc`` (records of the store, classes) is bool: which record is stated to be of which class. Of the kind
    ``regression`` it is float64: numbers in ``unit``, NaN where none is known.
    ``rows_with_label`` (int64, ascending) are the records that can be judged in these terms; the others
    are neither positive nor negative and take no part.
    ``titles`` spells the classes out. ``dropped`` says which classes of the label set are not here, and why;
    ``caveats`` are sentences that belong to every result. ``named``: whoever asked has named each class, so that a
    question in which one of them has no record is refused; ``unknown``: those that could only be misspelt, each with
    a hint. ``challenge``: where one is to score the answer, too. ``places``: where the columns lie in the heart.
    """

    task: str
    classes: tuple[str, ...]
    y_nc: npt.NDArray[Any]
    rows_with_label: npt.NDArray[np.int64]
    titles: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    kind: TargetKind = "multilabel"
    unit: str = ""
    named: bool = False
    unknown: Mapping[str, str] = field(default_factory=dict)
    challenge: Challenge | None = None
    places: Places | None = None

    def labelled(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of ``rows`` that have a label, ascending and each once."""
        return np.intersect1d(rows, self.rows_with_label)

    def fittable(self, train_rows: npt.NDArray[np.int64]) -> Targets:
        """Drop the classes that no record among ``train_rows`` has: nothing can be learned of them.

        Which records have a label stays as it is: a record whose only class is dropped still says "no" to the
        others. Where classes exclude each other it is of none of them, and takes no part.
        """
        if self.kind == "regression":
            return self
        seen_c: npt.NDArray[np.bool_] = np.any(self.y_nc[self.labelled(train_rows)], axis=0)
        gone = {name: "no training record has it" for name, seen in zip(self.classes, seen_c, strict=True) if not seen}
        y_nc, rows = self.y_nc[:, seen_c], self.rows_with_label
        return replace(
            self,
            classes=tuple(name for name in self.classes if name not in gone),
            y_nc=y_nc,
            rows_with_label=rows[y_nc[rows].any(axis=1)] if self.kind == "exclusive" else rows,
            dropped={**self.dropped, **gone},
        )


#: So many classes are named in a sentence; the rest is counted.
MOST_NAMED = 4

#: Which records take part beside those of some class: none, those that state any code of the system, or all.
Negative = Literal["of_the_set", "stated", "any"]


def from_statements(
    store: Store,
    task: str,
    system: str,
    codes_of: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    negative: Negative = "of_the_set",
    *,
    by_site: bool = True,
) -> Targets:
    """Targets of classes that statements make: ``codes_of`` says which codes of ``system`` make a record one of which.

    A code that the store's sources never state is not a "no": a class of which no code is in their vocabulary
    is dropped and listed, not counted as "no" everywhere. Of a class with several codes, those that are in
    the vocabulary decide. Where sites have vocabularies of their own, a record takes part only if its site states
    a code of every class that is left; unless ``by_site`` is false: then all sites are taken to have one list.

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
    is_known_nc = np.stack([is_known_nk[:, its].any(axis=1) for its in columns], axis=1)
    is_judged_n = is_known_nc.all(axis=1) | (not by_site)
    has_label_n = y_nc.any(axis=1)
    if negative != "of_the_set":
        has_label_n |= negative == "any" or states_any(store, system)
    unjudged = has_label_n & ~is_judged_n
    by_all_c: npt.NDArray[np.bool_] = np.all(is_known_nc[unjudged], axis=0)
    never = [name for name, of_all in zip(known, by_all_c, strict=True) if not of_all]
    said = f"{unjudged.sum()} records with a label took no part: their site never states {_some(never)}"
    return Targets(
        task=task,
        classes=tuple(known),
        y_nc=y_nc,
        rows_with_label=np.flatnonzero(has_label_n & is_judged_n),
        titles={name: titles[name] for name in known if name in titles},
        dropped={name: "the store's sources never state it" for name in codes_of if name not in known},
        caveats=(said,) if unjudged.any() else (),
    )


def _some(names: Sequence[str]) -> str:
    shown = " or ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} or {len(names) - MOST_NAMED} more of the classes"


def one_each(targets: Targets) -> Targets:
    """The same with classes that exclude each other: of records of exactly one class, and a word on the others."""
    n_classes_n = targets.y_nc[targets.rows_with_label].sum(axis=1)
    several = int((n_classes_n > 1).sum())
    said = f"{several} records took no part: they state more than one of the classes"
    return replace(
        targets,
        kind="exclusive",
        rows_with_label=np.asarray(targets.rows_with_label[n_classes_n == 1]),
        caveats=(*targets.caveats, *([said] if several else [])),
    )


def states_any(store: Store, system: str) -> npt.NDArray[np.bool_]:
    """Which records state any code of ``system``, bool (records,)."""
    table = store.statements
    stated_n = np.zeros(store.n_records, dtype=np.bool_)
    of_system = np.array(table["system"].to_pylist(), dtype=object) == system
    stated_n[np.asarray(table["row"].to_numpy())[of_system]] = True
    return stated_n


@dataclass(frozen=True, slots=True)
class Task:
    """One question: a task's file together with one of its label sets, or with its settings.

    ``room``: the file's name, or its path. ``content``: as it stands in a recipe, with all settings written out.
    """

    room: str
    asked: str | Settings

    @property
    def content(self) -> str | dict[str, Any]:
        """How a recipe names it."""
        if isinstance(self.asked, str):
            return f"{self.room}/{self.asked}"
        return {"kind": self.room, **self.asked.model_dump(mode="json")}

    @property
    def name(self) -> str:
        """What it is called in a table: its address, or the file's name with the settings that are not the default."""
        return name_of(self.content)

    def targets(self, store: Store) -> Targets:
        """Its targets for every record of ``store``; raises ProtocolError where the store can't answer it."""
        targets: Targets = _file_of(self.room).targets(store, self.asked)
        return replace(targets, task=self.name)


def names() -> tuple[str, ...]:
    """Addresses of all tasks that have one, by listing the room."""
    files = ((room, occupant(__name__, room)) for room in occupants(__name__))
    return tuple(f"{room}/{one}" for room, file in files for one in getattr(file, "LABEL_SETS", ()))


def load(asked: Asked) -> Task:
    """Find a task by its address, ``file/label_set``, or by a mapping of its settings.

    Raises ConfigError naming the nearest match.
    """
    room, label_set = _parts(asked)
    file = _file_of(room)
    if hasattr(file, "Settings"):
        if isinstance(asked, str):
            raise ConfigError(
                f"the task {_short(room)} is asked by its settings",
                got=asked[:100],
                expected=f"task: {{kind: {_short(room)}, …}}, with {', '.join(file.Settings.model_fields)}",
            )
        content = {str(key): value for key, value in asked.items() if key != "kind"}
        return Task(room, parse(file.Settings, content, where=f"task {_short(room)}"))
    if not isinstance(asked, str) and set(asked) != {"kind", "labels"}:
        raise unknown_label_set("", file.LABEL_SETS, room)
    if label_set not in file.LABEL_SETS:
        raise unknown_label_set(label_set, file.LABEL_SETS, room)
    return Task(room, label_set)


def written_out(asked: Any) -> str | dict[str, Any]:
    """A task as a recipe holds it: with all settings, where its file is one of the room's.

    A file of one's own is not run for that: it may not have been named yet. Raises ConfigError.
    """
    if not isinstance(asked, str | Mapping):
        raise ConfigError("a task is file/label_set, or a mapping with a kind", got=repr(asked)[:100])
    if isinstance(asked, str) or own_file_of(asked) is not None:
        return asked if isinstance(asked, str) else dict(asked)
    return load(asked).content


#: A task in a recipe.
TaskSettings = Annotated[str | dict[str, JsonValue], BeforeValidator(written_out)]


def own_file_of(asked: Asked) -> str | None:
    """The path of the file that a task is, if it is one of its own and none of the room's."""
    room = _parts(asked)[0]
    return room if room.endswith(".py") else None


def with_file(asked: Asked, path: str) -> str | dict[str, Any]:
    """The same task with its file at another place."""
    label_set = _parts(asked)[1]
    return f"{path}/{label_set}" if isinstance(asked, str) else {**asked, "kind": path}


def name_of(asked: Asked) -> str:
    """What a task is called in a table; of a file of its own, its name stands there without the folder."""
    room, label_set = _parts(asked)
    if isinstance(asked, str):
        return f"{_short(room)}/{label_set}" if label_set else _short(room)
    told = [_told(key, value) for key, value in asked.items() if key != "kind"]
    return f"{_short(room)}: {', '.join(filter(None, told))}"


def _told(key: str, value: Any) -> str:
    """A setting in a name: what is not the default, and short."""
    if value is None or value is False or (key, value) in (("negative", "stated"), ("vocabulary", "site")):
        return ""
    if value is True:
        return key
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        some = [str(one) for one in value]
        return " ".join(some[:6]) + (f" and {len(some) - 6} more" if len(some) > 6 else "")
    return str(value) if isinstance(value, str) and key not in ("negative", "vocabulary") else f"{key} {value}"


def _short(room: str) -> str:
    return Path(room).name if room.endswith(".py") else room


def _parts(asked: Asked) -> tuple[str, str]:
    """The task's file, and the label set or ""."""
    if not isinstance(asked, str):
        if not isinstance(asked.get("kind"), str):
            raise ConfigError(
                "a task needs a kind",
                got=repr(dict(asked))[:100],
                expected=f"kind: one of {', '.join(occupants(__name__))}",
            )
        return str(asked["kind"]), str(asked.get("labels", ""))
    # Of a file's path the last part is the label set.
    room, _, label_set = asked.rpartition("/") if ".py/" in asked else asked.partition("/")
    return room, label_set


def _file_of(room: str) -> ModuleType:
    file = occupant(__name__, room)
    if not hasattr(file, "targets") or not (hasattr(file, "LABEL_SETS") or hasattr(file, "Settings")):
        raise ConfigError(
            "the file is no task", where=room, expected="targets(store, …), with LABEL_SETS or Settings beside it"
        )
    return file


def unknown_label_set(label_set: str, known: Mapping[str, str], room: str) -> ConfigError:
    """The error that says which label set was probably meant."""
    near = nearest(label_set, known)
    return ConfigError(
        f"unknown label set {label_set[:100]!r}" if label_set else "a task reads file/label_set",
        where=f"task {_short(room)}/{label_set[:100]}",
        fix=f"did you mean {room}/{near}?" if near else f"known: {', '.join(f'{room}/{one}' for one in known)}",
    )
