"""A run on another store: its heads, or of several seeds their means, and all of them together as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ecgstore import open_shared, with_split
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.elsewhere import Asked, Folds, JudgedHead, judged_heads, results_of
from ecgtrain.evaluation.judge import with_p_values
from ecgtrain.evaluation.over_seeds import ensemble, mean_of
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, difference
from ecgtrain.scoring.seeds import OverSeeds
from ecgtrain.training.layout import answers, runs_of_seeds


def judge_elsewhere(
    run_dir: str | Path,
    store_path: str,
    *,
    split: str | Path | None = None,
    folds: Folds | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Result, ...]:
    """Apply the trained heads of a run to another store, without fitting anything; one result per head.

    Heads of the run's nulls are judged beside those of the method, with paired differences, as in the run itself. Of a
    run of several seeds: of every head and each of its nulls the mean, with intervals over seeds and patients, then
    what all seeds say together.

    ``folds``: which records to judge, ``all`` for every one; by default the test folds that each head was
    judged on, and all records where the store has no folds. They are those of the table ``split`` for this store, if
    there is one. A head that was judged under a split table is so again on the same store; the folds of that table mean
    nothing on another, where by default all records are judged.

    Raises CheckpointError (nothing trained in ``run_dir``, or not the same by all seeds), PassportError (the store was
    prepared otherwise), LeakageError (patients that backbone or head were trained on, unless ``allow_overlap``, which
    is then said in the result), ProtocolError (no record in the folds, or none with a label), and what reading
    ``split`` raises.
    """
    run_dir, store = Path(run_dir), open_shared(store_path)
    if split is not None:
        store = with_split(store, split)
    asked = Asked(run_dir, store, folds, allow_overlap, device)
    runs = [] if answers(run_dir) else runs_of_seeds(run_dir)
    if not runs:
        return results_of(judged_heads(asked, names))
    return _of_seeds(runs, [judged_heads(asked._replace(run_dir=path), names) for path in runs])


def _of_seeds(runs: Sequence[Path], heads_s: Sequence[Sequence[JudgedHead]]) -> tuple[Result, ...]:
    for path, heads in zip(runs, heads_s, strict=True):
        got, expected = (", ".join(sorted({head.result.name for head in its})) for its in (heads, heads_s[0]))
        if got != expected:
            raise CheckpointError(
                "not all seeds of the run have the same heads",
                where=path,
                expected=expected,
                got=got,
                fix="go on with `ecgtrain run --resume`, or name the run of one seed",
            )
    means: list[Result] = []
    ensembles: list[Result] = []
    differences: dict[tuple[str, str], dict[str, OverSeeds]] = {}
    for its in zip(*heads_s, strict=True):
        mean, nulls, found = _means(its)
        means += [mean, *nulls]
        differences |= {(mean.name, other): by for other, by in found.items()}
        if len(its) > 1:
            ensembles.append(ensemble(mean, _of_records(its), _beside(its), its[0].seed))
    return (*with_p_values(means, differences), *ensembles)


def _means(its: Sequence[JudgedHead]) -> tuple[Result, list[Result], dict[str, dict[str, OverSeeds]]]:
    """One head of all seeds: its mean, those of its nulls, and the differences to them."""
    seeds, seed, own = tuple(head.seed for head in its), its[0].seed, _of_records(its)
    others = _beside(its)
    found = {name: difference(own, other, seed) for name, other in others.items()}
    gains = {name: {metric: one.interval() for metric, one in by.items()} for name, by in found.items()}
    mean = mean_of([head.result for head in its], own, seeds, seed).model_copy(update={"difference_to": gains})
    nulls = [mean_of([head.beside[name][0] for head in its], other, seeds, seed) for name, other in others.items()]
    return mean, nulls, found


def _beside(its: Sequence[JudgedHead]) -> dict[str, list[Judged]]:
    """The nulls that all seeds have kept: of each the scores of all."""
    names = [name for name in its[0].beside if all(name in head.beside for head in its)]
    return {name: [head.beside[name][1] for head in its] for name in names}


def _of_records(its: Sequence[JudgedHead]) -> list[Judged]:
    """The scores of all seeds, which must be of the same classes and records."""
    first = its[0].judged
    for head in its[1:]:
        if head.judged.classes != first.classes or not np.array_equal(head.judged.row_r, first.row_r):
            raise CheckpointError(
                "the seeds of the run were not asked the same",
                where=head.result.name,
                expected=f"{', '.join(first.classes)} of {len(first.row_r)} records",
                got=f"{', '.join(head.judged.classes)} of {len(head.judged.row_r)} records",
            )
    return [head.judged for head in its]
