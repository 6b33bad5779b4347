"""What runs are called on one page: by their names, and where these are alike by what they differ in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgstore import ConfigError
from ecgstore.inner import visible, yaml_of
from ecgtrain.reporting.contents import About, Report

#: Settings that say where and how fast something was done, and nothing of what.
_NO_DIFFERENCE = frozenset({"name", "data.store", "data.split", "data.cache_dir", "data.feed", "data.noise_bank"})
#: What tells runs apart best, in this order; other settings follow in their own.
_FIRST = ("store", "noise", "seed", "seeds", "pretrain.method.name", "pretrain.backbone.name", "pretrain.init_from")
#: Differences in one name, characters of one value, and settings of one run that are looked at.
_MOST, _MOST_CHARACTERS, _MOST_SETTINGS = 3, 40, 2000


def names(reports: Sequence[Report]) -> list[str]:
    """A name for each report of a single run, no two alike; a number only where nothing else tells them apart."""
    abouts = [report.runs[0] if len(report.runs) == 1 else About() for report in reports]
    stems = [about.run.name or report.title or "run" for about, report in zip(abouts, reports, strict=True)]
    differing: dict[int, str] = {}
    for stem in dict.fromkeys(stems):
        alike = [i for i, other in enumerate(stems) if other == stem]
        if len(alike) > 1:
            differing |= dict(zip(alike, _differences([abouts[i] for i in alike]), strict=True))
    given: list[str] = []
    for i, stem in enumerate(stems):
        name = f"{stem}{differing.get(i, '')}"
        numbered = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
        given.append(next(one for one in numbered if one not in given))
    return given


def _differences(abouts: Sequence[About]) -> list[str]:
    """Of runs of one name, what is to be added to tell them apart: `` on b.ecg``, `` (seed 1, 0.1)``."""
    facts = [dict(itertools.islice(_facts(about), _MOST_SETTINGS)) for about in abouts]
    keys = list(dict.fromkeys([*_FIRST, *itertools.chain.from_iterable(facts)]))
    chosen: list[str] = []
    told: list[tuple[str, ...]] = [() for _ in abouts]
    for key in keys:
        # Of reports that know nothing of it, nothing can be said.
        values = [one.get(key, "") for one in facts]
        more = [(*before, value) for before, value in zip(told, values, strict=True)]
        if len(set(more)) > len(set(told)):
            chosen, told = [*chosen, key], more
        if len(set(told)) == len(told) or len(chosen) == _MOST:
            break
    return [_added(chosen, one) for one in facts]


def _added(keys: Sequence[str], facts: Mapping[str, str]) -> str:
    parts = [_in_words(key, facts[key]) for key in keys if key != "store" and facts.get(key)]
    on = f" on {facts['store']}" if "store" in keys and facts.get("store") else ""
    return on + (f" ({', '.join(parts)})" if parts else "")


def _in_words(key: str, value: str) -> str:
    """A setting by its last word; what has a name is called by that alone."""
    last = key.rpartition(".")[2]
    return value if last == "name" or key == "noise" else f"{last.replace('_', ' ')} {value}"


def _facts(about: About) -> Iterator[tuple[str, str]]:
    """What is known of a run, as texts: its store, the noise on it, and every setting by its path."""
    yield "store", Path(about.store.path).name
    if noise := about.store.noise:
        kind, level, snr_db = (noise.get(name) for name in ("kind", "level", "snr_db"))
        strength = f" level {level}" if level is not None else f" {snr_db} dB" if snr_db is not None else ""
        yield "noise", _text(f"{kind}{strength}")
    elif about.store.path:
        yield "noise", "no noise"
    if about.run.seed is not None:
        yield "seed", str(about.run.seed)
    for key, value in _flat(_settings(about)):
        if key not in _NO_DIFFERENCE and key != "seed" and not key.endswith("_every_steps"):
            yield key, value


def _settings(about: About) -> Any:
    """The recipe; a report may come from anywhere, and what can't be read tells nothing."""
    if not isinstance(about.settings, str):
        return about.settings
    try:
        return yaml_of(about.settings)
    except ConfigError:
        return {}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{i}")
    else:
        yield key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    shown = visible("none" if value is None or value == "" else str(value))
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[: _MOST_CHARACTERS - 1]}…"
