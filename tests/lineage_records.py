"""Records of two to a patient, whose ids and samples are long enough to be looked for in bytes."""

from __future__ import annotations

import numpy as np

from ecgstore import Record, Statement

SECRET = "a secret of sixteen letters or more"
LEADS = ("I", "II", "V2")


def record(
    i: int,
    *,
    prefix: str = "ward/rec",
    site: str | None = None,
    n_samples: int = 12_000,
    leads: tuple[str, ...] = LEADS,
) -> Record:
    """Two records in a row are of one patient; their samples are those of nobody else."""
    rng = np.random.default_rng([i, len(prefix)])
    return Record(
        record_id=f"{prefix}-{i:04d}",
        leads=leads,
        fs_hz=100.0,
        signal_mv_lt=rng.standard_normal((len(leads), n_samples), dtype=np.float32) / 2,
        patient_id=f"{prefix}-patient-{i // 2:03d}",
        fold=1 + i // 2 % 3,
        age_years=40.0 + i,
        sex="female" if i % 2 else "male",
        statements=(Statement("AFIB" if i % 3 else "NORM", "diagnosis"), Statement(f"RARE{i}", "diagnosis")),
        site=site,
    )
