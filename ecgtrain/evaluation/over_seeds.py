"""One recipe with several seeds: its answers and curves as means, with what another seed would have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecgtrain.config import RunConfig
from ecgtrain.evaluation.judge import Answered, compared
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import scores


def over_seeds(config: RunConfig, answered_s: Sequence[Answered]) -> tuple[Result, ...]:
    """Of every answer the mean over the recipe's seeds, in their order, with intervals over seeds and patients.

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
    return compared(config, results, [answered.judged for answered in answered_s])


def _of_all(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: why for part in parts for name, why in part.items()}
