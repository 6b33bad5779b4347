"""Tables of labels as nobody writes them in good faith: bytes of CSV, and of Parquet."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from hostile_values import change_cells, change_columns, change_footer, change_rows, text_bomb, written

CSV = (
    "record_id,patient_id,fold,age,sex,scp_ecg,remarks\n"
    "r0,p0,1,40,f,NORM,fine\n"
    "r1,p1,2,41,m,AFIB;IMI,not so fine\n"
    "r2,p2,3,42,f,IMI,\n"
)
CELLS = (
    "",
    "nan",
    "1e400",
    "-1",
    "9" * 5000,
    "1e-400",
    "0x10",
    "１２",
    "１",
    "1_000",
    "٣",
    "inf",
    "2021-02-30",
    "30.02.1950",
    "1.0",
    "1,5",
    "TRUE",
    "=cmd|' /C calc'!A0",
    "../../private.txt",
    "\x1b]0;T\x07",
    "\u202eevil",
    "\u200b",
    "\ufeff",
    "\x00",
    "\x1a",
    "\x0b",
    "\x85",
    "\u2028",
    '"',
    '""',
    '"a',
    'a"b',
    '"a\nb"',
    "'",
    ";",
    ";;;",
    "A;" * 5000,
    "x" * 200_000,
    "<script>",
    "MRN-0001",
    "john@example.org",
    "\\N",
    "(null)",
    "e\u0301" * 100,
    "\U0010ffff",
)
HEADERS = (
    "record_id",
    "Record ID",
    "recordid",
    "patient_id",
    "scp_ecg",
    "SCP",
    "icd10",
    "",
    " ",
    "a" * 300_000,
    "\x1b",
)


def hostile_csv(rng: random.Random) -> bytes:
    """A table in CSV, changed in one or two ways."""
    rows = [line.split(",") for line in CSV.splitlines()]
    delimiter = rng.choice([",", ",", ";", "\t", "|"])
    for _ in range(rng.choice([1, 1, 2])):
        row = rng.choice(rows)
        match rng.randrange(9):
            case 0:
                rows[0][rng.randrange(len(rows[0]))] = rng.choice(HEADERS)
            case 1:
                row.append(rng.choice(CELLS))
            case 2:
                del row[-1:]
            case 3:
                rows.insert(rng.randrange(len(rows) + 1), [] if rng.random() < 0.5 else [""] * len(rows[0]))
            case 4:
                rows += [rng.choice(rows) for _ in range(rng.choice([1, 500]))]
            case 5:
                rows = [[*row, *["x"] * 12_000] for row in rows]
            case _:
                at = rng.randrange(len(row) + 1)
                row[at : at + 1] = [rng.choice(CELLS)]
        if not all(rows[:1]):
            break
    text = rng.choice(["\n", "\n", "\r\n", "\r", "\x85"]).join(delimiter.join(row) for row in rows)
    return _encoded(text, rng)


def _encoded(text: str, rng: random.Random) -> bytes:
    good = text.encode("utf-8", "surrogatepass")
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: good,
        lambda: good,
        lambda: good,
        lambda: good,
        lambda: b"\xef\xbb\xbf" + good,
        lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + good,
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-le"),
        lambda: text.encode("utf-32"),
        lambda: text.encode("utf-7"),
        lambda: text.encode("latin-1", "replace") + b"\xe4\xf6",
        lambda: text.encode("cp037", "replace"),
        lambda: gzip.compress(good),
        lambda: b"PK\x03\x04" + good,
        lambda: good + b"\x00" * rng.choice([1, 100_000]),
        lambda: good + b'"' + b"x," * 200_000,
        lambda: good[: rng.randrange(len(good))],
        lambda: good.replace(b"0", bytes([rng.randrange(256)])),
        lambda: b"",
        lambda: b"\n" * 100_000,
        lambda: bytes(rng.randrange(256) for _ in range(300)),
    )
    return rng.choice(ways)()


def hostile_parquet(rng: random.Random) -> bytes:
    """The same as a Parquet table, with other types, or its file broken."""
    names, *rows = [line.split(",") for line in CSV.splitlines()]
    table = pa.table({name: pa.array(list(cells)) for name, cells in zip(names, zip(*rows, strict=True), strict=True)})
    match rng.randrange(7):
        case 0:
            return change_footer(written(table, rng), rng)
        case 1:
            return text_bomb()
        case 2:
            # A text that is none: Arrow takes any bytes.
            i = rng.randrange(table.num_columns)
            wrong = pa.array([b"r0\xff", b"\xc3\x28", b"r2"]).view(pa.string())
            return written(table.set_column(i, table.column_names[i], wrong), rng)
        case 3:
            made = io.BytesIO()
            pq.write_table(table, made)
            content = bytearray(made.getvalue())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            return bytes(content)
        case 4:
            return written(change_columns(table, rng), rng)
        case 5:
            return written(change_rows(table, rng), rng)
    return written(change_cells(table, rng), rng)
