"""Curves: questions asked over and over while one thing changes, point by point.

    curves/<name>/points/…      scores of each point, one row per test record: what a resumed run doesn't do again
    curves/<name>/curve.csv     what the picture shows, and the same as curve.parquet

Label efficiency fits anew for each share of the labels; the others judge heads as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import ConfigError
from ecgtrain.config import Curve, Downstream, LabelEfficiency, RunConfig
from ecgtrain.data.parquet import read_table
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.answers import asked_of, identity_of, representations_of
from ecgtrain.evaluation.changes import Changed, changes
from ecgtrain.evaluation.heads import load_head
from ecgtrain.evaluation.judge import Posed, check, fit, labelled_sides, pose, representation
from ecgtrain.evaluation.questions import questions, store_of
from ecgtrain.evaluation.scored import Judged
from ecgtrain.representation.export import Trained
from ecgtrain.tasks import name_of
from ecgtrain.training.files import write_bytes
from ecgtrain.training.layout import answer, point

#: In a point's metadata: what its scores hang on.
_POINT = b"ecgtrain.point"


class Place(NamedTuple):
    """A place on a curve: what it is called, where it stands on the axis, the change and the share of labels."""

    told: str
    x: float
    changed: Changed | None = None
    fraction: float | None = None


class Series(NamedTuple):
    """One line of a curve: at each place the answers of each draw, (places, draws)."""

    question: str
    pretraining: str
    judged_kd: tuple[tuple[Judged, ...], ...]


class Drawn(NamedTuple):
    """A curve of one run."""

    curve: Curve
    places: tuple[Place, ...]
    series: tuple[Series, ...]
    unit: str = ""


def refuse_impossible_curves(config: RunConfig) -> None:
    """Refuse, before anything is trained, curves that can be known to come to nothing.

    Raises ConfigError (a protocol without a share of labels, noise that can't be added, leads that are not there), and
    ProtocolError where a share of the labels leaves nothing to fit or to choose by.
    """
    for curve in config.curves:
        for question in _asked(curve, config):
            store = store_of(question, config)
            if not isinstance(curve, LabelEfficiency):
                changes(curve, config, store)
                continue
            settings = check(question, store, config.seed)
            if "label_fraction" not in type(settings).model_fields:
                raise ConfigError(
                    f"the protocol {question.protocol} can't learn from a share of the labels",
                    where=f"curve {curve.called}, downstream {question.name}",
                    fix="name other questions, or give the protocol a label_fraction",
                )
            train, validation = labelled_sides(question, store)
            for fraction in curve.fractions:
                few = settings.model_copy(update={"label_fraction": fraction})
                for draw in range(curve.draws):
                    protocols.check(train, validation, few, seed_of_draw(config.seed, draw))


def _asked(curve: Curve, config: RunConfig) -> list[Downstream]:
    """The questions that a curve asks; of one that is asked of each site, all."""
    whole = questions(config)
    return [one for one in whole if not curve.questions or _stem(one, config) in curve.questions]


def _stem(question: Downstream, config: RunConfig) -> str:
    """What a question is called in the recipe: without the site that it is asked of."""
    names = {one.name for one in config.downstream}
    return question.name if question.name in names else question.name.rpartition(".")[0]


def seed_of_draw(seed: int, draw: int) -> int:
    """Of the first draw the run's own seed, so that its answer is the question's."""
    return seed if draw == 0 else int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint32)[0])


def draw_curves(
    config: RunConfig,
    trained: Trained,
    run_dir: Path,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    resume: bool = False,
) -> tuple[Drawn, ...]:
    """Every curve of a recipe, whose questions have been answered. With ``resume``, points that hold are kept.

    ``tell`` is told how many points of a curve are done. Raises what :func:`ecgtrain.evaluation.judge.judge` raises.
    """
    return tuple(_Drawing(config, trained, run_dir, device, resume).draw(curve, say, tell) for curve in config.curves)


class _Drawing(NamedTuple):
    """What all points of a run's curves have in common."""

    config: RunConfig
    trained: Trained
    run_dir: Path
    device: torch.device | str
    resume: bool

    def draw(self, curve: Curve, say: Callable[[str], None], tell: Callable[[int, int], None]) -> Drawn:
        asked = [
            (question, name)
            for question in _asked(curve, self.config)
            for name in representations_of(self.config, question)
        ]
        n_draws = curve.draws if isinstance(curve, LabelEfficiency) else 1
        places = self.places(curve, asked[0][0])
        total, done, series = len(asked) * len(places) * n_draws, 0, []
        say(f"curve {curve.called}: {total} points")
        for question, name in asked:
            one = representation(self.run_dir, self.trained, name, self.device)
            posed = self.pose(question, one, name)
            identity = identity_of(one, name)
            judged: list[tuple[Judged, ...]] = []
            for place in self.places(curve, question):
                of_draws = []
                for draw in range(n_draws):
                    at = re.sub("[^A-Za-z0-9.]+", "-", place.told).strip("-")
                    path = point(self.run_dir, curve.called, f"{question.name}.{name}.{at}.{draw}")
                    hangs_on = self.identity(curve, posed, identity, place, draw)
                    found = _kept(path, hangs_on, posed) if self.resume else None
                    if found is None:
                        found = self.judge(posed, one, name, place, draw)
                        _keep(path, hangs_on, found)
                    of_draws.append(found)
                    done += 1
                    tell(done, total)
                judged.append(tuple(of_draws))
            series.append(Series(question.name, name, tuple(judged)))
        return Drawn(curve, tuple(places), tuple(series), posed.targets.unit)

    def places(self, curve: Curve, question: Downstream) -> list[Place]:
        if isinstance(curve, LabelEfficiency):
            return [
                Place(f"{100 * fraction:.3g} %", fraction, fraction=fraction) for fraction in sorted(curve.fractions)
            ]
        store = store_of(question, self.config)
        return [Place(one.told, one.x, one) for one in changes(curve, self.config, store)]

    def pose(self, question: Downstream, one: Trained, name: str) -> Posed:
        store_path = question.store or self.config.data.store
        return pose(
            question,
            one,
            name,
            store_path=store_path,
            run_dir=self.run_dir,
            seed=self.config.seed,
            device=self.device,
        )

    def judge(self, posed: Posed, one: Trained, name: str, place: Place, draw: int) -> Judged:
        if place.fraction is not None:
            fitted = fit(posed, label_fraction=place.fraction, seed=seed_of_draw(self.config.seed, draw))
            return posed.judged(fitted, {})
        folder = answer(self.run_dir, posed.question.name, name)
        _, fitted = load_head(folder, one, self.device)
        assert place.changed is not None
        change = place.changed.change
        return posed.judged(fitted, {}, None if change is None else posed.changed(change))

    def identity(self, curve: Curve, posed: Posed, identity: str, place: Place, draw: int) -> str:
        """All that a point hangs on, as JSON."""
        change = "" if place.changed is None else place.changed.about
        hangs_on = {
            **asked_of(posed.question, self.config.seed),
            "representation": identity,
            "store": posed.store.fingerprint,
            "curve": {"kind": curve.kind, "at": place.told, "draw": draw, "change": change},
        }
        return json.dumps(hangs_on, sort_keys=True)


def task_of(config: RunConfig, curve: Curve) -> str:
    """What the questions of a curve ask, in words."""
    return ", ".join(dict.fromkeys(name_of(question.task) for question in _asked(curve, config)))


def _keep(path: Path, hangs_on: str, judged: Judged) -> None:
    """Write a point's scores, whole or not at all. Raises OSError."""
    columns: dict[str, Any] = {"row": judged.row_r}
    columns |= {f"score:{name}": judged.score_rc[:, c] for c, name in enumerate(judged.classes)}
    table = pa.table(columns).replace_schema_metadata({_POINT: hangs_on.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def _kept(path: Path, hangs_on: str, posed: Posed) -> Judged | None:
    """A point that is there and whole, of this very question; None where it isn't."""
    classes, test = posed.targets.classes, posed.test
    try:
        table = read_table(path, {"row": pa.int64(), **{f"score:{name}": pa.float64() for name in classes}})
    except (OSError, ValueError):
        return None
    is_this = (table.schema.metadata or {}).get(_POINT) == hangs_on.encode()
    if not is_this or not np.array_equal(table["row"].to_numpy(), test.row_r):
        return None
    score_rc = np.column_stack([table[f"score:{name}"].to_numpy() for name in classes])
    its = posed.targets
    return Judged(test.y_rc, score_rc, test.row_r, test.patient_r, classes, its.kind, places=its.places)
