"""How long `ecgstore view` takes for a page of its list, where a store has a million records.

    python benchmarks/view.py --store S [--records 1000000] [--json]

The tables of a small store are repeated, under new ids, until there are so many rows; no samples are made. Each
question is asked for the first time (its order is found) and again (it was kept), through the server as a browser
asks it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa

from ecgstore import Store, open_store
from ecgstore.look.view.notes import Notes
from ecgstore.look.view.server import Serving
from ecgstore.look.view.view import View

QUESTIONS = {
    "all": {},
    "a statement": {"code": "scp_ecg:NORM"},
    "two statements, sex, age": {"code": ["scp_ecg:IMI", "scp_ecg:LVH"], "sex": "female", "age_years": "40..70"},
    "words": {"words": "bundle branch"},
    "an id": {"words": "r123456"},
    "sorted by age": {"sort": "-age_years"},
    "sorted by noise, of one fold": {"fold": "3", "sort": "-hf_noise_mv"},
}


def enlarged(store: Store, n_records: int) -> Store:
    """The store with so many rows: its tables again and again."""
    times = -(-n_records // store.n_records)
    first = np.repeat(np.arange(times), store.statements.num_rows) * store.n_records
    statements = pa.concat_tables([store.statements] * times).combine_chunks()
    row = pa.array(np.tile(store.statements["row"].to_numpy(), times) + first)
    statements = statements.set_column(statements.column_names.index("row"), "row", row)
    records = pa.concat_tables([store.records] * times).combine_chunks()
    ids = pa.array([f"r{i}" for i in range(records.num_rows)])
    store.records = records.set_column(records.column_names.index("record_id"), "record_id", ids)
    store.__dict__["statements"] = statements
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = enlarged(open_store(given.store), given.records)
        began = time.perf_counter()
        view = View(store, None, None, Notes(store, Path(folder) / "notes.parquet"))
        found: dict[str, object] = {"records": store.n_records, "opening_s": round(time.perf_counter() - began, 2)}
        serving = Serving(view)
        thread = threading.Thread(target=serving.run, daemon=True)
        thread.start()
        asked_ms(serving, "about", {})  # as the page does before it asks for its list
        for name, asked in QUESTIONS.items():
            found[name] = dict(zip(("first_ms", "again_ms", "counts_ms"), measured(serving, asked), strict=True))
            if not given.json:
                print(name, found[name])
        serving.stop()
        thread.join(30)
    if given.json:
        print(json.dumps(found))
    else:
        print(found["records"], "records, opened in", found["opening_s"], "s")


def measured(serving: Serving, asked: dict[str, object]) -> tuple[float, float, float]:
    """Milliseconds of a page asked for the first time, of the next pages (median of nine), and of the counts."""
    first = asked_ms(serving, "records", {**asked, "offset": 0})
    again = statistics.median(asked_ms(serving, "records", {**asked, "offset": 100 * i}) for i in range(9))
    return first, again, asked_ms(serving, "counts", asked)


def asked_ms(serving: Serving, path: str, asked: dict[str, object]) -> float:
    address = f"http://127.0.0.1:{serving.port}/api/{path}?{urlencode(asked, doseq=True)}"
    request = urllib.request.Request(address, headers={"cookie": f"ecgstore_view_{serving.port}={serving.token}"})
    began = time.perf_counter()
    urllib.request.urlopen(request).read()
    return round((time.perf_counter() - began) * 1000, 1)


if __name__ == "__main__":
    main()
