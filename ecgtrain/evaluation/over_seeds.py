"""One recipe with several seeds: its answers and curves as means, with what another seed would have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecgtrain.config import NULLS, RunConfig
from ecgtrain.evaluation.judge import Answered, compared
from ecgtrain.evaluation.questions import questions
from ecgtrain.evaluation.results import ONE_SEED, Result
from ecgtrain.evaluation.scored import Judged, difference, over_one_seed, scores, together
from ecgtrain.scoring.seeds import OverSeeds


def over_seeds(config: RunConfig, answered_s: Sequence[Answered]) -> tuple[Result, ...]:
    """Of every answer the mean over the recipe's seeds, in their order, with intervals over seeds and patients.

    Behind them stand ensembles: of every answer but the nulls' the mean of what all seeds say of a record, as one.
    Pictures of single records (ROC, confusion, agreement) are those of the first seed. Thresholds and what a protocol
    chose differ from seed to seed, and stand with each.
    """
    results = []
    for i, one in enumerate(answered_s[0].results):
        judged_s = [answered.judged[one.name][one.pretraining] for answered in answered_s]
        results.append(mean_of([answered.results[i] for answered in answered_s], judged_s, config.seeds, config.seed))
    all_judged = [answered.judged for answered in answered_s]
    ensembles = [
        ensemble(
            one,
            [judged[one.name][one.pretraining] for judged in all_judged],
            _others(config, one, all_judged),
            config.seed,
        )
        for one in results
        if one.pretraining not in NULLS and len(answered_s) > 1
    ]
    return (*compared(config, results, all_judged), *ensembles)


def _others(
    config: RunConfig, one: Result, judged_s: Sequence[Mapping[str, Mapping[str, Judged]]]
) -> dict[str, list[Judged]]:
    """What an answer is to be compared to, of each seed: its nulls, and other questions."""
    if one.pretraining != next(iter(judged_s[0][one.name])):
        return {}
    question = next(question for question in questions(config) if question.name == one.name)
    others = {null: [judged[one.name][null] for judged in judged_s] for null in question.nulls}
    return others | {name: [next(iter(judged[name].values())) for judged in judged_s] for name in question.compare_to}


def mean_of(its: Sequence[Result], judged_s: Sequence[Judged], seeds: tuple[int, ...], seed: int) -> Result:
    """The mean of one answer over ``seeds``: ``its`` are the results of each, ``judged_s`` the scores behind them.

    It is compared to nothing yet. Intervals are drawn by ``seed``.
    """
    one = its[0]
    titles = {name: score.title for name, score in one.per_class.items() if score.title}
    constants = [result.of_a_constant for result in its if result.of_a_constant is not None]
    changed = {
        **scores(judged_s, titles, one.unit, seed),
        "seeds": seeds,
        "of_a_constant": float(np.mean(constants)) if constants else None,
        "chosen": {},
        "thresholds": {},
        "difference_to": {},
        "caveats": tuple(dict.fromkeys(text for result in its for text in result.caveats)),
        "dropped_classes": _of_all([result.dropped_classes for result in its]),
    }
    return one.model_copy(update=changed)


def ensemble(one: Result, own: Sequence[Judged], others: Mapping[str, Sequence[Judged]], seed: int) -> Result:
    """The mean of what all seeds say as an answer of its own, with intervals over patients.

    ``one``: the mean over seeds of the same answer; ``own``: the scores of each seed. It is compared to its seeds, and
    to ensembles of ``others``, of each of which the scores of all seeds are given.
    """
    whole = together(own)
    titles = {name: score.title for name, score in one.per_class.items() if score.title}
    differences = {ONE_SEED: over_one_seed(own, seed)}
    differences |= {name: difference([whole], [together(other)], seed) for name, other in others.items()}
    changed = {
        **scores([whole], titles, one.unit, seed),
        "seeds": (),
        "ensemble_of": one.seeds,
        "difference_to": {name: _intervals(by) for name, by in differences.items()},
        "p_of_difference": {},
    }
    return one.model_copy(update=changed)


def _intervals(by_metric: Mapping[str, OverSeeds]) -> dict[str, object]:
    return {metric: one.interval() for metric, one in by_metric.items()}


def _of_all(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: why for part in parts for name, why in part.items()}
