"""The page on a store: complete, honest about what is missing, without any reference to elsewhere."""

from __future__ import annotations

import html.parser
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ecgstore import ConfigError, IngestSettings, ingest_folder, open_store, withdraw_records
from ecgstore.look import report
from ecgstore.look.by_fold import by_fold
from ecgstore.storage.beside import CardSettings, write_card
from ecgstore.storage.store import Store

GOLDEN = Path(__file__).parents[3] / "golden" / "v1.ecg"


class Page(html.parser.HTMLParser):
    """Checks that tags close in order; keeps text, images, tables and headings."""

    VOID = frozenset({"meta", "img", "br", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.pictures: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.n_tables = self.n_captions = 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "svg":
            self.pictures.append(dict(attrs))
        self.n_tables += tag == "table"
        self.n_captions += tag == "caption"

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def store(mini_store: Path) -> Store:
    return open_store(mini_store)


@pytest.fixture(scope="module")
def text(store: Store) -> str:
    return report.render(store, n_pages=3)


def with_columns(store: Store, **columns: list) -> Store:
    """The store with columns of its table replaced or added."""
    changed = open_store(store.path)
    for name, values in columns.items():
        if name in changed.records.column_names:
            changed.records = changed.records.drop_columns([name])
        changed.records = changed.records.append_column(name, pa.array(values))
    return changed


def test_the_page_is_sound_and_stands_alone(text: str) -> None:
    page = Page(text)
    assert page.n_tables == page.n_captions > 4
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert not re.search(r"https?://", text)
    assert "<script" not in text
    assert "@media print" in text
    assert page.headings[:5] == ["mini.ecg", "Terms", "Records", "Folds", "Statements"]
    assert len(page.images) == 3
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert page.pictures
    assert all(one["role"] == "img" and one["aria-label"] for one in page.pictures)


def test_the_page_tells_what_the_store_holds(store: Store, text: str) -> None:
    assert store.fingerprint in text
    assert store.recipe_sha256 in text
    for terms in store.terms:
        assert terms.licence in text
    assert "low_hz: 0.5" in text
    assert ">SR<" in text
    assert re.search(r"<dt>Records</dt><dd>53</dd>", text)


def test_the_known_copies_are_told(text: str) -> None:
    assert "137, 138" in text


def test_copies_across_folds_and_patients_are_flagged(store: Store) -> None:
    folds = store.column("fold").tolist()
    one = store.column("record_id").tolist().index("138")
    folds[one] += 1
    assert '<span class="flag">folds' not in report.render(store, 0).partition("137, 138")[2][:200]
    text = report.render(with_columns(store, fold=folds), 0)
    assert '<span class="flag">folds' in text.partition("137, 138")[2][:200]
    assert "a model can be tested on a signal that it was trained on" in text


def test_the_same_store_gives_the_same_bytes(store: Store, text: str) -> None:
    assert report.render(store, n_pages=3) == text


def test_an_old_store_without_quality_has_a_page_too(tmp_path: Path) -> None:
    out = report.write(open_store(GOLDEN), tmp_path / "old.html", n_pages=2)
    text = out.read_text()
    Page(text)
    assert "written before quality was measured" in text
    assert text.count("<img") == 2


def test_quality_suspects_and_the_worst_records_are_shown(store: Store) -> None:
    n = store.n_records
    noise = np.linspace(0.001, 0.2, n)
    suspects = [""] * n
    suspects[5] = "V1 and V2 swapped?"
    suspects[7] = "V1 and V2 swapped?; artefact of 35.4 mV in I?"
    changed = with_columns(store, hf_noise_mv=noise.tolist(), suspects=suspects)
    text = report.render(changed, n_pages=8)
    ids = store.column("record_id")
    assert f"<strong>{ids[n - 1]}</strong>  Highest by noise: 0.2 mV" in text
    assert f"<strong>{ids[5]}</strong>  Suspect: V1 and V2 swapped?" in text
    linked = [f'<a href="#record-{row}">{ids[row]}</a>' for row in (5, 7)]
    assert re.search(rf"V1 and V2 swapped\?</th><td class=\"n\">2</td>\s*<td>{linked[0]}, {linked[1]}", text)
    assert "artefact of … mV in I?" in text
    assert f'{linked[1]} <span class="detail">artefact of 35.4 mV in I?' in text
    assert all(f'<figure class="page" id="record-{row}">' in text for row in (5, 7))
    assert text.count("<img") == 8


def test_what_was_left_out_is_told_with_its_reason(tmp_path: Path, write_record) -> None:
    for name in ("a", "b"):
        write_record(tmp_path / "in", name)
    write_record(tmp_path / "in", "c", checksum=1)
    write_record(tmp_path / "in", "d<i>", n_samples=6000)
    ingest_folder(tmp_path / "in", tmp_path / "s.ecg", IngestSettings(source="wfdb_folder", max_rejected=1), workers=1)
    text = report.render(open_store(tmp_path / "s.ecg"), 1)
    Page(text)
    assert "bad_checksum" in text
    assert "the samples don&#39;t give the checksum in the header" in text
    assert "2 records (50.0 %) left out" in text
    assert "d&lt;i&gt;" in text
    assert "<i>" not in text
    assert "None of the records carries a coded statement." in text


def test_the_file_is_written_whole_or_refused(store: Store, tmp_path: Path) -> None:
    out = report.write(store, tmp_path / "new" / "r.html", n_pages=0)
    assert out.read_text() == report.render(store, 0)
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]
    with pytest.raises(ConfigError, match="folder"):
        report.write(store, tmp_path)
    with pytest.raises(ConfigError, match="negative"):
        report.write(store, tmp_path / "r.html", n_pages=-1)


def test_the_typical_records_are_those_in_the_middle_of_what_is_known() -> None:
    noise = np.array([0.01, np.nan, 0.02, 0.03, np.inf])
    none = np.full(5, np.nan)
    table = pa.table({"hf_noise_mv": noise, "baseline_mv": none})
    store = SimpleNamespace(records=table, n_records=5, column=lambda name: table[name].to_numpy())
    assert report._typical(store, 3)[0] == 2
    assert report._typical(store, 3)[1:] == [3, 0]
    unknown = pa.table({"hf_noise_mv": none, "baseline_mv": none})
    store = SimpleNamespace(records=unknown, n_records=5, column=lambda name: unknown[name].to_numpy())
    assert report._typical(store, 2) == [0, 1]


def test_patients_and_codes_stand_fold_by_fold(store: Store, text: str) -> None:
    table = by_fold(store)
    assert table is not None
    rows = {row.name: row for row in table.rows}
    in_fold = {fold: [int(row) for row in np.flatnonzero(store.column("fold") == int(fold))] for fold in table.folds}
    keys = store.column("patient_key")
    assert rows["Records"].cells == (*(str(len(its)) for its in in_fold.values()), "53")
    assert rows["Patients"].cells == (*(str(len(set(keys[its]))) for its in in_fold.values()), str(len(set(keys))))
    is_mi = store.statement_matrix(["IMI"], "scp_ecg")[:, 0]
    assert rows["IMI"].cells == (*(str(is_mi[its].sum()) for its in in_fold.values()), str(is_mi.sum()))
    assert rows["IMI"].about == "inferior myocardial infarction"
    assert table.n_torn == 0
    assert 'IMI <span class="note">inferior myocardial infarction</span>' in text
    assert "<td>inferior myocardial infarction</td><td>scp_ecg</td>" in text


def test_a_patient_in_two_folds_is_said_first(store: Store) -> None:
    keys, folds = store.column("patient_key"), store.column("fold").tolist()
    twice = next(key for key in keys if (keys == key).sum() > 1)
    folds[np.flatnonzero(keys == twice)[0]] += 1
    text = report.render(with_columns(store, fold=folds), 0)
    assert "1 patient with records in more than one fold" in text.partition("<h2>Records")[0]


def test_without_folds_a_way_to_draw_some_is_said(store: Store) -> None:
    changed = with_columns(store, fold=[-1] * store.n_records)
    assert by_fold(changed) is None
    assert "The records are in no folds. <code>ecgstore split</code>" in report.render(changed, 0)


def test_terms_stand_first_and_those_of_a_card_before_all(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "named.ecg")
    write_card(tmp_path / "named.ecg", CardSettings(title="A <b>ward</b>", licence="CC0-1.0", citation="Us, 2026"))
    text = report.render(open_store(tmp_path / "named.ecg"), 0)
    Page(text)
    assert "<h1>A &lt;b&gt;ward&lt;/b&gt;</h1>" in text
    terms = text.partition("<h2>Records")[0]
    assert terms.index("CC0-1.0") < terms.index("Us, 2026") < terms.index(store.terms[0].licence)


def test_signals_that_were_not_taken_over_are_told(store: Store) -> None:
    warnings = ["left out: PLETH, RESP", "left out: PLETH", *([""] * (store.n_records - 2))]
    text = report.render(with_columns(store, warnings=warnings), 0)
    assert "Signals left out: PLETH of 2 records, RESP of 1 record." in text


def test_what_a_terminal_would_obey_is_an_escape_on_the_page(store: Store) -> None:
    warnings = pa.array(["a\x1b[31mb\u202ec\x9b<i>"] * store.n_records)
    text = report.render(with_columns(store, warnings=warnings), 0)
    assert "a\\x1b[31mb\\u202ec\\x9b&lt;i&gt;" in text
    assert not any(one in text for one in "\x1b\u202e\x9b")


def test_who_has_withdrawn_is_counted_and_not_named(store: Store, tmp_path: Path) -> None:
    key = store.column("patient_key")[0]
    withdraw_records(store, tmp_path / "v2.ecg", patients=[key])
    text = report.render(open_store(tmp_path / "v2.ecg"), 0)
    assert "Withdrawn since: 1 patient and 0 records." in text
    assert key not in text


def test_a_suspect_of_each_kind_is_drawn(store: Store) -> None:
    suspects = ["V1 and V2 swapped?"] * 20 + ["gain wrong?"] + [""] * (store.n_records - 21)
    text = report.render(with_columns(store, suspects=suspects), n_pages=4)
    assert '<figure class="page" id="record-20">' in text
