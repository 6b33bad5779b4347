"""One recipe with several seeds: its answers and curves as means, with what another seed would have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecgtrain.config import NULLS, RunConfig
from ecgtrain.evaluation.judge import Answered, compared
from ecgtrain.evaluation.questions import questions
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, difference, over_one_seed, scores, together
from ecgtrain.scoring.seeds import OverSeeds

#: What the ensemble's own seeds are called, where it is compared to them.
ONE_SEED = "one seed"


def over_seeds(config: RunConfig, answered_s: Sequence[Answered]) -> tuple[Result, ...]:
    """Of every answer the mean over the recipe's seeds, in their order, with intervals over seeds and patients.

    Behind them stand ensembles: of every answer but the nulls' the mean of what all seeds say of a record, as one.
    Pictures of single records (ROC, confusion, agreement) are those of the first seed. Thresholds and what a protocol
    chose differ from seed to seed, and stand with each.
    """
    results = []
    for one in answered_s[0].results:
        judged_s = [answered.judged[one.name][one.pretraining] for answered in answered_s]
        its = [answered.results[answered_s[0].results.index(one)] for answered in answered_s]
        titles = {name: score.title for name, score in one.per_class.items() if score.title}
        constants = [result.of_a_constant for result in its if result.of_a_constant is not None]
        changed = {
            **scores(judged_s, titles, one.unit, config.seed),
            "seeds": config.seeds,
            "of_a_constant": float(np.mean(constants)) if constants else None,
            "chosen": {},
            "thresholds": {},
            "difference_to": {},
            "caveats": tuple(dict.fromkeys(text for result in its for text in result.caveats)),
            "dropped_classes": _of_all([result.dropped_classes for result in its]),
        }
        results.append(one.model_copy(update=changed))
    all_judged = [answered.judged for answered in answered_s]
    ensembles = [
        ensemble(config, one, all_judged) for one in results if one.pretraining not in NULLS and len(answered_s) > 1
    ]
    return (*compared(config, results, all_judged), *ensembles)


def ensemble(config: RunConfig, one: Result, judged_s: Sequence[Mapping[str, Mapping[str, Judged]]]) -> Result:
    """The mean of what all seeds say as an answer of its own, with intervals over patients.

    ``one``: the mean over seeds of the same answer. It is compared to its seeds, and to ensembles of its nulls and of
    the questions that it is to be compared to.
    """
    own = [judged[one.name][one.pretraining] for judged in judged_s]
    whole = together(own)
    titles = {name: score.title for name, score in one.per_class.items() if score.title}
    question = next(question for question in questions(config) if question.name == one.name)
    others: dict[str, Judged] = {}
    if one.pretraining == next(iter(judged_s[0][one.name])):
        others = {null: together([judged[one.name][null] for judged in judged_s]) for null in question.nulls}
        others |= {
            name: together([next(iter(judged[name].values())) for judged in judged_s]) for name in question.compare_to
        }
    differences = {ONE_SEED: over_one_seed(own, config.seed)}
    differences |= {name: difference([whole], [other], config.seed) for name, other in others.items()}
    changed = {
        **scores([whole], titles, one.unit, config.seed),
        "seeds": (),
        "ensemble_of": config.seeds,
        "difference_to": {name: _intervals(by) for name, by in differences.items()},
        "p_of_difference": {},
    }
    return one.model_copy(update=changed)


def _intervals(by_metric: Mapping[str, OverSeeds]) -> dict[str, object]:
    return {metric: one.interval() for metric, one in by_metric.items()}


def _of_all(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: why for part in parts for name, why in part.items()}
