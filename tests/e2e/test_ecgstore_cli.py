"""The command line as a stranger meets it: real processes, good and bad input, exit statuses, messages."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from terminal import without_progress

from ecgstore import cli
from ecgstore.build.settings import IngestSettings
from ecgstore.cli import make, printing

INGEST = ("--fs", "100", "--bandpass", "0.5", "40", "--notch", "50")


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


def test_ingest_info_verify_plot(mini, tmp_path):
    out = tmp_path / "mini.ecg"
    done = ecgstore("ingest", mini, out, *INGEST, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["records"], answer["rejected"], answer["path"]) == (53, 0, str(out))
    assert answer["records_per_s"] > 0
    assert answer["seconds"] > 0
    assert len(answer["fingerprint"]) == 64

    about = json.loads(here("info", out, "--json").stdout)
    assert about["fingerprint"] == answer["fingerprint"]
    assert about["fs_hz"] == 100
    assert about["sources"][0]["licence"] == "CC-BY-4.0"
    assert "53, 0.15 h" in here("info", out).stdout

    for more in ((), ("--deep",)):
        checked = here("verify", out, *more, "--json")
        assert checked.returncode == 0
        assert json.loads(checked.stdout)["ok"] is True

    listed = here("records", out).stdout.splitlines()
    assert len(listed) == 54
    record_id = listed[1].split("\t")[0]
    assert here("plot", out, record_id, "--out", tmp_path / "page.png").returncode == 0
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_config_file_and_overrides_and_flags_in_this_order(mini, tmp_path):
    (tmp_path / "recipe.yaml").write_text("fs_hz: 250\nsource: {name: ptbxl}\nfilters: [{name: notch, freq_hz: 60}]\n")
    out = tmp_path / "a.ecg"
    done = here("ingest", mini, out, "--config", tmp_path / "recipe.yaml", "--set", "filters.0.q=20", "--fs", "125")
    assert done.returncode == 0, done.stderr
    recipe = json.loads(here("info", out, "--json").stdout)["recipe"]
    assert recipe["fs_hz"] == 125
    (notch,) = recipe["filters"]
    assert (notch["name"], notch["freq_hz"], notch["q"]) == ("notch", 60.0, 20.0)


def test_bad_input_gets_one_line(mini, mini_store, tmp_path):
    out = tmp_path / "out.ecg"
    says(ecgstore("ingest", tmp_path / "nowhere", out), 1, "source folder is not there", "nowhere")
    (tmp_path / "empty").mkdir()
    says(here("ingest", tmp_path / "empty", out), 1, "no WFDB record")
    says(here("ingest", mini, mini_store), 1, "sealed store is there already", "--overwrite", "--append")
    says(here("info", tmp_path / "none.ecg"), 1, "there is no store")
    says(here("verify", tmp_path), 1, "not an ecgstore")
    says(here("plot", mini_store, "nobody", "--out", tmp_path / "p.png"), 1, "no record 'nobody'")
    says(here("plot", mini_store, "50", "--out", tmp_path / "p.xyz"), 1, "p.xyz", ".png, .svg or .pdf")
    says(here("simulate", tmp_path / "new", "--fs", "nan"), 1, "fs_hz", "finite")
    assert not out.exists()


BAD_SETTINGS = (
    ("--source ptblx", "unknown source 'ptblx'; did you mean ptbxl"),
    ("--source ptbxl --set source.rate=100", "unknown setting rate; did you mean rate_hz"),
    ("--set source.rate_hz=77", "rate_hz", "500 or 100", "got 77"),
    ("--source mitdb", "none of the 48 records is there"),
    ("--source ./none.py", "source file is not there", "none.py"),
    ("--labels none.csv", "the table is not there", "none.csv"),
    ("--set fs=100", "unknown setting fs", "did you mean fs_hz"),
    ("--set max_rejected=7", "max_rejected", "less than or equal to 1", "got 7"),
    ("--set nothing", "key=value", "'nothing'"),
    ("--fs 0", "fs_hz", "greater than or equal to 1"),
    ("--fs nan", "fs_hz", "got nan"),
    ("--bandpass 40 0.5", "low_hz must be below high_hz"),
    ("--notch -1", "freq_hz", "greater than 0"),
    ("--leads I,Q", "leads must be different names out of I II III"),
    ("--leads MLII", "none of 53 records can be used (no_leads × 53)"),
    ("--profile raw --fs 100", "a raw store (encoding adc) takes no filter, noise or rate"),
    ("--noise wander", "how strong the noise is"),
    ("--noise hum --snr 3", "noise.kind", "'wander'"),
    ("--noise powerline --level 2", "records of 100 Hz hold nothing at 50 Hz"),
    ("--noise nstdb-bw --snr 6", "there is no recording of it", "ecgstore fetch nstdb"),
    ("--config none.yaml", "no such file", "none.yaml"),
    ("--verify-source", "no list of checksums", "SHA256SUMS.txt"),
)


def test_bad_settings_get_one_line(mini, tmp_path):
    for flags, *parts in BAD_SETTINGS:
        says(here("ingest", mini, tmp_path / "out.ecg", *flags.split()), 1, *parts)
        assert not (tmp_path / "out.ecg").exists(), flags


WRONG_USAGE = (
    ("ingest SRC", "missing argument 'OUT'", "`ecgstore ingest --help`"),
    ("ingest SRC OUT --nix", "no such option", "--nix"),
    ("ingest SRC OUT --profile best", "'best' is not one of 'train', 'diagnostic', 'raw'"),
    ("ingest SRC OUT --fs fast", "'fast' is not a valid float"),
    ("ingest SRC OUT --workers 0", "--workers", "x>=1"),
    ("ingest SRC OUT --parts 3/2", "'3/2' is not a part such as 2/8"),
    ("ingest SRC OUT --parts 0/2", "'0/2' is not a part"),
    ("ingest SRC OUT --parts 1/2 --append", "--parts makes a new store"),
    ("ingest SRC OUT --parts 1/2 --overwrite", "--parts makes a new store"),
    ("ingest SRC OUT --resume --append", "--resume, --overwrite and --append exclude each other"),
    ("ingest SRC OUT --unfiltered --notch 50", "--unfiltered excludes"),
    ("ingest SRC OUT --snr 3", "name its kind"),
    ("augment SRC OUT", "missing option '--noise'"),
    ("plot SRC 50", "missing option '--out'"),
    ("records SRC --head 0", "--head"),
    ("records SRC --rejected --columns fold", "--rejected excludes"),
    ("report SRC --pages 51", "--pages"),
    ("overlap SRC --folds 1", "--folds and --with-folds go together"),
    ("overlap SRC --folds one --with-folds 2", "'one' is not a list of numbers such as 1,2,3"),
    ("fetch mitdb", "missing argument 'DEST'"),
    ("nix", "no such command 'nix'", "`ecgstore --help`"),
)


def test_wrong_usage_gets_one_line_too(mini_store, tmp_path):
    for line, *parts in WRONG_USAGE:
        arguments = line.replace("SRC", str(mini_store)).replace("OUT", str(tmp_path / "out.ecg")).split()
        says(here(*arguments), 2, *parts)
    assert not (tmp_path / "out.ecg").exists()


def test_pages_and_tables_are_written_beside_a_store_and_never_into_it(mini_store, tmp_path):
    shutil.copytree(mini_store, tmp_path / "sealed.ecg")
    store = tmp_path / "sealed.ecg"
    before = sorted(store.rglob("*"))
    for command in (
        ("report", store, "--out", store / "a.html"),
        ("plot", store, "50", "--out", store / "a.png"),
        ("card", store, "--out", store / "a.md"),
        ("card", store, "--croissant", store / "a.json"),
        ("split", store, "--folds", "2", "--out", store / "a.parquet"),
    ):
        says(here(*command), 1, "nothing may be added to a sealed store", "write beside it")
    assert sorted(store.rglob("*")) == before
    says(here("split", store, "--out", tmp_path / "a.csv"), 1, "the table is written as Parquet", "ends with .parquet")


def test_help_of_every_command_says_what_each_option_is_for():
    assert "Commands:" in here().stderr
    commands = cli.main.commands
    assert len(commands) > 10
    for name, command in commands.items():
        shown = here(name, "--help")
        assert shown.returncode == 0
        assert max(map(len, shown.stdout.splitlines())) <= 80
        assert len(command.help or "") > 20
        assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_places_that_can_not_be_written(mini, mini_store, tmp_path):
    file = tmp_path / "file"
    file.write_text("of somebody else")
    for flags in ((), ("--overwrite",), ("--resume",), ("--append",), ("--parts", "1/2")):
        says(here("ingest", mini, file, *flags), 1, "is there already and is not a store", str(file))
    says(here("ingest", mini, file / "out.ecg"), 1, "can't be written", "Not a directory")
    for verb in ("info", "verify", "records", "report"):
        says(here(verb, file), 1, "a store is a folder, and this is a file")
    says(here("augment", mini_store, file, "--noise", "wander", "--snr", "6", "--overwrite"), 1, "not a store")
    assert file.read_text() == "of somebody else"
    no = Path("/proc/ecgstore")  # takes no new files, of root neither
    says(here("ingest", mini, no), 1, "can't be written", str(no))
    says(here("simulate", no, "--records", "2"), 1, "/proc")
    says(here("plot", mini_store, "50", "--out", no / "p.png"), 1, str(no))
    says(here("scan", mini, "--scan-table", no), 1, str(no))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ecgstore", "info", str(mini_store)], stdout=full, stderr=-1, text=True
        )
    says(done, 1, "the disk is full", "make room")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_said(mini, tmp_path):
    tmp_path.chmod(0o500)
    says(here("ingest", mini, tmp_path / "out.ecg"), 1, "can't be written", "Permission denied")


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_said_and_the_rest_goes_on_later(mini, tmp_path):
    def take_no_more():  # a signal file of 250 kB is then too large
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    out = tmp_path / "out.ecg"
    says(ecgstore("ingest", mini, out, preexec_fn=take_no_more), 1, "could not be written", str(out), "File too large")
    says(here("info", out), 1, "never sealed")
    assert here("ingest", mini, out).returncode == 0
    assert here("verify", out, "--deep").returncode == 0


def test_store_and_source_inside_each_other(mini, tmp_path):
    source = shutil.copytree(mini, tmp_path / "outer" / "src")
    says(here("ingest", source, tmp_path / "outer", "--overwrite"), 1, "must not contain the source folder")
    says(here("ingest", source, source), 1, "must not contain the source folder")
    first = json.loads(here("ingest", source, source / "out.ecg", "--json").stdout)
    again = json.loads(here("ingest", source, source / "out.ecg", "--append", "--json").stdout)
    assert first["records"] == again["records"] == 53
    assert first["fingerprint"] == again["fingerprint"]


def test_every_flag_that_sets_a_setting_sets_one_that_there_is():
    flags = {option.name for option in cli.main.commands["ingest"].params}
    assert set(make.SETTING_OF_FLAG) <= flags & set(IngestSettings.model_fields)


def test_progress_is_on_stderr_and_the_answer_on_stdout(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(printing, "LINE_EVERY_S", 0.0)
    done = here("ingest", mini, tmp_path / "out.ecg", "--json")
    assert "reading headers: 53 of 53" in done.stderr
    assert "writing shards: 2 of 2" in done.stderr
    assert json.loads(done.stdout)["shards"] == 2
    checked = here("verify", tmp_path / "out.ecg", "--json")
    assert "verifying: " in checked.stderr
    assert json.loads(checked.stdout)["ok"] is True


def test_json_is_json_where_a_lead_was_never_recorded(write_record, tmp_path):
    def strictly(text):
        return json.loads(text, parse_constant=pytest.fail)

    write_record(tmp_path / "src", leads=("I",))
    out = tmp_path / "out.ecg"
    assert here("ingest", tmp_path / "src", out).returncode == 0
    assert strictly(here("info", out, "--json").stdout)["std_mv"]["V6"] is None
    assert "nan" not in here("info", out).stdout
    strictly(here("records", out, "--columns", "record_id,einthoven_mv,sqi", "--json").stdout)


def test_settings_come_from_the_environment_too(mini, tmp_path):
    env = {
        "ECGSTORE_INGEST_FS_HZ": "50",
        "ECGSTORE_INGEST_BANDPASS": "0.5 20",
        "ECGSTORE_PATIENT_KEY": "open sesame door",
    }
    assert here("ingest", mini, tmp_path / "a.ecg", **env).returncode == 0
    about = json.loads(here("info", tmp_path / "a.ecg", "--json").stdout)
    assert about["fs_hz"] == 50
    assert [(one["low_hz"], one["high_hz"]) for one in about["recipe"]["filters"]] == [(0.5, 20.0)]
    assert here("ingest", mini, tmp_path / "b.ecg", "--fs", "100", **env).returncode == 0  # a flag wins
    assert json.loads(here("info", tmp_path / "b.ecg", "--json").stdout)["fs_hz"] == 100
    assert here("ingest", mini, tmp_path / "c.ecg", ECGSTORE_INGEST_FS_HZ="50").returncode == 0
    keys = [here("records", tmp_path / name, "--columns", "patient_key").stdout for name in ("a.ecg", "b.ecg", "c.ecg")]
    assert keys[0] == keys[1] != keys[2]
    assert "sesame" not in (tmp_path / "a.ecg" / "zarr.json").read_text()
    says(here("ingest", mini, tmp_path / "d.ecg", ECGSTORE_INGEST_FS_HZ="fast"), 2, "'fast' is not a valid float")
    says(here("scan", mini, ECGSTORE_SCAN_PROFILE="best"), 2, "'best' is not one of")


def running(group):
    """Processes of a process group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(of_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


#: Resampled to 20 kHz, the bundled records keep a machine busy for some ten seconds.
SLOW = ("--fs", "20000", "--unfiltered", "--workers", "2")


@pytest.mark.parametrize(
    "kind", [(), pytest.param(("--processes",), marks=pytest.mark.slow)], ids=["threads", "processes"]
)
def test_ctrl_c_ends_it_soon_and_wholly(mini, tmp_path, kind):
    out = tmp_path / "out.ecg"
    command = [sys.executable, "-m", "ecgstore", "ingest", str(mini), str(out), *SLOW, *kind]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
    try:
        while not list(out.glob("commits/*.arrow")) and process.poll() is None:
            time.sleep(0.02)
        says(here("ingest", mini, out, *SLOW), 1, "another ingest is writing this store right now")
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate()
        # Python leaves by the signal itself where it came during an import: a shell says 130 in both cases.
        assert process.returncode in (130, -signal.SIGINT), stderr
        assert "interrupted; run the same command again" in stderr
        assert "Traceback" not in stderr
        assert stdout == ""
        while running(process.pid):  # those that it started end with it
            time.sleep(0.05)
    finally:
        if running(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    says(here("info", out), 1, "never sealed")
    before = len(list(out.glob("commits/*.arrow")))
    assert 0 < before < 53, "it went on to the end"


@pytest.mark.slow
@pytest.mark.parametrize("goes_to", ["command", "all"])
def test_told_to_end_again_and_again_it_says_so_in_one_line_and_goes_on(mini, tmp_path, goes_to):
    """SIGTERM, to the command alone or to all of its processes, at several moments of one ingest in processes."""
    out = tmp_path / "out.ecg"
    command = [sys.executable, "-m", "ecgstore", "ingest", str(mini), str(out), *SLOW, "--processes"]
    found = 0
    for wanted in (0, 1, 3, 6):
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
        try:
            while (found := len(list(out.glob("commits/*.arrow")))) < wanted or not (out / "building.json").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            (os.killpg if goes_to == "all" else os.kill)(process.pid, signal.SIGTERM)
            stdout, stderr = process.communicate()
        finally:
            if running(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
        if wanted or process.returncode != -signal.SIGTERM:  # before there are workers it just ends
            assert process.returncode == 128 + signal.SIGTERM, stderr
            assert without_progress(stderr).startswith("told to end (SIGTERM); run the same command again")
        assert (stdout, without_progress(stderr).count("\n")) == ("", int(process.returncode > 0)), stderr
        says(here("info", out), 1, "never sealed")
    assert 6 <= found < 53
    done = here(*command[3:-1])
    assert done.returncode == 0, done.stderr
    assert here("verify", out, "--deep").returncode == 0


@pytest.mark.slow
def test_two_at_once_on_one_output(mini, tmp_path):
    out = tmp_path / "out.ecg"
    command = [sys.executable, "-m", "ecgstore", "ingest", str(mini), str(out), "--workers", "1"]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    told = [without_progress(process.communicate()[1]) for process in both]
    statuses = [process.returncode for process in both]
    assert 0 in statuses, told
    for status, stderr in zip(statuses, told, strict=True):
        assert (status, stderr) == (0, "") or (status == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1)
    assert here("verify", out, "--deep").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecg"]


def test_one_truncated_record_is_left_out_said_and_not_fatal(mini, tmp_path):
    source = shutil.copytree(mini, tmp_path / "src")
    victim = sorted(source.rglob("*.dat"))[0]
    victim.write_bytes(victim.read_bytes()[:5000])
    out = tmp_path / "out.ecg"
    done = here("ingest", source, out, "--json")
    says(done, 3, "1 of 53 records were left out", "truncated × 1", "other 52 are in")
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 52
    assert here("verify", out, "--deep").returncode == 0
    rejected = here("records", out, "--rejected").stdout
    assert "truncated" in rejected
    assert "5000 of 120000 bytes" in rejected
    tolerant = here("ingest", source, out, "--overwrite", "--max-rejected", "0.05")
    assert tolerant.returncode == 0
    assert "1 left out: truncated × 1" in tolerant.stdout


def test_a_damaged_and_an_unsealed_store(mini_store, tmp_path):
    damaged = shutil.copytree(mini_store, tmp_path / "damaged.ecg")
    shard = damaged / "signal" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[500] ^= 255
    shard.write_bytes(content)
    done = here("verify", damaged, "--deep")
    assert done.returncode == 1
    assert "signal/c/0/0: sha256" in done.stderr
    assert "is damaged; problems: 1" in done.stderr
    record_id = here("records", damaged, "--head", "1").stdout.splitlines()[1].split("\t")[0]
    says(here("plot", damaged, record_id, "--out", tmp_path / "p.png"), 1, "can't be decoded")
    (damaged / "manifest.json").unlink()
    for verb in ("info", "verify"):
        says(here(verb, damaged), 1, "never sealed", "running the command that began it again")


def test_simulated_records_are_a_source_like_any_other(tmp_path):
    made = here("simulate", tmp_path / "wfdb", "--records", "40", "--seed", "3")
    assert made.returncode == 0, made.stderr
    done = here("ingest", tmp_path / "wfdb", tmp_path / "out.ecg", *INGEST, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 40
    assert json.loads(here("info", tmp_path / "out.ecg", "--json").stdout)["sources"][0]["name"] == "synthetic"
    says(here("simulate", tmp_path / "wfdb", "--records", "40"), 1, str(tmp_path / "wfdb"))


def test_beats_of_known_origin_are_a_source_with_beats(tmp_path):
    flags = ("--kind", "vt", "--records", "3", "--origins", "2", "--duration", "5", "--scars", "1")
    made = here("simulate", tmp_path / "vt", *flags, "--slow-endocardium")
    assert made.returncode == 0, made.stderr
    done = here("ingest", tmp_path / "vt", tmp_path / "vt.ecg", "--fs", "100", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 3
    about = json.loads(here("info", tmp_path / "vt.ecg", "--json").stdout)
    assert about["sources"][0]["name"] == "synthetic_vt"
    says(here("simulate", tmp_path / "vt", *flags), 1, "already something", str(tmp_path / "vt"))


@pytest.mark.parametrize(
    ("flags", "status", "parts"),
    [
        (("--kind", "pvc"), 2, ("pvc", "vt")),
        (("--kind", "vt", "--generator", "dipole"), 2, ("--generator", "--kind diagnoses")),
        (("--origins", "3"), 2, ("--origins", "--kind vt")),
        (("--slow-endocardium",), 2, ("--fast-endocardium", "--kind vt")),
        (("--kind", "vt", "--origins", "0"), 1, ("origins_per_patient", "0")),
        (("--kind", "vt", "--origins", "26"), 1, ("origins_per_patient", "26")),
        (("--kind", "vt", "--scars", "1.5"), 1, ("scars", "1.5")),
        (("--kind", "vt", "--scars", "nan"), 1, ("scars", "nan")),
        (("--kind", "vt", "--duration", "2"), 1, ("duration_s", "5")),
        (("--kind", "vt", "--fs", "10"), 1, ("fs_hz", "100")),
        (("--kind", "vt", "--records", "0"), 2, ("--records",)),
    ],
)
def test_simulate_says_what_it_can_not_do(tmp_path, flags, status, parts):
    says(here("simulate", tmp_path / "out", *flags), status, *parts)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["ecgstore", "ecgtrain"])
def test_help_is_instant_because_it_imports_next_to_nothing(package):
    code = (
        f"import sys\nfrom {package}.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    heavy = {"dask", "fsspec", "matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "scipy", "torch", "zarr"}
    assert heavy.isdisjoint(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", [["info"], ["verify"]])
def test_a_look_at_the_tables_imports_no_more_than_reads_them(command, mini_store):
    arguments = [command[0], str(mini_store), *command[1:]]
    code = (
        f"import sys\nfrom ecgstore.cli import main\nmain({arguments!r}, standalone_mode=False)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"asyncio", "dask", "fsspec", "matplotlib", "numcodecs", "pandas", "scipy", "wfdb", "zarr"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())
