"""What our reader gives is what wfdb gives, on every real record at hand.

The bundled records are always compared (test_wfdb_io.py). Archives of further recordings are looked for in the
folder that ECGSTORE_TEST_DATA names, or in `shared/data` beside the checkout: WFDB folders packed as `*.tar.xz`.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.header import MV_PER_UNIT, Header
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import RawSignal, read_signal
from ecgstore.wfdb_io.segments import read_header

DATA = Path(os.environ.get("ECGSTORE_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))
#: Reasons for which a record that wfdb opens is refused all the same: its samples are not those that the header was
#: written for, or there are none.
OURS_ALONE = {"bad_checksum", "no_samples"}


def compare(folder: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for hea in sorted(folder.rglob("*.hea")):
        path = hea.with_suffix("")
        try:
            reference = wfdb.rdrecord(str(path), smooth_frames=False)
        except Exception:  # whatever wfdb raises, it doesn't open this one
            reference = None
        try:
            header = read_header(path, path.name)
            raw = read_signal(path, header, path.name)
        except RecordError as error:
            refusal = error
        else:
            refusal = None
        if refusal is not None:
            assert reference is None or refusal.reason in OURS_ALONE, f"{hea}: {refusal}"
            outcomes[refusal.reason] += 1
            continue
        outcomes["plain" if header.plain else "segments" if header.segments else "through wfdb"] += 1
        if reference is not None:
            assert header.fs_hz == reference.fs * header.samples_per_frame
            assert list(header.lead_names) == reference.sig_name
            np.testing.assert_allclose(
                raw.signal_mv_lt, millivolts(reference, header), rtol=1e-6, atol=1e-6, err_msg=str(hea)
            )
        assert_pieces_are_the_whole(path, header, raw)
    return outcomes


def millivolts(reference: wfdb.Record, header: Header) -> np.ndarray:
    """wfdb's physical values at the rate of the fastest voltage, NaN where there are no millivolts to be had."""
    rows = []
    for row, (value_t, own) in enumerate(zip(reference.e_p_signal, reference.samps_per_frame, strict=True)):
        # The header's unit, because wfdb drops what isn't ASCII: degrees become millivolts, and µV become V.
        mv_per_unit = MV_PER_UNIT.get(header.layout.units[row].lower(), np.nan)
        mv_per_unit = mv_per_unit if header.layout.gains[row] > 0 else np.nan
        picked = np.arange(header.samples_per_frame) * own // header.samples_per_frame
        rows.append(np.reshape(value_t, (-1, own))[:, picked].reshape(-1) * mv_per_unit)
    return np.stack(rows)


def assert_pieces_are_the_whole(path: Path, header: Header, raw: RawSignal) -> None:
    reader = PieceReader(path, header, path.name)
    step = header.n_samples // 5 + 1
    for start in range(0, header.n_samples, step):
        begin, end = max(0, start - 7), min(header.n_samples, start + step + 13)
        np.testing.assert_array_equal(reader.read(begin, end), raw.signal_mv_lt[:, begin:end], err_msg=str(path))
    assert reader.finish() == (raw.source_crc32, raw.warnings)


def unpacked(name: str, folder: Path) -> Path:
    archive = DATA / f"{name}.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not at hand: set ECGSTORE_TEST_DATA to compare more records with wfdb")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", ["physionet_samples", "wfdb_formats", "nstdb"])
def test_odd_records_equal_wfdb(name, tmp_path):
    outcomes = compare(unpacked(name, tmp_path))
    assert outcomes["plain"] + outcomes["segments"] + outcomes["through wfdb"] > 0


@pytest.mark.slow
def test_thousands_of_records_equal_wfdb(tmp_path):
    outcomes = compare(unpacked("ptbxl_dev", tmp_path))
    assert set(outcomes) == {"plain"}
    assert outcomes["plain"] > 2000
