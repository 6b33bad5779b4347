"""What both command lines do alike: lines that a terminal can't obey, wrong usage in one line, completion."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

import click

from ecgstore.errors import visible

EXIT_INTERRUPTED = 130
SHELLS = ("bash", "zsh", "fish")


class VisibleFormatter(logging.Formatter):
    """Whatever a terminal would obey or hide stands in a log line as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.exc_info or record.stack_info else visible(text)  # a bug's traceback has lines


def escape_log_lines() -> None:
    """Let warnings of the libraries reach the terminal escaped as well, where nobody set up logging otherwise."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())


class PlainUsage(click.Group):
    """Wrong usage is one line on stderr, and says where the right one is described."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        escape_log_lines()
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            text = " ".join(error.format_message().split()).rstrip(".")
            context = error.ctx if isinstance(error, click.UsageError) else None
            help_ = "" if context is None else f"; see `{context.command_path} --help`"
            click.echo(visible(f"error: {text[:1].lower()}{text[1:]}{help_}"), err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)


def completion_of(program: str) -> click.Command:
    """The verb that prints what lets a shell complete the verbs, options and values of ``program``."""

    @click.command(short_help="Let your shell complete what you type")
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        from click.shell_completion import get_completion_class

        kind = get_completion_class(shell)
        assert kind is not None
        script = kind(context.find_root().command, {}, program, f"_{program.upper()}_COMPLETE").source()
        click.echo(script.strip())

    completion.help = f"""Print a script for SHELL, with which the tab key completes commands, options and values.

    It goes into a file that your shell reads at its start, or where it looks for such scripts, as in the examples.
    `{program}` must be found by its name: the script asks it what could come next.
    """
    return completion


def names_or_files(names: Iterable[str], incomplete: str) -> list[Any]:
    """What completes a word that is one of ``names`` or a file."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    # Bash forgets the others where it is told to look for files, too.
    return found or [CompletionItem(incomplete, type="file")]
