"""Headers read once: in order, refused with a reason, and spared the second time only where nothing changed."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest

from ecgstore.build import scan
from ecgstore.errors import ConfigError
from ecgstore.record import RecordRef, Rejection
from ecgstore.storage import tables


@pytest.fixture
def folder(tmp_path, write_record):
    root = tmp_path / "src"
    for number in range(6):
        hea = write_record(root, f"r{number}").with_suffix(".hea")
        hea.write_text(hea.read_text() + f"# Age: {40 + number}\n")
    return root


def refs_of(root, *names):
    return [RecordRef(name, root / name) for name in names or sorted(path.stem for path in root.glob("*.hea"))]


def read(root, table=None, *names, progress=None):
    return list(scan.read_headers(refs_of(root, *names), root, table, progress))


def known(table):
    return tables.from_parquet(table.read_bytes())["path"].to_pylist()


def test_headers_come_in_order_with_their_comments(folder):
    found = read(folder, None, "r3", "r0", "r5")
    assert [ref.record_id for ref, _, _ in found] == ["r3", "r0", "r5"]
    assert [header.n_samples for _, header, _ in found] == [5000] * 3
    assert [comments for _, _, comments in found] == [("Age: 43",), ("Age: 40",), ("Age: 45",)]


@pytest.mark.parametrize("with_table", [False, True])
def test_a_header_that_can_not_be_used_is_a_rejection_in_its_place(folder, tmp_path, with_table):
    (folder / "r1.hea").unlink()
    (folder / "r2.hea").write_text("r2 twelve leads\n")
    table = tmp_path / "scan.parquet" if with_table else None
    found = [header for _, header, _ in read(folder, table, "r0", "r1", "r2", "r3")]
    assert [isinstance(one, Rejection) and one.reason for one in found] == [
        False,
        "missing_header",
        "bad_header",
        False,
    ]
    if table is not None:
        assert known(table) == ["r0", "r3"]


def test_what_the_table_holds_is_not_read_again_until_the_file_changes(folder, tmp_path):
    table = tmp_path / "deep" / "scan.parquet"
    first = read(folder, table)
    assert known(table) == [f"r{number}" for number in range(6)]
    written = table.stat().st_mtime_ns
    hea = folder / "r2.hea"
    status, text = hea.stat(), hea.read_text()
    # As long and as old as before: only somebody who reads the file can tell.
    hea.write_text(text.replace("1000.0", "2000.0"))
    os.utime(hea, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read(folder, table) == first
    assert table.stat().st_mtime_ns == written
    os.utime(hea, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    again = read(folder, table)
    changed = [ref.record_id for (ref, new, _), (_, old, _) in zip(again, first, strict=True) if new != old]
    assert changed == ["r2"]
    assert read(folder, table) == again


def test_the_table_holds_the_records_of_the_last_reading_alone(folder, tmp_path):
    table = tmp_path / "scan.parquet"
    read(folder, table)
    read(folder, table, "r1", "r4")
    assert known(table) == ["r1", "r4"]
    (folder / "r1.hea").unlink()
    found = read(folder, table, "r1", "r4")
    assert found[0][1].reason == "missing_header"
    assert known(table) == ["r4"]


def test_a_table_is_known_by_paths_below_the_source(folder, tmp_path):
    table = tmp_path / "scan.parquet"
    first = read(folder, table)
    moved = folder.rename(tmp_path / "elsewhere")
    for path in moved.glob("*.hea"):  # what the table says is then believed, whatever stands there
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [header for _, header, _ in read(moved, table)] == [header for _, header, _ in first]


@pytest.mark.parametrize("slow_s", [0.0, 1.0])
def test_many_are_read_in_slices_by_threads_or_not_in_the_same_order(folder, tmp_path, monkeypatch, slow_s):
    one_by_one = read(folder)
    monkeypatch.setattr(scan, "_SLICE", 4)
    monkeypatch.setattr(scan, "SLOW_S", slow_s)
    assert read(folder) == one_by_one
    table = tmp_path / "scan.parquet"
    assert read(folder, table) == one_by_one
    assert read(folder, table) == one_by_one
    names = ["r5", "r0", "r4", "r1", "r3", "r2"]
    assert [ref.record_id for ref, _, _ in read(folder, table, *names)] == names
    assert known(table) == [f"r{number}" for number in range(6)]


def test_progress_ends_with_all_of_them(folder):
    calls = []
    read(folder, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("scan", 6, 6)
    assert read(folder, None, progress=None)


def test_a_table_of_other_columns_or_kinds_is_refused(folder, tmp_path):
    path = tmp_path / "scan.parquet"
    read(folder, path)
    table = tables.from_parquet(path.read_bytes())
    texts = table.set_column(table.column_names.index("fs_hz"), "fs_hz", pa.array(["fast"] * 6))
    for other in (table.drop_columns(["sha256"]), texts):
        path.write_bytes(tables.to_parquet(other))
        with pytest.raises(ConfigError, match=r"not a table of scanned headers.*delete it"):
            read(folder, path)


@pytest.mark.parametrize("columns", [["crc32"], ["crc32", "warnings"]])
def test_a_table_of_a_release_before_is_written_anew(folder, tmp_path, columns):
    path = tmp_path / "scan.parquet"
    first = read(folder, path)
    content = path.read_bytes()
    path.write_bytes(tables.to_parquet(tables.from_parquet(content).drop_columns(columns)))
    assert read(folder, path) == first
    assert path.read_bytes() == content


def test_a_changed_bit_gives_the_same_headers_or_a_refusal(folder, tmp_path):
    """Wherever it stands: a row that is not the one that was written is read from its header again."""
    path = tmp_path / "scan.parquet"
    first = read(folder, path)
    content = path.read_bytes()
    refusals = []
    for at in np.random.default_rng(0).choice(len(content), 150, replace=False):
        changed = bytearray(content)
        changed[at] ^= 1 << int(at) % 8
        path.write_bytes(changed)
        try:
            assert read(folder, path) == first
        except ConfigError as error:
            refusals.append(str(error))
    assert all("not a table of scanned headers" in one for one in refusals)
    assert 0 < len(refusals) < 150


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fs_hz", 16e6),
        ("fs_hz", float("nan")),
        ("n_samples", -1),
        ("n_samples", 2**40),
        ("plain", 0),
        ("layout", "[]"),
        ("layout", "{"),
        ("layout", "null"),
        ("files", ["../secret.dat"]),
        ("files", None),
        ("stated", b""),
    ],
)
def test_a_row_that_no_header_could_give_is_not_believed(folder, tmp_path, name, value):
    path = tmp_path / "scan.parquet"
    first = read(folder, path)
    rows = tables.from_parquet(path.read_bytes()).to_pylist()
    for row in rows:
        row[name] = value
        row["crc32"] = scan._crc32(row)
    path.write_bytes(tables.to_parquet(pa.Table.from_pylist(rows, scan.SCHEMA)))
    assert read(folder, path) == first


def test_a_table_that_is_none_is_refused_with_what_to_do(folder, tmp_path):
    path = tmp_path / "scan.parquet"
    read(folder, path)
    torn = path.read_bytes()[:-20]
    other = tables.to_parquet(pa.table({"path": ["r0"]}))
    for content in (b"", b"three years of work", torn, other):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"not a table of scanned headers.*scan\.parquet.*delete it"):
            read(folder, path)
        assert path.read_bytes() == content
    with pytest.raises(ConfigError, match="not a table of scanned headers"):
        read(folder, tmp_path)
