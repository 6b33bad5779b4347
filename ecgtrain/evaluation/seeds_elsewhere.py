"""The heads of a run of several seeds on another store: means over seeds, and all of them together as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ecgstore import open_shared, with_split
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.elsewhere import Asked, Folds, JudgedHead, judge_elsewhere, judged_heads
from ecgtrain.evaluation.judge import with_p_values
from ecgtrain.evaluation.over_seeds import ensemble, mean_of
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, difference
from ecgtrain.scoring.seeds import OverSeeds
from ecgtrain.training.layout import answers, runs_of_seeds


def judge_all_elsewhere(
    run_dir: Path,
    store_path: str,
    *,
    split: str | Path | None = None,
    folds: Folds | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Result, ...]:
    """Apply the trained heads of a run, of one seed or of several, to another store; nothing is fitted.

    Of several seeds: of every head and each of its nulls the mean, with intervals over seeds and patients, then what
    all seeds say together. Raises what :func:`judge_elsewhere` raises, and CheckpointError where not all seeds have
    the same heads.
    """
    runs = [] if answers(run_dir) else runs_of_seeds(run_dir)
    if not runs:
        return judge_elsewhere(
            run_dir, store_path, split=split, folds=folds, names=names, allow_overlap=allow_overlap, device=device
        )
    store = open_shared(store_path)
    if split is not None:
        store = with_split(store, split)
    heads_s = [judged_heads(Asked(path, store, folds, allow_overlap, device), names) for path in runs]
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
