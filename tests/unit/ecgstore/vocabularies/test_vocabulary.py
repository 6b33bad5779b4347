from __future__ import annotations

import csv

import numpy as np
import pytest

from ecgstore.errors import ConfigError
from ecgstore.vocabularies import vocabulary


def weight(year, one, other, **options):
    classes = [c for c in vocabulary.scored_classes(year) if not (options.get("merged") and c.equivalent)]
    names = [c.abbreviation for c in classes]
    return vocabulary.challenge_weights(year, **options)[names.index(one), names.index(other)]


@pytest.mark.parametrize(("year", "n", "n_merged"), [(2020, 27, 24), (2021, 30, 26)])
def test_weights_are_symmetric_rewards_of_a_known_size(year, n, n_merged):
    classes = vocabulary.scored_classes(year)
    assert len(classes) == len({c.code for c in classes}) == len({c.abbreviation for c in classes}) == n
    for merged, size in ((False, n), (True, n_merged)):
        weights = vocabulary.challenge_weights(year, merged=merged)
        assert weights.shape == (size, size)
        np.testing.assert_array_equal(weights, weights.T)
        np.testing.assert_array_equal(np.diag(weights), 1.0)
    assert (vocabulary.challenge_weights(year, merged=True) == 1).sum() == n_merged
    codes = {c.code for c in classes}
    assert all(c.scored_as in codes for c in classes)
    assert not any(other.equivalent for c in classes for other in classes if c.equivalent == other.code)


@pytest.mark.parametrize("year", [2020, 2021])
@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # entries of the official matrices
        ("IAVB", "AF", 0.3),
        ("AF", "AFL", 0.5),
        ("CRBBB", "RBBB", 1.0),
        ("PAC", "SVPB", 1.0),
        ("PVC", "VPB", 1.0),
        ("VPB", "SVPB", 0.4625),
        ("QAb", "NSR", 0.15),
        ("TAb", "Brady", 0.3),
        ("AF", "NSR", 0.25),
        ("LAD", "PAC", 0.4875),
        ("LBBB", "LQRSV", 0.45),
        ("LQT", "QAb", 0.35),
    ],
)
def test_the_law_gives_the_official_weights_to_the_bit(year, one, other, expected):
    assert weight(year, one, other) == expected


def test_two_pairs_of_2021_are_not_as_the_law_says():
    assert weight(2021, "BBB", "LBBB") == 0.475
    assert weight(2021, "BBB", "CLBBB") == 0.475  # scored as LBBB
    assert weight(2021, "LQRSV", "PRWP") == 0.475
    assert weight(2021, "BBB", "LBBB", merged=True) == 0.475
    assert weight(2021, "BBB", "AF") == 0.475  # by the law
    assert weight(2021, "PRWP", "RBBB") == 0.475
    assert weight(2021, "LBBB", "CLBBB") == 1.0


def test_a_challenge_score_from_the_weights_is_the_one_worked_out_by_hand():
    # True AF, predicted AF and NSR: two classes in either, so each counts half.
    assert (weight(2020, "AF", "AF") + weight(2020, "AF", "NSR")) / 2 == 0.625


def test_weights_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.challenge_weights(2020)[0, 0] = 2


def test_an_unknown_year_is_said():
    for ask in (vocabulary.scored_classes, vocabulary.challenge_weights):
        with pytest.raises(ConfigError, match="2020 or 2021, got 2019"):
            ask(2019)


def test_what_means_the_same_goes_there_and_back():
    there, back = vocabulary.scp_to_snomed(), vocabulary.snomed_to_scp()
    for pair in vocabulary.scp_snomed_pairs():
        if pair.relation == "same":
            assert there[pair.scp] == pair.snomed
            assert back[pair.snomed] == pair.scp
    assert there["ASMI"] == there["IMI"] == "164865005"
    assert "164865005" not in back  # which infarction, nobody knows
    assert (there["NORM"], back["426783006"]) == ("426783006", "SR")
    assert there["PVC"] == "164884008"
    assert back["427172004"] == back["17338001"] == back["164884008"] == "PVC"


def test_each_row_is_of_a_known_kind_and_each_statement_has_one_code():
    pairs = vocabulary.scp_snomed_pairs()
    assert {pair.relation for pair in pairs} == {"same", "broader", "synonym"}
    assert {pair.scp for pair in pairs if pair.checked == "co_occurrence"} == {"NORM", "SR", "SBRAD", "LVOLT"}
    assert {pair.checked for pair in pairs} == {"co_occurrence", "by_name"}
    forward = [pair.scp for pair in pairs if pair.relation != "synonym"]
    backward = [pair.snomed for pair in pairs if pair.relation != "broader"]
    assert len(forward) == len(set(forward)) == 57
    assert len(backward) == len(set(backward))
    assert all(pair.snomed.isdigit() and pair.snomed_name for pair in pairs)


def test_statements_are_those_of_ptbxl(mini):
    with (mini / "scp_statements.csv").open() as file:
        known = {row[""] for row in csv.DictReader(file)}
    assert set(vocabulary.scp_to_snomed()) < known
    assert len(known - set(vocabulary.scp_to_snomed())) == 14


def test_names_of_codes_agree_between_the_tables():
    names = {c.code: c.name for year in vocabulary.YEARS for c in vocabulary.scored_classes(year)}
    for pair in vocabulary.scp_snomed_pairs():
        assert names.get(pair.snomed, pair.snomed_name) == pair.snomed_name, pair


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [("NLRBejn", "N"), ("AaJS", "S"), ("VEr", "V"), ("F", "F"), ("/fQ?", "Q"), ('+~|![]x"', None)],
)
def test_beats_have_the_class_of_the_standard(symbols, expected):
    assert {vocabulary.aami_class(symbol) for symbol in symbols} == {expected}
