"""What is said of a whole source in one line."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore.build.ingest import ingest_folder
from ecgstore.build.notes import kind_of, notes
from ecgstore.build.settings import IngestSettings
from ecgstore.build.survey import survey


@pytest.mark.parametrize(
    ("suspicion", "kind"),
    [
        ("limb leads don't add up: aVL, aVF", "limb leads don't add up"),
        ("no lead spans more than 0.12 mV: is the gain right?", "no lead spans more than … mV"),
        ("artefact of 23.4 mV in V2, V3?", "artefact of …"),
        ("I is flat: both arm electrodes on the legs?", "I is flat"),
        ("V1 and V2 swapped?", "V1 and V2 swapped?"),
    ],
)
def test_suspicions_of_one_kind_are_one(suspicion, kind):
    assert kind_of(suspicion) == kind


@pytest.mark.parametrize(("n", "lines"), [(5, 0), (6, 1)])
def test_a_suspicion_is_noted_where_more_than_a_twentieth_share_it(n, lines):
    suspects = ["limb leads don't add up: III; V1 and V2 swapped?"] + ["limb leads don't add up: aVF"] * (n - 1)
    found = notes(suspects + [""] * (100 - n), [""] * 100)
    assert len(found) == lines
    assert all(f"{n} of 100 records" in line and line.endswith("limb leads don't add up") for line in found)


def test_what_is_left_out_and_clipped_is_noted():
    warnings = ["left out: MLII, signal 1; 7 samples beyond ±32.767 mV were clipped in V1: …", "left out: MLII", ""]
    clipped, left_out = notes([""] * 3, warnings)
    assert clipped.startswith("1 of 3 records have samples beyond")
    assert left_out.startswith("signals left out of 3 records: MLII of 2, signal 1 of 1; --extra-leads keep")
    assert notes([], []) == ()
    # Records are counted, not signals, and a number is no signal's name.
    (line,) = notes([""] * 2, ["left out: ECG, ECG, signal 2 and 1488 more", "left out: ECG"])
    assert line.startswith("signals left out of 2 records: ECG of 2, signal 2 of 1; ")


def test_ingest_and_scan_note_it(tmp_path, write_record):
    """III of another gain than I and II, as in LUDB, and the lead that is none of the twelve, as in MIT-BIH."""
    rng = np.random.default_rng(2)
    for name in ("a", "b"):
        counts_tl = np.repeat(rng.integers(-900, 900, (1000, 4)), 5, axis=0).astype("<i2")
        write_record(tmp_path / "src", name, counts_tl, ("I", "II", "III", "MLII"))
    expected = (
        "2 of 2 records are under one suspicion, so look at the source: limb leads don't add up",
        "signals left out of 2 records: MLII of 2; --extra-leads keep stores them",
    )
    assert ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings()).notes == expected
    assert survey(tmp_path / "src", IngestSettings()).notes == expected
