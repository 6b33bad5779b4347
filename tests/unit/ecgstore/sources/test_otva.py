"""A folder as OTVA is published: CSV files without a unit, an Excel table, and a half that must not be read."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from ecgstore import IngestSettings, RecordError, SourceError, ingest_folder, open_store
from ecgstore.build.settings import detect_source
from ecgstore.sources import otva
from ecgstore.sources._xlsx import open_sheet

HEADER = ("HospitalID", "Type", "LeftRight", "Sublocation", "Gender")
ROWS = (
    ("1001", "PVC", "Right", "RVOT septum", "Female"),
    ("1002", "VT", "Left", "", "Male"),
    ("1003", "PVC", "Left", "LCC", ""),
)
COUNTS_PER_MV = 16_384


def write_xlsx(path: Path, rows: Sequence[Sequence[str]], extra: str = "") -> None:
    """A minimal Excel file: whole numbers as numbers, texts by their number in the list of texts."""
    texts: list[str] = []

    def cell(at: str, value: str) -> str:
        if value == "":
            return ""
        if value.isdigit():
            return f'<c r="{at}"><v>{value}</v></c>'
        texts.append(value)
        return f'<c r="{at}" t="s"><v>{len(texts) - 1}</v></c>'

    body = "".join(
        f'<row r="{line}">' + "".join(cell(f"{'ABCDEFG'[i]}{line}", value) for i, value in enumerate(row)) + "</row>"
        for line, row in enumerate(rows, start=1)
    )
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "xl/workbook.xml", f'<workbook {main} xmlns:r="{relation}"><sheets><sheet r:id="rId7"/></sheets></workbook>'
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            '<Relationships><Relationship Id="rId7" Target="worksheets/sheet1.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"{extra}<worksheet {main}><sheetData>{body}</sheetData></worksheet>"
        )
        items = "".join(f"<si><r><t>{escape(text[:2])}</t></r><r><t>{escape(text[2:])}</t></r></si>" for text in texts)
        archive.writestr("xl/sharedStrings.xml", f"<sst {main}>{items}</sst>")


def write_record(folder: Path, name: str, n_samples: int = 6000, seed: int = 0) -> np.ndarray:
    """Counts of twelve leads that fit each other, in alphabetical order."""
    rng = np.random.default_rng([seed, int(name)])
    one, two = (np.cumsum(rng.integers(-90, 91, n_samples)) for _ in range(2))
    chest = {f"V{i}": np.cumsum(rng.integers(-90, 91, n_samples)) for i in range(1, 7)}
    leads = {
        "I": one,
        "II": two,
        "III": two - one,
        "aVF": two - one // 2,
        "aVL": one - two // 2,
        "aVR": -(one + two) // 2,
    }
    leads |= chest
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(otva.LEADS)
        rows.writerows(zip(*(leads[name] for name in otva.LEADS), strict=True))
    return np.stack([leads[name] for name in ("I", "II", "V1")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "otva"
    (root / otva.RAW).mkdir(parents=True)
    for name, *_ in ROWS:
        write_record(root / otva.RAW, name)
    write_xlsx(root / "Diagnosis.xlsx", (HEADER, *ROWS))
    return root


def settings(**more: object) -> IngestSettings:
    return IngestSettings(fs_hz=500, filters=(), **more)


def test_sides_sites_and_sex_are_statements_and_columns(folder: Path, tmp_path: Path) -> None:
    assert detect_source(folder) == otva.Settings()
    ingest_folder(folder, tmp_path / "o.ecg", settings(uncalibrated=f"assume={COUNTS_PER_MV}"))
    store = open_store(tmp_path / "o.ecg")
    assert store.column("record_id").tolist() == ["1001", "1002", "1003"]
    np.testing.assert_array_equal(
        store.statement_matrix(["RVOT", "LVOT"], "vt_region"), [[True, False], [False, True], [False, True]]
    )
    # A blank sub-site is no label.
    stated = {(one["row"], one["code"]) for one in store.statements.to_pylist() if one["system"] == "otva_site"}
    assert stated == {(0, "RVOT septum"), (2, "LCC")}
    assert store.vocabulary("vt_region") == {"RVOT", "LVOT"}
    assert store.column("sex").tolist() == ["female", "male", ""]
    assert len(set(store.column("patient_key").tolist())) == 3
    assert store.column("source_fs_hz").tolist() == [2000.0] * 3


def test_leads_are_told_by_name_and_the_users_calibration_is_taken(folder: Path, tmp_path: Path) -> None:
    counts = write_record(folder / otva.RAW, "1001", seed=5)
    ingest_folder(folder, tmp_path / "o.ecg", IngestSettings(fs_hz=2000, filters=(), uncalibrated="assume=16384"))
    record = open_store(tmp_path / "o.ecg").read("1001")
    its = [record.leads.index(name) for name in ("I", "II", "V1")]
    np.testing.assert_allclose(record.signal_mv_lt[its], counts / COUNTS_PER_MV, atol=0.0006)
    assert "calibration assumed: 16384 counts per mV" in record.warnings[0]


def test_without_a_calibration_no_record_is_made_up(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="bad_gain"):
        ingest_folder(folder, tmp_path / "o.ecg", settings())


@pytest.mark.parametrize("place", ["alone", "beside", "itself"])
def test_the_denoised_half_is_refused_by_its_name(folder: Path, place: str) -> None:
    denoised = folder / otva.DENOISED
    (folder / otva.RAW).rename(denoised)
    if place == "beside":
        (folder / otva.RAW).mkdir()
        write_record(folder / otva.RAW, "1001")
        assert [ref.record_id for ref in otva.list_records(folder, otva.Settings()).records] == ["1001"]
        return
    with pytest.raises(SourceError, match="denoised lead by lead"):
        otva.list_records(denoised if place == "itself" else folder, otva.Settings())


def test_the_folder_of_raw_records_will_do_and_so_will_a_table_as_csv(folder: Path) -> None:
    (folder / "Diagnosis.xlsx").unlink()
    lines = [",".join(row) for row in (HEADER, *ROWS)]
    (folder / "Diagnosis.csv").write_text("\n".join(lines), encoding="utf-8")
    listing = otva.list_records(folder / otva.RAW, otva.Settings())
    assert [ref.sex for ref in listing.records] == ["female", "male", None]


def test_files_and_rows_that_have_no_other_are_told(folder: Path) -> None:
    write_record(folder / otva.RAW, "9999")
    (folder / otva.RAW / "1002.csv").unlink()
    listing = otva.list_records(folder, otva.Settings())
    assert [(one.record_id, one.reason) for one in listing.rejected] == [("1002", "missing_signal")]
    assert "1 files of PVCVTRawECGData stand in no row" in listing.notes[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("1001", "PVC", "Middle", "", ""), "LeftRight is none of LVOT, RVOT"),
        (("1001", "AF", "Left", "", ""), "Type is none of PVC, VT"),
        (("1001", "PVC", "Left", "", "x"), "Gender is none of female, male"),
        (("1001", "PVC", "Left", "x" * 65, ""), "more than 64 letters"),
        (("", "PVC", "Left", "", ""), "HospitalID is empty"),
    ],
)
def test_cells_that_can_not_be_are_refused_with_their_row(folder: Path, row: tuple[str, ...], said: str) -> None:
    write_xlsx(folder / "Diagnosis.xlsx", (HEADER, *ROWS[1:], row))
    with pytest.raises(SourceError, match=f"{said}.*row 4"):
        otva.list_records(folder, otva.Settings())


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ((*HEADER, "Type"), (*ROWS[0], "VT"), "a column stands in the table twice.*Type"),
        (HEADER, (*ROWS[0], "", "Jane Doe"), "row 2 has cells beyond the columns.*expected 5, got 7"),
        (HEADER, ("1.00E+03", *ROWS[0][1:]), r"column HospitalID holds a number that .* rounded \(row 2\)"),
    ],
)
def test_a_sheet_of_uneven_rows_is_refused_as_a_csv_file_is(folder: Path, header, row, said: str) -> None:
    write_xlsx(folder / "Diagnosis.xlsx", (header, row))
    with pytest.raises(SourceError, match=said) as refused:
        otva.list_records(folder, otva.Settings())
    assert "Jane" not in str(refused.value)


def test_a_name_that_leaves_the_folder_is_left_out(folder: Path) -> None:
    write_xlsx(folder / "Diagnosis.xlsx", (HEADER, *ROWS, ("../1001", "PVC", "Left", "", "")))
    assert [one.reason for one in otva.list_records(folder, otva.Settings()).rejected] == ["unsafe_path"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"I,II\n1,2\n", "bad_header"),
        (b"\xff\xfe\n", "bad_header"),
        (b"", "bad_header"),
        (",".join(otva.LEADS).encode() + b"\n", "no_samples"),
        (",".join(otva.LEADS).encode() + b"\n" + b"1,2\n", "bad_signal"),
        (",".join(otva.LEADS).encode() + b"\n" + b"1,2,3,4,5,6,7,8,9,10,11,twelve\n", "bad_signal"),
    ],
)
def test_a_bad_file_leaves_out_its_record_alone(folder: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (folder / otva.RAW / "1002.csv").write_bytes(content)
    report = ingest_folder(folder, tmp_path / "o.ecg", settings(uncalibrated="assume=16384"))
    left_out = open_store(tmp_path / "o.ecg").rejected.to_pylist()
    assert report.records == 2
    assert [(one["record_id"], one["reason"]) for one in left_out] == [("1002", reason)]


def test_an_absent_or_broken_table_is_one_line(folder: Path) -> None:
    (folder / "Diagnosis.xlsx").write_bytes(b"PK not a zip")
    with pytest.raises(SourceError, match="no Excel file"):
        otva.list_records(folder, otva.Settings())
    (folder / "Diagnosis.xlsx").unlink()
    with pytest.raises(SourceError, match=r"Diagnosis\.xlsx is not there"):
        otva.list_records(folder, otva.Settings())


def test_an_excel_file_with_definitions_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.xlsx"
    write_xlsx(path, (HEADER,), extra='<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>')
    with pytest.raises(SourceError, match="no Excel file"):
        open_sheet(path)


def test_a_reader_says_what_is_wrong_with_the_first_line(folder: Path) -> None:
    (ref, *_) = otva.list_records(folder, otva.Settings()).records
    ref.path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(RecordError, match="must name aVF"):
        otva.read_header(ref, otva.Settings())
