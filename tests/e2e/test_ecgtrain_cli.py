"""Training as a stranger meets it: one recipe from store to report, with good and bad input.

Processes of their own are started where one is killed, told to stop, or joined to others; each takes seconds to
import torch. Everything else goes the same way, from the words of the command line on, in this one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from processes import Started
from quickly import quickly

from ecgstore import IngestSettings, ingest_folder
from ecgstore.sources import synthetic
from ecgtrain import cli, config
from ecgtrain.training import checkpoint

RECIPE = {
    "name": "tiny",
    "seed": 0,
    "data": {"store": "set on the command line"},
    "pretrain": {
        "method": {"name": "cpc", "steps_ahead": 6, "n_negatives": 16},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 12}, "lstm_width": 12, "lstm_layers": 1},
        "folds": [1, 2, 3, 4, 5, 6],
        "validation_folds": [7],
        "window_samples": 200,
        "batch_size": 16,
        "steps": 40,
        "optimiser": {"lr": 0.003},
        "log_every_steps": 10,
        "validate_every_steps": 20,
        "checkpoint_every_steps": 10,
    },
    "downstream": [
        {
            "name": "superclasses",
            "task": "ptbxl/superdiagnostic",
            "train_folds": [1, 2, 3, 4, 5, 6],
            "validation_folds": [7],
            "test_folds": [8],
            "window_samples": 200,
            "stride_samples": 200,
            "nulls": ["random", "uncalibrated"],
        }
    ],
}


def ecgtrain(*arguments):
    """What a command says; what a process would show as a traceback is raised."""
    done = CliRunner().invoke(cli.main, list(map(str, arguments)), prog_name="ecgtrain")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def says(done, *parts):
    assert done.returncode == 1, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in error


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A recipe, and two stores of different synthetic cohorts."""
    root = tmp_path_factory.mktemp("training")
    for name, seed in (("a", 1), ("b", 2)):
        synthetic.simulate(root / name, synthetic.Simulation(n_records=150, seed=seed))
        # One key for both would say that patient 1 of one cohort is patient 1 of the other.
        ingest_folder(
            root / name,
            root / f"{name}.ecg",
            IngestSettings(fs_hz=100, filters=(), patient_key=f"a secret key of {name}"),
            workers=2,
        )
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return root


@pytest.fixture(scope="module")
def finished(room):
    """The run directory of the recipe on store a, and what the command said."""
    out = room / "run"
    done = ecgtrain("run", room / "recipe.yaml", "--set", f"data.store={room / 'a.ecg'}", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def test_a_recipe_runs_to_a_report(finished, room):
    out, answer = finished
    assert answer["path"] == str(out)
    report = json.loads((out / "report.json").read_text())
    trained, *nulls = report["results"]
    assert [result["pretraining"] for result in report["results"]] == ["cpc", "random", "uncalibrated"]
    for result in (trained, *nulls):
        assert result["task"] == "ptbxl/superdiagnostic"
        assert result["protocol"] == "linear_probe"
        assert result["store"] == str(room / "a.ecg")
        assert result["n_train"] > result["n_test"] > 0
        auroc = result["metrics"]["macro_auroc"]
        assert auroc["low"] <= auroc["value"] <= auroc["high"]
        assert set(result["per_class"]) <= {"NORM", "MI", "STTC", "CD", "HYP"}
    assert set(trained["difference_to"]) == {"random", "uncalibrated"}
    assert set(trained["difference_to"]["random"]) == {"macro_auroc", "macro_auprc"}
    page = (out / "report.html").read_text()
    assert "test records are too few" in page
    assert report["curves"]["validation"]["step"] == [20, 40]


def test_a_run_directory_explains_itself(finished):
    out, _ = finished
    for name in ("config.yaml", "environment.json", "preprocessing.json", "seen.parquet", "metrics.jsonl"):
        assert (out / name).stat().st_size > 0
    assert [path.name for path in sorted((out / "checkpoints").glob("step-*"))] == ["step-00000030", "step-00000040"]
    predictions = pq.ParquetFile(out / "downstream" / "superclasses" / "cpc" / "predictions.parquet").metadata
    report = json.loads((out / "report.json").read_text())
    assert predictions.num_rows == report["results"][0]["n_test"]


def test_a_finished_run_is_resumed_by_doing_nothing_again(finished, room):
    out, _ = finished
    before = (out / "export" / "model.safetensors").read_bytes()
    arguments = ("run", room / "recipe.yaml", "--set", f"data.store={room / 'a.ecg'}", "--out", out)
    says(ecgtrain(*arguments), "there is already a run", str(out))
    done = ecgtrain(*arguments, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert (out / "export" / "model.safetensors").read_bytes() == before
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert results[0]["metrics"] == json.loads((out / "report.json").read_text())["results"][0]["metrics"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(finished, room, tmp_path):
    out, _ = finished
    command = ["run", room / "recipe.yaml"]
    # A checkpoint after the first of 40 steps leaves time to kill it, also to a busy machine.
    command += ["--set", "pretrain.checkpoint_every_steps=1"]
    command += ["--set", f"data.store={room / 'a.ecg'}", "--out", tmp_path / "run"]
    process = Started("-m ecgtrain", *command)
    while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "export").exists(), "killed too late to show anything"
    done = ecgtrain(*command, "--resume")
    assert done.returncode == 0, done.stderr
    weights = [path / "export" / "model.safetensors" for path in (out, tmp_path / "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


LONG = ("--set", "pretrain.steps=100000", "--set", "downstream=[]")


@pytest.mark.parametrize("number", quickly([signal.SIGTERM, signal.SIGUSR1], signal.SIGTERM))
def test_a_run_told_to_stop_writes_a_checkpoint_and_says_so(room, tmp_path, number):
    command = ["run", room / "recipe.yaml", *LONG]
    command += ["--set", f"data.store={room / 'a.ecg'}", "--out", tmp_path / "run"]
    process = Started("-m ecgtrain", *command)
    while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        time.sleep(0.005)
    process.send_signal(number)
    status, _, error = process.wait()
    assert status == 75, error
    last = error.splitlines()[-1]
    assert last.startswith(f"stopped: training was stopped: it was sent {number.name}")
    assert "--resume" in last
    step = int(last.split("after step ")[1].split()[0])
    assert checkpoint.torn(tmp_path / "run" / "checkpoints" / f"step-{step:08d}") is None


@pytest.mark.slow
def test_a_time_limit_ends_a_run_in_time(room, tmp_path):
    arguments = (room / "recipe.yaml", *LONG, "--set", f"data.store={room / 'a.ecg'}", "--out", tmp_path / "run")
    done = ecgtrain("run", *arguments, "--time-limit", "2s")
    assert done.returncode == 75, done.stderr
    assert "its 2 s are almost over" in done.stderr.splitlines()[-1]
    says(ecgtrain("run", *arguments, "--resume", "--time-limit", "soon"), "not a length of time", "3h, 90m")


def torchrun(n, *arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*command, "-m", "ecgtrain", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_two_processes_of_torchrun_make_one_report(finished, room, tmp_path):
    _, answer = finished
    arguments = ("--set", f"data.store={room / 'a.ecg'}", "--set", "pretrain.sync_batchnorm=true")
    arguments += ("--set", "downstream.0.nulls=[]")
    done = torchrun(2, "run", room / "recipe.yaml", *arguments, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert "on 2 ranks" in done.stderr
    assert done.stderr.count("linear_probe of ptbxl/superdiagnostic on cpc features") == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    ours, theirs = (its["results"][0]["metrics"]["macro_auroc"]["value"] for its in (json.loads(line), answer))
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.slow
def test_trained_heads_are_judged_on_another_store(finished, room, tmp_path):
    out, answer = finished
    done = ecgtrain("evaluate", out, "--store", room / "b.ecg", "--json", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    result, *nulls = json.loads(done.stdout.splitlines()[-1])["results"]
    assert (result["pretraining"], result["store"], result["folds"]) == ("cpc", str(room / "b.ecg"), [8])
    assert [null["pretraining"] for null in nulls] == ["random", "uncalibrated"]
    assert set(result["difference_to"]) == {"random", "uncalibrated"}
    assert "other" not in (tmp_path / "report" / "report.html").read_text().lower()[:50]
    everyone = ecgtrain("evaluate", out, "--store", room / "b.ecg", "--folds", "all", "--json")
    assert json.loads(everyone.stdout.splitlines()[-1])["results"][0]["n_test"] > 100
    # On its own test fold, the applied head gives what the report says.
    again = ecgtrain("evaluate", out, "--store", room / "a.ecg", "--json")
    own = json.loads(again.stdout.splitlines()[-1])["results"][0]["metrics"]["macro_auroc"]
    assert own == pytest.approx(answer["results"][0]["metrics"]["macro_auroc"], abs=1e-6), "the interval, too"


def test_patients_seen_in_training_are_refused_unless_told_otherwise(finished, room):
    out, _ = finished
    arguments = ("evaluate", out, "--store", room / "a.ecg", "--folds", "1,8")
    says(ecgtrain(*arguments), "patients are on both sides of the run's training and this evaluation")
    done = ecgtrain(*arguments, "--allow-overlap", "--json")
    assert done.returncode == 0, done.stderr
    assert "were seen in training" in json.loads(done.stdout.splitlines()[-1])["results"][0]["caveats"][0]


def test_a_store_prepared_otherwise_is_refused(finished, room, tmp_path):
    out, _ = finished
    ingest_folder(room / "b", tmp_path / "fast.ecg", IngestSettings(fs_hz=250, filters=()))
    says(ecgtrain("evaluate", out, "--store", tmp_path / "fast.ecg"), "another sampling rate", "100 Hz", "250 Hz")
    notched = IngestSettings(fs_hz=100, filters=({"name": "notch", "freq_hz": 50.0},))
    ingest_folder(room / "b", tmp_path / "notched.ecg", notched)
    says(ecgtrain("evaluate", out, "--store", tmp_path / "notched.ecg"), "prepared otherwise", "filters differs")


@pytest.mark.slow
def test_a_store_that_kept_other_records_is_not_prepared_otherwise(finished, room, tmp_path):
    out, _ = finished
    ingest_folder(
        room / "b",
        tmp_path / "lenient.ecg",
        IngestSettings(fs_hz=100, filters=(), extra_leads="drop", patient_key="a secret key of b"),
    )
    done = ecgtrain("evaluate", out, "--store", tmp_path / "lenient.ecg")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_reports_side_by_side(finished, tmp_path):
    out, _ = finished
    done = ecgtrain("report", out, out, "--out", tmp_path / "both", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["results"]) == 6
    assert "tiny (2)" in (tmp_path / "both" / "report.html").read_text()
    says(ecgtrain("report", tmp_path / "nothing"), "there is no report")


def test_bad_recipes_and_stores_get_one_line(room, tmp_path):
    recipe, store = room / "recipe.yaml", f"data.store={room / 'a.ecg'}"
    out = tmp_path / "run"

    def run(*settings):
        sets = [part for one in settings for part in ("--set", one)]
        return ecgtrain("run", recipe, *sets, "--out", out)

    says(run(store, "pretrain.stepz=3"), "unknown setting pretrain.stepz", "did you mean steps", "recipe.yaml")
    says(run(store, "pretrain.method.negatives=3"), "did you mean n_negatives")
    says(run(store, "pretrain.method.name=cpcc"), "unknown method 'cpcc'; did you mean cpc")
    says(run(store, "downstream.0.task=ptbxl/superdiag"), "did you mean ptbxl/superdiagnostic")
    says(run(store, "downstream.0.protocol=linear_prob"), "unknown protocol 'linear_prob'")
    says(run(store, "downstream.0.settings.penalty=[1]"), "unknown setting penalty", "did you mean penalties")
    says(run(store, "downstream.0.test_folds=[77]"), "no record is in the test folds")
    assert not out.exists(), "refused before anything was trained"
    says(run(f"data.store={tmp_path / 'none.ecg'}"), "there is no store")
    says(run(store, "pretrain.folds=[8]"), "patients are on both sides of pretraining and test")
    assert not out.exists(), "refused before anything was trained"
    few = ("pretrain.folds=[8]", "pretrain.batch_size=500", "downstream=[]")
    says(run(store, *few), "fewer records than one batch")
    says(run(store, "pretrain.window_samples=9999"), "windows are longer than the longest record")
    says(run(store, "downstream.0.test_folds=[1]"), "train_folds and test_folds share fold 1")
    says(ecgtrain("run", tmp_path / "none.yaml"), "no such file")
    unsealed = shutil.copytree(room / "a.ecg", tmp_path / "unsealed.ecg")
    (unsealed / "manifest.json").unlink()
    says(run(f"data.store={unsealed}"), "never sealed")
    damaged = shutil.copytree(room / "a.ecg", tmp_path / "damaged.ecg")
    shard = damaged / "signal" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1000])
    says(run(f"data.store={damaged}"), "a shard was changed after the store was sealed", str(shard))


def test_methods_are_listed_with_a_line_each():
    done = ecgtrain("methods", "--json")
    rooms = json.loads(done.stdout)
    assert "cpc" in rooms["methods"]
    assert "cpc_lstm" in rooms["backbones"]
    assert all("\n" not in text for room in rooms.values() for text in room.values())
    assert "cpc " in ecgtrain("methods").stdout


@pytest.mark.slow
def test_a_run_goes_on_without_records_that_cannot_be_read_and_says_so(room, tmp_path):
    store = shutil.copytree(room / "a.ecg", tmp_path / "damaged.ecg")
    shard = max((store / "signal" / "c" / "0").iterdir(), key=lambda path: int(path.name))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    arguments = ("run", room / "recipe.yaml", "--set", f"data.store={store}", "--set", "downstream=[]")
    arguments += ("--set", "pretrain.steps=4", "--set", "pretrain.validation_folds=[]")
    for way in ("resident", "stream"):
        done = ecgtrain(*arguments, "--set", f"data.feed={way}", "--out", tmp_path / way)
        assert done.returncode == 0, done.stderr
        lost = json.loads((tmp_path / way / "environment.json").read_text())["records_left_out"]
        assert f"note: Training went on without {len(lost)} records that can't be read: {lost[0]}, " in done.stdout
        assert lost[0] in (tmp_path / way / "report.html").read_text()
    says(ecgtrain(*arguments, "--strict", "--out", tmp_path / "strict"), str(store), "shard")


def test_a_recipe_is_copied_to_be_edited_and_shown_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    said = runner.invoke(cli.main, ["init", "my.yaml", "--from", "small/cpc"])
    assert (said.exit_code, said.output) == (0, "edit my.yaml, then: ecgtrain run my.yaml\n")
    assert (tmp_path / "my.yaml").read_text() == config.find("small/cpc").read_text()
    shown = runner.invoke(cli.main, ["show", "my.yaml", "--set", "pretrain.steps=7", "--json"])
    assert json.loads(shown.output) == config.load("small/cpc", ["pretrain.steps=7"]).model_dump(mode="json")
    (tmp_path / "again.yaml").write_text(runner.invoke(cli.main, ["show", "my.yaml"]).output)
    assert config.load("again.yaml") == config.load("small/cpc")
    before = (tmp_path / "my.yaml").read_bytes()
    for arguments, reason in (
        (["init", "my.yaml", "--from", "small/lcd"], "a file stands there already"),
        (["init", "new.yaml", "--from", "small/cpcc"], "did you mean small/cpc"),
        (["init", "none/new.yaml", "--from", "small/cpc"], "no such folder"),
    ):
        refused = runner.invoke(cli.main, arguments)
        assert (refused.exit_code, reason in refused.output) == (1, True), refused.output
    assert (tmp_path / "my.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.yaml", "my.yaml"]
