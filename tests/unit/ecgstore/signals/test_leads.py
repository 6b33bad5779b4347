from __future__ import annotations

import numpy as np
import pytest

from ecgstore import LEADS_12, LeadState
from ecgstore.errors import RecordError
from ecgstore.signals.leads import harmonise, recognise


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("I", "I"),
        ("ii", "II"),
        ("AVR", "aVR"),
        ("avf", "aVF"),
        (" v1 ", "V1"),
        ("DI", "I"),
        ("D3", "III"),
        ("C4", "V4"),
        ("ECG I", "I"),
        ("Lead V6", "V6"),
        ("MDC_ECG_LEAD_III", "III"),
        ("aVF+", "aVF"),
    ],
)
def test_aliases(name, lead):
    known = recognise(name)
    assert known is not None
    assert (known.lead, known.sign, known.standard) == (lead, 1, True)


def test_an_inverted_lead_and_a_modified_lead_are_known_for_what_they_are():
    assert recognise("-aVR").sign == -1
    assert not recognise("MLII").standard
    assert not recognise("vx").standard


@pytest.mark.parametrize("name", ["ECG", "ECG1", "chan 1", "Abdomen_1", "PLETH", "", "V7x", "signal 0"])
def test_unknown_names_are_never_guessed(name):
    assert recognise(name) is None


def signal(n_leads=12, n_samples=50):
    return np.random.default_rng(1).normal(size=(n_leads, n_samples)).astype(np.float32)


def test_order_comes_from_names_not_positions():
    x = signal()
    order = np.random.default_rng(2).permutation(12)
    shuffled = harmonise(x[order], [LEADS_12[i] for i in order], record_id="r")
    np.testing.assert_array_equal(shuffled.signal_mv_lt, x)
    assert set(shuffled.states) == {LeadState.MEASURED}


def test_limb_leads_are_derived_by_einthoven_and_goldberger():
    x = signal(8)
    names = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    out = harmonise(x, names, record_id="r")
    lead = dict(zip(LEADS_12, out.signal_mv_lt, strict=True))
    np.testing.assert_allclose(lead["III"], lead["II"] - lead["I"], atol=1e-6)
    np.testing.assert_allclose(lead["aVR"], -(lead["I"] + lead["II"]) / 2, atol=1e-6)
    np.testing.assert_allclose(lead["aVL"], (lead["I"] - lead["III"]) / 2, atol=1e-6)
    np.testing.assert_allclose(lead["aVF"], (lead["II"] + lead["III"]) / 2, atol=1e-6)
    assert "".join(out.states) == "mmddddmmmmmm"


def test_precordial_leads_are_never_made_up():
    out = harmonise(signal(2), ("I", "II"), record_id="r")
    assert "".join(out.states) == "mmddddaaaaaa"
    assert np.isnan(out.signal_mv_lt[6:]).all()


def test_an_inverted_avr_is_turned_and_said():
    x = signal(1)
    out = harmonise(x, ("-aVR",), record_id="r", wanted=("aVR",))
    np.testing.assert_array_equal(out.signal_mv_lt, -x)
    assert out.warnings == ("sign turned: aVR",)


def test_extra_signals_are_refused_or_dropped_as_asked():
    x, names = signal(3), ("I", "II", "PLETH")
    with pytest.raises(RecordError, match=r"unknown_lead.*PLETH"):
        harmonise(x, names, record_id="r")
    out = harmonise(x, names, record_id="r", extra="drop")
    assert out.warnings == ("left out: PLETH",)


def test_the_same_lead_twice_and_no_lead_at_all_are_refused():
    with pytest.raises(RecordError, match="duplicate_lead"):
        harmonise(signal(2), ("I", "DI"), record_id="r")
    with pytest.raises(RecordError, match="no_leads"):
        harmonise(signal(1), ("vx",), record_id="r")
