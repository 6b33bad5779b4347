"""ROOM of methods: one paper's objective per file, and what the training loop knows of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from ecgstore import ConfigError, Settings
from ecgstore.inner import occupant
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.scoring.kinds import Kind
from ecgtrain.views.augmentations import Augmentation, chain
from ecgtrain.views.draw import Draw
from ecgtrain.views.noise import Banks
from ecgtrain.views.normalise import Millivolts


class WindowBatch(NamedTuple):
    """Windows of a batch as they come from the feed, and all that views are made of them with.

    ``mv``: millivolts, so that noise can be added in mV; ``normalise`` turns them into what the network eats, and
    is called where the paper calls it. Random parameters come from ``draw`` by ``sample_numbers_b``, so that it
    does not matter which rank makes the views; what is drawn once for a whole batch, by ``step``.

    ``targets_bc``: float32, 1 where a record has the statement, 0 where it hasn't; only for methods whose settings
    name a ``task``. ``banks``: recorded noise, for augmentations that add it.
    """

    mv: Millivolts
    sample_numbers_b: Tensor
    fs_hz: float
    normalise: Callable[[Millivolts], Tensor]
    draw: Draw
    step: int = 0
    targets_bc: Tensor | None = None
    banks: Banks | None = None

    def augmented(self, augmentations: Sequence[Augmentation], view: int) -> Tensor:
        """View number ``view``: augmented in mV by draws of its own, then normalised; (batch, leads, samples)."""
        numbers_b = self.sample_numbers_b
        draw = self.draw.fork(view)
        return self.normalise(chain(*self.mv, draw, numbers_b, augmentations, self.fs_hz, self.banks))


class LossTerms(NamedTuple):
    """``total`` is what is minimised; ``parts`` are detached scalars for the log, by name.

    ``features_vbd``: the backbone's pooled features of each view, detached, for the watch over collapse
    (:mod:`ecgtrain.training.diagnostics`): (views, batch, features), or None where there is nothing to watch.
    """

    total: Tensor
    parts: dict[str, Tensor]
    features_vbd: Tensor | None = None


class Moment(NamedTuple):
    """Where a run stands: ``step`` (from 0) of ``n_steps``, of which ``steps_per_epoch`` are one epoch."""

    step: int
    n_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs done before this step."""
        return self.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the run that is done after this step."""
        return (self.step + 1) / self.n_steps


class Objective(nn.Module):
    """A loss together with the backbone it trains. Each file of this room has

    - ``DESCRIPTION``: one line;
    - ``Settings``: frozen settings, whose ``name`` is the file's name;
    - ``views(settings, batch: WindowBatch) -> Views``: what the objective looks at;
    - ``build(settings, backbone) -> Objective``, which draws its weights from torch's generator and raises
      ConfigError if the backbone can't do what the method asks of it. A method whose settings have a ``task`` is
      built with a third argument, the number of its targets, and a fourth where they are not multi-label: their
      kind (:mod:`ecgtrain.scoring.kinds`), which its settings must then say that it can learn, by ``LEARNS``.
    """

    backbone: Backbone
    #: Whether the loss compares the windows of a batch with each other, so that a batch can't be taken in parts.
    #: Such a loss gathers the batch from all ranks (:func:`ecgtrain.distributed.gather`).
    compares_windows: ClassVar[bool] = False
    #: Whether BatchNorm must see the whole global batch, because windows could be told apart by their rank.
    wants_sync_batchnorm: ClassVar[bool] = False
    #: Whether something else than the rate of the optimiser follows the share of the budget that is done.
    follows_budget: ClassVar[bool] = False
    #: Whether a network gets inputs of other shapes from step to step, whatever the batch.
    shapes_vary: ClassVar[bool] = False
    #: Whether some parameters that are trained may get no gradient in a step.
    leaves_parameters_out: bool = False

    @property
    def chance(self) -> dict[str, float]:
        """What the parts of the loss are if nothing is learned, where that is known."""
        return {}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Raise ConfigError for windows or batches that the method can't learn from; before any data is read."""
        return

    def networks(self) -> list[nn.Module]:
        """What is compiled where a recipe asks for it: the backbone and its copies, each as it says itself."""
        return [part for module in self.modules() if isinstance(module, Backbone) for part in module.networks()]

    def drawn(self, views: Any) -> Any:
        """``views`` with all that ``forward`` needs of random numbers: drawn before it, not in its midst.

        Called once on the views of a batch, by whoever made them; ``forward`` does so where nobody did.
        """
        return views

    @abstractmethod
    def forward(self, views: Any) -> LossTerms:
        """The loss of a batch of views; ``forward``, so that hooks of distributed training run."""

    def before_step(self, moment: Moment) -> None:
        """Called when the gradients are there and before they are used: to freeze something for a while."""
        return

    def after_step(self, moment: Moment) -> None:
        """Called after each step of the optimiser: moving averages, unit-length prototypes."""
        return


def build_objective(
    method: Settings,
    backbone: Settings,
    n_leads: int,
    seed: int,
    n_targets: int | None = None,
    kind: Kind = "multilabel",
    *,
    begun: Backbone | None = None,
) -> Objective:
    """The objective of ``method`` over a fresh backbone (:func:`build_backbone` with the same seed).

    ``begun``: a backbone of the same settings, whose weights are taken in the place of fresh ones.
    ``n_targets``: how many classes, for a method that learns them, of which ``kind``. Raises ConfigError where it
    can't.
    """
    told = [] if n_targets is None else [n_targets] if kind == "multilabel" else [n_targets, kind]
    network = build_backbone(backbone, n_leads, seed)
    if begun is not None:  # before the method makes copies of it
        network.load_state_dict(begun.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = occupant("ecgtrain.methods", cast(Any, method).name)
        if kind not in getattr(chosen, "LEARNS", ("multilabel",)):
            raise ConfigError(f"the method {cast(Any, method).name} can't learn a task of the kind {kind}")
        return cast(Objective, chosen.build(method, network, *told))
