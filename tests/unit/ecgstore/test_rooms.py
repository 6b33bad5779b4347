"""Names come from the list of a room; a file is run only where its user has named it."""

from __future__ import annotations

import hashlib

import pytest

from ecgstore import ConfigError, IngestSettings
from ecgstore.rooms import name_own_file, occupant, own_file_sha256


@pytest.mark.parametrize("room", ["ecgstore.signals.filters", "ecgtrain.backbones", "ecgtrain.tasks"])
def test_a_file_that_nobody_named_is_not_run(tmp_path, room):
    code = tmp_path / "notes.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    for name in (str(code), str(tmp_path / "." / "notes.py")):
        with pytest.raises(ConfigError, match="not run unless you name it yourself") as refused:
            occupant(room, name)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert own_file_sha256(str(code)) is None
    assert name_own_file(code) == own_file_sha256(str(code)) == hashlib.sha256(code.read_bytes()).hexdigest()
    occupant(room, str(code))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["", "__init__", "../sources/ptbxl", "os", "ptbxl.", "a" * 10_000, 7, None, ["x.py"]])
def test_what_is_no_name_is_one_short_line(name):
    with pytest.raises(ConfigError, match="unknown filter") as refused:
        occupant("ecgstore.signals.filters", name)
    assert len(str(refused.value)) < 500


def test_a_filter_is_no_file(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="not run unless you name it"):
        IngestSettings(filters=[{"name": str(code)}])
    assert not (tmp_path / "ran").exists()
