"""Windows of a store as evaluation cuts them, and what a backbone makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecgstore import Store
from ecgtrain.backbones import Backbone
from ecgtrain.data.cache import WindowCache
from ecgtrain.data.changed import Change, open_changed_feed
from ecgtrain.data.feed import open_feed
from ecgtrain.data.plan import Int64, evaluation_plans
from ecgtrain.data.settings import Feeding
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import Passport, normaliser


class WindowFeatures(NamedTuple):
    """``features_nd``: float32, one row per window; ``record_row_n``: the store's row of its record."""

    features_nd: npt.NDArray[np.float32]
    record_row_n: Int64


class TokenFeatures(NamedTuple):
    """A batch of windows: ``tokens_bsd`` float32 on the device; ``record_row_b``: the store's row of each's record."""

    tokens_bsd: Tensor
    record_row_b: Int64


class Signals(NamedTuple):
    """A batch of normalised windows (batch, leads, samples) on the device, and the store's row of each's record."""

    x_blt: Tensor
    record_row_b: Int64


def signals(
    store: Store,
    rows: Int64,
    *,
    passport: Passport,
    window_samples: int,
    stride_samples: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    change: Change | None = None,
    normalised: bool = True,
) -> Iterator[Signals]:
    """Every window of the records at ``rows``, in the order of ``rows``, then of time, as a network eats them.

    Unless ``normalised`` they are in mV; what was not recorded is 0.

    A record of 1,000 samples gives 7 windows of 250 every 125; one shorter than a window gives one, padded.
    ``change``: what is done to every record before it is cut. Raises PassportError if ``store`` was prepared otherwise
    than the backbone's signals, IntegrityError if a record can't be read, and what
    :func:`ecgtrain.data.feed.open_feed` raises.
    """
    passport.refuse_other(store)
    if change is not None:
        feed = open_changed_feed(
            store, rows, change, window_samples=window_samples, leads=passport.leads, device=device
        )
    else:
        # Strict: features of fewer records than were asked for would be another test than the one that is reported.
        feed = open_feed(
            store,
            rows,
            window_samples=window_samples,
            leads=passport.leads,
            short_records="pad",
            device=device,
            feeding=Feeding(strict=True),
        )
    plans = evaluation_plans(
        feed.records, window_samples=window_samples, stride_samples=stride_samples, batch_size=batch_size
    )
    normalise = normaliser(passport, feed.device)
    for batch in feed.batches(plans):
        mv = to_mv(batch.counts_blt)
        yield Signals(normalise(mv) if normalised else mv.x_blt, batch.rows_b)


def signals_of(
    counts_lt: npt.NDArray[np.int16],
    *,
    passport: Passport,
    window_samples: int,
    stride_samples: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    normalised: bool = True,
) -> Iterator[Signals]:
    """Every window of one record in memory, as :func:`signals` cuts those of a store; its row is 0.

    ``counts_lt`` is int16 (leads, samples) in the order of the passport's leads, -32768 where not recorded.
    """
    n_leads, n_samples = counts_lt.shape
    lengths_n = np.array([n_samples], dtype=np.int64)
    cache = WindowCache(n_leads, lengths_n, window_samples)
    cache.put(0, 0, counts_lt)
    normalise = normaliser(passport, device)
    for plan in evaluation_plans(
        lengths_n, window_samples=window_samples, stride_samples=stride_samples, batch_size=batch_size
    ):
        counts_btl = torch.from_numpy(cache.windows(plan.rows, plan.offsets)).to(device)
        mv = to_mv(counts_btl.transpose(1, 2))
        yield Signals(normalise(mv) if normalised else mv.x_blt, plan.rows)


def window_features(
    backbone: Backbone,
    store: Store,
    rows: Int64,
    *,
    passport: Passport,
    window_samples: int,
    stride_samples: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    change: Change | None = None,
) -> WindowFeatures:
    """Pooled features of every window of the records at ``rows`` of ``store``, in their order, then in that of time.

    ``backbone`` and ``passport`` are those of a :class:`Trained`. Windows of ``window_samples`` are cut every
    ``stride_samples``: a record of 1,000 samples gives 7 of 250 every 125; one shorter than a window gives one,
    padded. The answer has ``features_nd``, float32 (windows, features), and ``record_row_n``, int64 (windows,): the
    store's row of each window's record. ``batch_size`` windows are computed at once. ``change``: what is done to every
    record before it is cut.

    Raises PassportError if ``store`` was prepared otherwise than the backbone's signals, IntegrityError if a record
    can't be read, ProtocolError and ConfigError as :func:`open_feed` does.
    """
    cut = signals(
        store,
        rows,
        passport=passport,
        window_samples=window_samples,
        stride_samples=stride_samples,
        batch_size=batch_size,
        device=device,
        change=change,
    )
    return pooled_of(backbone, cut, device)


def pooled_of(backbone: Backbone, cut: Iterable[Signals], device: torch.device | str = "cpu") -> WindowFeatures:
    """Pooled features of windows that were cut before."""
    features, record_rows = [], []
    with _only_looked_at(backbone, device):
        for x_blt, record_row_b in cut:
            features.append(backbone(x_blt).pooled_bd.float().cpu().numpy())
            record_rows.append(record_row_b)
    return WindowFeatures(np.concatenate(features), np.concatenate(record_rows))


def tokens_of(
    backbone: Backbone, cut: Iterable[Signals], device: torch.device | str = "cpu"
) -> Iterator[TokenFeatures]:
    """Features of every token, batch by batch: those of all windows may not fit in memory."""
    for x_blt, record_row_b in cut:
        with _only_looked_at(backbone, device):
            tokens_bsd = backbone(x_blt).tokens_bsd.float()
        yield TokenFeatures(tokens_bsd, record_row_b)


@contextmanager
def _only_looked_at(backbone: Backbone, device: torch.device | str) -> Iterator[None]:
    """In evaluation mode, without gradient; its mode is given back."""
    was_training = backbone.training
    backbone.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.train(was_training)
