"""The questions of a recipe: which records stand on which side of each, and what can't be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ecgstore import ConfigError, Store
from ecgstore.inner import nearest, parse
from ecgtrain import tasks
from ecgtrain.config import Downstream, RunConfig
from ecgtrain.data.selection import open_under, refuse_absent_folds, what_folds
from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import patient_numbers
from ecgtrain.tasks import Targets

#: Instead of a site's name: one after the other.
EACH = "each"

Sides = Mapping[str, npt.NDArray[np.int64]]


def questions(config: RunConfig) -> tuple[Downstream, ...]:
    """The questions of a recipe, one for each site where ``leave_out_site`` says ``each``: ``NAME.SITE``.

    Each names the split table that it is asked under, the run's if it has none of its own.

    Raises ConfigError where a store has no such sites.
    """
    found: list[Downstream] = []
    for asked in config.downstream:
        question = asked
        if asked.store is None and asked.split is None and config.data.split is not None:
            question = asked.model_copy(update={"split": config.data.split})
        if question.leave_out_site is None:
            found.append(question)
            continue
        sites = _sites(question, store_of(question, config))
        if question.leave_out_site != EACH:
            found.append(question)
            continue
        for site in sites:
            place = re.sub("[^A-Za-z0-9._-]", "_", site)
            content = {
                **question.model_dump(),
                "name": f"{question.name}.{place}",
                "leave_out_site": site,
                "compare_to": [f"{other}.{place}" for other in question.compare_to],
            }
            found.append(parse(Downstream, content, where=f"downstream {question.name}"))
    names = [question.name.lower() for question in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two questions are called {', '.join(twice)}", where=config.name)
    return tuple(found)


def store_of(question: Downstream, config: RunConfig) -> Store:
    """The store that a question of :func:`questions` is about, under its folds."""
    return open_under(question.store or config.data.store, question.split)


def _sites(question: Downstream, store: Store) -> list[str]:
    """The sites of a store that can be left out, in alphabetical order."""
    sites = sorted(set(store.column("site").tolist()) - {""})
    if len(sites) < 2:
        raise ConfigError(
            "a site can be left out where a store has several",
            where=store.path,
            got=f"{len(sites)} sites" if len(sites) != 1 else f"only {sites[0]}",
            fix="name the column of sites when you ingest, or judge another store with `ecgtrain evaluate`",
        )
    if question.leave_out_site not in (EACH, *sites):
        near = nearest(str(question.leave_out_site), sites)
        raise ConfigError(
            f"no record is of the site {question.leave_out_site!r}",
            where=store.path,
            fix=f"did you mean {near}?" if near else f"sites are {', '.join(sites)}, or {EACH}",
        )
    return sites


def sides(question: Downstream, store: Store) -> Sides:
    """The rows of ``train``, ``validation`` and ``test``, ascending; of a site that is left out none but ``test``."""
    rows = {
        "train": store.select(folds=question.train_folds),
        "validation": store.select(folds=question.validation_folds),
        "test": store.select(folds=question.test_folds),
    }
    if question.leave_out_site is None:
        return rows
    is_left_out_n = store.column("site") == question.leave_out_site
    return {name: its[is_left_out_n[its] == (name == "test")] for name, its in rows.items()}


def targets_of(question: Downstream, store: Store) -> Targets:
    """What is to be predicted, of all classes; raises what the task raises."""
    return tasks.load(question.task).targets(store)


def refuse_impossible(question: Downstream, targets: Targets, rows: Sides, store: Store) -> None:
    """Refuse, by labels alone, what has no answer or none that is meant.

    Raises ProtocolError where a side has no labelled record or just one patient, and where a class that was named is
    misspelt, or has no positive or no negative on a side.
    """
    where = f"downstream {question.name}, {targets.task} on {store.path}"
    for code, hint in targets.unknown.items():
        raise ProtocolError(f"no record could state the code {code!r}", where=where, fix=hint)
    for name, its in rows.items():
        labelled = targets.labelled(its)
        if name != "validation" or len(labelled):
            refuse_none(labelled, name, question, where, store if len(its) == 0 else None, targets.caveats)
            _refuse_one_sided(targets, labelled, name, where)
        keys = store.column("patient_key")[labelled]
        if name != "validation" and len(set(patient_numbers(keys.tolist()).tolist())) < 2:
            raise ProtocolError(
                f"the {name} folds have labelled records of one patient alone",
                where=where,
                expected="at least two patients",
                fix="choose other folds, or ingest more records",
            )
        refuse_absent_folds(getattr(question, f"{name}_folds"), [store], f"downstream {question.name}: {name}_folds")
        refuse_long_windows(question, labelled, f"the {name} folds", store)


def refuse_long_windows(question: Downstream, rows: npt.NDArray[np.int64], of: str, store: Store) -> None:
    """Raise ConfigError where each of the records at ``rows`` is shorter than a window."""
    longest = int(store.column("n_samples")[rows].max()) if len(rows) else question.window_samples
    if longest < question.window_samples:
        raise ConfigError(
            f"windows are longer than the longest record of {of}",
            where=f"downstream {question.name}, {store.path}",
            expected=f"window_samples of {longest} at most",
            got=question.window_samples,
            fix="lower window_samples",
        )


def refuse_none(
    labelled: npt.NDArray[np.int64],
    name: str,
    question: Downstream,
    where: str,
    store: Store | None = None,
    caveats: Sequence[str] = (),
) -> npt.NDArray[np.int64]:
    """``labelled``; raises ProtocolError where that is none.

    ``store``: whose folds hold no record at all. ``caveats``: what took labels away before folds were looked at.
    """
    if len(labelled) == 0:
        of = "" if question.leave_out_site is None else f" and of the site {question.leave_out_site}"
        folds = f"the {name} folds" + (of if name == "test" else "")
        if store is not None and question.leave_out_site is None:
            raise ProtocolError(f"no record is in {folds}", where=where, fix=what_folds(store))
        raise ProtocolError(f"no record of {folds} has a label", where=where, fix="; ".join(caveats) or None)
    return labelled


def _refuse_one_sided(targets: Targets, labelled: npt.NDArray[np.int64], name: str, where: str) -> None:
    """A class that was named must have positives and negatives wherever it is learned, chosen by or tested."""
    if not targets.named or targets.kind == "regression":
        return
    y_rc = targets.y_nc[labelled]
    for c, of in enumerate(targets.classes):
        for missing, found in (("positive", y_rc[:, c].any()), ("negative", (~y_rc[:, c]).any())):
            if not found:
                raise ProtocolError(
                    f"the class {of} has no {missing} record in the {name} folds",
                    where=where,
                    got=f"{len(labelled)} records with a label",
                    fix=f"leave {of} out of codes, or choose folds that have some"
                    if missing == "positive"
                    else "ask for more codes, or say negative: any if an empty cell means none of them",
                )
