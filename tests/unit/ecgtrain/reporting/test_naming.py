"""Runs of one name are told apart by what differs: store, noise, seed, a setting; by a number if nothing does."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.naming import names


def run(
    name: str = "cpc", store: str = "a.ecg", seed: int = 0, noise: dict[str, Any] | None = None, **settings: Any
) -> Report:
    about = About(
        run=RunFacts(name=name, seed=seed),
        store=StoreFacts(path=f"stores/{store}", noise=noise or {}),
        settings=yaml.safe_dump({"name": name, "seed": seed, "data": {"store": f"stores/{store}"}, **settings}),
    )
    return Report(results=(), runs=(about,))


def test_names_that_differ_stay_as_they_are() -> None:
    assert names([run("cpc"), run("byol", seed=3)]) == ["cpc", "byol"]


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ({"store": "a.ecg"}, {"store": "b.ecg"}, ["cpc on a.ecg", "cpc on b.ecg"]),
        ({"seed": 1}, {"seed": 2}, ["cpc (seed 1)", "cpc (seed 2)"]),
        ({}, {"noise": {"kind": "muscle", "snr_db": 6.0}}, ["cpc (no noise)", "cpc (muscle 6.0 dB)"]),
        (
            {"downstream": [{"name": "q", "settings": {"fraction": 0.1}}]},
            {"downstream": [{"name": "q", "settings": {"fraction": 1.0}}]},
            ["cpc (fraction 0.1)", "cpc (fraction 1.0)"],
        ),
        (
            {"pretrain": {"method": {"name": "cpc", "steps_ahead": 4}}},
            {"pretrain": {"method": {"name": "byol", "tau": 0.9}}},
            ["cpc (cpc)", "cpc (byol)"],
        ),
        ({"data": {"cache_dir": "x"}}, {"data": {"cache_dir": "y"}}, ["cpc", "cpc (2)"]),
        ({}, {}, ["cpc", "cpc (2)"]),
    ],
)
def test_what_differs_is_said(one: dict[str, Any], two: dict[str, Any], said: list[str]) -> None:
    assert names([run(**one), run(**two)]) == said


def test_as_much_is_said_as_tells_them_apart() -> None:
    grid = [run(store=store, seed=seed, pretrain={"steps": 5}) for store in ("a.ecg", "b.ecg") for seed in (1, 2)]
    assert names(grid) == [
        "cpc on a.ecg (seed 1)",
        "cpc on a.ecg (seed 2)",
        "cpc on b.ecg (seed 1)",
        "cpc on b.ecg (seed 2)",
    ]
    assert names([*grid, run("byol", seed=9)])[-1] == "byol"


def test_names_that_somebody_gave_are_not_taken_twice() -> None:
    assert names([run("cpc (2)"), run(), run()]) == ["cpc (2)", "cpc", "cpc (3)"]


@pytest.mark.parametrize("settings", ["a: &x [1]\nb: *x\n", "{", "x: " + "[" * 10_000, "1"])
def test_settings_that_cannot_be_read_tell_nothing(settings: str) -> None:
    one = Report(results=(), runs=(About(run=RunFacts(name="cpc"), settings=settings),))
    assert names([one, one]) == ["cpc", "cpc (2)"]


def test_a_long_value_is_cut() -> None:
    made = names([run(x="y" * 1000), run(x="z")])
    assert made == [f"cpc (x {'y' * 39}…)", "cpc (x z)"]
