"""Versions and machine of a run, for the record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ecgtrain import distributed
from ecgtrain.data.feed import Feed
from ecgtrain.training.files import write_json
from ecgtrain.training.layout import ENVIRONMENT


def environment(device: torch.device | str) -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = ("ecgstore", "torch", "numpy", "zarr", "pyarrow", "pydantic", "scikit-learn", "safetensors")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    versions["torch"] = str(torch.__version__)  # its own word says of which CUDA it is
    cuda = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "versions": versions,
    }


def write_environment(run_dir: Path, device: torch.device | str, feed: Feed) -> None:
    fed = {"feed": feed.description, **({"records_left_out": feed.left_out} if feed.left_out else {})}
    write_json(run_dir / ENVIRONMENT, {**environment(device), "ranks": distributed.world(), **fed})
