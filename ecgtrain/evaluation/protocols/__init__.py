"""ROOM of protocols: what is put on a representation to answer a question, one way per file, and what all promise.

Who may be seen when is the same for all: a protocol fits on some patients, chooses on others, and is judged on yet
others, whom it never gets to see while it fits.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ecgstore import Settings, Store
from ecgstore.inner import occupant, parse
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.data.feed import Batch
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation.splits import Float64, Rows, Split, refuse_overlap
from ecgtrain.representation.export import Trained
from ecgtrain.tasks import TargetKind
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import normaliser

S = TypeVar("S", Split, Split | None)

#: What goes into a head's file, by name.
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Context:
    """What a protocol may use besides the records of its splits.

    ``classes``: the names of the targets' columns. ``trained``: the representation, frozen, and how signals for it
    are prepared. ``seed``: of whatever is drawn. ``kind``: of the targets (:mod:`ecgtrain.scoring.kinds`). ``tell``: is
    told how many steps are done, of how many.
    """

    classes: tuple[str, ...]
    trained: Trained
    seed: int = 0
    device: torch.device | str = "cpu"
    kind: TargetKind = "multilabel"
    tell: Callable[[int, int], None] = lambda done, total: None

    def network(self) -> Backbone:
        """A copy of the backbone to train further; the representation itself stays as it is."""
        return copy.deepcopy(self.trained.backbone).to(self.device)

    def untrained(self) -> Backbone:
        """The same network with fresh weights, drawn by the seed: what training from scratch begins with."""
        backbone = self.trained.backbone
        return build_backbone(backbone.settings, backbone.n_leads, self.seed).to(self.device)

    def normalise(self, batch: Batch) -> Tensor:
        """A batch of :meth:`Split.feed` as the network eats it: (batch, leads, samples)."""
        x_blt: Tensor = normaliser(self.trained.passport, batch.counts_blt.device)(to_mv(batch.counts_blt))
        return x_blt


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted(ABC):
    """What a protocol has fitted. Each file of this room has

    - ``DESCRIPTION``: one line;
    - ``Settings``: frozen settings, whose ``name`` is the file's name;
    - ``KINDS``: the kinds of targets that it can learn (:mod:`ecgtrain.scoring.kinds`); without it, ``multilabel``
      alone;
    - ``fit(train: Split, validation: Split | None, settings, context: Context) -> Fitted``, which raises
      ProtocolError where there is nothing to fit or to choose by. A probe asks its splits for features or tokens; what
      trains a network takes :meth:`Context.network` or :meth:`Context.untrained` and :meth:`Split.feed`;
    - ``USES_PRETRAINING = False``, where nothing but the representation's architecture and passport is used;
    - ``STANDS_ON``, where that is no fresh network: what it learns from, in words;
    - ``label_fraction`` among the settings, if it is there, has been obeyed before: the splits are those patients';
    - ``check(train: Split, validation: Split | None, settings, seed)``, where labels alone can tell that ``fit`` would
      raise: it is asked before anything is trained. Without it, some class must have positives and negatives;
    - ``load(arrays, about, context) -> Fitted``: what :meth:`arrays` and :meth:`about` gave, checked by
      :func:`checked`; raises CheckpointError.

    ``n_train``, ``n_validation``: records that were used. ``unfitted``: classes without a positive or without a
    negative training record; their score is constant. ``chosen``: plain values for the result, such as a penalty.
    ``caveats``: what the result should be read with. Of a head that was loaded, all these are empty.
    """

    classes: tuple[str, ...]
    n_train: int = 0
    n_validation: int = 0
    unfitted: tuple[str, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    @abstractmethod
    def predict(self, split: Split) -> Float64:
        """Scores of the split's records (records, classes), in the order of ``split.row_r``.

        Higher is likelier; of a regression they are numbers in the unit of its targets.
        """

    @abstractmethod
    def arrays(self) -> Arrays:
        """What a file must hold to predict elsewhere, by name."""

    def about(self) -> Mapping[str, Any]:
        """Plain values that :func:`load` needs besides."""
        return {}

    def notes(self, store: Store, rows: Rows) -> tuple[str, ...]:
        """What its answers on the records at ``rows`` of ``store`` must be read with, in sentences."""
        return ()

    def scorer(self, trained: Trained) -> nn.Module | None:
        """All of it as one network: normalised windows (batch, leads, samples) → scores (batch, classes), or None.

        A record's score is the mean over its windows. None, which is the default, where it is no network.
        """
        return None


def settings_of(protocol: str, content: Mapping[str, Any], where: object) -> Settings:
    """The settings of the protocol called ``protocol``; raises ConfigError for an unknown one or a wrong setting."""
    chosen: type[Settings] = occupant(__name__, protocol).Settings
    return parse(chosen, content, where=where)


def uses_pretraining(protocol: str) -> bool:
    """Whether a protocol asks anything of the representation; raises ConfigError for an unknown one."""
    return bool(getattr(occupant(__name__, protocol), "USES_PRETRAINING", True))


def stands_on(protocol: str) -> str:
    """What a protocol that uses no pretraining learns from, in words."""
    return str(getattr(occupant(__name__, protocol), "STANDS_ON", "a fresh network"))


def check(train: Split, validation: Split | None, settings: Settings, seed: int) -> None:
    """Refuse, by labels and patients alone, what the protocol of ``settings`` could not be fitted on or choose by.

    Raises LeakageError where the two share a patient, ProtocolError where a protocol's own ``check`` does.
    """
    if validation is not None:
        refuse_overlap(train.patient_r, validation.patient_r, between="training and validation")
    chosen = occupant(__name__, cast(Any, settings).name)
    _refuse_kind(chosen, train.kind)
    train, validation = _labelled(train, settings, seed), _labelled(validation, settings, seed)
    if hasattr(chosen, "check"):
        chosen.check(train, validation, settings, seed)
    else:
        train.fittable_c()


def fit(train: Split, validation: Split | None, settings: Settings, context: Context, *, test: Split | None) -> Fitted:
    """Fit by the protocol that ``settings`` belong to; ``test`` is only asked whom it is of, unless it is None.

    Raises LeakageError where two splits share a patient, and what the protocol raises.
    """
    if test is not None:
        refuse_overlap(train.patient_r, test.patient_r)
    if validation is not None:
        refuse_overlap(train.patient_r, validation.patient_r, between="training and validation")
    if validation is not None and test is not None:
        refuse_overlap(validation.patient_r, test.patient_r, between="validation and test")
    chosen = occupant(__name__, cast(Any, settings).name)
    _refuse_kind(chosen, train.kind)
    train, validation = _labelled(train, settings, context.seed), _labelled(validation, settings, context.seed)
    return cast(Fitted, chosen.fit(train, validation, settings, context))


def _refuse_kind(protocol: ModuleType, kind: TargetKind) -> None:
    learnt = getattr(protocol, "KINDS", ("multilabel",))
    if kind not in learnt:
        raise ProtocolError(
            f"the protocol {protocol.__name__.rpartition('.')[2]} can't learn a task of the kind {kind}",
            expected=" or ".join(learnt),
            fix="choose another protocol, such as linear_probe",
        )


def _labelled(split: S, settings: Settings, seed: int) -> S:
    """The share of the patients whose labels are used: who has few to learn from has few to choose by."""
    fraction = getattr(settings, "label_fraction", 1.0)
    return split if split is None else split.labelled_share(fraction, seed)


def scores(fitted: Fitted, split: Split) -> Float64:
    """What ``fitted`` says of a split (records, classes); raises ProtocolError unless it is a number for each."""
    score_rc = np.asarray(fitted.predict(split), dtype=np.float64)
    expected = (len(split.row_r), len(fitted.classes))
    if score_rc.shape != expected:
        raise ProtocolError("a protocol must score every record and class", expected=expected, got=score_rc.shape)
    if not np.isfinite(score_rc).all():
        raise ProtocolError("scores must be numbers", got=f"{(~np.isfinite(score_rc)).any(axis=1).sum()} records")
    return score_rc


def checked(arrays: Arrays, shapes: Mapping[str, tuple[int | None, ...]]) -> Arrays:
    """``arrays``, if they are those named in ``shapes``, of finite numbers; None is an axis of any length.

    Raises CheckpointError.
    """
    if set(arrays) != set(shapes):
        raise CheckpointError(
            "the head holds other arrays than its protocol", expected=", ".join(shapes), got=", ".join(sorted(arrays))
        )
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
            raise CheckpointError(f"{name} of the head has another shape", expected=shape, got=found)
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{name} of the head must hold numbers")
    return arrays
