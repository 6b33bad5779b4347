"""Curves: questions asked over and over while one thing changes, point by point.

    curves/<name>/points/…      scores of each point, one row per test record: what a resumed run doesn't do again
    curves/<name>/curve.csv     what the picture shows, and the same as curve.parquet

Label efficiency fits anew for each share of the labels; the others judge heads as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import ConfigError, Store, open_shared
from ecgtrain.config import NO_PRETRAINING, NULLS, Downstream, RunConfig
from ecgtrain.config.curves import Curve, LabelEfficiency, Transfer
from ecgtrain.data.parquet import read_table
from ecgtrain.data.seen import read_seen, seen_of
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.answers import asked_of, identity_of, representations_of
from ecgtrain.evaluation.changes import Changed, changes, in_full
from ecgtrain.evaluation.elsewhere import Asked, Folds, PosedElsewhere, pose_elsewhere, refuse_impossible_elsewhere
from ecgtrain.evaluation.heads import load_head
from ecgtrain.evaluation.judge import Posed, check, fit, labelled_sides, pose, representation
from ecgtrain.evaluation.leaks import refuse_leaks
from ecgtrain.evaluation.questions import questions, sides, store_of
from ecgtrain.evaluation.scored import Judged
from ecgtrain.representation.export import Trained
from ecgtrain.tasks import name_of
from ecgtrain.training.files import write_bytes
from ecgtrain.training.initial import TakenOver
from ecgtrain.training.layout import SEEN, answer, point
from ecgtrain.training.prepare import Prepared

#: In a point's metadata: what its scores hang on.
_POINT = b"ecgtrain.point"
#: So many letters of a place's name stand in the name of a file.
_MOST_OF_A_PLACE = 40


class Place(NamedTuple):
    """A place on a curve: what it is called, where it stands on the axis; the change, share of labels or store.

    ``setting``: all that it hangs on, as JSON holds it; a name may be that of another place in another recipe.
    """

    told: str
    x: float
    setting: Mapping[str, Any]
    changed: Changed | None = None
    fraction: float | None = None
    store: str | None = None
    folds: Folds | None = None


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
        if isinstance(curve, Transfer) and len(_stores(curve, config)) == 1:
            raise ConfigError(
                "the curve names no other store than that of its questions",
                where=f"curve {curve.called}",
                got=", ".join(curve.stores),
                fix="name another store",
            )
        for question in _asked(curve, config):
            store = store_of(question, config)
            if isinstance(curve, Transfer):
                for _, other in _others(curve, question, config):
                    refuse_impossible_elsewhere(question, other, curve.folds)
                continue
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


def refuse_unfair_curves(config: RunConfig, made: Prepared | TakenOver) -> None:
    """Refuse, before anything is trained, to judge on other stores what could not count there.

    Raises PassportError where one was prepared otherwise than the signals that are trained on, LeakageError where
    somebody in it would be seen in training, or something chosen by them.
    """
    for curve in config.curves:
        if not isinstance(curve, Transfer):
            continue
        for question in _asked(curve, config):
            own = store_of(question, config)
            learned = sides(question, own)
            seen = [
                *made.seen(),
                seen_of(own, learned["train"], "train"),
                seen_of(own, learned["validation"], "selection"),
            ]
            for path, other in _others(curve, question, config):
                made.passport.refuse_other(other)
                tested = seen_of(other, refuse_impossible_elsewhere(question, other, curve.folds), "test")
                refuse_leaks(seen, tested, between=f"training and the test on {path}", allow=question.allow_overlap)


def _stores(curve: Transfer, config: RunConfig) -> dict[str, Store]:
    """The stores of a matrix, by path: those that its questions are about, and those that it names."""
    own = [question.store or config.data.store for question in _asked(curve, config)]
    found: dict[str, Store] = {}
    for path in dict.fromkeys([*own, *curve.stores]):
        store = open_shared(path)
        if store.fingerprint not in {one.fingerprint for one in found.values()}:
            found[path] = store
    return found


def _others(curve: Transfer, question: Downstream, config: RunConfig) -> list[tuple[str, Store]]:
    """The stores of a matrix but the question's own."""
    own = open_shared(question.store or config.data.store).fingerprint
    return [(path, store) for path, store in _stores(curve, config).items() if store.fingerprint != own]


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
    go_on: Callable[[], None] = lambda: None,
    resume: bool = False,
) -> tuple[Drawn, ...]:
    """Every curve of a recipe, whose questions have been answered. With ``resume``, points that hold are kept.

    ``tell`` is told how many points of a curve are done. ``go_on`` is called with every step of a point, too, and may
    raise. Raises what :func:`ecgtrain.evaluation.judge.judge` raises.
    """
    drawing = _Drawing(config, trained, run_dir, device, resume, go_on)
    return tuple(drawing.draw(curve, say, tell) for curve in config.curves)


class _Drawing(NamedTuple):
    """What all points of a run's curves have in common."""

    config: RunConfig
    trained: Trained
    run_dir: Path
    device: torch.device | str
    resume: bool
    go_on: Callable[[], None] = lambda: None

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
                    path = point(self.run_dir, curve.called, _file_name(question.name, name, place, draw))
                    put = self.put(posed, one, name, place)
                    hangs_on = self.identity(curve, put, posed.question, identity, place, draw)
                    found = _kept(path, hangs_on, put) if self.resume else None
                    if found is None:
                        found = self.judge(put, one, name, place, draw)
                        _keep(path, hangs_on, found)
                    of_draws.append(found)
                    done += 1
                    tell(done, total)
                judged.append(tuple(of_draws))
            series.append(Series(question.name, name, tuple(judged)))
        return Drawn(curve, tuple(places), tuple(series), posed.targets.unit)

    def put(self, posed: Posed, one: Trained, name: str, place: Place) -> Posed | PosedElsewhere:
        """The question as it is put at a place: as in the run, or to another store."""
        if place.store is None:
            return posed
        folder = answer(self.run_dir, posed.question.name, name)
        asked = Asked(self.run_dir, open_shared(place.store), place.folds, posed.question.allow_overlap, self.device)
        seen = [] if name in NULLS or name == NO_PRETRAINING else [read_seen(self.run_dir / SEEN)]
        return pose_elsewhere(folder, one, asked, seen)

    def places(self, curve: Curve, question: Downstream) -> list[Place]:
        if isinstance(curve, Transfer):
            return self.stores(curve, question)
        if isinstance(curve, LabelEfficiency):
            return [
                Place(f"{_percent(fraction)} %", fraction, {"fraction": fraction}, fraction=fraction)
                for fraction in sorted(curve.fractions)
            ]
        store = store_of(question, self.config)
        return [Place(one.told, one.x, one.setting, one) for one in changes(curve, self.config, store)]

    def stores(self, curve: Transfer, question: Downstream) -> list[Place]:
        found, others = _stores(curve, self.config), dict(_others(curve, question, self.config))
        names = [Path(path.rstrip("/")).name for path in found]
        return [
            Place(
                name if names.count(name) == 1 else path,
                float(k),
                {"store": store.fingerprint, "folds": curve.folds if path in others else None},
                store=path if path in others else None,
                folds=curve.folds,
            )
            for k, ((path, store), name) in enumerate(zip(found.items(), names, strict=True))
        ]

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
            tell=lambda done, total: self.go_on(),
        )

    def judge(self, put: Posed | PosedElsewhere, one: Trained, name: str, place: Place, draw: int) -> Judged:
        if isinstance(put, PosedElsewhere):
            return put.judged()
        own = draw == 0 and place.fraction == getattr(put.settings, "label_fraction", None)
        if place.fraction is not None and not own:
            fitted = fit(put, label_fraction=place.fraction, seed=seed_of_draw(self.config.seed, draw))
            return put.judged(fitted, {})
        # The first draw at the question's own share of the labels is the question's answer: its head is there.
        folder = answer(self.run_dir, put.question.name, name)
        _, fitted = load_head(folder, one, self.device)
        change = None if place.changed is None else place.changed.change
        return put.judged(fitted, {}, None if change is None else put.changed(change))

    def identity(
        self,
        curve: Curve,
        put: Posed | PosedElsewhere,
        question: Downstream,
        identity: str,
        place: Place,
        draw: int,
    ) -> str:
        """All that a point hangs on, as JSON."""
        hangs_on = {
            **asked_of(question, self.config.seed),
            "representation": identity,
            "store": put.store.fingerprint,
            "curve": {"kind": curve.kind, "at": place.setting, "draw": draw},
        }
        return json.dumps(hangs_on, sort_keys=True)


def _percent(fraction: float) -> str:
    return in_full(100 * Decimal(str(fraction)))


def _file_name(question: str, pretraining: str, place: Place, draw: int) -> str:
    """What the file of a point is called: for people what it is of, for the computer a hash of it.

    What people read has lost what no file may be called, such as the minus of -6 dB, and is not too long for a disk.
    """
    at = re.sub("[^A-Za-z0-9.]+", "-", Path(place.told).name).strip("-")[:_MOST_OF_A_PLACE]
    content = json.dumps([question, pretraining, place.setting, draw], sort_keys=True)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return f"{question}.{pretraining}.{at}.{draw}.{sha256[:16]}"


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


def _kept(path: Path, hangs_on: str, put: Posed | PosedElsewhere) -> Judged | None:
    """A point that is there and whole, of this very question; None where it isn't."""
    classes, test = put.classes, put.test
    try:
        table = read_table(path, {"row": pa.int64(), **{f"score:{name}": pa.float64() for name in classes}})
    except (OSError, ValueError):
        return None
    is_this = (table.schema.metadata or {}).get(_POINT) == hangs_on.encode()
    if not is_this or not np.array_equal(table["row"].to_numpy(), test.row_r):
        return None
    score_rc = np.column_stack([table[f"score:{name}"].to_numpy() for name in classes])
    its = put.targets
    return Judged(test.y_rc, score_rc, test.row_r, test.patient_r, classes, its.kind, places=its.places)
