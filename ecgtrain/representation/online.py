"""A quick look, while a network is trained, at what its features say of a task."""

from __future__ import annotations

import numpy as np
import torch

from ecgstore import ConfigError
from ecgtrain import tasks
from ecgtrain.config import RunConfig
from ecgtrain.representation.extract import window_features
from ecgtrain.training import diagnostics, loop
from ecgtrain.training.prepare import Prepared, pretrain_of

#: Records of an online probe.
_PROBED_RECORDS = 400


def online_probe(config: RunConfig, made: Prepared, device: torch.device | str) -> loop.Probe | None:
    """A quick look at what the backbone's features say of a task, on held-out records."""
    settings = pretrain_of(config)
    if settings.online_probe is None:
        return None
    store, rows, _ = made.validation_parts[0]
    targets = tasks.load(settings.online_probe).targets(store)
    if targets.kind == "regression":
        raise ConfigError("the online probe watches an AUROC, and needs a task with classes", got=targets.task)
    labelled = targets.labelled(rows)
    few = labelled[np.linspace(0, len(labelled) - 1, min(_PROBED_RECORDS, len(labelled)), dtype=np.int64)]
    n_samples = settings.window_samples

    def probe() -> dict[str, float]:
        windows = window_features(
            made.objective.backbone,
            store,
            few,
            passport=made.passport,
            window_samples=n_samples,
            stride_samples=n_samples,
            device=device,
        )
        _, first, n = np.unique(windows.record_row_n, return_index=True, return_counts=True)
        of_record = np.add.reduceat(windows.features_nd, first, axis=0) / n[:, None]
        return {"online_probe_auroc": diagnostics.online_probe(of_record, targets.y_nc[few])}

    return probe
