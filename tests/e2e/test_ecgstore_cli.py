"""The command line as a stranger meets it: real processes, good and bad input, exit statuses, messages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

INGEST = ("--fs", "100", "--bandpass", "0.5", "40", "--notch", "50")


def ecgstore(*arguments, **options):
    command = [sys.executable, "-m", "ecgstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def says(done, status, *parts):
    """One line on stderr, the right status, no traceback."""
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr


def test_ingest_info_verify_plot(mini, tmp_path):
    out = tmp_path / "mini.ecg"
    done = ecgstore("ingest", mini, out, *INGEST, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["records"], answer["rejected"], answer["path"]) == (53, 0, str(out))
    assert answer["records_per_s"] > 0
    assert answer["seconds"] > 0
    assert len(answer["fingerprint"]) == 64

    about = json.loads(ecgstore("info", out, "--json").stdout)
    assert about["fingerprint"] == answer["fingerprint"]
    assert about["fs_hz"] == 100
    assert about["sources"][0]["licence"] == "CC-BY-4.0"
    assert "53 of " in ecgstore("info", out).stdout

    for more in ((), ("--deep",)):
        checked = ecgstore("verify", out, *more, "--json")
        assert checked.returncode == 0
        assert json.loads(checked.stdout)["ok"] is True

    listed = ecgstore("records", out).stdout.splitlines()
    assert len(listed) == 54
    record_id = listed[1].split("\t")[0]
    assert ecgstore("plot", out, record_id, "--out", tmp_path / "page.png").returncode == 0
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_config_file_and_overrides_and_flags_in_this_order(mini, tmp_path):
    (tmp_path / "recipe.yaml").write_text("fs_hz: 250\nsource: {name: ptbxl}\nfilters: [{name: notch, freq_hz: 60}]\n")
    out = tmp_path / "a.ecg"
    done = ecgstore("ingest", mini, out, "--config", tmp_path / "recipe.yaml", "--set", "filters.0.q=20", "--fs", "125")
    assert done.returncode == 0, done.stderr
    recipe = json.loads(ecgstore("info", out, "--json").stdout)["recipe"]
    assert recipe["fs_hz"] == 125
    assert recipe["filters"] == [{"name": "notch", "freq_hz": 60.0, "q": 20.0}]


def test_bad_input_gets_one_line(mini, mini_store, tmp_path):
    out = tmp_path / "out.ecg"
    says(ecgstore("ingest", tmp_path / "nowhere", out), 1, "source folder is not there", "nowhere")
    (tmp_path / "empty").mkdir()
    says(ecgstore("ingest", tmp_path / "empty", out), 1, "no WFDB record")
    says(ecgstore("ingest", mini, mini_store), 1, "sealed store is there already", "--overwrite")
    says(ecgstore("ingest", mini, out, "--source", "ptblx"), 1, "unknown source 'ptblx'; did you mean ptbxl")
    says(ecgstore("ingest", mini, out, "--set", "fs=100"), 1, "unknown setting fs", "did you mean fs_hz")
    says(ecgstore("ingest", mini, out, "--bandpass", "40", "0.5"), 1, "low_hz must be below high_hz")
    says(ecgstore("ingest", mini, out, "--config", tmp_path / "none.yaml"), 1, "no such file")
    says(ecgstore("info", tmp_path / "none.ecg"), 1, "there is no store")
    says(ecgstore("verify", tmp_path), 1, "not an ecgstore")
    says(ecgstore("plot", mini_store, "nobody", "--out", tmp_path / "p.png"), 1, "no record 'nobody'")
    assert not out.exists()


def test_one_truncated_record_is_left_out_said_and_not_fatal(mini, tmp_path):
    source = shutil.copytree(mini, tmp_path / "src")
    victim = sorted(source.rglob("*.dat"))[0]
    victim.write_bytes(victim.read_bytes()[:5000])
    out = tmp_path / "out.ecg"
    done = ecgstore("ingest", source, out, "--json")
    says(done, 3, "1 of 53 records were left out", "truncated × 1", "other 52 are in")
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 52
    assert ecgstore("verify", out, "--deep").returncode == 0
    rejected = ecgstore("records", out, "--rejected").stdout
    assert "truncated" in rejected
    assert "5000 of 120000 bytes" in rejected
    tolerant = ecgstore("ingest", source, out, "--overwrite", "--max-rejected", "0.05")
    assert tolerant.returncode == 0
    assert "1 left out: truncated × 1" in tolerant.stdout


def test_a_damaged_and_an_unsealed_store(mini_store, tmp_path):
    damaged = shutil.copytree(mini_store, tmp_path / "damaged.ecg")
    shard = damaged / "signal" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[500] ^= 255
    shard.write_bytes(content)
    done = ecgstore("verify", damaged, "--deep")
    assert done.returncode == 1
    assert "signal/c/0/0: sha256" in done.stderr
    assert "is damaged: 1 problems" in done.stderr
    record_id = ecgstore("records", damaged, "--head", "1").stdout.splitlines()[1].split("\t")[0]
    says(ecgstore("plot", damaged, record_id, "--out", tmp_path / "p.png"), 1, "can't be decoded")
    (damaged / "manifest.json").unlink()
    for verb in ("info", "verify"):
        says(ecgstore(verb, damaged), 1, "never sealed", "running the same `ecgstore ingest` again")


def test_simulated_records_are_a_source_like_any_other(tmp_path):
    made = ecgstore("simulate", tmp_path / "wfdb", "--records", "40", "--seed", "3")
    assert made.returncode == 0, made.stderr
    done = ecgstore("ingest", tmp_path / "wfdb", tmp_path / "out.ecg", *INGEST, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 40
    assert json.loads(ecgstore("info", tmp_path / "out.ecg", "--json").stdout)["sources"][0]["name"] == "synthetic"
    says(ecgstore("simulate", tmp_path / "wfdb", "--records", "40"), 1, str(tmp_path / "wfdb"))


@pytest.mark.parametrize("package", ["ecgstore", "ecgtrain"])
def test_help_is_instant(package):
    best = min(_help_seconds(package) for _ in range(5))
    assert best < 0.3


def _help_seconds(package):
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", package, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    return time.perf_counter() - began
