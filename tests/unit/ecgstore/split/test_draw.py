"""Folds of a store: patients and copies stay together, what is asked for is balanced or left out, all else is said."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore import ConfigError, IngestSettings, Record, Statement, open_store, split_records, write_records
from ecgstore.split.draw import counts_of, labels_of

LEADS = ("I", "II", "V1")


def beats(seed):
    rng = np.random.default_rng(seed)
    signal = 0.02 * rng.standard_normal((3, 1000)).cumsum(axis=1) / 4
    signal[:, rng.integers(0, 1000, 12)] += 1.0
    return signal.astype(np.float32)


def record(k, patient, **fields):
    given = {"signal_mv_lt": beats(k), "fs_hz": 100.0, "leads": LEADS, **fields}
    return Record(record_id=f"r{k:02d}", patient_id=patient, **given)


def code(*codes):
    return tuple(Statement(one, "diagnosis", None) for one in codes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Thirty records: patients of two, three of nobody, a copy under another patient, sites, codes."""
    records = [
        record(
            k,
            f"p{k // 2}" if k < 26 else None,
            site=("north", "south", "east")[(k // 2) % 3] if k != 5 else "north",
            statements=code("AFIB" if k % 3 else "NORM", *(["LBBB"] if k % 10 == 0 else [])),
            age_years=30.0 + k if k else None,
            sex="female" if k % 4 < 2 else "male",
        )
        for k in range(29)
    ]
    records.append(record(29, "another", signal_mv_lt=1.5 * beats(7), site="north", statements=code("AFIB")))
    out = tmp_path_factory.mktemp("split") / "own.ecg"
    write_records(out, records, IngestSettings(fs_hz=100, filters=(), leads=LEADS, patient_key="public"))
    return open_store(out)


def folds_of(store, split):
    return dict(zip(store.column("record_id").tolist(), split.fold_n.tolist(), strict=True))


def test_patients_and_copies_of_other_patients_stay_in_one_fold(store):
    for seed in range(5):
        split = split_records(store, folds=5, stratify="diagnosis", seed=seed)
        fold = folds_of(store, split)
        assert all(fold[f"r{k:02d}"] == fold[f"r{k + 1:02d}"] for k in range(0, 26, 2))
        assert fold["r29"] == fold["r07"] == fold["r06"]
        assert split.folds == [1, 2, 3, 4, 5]
    assert any("3 of 30 records name no patient" in note for note in split.notes)
    assert any("that are nearly the same stay in one fold: 1 pair" in note for note in split.notes)
    assert "too few patients to be in every fold: LBBB" in split.notes


def test_codes_are_in_balance_and_counted(store):
    split = split_records(store, folds=3, stratify="diagnosis:AFIB,NORM")
    counts = counts_of(store, split)
    assert [one.fold for one in counts] == [1, 2, 3]
    assert sum(one.records for one in counts) == 30
    assert sum(one.patients for one in counts) == 13 + 3 + 1
    afib = [one.positives["AFIB"] for one in counts]
    assert sum(afib) == int(store.statement_matrix(["AFIB"], "diagnosis").sum())
    assert max(afib) - min(afib) <= 2
    assert list(counts_of(store, split_records(store, folds=3))[0].positives) == [
        "diagnosis:AFIB",
        "diagnosis:NORM",
        "diagnosis:LBBB",
    ]


def test_a_column_is_taken_by_its_values_or_by_fifths(store):
    assert set(labels_of(store, "sex").names) == {"sex female", "sex male", "sex not stated"}
    ages = labels_of(store, "age_years")
    assert len(ages.names) == 6
    assert dict(zip(ages.names, ages.counts().tolist(), strict=True))["age_years not stated"] == 2
    split = split_records(store, folds=2, stratify="age_years")
    assert {one.records for one in counts_of(store, split)} <= {14, 15, 16}


def test_what_balances_nothing_is_refused_or_noted(store):
    with pytest.raises(ConfigError, match="no record states anything of heart_rate_bpm.*name another column"):
        split_records(store, folds=3, stratify="heart_rate_bpm")
    nothing = "so that folds are balanced by nothing"
    for column, why in (
        ("record_id", f"no two patients share any of what was asked for, {nothing}"),
        ("patient_key", f"no two patients share any of what was asked for, {nothing}"),
        ("n_samples", f"all patients have the same of what was asked for, {nothing}"),
    ):
        assert why in split_records(store, folds=3, stratify=column).notes
    for column in ("sex", "diagnosis", "diagnosis:LBBB"):
        assert not any(nothing in note for note in split_records(store, folds=3, stratify=column).notes)


def test_a_fold_for_each_site_without_who_is_at_several(store):
    split = split_records(store, site=True)
    assert split.names == {1: "east", 2: "north", 3: "south"}
    fold = folds_of(store, split)
    # Of p2, one record is of another site; and the copy of r07 is in the north, as its patient p3 is.
    assert (fold["r04"], fold["r05"]) == (-1, -1)
    assert (fold["r06"], fold["r29"]) == (2, 2)
    assert "2 records are of patients or recordings of several sites, and are in no fold" in split.notes
    assert split.settings.folds is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"folds": 20}, "fewer patients than folds.*got 16, as some of 17 have nearly the same.*ecgstore overlap"),
        ({"folds": 1}, "folds.*greater than or equal to 2"),
        ({"folds": 1001}, "folds.*less than or equal to 1000"),
        ({"seed": -1}, "seed"),
        ({"stratify": "diagnosis:AFBI"}, "no record could state the code 'AFBI'.*did you mean AFIB"),
        ({"stratify": "diagnosis:AFIB,AFIB"}, "each once"),
        ({"stratify": "diagnosis:"}, "each once"),
        ({"stratify": "diagnose"}, "neither a coding system nor a column 'diagnose'.*did you mean diagnosis"),
        ({"stratify": "age"}, "did you mean age_years"),
        ({"stratify": ""}, "stratify"),
        ({"stratify": "diagnosis", "site": True}, "leaves no choice"),
        ({"folds": 4, "site": True}, "leaves no choice"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(store, wanted, said):
    with pytest.raises(ConfigError, match=said) as refused:
        split_records(store, **wanted)
    assert "\n" not in str(refused.value)


def test_one_patient_is_not_split(tmp_path):
    records = [record(k, "p0") for k in range(4)]
    write_records(
        tmp_path / "one.ecg", records, IngestSettings(fs_hz=100, filters=(), leads=LEADS, patient_key="public")
    )
    with pytest.raises(ConfigError, match="expected 2 patients or more, got 1; one patient can't be split"):
        split_records(open_store(tmp_path / "one.ecg"), folds=2)


def test_sites_are_asked_for_where_there_are_none(mini_store):
    with pytest.raises(ConfigError, match="a fold for each site needs several sites"):
        split_records(open_store(mini_store), site=True)


def test_the_same_settings_give_the_same_table(store):
    one, again = (split_records(store, folds=4, stratify="diagnosis") for _ in range(2))
    assert one.to_bytes() == again.to_bytes()
    assert one.sha256 == again.sha256
    assert split_records(store, folds=4, stratify="diagnosis", seed=1).sha256 != one.sha256
