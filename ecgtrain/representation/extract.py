"""Features of the windows of a store."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ecgstore import Store
from ecgtrain.backbones import Backbone
from ecgtrain.data.feed import open_feed
from ecgtrain.data.plan import Int64, evaluation_plans
from ecgtrain.data.settings import Feeding
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import Passport, normaliser


class WindowFeatures(NamedTuple):
    """``features_nd``: float32, one row per window; ``record_row_n``: the store's row of its record."""

    features_nd: npt.NDArray[np.float32]
    record_row_n: Int64


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
) -> WindowFeatures:
    """Pooled features of every window of the records at ``rows``, cut as evaluation cuts them.

    Windows come in the order of ``rows``, then of time: 7 for a record of 1,000 samples in windows of 250
    every 125. A record shorter than a window gives one, padded. Raises PassportError if ``store`` was
    prepared otherwise than the backbone's signals, IntegrityError if a record can't be read, and what
    :func:`ecgtrain.data.feed.open_feed` raises.
    """
    passport.refuse_other(store)
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
    features, record_rows = [], []
    was_training = backbone.training
    backbone.to(device).eval()
    try:
        with torch.no_grad():
            for batch in feed.batches(plans):
                pooled_bd = backbone(normalise(to_mv(batch.counts_blt))).pooled_bd
                features.append(pooled_bd.float().cpu().numpy())
                record_rows.append(batch.rows_b)
    finally:
        backbone.train(was_training)
    return WindowFeatures(np.concatenate(features), np.concatenate(record_rows))
