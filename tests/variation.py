"""What tests/portability.py varies: the same tests with other threads, other kernels, other draws."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np

THREADS = int(os.environ.get("ECG_TEST_THREADS", "0"))
ONEDNN = os.environ.get("ECG_TEST_ONEDNN", "on") != "off"
# Far apart, so that seed + 1 of one variation, such as that of held-out windows, is not the seed of another.
SEED = 1000 * int(os.environ.get("ECG_TEST_SEED", "0"))


def apply() -> None:
    """Let this process be as the environment asks, once and for good: in tests, their fixtures, and children."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if THREADS:
        torch.set_num_threads(THREADS)
    if not ONEDNN:
        torch.backends.mkldnn.set_flags(False)
    if SEED:
        _shift_every_seed(torch)


def _shift_every_seed(torch: ModuleType) -> None:
    """Let every seed that a test or the code names be another: other weights, other data, other draws."""

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + SEED)

    manual_seed, default_rng = torch.manual_seed, np.random.default_rng
    torch.manual_seed = lambda seed: manual_seed(seed + SEED)
    np.random.default_rng = lambda seed=None: default_rng(_shifted(seed))
    torch.Generator = Generator


def _shifted(seed: object) -> object:
    """Generators, and what asks for no seed, stay as they are."""
    match seed:
        case list() | tuple():
            return [SEED, *seed]
        case int() | np.integer():
            return int(seed) + SEED
    return seed
