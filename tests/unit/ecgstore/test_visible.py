"""Text from elsewhere that is printed: one line, and nothing that a terminal obeys or hides."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest
from click.testing import CliRunner

from ecgstore import cli
from ecgstore.cli.printing import say_json
from ecgstore.errors import ConfigError, visible
from ecgstore.terminal import VisibleFormatter


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain", "plain"),
        ("µV – café, 心电图", "µV – café, 心电图"),
        ("a\x1b]0;T\x07b", "a\\x1b]0;T\\x07b"),
        ("\x9b5m\x7f", "\\x9b5m\\x7f"),
        ("one\ntwo\tthree\r", "one\\ntwo\\tthree\\r"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\u2028end", "line\\u2028end"),
        ("half\udc9b", "half\\udc9b"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("a\xa0b", "a\xa0b"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_an_escape(text, seen):
    assert visible(text) == seen


def test_no_control_or_format_character_comes_through():
    for code in range(0x11000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert visible(chr(code)).isascii()


def test_errors_and_log_lines_are_one_visible_line():
    assert str(ConfigError("no record", where="a\nb", got="\x1b[2J")) == "no record; in a\\nb; got \\x1b[2J"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "left out: %s", ("\x1b[2J\n",), None)
    assert VisibleFormatter().format(record) == "left out: \\x1b[2J\\n"


def test_json_stays_json(capsys):
    say_json({"id": "\x1b\x7f\x9b\u202e"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.rstrip("\n").isprintable()
    assert json.loads(printed) == {"id": "\x1b\x7f\x9b\u202e"}


def test_wrong_usage_is_visible_as_well(tmp_path):
    for words in (["records", str(tmp_path / "\x1b[2J.ecg")], ["\x1b[2J"], ["info", "x", "--\x1b[2J"]):
        done = CliRunner().invoke(cli.main, words)
        assert done.exit_code in (1, 2)
        assert "\x1b" not in done.output
        assert done.output.count("\n") == 1
