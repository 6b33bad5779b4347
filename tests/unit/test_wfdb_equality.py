"""What our reader gives is what wfdb gives, on every real record at hand.

The bundled records are always compared (test_wfdb_io.py). Archives of further recordings are looked for in the
folder that ECGSTORE_TEST_DATA names, or in `shared/data` beside the checkout: WFDB folders packed as `*.tar.xz`.
"""

from __future__ import annotations

import os
import tarfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgstore.errors import RecordError
from ecgstore.wfdb_io import MV_PER_UNIT, read_header, read_signal

DATA = Path(os.environ.get("ECGSTORE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
#: Reasons for which a record that wfdb opens is refused all the same: its millivolts would be invented, or its
#: samples are not those that the header was written for.
OURS_ALONE = {"bad_gain", "unknown_unit", "bad_checksum", "bad_initial_value", "no_samples"}


def compare(folder: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for hea in sorted(folder.rglob("*.hea")):
        path = hea.with_suffix("")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reference = wfdb.rdrecord(str(path))
        except Exception:  # whatever wfdb raises, it doesn't open this one
            reference = None
        try:
            header = read_header(path, path.name)
            raw = read_signal(path, header, path.name)
        except RecordError as error:
            refused = error.reason
        else:
            refused = None
        if refused is not None:
            assert reference is None or refused in OURS_ALONE, f"{hea}: {refused}"
            outcomes[refused] += 1
            continue
        outcomes["plain" if header.plain else "through wfdb"] += 1
        if reference is not None:
            scale_l = np.array([MV_PER_UNIT[unit.lower()] for unit in reference.units])
            assert header.fs_hz == reference.fs
            assert list(header.lead_names) == reference.sig_name
            np.testing.assert_allclose(
                raw.signal_mv_lt, (reference.p_signal * scale_l).T, rtol=1e-6, atol=1e-6, err_msg=str(hea)
            )
    return outcomes


def unpacked(name: str, folder: Path) -> Path:
    archive = DATA / f"{name}.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not at hand: set ECGSTORE_TEST_DATA to compare more records with wfdb")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.mark.filterwarnings("ignore")  # wfdb and what it decodes with may warn as they like
@pytest.mark.parametrize("name", ["physionet_samples", "wfdb_formats", "nstdb"])
def test_odd_records_equal_wfdb(name, tmp_path):
    outcomes = compare(unpacked(name, tmp_path))
    assert outcomes["plain"] + outcomes["through wfdb"] > 0


@pytest.mark.slow
def test_thousands_of_records_equal_wfdb(tmp_path):
    outcomes = compare(unpacked("ptbxl_dev", tmp_path))
    assert set(outcomes) == {"plain"}
    assert outcomes["plain"] > 2000
