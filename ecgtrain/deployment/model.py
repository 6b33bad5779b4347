"""A trained head together with the network it stands on: found in a run or an export, loaded, asked.

Of a run of several seeds all are asked, and the mean of what they say is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ecgstore import Store
from ecgtrain.config import NULLS
from ecgtrain.data.plan import Int64, in_pieces
from ecgtrain.errors import CheckpointError, PassportError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, load_head
from ecgtrain.evaluation.protocols import Fitted
from ecgtrain.evaluation.splits import Float64, HeldWindows, Split, StoredWindows
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.training.checkpoint import MODEL
from ecgtrain.training.files import open_plain
from ecgtrain.training.layout import EXPORT, HEAD, SEEN, answers, one_of_seeds, runs_of_seeds
from ecgtrain.views.passport import Passport

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Model:
    """A trained head, the network it stands on, and the folder of the run or export that both are from.

    ``answer``: the head's own folder.
    """

    run_dir: Path
    answer: Path
    head: Head
    fitted: Fitted
    trained: Trained
    device: torch.device | str = "cpu"

    @property
    def models(self) -> tuple[Model, ...]:
        """Itself: one network is asked."""
        return (self,)

    @property
    def passport(self) -> Passport:
        """How signals must be prepared."""
        return self.trained.passport

    @property
    def column(self) -> str:
        """What a class's column begins with in a table."""
        return "predicted" if self.head.kind == "regression" else "probability"

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of the weights' files, by their paths in the folder."""
        found = {}
        for path in (self.run_dir / EXPORT / MODEL, self.answer / HEAD):
            with open_plain(path) as file:
                found[path.relative_to(self.run_dir).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    @property
    def seen(self) -> list[Path]:
        """Where it stands whom the network and the head have seen."""
        return [path / SEEN for path in (self.run_dir, self.answer) if (path / SEEN).exists()]

    def score(self, store: Store, rows: Int64, tell: Callable[[int, int], None] = lambda done, total: None) -> Float64:
        """What the head says of the records at ``rows`` (ascending) of ``store``: float64 (records, classes).

        All must be as long as a window. ``tell`` is told how many are done, of how many. Raises PassportError where the
        store was prepared otherwise, ProtocolError where a score is no number, IntegrityError.
        """
        head, done = self.head, 0
        parts = [np.empty((0, len(head.classes)))]
        for part in in_pieces(rows, store.column("n_samples")[rows]):
            windows = StoredWindows(store, part, self.trained, head.window_samples, head.stride_samples, self.device)
            parts.append(protocols.scores(self.fitted, Split.unlabelled(part, len(head.classes), windows, head.kind)))
            done += len(part)
            tell(done, len(rows))
        return np.concatenate(parts)

    def score_one(self, counts_lt: npt.NDArray[np.int16], known: Mapping[str, Any] = _NOTHING) -> Float64:
        """The same of one record in memory, (classes,): int16 (leads, samples), of the passport's leads, as a store.

        ``known``: what else is known of it, by the columns of a store; raises ProtocolError where the head asks more.
        """
        head = self.head
        windows = HeldWindows(counts_lt, self.trained, head.window_samples, head.stride_samples, self.device, known)
        split = Split.unlabelled(np.zeros(1, dtype=np.int64), len(head.classes), windows, head.kind)
        score_c: Float64 = protocols.scores(self.fitted, split)[0]
        return score_c


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The same head of several seeds: what it says is the mean of what they say. It has no thresholds.

    ``run_dir``: the run of all seeds.
    """

    run_dir: Path
    models: tuple[Model, ...]

    @property
    def head(self) -> Head:
        """The head of the first, but for what differs from seed to seed."""
        return self.models[0].head.model_copy(update={"thresholds": {}})

    @property
    def passport(self) -> Passport:
        """How signals must be prepared."""
        return self.models[0].passport

    @property
    def column(self) -> str:
        """What a class's column begins with in a table."""
        return self.models[0].column

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of the weights' files of all, by their paths in the folder."""
        return {
            f"{model.run_dir.relative_to(self.run_dir).as_posix()}/{name}": sha256
            for model in self.models
            for name, sha256 in model.sha256.items()
        }

    @property
    def seen(self) -> list[Path]:
        """Where it stands whom the networks and heads have seen."""
        return [path for model in self.models for path in model.seen]

    def score(self, store: Store, rows: Int64, tell: Callable[[int, int], None] = lambda done, total: None) -> Float64:
        """What they say of the records at ``rows``, on average; raises what :meth:`Model.score` raises."""
        n = len(self.models)

        def of(k: int) -> Float64:
            return self.models[k].score(store, rows, lambda done, total: tell(k * total + done, n * total))

        each = [of(k) for k in range(n)]
        mean_rc: Float64 = np.mean(each, axis=0)
        return mean_rc

    def score_one(self, counts_lt: npt.NDArray[np.int16], known: Mapping[str, Any] = _NOTHING) -> Float64:
        """The same of one record in memory, (classes,)."""
        mean_c: Float64 = np.mean([model.score_one(counts_lt, known) for model in self.models], axis=0)
        return mean_c


def load_models(path: str | Path, name: str | None = None, *, device: torch.device | str = "cpu") -> Model | Ensemble:
    """The head of a run or an export as :func:`load_model` finds it; of a run of several seeds, all of them together.

    Raises CheckpointError, also where the seeds' heads tell other things, and PassportError where their signals are not
    prepared alike.
    """
    run_dir = Path(path)
    if one_of_seeds(run_dir) is None or answers(run_dir):
        return load_model(path, name, device=device)
    models = tuple(load_model(its, name, device=device) for its in runs_of_seeds(run_dir))
    first = models[0]
    for model in models[1:]:
        told, expected = ((one.head.name, one.head.kind, one.head.classes) for one in (model, first))
        if told != expected:
            raise CheckpointError(
                "the seeds of a run don't tell the same", where=model.run_dir, expected=expected, got=told
            )
        if _of_signals(model) != _of_signals(first):
            raise PassportError("the seeds of a run take signals that are prepared differently", where=model.run_dir)
    return Ensemble(run_dir, models)


def _of_signals(model: Model) -> tuple[object, ...]:
    """What must be alike for one record to be shown to several networks."""
    passport, head = model.passport, model.head
    return passport.leads, passport.fs_hz, passport.recipe, head.window_samples


def load_model(path: str | Path, name: str | None = None, *, device: torch.device | str = "cpu") -> Model:
    """The head called ``name`` of a run or an export, or the only one; nothing of it is code.

    Raises CheckpointError where there is no such head, or several and no name; and where something can't be loaded.
    """
    run_dir = Path(path)
    if not run_dir.is_dir():
        raise CheckpointError("there is no run and no export", where=run_dir, fix="check the path")
    found = [folder for folder in answers(run_dir) if folder.name not in NULLS]
    names = sorted({folder.parent.name for folder in found})
    if not names:
        one = one_of_seeds(run_dir)
        fix = None if one is None else f"name the run of one seed, such as {one}"
        raise CheckpointError(
            "there is no trained head", where=run_dir, fix=fix or "answer a question with it: downstream"
        )
    if name is None and len(names) > 1:
        raise CheckpointError(
            f"there are {len(names)} trained heads", where=run_dir, fix=f"choose one: --name {' or '.join(names[:10])}"
        )
    chosen = [folder for folder in found if name in (None, folder.parent.name)]
    if len(chosen) != 1:
        got = f"{len(chosen)} called {name}" if chosen else name
        raise CheckpointError("there is no such trained head", where=run_dir, expected=" or ".join(names[:10]), got=got)
    trained = load_backbone(run_dir, device=device)
    head, fitted = load_head(chosen[0], trained, device, asks=False)
    return Model(run_dir, chosen[0], head, fitted, trained, device)
