"""The verbs as they are called from the command line: what they say, and what they refuse in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from local_server import LocalServer
from shares import S3, Between, bring, contents, fingerprint, sealed

from ecgstore import IngestSettings, Record, Statement, Terms, cli, open_store, write_records
from ecgstore.sharing import copy, diff, log, pull, push, remote, repair, tags, withdraw
from ecgstore.sharing.folder import FolderTarget
from ecgstore.storage import layout, manifest

FREE = Terms(name="made", version="1", licence="CC0-1.0", redistributable=True)


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def refusal(*words: object) -> str:
    """The one line that a command ends with."""
    done = run(*words)
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def answer(*words: object) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return dict(json.loads(done.stdout.splitlines()[-1]))


def record(i: int, *, code: str = "NORM", scale: float = 1.0, fold: int = 1) -> Record:
    signal_mv_lt = scale * np.sin(np.arange(1000, dtype=np.float32)[None] / (10 + i))
    return Record(
        f"r{i}", ("II",), 100.0, signal_mv_lt, fold=fold, patient_id=f"p{i}", statements=(Statement(code, "s"),)
    )


def made(out: Path, records: list[Record], terms: Terms = FREE, **settings: Any) -> Path:
    settings.setdefault("patient_key", "public")
    write_records(out, records, IngestSettings(profile="raw", **settings), terms=terms)
    return out


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The second has r0 with other samples, r1 with another code, r2 in another fold, r3 no more, and r4."""
    folder = tmp_path_factory.mktemp("versions")
    first = made(folder / "v1.ecg", [record(i) for i in range(4)])
    others = [record(0, scale=0.5), record(1, code="AF"), record(2, fold=2), record(4)]
    return first, made(folder / "v2.ecg", others)


def test_two_teams_share_a_store(mini_store: Path, tmp_path: Path, at_s3: S3) -> None:
    for url in (f"{tmp_path}/share", f"file://{tmp_path}/other", f"{at_s3.bucket()}/ptbxl"):
        pushed = answer("push", mini_store, f"{url}@v1")
        assert pushed["fingerprint"] == fingerprint(mini_store)
        assert (pushed["tag"], pushed["tag_moved"], pushed["sent"]) == ("v1", True, 11)
        assert "main means" in run("tag", url, "main", fingerprint(mini_store)).stdout
        (version,) = answer("remote", url)["versions"]
        assert (version["tags"], version["sealed"], version["withdrawn"]) == (["main", "v1"], True, False)
        assert version["n_bytes"] == sum(map(len, contents(mini_store).values()))
        (entry,) = answer("log", f"{url}@v1")["entries"]
        assert (entry["number"], entry["fingerprint"], entry["previous"]) == (0, fingerprint(mini_store), None)
        assert entry["modified"].startswith("20")
        dest = tmp_path / f"from-{len(list(tmp_path.iterdir()))}"
        assert answer("pull", url, dest, "--expect", fingerprint(mini_store))["fetched"] == 11
        assert contents(dest) == contents(mini_store)
        assert open_store(dest).verify(deep=True) == []
        assert "the same store" in run("diff", f"{url}@v1", dest).stdout


def test_a_web_server_is_read(mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

        def list_directory(self, _: Any) -> None:
            self.send_error(404)

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    push(mini_store, f"{tmp_path}/share@v1")
    server = LocalServer(Handler)
    url = f"{server.address}/share"
    assert pull(f"{url}@v1", tmp_path / "a").fetched == 11
    assert contents(tmp_path / "a") == contents(mini_store)
    assert [one.fingerprint for one in log(f"{url}@v1")] == [fingerprint(mini_store)]
    found = remote(f"{url}@v1")
    assert (found.complete, found.tags) == (False, {"v1": fingerprint(mini_store)})
    assert diff(f"{url}@v1", mini_store).same
    assert "no tag main" in refusal("pull", url, tmp_path / "b")
    assert "no share" in refusal("pull", f"{server.address}/nothing@v1", tmp_path / "b")
    assert "only be read from" in refusal("push", mini_store, f"{url}@v1")
    server.shutdown()
    server.server_close()


def test_a_tag_moves_forth_and_back(versions: tuple[Path, Path], tmp_path: Path) -> None:
    v1, v2 = versions
    url = f"{tmp_path}/share"
    for store in versions:
        push(store, url)
    assert "moved by somebody else" in refusal("tag", url, "main", fingerprint(v1), "--from", fingerprint(v1))
    done = answer("tag", url, "main", fingerprint(v1), "--from", fingerprint(v2))
    assert (done["previous"], done["moved"]) == (fingerprint(v2), True)
    assert answer("tag", url, "main", fingerprint(v1))["moved"] is False
    assert [one.fingerprint for one in log(url)] == [fingerprint(v1), fingerprint(v2), fingerprint(v1)]
    assert "no version" in refusal("tag", url, "main", "a" * 64)
    assert "no fingerprint" in refusal("tag", url, "main", "abc")
    assert "no tag can be called so" in refusal("tag", url, "a/b", fingerprint(v1))
    assert "behind the address" in refusal("tag", f"{url}@main", "main", fingerprint(v1))
    assert "no share" in refusal("tag", f"{tmp_path}/nothing", "main", fingerprint(v1))
    assert not (tmp_path / "nothing").exists()


def test_a_difference_is_told(versions: tuple[Path, Path], tmp_path: Path) -> None:
    v1, v2 = versions
    for store in versions:
        push(store, f"{tmp_path}/share@{store.stem}")
    found = diff(f"{tmp_path}/share@v1", v2)
    assert (found.records_added, found.records_removed, found.records_changed) == (("r4",), ("r3",), ("r0",))
    assert found.columns["fold"] == 1
    assert found.statements_changed == 1
    assert found.counts["records"] == (4, 4)
    assert found.counts["hours"][0] == pytest.approx(4 * 10 / 3600, abs=1e-3)
    assert found.settings["vocabulary.s"] == (["NORM"], ["AF", "NORM"])
    assert not found.same
    assert found.objects_equal + len(found.objects_changed) + len(found.objects_removed) == len(
        manifest.load(v1).objects
    )
    said = run("diff", v1, v2).stdout
    assert "1 added: r4" in said
    assert "1 removed: r3" in said
    assert diff(v1, v1).same
    assert diff(v1, v1).columns == {}
    told = answer("diff", f"{tmp_path}/share@{fingerprint(v1)}", v1)
    assert told["same"] is True
    assert "there is no store" in refusal("diff", v1, tmp_path / "nothing")


def test_what_is_damaged_is_fetched_and_nothing_else(mini_store: Path, tmp_path: Path) -> None:
    url = f"{tmp_path}/share"
    push(mini_store, f"{url}@v1")
    store = shutil.copytree(mini_store, tmp_path / "store")
    other = tmp_path / "other"  # it shares its files with the store
    shutil.copytree(store, other, copy_function=lambda old, new: Path(new).hardlink_to(old))
    shard = bytearray((store / "signal/c/0/0").read_bytes())
    shard[100] ^= 1
    (store / "signal/c/0/0").write_bytes(shard)
    (store / "records.parquet").unlink()
    (store / "zarr.json").unlink()
    (store / "zarr.json").symlink_to(tmp_path / "elsewhere")
    was = contents(other)
    done = answer("repair", store, "--from", url)
    assert done["objects"] == ["records.parquet", "signal/c/0/0", "zarr.json"]
    assert contents(store) == contents(mini_store)
    assert contents(other) == was
    assert not (store / "zarr.json").is_symlink()
    assert repair(store, url).objects == ()
    (store / layout.MANIFEST).write_text("{}")
    assert "not the manifest" in refusal("repair", store, "--from", url)
    assert answer("repair", store, "--from", f"{url}@v1")["manifest_too"] is True
    assert contents(store) == contents(mini_store)


def test_a_repair_that_finds_other_bytes_changes_nothing(mini_store: Path, tmp_path: Path) -> None:
    url = f"{tmp_path}/share"
    push(mini_store, url)
    FolderTarget(tmp_path / "share").put(f"versions/{fingerprint(mini_store)}/signal/c/0/0", b"other")
    store = shutil.copytree(mini_store, tmp_path / "store")
    (store / "signal/c/0/0").write_bytes(b"damaged")
    before = contents(store)
    assert "size that was sealed" in refusal("repair", store, "--from", url)
    assert contents(store) == before
    assert "another version" in refusal("repair", store, "--from", f"{url}@{'a' * 64}")
    assert "no share" in refusal("repair", store, "--from", f"{tmp_path}/nothing")
    assert "there is no store" in refusal("repair", tmp_path / "nothing", "--from", url)


def test_a_share_is_copied(versions: tuple[Path, Path], tmp_path: Path, at_s3: S3) -> None:
    v1, v2 = versions
    there, here = f"{at_s3.bucket()}/share", f"{tmp_path}/share"
    push(v1, f"{there}@v1")
    push(v2, f"{there}@v2")
    done = answer("copy", there, here, "--only", "v2")
    assert [one["tag"] for one in done["tags"]] == ["v2"]
    assert remote(here).tags == {"v2": fingerprint(v2)}
    copy(there, here)
    assert remote(here).tags == {"v1": fingerprint(v1), "v2": fingerprint(v2)}
    assert all(one.sent == 0 for one in copy(there, here).tags)
    for store in versions:
        pull(f"{here}@{store.stem}", tmp_path / store.stem)
        assert contents(tmp_path / store.stem) == contents(store)
    push(v2, f"{here}@v1")
    assert "never meant" in refusal("copy", there, here)
    assert "no tag v9" in refusal("copy", there, here, "--only", "v9")
    assert "no share" in refusal("copy", f"{tmp_path}/nothing", here)


def test_withdrawals_come_along_and_remove_nothing(versions: tuple[Path, Path], tmp_path: Path) -> None:
    v1, v2 = versions
    there, here, new = (f"{tmp_path}/{name}" for name in ("there", "here", "new"))
    push(v1, f"{there}@v1")
    push(v2, f"{there}@v2")
    copy(there, here)
    withdraw(FolderTarget(Path(there)), [fingerprint(v1)])
    done = copy(there, here)
    assert (done.skipped, done.withdrawn_but_here) == (["v1"], [fingerprint(v1)])
    assert remote(here).tags["v1"] == fingerprint(v1)
    copy(there, new)
    assert "was withdrawn" in refusal("push", v1, f"{new}@v1")
    states = {one.fingerprint: (one.withdrawn, one.sealed) for one in remote(there).versions}
    assert states == {fingerprint(v1): (True, False), fingerprint(v2): (False, True)}
    assert "withdrawn" in run("log", f"{there}@v1").stdout
    assert "withdrawn" in run("remote", there).stdout


# --- terms --------------------------------------------------------------------------------------------------------


BOUND = Terms(name="hospital", version="1", licence="as agreed", redistributable=False)


def test_a_source_that_may_not_be_passed_on_is_refused(tmp_path: Path) -> None:
    store = made(tmp_path / "store", [record(0)], BOUND, patient_key="a long secret of our own")
    url = f"{tmp_path}/share"
    assert "may not be passed on" in refusal("push", store, url)
    assert not (tmp_path / "share").exists()
    answer("push", store, url, "--private-target")
    assert "may not be passed on" in refusal("copy", url, f"{tmp_path}/other")
    answer("copy", url, f"{tmp_path}/other", "--private-target")


def test_a_public_key_for_patients_of_such_a_source_is_refused(tmp_path: Path) -> None:
    store = made(tmp_path / "store", [record(0)], BOUND)
    for words in ((), ("--private-target",)):
        refusal("push", store, f"{tmp_path}/share", *words)
    assert "ECGSTORE_PATIENT_KEY" in refusal("push", store, f"{tmp_path}/share", "--private-target")
    nobody = [Record("r0", ("II",), 100.0, record(0).signal_mv_lt)]  # no patient is named, so none can be found
    answer("push", made(tmp_path / "nobody", nobody, BOUND), f"{tmp_path}/share", "--private-target")


def test_what_seems_to_name_somebody_is_refused(tmp_path: Path) -> None:
    odd = [record(0), Record("born 1961-03-14", ("II",), 100.0, record(1).signal_mv_lt)]
    store = made(tmp_path / "store", odd)
    line = refusal("push", store, f"{tmp_path}/share")
    assert "records.record_id" in line
    assert "1961" not in line
    assert "records.record_id" in refusal("push", store, f"{tmp_path}/share", "--private-target")
    answer("push", store, f"{tmp_path}/share", "--findings-are-harmless")


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda store, url: ("pull", f"{url}@v9", "new"), "there is no tag v9"),
        (lambda store, url: ("pull", f"{url}@{'a' * 64}", "new"), "no version"),
        (lambda store, url: ("pull", url, "new", "--expect", "a" * 32), "not the version that you expect"),
        (lambda store, url: ("pull", "https://me:pw@host/x", "new"), "a user or a password"),
        (lambda store, url: ("pull", "https://host/x?X-Amz-Signature=pw", "new"), "query"),
        (lambda store, url: ("pull", url, "new", "--base", "s3://a/b"), "folder of this machine"),
        (lambda store, url: ("pull", url, "s3://a/b"), "folder of this machine"),
        (lambda store, url: ("push", store, "gs://a/b"), "not supported yet"),
        (lambda store, url: ("push", store, "hf://a/b"), "no dataset in the address"),
        (lambda store, url: ("push", "new", url), "there is no store"),
        (lambda store, url: ("push", store, "s3://no-such-bucket/x"), "no such bucket"),
        (lambda store, url: ("remote", "s3://no-such-bucket/x"), "no such bucket"),
        (lambda store, url: ("log", f"{url}@v9"), "there is no tag v9"),
        (lambda store, url: ("remote", "nothing"), "there is no share"),
        (lambda store, url: ("repair", "s3://a/b", "--from", url), "folder of this machine"),
    ],
)
def test_bad_input_is_one_line(
    versions: tuple[Path, Path],
    tmp_path: Path,
    at_s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    words: Callable[[Path, str], tuple[object, ...]],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    push(versions[0], "share")
    line = refusal(*words(versions[0], "share"))
    assert said in line
    assert "pw" not in line
    assert not (tmp_path / "new").exists()
    assert tags.resolve(FolderTarget(tmp_path / "share"), "main") == fingerprint(versions[0])


def test_whoever_has_no_right_is_told_so(
    versions: tuple[Path, Path], tmp_path: Path, at_s3: S3, between: Between
) -> None:
    url = f"{at_s3.bucket()}/share"
    push(versions[0], url)
    dest = tmp_path / "new"
    out = tmp_path / "out"
    between.fault = lambda *_: 403
    for words in (
        ("push", versions[1], url),
        ("pull", url, dest),
        ("remote", url),
        ("tag", url, "v9", fingerprint(versions[0])),
        ("withdraw", versions[0], out, "--record", "r1", "--push", url),
    ):
        assert "AWS_ACCESS_KEY_ID" in refusal(*words)
    # Who may only read: nothing is made that could not be shared afterwards.
    between.fault = lambda method, *_: None if method in ("GET", "HEAD") else 403
    for words in (("push", versions[1], url), ("withdraw", versions[0], out, "--record", "r1", "--push", url)):
        assert "AWS_ACCESS_KEY_ID" in refusal(*words)
    assert not dest.exists()
    assert not out.exists()
    # Who may not delete takes a version back all the same, and is told what is left to do.
    between.fault = lambda method, *_: 403 if method in ("DELETE", "POST") else None
    assert "AWS_ACCESS_KEY_ID" in refusal("withdraw", versions[0], out, "--record", "r1", "--push", url)
    assert "was withdrawn" in refusal("pull", f"{url}@{fingerprint(versions[0])}", dest)
    between.fault = lambda *_: None
    assert answer("withdraw", versions[0], out, "--record", "r1", "--push", url)["taken_back"]["objects_removed"] > 0


def test_what_is_there_or_withdrawn_or_no_store_is_one_line(
    versions: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1, v2 = versions
    url = f"{tmp_path}/share"
    for store in versions:
        push(store, f"{url}@{store.stem}")
    before = contents(tmp_path / "share")
    (tmp_path / "taken").mkdir()
    assert "something else is there" in refusal("pull", f"{url}@v1", tmp_path / "taken")
    assert "something else is there" in refusal("pull", f"{url}@v1", v2)
    part = shutil.copytree(v1, tmp_path / "part")
    (part / layout.MANIFEST).unlink()
    assert "not sealed" in refusal("push", part, url) or "never" in refusal("push", part, url)
    room = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: room._replace(free=10))
        assert "too little space" in refusal("pull", f"{url}@v1", tmp_path / "new")
    assert "moved by somebody else" in refusal("tag", url, "v1", fingerprint(v2), "--from", fingerprint(v2))
    assert contents(tmp_path / "share") == before
    assert not (tmp_path / "new").exists()
    withdraw(FolderTarget(Path(url)), [fingerprint(v1)])
    for words in (
        ("pull", f"{url}@v1", tmp_path / "new"),
        ("push", v1, f"{url}@again"),
        ("tag", url, "again", fingerprint(v1)),
        ("diff", f"{url}@v1", v2),
    ):
        assert "was withdrawn" in refusal(*words)


def test_wrong_usage_is_said(tmp_path: Path) -> None:
    for words in (("pull", "a", "b", "--expect", "abc"), ("push",), ("repair", "a"), ("tag", "a", "b")):
        assert run(*words).exit_code == 2


def test_without_a_terminal_there_is_no_progress(tmp_path: Path) -> None:
    bring(sealed(tmp_path / "v1.ecg"), tmp_path / "share")
    done = run("pull", tmp_path / "share", tmp_path / "a")
    assert (done.exit_code, done.stderr) == (0, "")
