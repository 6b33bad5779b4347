"""Train a backbone and a head on labelled windows, in stages; the validation records choose the epoch.

Windows are cut at random, one per record and epoch; a record is judged by the mean over windows side by side.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ecgstore import Settings
from ecgtrain.backbones import Backbone
from ecgtrain.config import Optimiser
from ecgtrain.data.feed import Batch, Feed
from ecgtrain.data.plan import batch_plan, steps_per_epoch
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation.classifier import Classifier, HeadSettings, Tuned, refuse_heads
from ecgtrain.evaluation.losses import ClassWeights, Loss, balancing_weights, loss_of, refuse_unsuited
from ecgtrain.evaluation.protocols import Context
from ecgtrain.evaluation.splits import Split
from ecgtrain.methods import WindowBatch
from ecgtrain.scoring import kinds
from ecgtrain.training import optim
from ecgtrain.training.step import own_torch_generator, step_seed
from ecgtrain.views import augmentations
from ecgtrain.views.augmentations import Augmentation
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import normaliser


class Stage(Settings):
    """A part of the training.

    ``trains``: the ``head`` alone, or ``all`` of the network. ``epochs``: for so long. ``most_steps``: with more labels
    an epoch has more steps; no more epochs than fit into so many, and one at least. ``optimiser``: how weights change.

    With ``optimiser.layer_decay`` below 1 each group of layers, from the head down, learns at that times the rate of
    the one above it.
    """

    trains: Literal["head", "all"] = "all"
    epochs: PositiveInt
    most_steps: PositiveInt | None = None
    optimiser: Optimiser = Optimiser(lr=1e-3)

    def within(self, steps_per_epoch: int) -> Stage:
        """The stage as long as ``most_steps`` lets it be."""
        if self.most_steps is None:
            return self
        return self.model_copy(update={"epochs": max(1, min(self.epochs, self.most_steps // steps_per_epoch))})


#: Of a protocol that says itself what its stages are, too.
SOME_STAGES = Field(min_length=1, max_length=10)


class Learning(Settings):
    """How a network learns from labels.

    ``stages`` follow each other; each begins with the weights that were kept of the one before. ``keep``: the epoch
    that does best on the validation records, or the last. ``patience``: end a stage after so many validations without a
    better score. ``head``: what stands on the backbone. ``batch_size``: windows of a step, two or more.
    ``validate_every_epochs``: how often the validation records are judged. ``batchnorm``: ``frozen`` keeps the
    statistics of the backbone as they are. ``augmentations``: what training windows are changed by, in mV. ``loss``, by
    the kind of task: ``bce`` or ``asymmetric`` (where most classes are rare), ``softmax``, ``squared`` or ``huber``;
    ``auto`` is the plain one. ``class_weights``: ``balanced`` gives positives as much weight as negatives, and classes
    that exclude each other the same weight. ``average``: use weights averaged over steps, each counting this much less
    than the next (0.99, say). ``label_fraction``: use the labels of this share of the training and validation patients,
    drawn by the seed.
    """

    stages: Annotated[tuple[Stage, ...], SOME_STAGES]
    head: HeadSettings = HeadSettings()
    batch_size: int = Field(default=128, ge=2)
    batchnorm: Literal["trained", "frozen"] = "trained"
    augmentations: tuple[Augmentation, ...] = ()
    loss: Loss = "auto"
    class_weights: ClassWeights = "none"
    keep: Literal["best", "last"] = "best"
    patience: PositiveInt | None = None
    validate_every_epochs: PositiveInt = 1
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    label_fraction: float = Field(default=1.0, gt=0, le=1)


class Epoch(NamedTuple):
    """What an epoch came to; ``validation_merit`` is not a number where none was asked for."""

    stage: int
    epoch: int
    loss: float
    validation_merit: float


def check(train: Split, validation: Split | None, settings: Learning, seed: int) -> None:
    """Raise ProtocolError where labels leave nothing to learn, or nothing to choose an epoch by.

    ConfigError where the loss is for tasks of another kind.
    """
    train.fittable_c()
    refuse_unsuited(train.kind, settings.loss, settings.class_weights)
    chooses = settings.keep == "best" or settings.patience is not None
    tells = validation is not None and (validation.kind == "regression" or validation.tells_apart_c().any())
    if chooses and not tells:
        raise ProtocolError(
            "nothing to choose the epoch by: no validation record tells one from the other",
            fix="add validation folds, or set keep: last and no patience",
        )


def learn(backbone: Backbone, train: Split, validation: Split | None, settings: Learning, context: Context) -> Tuned:
    """Train ``backbone`` and a new head on it.

    Raises ProtocolError where that can't be, or comes to no number, and ConfigError where the heads of its attention
    don't divide the tokens.
    """
    check(train, validation, settings, context.seed)
    refuse_heads(settings, backbone, "the protocol")
    network = Classifier(backbone, settings.head, len(context.classes), context.seed).to(context.device)
    course = _Course(network, train, validation, settings, context)
    with own_torch_generator(torch.device(context.device)):
        for number, stage in enumerate(course.stages, start=1):
            course.follow(number, stage)
    fittable_c = train.fittable_c()
    return Tuned(
        classes=context.classes,
        n_train=len(train.row_r),
        n_validation=0 if validation is None else len(validation.row_r),
        unfitted=tuple(name for name, fitted in zip(context.classes, fittable_c, strict=True) if not fitted),
        chosen=course.chosen(),
        **course.fitted(network.eval()),
    )


class _Course:
    """A network while it learns: the windows, what was best so far, and how it went."""

    def __init__(
        self, network: Classifier, train: Split, validation: Split | None, settings: Learning, context: Context
    ) -> None:
        self.network, self.train, self.validation = network, train, validation
        self.settings, self.context = settings, context
        self.feed: Feed = train.feed()
        self.batch_size = min(settings.batch_size, self.feed.n_records)
        if self.batch_size < 2:
            raise ProtocolError("a network needs two labelled records or more to learn from", got=self.batch_size)
        self.per_epoch = steps_per_epoch(self.feed.n_records, self.batch_size)
        self.stages = [stage.within(self.per_epoch) for stage in settings.stages]
        device = self.feed.device
        self.normalise = normaliser(context.trained.passport, device)
        augmentations.check(settings.augmentations, self.feed.window_samples, context.trained.passport.fs_hz)
        self.scale = kinds.scale_of(train.kind, train.y_rc)
        # Of classes that exclude each other all are learned: one that no record has is learned to be unlikely.
        learned_c = train.fittable_c() if train.kind == "multilabel" else np.ones(train.y_rc.shape[1], np.bool_)
        self.learned_c = torch.from_numpy(learned_c).to(device)
        y_rc = torch.from_numpy(self.scale.down(train.y_rc)).to(device)[:, self.learned_c]
        self.weight_c = balancing_weights(train.kind, y_rc) if settings.class_weights == "balanced" else None
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self.n_steps = sum(stage.epochs for stage in self.stages) * self.per_epoch
        self.step = 0

    def follow(self, number: int, stage: Stage) -> None:
        """Train through one stage, and leave the network as it was best so far, or as it is at the end."""
        optimiser = optim.build(stage.optimiser, _layers(self.network, stage))
        averaged = self._averaged()
        judged = self.network if averaged is None else averaged.module
        self.step = sum(one.epochs for one in self.stages[: number - 1]) * self.per_epoch
        kept, stale = _copied(self.network), 0
        for epoch in range(1, stage.epochs + 1):
            loss = self._epoch(stage, optimiser, averaged, epoch)
            due = epoch == stage.epochs or epoch % self.settings.validate_every_epochs == 0
            self.epochs.append(Epoch(number, epoch, loss, self._merit(judged) if due else math.nan))
            if not due:
                continue
            if self.best is None or self.epochs[-1].validation_merit > self.best.validation_merit:
                self.best, kept, stale = self.epochs[-1], _copied(judged), 0
            else:
                stale += 1
            if self.settings.patience is not None and stale >= self.settings.patience:
                break
        if self.settings.keep == "last":
            self.best, kept = self.epochs[-1], _copied(judged)
        self.network.load_state_dict(kept)

    def chosen(self) -> dict[str, Any]:
        """What was kept, and the way there, as plain values."""
        assert self.best is not None
        curve = [[None if value != value else value for value in one] for one in self.epochs]
        return {"stage": self.best.stage, "epoch": self.best.epoch, "learning_curve": curve}

    def _epoch(
        self, stage: Stage, optimiser: torch.optim.Optimizer, averaged: AveragedModel | None, epoch: int
    ) -> float:
        """One pass over the training records; returns the mean loss."""
        self._set_modes(stage)
        losses = []
        plans = (
            batch_plan(
                self.feed.records,
                window_samples=self.feed.window_samples,
                seed=self.context.seed,
                step=step,
                batch_size=self.batch_size,
            )
            for step in range(self.step, self.step + self.per_epoch)
        )
        in_stage, n_in_stage = (epoch - 1) * self.per_epoch, stage.epochs * self.per_epoch
        with closing(self.feed.batches(plans)) as batches:
            for batch in batches:
                torch.manual_seed(step_seed(self.context.seed, self.step))
                lr = optim.learning_rate(stage.optimiser, in_stage, n_in_stage)
                optim.set_learning_rate(optimiser, lr)
                optimiser.zero_grad(set_to_none=True)
                loss = self._loss(batch, stage)
                loss.backward()  # type: ignore[no-untyped-call]
                optim.clip(self.network.parameters(), stage.optimiser.clip_norm)
                optimiser.step()
                if averaged is not None:
                    averaged.update_parameters(self.network)
                losses.append(loss.detach())
                self.step, in_stage = self.step + 1, in_stage + 1
                self.context.tell(self.step, self.n_steps)
        # Of the loss and of what the last step has made of the weights.
        with torch.no_grad():
            norm = torch.stack([parameter.norm() for parameter in self.network.parameters()]).sum()
        mean = torch.stack(losses).mean()
        if not math.isfinite(float(mean + 0 * norm)):
            raise ProtocolError(
                "the loss is no number any more", where=f"epoch {epoch}", fix="lower the rate, optimiser.lr"
            )
        return float(mean)

    def _loss(self, batch: Batch, stage: Stage) -> Tensor:
        settings, passport = self.settings, self.context.trained.passport
        draw = Draw(self.context.seed)
        windows = WindowBatch(
            to_mv(batch.counts_blt), batch.sample_numbers_b, passport.fs_hz, self.normalise, draw, batch.step
        )
        x_blt = windows.augmented(settings.augmentations, view=0)
        with torch.set_grad_enabled(stage.trains == "all"):
            features = self.network.backbone(x_blt)
        outputs_bc = self.network.head(features)
        y_bc = torch.from_numpy(self.scale.down(self.train.targets_of(batch.rows_b))).to(outputs_bc.device)
        outputs_bc, y_bc = outputs_bc[:, self.learned_c], y_bc[:, self.learned_c]
        return loss_of(self.train.kind, settings.loss, outputs_bc, y_bc, self.weight_c)

    def _set_modes(self, stage: Stage) -> None:
        self.network.train()
        if stage.trains == "head":
            self.network.backbone.eval()
        elif self.settings.batchnorm == "frozen":
            for module in self.network.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _averaged(self) -> AveragedModel | None:
        if self.settings.average is None:
            return None
        fading = get_ema_multi_avg_fn(self.settings.average)  # type: ignore[no-untyped-call]
        return AveragedModel(self.network, multi_avg_fn=fading, use_buffers=True)

    def _merit(self, network: nn.Module) -> float:
        """What the validation records say of the network as it is; not a number where there are none."""
        if self.validation is None:
            return math.nan
        now = Tuned(classes=self.context.classes, **self.fitted(network))
        return kinds.merit(self.train.kind, self.validation.y_rc, now.predict(self.validation))

    def fitted(self, network: nn.Module) -> dict[str, Any]:
        """What :class:`Tuned` holds of ``network`` and of what it was trained on."""
        return {
            "network": network,
            "head": self.settings.head,
            "scale": self.scale,
            "is_fitted_c": self.train.fittable_c(),
            "share_c": self.train.y_rc.mean(axis=0, dtype=np.float64),
            "kind": self.train.kind,
            "device": self.context.device,
        }


def _layers(network: Classifier, stage: Stage) -> list[list[nn.Parameter]]:
    """Groups of parameters that a stage trains, from the head down."""
    head = list(network.head.parameters())
    return [head] if stage.trains == "head" else [head, *network.backbone.layer_groups()]


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
