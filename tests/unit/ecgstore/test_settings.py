from __future__ import annotations

import os
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ecgstore import ConfigError, IngestSettings, override
from ecgstore.inner import NOT_SAID, first_difference, innermost_difference, parse, read_yaml
from ecgstore.settings import Settings


class Inner(Settings):
    width: int = 1
    any_other: int = 1


class Near(Settings):
    other: int = 1
    few: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)


class Line(Settings):
    kind: Literal["line"] = "line"


class Ring(Settings):
    kind: Literal["ring"] = "ring"
    size: int = 1


class Outer(Settings):
    inner: Inner = Inner()
    items: Annotated[tuple[Inner, ...], Field(max_length=3)] = ()
    name: str
    near: Near = Near()
    forms: Literal["x", "y"] | dict[str, Inner] = "x"
    shape: Annotated[Line | Ring, Field(discriminator="kind")] = Line()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "iner": {}}, "unknown setting iner.*did you mean inner"),
        ({"name": "a", "inner": {"widht": 2}}, r"unknown setting inner\.widht.*did you mean width"),
        ({"name": "a", "items": [{"widht": 2}]}, r"unknown setting items\.0\.widht.*did you mean width"),
        ({"name": "a", "inner": {"width": "wide"}}, r"setting inner\.width.*got 'wide'"),
        ({}, "setting name: field required"),
        ({"name": "a", "width": 2}, "unknown setting width; did you mean inner.width"),
        ({"name": "a", "inner": {"items": []}}, "unknown setting inner.items; did you mean items"),
        ({"name": "a", "inner": {"other": 1}}, "unknown setting inner.other; did you mean any_other or near.other"),
        ({"name": "a", "items": "b"}, "setting items: input should be a list; got 'b'"),
        ({"name": "a", "items": [{}] * 4}, "setting items: should have at most 3 items, not 4"),
        ({"name": "a", "near": {"few": []}}, r"setting near\.few: should have at least 1 item, not 0"),
        ({"name": "a", "forms": 5}, r"setting forms: input should be 'x' or 'y'; or input should be a mapping; got 5"),
        ({"name": "a", "forms": {"mine": {"widht": 5}}}, r"unknown setting forms\.mine\.widht; did you mean width"),
        (
            {"name": "a", "forms": {"mine": 5}, "few": 1},
            r"setting forms\.mine: input should be a mapping \(and 1 more\)",
        ),
        (
            {"name": "a", "shape": {"kind": "box"}},
            r"setting shape: unknown 'kind' 'box', expected one of 'line', 'ring'",
        ),
        ({"name": "a", "shape": {}}, r"setting shape: 'kind' is missing"),
        (
            {"name": "a", "shape": {"kind": "ring", "size": "x"}},
            r"setting shape\.size: input should be a valid integer",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_key(content, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(Outer, content)
    assert "\n" not in str(caught.value)


def test_the_innermost_setting_that_differs_is_told():
    one = {"a": 1, "optimiser": {"lr": 0.1, "betas": [1, 2], "name": "sgd"}}
    other = {"a": 1, "optimiser": {"lr": 0.2, "betas": [1, 2], "name": "sgd"}}
    assert innermost_difference(one, other) == ("optimiser.lr", "0.1", "0.2")
    assert innermost_difference(one, {"a": 1}) == ("optimiser", '{"lr": 0.1, "betas": [1, 2], "name": "sgd"}', NOT_SAID)
    assert innermost_difference(one, one) is None


def test_settings_are_frozen_and_round_trip():
    settings = IngestSettings(filters=[{"name": "notch", "freq_hz": 60}], source={"name": "ptbxl", "rate_hz": 100})
    with pytest.raises(ValueError, match="frozen"):
        settings.fs_hz = 7
    assert parse(IngestSettings, settings.model_dump(mode="json")) == settings


def test_a_filter_that_is_not_in_the_room_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown filter 'bandpas'; did you mean bandpass"):
        parse(IngestSettings, {"filters": [{"name": "bandpas"}]})


def test_overrides_reach_into_mappings_and_lists_and_read_yaml_values():
    content = {"a": {"b": 1}, "list": [{"x": 1}]}
    merged = override(content, ["a.b=2.5", "list.0.x=[1, 2]", "new.deep.key=true"])
    assert merged == {"a": {"b": 2.5}, "list": [{"x": [1, 2]}], "new": {"deep": {"key": True}}}
    assert content == {"a": {"b": 1}, "list": [{"x": 1}]}


@pytest.mark.parametrize("bad", ["no-equals", "=1", "a.b.c=1", "list.9.x=1", "a=["])
def test_an_override_that_means_nothing_is_refused(bad):
    with pytest.raises(ConfigError):
        override({"a": {"b": 1}, "list": [{}]}, [bad])


def test_yaml_files_that_are_not_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        read_yaml(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_the_patient_key_is_never_written_down():
    settings = IngestSettings(patient_key="a secret of many letters")
    assert "secret" not in repr(settings)
    assert "patient_key" not in settings.model_dump()


@pytest.mark.parametrize("wrong", [{"leads": ["II", "V9x"]}, {"fs_hz": 0}, {"profile": "raw", "fs_hz": 100}])
def test_a_secret_key_stands_in_no_message(wrong):
    with pytest.raises(ConfigError) as raised:
        parse(IngestSettings, {**wrong, "patient_key": "my secret"})
    assert "my secret" not in str(raised.value)
    assert "setting settings" not in str(raised.value)
    with pytest.raises(ConfigError, match="setting patient_key: ") as raised:
        parse(IngestSettings, {"patient_key": 271828})
    assert "271828" not in str(raised.value)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "line 1, column 5: anchors"),
        ("a: *b\n", "can't be read|not valid YAML"),
        ("a: &b 1\n", "anchors"),
        ("<<: {a: 1}\n", "not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: 'a' stands twice"),
        ("deep: {a: 1, a: 2}\n", "'a' stands twice"),
        ("[a]: 1\n", "not valid YAML"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", "nested deeper than 50"),
        ("a: " + "{b: " * 5000 + "\n", "nested deeper than 50"),
        ("# " + "x" * 300_000 + "\n", "too large to be settings"),
        ("a: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("a: 2021-13-45\n", "not valid YAML"),
        ("a: " + "9" * 5000 + "\n", "not valid YAML"),
        ("a: 0x" + "f" * 5000 + "\n", "a number of more than 64 bits"),
        ("a: b\x1f\n", "not valid YAML"),
        ("a: b\x00\n", "not valid YAML"),
    ],
)
def test_yaml_that_is_more_than_settings_is_one_line(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_values_of_overrides_are_read_alike():
    for value in ("&a [1]", "*a", "{a: 1, a: 2}", "[" * 60):
        with pytest.raises(ConfigError, match="not valid YAML") as refused:
            override({}, [f"key={value}"])
        assert "\n" not in str(refused.value)


def test_a_pipe_is_no_file_of_settings(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="not a plain file"):
        read_yaml(tmp_path / "a.yaml")


NOTCH, HIGHPASS = {"name": "notch", "freq_hz": 50.0}, {"name": "highpass", "freq_hz": 0.5}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"b": 1, "a": [1]}, {"a": [1], "b": 1}, None),
        ({"b": 1, "a": 1}, {"b": 2, "a": "1"}, ("a", "1", "'1'")),
        ({}, {"a": None}, ("a", NOT_SAID, "None")),
        ({"f": [NOTCH]}, {"f": [NOTCH, HIGHPASS]}, ("f", repr([NOTCH]), repr([NOTCH, HIGHPASS]))),
        ({"f": [NOTCH, HIGHPASS]}, {"f": [HIGHPASS, NOTCH]}, ("f", repr([NOTCH, HIGHPASS]), repr([HIGHPASS, NOTCH]))),
        ({"f": [HIGHPASS, NOTCH]}, {"f": [HIGHPASS, NOTCH | {"q": 3}]}, ("f: q of notch", NOT_SAID, "3")),
        ({"f": [1]}, {"f": [2]}, ("f", "[1]", "[2]")),
        ({"f": [NOTCH]}, {"f": None}, ("f", repr([NOTCH]), "None")),
    ],
)
def test_the_first_difference_is_named_down_to_the_setting_of_a_filter(one, other, expected):
    assert first_difference(one, other) == expected
