"""A recipe says how its store must be prepared; another one is refused before anything is trained."""

from __future__ import annotations

import pytest
from hostile_runs import RECIPE

from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.errors import PassportError
from ecgtrain.recipes import shipped
from ecgtrain.run import learn, run
from ecgtrain.training.prepare import prepare

BANDPASS = {"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}  # as of mini_store, which has it alone


def recipe(store, **expects):
    return parse(RunConfig, {**RECIPE, "data": {"store": str(store), "expects": expects}})


@pytest.mark.parametrize(
    "expects",
    [{}, {"fs_hz": 100}, {"filters": [BANDPASS]}, {"filters": [{"name": "bandpass"}], "encoding": "microvolt"}],
)
def test_what_is_expected_is_there(mini_store, expects):
    assert prepare(recipe(mini_store, **expects), "cpu").parts


@pytest.mark.parametrize(
    ("expects", "said"),
    [
        ({"fs_hz": 250}, "fs_hz differs.*expected 250, got 100"),
        ({"filters": []}, r"filters differs.*expected none, got bandpass\(low_hz 0.5, high_hz 40"),
        ({"filters": [{**BANDPASS, "high_hz": 35}]}, "filters differs"),
        ({"filters": [BANDPASS, {"name": "notch"}]}, "filters differs"),
        ({"filter": []}, "filter differs.*expected none, got nothing"),
    ],
)
def test_another_store_is_refused_before_any_training(mini_store, tmp_path, expects, said):
    for does in (run, learn):
        with pytest.raises(PassportError, match=said) as refused:
            does(recipe(mini_store, **expects), tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert "data.expects={}" in str(refused.value)
        assert not (tmp_path / "run").exists()


def test_a_network_that_is_only_asked_expects_it_too(mini_store, tmp_path):
    learn(recipe(mini_store), tmp_path / "first")
    idle = {"init_from": str(tmp_path / "first"), "steps": 0}
    told = parse(
        RunConfig, {**RECIPE, "pretrain": idle, "data": {"store": str(mini_store), "expects": {"filters": []}}}
    )
    with pytest.raises(PassportError, match="filters differs"):
        learn(told, tmp_path / "second")


def test_what_is_expected_is_no_part_of_what_is_learned(mini_store, tmp_path):
    learn(recipe(mini_store), tmp_path / "run")
    learn(recipe(mini_store, fs_hz=100), tmp_path / "run", resume=True)


def test_recipes_of_paper_b_expect_what_it_did():
    names = [name for name in shipped() if name.startswith("paper_")]
    expected = {name: config.load(name).data.expects for name in names}
    of_b = [name for name in names if name.startswith("paper_b")]
    assert len(of_b) == 7
    assert all(expected[name] == {"fs_hz": 100, "filters": []} for name in of_b)
    assert all(expected[name] == {"fs_hz": 100} for name in set(names) - set(of_b))
