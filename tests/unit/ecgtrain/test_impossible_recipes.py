"""What a recipe can't mean is refused when it is read, before a store is opened."""

from __future__ import annotations

import copy

import pytest

from ecgstore import ConfigError, override
from ecgstore.inner import parse
from ecgstore.storage.statistics import statistics_of
from ecgtrain.config import RunConfig
from ecgtrain.evaluation import protocols

QUESTION = {
    "name": "lp",
    "task": "ptbxl/superdiagnostic",
    "train_folds": [1, 2],
    "test_folds": [4],
    "window_samples": 250,
    "stride_samples": 125,
}
RECIPE = {
    "name": "small",
    "data": {"store": "some.ecg"},
    "pretrain": {
        "method": "cpc",
        "backbone": {"name": "cpc_lstm"},
        "folds": [1, 2],
        "validation_folds": [3],
        "window_samples": 250,
        "batch_size": 4,
        "steps": 10,
    },
    "downstream": [QUESTION, {**QUESTION, "name": "ft"}],
    "curves": [],
}


def read(*assignments):
    return parse(RunConfig, override(copy.deepcopy(RECIPE), assignments), where="recipe.yaml")


def refused(assignment):
    with pytest.raises(ConfigError) as caught:
        read(assignment)
    assert "\n" not in str(caught.value)
    assert "recipe.yaml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "twice"),
    [
        ("pretrain.folds=[1, 1, 2]", "1"),
        ("pretrain.validation_folds=[3, 3]", "3"),
        ("pretrain.trackers=[wandb, wandb]", "wandb"),
        ("data.leads=[I, II, I]", "I"),
        ("data.sources=[ptbxl, ptbxl]", "ptbxl"),
        ("data.sites=[x, x]", "x"),
        ("data.exclude_sources=[ptbxl, ptbxl]", "ptbxl"),
        ("data.exclude_folds=[1, 1]", "1"),
        ("data.stores=[{path: b.ecg}, {path: b.ecg}]", "b.ecg"),
        ("seeds=[1, 2, 1]", "1"),
        ("downstream.0.train_folds=[1, 1, 2]", "1"),
        ("downstream.0.validation_folds=[3, 3]", "3"),
        ("downstream.0.test_folds=[4, 4]", "4"),
        ("downstream.0.nulls=[random, random]", "random"),
        ("downstream.0.compare_to=[ft, ft]", "ft"),
        ("curves=[{kind: label_efficiency, fractions: [0.3, 0.5, 0.5, 1.0]}]", "0.5"),
        ("curves=[{kind: lead_subsets, questions: [lp, ft, lp]}]", "lp"),
        ("curves=[{kind: lead_subsets, leads: [[I, I]]}]", "I"),
        ("curves=[{kind: lead_subsets, leads: [[I, II], [II, I]]}]", "I, II"),
        ("curves=[{kind: noise_robustness, levels: [1, 1]}]", "1"),
        ("curves=[{kind: noise_robustness, snr_db: [6, 6.0]}]", "6.0"),
        ("curves=[{kind: rate_and_gain, rates_hz: [25, 25]}]", "25.0"),
        ("curves=[{kind: rate_and_gain, gains: [2, 2]}]", "2.0"),
        ("curves=[{kind: transfer, stores: [b.ecg, b.ecg]}]", "b.ecg"),
        ("curves=[{kind: transfer, stores: [b.ecg], folds: [1, 1]}]", "1"),
    ],
)
def test_a_list_has_each_of_its_entries_once(assignment, twice):
    said = refused(assignment)
    assert f"each may stand there once, and {twice} stands there twice" in said
    # Which list it is.
    assert assignment.partition("=")[0] in said


def test_a_store_may_be_mixed_in_twice_with_other_records():
    young, old = "{path: b.ecg, where: age_years < 40}", "{path: b.ecg, where: age_years > 60}"
    assert len(read(f"data.stores=[{young}, {old}]").data.stores) == 2


def test_a_network_stands_beside_itself_no_more():
    assert "init_from: a stands there more than once" in refused("pretrain.init_from=[a, a]")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["optimiser.lr", "optimiser.weight_decay", "optimiser.clip_norm", "optimiser.trust"])
def test_a_number_is_finite(key, value):
    assert f"setting pretrain.{key}" in refused(f"pretrain.{key}={value}")


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("pretrain.optimiser.betas=[1.0, 0.9]", "pretrain.optimiser.betas.0"),
        ("pretrain.optimiser.betas=[0.9, -0.1]", "pretrain.optimiser.betas.1"),
        ("pretrain.window_samples=1000001", "pretrain.window_samples"),
        ("downstream.0.window_samples=1000001", "downstream.0.window_samples"),
        ("downstream.0.stride_samples=1000000000000", "downstream.0.stride_samples"),
        ("pretrain.backbone.encoder={width: 1000000000}", "encoder.width"),
        ("pretrain.backbone={name: xresnet1d, depths: [3, 1001]}", "depths.1"),
        ("curves=[{kind: rate_and_gain, gains: [.inf]}]", "gains.0"),
        ("curves=[{kind: rate_and_gain, gains: [1.0e+300]}]", "gains.0"),
        ("curves=[{kind: rate_and_gain, rates_hz: [.inf]}]", "rates_hz.0"),
        ("curves=[{kind: rate_and_gain, rates_hz: [], gains: []}]", "rates_hz and gains are both empty"),
    ],
)
def test_a_number_is_of_a_size_that_can_be_meant(assignment, key):
    assert key in refused(assignment)


def test_nothing_is_compared_to_itself_alone():
    alone = "curves=[{kind: lead_subsets, questions: [lp], reference: lp}]"
    assert "compares lp to itself alone" in refused(alone)
    assert read(alone.replace("[lp]", "[lp, ft]")).curves


@pytest.mark.parametrize("protocol", ["attention_probe", "fine_tune", "scratch"])
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"epochs": 1}] * 11}, "stages"),
        ({"batch_size": 1}, "batch_size"),
        ({"stages": [{"epochs": 1, "optimiser": {"betas": [0.9, 1.0]}}]}, "stages.0.optimiser.betas.1"),
        ({"stages": [{"epochs": 1, "optimiser": {"lr": float("inf")}}]}, "stages.0.optimiser.lr"),
    ],
)
def test_what_trains_a_network_has_stages_and_batches(protocol, settings, key):
    with pytest.raises(ConfigError, match=f"setting {key}"):
        protocols.settings_of(protocol, settings, where="downstream lp")


@pytest.mark.parametrize(
    ("protocol", "settings"), [("linear_probe", {"penalties": [1.0, 1.0]}), ("knn", {"neighbours": [10, 10]})]
)
def test_what_is_chosen_from_stands_there_once(protocol, settings):
    with pytest.raises(ConfigError, match="stands there twice"):
        protocols.settings_of(protocol, settings, where="downstream lp")


def test_statistics_count_a_fold_once():
    of_fold = {"n": [2], "sum_counts": [4], "sum_squared_counts": [10]}
    by_fold = {"1": of_fold, "2": {**of_fold, "sum_counts": [8], "sum_squared_counts": [34]}}
    once, twice = (statistics_of(by_fold, 1, folds) for folds in ([1, 2], [1, 1, 2]))
    assert (once.n_l, once.mean_mv_l, once.std_mv_l) == (twice.n_l, twice.mean_mv_l, twice.std_mv_l)
