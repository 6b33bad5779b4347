"""What both command lines do alike: wrong usage in one line, JSON, and completion in real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from quickly import quickly

import ecgstore.cli
import ecgtrain.cli

HERE = Path(sys.executable).parent
PROGRAMS = ("ecgstore", "ecgtrain")

WRONG = [
    ("ecgstore", ["inof"], "no such command 'inof'"),
    ("ecgtrain", ["rnu"], "no such command 'rnu'"),
    ("ecgstore", ["info"], "missing argument 'STORE'; see `ecgstore info --help`"),
    ("ecgtrain", ["run"], "missing argument 'RECIPE'; see `ecgtrain run --help`"),
    ("ecgstore", ["info", "x", "--jsn"], "no such option '--jsn'"),
    ("ecgtrain", ["show", "demo", "--jsn"], "no such option '--jsn'"),
    ("ecgstore", ["split", "x", "--folds", "many"], "invalid value for '--folds'"),
    ("ecgtrain", ["bench", "demo", "--seconds", "long"], "invalid value for '--seconds'"),
    ("ecgstore", ["sidecar", "adder"], "no such command 'adder'"),
    ("ecgstore", ["completion", "tcsh"], "invalid value for '{bash|zsh|fish}'"),
]


@pytest.fixture(autouse=True)
def found_by_name(monkeypatch):
    monkeypatch.setenv("PATH", f"{HERE}{os.pathsep}{os.environ['PATH']}")


def said(*words, **others):
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **others)


#: It has torch imported before it looks at its words.
HEAVY = ("ecgtrain", ["evaluate", "runs/x", "--store", "y", "--folds", "one"], "invalid value for --folds")


@pytest.mark.parametrize(("program", "words", "expected"), quickly([*WRONG, HEAVY], *WRONG))
def test_wrong_usage_is_one_line_that_says_where_the_right_one_is_described(program, words, expected):
    done = said(program, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {expected}")
    assert "; see `" + program in line
    assert line.endswith("--help`")


#: What gives no answer that a script could read: a page that is served, a script for a shell.
NO_JSON = {"ecgstore view", "ecgstore completion", "ecgtrain completion"}


def commands(name, command):
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, below in command.commands.items():
        yield from commands(f"{name} {word}", below)


def test_every_command_answers_in_json_if_asked():
    every = [*commands("ecgstore", ecgstore.cli.main), *commands("ecgtrain", ecgtrain.cli.main)]
    lack = {name for name, command in every if not any("--json" in one.opts for one in command.params)}
    assert lack == NO_JSON


#: By command: the words before and after the file, its name, and what the answer holds besides.
WRITERS = {
    "ecgstore report": (["STORE", "--pages", "0", "--out", "FILE"], "page.html", {"records": 53}),
    "ecgstore plot": (
        ["STORE", "145", "--leads", "II", "--out", "FILE"],
        "page.png",
        {"record_id": "145", "leads": ["II"]},
    ),
    "ecgstore simulate": (["FILE", "--records", "2"], "made", {"kind": "diagnoses", "records": 2}),
    "ecgtrain init": (["FILE", "--from", "demo"], "my.yaml", {}),
}


@pytest.mark.parametrize("command", quickly(WRITERS, "ecgstore simulate", "ecgtrain init"))
def test_commands_that_write_one_file_say_which_in_json(mini_store, tmp_path, command):
    """The others are asked in the tests of what they do."""
    words, name, expected = WRITERS[command]
    places = {"STORE": str(mini_store), "FILE": str(tmp_path / name)}
    done = said(*command.split(), *(places.get(word, word) for word in words), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {key: answer[key] for key in expected} == expected
    assert answer["path"] == places["FILE"]
    assert Path(answer["path"]).exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_command_the_help_is_shown(program):
    done = said(program)
    assert done.returncode == 2
    assert f"Usage: {program} [OPTIONS] COMMAND" in done.stdout + done.stderr


def completed(shell, program, words, tmp_path):
    """What ``shell`` offers for the last of ``words`` once it has read the script that ``program`` prints."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    made = said(program, "completion", shell)
    assert (made.returncode, made.stderr) == (0, "")
    script.write_text(made.stdout)
    if shell == "fish":
        line = " ".join(words)
        done = said("fish", "--no-config", "-c", f"source {script}; complete -C '{line}'")
        offered = [one.partition("\t")[0] for one in done.stdout.splitlines()]
    elif shell == "bash":
        asked = f"COMP_WORDS=({' '.join(words)}{' ' * (not words[-1])}); COMP_CWORD={len(words) - 1}"
        ends = f'_{program}_completion {program}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = said("bash", "--norc", "-c", f"source {script}; compopt() {{ :; }}; {asked}; {ends}")
        offered = done.stdout.split()
    else:  # what it would offer goes to compadd or _describe, which only a terminal has
        asked = f"words=({' '.join(words)}); CURRENT={len(words)}"
        # Each is given the name of an array: _describe as its third argument, compadd as its last.
        stand_ins = "compdef() {}; _path_files() {}; _describe() { print -l -- ${(P)3}; }"
        stand_ins += "; compadd() { print -l -- ${(P)argv[-1]}; }"
        done = said("zsh", "-f", "-c", f"{stand_ins}; source {script}; {asked}; _{program}_completion")
        offered = [one.partition(":")[0] for one in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    return offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options_and_values(shell, tmp_path):
    assert {"ingest", "info"} <= set(completed(shell, "ecgstore", ["ecgstore", "in"], tmp_path))
    assert "--bandpass" in completed(shell, "ecgstore", ["ecgstore", "ingest", "--ban"], tmp_path)
    assert "diagnostic" in completed(shell, "ecgstore", ["ecgstore", "ingest", "--profile", "dia"], tmp_path)
    offered = completed(shell, "ecgtrain", ["ecgtrain", "run", "small/c"], tmp_path)
    assert {"small/cpc", "small/cinc"} <= set(offered)
    assert "small/byol" not in offered
