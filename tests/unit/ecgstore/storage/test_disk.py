"""A full disk is said as that, where it was met and with what to do, by whatever writes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from click.testing import CliRunner

from ecgstore import StoreError, open_store
from ecgstore.build import shards
from ecgstore.cli import main
from ecgstore.lineage.to_wfdb import export_wfdb
from ecgstore.look import plot, report
from ecgstore.storage import chunks, disk, layout, publish

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full(monkeypatch):
    """Nothing can be flushed to the disk any more."""

    def refuse(_):
        raise OSError(*FULL.args)

    monkeypatch.setattr(publish.os, "fsync", refuse)


def test_a_shard(tmp_path, monkeypatch):
    chunks.create(tmp_path, 2, 1000, layout.CHUNK_SAMPLES)

    def refuse(*_, **__):
        raise OSError(*FULL.args)

    monkeypatch.setattr(publish, "write_bytes", refuse)
    with pytest.raises(
        StoreError, match=r"the disk is full; in .*signal/c/0/0; make room and run the same command again"
    ):
        shards.write_counts(tmp_path, 0, np.ones((2, 1000), np.int16), layout.CHUNK_SAMPLES)


def test_a_report_and_a_picture(mini_store, tmp_path, monkeypatch, full):
    store = open_store(mini_store)
    said = "the disk is full; in {}; make room and run the same command again"
    with pytest.raises(StoreError, match=said.format(tmp_path / "r.html")):
        report.write(store, tmp_path / "r.html", 0)

    def refuse(*_, **__):
        raise OSError(*FULL.args)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refuse)
    with pytest.raises(StoreError, match=said.format(tmp_path / "p.png")):
        plot.page(store[0], tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_an_export_that_numpy_cut_short(mini_store, tmp_path, monkeypatch):
    def cut(*_, **__):
        raise OSError("24000 requested and 4096 written")

    monkeypatch.setattr(wfdb, "wrsamp", cut)
    with pytest.raises(StoreError, match="the disk is full; in .*out; make room and run the same command again"):
        export_wfdb(open_store(mini_store), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_any_other_command(mini_store, tmp_path, full):
    page = tmp_path / "card.md"
    done = CliRunner().invoke(main, ["card", str(mini_store), "--out", str(page), "--croissant", str(tmp_path / "c")])
    assert done.exit_code == 1
    assert f"error: the disk is full; in {page}; make room and run the same command again" in done.output


def test_another_error_stays_what_it_is(tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    with pytest.raises(PermissionError), disk.saying_full(Path("here")):
        raise denied
    assert "can't be written; in here; expected" not in str(disk.refusal("it can't be written", "here", denied))
    assert (
        str(disk.refusal("it can't be written", "here", denied))
        == "it can't be written; in here; got Permission denied"
    )
