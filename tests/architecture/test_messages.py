"""What messages tell a user to type is there: commands and options that stand in strings of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ecgstore.cli
import ecgtrain.cli

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ecgstore": ecgstore.cli.main, "ecgtrain": ecgtrain.cli.main}
#: A program, its verb, and words behind it as far as they can belong to it.
COMMAND = re.compile(r"\b(ecgstore|ecgtrain) ([a-z]+(?:-[a-z]+)*)((?:[ =][^\s`(),;]+)*)")


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a file with its line; what an f-string puts in is an X."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def unknown(text: str) -> list[str]:
    """Commands in a text that have an option which is not theirs, or a verb that is not there."""
    found = []
    for match in COMMAND.finditer(text):
        program, verb, rest = match.groups()
        options = set(re.findall(r"(?<=[ =])--[a-z][a-z-]*", rest))
        command: click.Command | None = PROGRAMS[program]
        words = [verb, *rest.split()]
        while isinstance(command, click.Group) and words:
            command = command.get_command(click.Context(command), words.pop(0))
        if not options:  # it may be a sentence about the program
            continue
        known = {"--help"} if command else set()
        for parameter in command.params if command else ():
            known |= {*parameter.opts, *parameter.secondary_opts}
        if not options <= known:
            found.append(match.group())
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_that_code_tells_of_are_there(program: str) -> None:
    paths = sorted((ROOT / program).rglob("*.py"))
    assert len(paths) > 50
    found = {
        f"{path.relative_to(ROOT)}:{line}": bad
        for path in paths
        for line, text in strings(path)
        if (bad := unknown(text))
    }
    assert found == {}


def test_an_option_that_is_not_there_is_seen() -> None:
    assert unknown("left out (ecgstore info X --rejected)") == ["ecgstore info X --rejected"]
    assert unknown("ecgstore no-such --json")
    assert unknown("ecgstore sidecar list a.ecg --yaml")
    assert not unknown("left out (ecgstore records X --rejected), ecgstore sidecar list a.ecg --json")
