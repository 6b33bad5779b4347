"""The tests that train, under other threads, instructions, kernels and seeds: all must pass, whatever the processor.

A test that passes by luck shows here: each variation rounds in another way or draws other numbers, and training makes
small differences large. ``python tests/portability.py`` runs all; what follows goes to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

#: By name: environment variables of the tests (see variation.py), of torch and of its libraries.
VARIATIONS = {
    "1 thread": {"ECG_TEST_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "2 threads": {"ECG_TEST_THREADS": "2", "OMP_NUM_THREADS": "2"},
    # Also the libraries that torch calls, which choose for themselves.
    "plain instructions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "without oneDNN": {"ECG_TEST_ONEDNN": "off"},
    "seed 1": {"ECG_TEST_SEED": "1"},
    "seed 2": {"ECG_TEST_SEED": "2"},
    "seed 3": {"ECG_TEST_SEED": "3"},
}
VARIED = {name for variables in VARIATIONS.values() for name in variables}
# The last -m counts, and that of pyproject.toml comes first.
COMMAND = [sys.executable, "-m", "pytest", "-m", "learning and not gpu"]


def main(arguments: list[str]) -> int:
    """Run pytest once for each variation and say how it went; 1 if any failed."""
    root = Path(__file__).parents[1]
    plain = {name: value for name, value in os.environ.items() if name not in VARIED}
    failed = 0
    for name, variables in VARIATIONS.items():
        began_s = time.monotonic()
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=root, env={**plain, **variables}, capture_output=True, text=True
        )
        failed += done.returncode != 0
        print(
            f"{name:<20}{'FAILED' if done.returncode else 'passed':<8}{time.monotonic() - began_s:6.0f} s", flush=True
        )
        if done.returncode:
            print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
