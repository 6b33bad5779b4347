"""Two that write one file or folder which is no store: one's work stands there, whole, and the other is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecgstore import ConfigError, StoreExists, open_store, split_records
from ecgstore.lineage.exporting import folder_for
from ecgstore.sources._simulated import new_folder
from ecgstore.storage import publish, sidecars, splits

SOMEBODY = b"somebody else's"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_a_split_table_that_came_meanwhile_stays(
    mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = split_records(open_store(mini_store)), tmp_path / "split.parquet"
    pack = splits.Split.to_bytes

    def slowly(its: splits.Split) -> bytes:
        path.write_bytes(SOMEBODY)
        return pack(its)

    monkeypatch.setattr(splits.Split, "to_bytes", slowly)
    with pytest.raises(StoreExists, match="there is already such a file"):
        made.write(path)
    assert path.read_bytes() == SOMEBODY
    assert names_in(tmp_path) == [path.name]
    made.write(path, overwrite=True)
    assert path.read_bytes() == pack(made)


def test_a_sidecar_that_came_meanwhile_stays(mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ecg").symlink_to(mini_store)
    store, path = open_store(tmp_path / "a.ecg"), tmp_path / "a.ecg.sidecars" / "mine.parquet"
    table = pa.table({"record_id": store.column("record_id")[:2].tolist(), "x": [1, 2]})
    pack = sidecars._packed

    def slowly(*its: Any) -> bytes:
        path.parent.mkdir()
        path.write_bytes(SOMEBODY)
        return pack(*its)

    monkeypatch.setattr(sidecars, "_packed", slowly)
    with pytest.raises(StoreExists, match="there is already such a sidecar"):
        sidecars.add_sidecar(store, table, "mine")
    assert path.read_bytes() == SOMEBODY


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_is_put_only_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    path = tmp_path / "a"
    publish.write_bytes(path, b"one", replace=False)
    with pytest.raises(FileExistsError):
        publish.write_bytes(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    publish.write_bytes(path, b"three")
    assert path.read_bytes() == b"three"
    assert names_in(tmp_path) == ["a"]


def test_an_export_leaves_the_one_that_is_being_written_alone(mini_store: Path, tmp_path: Path) -> None:
    store, out = open_store(mini_store), tmp_path / "out"
    with folder_for(store, out) as aside:
        (aside / "mine").write_text("a")
        with (
            pytest.raises(StoreExists, match="another export is writing to this place right now"),
            folder_for(store, out),
        ):
            pass
        assert (aside / "mine").read_text() == "a"
    assert names_in(out) == ["mine"]
    assert names_in(tmp_path) == ["out"]


def test_a_simulated_folder_does_not_replace_one_that_came_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write() -> None:
        with new_folder(out) as aside:
            (aside / "mine").write_text("a")
            out.mkdir()
            (out / "other").write_text("b")

    with pytest.raises(ConfigError, match="there is already something at this place"):
        write()
    assert names_in(out) == ["other"]
    assert names_in(tmp_path) == ["out"]
    (out / "other").unlink()
    with new_folder(out) as aside:  # an empty folder may be taken
        (aside / "mine").write_text("a")
    assert names_in(out) == ["mine"]
