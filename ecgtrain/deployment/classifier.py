"""A model in a program of one's own: raw millivolts of one recording in, a number per class out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ecgstore import RecordError
from ecgstore.inner import Prepared, Recipe, prepare_record
from ecgtrain.deployment.model import Ensemble, Model, load_models
from ecgtrain.deployment.replay import LOST, recipe_of
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.tasks import TargetKind
from ecgtrain.training.claim import looked_at
from ecgtrain.training.files import refuse_strange_files
from ecgtrain.views.passport import Passport

#: What can be said of whom a recording is of.
_SEXES = (None, "female", "male", "")
#: What ends a word on what an ingest can be told: nothing of the kind can be told here.
_INGEST_OPTION = ": --extra-leads"


def _prepared(signal_mv_lt: Any, fs_hz: float, leads: Sequence[str], recipe: Recipe) -> Prepared:
    """What the model's store would hold of it; raises RecordError in the words of somebody who has arrays."""
    try:
        signal_mv_lt = np.asarray(signal_mv_lt)
    except ValueError:
        raise RecordError("the record", "bad_signal", "rows of different lengths: a row for each lead") from None
    try:
        return prepare_record(signal_mv_lt, fs_hz, leads, recipe)
    except RecordError as error:
        detail, option, _ = error.detail.partition(_INGEST_OPTION)
        if not option:
            raise
        raise RecordError(error.record_id, error.reason, f"{detail}: leave its row out") from None


def _path_of(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError("this is no path of a run or an export", expected="a text or a Path", got=repr(path)[:80])
    return Path(path)


@dataclass(frozen=True, eq=False)
class Classifier:
    """What :func:`load_classifier` gives. It keeps nothing of what it is shown, and may be asked from one thread."""

    _model: Model | Ensemble
    _recipe: Recipe

    @property
    def classes(self) -> tuple[str, ...]:
        """What it tells apart; of a regression, what it estimates."""
        return self._model.head.classes

    @property
    def kind(self) -> TargetKind:
        """``multilabel``, ``exclusive`` (probabilities that add up to 1) or ``regression``."""
        return self._model.head.kind

    @property
    def thresholds(self) -> Mapping[str, float]:
        """What a class's probability must reach to be said; empty where no such thing was chosen."""
        return dict(self._model.head.thresholds)

    @property
    def passport(self) -> Passport:
        """How recordings are prepared before the network sees them."""
        return self._model.passport

    @property
    def window_s(self) -> float:
        """The shortest recording that it can be asked about, in seconds."""
        return self._model.head.window_samples / self.passport.fs_hz

    def predict(
        self, signal_mv_lt: npt.NDArray[Any], fs_hz: float, leads: Sequence[str], *, sex: str | None = None
    ) -> dict[str, float]:
        """Class → probability (of a regression, name → number in its unit), for one recording.

        ``signal_mv_lt``: raw millivolts (leads, samples) at the recording's own rate ``fs_hz``, NaN where nothing was
        recorded; ``leads``: a name for each row, in any order, recognised as those of WFDB files are. They are
        filtered and resampled here, as the model's own records were: don't do it before. Limb leads that are not
        there are derived from two others; of other leads that are not there the network sees zeros. The answer is the
        mean over all windows of the recording. ``sex`` is asked for by a head of the protocol ``sex_only``, and by no
        other that comes with ecgtrain: ``female`` or ``male``, or ``""`` where it isn't known.

        Raises RecordError (an unknown lead, none that the model takes, a shape or a value that can't be; see
        ``.reason``), ProtocolError where the recording is shorter than a window, or the head asks for the sex.
        """
        if sex not in _SEXES:
            raise ProtocolError("there is no such sex", expected=", ".join(map(repr, _SEXES)), got=repr(sex)[:40])
        made = _prepared(signal_mv_lt, fs_hz, leads, self._recipe)
        counts_lt = made.counts_lt[[made.leads.index(lead) for lead in self.passport.leads]]
        states = dict(zip(made.leads, made.states, strict=True))
        if all(states[lead] in LOST for lead in self.passport.leads):
            detail = f"the model takes {', '.join(self.passport.leads)}: none is there, or all are bad"
            raise RecordError("the record", "no_leads", detail)
        needed = self._model.head.window_samples
        if counts_lt.shape[1] < needed:
            raise ProtocolError(
                "the recording is shorter than a window of the model",
                expected=f"{self.window_s:g} s or more",
                got=f"{counts_lt.shape[1] / self.passport.fs_hz:g} s",
            )
        known = {} if sex is None else {"sex": sex}
        score_c = self._model.score_one(np.ascontiguousarray(counts_lt), known)
        return {name: float(score) for name, score in zip(self.classes, score_c, strict=True)}


def load_classifier(path: str | Path, name: str | None = None, *, device: torch.device | str = "cpu") -> Classifier:
    """The trained head in ``path``, an export or a run's directory, to be asked about single recordings.

    Of a run of several seeds all are asked, and the mean of what they say is told.

    ``name``: which head of a run, where it has several. What is loaded is numbers and settings, never code.

    Raises CheckpointError where it can't be loaded, PassportError where this release can't prepare recordings so.
    """
    run_dir = _path_of(path)
    with looked_at(run_dir):
        if run_dir.is_dir():
            refuse_strange_files(run_dir)
        model = load_models(run_dir, name, device=device)
    return Classifier(model, recipe_of(model.passport))
