from __future__ import annotations

import numpy as np
import pytest

from ecgstore.build.settings import detect_source
from ecgstore.errors import SourceError
from ecgstore.record import LEADS_12, RecordRef
from ecgstore.sources import cinc2020, cinc2021
from ecgstore.sources._challenge import site_of

SETTINGS = cinc2021.Settings()


def write(folder, name, *comments, gain="1000/mV"):
    """One record as the challenge publishes it; its samples are never read here."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} 12 500 5000", *(f"{name}.mat 16+24 {gain} 16 0 0 0 0 {lead}" for lead in LEADS_12)]
    (folder / f"{name}.hea").write_text("\n".join([*lines, *(comments or ("#Dx: 426783006",))]) + "\n")
    (folder / f"{name}.mat").write_bytes(bytes(24))


def described(*comments, ref=None, settings=SETTINGS, gains=()):
    return cinc2021.describe(ref or RecordRef("E00001", None, site="georgia"), comments, settings, gains)


def codes(*comments):
    return [statement.code for statement in described(*comments).statements]


@pytest.mark.parametrize("spelling", ["Dx: {}", "Dx:{}", "# Dx: {}", "#Dx: {}", "dx : {}", "  Dx:   {}  "])
def test_codes_are_found_in_every_spelling(spelling):
    assert codes("Age: 56", spelling.format("426783006,164889003"), "Rx: Unknown") == ["426783006", "164889003"]
    assert {statement.system for statement in described(spelling.format("426783006")).statements} == {"snomed_ct"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("Normal", []),
        ("RBBB", []),
        ("Unknown", []),
        ("infarction 2012, 426783006", ["426783006"]),
        ("426783006, 164889003 ,", ["426783006", "164889003"]),
        ("284470004,251146004,284470004", ["284470004", "251146004"]),
        ("67741000119109", ["67741000119109"]),
        ("164889003abc,12", []),
        ("426783006;164889003|10370003", ["426783006", "164889003", "10370003"]),
        ("426783006 164889003", ["426783006", "164889003"]),
        ('"426783006, 164889003.0"', ["426783006", "164889003"]),
        ("Doe Jane 4267830061961", []),
        ("٤٢٦٧٨٣٠٠٦", []),
    ],
)
def test_only_snomed_identifiers_are_codes_and_each_counts_once(text, found):
    assert codes(f"Dx: {text}") == found


def test_a_header_without_dx_states_nothing_and_history_and_drugs_are_never_kept():
    assert codes() == []
    assert codes("Hx: 164889003", "Rx: 426783006", "Sx: 427084000", "a line without a colon") == []


@pytest.mark.parametrize(
    ("text", "age_years"),
    [
        *[("56", 56.0), ("0", 0.0), ("4.5", 4.5)],
        *[(text, None) for text in ("NaN", "nan", "Unknown", "", "-1", "300", "inf")],
    ],
)
def test_ages_that_are_none_are_none(text, age_years):
    assert described(f"Age: {text}").age_years == age_years


@pytest.mark.parametrize(
    ("text", "sex"),
    [
        *[("Male", "male"), ("M", "male"), ("F", "female"), ("female", "female"), ("Female", "female")],
        *[(text, None) for text in ("Unknown", "NaN", "")],
    ],
)
def test_both_sexes_in_every_spelling(text, sex):
    assert described(f"Sex: {text}").sex == sex


@pytest.mark.parametrize(
    ("record_id", "site"),
    [
        ("A0001", "cpsc_2018"),
        ("Q0001", "cpsc_2018_extra"),
        ("I0001", "st_petersburg_incart"),
        ("S0001", "ptb"),
        ("HR00001", "ptb-xl"),
        ("E00001", "georgia"),
        ("JS00001", "chapman_shaoxing"),
        ("JS10646", "chapman_shaoxing"),
        ("JS10647", "ningbo"),
        ("X0001", None),
        ("JS1", None),
    ],
)
def test_the_id_says_the_database_where_the_folder_does_not(tmp_path, record_id, site):
    assert site_of(tmp_path / "some" / record_id, tmp_path) == site


def test_the_published_layout_is_listed_database_by_database(tmp_path):
    for name, folder in (
        ("JS10647", "training/ningbo/g1"),
        ("E00002", "training/georgia/g2"),
        ("E00001", "training/georgia/g1"),
        ("A0001", "training/cpsc_2018/g1"),
        ("Q0001", "training/cpsc_2018_extra/g1"),
    ):
        write(tmp_path / folder, name)
    listing = cinc2021.list_records(tmp_path, SETTINGS)
    assert [(ref.record_id, ref.site) for ref in listing.records] == [
        ("A0001", "cpsc_2018"),
        ("Q0001", "cpsc_2018_extra"),
        ("E00001", "georgia"),
        ("E00002", "georgia"),
        ("JS10647", "ningbo"),
    ]
    assert listing.records[2].path == tmp_path / "training" / "georgia" / "g1" / "E00001"
    assert {(ref.patient_id, ref.fold) for ref in listing.records} == {(None, None)}
    assert listing.terms.doi == "10.13026/34va-7q14"
    assert not listing.vocabulary


def test_a_known_folder_goes_before_the_id_and_folders_above_the_root_do_not_count(tmp_path):
    write(tmp_path / "georgia" / "WFDB_Ningbo", "JS00001")
    write(tmp_path / "georgia" / "other", "JS00002")
    root = tmp_path / "georgia" / "other"
    assert [ref.site for ref in cinc2021.list_records(root, SETTINGS).records] == ["chapman_shaoxing"]
    sites = {ref.record_id: ref.site for ref in cinc2021.list_records(tmp_path / "georgia", SETTINGS).records}
    assert sites == {"JS00001": "ningbo", "JS00002": "georgia"}


def test_a_folder_without_records_says_what_it_should_hold(tmp_path, write_record):
    write_record(tmp_path, "patient1")
    with pytest.raises(SourceError, match=r"no record of the challenge.*WFDB_Ga.*--source wfdb_folder"):
        cinc2021.list_records(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    "folder", ["training/georgia/g1", "georgia", "WFDB_Ga", "", "training/ptb/g1", "WFDB_StPetersburg"]
)
def test_each_layout_is_recognised(tmp_path, folder):
    name = {"training/ptb/g1": "S0001", "WFDB_StPetersburg": "I0001"}.get(folder, "E00001")
    write(tmp_path / folder, name)
    assert detect_source(tmp_path).name == "cinc2021"


def test_folders_of_others_are_left_alone(tmp_path, write_record):
    write_record(tmp_path / "a", "E00001")  # the id fits, but there is neither .mat nor Dx
    assert detect_source(tmp_path / "a").name == "wfdb_folder"
    write(tmp_path / "e", "E00001")
    (tmp_path / "e" / "E00001.mat").rename(tmp_path / "e" / "E00001.dat")  # nothing but the .mat is absent
    assert detect_source(tmp_path / "e").name == "wfdb_folder"
    write(tmp_path / "b", "ward12")  # .mat and Dx, but neither id nor folder fits
    assert detect_source(tmp_path / "b").name == "wfdb_folder"
    write(tmp_path / "c", "E00001", "#Age: 3")  # no diagnoses
    assert detect_source(tmp_path / "c").name == "wfdb_folder"
    write(tmp_path / "d" / "georgia", "note1")  # the folder fits, the record doesn't
    assert detect_source(tmp_path / "d").name == "wfdb_folder"


def test_2020_is_told_from_2021_by_its_databases_or_its_name(tmp_path):
    ids = {"cpsc_2018": "A0001", "cpsc_2018_extra": "Q0001", "st_petersburg_incart": "I0001", "ptb": "S0001"}
    ids |= {"ptb-xl": "HR00001", "georgia": "E00001"}
    for site, name in ids.items():
        write(tmp_path / "both" / "training" / site / "g1", name)
    assert detect_source(tmp_path / "both").name == "cinc2020"
    write(tmp_path / "both" / "training" / "ningbo" / "g1", "JS20000")
    assert detect_source(tmp_path / "both").name == "cinc2021"
    for named in ("challenge-2020/1.0.2", "classification-of-12-lead-ecgs-challenge-2020-1.0.2"):
        write(tmp_path / named / "training" / "georgia" / "g1", "E00001")
        assert detect_source(tmp_path / named).name == "cinc2020"
        assert not cinc2021.is_here(tmp_path / named)
    listing = cinc2020.list_records(tmp_path / "challenge-2020", cinc2020.Settings())
    assert [ref.site for ref in listing.records] == ["georgia"]
    assert listing.terms.name == "cinc2020"


@pytest.mark.parametrize("source", [cinc2020, cinc2021])
def test_wrong_gains_are_corrected_on_request_and_no_others(source):
    right, wrong = source.Settings(), source.Settings(correct_gain=True)

    def factor(site, gains, settings=wrong):
        return source.describe(RecordRef("r", None, site=site), (), settings, gains).mv_factor

    assert factor("ptb", (2_000_000.0,) * 12) == 2000.0
    assert factor("georgia", (4880.0,) * 12) == 4.88
    assert factor("ptb", (2_000_000.0,) * 12, right) == 1.0
    assert factor("ptb", (1000.0,) * 12) == 1.0
    assert factor("georgia", (4880.0, 1000.0)) == 1.0
    assert factor("cpsc_2018", (4880.0,) * 12) == 1.0
    assert factor(None, (2_000_000.0,) * 12) == 1.0
    assert factor("ptb", ()) == 1.0


def test_the_correction_makes_microvolts_of_counts():
    counts = np.array([-245, 237])
    wrong_mv = counts / 2_000_000
    ref = described(
        ref=RecordRef("S0001", None, site="ptb"),
        settings=cinc2021.Settings(correct_gain=True),
        gains=(2_000_000.0, 2_000_000.0),
    )
    np.testing.assert_allclose(wrong_mv * ref.mv_factor, [-0.245, 0.237])
