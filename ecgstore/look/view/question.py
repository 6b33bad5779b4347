"""What a reader asks of the list: the parameters of an address, each of a closed set, bounded and checked.

Nothing of it ever becomes a part of SQL but names of columns that stand in this file; every value is a bound parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ecgstore.errors import ConfigError, nearest

#: Columns that are filtered by a range such as 60..80 and sorted by, with their unit and what they are called.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "age_years": ("years", "Age"),
    "duration_s": ("s", "Length"),
    "hf_noise_mv": ("mV", "Noise, 20 to 50 Hz"),
    "mains_mv": ("mV", "Mains"),
    "baseline_mv": ("mV", "Baseline wander"),
    "range_mv": ("mV", "Range"),
    "einthoven_mv": ("mV", "Einthoven residual"),
    "flat_fraction": ("", "Share that is flat"),
    "clipped_fraction": ("", "Share that is clipped"),
    "missing_fraction": ("", "Share not recorded"),
    "heart_rate_bpm": ("bpm", "Heart rate"),
    "sqi": ("", "Signal quality index"),
    "snr_db": ("dB", "Signal to added noise"),
    "disagreement": ("", "Disagreement"),
}
#: Columns of which some values are chosen; ``none`` stands for "not stated".
CHOICES = ("fold", "source", "site", "sex")
#: Other columns that the list can be sorted by.
OTHER_SORTS = ("record_id", "fold", "source", "site", "sex", "lead_states", "suspects")
FLAGS = ("any", "none")
#: Parameters that say how the page looks; they stand in the same address, and the list knows nothing of them.
OF_THE_PAGE = ("record", "at", "layout", "speed", "gain")

_MOST_TEXT, _MOST_VALUES = 200, 50
_RANGE = re.compile(r"(-?[0-9.]{0,20})\.\.(-?[0-9.]{0,20})")
_LEAD_STATES = "mdab"


@dataclass(frozen=True, slots=True)
class Question:
    """One question: all of its parts must hold. Hashable, so that its answer can be kept."""

    words: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()
    leads: tuple[tuple[str, str], ...] = ()
    suspects: str = ""
    warnings: str = ""
    tags: tuple[str, ...] = ()
    sort: str = ""
    descending: bool = False

    @property
    def filters(self) -> Question:
        """The same without its order."""
        return replace(self, sort="", descending=False)

    @property
    def is_of_notes(self) -> bool:
        """Whether its answer hangs on what the reader has written."""
        return bool(self.tags or self.words)


@dataclass
class _Asked:
    values: dict[str, list[str]] = field(default_factory=dict)

    def several(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.values.get(name, [])))

    def one(self, name: str) -> str:
        return next(iter(self.values.get(name, [])), "")


def read_question(parameters: Iterable[tuple[str, str]], leads: Iterable[str]) -> Question:
    """The question in the parameters of an address.

    ``words`` (all of them must be there; what stands between quotation marks is one), ``code`` and ``without``
    (SYSTEM:CODE, several: any of them), ``fold``, ``source``, ``site``, ``sex`` (several: any of them; ``none``: not
    stated), a range ``FROM..TO`` for each of :data:`NUMBERS`, ``lead`` (``V1:a``, ``any:b``), ``suspects`` and
    ``warnings`` (``any``, ``none``), ``tag``, and ``sort`` (a column, ``-`` in front for the other way). Raises
    ConfigError for anything else.
    """
    asked = _Asked()
    known = {"words", "code", "without", "lead", "suspects", "warnings", "tag", "sort", *CHOICES, *NUMBERS}
    for name, value in parameters:
        if name in OF_THE_PAGE or not value:
            continue
        if name not in known:
            near = nearest(name, known)
            raise ConfigError("an unknown filter", got=name[:80], fix=f"did you mean {near}?" if near else None)
        values = asked.values.setdefault(name, [])
        if len(value) > _MOST_TEXT or len(values) >= _MOST_VALUES:
            raise ConfigError(f"too much is asked of {name}", expected=f"{_MOST_VALUES} values of {_MOST_TEXT} letters")
        values.append(value)
    return Question(
        words=_words(" ".join(asked.several("words"))),
        codes=asked.several("code"),
        without=asked.several("without"),
        choices=tuple((name, asked.several(name)) for name in CHOICES if asked.several(name)),
        ranges=tuple((name, *_range(name, asked.one(name))) for name in NUMBERS if asked.one(name)),
        leads=tuple(_lead(text, tuple(leads)) for text in asked.several("lead")),
        suspects=_flag("suspects", asked.one("suspects")),
        warnings=_flag("warnings", asked.one("warnings")),
        tags=asked.several("tag"),
        sort=_sort(asked.one("sort").removeprefix("-")),
        descending=asked.one("sort").startswith("-"),
    )


def _range(name: str, text: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        low, high = float(found[1] or "-inf"), float(found[2] or "inf")
    except ValueError:
        fix = "FROM..TO, such as 60..80 or ..0.05"
        raise ConfigError(f"{name} is no range", expected=fix, got=text[:80]) from None
    return low, high


def _lead(text: str, leads: tuple[str, ...]) -> tuple[str, str]:
    lead, _, state = text.rpartition(":")
    if (lead != "any" and lead not in leads) or len(state) != 1 or state not in _LEAD_STATES:
        raise ConfigError("no such lead state", expected=f"LEAD:{'/'.join(_LEAD_STATES)}", got=text[:80])
    return lead, state


def _words(text: str) -> tuple[str, ...]:
    """Words in small letters; a quotation mark that is not closed yet holds what follows."""
    found = re.findall(r'"([^"]*)"?|([^\s"]+)', re.sub("[“”„«»]", '"', text.lower()))
    return tuple(filter(None, (" ".join(quoted.split()) or word for quoted, word in found)))


def _flag(name: str, text: str) -> str:
    if text and text not in FLAGS:
        raise ConfigError(f"{name} are asked for by a word", expected=" or ".join(FLAGS), got=text[:80])
    return text


def _sort(name: str) -> str:
    if name and name not in (*NUMBERS, *OTHER_SORTS):
        raise ConfigError("the list can't be sorted so", got=name[:80], expected=", ".join((*OTHER_SORTS, *NUMBERS)))
    return name


def conditions(question: Question, leads: Iterable[str]) -> tuple[list[str], list[Any]]:
    """Conditions in SQL on the table ``records`` and their parameters, but for words, codes and tags.

    Those need what is known of codes and notes; :mod:`ecgstore.look.view.table` adds them.
    """
    where: list[str] = []
    bound: list[Any] = []
    for name, values in question.choices:
        stated = [value for value in values if value != "none"]
        parts = [f"CAST({name} AS VARCHAR) IN (SELECT unnest(?::VARCHAR[]))"] if stated else []
        bound += [stated] if stated else []
        parts += [f"{name} IS NULL"] if "none" in values else []
        where.append(f"({' OR '.join(parts)})")
    for name, low, high in question.ranges:
        where.append(f"{name} BETWEEN ? AND ?")
        bound += [low, high]
    position = {lead: i + 1 for i, lead in enumerate(leads)}
    for lead, state in question.leads:
        where.append("contains(lead_states, ?)" if lead == "any" else "lead_states[?] = ?")
        bound += [state] if lead == "any" else [position[lead], state]
    for name in ("suspects", "warnings"):
        flag = getattr(question, name)
        if flag:
            where.append(f"coalesce({name}, '') {'<>' if flag == 'any' else '='} ''")
    return where, bound
