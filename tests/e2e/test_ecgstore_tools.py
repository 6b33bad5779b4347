"""What a stranger does with stores beyond making one: looking ahead, parts, growing, noise, reports, fetching."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from terminal import without_progress

from ecgstore import cli
from ecgstore.storage.store import open_store

pytest.importorskip("requests")


def ecgstore(*arguments, **options):
    command = [sys.executable, "-m", "ecgstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def here(*arguments, **environment):
    """The same without a process of its own; what a process would show as a traceback is raised."""
    done = CliRunner(env=environment).invoke(cli.main, list(map(str, arguments)), prog_name="ecgstore")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def says(done, status, *parts):
    """One line on stderr, the right status, no traceback."""
    assert done.returncode == status, done.stderr
    said = without_progress(done.stderr)
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    for part in parts:
        assert part in said


def answer(*arguments, **environment):
    """What a command says with --json."""
    done = here(*arguments, "--json", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


def add_sums(root):
    """Write the SHA256SUMS.txt of a folder, as PhysioNet does."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root).as_posix()}\n" for path in files]
    (root / "SHA256SUMS.txt").write_text("".join(lines))


@pytest.fixture
def odd(tmp_path, write_record):
    """Records with the leads I, II; I, MLII; and II with one that no list of leads knows."""
    root = tmp_path / "odd"
    for name, leads in (("plain", ("I", "II")), ("modified", ("I", "MLII")), ("strange", ("II", "Sensor 7"))):
        write_record(root, name, leads=leads)
    return root


# --- before any work --------------------------------------------------------------------------------------------


def test_scan_says_what_an_ingest_will_find(mini, tmp_path):
    done = here("scan", mini)
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["records"] == "usable, 51 patients named, 0.15 h".join(("53 ", ""))
    assert rows["rates"] == "500 Hz × 53"
    assert rows["left"] == "out     none"
    assert "(by a trial" in rows["store"]
    found = answer("scan", mini, "--profile", "raw")
    assert (found["records"], found["source"], found["left_out"]) == (53, "ptbxl", {})
    assert list(tmp_path.iterdir()) == []


def test_scan_names_what_is_broken_with_an_example(odd):
    (odd / "plain.dat").unlink()
    done = here("scan", odd)
    assert done.returncode == 0
    (left_out,) = (line for line in done.stdout.splitlines() if line.startswith("left out "))
    assert sorted(left_out.removeprefix("left out").strip().split(", ")) == ["missing_signal × 1", "unknown_lead × 1"]
    assert "  unknown_lead: strange: " in done.stdout
    assert "signal 1 is not a lead" in done.stdout
    (odd / "modified.dat").unlink()
    says(here("scan", odd), 1, "none of 3 records can be used (missing_signal × 2, unknown_lead × 1)")
    says(here("scan", odd / "none"), 1, "source folder is not there")
    says(here("scan", odd / "plain.hea"), 1, "source folder is not there", "got a file")


def test_a_scan_table_spares_reading_and_a_bad_one_is_refused(mini, tmp_path):
    table = tmp_path / "scan.parquet"
    first = answer("scan", mini, "--scan-table", table)
    written = table.stat().st_mtime_ns
    again = answer("scan", mini, "--scan-table", table)
    changing = {"seconds", "store_megabytes"}
    assert {k: v for k, v in first.items() if k not in changing} == {
        k: v for k, v in again.items() if k not in changing
    }
    by_table = answer("ingest", mini, tmp_path / "a.ecg", "--scan-table", table)
    assert by_table["fingerprint"] == answer("ingest", mini, tmp_path / "b.ecg")["fingerprint"]
    assert table.stat().st_mtime_ns == written
    table.write_bytes(table.read_bytes()[:500])
    for verb in (("scan", mini), ("ingest", mini, tmp_path / "c.ecg")):
        says(here(*verb, "--scan-table", table), 1, "not a table of scanned headers", "scan.parquet", "delete it")
        says(here(*verb, "--scan-table", tmp_path), 1, "not a table of scanned headers", "delete it")
    assert not (tmp_path / "c.ecg").exists()


# --- in parts, and growing --------------------------------------------------------------------------------------


def test_parts_and_a_seal_give_the_store_of_one_go(mini, tmp_path):
    whole = answer("ingest", mini, tmp_path / "whole.ecg")
    out = tmp_path / "parts.ecg"
    says(here("seal", out), 1, "no store is being built here", "ecgstore ingest")
    done = here("ingest", mini, out, "--parts", "2/2")
    assert f"part 2/2 is done; when all are: ecgstore seal {out}" in done.stdout
    says(here("seal", out), 1, "1 of 2 tasks are not done", "no commit of shard 0", "--parts")
    says(here("info", out), 1, "never sealed")
    says(here("ingest", mini, out, "--parts", "1/2", "--fs", "250"), 1, "other settings")
    part = answer("ingest", mini, out, "--parts", "1/2")
    assert (part["part"], part["path"]) == ("1/2", str(out))
    says(here("seal", out, ECGSTORE_PATIENT_KEY="another secret of many letters"), 1, "ECGSTORE_PATIENT_KEY is another")
    sealed = answer("seal", out)
    assert (sealed["records"], sealed["fingerprint"]) == (53, whole["fingerprint"])
    says(here("seal", out), 1, str(out))
    says(here("ingest", mini, out, "--parts", "1/2"), 1, "sealed store is there already")
    assert here("verify", out, "--deep").returncode == 0


def test_a_seal_fails_where_too_much_was_left_out(mini, tmp_path):
    source = shutil.copytree(mini, tmp_path / "src")
    victim = sorted(source.rglob("*.dat"))[0]
    content = bytearray(victim.read_bytes())
    content[5000] ^= 1  # as long as it should be: only its checksum tells
    victim.write_bytes(content)
    out = tmp_path / "out.ecg"
    for part in ("1/2", "2/2"):
        assert here("ingest", source, out, "--parts", part).returncode == 0
    says(here("seal", out), 3, "1 of 53 records were left out", "bad_checksum × 1", "--max-rejected 0.01")
    assert here("verify", out).returncode == 0


def test_a_store_grows(mini, tmp_path, write_record):
    source, out = tmp_path / "src", tmp_path / "out.ecg"
    for number in range(4):
        write_record(source, f"r{number}")
    first = answer("ingest", source, out)
    write_record(source, "r9")
    says(here("ingest", source, out), 1, "sealed store is there already", "--append")
    says(here("ingest", source, out, "--append", "--fs", "250"), 1, "grows only by the settings", "same settings")
    grown = answer("ingest", source, out, "--append")
    assert (first["records"], grown["records"]) == (4, 5)
    assert here("records", out, "--columns", "record_id").stdout.split() == ["record_id", "r0", "r1", "r2", "r3", "r9"]
    assert answer("ingest", source, out, "--append")["fingerprint"] == grown["fingerprint"]
    assert answer("verify", out, "--deep")["ok"] is True


def test_files_that_are_not_those_of_the_list_are_left_out(mini, tmp_path):
    source = shutil.copytree(mini, tmp_path / "src")
    says(here("ingest", source, tmp_path / "out.ecg", "--verify-source"), 1, "no list of checksums", "sha256sum")
    add_sums(source)
    assert answer("ingest", source, tmp_path / "whole.ecg", "--verify-source")["rejected"] == 0
    victim = sorted(source.rglob("*.dat"))[3]
    content = bytearray(victim.read_bytes())
    content[0] ^= 1
    victim.write_bytes(content)
    done = here("ingest", source, tmp_path / "out.ecg", "--verify-source")
    says(done, 3, "1 of 53 records were left out", "bad_source_checksum × 1")
    said = here("records", tmp_path / "out.ecg", "--rejected").stdout
    assert "the .dat file: sha256" in said
    assert victim.name not in said


# --- other leads, other sources, other profiles -----------------------------------------------------------------


def test_what_becomes_of_leads_that_are_not_the_twelve(odd, tmp_path):
    out = tmp_path / "out.ecg"
    says(here("ingest", odd, out), 3, "1 of 3 records were left out", "unknown_lead × 1")
    dropped = answer("ingest", odd, out, "--overwrite", "--extra-leads", "drop")
    assert (dropped["records"], len(answer("info", out)["leads"])) == (3, 12)
    assert "left out: signal 1" in here("info", out).stdout
    answer("ingest", odd, out, "--overwrite", "--extra-leads", "keep")
    assert answer("info", out)["leads"][12:] == ["MLII", "Sensor 7"]
    answer("ingest", odd, out, "--overwrite", "--extra-leads", "drop", "--leads", "MLII,I", "--max-rejected", "1")
    assert answer("info", out)["leads"] == ["MLII", "I"]
    states = [
        line.split("\t") for line in here("records", out, "--columns", "record_id,lead_states").stdout.splitlines()
    ]
    assert dict(states[1:]) == {"modified": "mm", "plain": "am"}
    says(here("ingest", odd, tmp_path / "n.ecg", "--leads", "I,Sensor 7"), 1, "leads must be different names out of")


OWN_SOURCE = """
from ecgstore.record import Listing, RecordRef, Terms
from ecgstore.settings import Settings as Base

TERMS = Terms("clinic", "3", "ours alone", False)

class Settings(Base):
    newest: int = 100

def list_records(root, settings):
    paths = sorted(root.rglob("*.hea"))[: settings.newest]
    return Listing(tuple(RecordRef(p.stem, p.with_suffix("")) for p in paths), (), TERMS)
"""


def test_the_command_that_a_part_names_seals_it(mini, tmp_path):
    (tmp_path / "clinic.py").write_text(OWN_SOURCE)
    out = tmp_path / "out.ecg"
    done = here("ingest", mini, out, "--source", tmp_path / "clinic.py", "--set", "source.newest=2", "--parts", "1/1")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split("when all are: ecgstore ")[1].split()
    assert words == ["seal", str(out), "--source", str(tmp_path / "clinic.py")]
    sealed = here(*words)
    assert sealed.returncode == 0, sealed.stderr


def test_a_source_of_your_own(mini, tmp_path):
    (tmp_path / "clinic.py").write_text(OWN_SOURCE)
    out = tmp_path / "out.ecg"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    flags = ("--source", "./clinic.py", "--set", "source.newest=7", "--json")
    done = ecgstore("ingest", mini, out, *flags, cwd=tmp_path, env=env)
    assert (done.returncode, json.loads(done.stdout)["records"]) == (0, 7), done.stderr
    about = answer("info", out)
    assert (about["sources"][0]["name"], about["sources"][0]["licence"]) == ("clinic", "ours alone")
    for name, content, part in (
        ("half.py", "TERMS = 1", "expected Settings, list_records"),
        ("torn.py", "def", "SyntaxError"),
        ("raises.py", "1 / 0", "ZeroDivisionError"),
    ):
        (tmp_path / name).write_text(content)
        says(here("scan", mini, "--source", tmp_path / name), 1, name, part)
    says(
        here("scan", mini, "--source", tmp_path / "clinic.py", "--set", "source.oldest=1"), 1, "unknown setting oldest"
    )


def test_settings_of_a_source_reach_it_however_it_is_named(mini, tmp_path):
    for more in ((), ("--source", "ptbxl"), ("--set", "source.name=ptbxl")):
        flags = ("--set", "source.rate_hz=100", *more)
        says(here("scan", mini, *flags), 1, "none of the 53 records", "100 Hz files")
    (tmp_path / "a.yaml").write_text("source: {name: ptbxl, rate_hz: 100}\n")
    says(here("scan", mini, "--config", tmp_path / "a.yaml"), 1, "100 Hz files")
    assert answer("scan", mini, "--config", tmp_path / "a.yaml", "--source", "wfdb_folder")["source"] == "wfdb_folder"


@pytest.mark.slow
def test_a_raw_store_is_looked_at_like_any_other(mini, mini_store, tmp_path):
    out = tmp_path / "raw.ecg"
    assert answer("ingest", mini, out, "--profile", "raw")["records"] == 53
    about = answer("info", out)
    assert (about["encoding"], about["fs_hz"], about["recipe"]["filters"]) == ("adc", 500, [])
    assert "std (mV)     raw counts" in here("info", out).stdout
    assert answer("verify", out, "--deep")["ok"] is True
    assert here("plot", out, "50", "--out", tmp_path / "p.svg").returncode == 0
    assert here("report", out, "--pages", "1").returncode == 0
    both = answer("overlap", out, mini_store)
    assert both["exact"] == []
    assert len(both["near"]) >= 53
    says(here("augment", out, tmp_path / "n.ecg", "--noise", "wander", "--snr", "6"), 1, "millivolts", "--profile raw")


# --- looking at stores ------------------------------------------------------------------------------------------


def test_records_by_condition_and_column(mini_store):
    columns = "record_id,fold,mains_mv"
    listed = here("records", mini_store, "--where", "fold in (1, 2) and mains_mv < 0.01", "--columns", columns)
    head, *rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert head == columns.split(",")
    assert 0 < len(rows) < 15
    assert all(int(fold) in (1, 2) and float(mains_mv) < 0.01 for _, fold, mains_mv in rows)
    assert all(len(mains_mv) <= 9 for *_, mains_mv in rows)
    done = here("records", mini_store, "--where", "fold == 1", "--columns", "record_id,fold", "--head", "2", "--json")
    assert [one["fold"] for one in json.loads(done.stdout)] == [1, 1]
    for flags, *parts in (
        (("--where", "mains < 1"), "no column 'mains'", "did you mean mains_mv"),
        (("--where", "import os"), "can't be read", "import os"),
        (("--where", "fold"), "expected true or false"),
        (("--where", "record_id < 3"), "can't be worked out"),
        (("--where", "__import__('os')"), "not understood"),
        (("--columns", "record_id,age"), "no column 'age'", "age_years"),
    ):
        says(here("records", mini_store, *flags), 1, *parts)


def test_a_report_is_one_page_that_needs_nothing_else(mini_store, tmp_path):
    store = shutil.copytree(mini_store, tmp_path / "a.ecg")
    done = here("report", store, "--pages", "2")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(tmp_path / "a.ecg.html"), "")
    page = (tmp_path / "a.ecg.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert open_store(store).fingerprint in page
    for outside in ('src="http', 'href="http://', "<link", "@import"):
        assert outside not in page
    says(here("report", store, "--out", tmp_path), 1, "this is a folder", str(tmp_path))
    says(here("report", tmp_path / "none.ecg"), 1, "there is no store")
    assert here("verify", store).returncode == 0


def test_overlap_names_what_two_selections_share(mini_store):
    pairs = [["137", "138"], ["145", "463"], ["456", "457"]]
    assert answer("overlap", mini_store)["exact"] == pairs
    fold_of = dict(zip(*(open_store(mini_store).column(name).tolist() for name in ("record_id", "fold")), strict=True))
    apart = [(fold_of[a], fold_of[b]) for a, b in pairs if fold_of[a] != fold_of[b]]
    assert apart
    found = answer("overlap", mini_store, "--folds", apart[0][0], "--with-folds", apart[0][1])
    assert len(found["exact"]) == 1
    assert "the same samples\t137\t138" in here("overlap", mini_store).stdout
    says(here("overlap", mini_store, "--folds", "77", "--with-folds", "1"), 1, "no record is in the folds", "got 77")
    says(here("overlap", mini_store, "none.ecg"), 1, "there is no store")
    says(here("overlap", mini_store, "--min-correlation", "nan"), 1, "got nan")


def test_augment_makes_a_noisy_sibling(mini_store, tmp_path):
    out = tmp_path / "noisy.ecg"
    wander = ("augment", mini_store, out, "--noise", "wander", "--snr", "6")
    first = answer(*wander)
    assert first["records"] == 53
    assert first["snr_db"] == pytest.approx(6, abs=0.05)
    about = answer("info", out)
    assert (about["noise"]["kind"], about["noise"]["snr_db"]) == ("wander", 6)
    assert about["parent"] == open_store(mini_store).fingerprint
    assert "wander at 6 dB, seed 0, on " in here("info", out).stdout
    assert answer("info", mini_store)["noise"] is None
    snr_db = [float(row["snr_db"]) for row in json.loads(here("records", out, "--columns", "snr_db", "--json").stdout)]
    np.testing.assert_allclose(snr_db, 6, atol=0.1)
    assert here(*wander).returncode == 0  # there already, and the same
    says(here(*wander, "--seed", "2"), 1, "sealed store is there already", "--overwrite")
    assert answer(*wander, "--seed", "2", "--overwrite")["fingerprint"] != first["fingerprint"]
    says(here("augment", out, tmp_path / "n.ecg", "--noise", "muscle", "--snr", "6"), 1, "noise on it already")
    says(here("augment", mini_store, mini_store / "n.ecg", "--noise", "muscle", "--snr", "6"), 1, "contain each other")
    new = ("augment", mini_store, tmp_path / "n.ecg")
    for flags, part in (
        ("--noise muscle", "how strong the noise is"),
        ("--noise muscle --snr 6 --level 2", "not by both"),
        ("--noise hum --snr 6", "'wander'"),
        ("--noise muscle --snr nan", "snr_db"),
        ("--noise nstdb-ma --snr 6", "ecgstore fetch nstdb"),
        (f"--noise nstdb-ma --snr 6 --noise-bank {tmp_path}", "there is no recorded noise"),
        ("--noise powerline --snr 6", "more than 100 Hz"),
    ):
        says(here(*new, *flags.split()), 1, part)
    assert not (tmp_path / "n.ecg").exists()


# --- fetching ---------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(mini, tmp_path, monkeypatch):
    """The bundled records behind a server on this machine: its address, and the folder that it serves."""
    root = tmp_path / "www"
    shutil.copytree(mini, root / "mini" / "1.0")
    add_sums(root / "mini" / "1.0")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/mini/1.0/", root / "mini" / "1.0"
        server.shutdown()


def test_what_is_fetched_is_verified_and_can_be_ingested(served, tmp_path):
    url, root = served
    dest = tmp_path / "dest"
    plan = answer("fetch", url, dest, "--dry-run")
    assert (plan["url"], plan["n_records"], plan["n_here"]) == (url, 53, 0)
    assert not dest.exists()
    done = ecgstore("fetch", url, dest, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["fetched"], report["kept"], report["failed"]) == (plan["files"], 0, {})
    assert f"{plan['files']} files (0 here)" in done.stderr
    assert json.loads(here("fetch", url, dest, "--json").stdout)["kept"] == plan["files"]
    assert answer("ingest", dest, tmp_path / "out.ecg", "--verify-source")["records"] == 53
    (root / "LICENSE.txt").write_text("another one")
    (dest / "LICENSE.txt").unlink()
    failed = here("fetch", url, dest)
    assert failed.returncode == 3
    assert all(line.startswith("error: ") for line in failed.stderr.splitlines()[1:])
    assert "LICENSE.txt" in failed.stderr
    assert "1 files are missing; run the same command again" in failed.stderr


def test_what_can_not_be_fetched_is_said(served, tmp_path):
    url, _ = served
    dest = tmp_path / "dest"
    listed = here("fetch", "--list")
    assert listed.returncode == 0
    assert "ptb-xl " in listed.stdout
    says(here("fetch", "ptbxl", dest), 1, "unknown set 'ptbxl'", "ptb-xl")
    says(here("fetch", "mimic-iv-ecg", dest), 1, "is not fetched", "aws s3 sync")
    says(here("fetch", f"{url}nowhere/", dest), 1, "SHA256SUMS.txt", "404")
    says(here("fetch", "ftp://there/is/", dest), 1, "no address of a folder", "https://")
    (tmp_path / "file").write_text("of somebody else")
    says(here("fetch", url, tmp_path / "file"), 1, str(tmp_path / "file"))
    dest.mkdir()
    (dest / "thesis.txt").write_text("three years of work")
    says(here("fetch", url, dest), 1, str(dest))
    assert [path.name for path in dest.iterdir()] == ["thesis.txt"]


def test_any_filter_stands_on_the_command_line(mini, tmp_path):
    out, few = tmp_path / "out.ecg", tmp_path / "few"
    few.mkdir()
    for path in sorted(mini.rglob("*_hr.*"))[:4]:
        shutil.copy(path, few)
    flags = ("--notch", "60", "--filter", "median:first_s=0.3", "--filter", "highpass:freq_hz=0.05,order=1")
    done = here("ingest", few, out, "--patient-key", "public", *flags)
    assert done.returncode == 0, done.stderr
    notch, median, highpass = open_store(out).recipe["filters"]
    assert (notch["freq_hz"], median["first_s"], highpass) == (
        60,
        0.3,
        {"name": "highpass", "freq_hz": 0.05, "order": 1, "response": "analogue"},
    )
    for bad, message in (
        ("medain", "did you mean median"),
        ("median:first=1", "first_s"),
        ("highpass:order", "key=value"),
    ):
        done = here("ingest", mini, tmp_path / "bad.ecg", "--filter", bad)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr


# --- folds beside a store ----------------------------------------------------------------------------------------


def test_folds_stand_in_a_table_beside_the_store(mini_store, tmp_path):
    out = tmp_path / "split.parquet"
    said = here("split", mini_store, "--folds", 4, "--stratify", "scp_ecg:NORM,SR", "--out", out)
    assert (said.returncode, said.stderr) == (0, "")
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    assert lines[0][:3] == ["fold", "records", "patients"]
    assert set(lines[0][3:]) == {"NORM", "SR"}
    assert [line[0] for line in lines[1:5]] == ["1", "2", "3", "4"]
    assert sum(int(line[1]) for line in lines[1:5]) == 53
    assert f"--set data.split={out}" in said.stdout
    says(here("split", mini_store, "--out", out), 1, "there is already such a file", "--overwrite")
    found = answer("split", mini_store, "--folds", 4, "--stratify", "scp_ecg:NORM,SR", "--out", out, "--overwrite")
    assert [one["records"] for one in found["folds"]] == [int(line[1]) for line in lines[1:5]]
    assert (len(found["sha256"]), found["in_no_fold"]) == (64, 0)


def test_folds_that_cannot_be_drawn_are_one_line(mini_store, tmp_path):
    out = tmp_path / "split.parquet"
    for options, status, part in [
        (["--stratify", "scp_ecg:NROM"], 1, "did you mean NORM?"),
        (["--stratify", "sexx"], 1, "did you mean sex?"),
        (["--folds", 60], 1, "fewer patients than folds"),
        (["--folds", 1], 2, "--folds"),
        (["--site", "--folds", 3], 2, "leave --folds and --stratify out"),
        (["--site", "--folds", 10], 2, "leave --folds and --stratify out"),
    ]:
        says(here("split", mini_store, *options, "--out", out), status, part)
    says(here("split", tmp_path / "none.ecg", "--out", out), 1, "none.ecg")
    assert not out.exists()
