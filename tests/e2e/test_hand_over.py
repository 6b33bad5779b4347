"""From a run to a hospital, in the words of the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hostile_runs import make_run

from ecgtrain import cli


def ecgtrain(*arguments):
    done = CliRunner().invoke(cli.main, list(map(str, arguments)), prog_name="ecgtrain")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def room(mini_store, tmp_path_factory):
    """A finished run, and an export of it."""
    root = tmp_path_factory.mktemp("handing over")
    make_run(mini_store, root / "run")
    done = ecgtrain("export", root / "run", root / "model")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"read this first: {root / 'model' / 'card.md'}"
    return root


def test_an_export_predicts_raw_recordings(room, write_record, tmp_path):
    write_record(tmp_path / "new", "good")
    write_record(tmp_path / "new", "bad", checksum=7)
    done = ecgtrain("predict", room / "model", tmp_path / "new", "--out", tmp_path / "p.parquet", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["predicted"] == 1
    assert [(one["record_id"], one["reason"]) for one in answer["left_out"]] == [("bad", "bad_checksum")]
    assert done.stderr.splitlines()[0].startswith("left out: bad: bad_checksum")
    assert pq.ParquetFile(tmp_path / "p.parquet").metadata.num_rows == 2


def test_no_file_is_called_what_it_is_not(room, mini_store, tmp_path):
    for verb in ("predict", "embed"):
        done = ecgtrain(verb, room / "model", mini_store, "--out", tmp_path / "p.csv")
        assert done.exit_code == 1
        assert done.stderr.startswith("error: the table is written as Parquet; in "), done.stderr
        assert "a name that ends with .parquet, got p.csv" in done.stderr
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_into_a_sealed_store(room, mini_store, tmp_path):
    store = tmp_path / "sealed.ecg"
    shutil.copytree(mini_store, store)
    (tmp_path / "link").symlink_to(store)
    before = sorted(store.rglob("*"))
    for place in (store / "x", tmp_path / "link" / "x", store):
        table = place.with_name(f"{place.name}.parquet") if place != store else place / "deeper" / "x.parquet"
        for command in (
            ("predict", room / "model", mini_store, "--out", table),
            ("embed", room / "model", mini_store, "--out", table),
            ("export", room / "run", place),
            ("report", room / "run", "--out", place),
            ("evaluate", room / "run", "--store", mini_store, "--folds", "8", "--out", place),
            ("run", room / "run" / "config.yaml", "--out", place, "--device", "cpu"),
            ("init", table.with_suffix(".yaml"), "--from", "small/cpc"),
        ):
            done = ecgtrain(*command)
            assert done.exit_code == 1, command
            assert "nothing may be added to a sealed store" in done.stderr, (command, done.stderr)
    assert sorted(store.rglob("*")) == before


def test_a_run_goes_into_no_folder_of_something_else(room, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("one")
    done = ecgtrain("run", room / "run" / "config.yaml", "--out", tmp_path / "thesis", "--device", "cpu")
    assert done.exit_code == 1
    assert "holds something else than a run" in done.stderr
    assert "got chapter.txt" in done.stderr
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_nothing_predicted_is_a_status(room, tmp_path):
    (tmp_path / "empty").mkdir()
    done = ecgtrain("predict", room / "model", tmp_path / "empty", "--out", tmp_path / "p.parquet")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: no WFDB record")
    done = ecgtrain("predict", room / "nothing", tmp_path / "empty", "--out", tmp_path / "p.parquet")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)


def test_told_to_stop_nothing_of_the_recordings_is_left(room, mini, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told = []

    def stop(self, *args):
        told.extend(path.name for path in tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ecgtrain.deployment.model.Model.score", stop)
    done = ecgtrain("predict", room / "model", mini, "--out", tmp_path / "p.parquet")
    assert done.exit_code == 128 + signal.SIGTERM
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []


def test_features_become_a_table(room, mini_store, tmp_path):
    done = ecgtrain("embed", room / "model", mini_store, "--out", tmp_path / "f.parquet", "--folds", "8", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["rows"] == pq.ParquetFile(tmp_path / "f.parquet").metadata.num_rows == 8
    done = ecgtrain("embed", room / "model", mini_store, "--out", tmp_path / "f.parquet")
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr


def test_a_second_export_leaves_the_first_alone(room):
    before = (room / "model" / "card.md").read_bytes()
    done = ecgtrain("export", room / "run", room / "model")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert (room / "model" / "card.md").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "nothing", "--store", "STORE"), "there is no run and no export"),
        (("evaluate", "run/export", "--store", "STORE"), "there is no trained head.*name the run itself"),
        (("evaluate", "run", "--store", "STORE", "--name", "zz"), "no such trained head.*one of: q"),
        (("evaluate", "run", "--store", "STORE", "--out", "file"), "a file stands in the place of the directory"),
        (("report", "run", "--out", "file"), "a file stands in the place of the directory"),
        (
            ("run", "small/cpc", "--set", "data.store=STORE", "--out", "file"),
            "a file stands in the place of the directory",
        ),
        (("evaluate", "run", "--store", "STORE", "--out", "/proc/nobody/out"), "can't be locked"),
    ],
)
def test_a_wrong_place_is_told_in_one_line(room, mini_store, monkeypatch, arguments, said):
    (room / "file").write_text("mine")
    monkeypatch.chdir(room)
    done = ecgtrain(*(str(one).replace("STORE", str(mini_store)) for one in arguments))
    assert done.exit_code == 1
    assert re.search(said, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (room / "file").read_text() == "mine"
