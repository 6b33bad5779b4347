"""Nothing is written into a store, by any command and on any way: a file more, and it isn't what was sealed."""

from __future__ import annotations

import os
import shutil

import pytest
from click.testing import CliRunner
from terminal import without_progress

from ecgstore import ConfigError, IngestSettings, cli, ingest_folder, open_store, write_records
from ecgstore.sharing.caching import open_shared
from ecgstore.sharing.pushing import push
from ecgstore.storage import layout

#: By name: what is written into PLACE, out of a FOLDER, a STORE, ONE patient of it, another STORE2, and a SHARE.
COMMANDS = {
    "ingest": "ingest FOLDER PLACE --fs 100",
    "overwrite": "ingest FOLDER PLACE --fs 100 --overwrite",
    "append": "ingest FOLDER PLACE --fs 100 --append",
    "parts": "ingest FOLDER PLACE --fs 100 --parts 1/2",
    "scan_table": "ingest FOLDER OUT --fs 100 --scan-table PLACE",
    "scan": "scan FOLDER --scan-table PLACE",
    "augment": "augment STORE PLACE --noise muscle --snr 6",
    "beats": "beats STORE PLACE",
    "subset": "subset STORE PLACE --fold 1",
    "merge": "merge STORE STORE2 PLACE",
    "withdraw": "withdraw STORE PLACE --record ONE",
    "withdraw_push": "withdraw STORE PLACE --record ONE --push SHARE",
    "export_wfdb": "export STORE --wfdb PLACE",
    "export_meds": "export STORE --meds PLACE",
    "simulate": "simulate PLACE --records 1",
    "fetch": "fetch mitdb PLACE --base-url http://127.0.0.1:9/",
    "push": "push STORE PLACE",
    "pull": "pull SHARE@main PLACE",
    "copy": "copy SHARE PLACE",
}


def here(line: str, **names: object):
    arguments = [str(names.get(word, word)) for word in line.split()]
    if line.startswith("pull"):
        arguments[1] = f"{names['SHARE']}@main"
    done = CliRunner().invoke(cli.main, arguments, prog_name="ecgstore")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def room(mini, mini_store, tmp_path_factory):
    """A sealed store, all that can be made into it, and links that lead there."""
    folder = tmp_path_factory.mktemp("room")
    shutil.copytree(mini_store, folder / "outer.ecg")
    push(mini_store, str(folder / "share"), private_target=True, findings_are_harmless=True)
    (folder / "to_outer").symlink_to(folder / "outer.ecg")
    (folder / "dangling").symlink_to(folder / "outer.ecg" / "not-there" / "new.ecg")
    return {
        "FOLDER": mini,
        "STORE": mini_store,
        "STORE2": mini_store,
        "ONE": open_store(mini_store).id_of(0),
        "SHARE": folder / "share",
        "OUT": folder / "out.ecg",
        "room": folder,
    }


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_into_a_sealed_store(room, name, monkeypatch):
    monkeypatch.chdir(room["room"] / "outer.ecg" / "signal")
    before = files(room["room"])
    outer = room["room"] / "outer.ecg"
    for place in (
        outer / "new.ecg",
        outer / "not" / "there" / "yet.ecg",
        room["room"] / "to_outer" / "new.ecg",
        "new.ecg",
        "../deeper/../new.ecg",
        *([] if name in ("pull", "push", "copy") else [room["room"] / "dangling"]),
    ):
        done = here(COMMANDS[name], **room, PLACE=place)
        said = without_progress(done.stderr)
        assert (done.exit_code, said.count("\n")) == (1, 1), (place, done.stderr)
        assert said.startswith(f"error: nothing may be added to a sealed store; in {place}; expected"), said
        assert f"got within {outer}" in said
        assert files(room["room"]) == before, place


def test_arrays_and_the_cache_go_into_no_store_either(room, monkeypatch):
    outer, before = room["room"] / "outer.ecg", files(room["room"])

    def nobody():
        yield pytest.fail("a record was asked for")

    with pytest.raises(ConfigError, match="nothing may be added to a sealed store"):
        write_records(outer / "new.ecg", nobody())
    monkeypatch.setenv("ECGSTORE_CACHE_DIR", str(outer / "cache"))
    with pytest.raises(ConfigError, match="nothing may be added to a sealed store"):
        open_shared(f"{room['SHARE']}@main")
    assert files(room["room"]) == before


def test_notes_are_kept_outside(room):
    for package in ("duckdb", "starlette", "uvicorn"):
        pytest.importorskip(package)
    from ecgstore.look.view.view import open_view

    with pytest.raises(ConfigError, match="nothing may be added to a sealed store"):
        open_view(str(room["STORE"]), notes=room["room"] / "outer.ecg" / "notes.parquet")


def test_a_store_that_is_being_built_takes_in_no_other(mini, tmp_path):
    """What stands in it would be removed when it is sealed."""
    out = tmp_path / "half.ecg"
    settings = IngestSettings(fs_hz=100)
    ingest_folder(mini, out, settings, part=(1, 2))
    for place in (out / "new.ecg", out / layout.SIGNAL / "new.ecg"):
        with pytest.raises(ConfigError, match=r"nothing may be added to a store that is being built.*half\.ecg"):
            ingest_folder(mini, place, settings)
    ingest_folder(mini, out, settings, part=(2, 2))  # itself it goes on
    assert ingest_folder(mini, out, settings).records == 53


def test_a_store_may_stand_beside_another_and_take_its_own_place(mini, mini_store, tmp_path):
    shutil.copytree(mini_store, tmp_path / "outer.ecg")
    settings = IngestSettings(fs_hz=100)
    beside = tmp_path / "outer.ecg.sidecars" / ".." / "not" / "yet" / "new.ecg"
    (tmp_path / "outer.ecg.sidecars").mkdir()
    assert ingest_folder(mini, beside, settings).records == 53
    (tmp_path / "named").symlink_to(tmp_path / "not" / "yet" / "new.ecg")
    assert ingest_folder(mini, tmp_path / "named", settings, overwrite=True).records == 53
    assert open_store(tmp_path / "not" / "yet" / "new.ecg").verify() == []


def test_a_place_that_no_disk_can_name_is_told_as_that(mini, tmp_path):
    with pytest.raises(Exception, match="can't be written") as refused:
        ingest_folder(mini, tmp_path / ("x" * 300) / "new.ecg", IngestSettings(fs_hz=100))
    assert os.linesep not in str(refused.value)
