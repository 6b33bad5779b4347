"""The footer of a Parquet file: the same numbers as Arrow gives, and no end of the process over a forged one."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_stores import forge
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgstore import EcgError, open_store
from ecgstore.storage import footers, validate_tables
from ecgstore.storage.limits import Limits

GOLDEN = Path(__file__).parents[3] / "golden"
TABLES = sorted(GOLDEN.glob("*.ecg/**/*.parquet"))


def written(table: pa.Table, **options: object) -> bytes:
    made = io.BytesIO()
    pq.write_table(table, made, **options)
    return made.getvalue()


LISTS = pa.table(
    {
        "texts": ["a", None, "ccc"] * 50,
        "lists": pa.array([[1.0, None], None, [3.0, 4.0]] * 50, pa.list_(pa.float32())),
        "struct": pa.array([{"x": 1, "y": "z"}] * 150),
        "bool": [True, False, None] * 50,
    }
)


def check_same(content: bytes) -> None:
    about = pq.ParquetFile(pa.BufferReader(content)).metadata
    found = footers.groups_of(content)
    assert len(found) == about.num_row_groups
    for i, group in enumerate(found):
        theirs = about.row_group(i)
        assert (group.n_bytes, len(group.columns)) == (theirs.total_byte_size, theirs.num_columns)
        for j, column in enumerate(group.columns):
            other = theirs.column(j)
            n_nulls = other.statistics.null_count if other.is_stats_set else None
            is_text = other.physical_type == "BYTE_ARRAY"
            has_dictionary = bool({"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(other.encodings))
            sizes = other.num_values, n_nulls, other.total_uncompressed_size
            begin = other.dictionary_page_offset if other.has_dictionary_page else other.data_page_offset
            place = begin, other.total_compressed_size
            assert column == (other.path_in_schema, *sizes, *place, is_text, has_dictionary)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parts[-2]}/{path.name}")
def test_stores_of_before_are_read_as_by_arrow(path: Path) -> None:
    check_same(path.read_bytes())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 7},
        {"version": "1.0", "use_dictionary": False, "write_statistics": False},
        {"data_page_version": "2.0", "compression": "none", "store_schema": False},
        {"write_page_index": True, "write_page_checksum": True, "sorting_columns": [pq.SortingColumn(0)]},
    ],
)
def test_other_tables_are_read_as_by_arrow(options: dict[str, object]) -> None:
    check_same(written(LISTS, **options))


@pytest.mark.parametrize("seed", [922])
def test_a_store_that_ended_the_process_is_refused(seed: int, tmp_path: Path) -> None:
    """Its footer states how many bytes the texts take of a column of numbers; Arrow throws where nothing catches."""
    root = forge(2, tmp_path / "forged.ecg", ["the footer of a table"], seed)
    with pytest.raises(EcgError):
        open_store(root)


def refused(content: bytes) -> bool:
    try:
        footers.groups_of(content)
    except ValueError:
        return True
    return False


def test_parts_of_a_file_are_refused() -> None:
    whole = written(LISTS)
    n_footer = int.from_bytes(whole[-8:-4], "little")
    for n in range(0, n_footer, 7):  # a footer that ends early
        begin = len(whole) - 8 - n_footer
        assert refused(b"PAR1" + whole[begin : begin + n] + n.to_bytes(4, "little") + b"PAR1")
    for content in (b"", b"PAR1", whole[:-1], whole[:-4] + b"PARE", whole[-20:]):
        assert refused(content)


def footer(content: bytes) -> bytes:
    return b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    "content",
    [
        b"\x4c" * 100_000,  # structs within structs
        b"\x19" + b"\x19" * 100_000,  # lists within lists
        b"\x49\xfc\xff\xff\xff\xff\x0f",  # four thousand million groups
        b"\x18\xff\xff\xff\xff\x0f",  # a text as long
        b"\x16" + b"\xff" * 100,  # a number without end
        b"\x4e\x00",  # no such type
        b"\x49\x1c\x19\x1c\x2c\x00\x00\x00\x00",  # a column without a description
    ],
)
def test_claims_of_a_footer_are_not_believed(content: bytes) -> None:
    assert refused(footer(content))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    refused(footer(content))


def test_a_file_with_changed_bits_is_read_or_refused() -> None:
    whole = written(LISTS)
    n_footer = int.from_bytes(whole[-8:-4], "little")
    rng = random.Random(0)
    for _ in range(300):
        made = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            made[rng.randrange(len(made) - 8 - n_footer, len(made) - 8)] ^= 1 << rng.randrange(8)
        refused(bytes(made))


def test_too_many_columns_in_all_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_tables, "limits", lambda: Limits(chunks=59))
    content = written(pa.table({f"c{i}": range(3) for i in range(20)}), row_group_size=1)
    with pytest.raises(EcgError, match="too many row groups"):
        validate_tables.parse_bounded(content, lambda file: validate_tables.check_size(file, 1, "x"), "x")
