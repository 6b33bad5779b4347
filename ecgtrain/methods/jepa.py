"""Joint-embedding prediction: say what a teacher makes of hidden patches, not what they look like.

Sources: Kim, "Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive
Architecture", arXiv 2410.08559 (ECG-JEPA); Weimann & Conrad, arXiv 2410.13867; after Assran et al. 2023 (I-JEPA). The
same instants are hidden on all leads. The student gets the other patches; the teacher, a moving average of the
student, gets all of them. A narrow transformer, the same for all leads, says from the student's tokens of one lead
what the teacher's tokens of that lead are where something is hidden. With t a token of the teacher (normalised over
its features, without gradient), q what is said of it, and W the weights::

    loss       = mean over hidden patches and features of |q - t|
    W_teacher <- m W_teacher + (1 - m) W_student           after each step; m rises linearly over the run

Patches of which nothing was recorded do not count. All parts of this loss can fall because the teacher says the same
of all windows (collapse); so ``relative_l1`` compares with saying of each patch what the teacher says on average over
the windows of the batch, and ``target_std`` is how far windows are apart.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.transformer import RowDecoder, Shape, Split, divides, pick
from ecgtrain.backbones.vit1d import Vit1d
from ecgtrain.methods import LossTerms, Moment, Objective, WindowBatch
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Shares

DESCRIPTION = "joint-embedding prediction: say what a moving average of the network makes of hidden patches"

#: Streams of the draw: how much is hidden, by the step; and where, by the window.
_HOW_MUCH, _WHERE = 0, 1


class Predictor(ecgstore.Settings):
    """The transformer that says what the teacher makes of what is hidden; the defaults are Kim's.

    ``width``: features of a token. ``depth``: blocks. ``heads``: of each attention.
    """

    width: PositiveInt = 384
    depth: PositiveInt = 6
    heads: PositiveInt = 12

    @model_validator(mode="after")
    def _heads(self) -> Self:
        divides(self.width, self.heads)
        return self


class Settings(ecgstore.Settings):
    """The defaults are Kim's with random masks.

    ``masking``: what is hidden of the patches of a lead, on all leads alike. How many are hidden is drawn once per
    batch.

    - ``random``: a share drawn from ``ratio``, anywhere, for each window by itself;
    - ``blocks``: ``n_blocks`` stretches, each of a share drawn from ``block``, which may overlap; the same for all
      windows of a batch, as published;
    - ``spans``: a share drawn from ``ratio`` in stretches of ``min_span`` patches or more, for each window by itself.
      Weimann & Conrad's constants are ratio [0.75, 0.85] and min_span 10; how stretches are drawn is ours.

    ``predictor``: the network on the student. ``momentum``: m at the first and at the last step. ``normalise_targets``:
    the teacher's tokens to mean 0 and spread 1 over their features; Weimann & Conrad leave them as they are.
    ``repo_compat``: what Kim's published code does: random masks are the same for all windows of a batch, a block never
    reaches the last patch, and blocks of the teacher are skipped (``drop_path``) as those of the student.
    """

    name: Literal["jepa"] = "jepa"
    masking: Literal["random", "blocks", "spans"] = "random"
    ratio: Shares = (0.6, 0.7)
    n_blocks: PositiveInt = 4
    block: Shares = (0.175, 0.225)
    min_span: PositiveInt = 10
    predictor: Predictor = Predictor()
    momentum: Shares = (0.996, 1.0)
    normalise_targets: bool = True
    repo_compat: bool = False

    @model_validator(mode="after")
    def _something_is_seen(self) -> Self:
        if self.masking == "blocks" and self.n_blocks * self.block[1] >= 1:
            raise ValueError("the blocks could hide everything: n_blocks times the upper bound of block is 1 or more")
        return self


class Views(NamedTuple):
    """Normalised windows and where they were recorded, what their masks are drawn by, and the masks once drawn."""

    x_blt: Tensor
    recorded_blt: Tensor
    sample_numbers_b: Tensor
    draw: Draw
    step: int
    split: Split | None = None


def views(settings: Settings, batch: WindowBatch) -> Views:
    """The normalised windows themselves: nothing is augmented."""
    x_blt = batch.normalise(batch.mv)
    return Views(x_blt, batch.mv.recorded_blt, batch.sample_numbers_b, batch.draw, batch.step)


# --- masks ----------------------------------------------------------------------------------------------------


def draw_hidden(
    settings: Settings, draw: Draw, sample_numbers_b: Tensor, step: int, n_patches: int
) -> tuple[Tensor, int]:
    """What is hidden, bool (batch, patches), and how many of each window: a function of seed and step alone."""
    # On the host, where the number of tokens must be known: the device need not be waited for.
    step_1 = torch.tensor([step])
    how_much, where = draw.fork(_HOW_MUCH), draw.fork(_WHERE)
    if settings.masking == "blocks":
        shares = how_much.fork(0).uniform(step_1, settings.n_blocks, *settings.block)[0].tolist()
        starts = how_much.fork(1).uniform(step_1, settings.n_blocks)[0].tolist()
        hidden_p = _blocks(shares, starts, n_patches, n_places_less=1 if settings.repo_compat else 0)
        return hidden_p.to(sample_numbers_b.device).expand(len(sample_numbers_b), -1), int(hidden_p.sum())
    share = how_much.uniform(step_1, 1, *settings.ratio).item()
    n_hidden = min(max(int(n_patches * share), 1), n_patches - 1)
    if settings.masking == "spans":
        most = max(n_hidden // settings.min_span, 1)
        n_spans = int(how_much.fork(0).integers(step_1, 1, most).item()) + 1
        shortest = min(settings.min_span, n_hidden)
        return _spans(where, sample_numbers_b, n_patches, n_hidden, n_spans, shortest), n_hidden
    numbers_b = torch.full_like(sample_numbers_b, step) if settings.repo_compat else sample_numbers_b
    sizes_b1 = torch.full((len(numbers_b), 1), n_hidden, device=numbers_b.device)
    return where.subset(numbers_b, n_patches, sizes_b1), n_hidden


def _blocks(shares: list[float], starts: list[float], n_patches: int, *, n_places_less: int) -> Tensor:
    hidden_p = torch.zeros(n_patches, dtype=torch.bool)
    for share, start in zip(shares, starts, strict=True):
        length = max(int(n_patches * share), 1)
        first = int(start * max(n_patches - length + 1 - n_places_less, 1))
        hidden_p[first : first + length] = True
    return hidden_p


def _spans(draw: Draw, numbers_b: Tensor, n_patches: int, n_hidden: int, n_spans: int, shortest: int) -> Tensor:
    """Stretches of ``shortest`` or more that hide ``n_hidden`` together; all divisions of the rest alike likely."""
    lengths = _divided(draw.fork(0), numbers_b, n_hidden - n_spans * shortest, n_spans) + shortest
    gaps = _divided(draw.fork(1), numbers_b, n_patches - n_hidden, n_spans + 1)
    ends = (gaps[:, :-1] + lengths).cumsum(dim=1)[..., None]
    places = torch.arange(n_patches, device=numbers_b.device)
    return ((places < ends) & (places >= ends - lengths[..., None])).any(dim=1)


def _divided(draw: Draw, numbers_b: Tensor, n: int, n_parts: int) -> Tensor:
    """``n`` divided into ``n_parts`` of 0 or more, by where ``n_parts`` - 1 bars stand in a row with ``n`` others."""
    n_bars = n_parts - 1
    sizes_b1 = torch.full((len(numbers_b), 1), n_bars, device=numbers_b.device)
    free = ~draw.subset(numbers_b, n + n_bars, sizes_b1)
    bars = free.to(torch.uint8).argsort(dim=1, stable=True)[:, :n_bars]
    ends = F.pad(F.pad(bars, (1, 0), value=-1), (0, 1), value=n + n_bars)
    return ends.diff(dim=1) - 1


def _mean_l1(said_brsd: Tensor, targets_brsd: Tensor, counts_brs: Tensor, split: Split) -> Tensor:
    """The loss of each window, (batch,), over its hidden patches that count; 0 if there are none."""
    error_brs = (said_brsd - pick(targets_brsd, split.hidden_brs)).abs().mean(dim=3)
    counts = counts_brs.take_along_dim(split.hidden_brs, dim=2)
    return (error_brs * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp_min(1)


# --- the objective --------------------------------------------------------------------------------------------


class Jepa(Objective):
    """The loss of joint-embedding prediction; ``backbone`` is the student."""

    follows_budget = True
    #: How many patches are hidden is drawn for each batch.
    shapes_vary = True

    def __init__(self, settings: Settings, backbone: Vit1d) -> None:
        super().__init__()
        self.backbone: Vit1d = backbone
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self._settings = settings
        sizes = settings.predictor
        self.predictor = RowDecoder(
            Shape(sizes.width, sizes.depth, sizes.heads), n_in=backbone.width, n_out=backbone.width
        )

    @property
    def chance(self) -> dict[str, float]:
        """What saying the same of all windows costs, told where a patch is but nothing else."""
        return {"relative_l1": 1.0}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse windows of so few patches that all of them could be hidden."""
        most = self._settings.n_blocks if self._settings.masking == "blocks" else 1
        if self.backbone.n_patches(window_samples) <= most:
            raise ConfigError(
                "the window has too few patches to hide some and see others",
                expected=f"more than {most * self.backbone.patch_samples} samples",
                got=window_samples,
                fix="raise window_samples or lower backbone.patch_samples",
            )

    def train(self, mode: bool = True) -> Jepa:
        """The teacher never skips blocks, unless as in the published code."""
        super().train(mode)
        self.teacher.train(mode and self._settings.repo_compat)
        return self

    def targets(self, x_blt: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's tokens as they are to be said, (batch, rows, patches, width), and their mean as they are."""
        with torch.no_grad():
            tokens_bsd = self.teacher(x_blt).tokens_bsd.float()
            pooled_bd = tokens_bsd.mean(dim=1)
            if self._settings.normalise_targets:
                tokens_bsd = F.layer_norm(tokens_bsd, (self.teacher.width,))
        return tokens_bsd.unflatten(1, (self.backbone.n_rows, -1)), pooled_bd

    def networks(self) -> list[nn.Module]:
        """Of the predictor, too."""
        return [*super().networks(), self.predictor]

    def drawn(self, views: Views) -> Views:
        """With what is hidden of all leads."""
        n_patches = self.backbone.n_patches(views.x_blt.shape[2])
        hidden_bs, n_hidden = draw_hidden(self._settings, views.draw, views.sample_numbers_b, views.step, n_patches)
        return views._replace(split=Split.of(hidden_bs[:, None].expand(-1, self.backbone.n_rows, -1), n_hidden))

    def forward(self, views: Views) -> LossTerms:
        """Mean of the windows' losses; features are the teacher's, of whole windows.

        What the student makes of the few patches that it sees hangs on which they are; in the teacher's features
        windows that are told apart no more can be seen.
        """
        split = (views if views.split else self.drawn(views)).split
        assert split is not None
        targets_brsd, pooled_bd = self.targets(views.x_blt)
        seen_bkd = self.backbone.encode_tokens(self.backbone.embed_patches(views.x_blt), split.keep_bk())
        said_brsd = self.predictor(seen_bkd, split)
        counts_brs = (self.backbone.patches(views.recorded_blt.float()) > 0).any(dim=3)
        with torch.autocast(said_brsd.device.type, enabled=False):
            loss_b = _mean_l1(said_brsd.float(), targets_brsd, counts_brs, split)
            usual_brsd = targets_brsd.mean(dim=0).expand_as(targets_brsd)
            # A mean that was taken over few windows lies nearer to them than to others: n - 1, as in a variance.
            nearer = (1 - 1 / max(len(targets_brsd), 2)) ** 0.5
            usual_b = _mean_l1(pick(usual_brsd, split.hidden_brs), targets_brsd, counts_brs, split) / nearer
        parts = {
            "relative_l1": loss_b.detach().mean() / usual_b.detach().mean().clamp_min(1e-6),
            "target_std": targets_brsd.detach().std(dim=0, correction=0).mean(),
        }
        return LossTerms(loss_b.mean(), parts, pooled_bd.detach()[None])

    def after_step(self, moment: Moment) -> None:
        """Move the teacher towards the student."""
        first, last = self._settings.momentum
        m = first + (last - first) * moment.progress
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.backbone.parameters()), 1 - m)


def build(settings: Settings, backbone: Backbone) -> Jepa:
    """Make the objective; raises ConfigError if the backbone has no patches to take away."""
    if not isinstance(backbone, Vit1d):
        raise ConfigError(
            "jepa needs a backbone whose patches can be left out",
            got=type(backbone).__name__,
            fix="use the backbone vit1d",
        )
    return Jepa(settings, backbone)
