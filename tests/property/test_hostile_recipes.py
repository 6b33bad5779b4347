"""Recipes from anybody: understood, or refused in one line; nothing in them is run by being read."""

from __future__ import annotations

import random
import tempfile
from datetime import date
from pathlib import Path

import pytest
import yaml
from hostile_runs import RECIPE, hostile_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched import prepared, refuse_long, watching

from ecgstore import ConfigError
from ecgtrain import config

#: What takes so long was led astray; no other time is judged here.
pytestmark = pytest.mark.timeout(600)
GOOD = yaml.safe_dump({**RECIPE, "data": {"store": "ptbxl.ecg"}}, sort_keys=False)


def try_recipe(text: str) -> bool:
    """Read a recipe; whether it was not refused. One that is read is written and read again as it was."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = prepared(folder)
        path = folder / "recipe.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            with watching(watch, path):
                made = config.load(path)
        except ConfigError as error:
            refuse_long(error)
            return False
        finally:
            assert watch.did == []
        path.write_text(config.dump(made), encoding="utf-8")
        assert config.load(path) == made
    return True


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32 - 1))
def test_a_hostile_recipe_is_read_or_refused(seed):
    try_recipe(hostile_recipe(GOOD, random.Random(seed)))


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32 - 1))
def test_a_hundred_times_as_many(seed):
    try_recipe(hostile_recipe(GOOD, random.Random(seed)))


@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,&*!?|>-#%@`'\"\n\t a1~<", max_size=60))
def test_any_text_is_read_or_refused(text):
    try_recipe(text)


@pytest.mark.slow
def test_a_section_of_thousands_of_keys_is_refused_in_a_short_line():
    content = yaml.safe_load(GOOD)
    content["pretrain"]["method"] = {str(n): n for n in range(5000)}
    assert not try_recipe(yaml.safe_dump(content))
    assert not try_recipe(hostile_recipe(GOOD, random.Random(3136)))


def test_the_good_recipe_is_good():
    assert try_recipe(GOOD)


def with_settings(penalties):
    content = yaml.safe_load(GOOD)
    content["downstream"][0]["settings"] = {"penalties": penalties}
    return yaml.safe_dump(content, sort_keys=False)


@pytest.mark.parametrize("value", [[{1.0: 2}], b"hello", {"a": {2: 3}}, date(2001, 1, 1)])
def test_settings_hold_only_what_a_recipe_gives_back_as_it_was(value):
    assert not try_recipe(with_settings(value))


@pytest.mark.parametrize("value", [[1, 0.1], {"a": [None, True]}, "x"])
def test_what_json_can_hold_is_kept_for_who_is_asked(value):
    assert try_recipe(with_settings(value))
