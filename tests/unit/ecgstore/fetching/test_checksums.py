"""A folder against its SHA256SUMS.txt: every way a file can differ, and lists that must not be believed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ecgstore.errors import SourceError
from ecgstore.fetching import checksums


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FILES = {
    f"records/{i:02d}/r{i}{suffix}": f"{i}{suffix}".encode() * 1000 for i in range(6) for suffix in (".hea", ".dat")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    write_list(root, "".join(f"{sha(content)} {name}\n" for name, content in FILES.items()))
    return root


def write_list(root: Path, text: str) -> None:
    (root / "SHA256SUMS.txt").write_bytes(text.encode())


def test_a_whole_folder_is_found_whole(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    check = checksums.verify_source(folder, progress=lambda done, total: seen.append((done, total)))
    assert check.ok
    assert check.checked == len(FILES)
    assert (check.missing, check.different, check.not_listed) == ((), {}, ())
    assert seen == [(i, len(FILES)) for i in range(1, len(FILES) + 1)]


def test_each_kind_of_difference_is_told(folder: Path) -> None:
    (folder / "records/00/r0.dat").unlink()
    changed = folder / "records/01/r1.dat"
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    (folder / "records/02/r2.dat").unlink()
    (folder / "records/02/r2.dat").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "records/03/r3.dat.partial").write_text("half")
    (folder / ".fetch.jsonl").write_text("{}\n")
    check = checksums.verify_source(folder)
    assert not check.ok
    assert check.missing == ("records/00/r0.dat",)
    stated = sha(FILES["records/01/r1.dat"])
    assert check.different == {
        "records/01/r1.dat": f"sha256 {sha(changed.read_bytes())[:12]}…, stated {stated[:12]}…",
        "records/02/r2.dat": "not a file",
    }
    assert check.not_listed == ("notes.txt",)


def test_a_stranger_alone_is_no_error(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    check = checksums.verify_source(folder)
    assert check.ok
    assert check.not_listed == ("notes.txt",)


def test_only_the_named_files_are_looked_at(folder: Path) -> None:
    (folder / "records/00/r0.dat").unlink()
    check = checksums.verify_source(folder, names=["records/01/r1.hea", "records/01/r1.dat", "elsewhere.dat"])
    assert check.ok
    assert check.checked == 3
    assert check.not_listed == ("elsewhere.dat",)


def test_bad_files_says_what_and_why(folder: Path) -> None:
    sums = checksums.load_sums(folder)
    assert checksums.bad_files(folder, FILES, sums) == {}
    (folder / "records/00/r0.dat").unlink()
    (folder / "records/01/r1.dat").write_bytes(b"")
    secret = folder.parent / "secret"
    secret.write_text("x")
    bad = checksums.bad_files(folder, [*FILES, "../secret", "new.hea"], sums)
    assert bad == {
        "records/00/r0.dat": "missing",
        "records/01/r1.dat": f"sha256 {sha(b'')[:12]}…, stated {sums['records/01/r1.dat'][:12]}…",
        "../secret": "not listed",
        "new.hea": "not listed",
    }


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(folder: Path) -> None:
    (folder / "records/00/r0.dat").chmod(0)
    assert checksums.bad_files(folder, ["records/00/r0.dat"], checksums.load_sums(folder)) == {
        "records/00/r0.dat": "can't be read: Permission denied"
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_the_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "records/00/r0.dat").unlink()
    os.mkfifo(folder / "records/00/r0.dat")
    assert checksums.verify_source(folder).different == {"records/00/r0.dat": "not a file"}


@pytest.mark.parametrize(
    "spelling",
    [
        "{sha} {name}\n",
        "{sha}  {name}\n",
        "{sha} *{name}\n",
        "{sha} ./{name}\r\n",
        "{SHA}\t{name}\n\n",
        "\ufeff{sha} {name}\n",
    ],
    ids=["physionet", "sha256sum", "binary", "dot-crlf", "upper-blank-line", "bom"],
)
def test_spellings_of_a_line(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "a b.dat").write_bytes(b"x")
    write_list(tmp_path, spelling.format(sha=sha(b"x"), SHA=sha(b"x").upper(), name="a b.dat"))
    assert checksums.load_sums(tmp_path) == {"a b.dat": sha(b"x")}
    assert checksums.verify_source(tmp_path).ok


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_a_list_by_sha256sum_itself(folder: Path) -> None:
    (folder / "SHA256SUMS.txt").unlink()
    with pytest.raises(SourceError, match=r"no list of checksums.*sha256sum") as error:
        checksums.load_sums(folder)
    # The command that the message proposes does what it promises.
    command = str(error.value).partition("write one: ")[2]
    subprocess.run(command, shell=True, cwd=folder, check=True)
    assert checksums.load_sums(folder) == {name: sha(content) for name, content in FILES.items()}


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        ".//etc/passwd/../x",
        "..\\secret",
        "C:/x",
        "a//b",
        "a/./b",
        "a/",
        "x\0y",
        "a\x1b[2Jb",
    ],
)
def test_a_path_out_of_the_folder_refuses_the_list(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("x")
    write_list(folder, f"{sha(b'x')} fine.dat\n{sha(b'x')} {path}\n")
    with pytest.raises(SourceError, match="line 2 .* leads out of the folder") as error:
        checksums.verify_source(folder)
    assert "\x1b" not in str(error.value)
    assert "\0" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("<html><body>Please log in</body></html>\n", r"line 1 .*can't be understood.*expected <64 hex"),
        (f"{'0' * 63} a.dat\n", "line 1 "),
        (f"{'0' * 64}\n", "line 1 "),
        (f"{'g' * 64} a.dat\n", "line 1 "),
        (f"{'0' * 64} a.dat\n{'1' * 64} a.dat\n", "line 2 .*contradicts"),
        (f"{'0' * 64} a.dat\n{'x' * 500}\n", r"line 2 .*x\.\.\."),
    ],
)
def test_a_malformed_list_is_said_with_its_line(folder: Path, text: str, message: str) -> None:
    write_list(folder, text)
    with pytest.raises(SourceError, match=message) as error:
        checksums.load_sums(folder)
    assert "\n" not in str(error.value)


def test_a_list_that_is_not_text(folder: Path) -> None:
    (folder / "SHA256SUMS.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="is not text"):
        checksums.load_sums(folder)
    (folder / "SHA256SUMS.txt").unlink()
    (folder / "SHA256SUMS.txt").mkdir()
    with pytest.raises(SourceError, match="can't be read"):
        checksums.load_sums(folder)


def test_the_bundled_folder_differs_nowhere(mini: Path, tmp_path: Path) -> None:
    shutil.copytree(mini, tmp_path / "mini")
    names = [path.relative_to(mini).as_posix() for path in mini.rglob("*") if path.is_file()]
    write_list(tmp_path / "mini", "".join(f"{sha((mini / name).read_bytes())} {name}\n" for name in names))
    check = checksums.verify_source(tmp_path / "mini", workers=3)
    assert check.ok
    assert check.checked == len(names)


def test_an_interrupt_is_not_swallowed(folder: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checksums.verify_source(folder, progress=interrupt)
