from __future__ import annotations

import itertools

import numpy as np
import pytest

from ecgstore import LEADS_12, LeadState
from ecgstore.errors import RecordError
from ecgstore.signals.leads import LIMB_LEADS, arrange, harmonise
from ecgstore.signals.names import recognise, recognise_all, said, stored_names


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
        ("ECG I", "I"),
        ("LEAD-I", "I"),
        ("ECG-II", "II"),
        ("EKG II", "II"),
        ("LeadII", "II"),
        ("ecg lead: V5", "V5"),
        ("Lead V6", "V6"),
        ("MDC_ECG_LEAD_III", "III"),
        ("MDC_ECG_ELEC_POTL_V2", "V2"),
        ("aVF+", "aVF"),
        ("+aVF", "aVF"),
    ],
)
def test_aliases(name, lead):
    known = recognise(name)
    assert known is not None
    assert (known.lead, known.sign, known.standard) == (lead, 1, True)


@pytest.mark.parametrize("name", ["-aVR", "Lead -aVR", "\u2212aVR", "ECG_-aVR"])
def test_a_sign_before_the_name_turns_the_lead(name):
    assert (recognise(name).lead, recognise(name).sign) == ("aVR", -1)


@pytest.mark.parametrize("name", ["aVR-", "aVR -", "--aVR", "- aVR?", "aVR(-)", "-aVR-", "inverted aVR", "+-aVR"])
def test_a_sign_is_never_guessed(name):
    assert recognise(name, in_company=True) is None


def test_modified_leads_are_known_for_what_they_are():
    assert not recognise("MLII").standard
    assert recognise("ML2").lead == "MLII"
    assert not recognise("vx").standard


@pytest.mark.parametrize(
    "name",
    ["ECG", "ECG1", "ECG 2", "chan 1", "Abdomen_1", "PLETH", "", "V7x", "signal 0", "L1", "Lead1", "C3", "VF", "V"],
)
def test_unknown_names_are_never_guessed(name):
    assert recognise(name) is None


def test_short_names_are_leads_in_the_company_of_a_lead_alone():
    names = ("L1", "Lead 2", "lead-3", "VR", "VL", "VF", "C1", "C6")
    assert recognise_all(names) == (None,) * 8
    told = recognise_all((*names, "V2"))
    assert tuple(known.lead for known in told) == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V6", "V2")
    # Electrodes on the head are no company, and a bare number is no name.
    assert recognise_all(("C3", "C4", "MLII", "VX"))[:2] == (None, None)
    assert recognise_all(("I", "1", "ECG1", "ECG 2", "ch2"))[1:] == (None,) * 4


def test_signals_of_one_name_are_numbered_but_never_the_twelve():
    names = ("ECG", "ECG", "ECG 2", "MLII", "ML2", "II", "Lead II", " ECG")
    assert stored_names(names) == ("ECG", "ECG 2", "ECG 2 2", "MLII", "MLII 2", "II", "II", "ECG 3")


@pytest.mark.parametrize("name", ["", "Jürgen", "a" * 40, "x\x1b[31m", "a,b", "a;b"])
def test_a_store_takes_plain_short_names_over_alone(name):
    assert stored_names(("I", name)) == ("I", "signal 1")


def test_what_is_said_of_a_signal_is_no_text_of_the_header():
    names = ("V5", "ABP", "Doe, Jane 1931", "Resp 2", "-avr", "spo2", "ECGJane")
    assert [said(names, row) for row in range(7)] == [
        "V5",
        "ABP",
        "signal 2",
        "Resp 2",
        "-aVR",
        "spo2",
        "signal 6",
    ]


@pytest.mark.parametrize("extra", ["refuse", "drop", "keep"])
@pytest.mark.parametrize("names", [("II", "Jane Doe", "Jane Doe"), ("Jane Doe",), ("II", "Lead II", "Jane Doe")])
def test_no_reason_and_no_warning_holds_a_strangers_words(names, extra):
    try:
        told = " ".join(arrange(names, LEADS_12, extra, "r").warnings)
    except RecordError as error:
        told = f"{error.reason} {error.detail}"
    assert "Doe" not in told


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


@pytest.mark.parametrize("pair", [*itertools.combinations(LIMB_LEADS, 2)], ids="-".join)
def test_any_two_limb_leads_give_the_other_four(pair):
    x = signal(2)
    limb = {lead: i * x[0] + ii * x[1] for lead, (i, ii) in LIMB_LEADS.items()}
    out = harmonise(np.stack([limb[lead] for lead in pair]), pair, record_id="r", wanted=tuple(LIMB_LEADS))
    np.testing.assert_allclose(out.signal_mv_lt, list(limb.values()), atol=1e-5)
    assert [state is LeadState.MEASURED for state in out.states] == [lead in pair for lead in LIMB_LEADS]
    assert set(out.states) == {LeadState.MEASURED, LeadState.DERIVED}
    assert out.derived_from == pair


def test_an_inverted_lead_is_turned_before_others_are_derived_from_it():
    i, ii = signal(2)
    out = harmonise(np.stack([-((i + ii) / -2), ii]), ("-aVR", "II"), record_id="r", wanted=("I",))
    np.testing.assert_allclose(out.signal_mv_lt[0], i, atol=1e-5)


@pytest.mark.parametrize("value", [0.3, np.nan])
def test_leads_are_derived_from_leads_that_are_alive(value):
    i, ii = signal(2)
    dead = np.full_like(i, value)
    out = harmonise(np.stack([dead, ii, ii - i]), ("I", "II", "III"), record_id="r", wanted=("aVF", "III"))
    np.testing.assert_allclose(out.signal_mv_lt[0], ii - i / 2, atol=1e-5)
    assert "".join(out.states) == "dm"


def test_a_lead_derived_from_a_dead_lead_is_bad():
    _, ii = signal(2)
    out = harmonise(np.stack([0 * ii, ii]), ("I", "II"), record_id="r", wanted=("III", "aVF"))
    assert "".join(out.states) == "bb"
    np.testing.assert_array_equal(out.signal_mv_lt[0], ii)


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
