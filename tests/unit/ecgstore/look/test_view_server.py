"""The page's server: what it tells, what it refuses, and that a reader's notes never touch a store."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wfdb
from click.testing import CliRunner
from viewing import Page, served

import ecgstore.cli
from ecgstore import ConfigError, IngestSettings, Store, StoreFormatError, StoreNotFound, ingest_folder, open_store
from ecgstore.errors import REASONS
from ecgstore.look.view.server import STATIC, Serving
from ecgstore.look.view.view import View, open_view


@pytest.fixture(scope="module")
def store(mini_store: Path) -> Store:
    return open_store(mini_store)


@pytest.fixture(scope="module")
def shown(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> View:
    return open_view(str(mini_store), notes=tmp_path_factory.mktemp("notes") / "mine.parquet")


@pytest.fixture(scope="module")
def page(shown: View) -> Iterator[Page]:
    with served(shown) as made:
        yield made


def ids(page: Page, **asked: object) -> list[str]:
    return [one["record_id"] for one in page.json("/api/records", **asked)["records"]]


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/about", "/api/records", "/api/notes.csv", "/nothing"])
def test_nothing_is_told_without_the_token(page: Page, path: str) -> None:
    for headers in ({"cookie": ""}, {"cookie": f"ecgstore_view_{page.port}={page.token[:-1]}"}):
        status, content, _ = page.ask(path, headers=headers)
        assert (status, content.count(b"\n")) == (403, 1)
    status, content, _ = page.ask(path, token="wrong")
    assert (status, b"token in the address is wrong" in content) == (403, True)


def test_the_token_leaves_the_address_for_a_cookie_that_no_script_reads(page: Page) -> None:
    status, _, headers = page.ask("/", headers={"cookie": ""}, token=page.token, code="scp_ecg:NORM")
    assert (status, headers["location"]) == (303, "/?code=scp_ecg%3ANORM")
    assert page.token in headers["set-cookie"]
    assert "HttpOnly" in headers["set-cookie"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.1", "127.0.0.1.evil.example"])
def test_another_name_of_this_machine_is_refused(page: Page, host: str) -> None:
    status, content, _ = page.ask("/api/about", headers={"host": host})
    assert (status, b"127.0.0.1" in content) == (403, True)


def test_another_page_can_change_nothing(page: Page) -> None:
    note = {"tags": ["x"], "comment": ""}
    for headers in ({"x-ecgstore-view": "0"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert page.ask("/api/note", method="PUT", body=note, headers=headers, id="50")[0] == 403
    assert page.json("/api/record", id="50")["note"]["tags"] == []


def test_only_this_machine_is_listened_to_and_answers_load_nothing_from_elsewhere(page: Page) -> None:
    _, content, headers = page.ask("/")
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert b"http" not in content.replace(b"http-equiv", b"")
    own = {name for name in socket.gethostbyname_ex(socket.gethostname())[2] if not name.startswith("127.")}
    for address in own:
        with pytest.raises(OSError):
            socket.create_connection((address, page.port), timeout=5).close()


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", "server.py", "%2e%2e/server.py", "", "x" * 5000])
def test_only_the_files_of_the_page_are_given(page: Page, name: str) -> None:
    assert page.ask(f"/static/{name}")[0] == 404
    assert all(page.ask(f"/static/{one}")[0] == 200 for one in STATIC)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_is_filtered_as_the_store_says(page: Page, store: Store) -> None:
    assert page.json("/api/records")["total"] == store.n_records
    norm_n = store.statement_matrix(["NORM"], "scp_ecg")[:, 0]
    expected = store.column("record_id")[norm_n & (store.column("fold") == 3) & (store.column("sex") == "male")]
    assert ids(page, code="scp_ecg:NORM", fold="3", sex="male") == expected.tolist()
    without = ids(page, without="scp_ecg:NORM", limit=1000)
    assert without == store.column("record_id")[~norm_n].tolist()
    age = store.column("age_years")
    expected = store.column("record_id")[(age >= 40) & (age <= 60)]
    assert ids(page, age_years="40..60", limit=1000) == expected.tolist()
    assert ids(page, words="no such word") == []
    assert ids(page, words="normal ecg", limit=1000) == ids(page, code="scp_ecg:NORM", limit=1000)


def test_words_between_quotation_marks_stand_together(page: Page) -> None:
    apart = ids(page, words="left bundle branch block", limit=1000)
    together = ids(page, words='"left bundle branch block"', limit=1000)
    stated = ids(page, code="scp_ecg:CLBBB", limit=1000) + ids(page, code="scp_ecg:ILBBB", limit=1000)
    assert sorted(together) == sorted(stated) != []
    # Such as a right bundle branch block beside a left hypertrophy.
    assert set(together) < set(apart)
    assert ids(page, words="“Left  Bundle branch block", limit=1000) == together
    assert ids(page, words='""', limit=1000) == ids(page, limit=1000)


def test_the_list_is_sorted_and_paged(page: Page, store: Store) -> None:
    age = store.column("age_years")
    young = ids(page, sort="age_years", limit=1000)
    known = [one for one in young if np.isfinite(age[store.row_of(one)])]
    ages = [float(age[store.row_of(one)]) for one in known]
    assert ages == sorted(ages)
    first, second = ids(page, sort="-age_years", limit=5), ids(page, sort="-age_years", limit=5, offset=5)
    assert first + second == ids(page, sort="-age_years", limit=10)
    assert float(age[store.row_of(first[0])]) == max(ages)


def test_counts_are_those_of_the_answer(page: Page, store: Store) -> None:
    counts = page.json("/api/counts", fold="3")
    sexes = dict(counts["sex"])
    expected = store.column("sex")[store.column("fold") == 3]
    assert {name: n for name, n in sexes.items() if n} == {
        name: int((expected == name).sum()) for name in set(expected)
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"fold'--": "1"}, "unknown filter"),
        ({"age_years": "1; DROP TABLE records"}, "no range"),
        ({"age_years": "1.2.3..4"}, "no range"),
        ({"sort": "age_years; DROP TABLE records"}, "can't be sorted"),
        ({"lead": "V99:m"}, "no such lead state"),
        ({"suspects": "perhaps"}, "any or none"),
        ({"limit": "100000"}, "out of bounds"),
        ({"offset": "-1"}, "out of bounds"),
        ({"limit": "٣"}, "out of bounds"),
        ({"words": "x" * 300}, "too much is asked"),
        ({"code": [f"scp_ecg:{i}" for i in range(60)]}, "too much is asked"),
    ],
)
def test_what_is_no_question_is_refused_in_one_line(page: Page, asked: dict[str, object], words: str) -> None:
    said = page.refused("/api/records", **asked)
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize("value", ["1' OR '1'='1", "1) OR (1=1", "\x00", "%", "a_b", "none--", "🫀", '"'])
def test_values_are_only_values(page: Page, value: str) -> None:
    for name in ("fold", "sex", "site", "code", "words", "tag"):
        status, content, _ = page.ask("/api/records", **{name: value})
        assert status in (200, 400)
        if status == 200:
            # A quotation mark that nothing stands behind asks for no word.
            assert json.loads(content)["total"] == (53 if (name, value) == ("words", '"') else 0), (name, value)


# --- one record ------------------------------------------------------------------------------------------------------


def traces_of(content: bytes) -> tuple[dict[str, object], np.ndarray]:
    (length,) = struct.unpack("<I", content[:4])
    head = json.loads(content[4 : 4 + length])
    values = np.frombuffer(content[4 + length :], "<f4")
    return head, values.reshape(len(head["leads"]), head["columns"], head["values"])


def test_samples_are_those_of_the_store(page: Page, store: Store) -> None:
    expected = store.read("145").signal_mv_lt
    head, found = traces_of(page.ask("/api/signal", id="145", start="2.0", stop="4.5", columns="4000")[1])
    assert (head["start_s"], head["samples_per_column"]) == (2.0, 1)
    first = round(2.0 * store.fs_hz)
    np.testing.assert_array_equal(found[:, :, 0], expected[:, first : first + found.shape[1]])


def test_far_away_the_envelope_hides_no_peak(page: Page, store: Store) -> None:
    expected = store.read("145").signal_mv_lt
    head, found = traces_of(page.ask("/api/signal", id="145", start="0", stop="10", columns="50")[1])
    assert head["values"] == 2
    assert found.shape[1] <= 51
    np.testing.assert_array_equal(np.nanmax(found, axis=(1, 2)), np.nanmax(expected, axis=1))
    np.testing.assert_array_equal(np.nanmin(found, axis=(1, 2)), np.nanmin(expected, axis=1))


@pytest.mark.parametrize(
    "asked",
    [
        {"start": "5", "stop": "4"},
        {"start": "-1", "stop": "4"},
        {"start": "nan", "stop": "4"},
        {"start": "0", "stop": "inf"},
        {"start": "0", "stop": "4", "columns": "0"},
        {"start": "0", "stop": "4", "columns": "9000"},
        {"start": "0", "stop": "4", "which": "raw"},
        {"start": "0", "stop": "4", "id": "nobody"},
        {"start": "x", "stop": "4"},
    ],
)
def test_a_window_that_is_not_there_is_refused(page: Page, asked: dict[str, str]) -> None:
    assert page.refused("/api/signal", **{"id": "145", "columns": "100", **asked})


def test_a_record_is_told_in_words(page: Page) -> None:
    told = page.json("/api/record", id="145")
    assert next((one["code"], one["title"]) for one in told["statements"]) == ("NORM", "normal ECG")
    beside = page.json("/api/beside", id="145", sort="age_years")
    order = ids(page, sort="age_years", limit=1000)
    at = order.index("145")
    assert (beside["at"], beside["before"], beside["behind"]) == (at, order[at - 1], order[at + 1])


def test_beats_and_what_was_left_out_are_told_in_words(write_record: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "wfdb"
    write_record(folder, "r1")
    write_record(folder, "r2", n_samples=9000)
    wfdb.wrann("r1", "atr", np.array([100, 600, 4900]), symbol=["N", "V", "R"], write_dir=str(folder))
    settings = IngestSettings(profile="raw", source={"name": "wfdb_folder", "annotators": ["atr"]})
    ingest_folder(folder, tmp_path / "s.ecg", settings)
    with served(open_view(str(tmp_path / "s.ecg"), notes=tmp_path / "n.parquet")) as page:
        told = page.json("/api/beats", id="r1", start="0.5", stop="12")["beats"]
        assert [(one["time_s"], one["symbol"], one["is_ectopic"]) for one in told] == [
            (1.2, "V", True),
            (9.8, "R", False),
        ]
        assert told[1]["title"] == "right bundle branch block beat"
        (left_out,) = page.json("/api/rejected")["rejected"]
        assert (left_out["record_id"], left_out["meaning"]) == ("r2", REASONS["truncated"])
        assert "no such window" in page.refused("/api/beats", id="r1", start="5", stop="5")


# --- notes -----------------------------------------------------------------------------------------------------------


def test_notes_are_kept_beside_and_never_in_the_store(mini_store: Path, store: Store, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in mini_store.rglob("*") if path.is_file()}
    file = tmp_path / "mine.parquet"
    with served(open_view(str(mini_store), notes=file)) as page:
        assert not file.exists()
        note = {"tags": ["noisy", "check  V1"], "comment": "=1+1"}
        assert page.ask("/api/note", method="PUT", body=note, id="145")[0] == 200
        assert ids(page, tag="noisy") == ["145"]
        csv = page.ask("/api/notes.csv")[1].decode("utf-8-sig")
        assert "145,noisy; check V1,'=1+1," in csv
        for bad in ({"tags": ["a;b"]}, {"tags": "x"}, {"tags": ["x" * 50]}, {"comment": "x" * 3000}, []):
            assert page.ask("/api/note", method="PUT", body=bad, id="145")[0] == 400
        assert page.ask("/api/note", method="PUT", body=b"{" * 40_000, id="145")[0] == 400
        assert page.ask("/api/note", method="PUT", body=note, id="nobody")[0] == 400
    again = open_view(str(mini_store), notes=file)
    assert again.note("145")["tags"] == ("noisy", "check V1")
    assert {path: path.read_bytes() for path in mini_store.rglob("*") if path.is_file()} == before


def test_a_file_that_holds_no_notes_is_left_alone(mini_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "thesis.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    before = file.read_bytes()
    with pytest.raises(StoreFormatError, match="record_id"):
        open_view(str(mini_store), notes=file)
    assert file.read_bytes() == before


def test_notes_on_another_version_of_the_store_are_refused_and_not_overwritten(
    mini_store: Path, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "mine.parquet"
    open_view(str(mini_store), notes=file).notes.write("145", ["check"], "")
    table = pq.ParquetFile(file).read()
    about = {key: said.replace(store.fingerprint.encode(), b"0" * 64) for key, said in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(about), file)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=r"the notes are for another store.*--notes"):
        open_view(str(mini_store), notes=file)
    assert file.read_bytes() == before


def test_two_programs_write_notes_into_one_file(mini_store: Path, tmp_path: Path) -> None:
    one, other = (open_view(str(mini_store), notes=tmp_path / "mine.parquet").notes for _ in range(2))
    one.write("145", ["check"], "")
    other.write("50", ["noisy"], "")
    one.write("145", [], "")
    assert [notes.tags() for notes in (one, other)] == [[("noisy", 1)], [("check", 1), ("noisy", 1)]]
    assert open_view(str(mini_store), notes=tmp_path / "mine.parquet").notes.tags() == [("noisy", 1)]


# --- beginning -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_in_one_line(shown: View) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="port is in use"):
            Serving(shown, taken.getsockname()[1])


@pytest.mark.parametrize("words", [["nowhere.ecg"], ["building.ecg"], ["MINI", "--raw", "nowhere.ecg"]])
def test_what_can_not_be_shown_is_said_in_one_line(
    mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "building.ecg").mkdir()
    asked = [str(mini_store) if word == "MINI" else word for word in words]
    done = CliRunner().invoke(ecgstore.cli.main, ["view", "--no-browser", *asked])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1


# --- beside a store --------------------------------------------------------------------------------------------------


def predicted(store: Store, path: Path, **more: object) -> Path:
    """A model that is sure of NORM where it is stated, but for record 145."""
    norm = store.statement_matrix(["NORM"], "scp_ecg")[:, 0]
    p = np.where(norm, 0.9, 0.2).astype(np.float32)
    p[store.row_of("145")] = 0.01
    columns = {"record_id": store.records["record_id"].combine_chunks(), "probability:NORM": p, "probability:other": p}
    pq.write_table(pa.table({**columns, **more}), path)
    return path


def test_predictions_stand_beside_statements_and_sort_by_disagreement(
    mini_store: Path, store: Store, tmp_path: Path
) -> None:
    said = predicted(store, tmp_path / "p.parquet")
    with served(open_view(str(mini_store), predictions=said, notes=tmp_path / "n.parquet")) as page:
        assert ids(page, sort="-disagreement")[0] == "145"
        told = {one["class"]: one for one in page.json("/api/record", id="145")["predictions"]}
        assert (told["NORM"]["stated"], told["other"]["stated"]) == (True, None)
        assert told["NORM"]["probability"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"probability:NORM": np.full(53, 1.5, np.float32)}, "probability is none"),
        ({"probability:NORM": np.full(53, 1)}, "wrong type"),
        ({"record_id": [f"x{i}" for i in range(53)]}, "none of these predictions"),
        ({"record_id": ["145"] * 53}, "stands twice"),
        ({f"probability:{i}": np.zeros(53, np.float32) for i in range(600)}, "number of classes"),
    ],
)
def test_what_are_no_predictions_is_refused(
    mini_store: Path, store: Store, tmp_path: Path, more: dict[str, object], words: str
) -> None:
    said = predicted(store, tmp_path / "p.parquet", **more)
    with pytest.raises((ConfigError, StoreFormatError), match=words) as refused:
        open_view(str(mini_store), predictions=said, notes=tmp_path / "n.parquet")
    assert "\n" not in str(refused.value)


def test_the_raw_record_is_drawn_beneath(mini_store: Path, tmp_path: Path) -> None:
    with served(open_view(str(mini_store), raw=str(mini_store), notes=tmp_path / "n.parquet")) as page:
        assert page.json("/api/about")["raw"] == mini_store.name
        assert page.json("/api/record", id="145")["raw"] is True
        asked = {"id": "145", "start": "0", "stop": "1", "columns": "4000"}
        assert page.ask("/api/signal", which="raw", **asked)[1] == page.ask("/api/signal", **asked)[1]
    with pytest.raises(StoreNotFound):
        open_view(str(mini_store), raw=str(tmp_path / "none.ecg"), notes=tmp_path / "n.parquet")
