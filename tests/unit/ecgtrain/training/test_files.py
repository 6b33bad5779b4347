"""A run's files: written whole or not at all, read back in one way, refused in one line."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest

from ecgtrain.errors import CheckpointError
from ecgtrain.training.files import read_json, write_json
from ecgtrain.training.layout import METRICS
from ecgtrain.training.log import Line, read_metrics, train_seconds


def test_what_is_written_reads_back_in_plain_numbers(tmp_path):
    write_json(tmp_path / "a.json", {"über": np.float32(0.5), "none": float("nan"), "n": {"1": np.arange(2)}})
    assert read_json(tmp_path / "a.json") == {"über": 0.5, "none": None, "n": {"1": [0, 1]}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "\udcff"])
def test_what_is_no_mapping_is_refused_by_name(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="a file of the run") as refused:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_metrics_end_where_they_are_torn(tmp_path, caplog):
    assert read_metrics(tmp_path) == []
    lines = [Line(0, "chance", {"nats": 4.5}), Line(2, "train", {"loss": 3.0, "windows_per_s": 8.0})]
    whole = "".join(line.text() for line in lines)
    assert json.loads(whole.splitlines()[1]) == {"step": 2, "split": "train", "loss": 3.0, "windows_per_s": 8.0}
    for torn in (
        '{"step": 3, "sp',
        '{"step": 3}',
        '{"step": "3", "split": "train"}',
        "[]",
        '{"step": 1, "split": "x", "a": {}}',
    ):
        (tmp_path / METRICS).write_text(f"{whole}{torn}\n{whole}")
        with pytest.raises(CheckpointError, match=r"can't be understood; in .*, line 3") as refused:
            read_metrics(tmp_path)
        assert "\n" not in str(refused.value)
        (tmp_path / METRICS).write_text(f"{whole}{torn}")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert read_metrics(tmp_path) == lines
        assert "ends at line 3" in caplog.text


def test_metrics_that_are_no_number_are_read(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "split": "a", "x": NaN, "y": null}\n')
    ((_, _, values),) = read_metrics(tmp_path)
    assert all(math.isnan(value) for value in values.values())


def test_seconds_of_training_add_up_over_the_log():
    lines = [
        Line(10, "train", {"windows_per_s": 20.0}),
        Line(10, "validation", {}),
        Line(30, "train", {"windows_per_s": 80.0}),
    ]
    assert train_seconds(lines, batch_size=4) == 10 * 4 / 20 + 20 * 4 / 80
