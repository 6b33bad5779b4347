"""Fetching from a real server on this machine that breaks off, lies, redirects and is slow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from quickly import quickly

from ecgstore import __version__
from ecgstore.errors import ConfigError, SourceError
from ecgstore.fetching import checksums, fetch, http
from ecgstore.fetching.http import _retry_after_s
from ecgstore.fetching.journal import Journal

pytest.importorskip("requests")

from fetch_server import BIG, FILES, Server, serving, sha


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and no proxy between this process and itself."""
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def files_in(dest: Path) -> dict[str, bytes]:
    own = ("SHA256SUMS.txt", ".fetch.jsonl")
    names = (path.relative_to(dest).as_posix() for path in dest.rglob("*") if path.is_file())
    return {name: (dest / name).read_bytes() for name in names if name not in own}


# --- the plain way ---------------------------------------------------------------------------------------------


def test_a_whole_set_arrives_and_is_said_beforehand(server: Server, tmp_path: Path) -> None:
    plans: list[fetch.FetchPlan] = []
    seen: list[tuple[int, int, int]] = []
    dest = tmp_path / "a" / "set"
    report = fetch.fetch(server.url, dest, announce=plans.append, progress=lambda *now: seen.append(now))
    assert report.ok
    assert (report.files, report.fetched, report.kept) == (len(FILES), len(FILES), 0)
    assert files_in(dest) == FILES
    assert checksums.verify_source(dest).ok
    (plan,) = plans
    assert (plan.n_records, plan.n_here, len(plan.files)) == (12, 0, len(FILES))
    assert plan.about_bytes == pytest.approx(sum(map(len, FILES.values())), rel=0.01)
    assert plan.files[:2] == ("LICENSE.txt", "table of records.csv")
    assert seen[-1] == (len(FILES), len(FILES), report.bytes_fetched)
    assert report.bytes_fetched >= sum(map(len, FILES.values()))


def test_it_is_polite(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path / "set", workers=2)
    for _, _, headers in server.requests:
        assert headers["User-Agent"].startswith(f"ecgstore/{__version__} ")
        assert headers["Accept-Encoding"] == "identity"
    assert server.most_busy <= 2
    assert len(server.clients) == 3, "one kept connection for the plan, one per thread"
    with pytest.raises(ConfigError, match="1 to 8, got 9"):
        fetch.fetch(server.url, tmp_path / "set", workers=9)


def test_a_second_call_asks_for_nothing_and_reads_nothing(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path)
    server.requests.clear()
    # A change that leaves size and time as they were is not seen: the file was indeed not read.
    victim = tmp_path / "records/00/r0.dat"
    before = victim.stat()
    victim.write_bytes(b"!" * before.st_size)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = fetch.fetch(server.url, tmp_path)
    assert (report.fetched, report.kept) == (0, len(FILES))
    assert [(verb, name) for verb, name, _ in server.requests] == [("GET", "SHA256SUMS.txt")]
    # Asked to, it reads everything and repairs what is wrong.
    report = fetch.fetch(server.url, tmp_path, recheck=True)
    assert (report.fetched, report.kept) == (1, len(FILES) - 1)
    assert files_in(tmp_path) == FILES


def test_a_file_that_was_changed_is_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path)
    (tmp_path / "records/00/r0.dat").write_bytes(b"cut")
    (tmp_path / "records/01/r1.dat").unlink()
    report = fetch.fetch(server.url, tmp_path)
    assert (report.fetched, report.kept) == (2, len(FILES) - 2)
    assert files_in(tmp_path) == FILES


def test_a_memory_that_was_torn_or_made_up_only_costs_time(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path)
    state = tmp_path / ".fetch.jsonl"
    text = state.read_text()
    state.write_text('[]\n"x"\n{"path": 3}\n\x00\xff\n' + text[:-20])
    report = fetch.fetch(server.url, tmp_path)
    assert (report.fetched, report.kept) == (0, len(FILES))
    assert {json.loads(line)["path"] for line in state.read_text().splitlines()[-1:]} <= FILES.keys()
    state.unlink()
    assert fetch.fetch(server.url, tmp_path).kept == len(FILES)


def test_files_that_were_there_before_are_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS.txt").write_bytes(server.list_of_sums())
    (tmp_path / "LICENSE.txt").write_bytes(FILES["LICENSE.txt"])
    report = fetch.fetch(server.url, tmp_path)
    assert (report.fetched, report.kept) == (len(FILES) - 1, 1)
    assert not server.asked("LICENSE.txt")


# --- parts of a set --------------------------------------------------------------------------------------------


def test_patterns_choose_and_tables_always_come_along(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path, only="records/01/*")
    top = {"LICENSE.txt", "table of records.csv"}
    assert files_in(tmp_path).keys() == top | {name for name in FILES if name.startswith("records/01/")}
    fetch.fetch(server.url, tmp_path, only=["*r2.*", "*/r3.hea"])
    assert {"records/02/r2.hea", "records/02/r2.dat", "records/00/r3.hea"} <= files_in(tmp_path).keys()
    assert "records/00/r3.dat" not in files_in(tmp_path)


def test_a_few_records_are_spread_and_more_include_them(server: Server, tmp_path: Path) -> None:
    three = fetch.plan_fetch(server.url, tmp_path, max_records=3)
    six = fetch.plan_fetch(server.url, tmp_path, max_records=6)
    assert (three.n_records, len(three.files)) == (3, 2 + 3 * 2)
    assert set(three.files) < set(six.files)
    assert three.files != fetch.plan_fetch(server.url, tmp_path).files[: len(three.files)]
    assert fetch.plan_fetch(server.url, tmp_path, max_records=99).n_records == 12
    with pytest.raises(ConfigError, match="number of records"):
        fetch.plan_fetch(server.url, tmp_path, max_records=0)


def test_a_plan_writes_nothing(server: Server, tmp_path: Path) -> None:
    fetch.plan_fetch(server.url, tmp_path / "set")
    assert not (tmp_path / "set").exists()


# --- when things go wrong on the way -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["break off", "reset"])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, fault: str) -> None:
    server.files["big.dat"] = BIG
    server.faults["big.dat"] = [fault, fault]
    report = fetch.fetch(server.url, tmp_path)
    assert report.ok
    assert (tmp_path / "big.dat").read_bytes() == BIG
    first, second, third = server.asked("big.dat")
    assert "Range" not in first
    begins = [int(headers["Range"].removeprefix("bytes=").removesuffix("-")) for headers in (second, third)]
    # Asked for on condition that the file is still the same.
    assert second["If-Range"] == f'"{sha(BIG)[:16]}"'
    assert 0 < begins[0] < begins[1] < len(BIG)
    if fault == "break off":
        assert begins == [len(BIG) // 2, len(BIG) * 3 // 4]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("fault", ["no ranges", "wrong range", 416])
def test_a_server_that_cannot_go_on_is_asked_for_the_whole(server: Server, tmp_path: Path, fault: Any) -> None:
    server.files["big.dat"] = BIG
    server.faults["big.dat"] = ["break off", fault]
    assert fetch.fetch(server.url, tmp_path).ok
    assert (tmp_path / "big.dat").read_bytes() == BIG


def test_a_half_of_something_else_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.files["big.dat"] = BIG
    server.faults["big.dat"] = ["", bytes(1000)]  # the whole has its two chances nevertheless
    (tmp_path / "big.dat.partial").write_bytes(b"!" * 1000)
    report = fetch.fetch(server.url, tmp_path)
    assert report.ok
    assert (tmp_path / "big.dat").read_bytes() == BIG
    assert [headers.get("Range") for headers in server.asked("big.dat")] == ["bytes=1000-", None, None]


def test_a_file_that_changed_on_the_server_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["big.dat"] = BIG
    server.faults["big.dat"] = ["break off another", "", ""]
    assert fetch.fetch(server.url, tmp_path).ok
    assert (tmp_path / "big.dat").read_bytes() == BIG
    # The server saw by If-Range that the half is of another file: no third request was needed.
    assert len(server.asked("big.dat")) == 2


def test_a_whole_file_that_was_not_renamed_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    server.files["big.dat"] = BIG
    (tmp_path / "big.dat.partial").write_bytes(BIG)
    assert fetch.fetch(server.url, tmp_path).ok
    assert not server.asked("big.dat")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_passing_troubles_pass(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = {"LICENSE.txt": [status] * 4, "SHA256SUMS.txt": [status]}
    assert fetch.fetch(server.url, tmp_path, only="LICENSE.txt").ok
    assert len(server.asked("LICENSE.txt")) == 5


def test_the_pause_that_the_server_asks_for_is_kept_by_everybody(server: Server, tmp_path: Path) -> None:
    server.faults["LICENSE.txt"] = [(503, {"Retry-After": "1"})]
    assert fetch.fetch(server.url, tmp_path, workers=2).ok
    told = server.times[server.requests.index(("GET", "LICENSE.txt", server.asked("LICENSE.txt")[0]))]
    later = [name for (_, name, _), moment in zip(server.requests, server.times, strict=True) if moment - told > 0.95]
    # The other thread may have had a few requests under way, but not the most of 26 files.
    assert "LICENSE.txt" in later
    assert len(later) > 13


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [
        ("120", 120, 120),
        ("Wed, 21 Oct 2015 08:28:00 GMT", 3600, 3600),
        ("Wed, 21 Oct 2015 07:27:59 GMT", 0, 0),
        ("soon", 0, 0),
        ("-1", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_pause_is_said_in_seconds_or_as_a_date(text: str, least_s: float, most_s: float) -> None:
    now_s = datetime(2015, 10, 21, 7, 28, tzinfo=UTC).timestamp()
    assert least_s <= _retry_after_s(text, now_s) <= most_s


def test_a_pause_that_is_too_long_ends_the_fetch(server: Server, tmp_path: Path) -> None:
    server.faults["LICENSE.txt"] = [(429, {"Retry-After": "86400"})]
    with pytest.raises(SourceError, match="asks for 86400 s of peace.*run the same command again"):
        fetch.fetch(server.url, tmp_path, workers=1)
    assert fetch.fetch(server.url, tmp_path).ok


def test_wrong_bytes_once_are_fetched_again(server: Server, tmp_path: Path) -> None:
    server.faults["records/00/r0.dat"] = [bytes(3000)]
    assert fetch.fetch(server.url, tmp_path).ok
    assert files_in(tmp_path) == FILES


def test_wrong_bytes_twice_are_reported_and_the_rest_goes_on(server: Server, tmp_path: Path) -> None:
    server.faults["records/01/r1.dat"] = [b"x", b"x"]
    server.faults["records/02/r2.dat"] = [404]
    server.faults["records/00/r3.dat"] = [503] * 5
    server.faults["records/01/r4.dat"] = ["packed"]
    report = fetch.fetch(server.url, tmp_path)
    assert not report.ok
    assert report.fetched == len(FILES) - 4
    assert report.failed == {
        "records/00/r3.dat": "the server answers 503 Service Unavailable (5 times)",
        "records/01/r1.dat": f"sha256 {sha(b'x')[:12]}…, stated {sha(FILES['records/01/r1.dat'])[:12]}… (twice)",
        "records/01/r4.dat": "the server packs what it was asked to send as it is",
        "records/02/r2.dat": "the server answers 404 Not Found",
    }
    assert len(server.asked("records/02/r2.dat")) == 1, "what is not there need not be asked for again"
    assert files_in(tmp_path) == {name: FILES[name] for name in FILES if name not in report.failed}
    again = fetch.fetch(server.url, tmp_path)
    assert again.ok
    assert (again.fetched, again.kept) == (4, len(FILES) - 4)


def test_more_than_was_announced_is_not_taken(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_UNANNOUNCED_BYTES", 100_000)
    server.faults = {"LICENSE.txt": ["endless"]}
    report = fetch.fetch(server.url, tmp_path)
    assert report.failed == {"LICENSE.txt": "the server sends more than the 100000 bytes that it may"}
    assert not (tmp_path / "LICENSE.txt").exists()
    assert (tmp_path / "LICENSE.txt.partial").stat().st_size == 0


def test_a_file_that_has_no_room_ends_the_fetch(server: Server, tmp_path: Path) -> None:
    server.faults["LICENSE.txt"] = ["a petabyte"]
    with pytest.raises(SourceError, match=r"no room for a file.*LICENSE\.txt.*expected about 1000000\.0 GB"):
        fetch.fetch(server.url, tmp_path)
    assert fetch.fetch(server.url, tmp_path).ok


def test_a_set_that_has_no_room_is_refused_beforehand(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fetch.OPEN_DATA.read_text().replace("about_bytes: 104_300_000", f"about_bytes: {10**16}")
    (tmp_path / "open_data.yaml").write_text(text)
    monkeypatch.setattr(fetch, "OPEN_DATA", tmp_path / "open_data.yaml")
    plans: list[fetch.FetchPlan] = []
    with pytest.raises(SourceError, match=r"no room for the set.*about 10000000\.0 GB"):
        fetch.fetch("mitdb", tmp_path / "set", base_url=server.mirror, announce=plans.append)
    assert len(plans) == 1, "the size is said before it is refused"
    assert not (tmp_path / "set").exists()
    assert fetch.fetch("mitdb", tmp_path / "set", base_url=server.mirror, max_records=1).ok


def test_a_server_that_has_gone_ends_the_fetch(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FAILURES_IN_A_ROW", 5)
    server.faults = {name: [404] for name in FILES}
    with pytest.raises(SourceError, match=rf"5 files in a row.*404.*0 of {len(FILES)} files are in"):
        fetch.fetch(server.url, tmp_path)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused, and given to nobody else
        with pytest.raises(SourceError, match=r"list of files can't be had.*\(5 times\)") as error:
            fetch.fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/set/1.0", tmp_path / "set")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, "404.*check name and version"),
        (403, "403.*asks for a login"),
        (b"<html>Please sign in</html>", "line 1 .*can't be understood"),
        (b"\xff\xfe", "is not text"),
        (f"{'0' * 64} .fetch.jsonl\n".encode(), "kept for fetching"),
        (f"{'0' * 64} a.dat.partial\n".encode(), "kept for fetching"),
    ],
)
def test_a_list_that_cannot_be_used(server: Server, tmp_path: Path, fault: Any, message: str) -> None:
    server.faults["SHA256SUMS.txt"] = [fault]
    with pytest.raises(SourceError, match=message):
        fetch.fetch(server.url, tmp_path / "set")
    assert not (tmp_path / "set").exists()


# --- a server that means harm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "a//evil"])
def test_no_path_leads_out_of_the_folder(server: Server, tmp_path: Path, path: str) -> None:
    server.files[path] = b"evil"
    with pytest.raises(SourceError, match="leads out of the folder"):
        fetch.fetch(server.url, tmp_path / "set")
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil").exists()


def test_nothing_is_written_through_a_link(server: Server, tmp_path: Path) -> None:
    dest, outside = tmp_path / "set", tmp_path / "outside"
    (dest / "records").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    (dest / "SHA256SUMS.txt").write_bytes(server.list_of_sums())
    (dest / "records/01").symlink_to(outside)
    (dest / "LICENSE.txt").symlink_to(outside / "file")
    (dest / "table of records.csv.partial").symlink_to(outside / "file")
    report = fetch.fetch(server.url, dest)
    linked = {name for name in FILES if name.startswith("records/01/")} | {"LICENSE.txt", "table of records.csv"}
    assert report.failed.keys() == linked
    assert all("a link" in reason for reason in report.failed.values())
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"
    (dest / ".fetch.jsonl").unlink()
    (dest / ".fetch.jsonl").symlink_to(outside / "file")
    with pytest.raises(SourceError, match="can't be written to"):
        fetch.fetch(server.url, dest)
    assert (outside / "file").read_text() == "mine"


def test_a_file_in_the_place_of_a_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS.txt").write_bytes(server.list_of_sums())
    (tmp_path / "records").write_text("")
    report = fetch.fetch(server.url, tmp_path)
    assert report.fetched == 2
    assert len(report.failed) == 24


def test_redirects_are_followed_but_not_to_anywhere(server: Server, tmp_path: Path) -> None:
    server.faults["records/01/r1.dat"] = [(302, {"Location": "file:///etc/passwd"})]
    server.faults["records/02/r2.dat"] = [(301, {"Location": "r2.dat"})] * 6
    server.faults["LICENSE.txt"] = [(307, {"Location": "LICENSE.txt"})]
    report = fetch.fetch(server.url, tmp_path)
    assert "file:///etc/passwd" in report.failed["records/01/r1.dat"]
    assert report.failed["records/02/r2.dat"] == "the server sends us on and on"
    assert (tmp_path / "LICENSE.txt").read_bytes() == FILES["LICENSE.txt"]
    assert len(report.failed) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_is_never_left_and_has_to_be_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    plain, secure = Server(), Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.scheme = "https"
    with serving(plain), serving(secure):
        with pytest.raises(SourceError, match="can't prove who it is"):
            fetch.fetch(secure.url, tmp_path / "unproved")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
        secure.faults["LICENSE.txt"] = [(302, {"Location": plain.url + "LICENSE.txt"})]
        report = fetch.fetch(secure.url, tmp_path / "set", only="LICENSE.txt")
        assert report.failed.keys() == {"LICENSE.txt"}
        assert "another place: refused" in report.failed["LICENSE.txt"]
        assert not plain.requests
        plain.faults["LICENSE.txt"] = [(302, {"Location": secure.url + "LICENSE.txt"})]
        report = fetch.fetch(plain.url, tmp_path / "upgraded", only="LICENSE.txt")
        assert "another place: refused; name it if you trust it" in report.failed["LICENSE.txt"]


def test_a_trickle_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MINUTE_S", 1e-9)  # every block is judged, and none brings so much
    monkeypatch.setattr(http, "SLOWEST_BYTES_PER_S", 10**15)
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    with pytest.raises(SourceError, match="less than 1000000000000000 bytes per second"):
        fetch.fetch(server.url, tmp_path)


def test_passwords_are_never_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    fetch.fetch(server.url, tmp_path / "set")
    assert not any("Authorization" in headers for _, _, headers in server.requests)
    with pytest.raises(ConfigError, match="password") as error:
        fetch.fetch(server.url.replace("://", "://me:secret@"), tmp_path / "set")
    assert "secret" not in str(error.value)


# --- where to, and which set ---------------------------------------------------------------------------------------


def test_a_folder_with_other_things_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("of my own work")
    with pytest.raises(SourceError, match=r"holds other files.*LICENSE\.txt.*choose an empty folder"):
        fetch.fetch(server.url, tmp_path)
    assert (tmp_path / "LICENSE.txt").read_text() == "of my own work"
    with pytest.raises(SourceError, match="can't be used"):
        fetch.fetch(server.url, tmp_path / "LICENSE.txt")


def test_two_sets_are_not_mixed(server: Server, tmp_path: Path) -> None:
    fetch.fetch(server.url, tmp_path)
    server.files["LICENSE.txt"] = b"another version"
    with pytest.raises(SourceError, match="another set, or another version"):
        fetch.fetch(server.url, tmp_path)
    assert files_in(tmp_path) == FILES


def test_two_at_once_into_one_folder(server: Server, tmp_path: Path) -> None:
    def second(plan: fetch.FetchPlan) -> None:
        with Journal(tmp_path), pytest.raises(SourceError, match="another fetch is at work"):
            fetch.fetch(server.url, tmp_path)

    assert fetch.fetch(server.url, tmp_path, announce=second).ok


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SourceError, match="can't be written to.*Permission denied"):
        fetch.fetch(server.url, tmp_path / "set")
    tmp_path.chmod(0o700)


def test_a_named_set_from_a_mirror(server: Server, tmp_path: Path) -> None:
    report = fetch.fetch("mitdb", tmp_path, base_url=server.mirror.rstrip("/"))
    assert report.ok
    assert (report.url, report.version) == (f"{server.mirror}mitdb/1.0.0/", "1.0.0")
    plan = fetch.plan_fetch("ecg-arrhythmia", tmp_path / "x", version="0.9", base_url=server.mirror)
    assert plan.url == f"{server.mirror}ecg-arrhythmia/0.9/"
    assert plan.terms is not None
    assert plan.terms.licence == "CC-BY-4.0"
    assert plan.about_bytes is not None
    assert plan.about_bytes < 10**6, "what is said of one version is not said of another"
    assert fetch.plan_fetch("chapman-shaoxing", tmp_path / "x", base_url=server.mirror).about_bytes == 5_100_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name_or_url": "ptbxl"}, "unknown set 'ptbxl'.*did you mean ptb-xl"),
        ({"name_or_url": "zzz"}, "known: ptb-xl, ptbdb, mitdb"),
        ({"name_or_url": "https://x.org/a", "version": "1"}, "can't be given along with an address"),
        ({"name_or_url": "https://x.org/a", "base_url": "https://y.org"}, "can't be given along with an address"),
        ({"name_or_url": "ftp://x.org/a"}, "no address of a folder"),
        ({"name_or_url": "https://"}, "no address of a folder"),
        ({"name_or_url": "https://x.org/a?b=c"}, "no address of a folder"),
        ({"name_or_url": "https://[x/"}, "no address of a folder"),
        ({"name_or_url": "mitdb", "version": "../../evil"}, "this is no version"),
        ({"name_or_url": "mitdb", "base_url": "physionet"}, "no address of a folder"),
    ],
)
def test_arguments_that_cannot_be_meant(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch.fetch(dest=tmp_path, **arguments)


def test_no_file_fits(server: Server, tmp_path: Path) -> None:
    server.files = {name: content for name, content in FILES.items() if "/" in name}
    with pytest.raises(ConfigError, match="no file of the set fits.*nothing"):
        fetch.fetch(server.url, tmp_path, only="nothing*")


def test_a_set_that_is_not_fetched_says_why_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"mimic-iv-ecg is not fetched.*1\.6 million.*aws s3 sync"):
        fetch.fetch("mimic-iv-ecg", tmp_path)


def test_a_page_of_physionet_will_do() -> None:
    assert fetch._where("https://physionet.org/content/ludb/1.0.1/", None, None)[0] == (
        "https://physionet.org/files/ludb/1.0.1/"
    )
    assert fetch._where("https://example.org/d/SHA256SUMS.txt", None, None)[0] == "https://example.org/d/"
    assert fetch._where("ludb", None, None)[0] == "https://physionet.org/files/ludb/1.0.1/"


def test_the_list_of_open_sets_is_whole() -> None:
    sets = fetch.open_sets()
    wanted = {"ptb-xl", "ptbdb", "mitdb", "nstdb", "ludb", "challenge-2020", "challenge-2021", "chapman-shaoxing"}
    assert {name for name, entry in sets.items() if not entry.not_fetched} == wanted
    for entry in sets.values():
        assert entry.doi.startswith("10.13026/")
        assert entry.page == f"https://physionet.org/content/{entry.slug}/{entry.version}/"
        assert entry.licence in ("CC-BY-4.0", "ODC-By-1.0", "ODbL-1.0")


# --- ended in the middle -------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from ecgstore.fetching import fetch
try:
    fetch.fetch(sys.argv[1], Path(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_and_wait(server: Server, dest: Path) -> subprocess.Popen[bytes]:
    """A fetch of its own, in the middle of a big file that comes slowly."""
    server.files["big.dat"] = BIG
    server.faults["big.dat"] = ["slow"]
    child = subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD, server.url, dest], stderr=subprocess.PIPE)
    half = dest / "big.dat.partial"
    while not (half.exists() and half.stat().st_size > 64 << 10 and (dest / "records").exists()):
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)
    return child


@pytest.mark.parametrize("how", quickly([signal.SIGKILL, signal.SIGINT], signal.SIGKILL), ids=["kill -9", "Ctrl-C"])
def test_ended_in_the_middle_it_goes_on(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    child = start_and_wait(server, tmp_path)
    child.send_signal(how)
    _, complaint = child.communicate()
    assert child.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert complaint == b""
    assert not (tmp_path / "big.dat").exists(), "it went on to the end"
    have = (tmp_path / "big.dat.partial").stat().st_size
    server.requests.clear()
    report = fetch.fetch(server.url, tmp_path)
    assert report.ok
    assert files_in(tmp_path) == server.files
    assert server.asked("big.dat")[0]["Range"] == f"bytes={have}-"
    assert report.kept + report.fetched == len(server.files)


def test_an_interrupt_ends_all_threads(server: Server, tmp_path: Path) -> None:
    server.files["a big.dat"] = BIG
    server.faults["a big.dat"] = ["slow"]

    def interrupt(done: int, total: int, n_bytes: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(server.url, tmp_path, progress=interrupt)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "_work" in name]
    assert fetch.fetch(server.url, tmp_path).ok
