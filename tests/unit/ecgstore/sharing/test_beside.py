"""What goes with a version: card, Croissant and sidecars are sent, searched, fetched and removed with it."""

from __future__ import annotations

import json
import os
import shutil
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from local_server import LocalServer
from shares import S3, contents, fingerprint

from ecgstore import IngestSettings, Record, StoreError, Terms, cli, open_store, split_records, write_records
from ecgstore.errors import StoreWithdrawn
from ecgstore.look.scrub import scrub_check
from ecgstore.sharing import beside as sharing_beside
from ecgstore.sharing import copy, notes, pull, push, tags, versions, withdraw
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.folder import FolderTarget
from ecgstore.sharing.opening import open_writable
from ecgstore.sharing.terms import TermsRefused
from ecgstore.storage.beside import CardSettings, write_card
from ecgstore.storage.manifest import ObjectHash, hash_bytes
from ecgstore.storage.sidecar_tables import ABOUT
from ecgstore.storage.sidecars import add_sidecar

IDS = ["rec0", "rec1", "rec2"]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a card, columns, annotations and folds beside it."""
    out = tmp_path_factory.mktemp("beside") / "ward.ecg"
    signals = [np.sin(np.arange(500, dtype=np.float32)[None] / (10 + i)) for i in range(3)]
    records = [Record(one, ("II",), 100.0, signals[i], fold=1, patient_id=f"p{i}") for i, one in enumerate(IDS)]
    terms = Terms(name="made", version="1", licence="CC0-1.0", redistributable=True)
    write_records(out, records, IngestSettings(profile="raw", patient_key="public"), terms=terms)
    store = open_store(out)
    write_card(out, CardSettings(title="Ward A", contact="data@ward.example"))
    add_sidecar(store, pa.table({"record_id": IDS, "troponin": [0.5, 1.5, 2.5]}), "troponin")
    add_sidecar(store, pa.table({"record_id": ["rec1", "rec1"], "sample": [3, 9]}), "marks")
    split_records(store, folds=3).write(out.parent / "three.parquet")
    add_sidecar(store, out.parent / "three.parquet", "folds")
    return out


@pytest.fixture
def ward(built: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(f"{built}.sidecars", tmp_path / "ward.ecg.sidecars")
    return shutil.copytree(built, tmp_path / "ward.ecg")


def cards_of(share: Path, store: Path) -> Path:
    return share / "cards" / fingerprint(store)


ALL = ("card.yaml", "folds.parquet", "marks.parquet", "troponin.parquet")


def test_they_go_with_the_version(built: Path, tmp_path: Path, at_s3: S3) -> None:
    for url in (f"{tmp_path}/share", f"{at_s3.bucket()}/ward"):
        pushed = push(built, f"{url}@v1")
        assert pushed.beside == (*ALL, "card.md", "croissant.json")
        assert push(built, f"{url}@v1").beside == ()
        dest = tmp_path / f"pulled-{len(list(tmp_path.iterdir()))}"
        pulled = pull(f"{url}@v1", dest)
        assert (pulled.beside, pulled.notes) == (ALL, ())
        assert contents(Path(f"{dest}.sidecars")) == contents(Path(f"{built}.sidecars"))
        assert contents(dest) == contents(built)
        store = open_store(dest)
        assert store.sidecar("troponin")["troponin"].to_pylist() == [0.5, 1.5, 2.5]
        assert store.verify(deep=True) == []
    there = cards_of(tmp_path / "share", built)
    assert sorted(path.name for path in there.iterdir()) == sorted([*ALL, "card.md", "croissant.json", "index.json"])
    assert (there / "card.md").read_text().startswith("# Ward A\n")
    way = json.loads((there / "croissant.json").read_text())["distribution"][0]["contentUrl"]
    assert (there / way).resolve().is_file()


def test_a_card_is_made_where_nobody_said_anything(mini_store: Path, tmp_path: Path) -> None:
    assert push(mini_store, str(tmp_path / "share")).beside == ("card.md", "croissant.json")
    pulled = pull(str(tmp_path / "share"), tmp_path / "a")
    assert (pulled.beside, pulled.notes, (tmp_path / "a.sidecars").exists()) == ((), (), False)


def test_what_others_pushed_stays_and_what_is_newer_takes_its_place(built: Path, ward: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    push(built, str(share))
    bare = shutil.copytree(built, tmp_path / "bare.ecg")
    assert push(bare, str(share)).beside == ()
    assert (cards_of(share, built) / "card.md").read_text().startswith("# Ward A\n")
    shutil.rmtree(f"{ward}.sidecars")
    write_card(ward, CardSettings(title="Ward B"))
    assert push(ward, str(share)).beside == ("card.yaml", "card.md", "croissant.json")
    pull(str(share), tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a.sidecars").iterdir()) == sorted(ALL)
    assert "Ward B" in (tmp_path / "a.sidecars/card.yaml").read_text()


def test_what_is_here_already_stays(built: Path, tmp_path: Path) -> None:
    push(built, f"{tmp_path}/share")
    pull(f"{tmp_path}/share", tmp_path / "a")
    (tmp_path / "a.sidecars/card.yaml").write_text("title: mine\n")
    (tmp_path / "a.sidecars/marks.parquet").unlink()
    again = pull(f"{tmp_path}/share", tmp_path / "a")
    assert (again.already_there, again.beside) == (True, ("marks.parquet",))
    (note,) = again.notes
    assert "card.yaml is another one here" in note
    assert (tmp_path / "a.sidecars/card.yaml").read_text() == "title: mine\n"


def test_a_share_is_copied_with_them(built: Path, tmp_path: Path) -> None:
    push(built, f"{tmp_path}/share@v1")
    (cards_of(tmp_path / "share", built) / "marks.parquet").write_bytes(b"PAR1")
    done = copy(f"{tmp_path}/share", f"{tmp_path}/mirror")
    assert done.tags[0].beside == ("card.yaml", "folds.parquet", "troponin.parquet", "card.md", "croissant.json")
    (note,) = done.notes
    assert "marks.parquet was left out" in note
    assert pull(f"{tmp_path}/mirror@v1", tmp_path / "a").beside == ("card.yaml", "folds.parquet", "troponin.parquet")


def test_they_are_read_from_a_web_server(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    push(built, f"{tmp_path}/share@v1")
    server = LocalServer(Handler)
    assert pull(f"{server.address}/share@v1", tmp_path / "a").beside == ALL
    server.shutdown()
    server.server_close()


def test_they_are_withdrawn_with_the_version(built: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    push(built, str(share))
    assert withdraw(FolderTarget(share), [fingerprint(built)]).objects_removed == len(open_store(built).objects) + 7
    assert not cards_of(share, built).exists()


def test_a_version_that_is_withdrawn_while_its_sidecars_are_sent_keeps_none(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    real = sharing_beside._cards

    def cards(*args: Any) -> Any:
        withdraw(FolderTarget(share), [fingerprint(built)])
        return real(*args)

    monkeypatch.setattr(sharing_beside, "_cards", cards)
    with pytest.raises(StoreWithdrawn):
        push(built, str(share))
    assert not cards_of(share, built).exists()
    assert not versions.is_sealed(FolderTarget(share), fingerprint(built))
    assert tags.current(FolderTarget(share), "main") is None


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"seen": ["1961-03-14", "", ""]}, "date"),
        ({"number": [1, 2, 73915528]}, "long number"),
        ({"number": [1.0, float("nan"), 73915528.0]}, "long number"),
        ({"day": [19610314, 20010101, 1]}, "date"),
        ({"asked anna@ward.example": [1, 2, 3]}, "e-mail address"),
        ({"words": ["she was sent home because of her own wish", "", ""]}, "free text"),
    ],
)
def test_what_seems_to_name_somebody_is_refused(ward: Path, tmp_path: Path, columns: dict[str, Any], kind: str) -> None:
    add_sidecar(open_store(ward), pa.table({"record_id": IDS, **columns}), "extra")
    assert [(one.where.partition(",")[0], one.kind) for one in scrub_check(open_store(ward))] == [
        ("sidecar extra", kind)
    ]
    done = CliRunner().invoke(cli.main, ["push", str(ward), f"{tmp_path}/share"])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert f"({kind})" in line
    assert "scrub-check" in line
    assert not (tmp_path / "share").exists()
    push(ward, f"{tmp_path}/share", findings_are_harmless=True)
    with pytest.raises(TermsRefused, match="sidecar extra"):
        copy(f"{tmp_path}/share", f"{tmp_path}/other")
    assert tags.current(FolderTarget(tmp_path / "other"), "main") is None


def test_metadata_of_a_split_table_is_searched_too(ward: Path, tmp_path: Path) -> None:
    path = Path(f"{ward}.sidecars/folds.parquet")
    table = pq.ParquetFile(path).read()
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"pandas": b'{"by": "anna@ward.example"}'}), path
    )
    with pytest.raises(TermsRefused, match="metadata"):
        push(ward, f"{tmp_path}/share")


def test_ordinary_numbers_are_no_finding(built: Path) -> None:
    assert scrub_check(open_store(built)) == ()


def hostile(built: Path, share: Path, files: dict[str, bytes], index: Any = None) -> None:
    """A share whose version goes with files from a stranger."""
    push(built, str(share))
    there = cards_of(share, built)
    for name, content in files.items():
        (there / name).write_bytes(content)
    stated = {name: [len(content), hash_bytes(content).sha256] for name, content in files.items()}
    said = {"format": "ecgstore-share", "files": stated} if index is None else index
    (there / "index.json").write_text(json.dumps(said))


def other_table(**about: object) -> bytes:
    sink = pa.BufferOutputStream()
    said = {"format": "ecgstore sidecar", "version": 1, "store_fingerprint": "0" * 64} | about
    table = pa.table({"record_id": ["rec0"], "a": [1]})
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(said).encode()}), sink)
    return bytes(sink.getvalue())


def test_files_of_a_stranger_are_left_out(built: Path, tmp_path: Path) -> None:
    good = Path(f"{built}.sidecars/troponin.parquet").read_bytes()
    files = {
        "good.parquet": good,
        "other.parquet": other_table(),
        "junk.parquet": b"PAR1 is not enough PAR1",
        "late.parquet": other_table(version=9),
        "card.yaml": b"title: [&a 1, *a]\n",
    }
    hostile(built, tmp_path / "share", files)
    done = pull(f"{tmp_path}/share", tmp_path / "a")
    assert done.beside == ("good.parquet",)
    assert sorted(note.split()[0] for note in done.notes) == sorted(set(files) - {"good.parquet"})
    assert [path.name for path in (tmp_path / "a.sidecars").iterdir()] == ["good.parquet"]
    assert contents(tmp_path / "a") == contents(built)


@pytest.mark.parametrize("damage", ["gone", "longer", "other"])
def test_files_that_are_not_those_that_were_listed_are_left_out(built: Path, tmp_path: Path, damage: str) -> None:
    share = tmp_path / "share"
    push(built, str(share))
    path = cards_of(share, built) / "troponin.parquet"
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content + b"0" if damage == "longer" else content[:-1] + b"0")
    done = pull(str(share), tmp_path / "a")
    assert done.beside == ("card.yaml", "folds.parquet", "marks.parquet")
    (note,) = done.notes
    assert note.startswith("troponin.parquet")
    assert push(built, str(share)).beside == ("troponin.parquet",)


SHA = "a" * 64


@pytest.mark.parametrize(
    "index",
    [
        [],
        {"format": "ecgstore-share", "files": []},
        {"format": "ecgstore-share", "files": {}, "more": 1},
        {"format": "another", "files": {}},
        *(
            {"format": "ecgstore-share", "files": {name: [1, SHA]}}
            for name in (
                "../x.parquet",
                "/x.parquet",
                "a/b.parquet",
                "A.parquet",
                ".parquet",
                "x.new",
                "index.json",
                "",
            )
        ),
        *(
            {"format": "ecgstore-share", "files": {"a.parquet": pair}}
            for pair in ([-1, SHA], [1.5, SHA], [True, SHA], [1, "a"], [1], "a", [2**62, SHA])
        ),
        {"format": "ecgstore-share", "files": {"card.yaml": [2**30, SHA]}},
        {"format": "ecgstore-share", "files": {f"a{i}.parquet": [1, SHA] for i in range(101)}},
        {"format": "ecgstore-share", "files": {}, "long": "x" * (64 << 10)},
    ],
)
def test_a_list_of_a_stranger_is_refused(built: Path, tmp_path: Path, index: Any) -> None:
    hostile(built, tmp_path / "share", {}, index)
    before = {path.name for path in tmp_path.iterdir()}
    done = pull(f"{tmp_path}/share", tmp_path / "a")
    (note,) = done.notes
    assert note.startswith("the card and the sidecars were left out: ")
    assert {path.name for path in tmp_path.iterdir()} - before == {"a"}


def test_a_folder_of_sidecars_that_is_a_link_is_not_followed(built: Path, tmp_path: Path) -> None:
    push(built, f"{tmp_path}/share")
    (tmp_path / "mine").mkdir()
    (tmp_path / "a.sidecars").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match="where a folder should be"):
        pull(f"{tmp_path}/share", tmp_path / "a")
    assert contents(tmp_path / "mine") == {}


def test_the_list_is_read_as_it_was_written() -> None:
    files = {"a.parquet": ObjectHash(3, SHA), "card.yaml": ObjectHash(0, SHA)}
    assert notes.parse_index(notes.index(files), "x") == files


def test_in_a_bucket_nothing_is_left_either(built: Path, at_s3: S3) -> None:
    url = f"{at_s3.bucket()}/ward"
    push(built, url)
    there = open_writable(parse_address(url))
    withdraw(there, [fingerprint(built)])
    assert {name.partition("/")[0] for name in there.listed("")} == {"ecgstore-share.json", "tags", "withdrawn"}
