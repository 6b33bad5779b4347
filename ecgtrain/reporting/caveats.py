"""What the numbers of a report don't bear, in sentences; and which of its results may be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ecgtrain.evaluation.results import Result

#: Below this many test records, and below this many positives of a class, a report warns.
FEW_RECORDS = 200
FEW_POSITIVES = 10

#: Names of methods and nulls in a table.
_PRETRAINING = {
    "random": "Untrained network",
    "uncalibrated": "Untrained, uncalibrated",
    "none": "From scratch",
    "supervised": "Supervised",
    "shuffled": "Pretrained on shuffled time",
    "cpc": "CPC",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "swav": "SwAV",
    "lcd": "LCD",
    "stj": "STJ",
    "mae": "Masked autoencoding",
    "jepa": "JEPA",
}


#: Protocols without pretraining, and the one in whose table they stand.
_BESIDE = {"scratch": "fine_tune", "qrs_integrals": "linear_probe", "sex_only": "linear_probe"}


def caveats(results: Sequence[Result]) -> list[str]:
    """What the numbers don't bear, in sentences."""
    texts = []
    for group in groups(results):
        first = group[0]
        where = f"{first.asked}: " if len(groups(results)) > 1 else ""
        if first.n_test < FEW_RECORDS:
            texts.append(
                f"{where}{first.n_test} test records are too few to rank methods: {_width(group)}"
                "read the intervals, not the third digit."
            )
        rare = {
            name: about.n_positive for name, about in first.per_class.items() if 0 < about.n_positive < FEW_POSITIVES
        }
        if rare:
            shown = ", ".join(f"{name} ({n})" for name, n in list(rare.items())[:8])
            more = f" and {len(rare) - 8} more" if len(rare) > 8 else ""
            texts.append(
                f"{where}Fewer than {FEW_POSITIVES} positive test records: {shown}{more}. "
                "The score of such a class is mostly chance."
            )
        if first.dropped_classes or unscored(first):
            texts.append(f"{where}{_left_out(first)}")
    for group in groups(results):
        for text in dict.fromkeys(text for result in group for text in result.caveats):
            whose = list(dict.fromkeys(pretraining(one.pretraining) for one in group if text in one.caveats))
            of_all = len(group) > 1 and all(text in one.caveats for one in group)
            texts.append(f"{'' if of_all else f'{_and(whose)} on '}{group[0].asked}: {text}.")
    return list(dict.fromkeys(texts)) + _apart(results)


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def n_scored(result: Result) -> int:
    """Classes that a macro score is the mean of."""
    return sum(math.isfinite(about.auroc) for about in result.per_class.values())


def unscored(result: Result) -> list[str]:
    """Classes that were asked for and have no score here: the test records hold no positive or no negative of them."""
    return [name for name, about in result.per_class.items() if not math.isfinite(about.auroc)]


def _left_out(result: Result) -> str:
    dropped, without = result.dropped_classes, unscored(result)
    n_asked = len(result.per_class) + len(dropped)
    told = []
    if dropped:
        are = "is" if len(dropped) == 1 else "are"
        told.append(f"{len(dropped)} of {n_asked} classes {are} left out: {', '.join(dropped)}.")
    if without:
        have = "has" if len(without) == 1 else "have"
        told.append(
            f"{len(without)} of {n_asked} classes {have} no positive or no negative test record and no score: "
            f"{', '.join(without)}."
        )
    return f"{' '.join(told)} A macro score is the mean over the {n_scored(result)} that were scored."


def _width(group: Sequence[Result]) -> str:
    widths = [high - low for _, low, high in (result.score for result in group) if math.isfinite(low)]
    name = {"macro_auroc": "macro AUROC", "mae": "MAE", "distance_mm": "distance"}.get(
        group[0].compared_by, group[0].compared_by
    )
    return f"the intervals of {name} are up to {max(widths):.2f} wide; " if widths else ""


def _apart(results: Sequence[Result]) -> list[str]:
    """Say where results of one task stand in different tables."""
    tasks = [(group[0].task, group[0].left_out_site) for group in groups(results)]
    return [
        f"Results on {task} were judged on different records or by different protocols: compare within a table only."
        for task in dict.fromkeys(task for task, site in tasks if tasks.count((task, site)) > 1)
    ]


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """Results that may be compared: the same task and protocol on the same test records, as far as is known.

    What learned from labels alone stands beside what it is to be held against.
    """
    found: dict[tuple[str | int | None, ...], list[Result]] = {}
    for result in results:
        key = (
            result.task,
            _BESIDE.get(result.protocol, result.protocol),
            result.store,
            result.n_test,
            result.store_fingerprint,
            result.left_out_site,
        )
        found.setdefault(key, []).append(result)
    return list(found.values())


def pretraining(name: str) -> str:
    """What a method or a null is called in a table; networks side by side have a name of several methods."""
    parts = name.split("-")
    return " and ".join(_PRETRAINING[one] for one in parts) if _PRETRAINING.keys() >= set(parts) else name
