"""Write docs/reference.md from the commands themselves: ``python docs/make_reference.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

import ecgstore.cli
import ecgtrain.cli

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference

Every command and option. This page is made by `python docs/make_reference.py`; don't edit it.

An option can also be given as an environment variable: `PROGRAM_COMMAND_OPTION` in capitals, such as
`ECGSTORE_INGEST_WORKERS=8`. `-h` or `--help` after any command says the same as this page.
"""


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """``command`` and all commands below it, each with the words that call it."""
    yield name, command
    if isinstance(command, click.Group):
        for word, below in sorted(command.commands.items()):
            yield from commands(f"{name} {word}", below)


def reference() -> str:
    """The whole page."""
    pages = [("ecgstore", ecgstore.cli.main), ("ecgtrain", ecgtrain.cli.main)]
    parts = [section(*found) for program in pages for found in commands(*program)]
    return "\n".join([HEAD, *parts])


def section(name: str, command: click.Command) -> str:
    """One command: how it is called, what it does, its options."""
    usage = " ".join([name, *(_usage(one) for one in command.params if isinstance(one, click.Argument))])
    if isinstance(command, click.Group):
        usage += " COMMAND"
    level = "##" if " " not in name else "###"
    lines = [f"{level} {name}", "", "```text", usage, "```", "", inspect.cleandoc(command.help or ""), ""]
    options = [one for one in command.params if isinstance(one, click.Option)]
    if options:
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| {_spelling(one)} | {_meaning(one)} |" for one in options]
        lines.append("")
    if command.epilog:
        # Two blanks before a command, more before what goes on with it.
        examples = [line[2:] for line in command.epilog.splitlines()[2:]]
        lines += ["```console", *(one if one.startswith(" ") else f"$ {one}" for one in examples), "```", ""]
    return "\n".join(lines)


def _usage(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name + ("…" if argument.nargs == -1 and not name.endswith("…") else "")


def _spelling(option: click.Option) -> str:
    value = "" if option.is_flag or option.count else f" {_value(option)}"
    return f"`{'`, `'.join([*option.opts, *option.secondary_opts])}{value}`".replace("|", r"\|")


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name.upper().removesuffix(" RANGE")


def _meaning(option: click.Option) -> str:
    text = [(option.help or "").replace("|", r"\|")]
    if option.show_default and option.default is not None and not option.is_flag:
        text.append(f"Default: {option.default}.")
    if option.required:
        text.append("Required.")
    if option.multiple and "repeatable" not in text[0]:
        text.append("May be given several times.")
    return " ".join(text)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
