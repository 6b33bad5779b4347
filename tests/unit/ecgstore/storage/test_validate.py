"""What a store may not be: each rule of docs/format.md, broken in a store that is sealed again."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_stores import GOLDEN, reseal

from ecgstore import IngestSettings, IntegrityError, StoreFormatError, ingest_folder, open_store
from ecgstore.errors import ConfigError
from ecgstore.storage import layout, limits, manifest, tables, validate, validate_tables


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(GOLDEN / "v2.ecg", tmp_path / "a.ecg")


def edit(root, name, change):
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))
    reseal(root)


def put(root, name, column, values):
    table = tables.from_parquet((root / name).read_bytes())
    i = table.column_names.index(column)
    field = table.schema.field(i)
    changed = table.set_column(i, field, pa.array(values, field.type))
    pq.write_table(changed, root / name)
    reseal(root)


def deep(root):
    """What is wrong with a store, in one line per problem."""
    try:
        return open_store(root).verify(deep=True)
    except StoreFormatError as error:
        return [str(error)]


# --- the root and the array -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("shard_samples", 0, "wrong shard_samples"),
        ("shard_samples", -40_000, "wrong shard_samples"),
        ("shard_samples", 40_000.0, "wrong shard_samples"),
        ("shard_samples", 50_000, "shard_samples is wrong"),
        ("shard_samples", 33 * 40_000, "shard_samples is wrong"),
        ("leads", [], "wrong leads"),
        ("leads", ["I"] * 12, "wrong leads"),
        ("leads", [str(i) for i in range(12)], "don't begin with those of its preparation"),
        ("fs_hz", 0, "wrong fs_hz"),
        ("fs_hz", None, "only a raw store"),
        ("fs_hz", 250, "fs_hz is not the rate of the recipe"),
        ("statistics", {}, "no statistics of a fold that has records"),
        ("counts_per_mv", None, "contradict each other"),
        ("not_recorded", 0, "wrong not_recorded"),
        ("sources", [{"name": "x"}], "wrong sources"),
        ("vocabulary", {"scp_ecg": "NORM"}, "wrong vocabulary"),
        ("recipe_sha256", "0" * 64, "not the one that recipe_sha256 is of"),
        ("plan_sha256", "0" * 64, "different plans"),
        ("statistics", {"1": {"n": [1], "sum_counts": [1], "sum_squared_counts": [1]}}, "statistics of fold '1'"),
        ("format_version", 1, "different format versions"),
        ("format_version", True, "format version that this release can't read"),
        ("storage", {"codec": "pickle", "quality": "basic"}, "wrong storage"),
    ],
)
def test_attributes_are_what_the_format_says(root, name, value, said):
    edit(root, "zarr.json", lambda content: content["attributes"].update({name: value}))
    (problem,) = deep(root)
    assert said in problem


def test_statistics_that_no_samples_can_have(root):
    def change(content):
        fold = next(iter(content["attributes"]["statistics"].values()))
        fold["sum_counts"][0] = 10**12  # more than its squares allow

    edit(root, "zarr.json", change)
    assert "the statistics of fold" in deep(root)[0]


@pytest.mark.parametrize("name", ["recipe", "leads", "fs_hz", "sources", "shard_samples", "vocabulary", "software"])
def test_every_attribute_is_there(root, name):
    edit(root, "zarr.json", lambda content: content["attributes"].pop(name))
    assert f"lacks {name}" in deep(root)[0]


INNER = ["codecs", 0, "configuration", "codecs"]


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (["fill_value"], 0, "fill_value of the signal"),
        (["fill_value"], -32768.0, "fill_value of the signal"),
        (["data_type"], "int32", "data_type of the signal"),
        (["shape", 1], 10**15, "wrong shape"),
        (["shape", 1], 10**9, "too many shards have no object"),
        (["shape", 1], 3001, "does not end with its last record"),
        (["shape", 1], 2999, "outside the signal"),
        (["shape", 0], 13, "another number of leads"),
        (["chunk_grid", "configuration", "chunk_shape"], [12, 3000], "chunk_grid of the signal"),
        (["chunk_key_encoding", "configuration", "separator"], ".", "chunk_key_encoding of the signal"),
        (["zarr_format"], 2, "zarr_format of the signal"),
        (["node_type"], "group", "node_type of the signal"),
        (["storage_transformers"], [{"name": "x"}], "storage_transformers of the signal"),
        ([*INNER, 1, "name"], "numcodecs.pickle", "codecs of the signal"),
        ([*INNER, 1, "name"], "gzip", "codecs of the signal"),
        ([*INNER, 1, "configuration", "typesize"], 4, "codecs of the signal"),
        ([*INNER, 1, "configuration", "id"], "pickle", "codecs of the signal"),
        ([*INNER, 2], {"name": "crc32c", "configuration": {"x": 1}}, "codecs of the signal"),
        (["codecs", 0, "configuration", "index_location"], "start", "codecs of the signal"),
        (["codecs", 0, "configuration", "chunk_shape"], [12, 20_000], "codecs of the signal"),
        (["filters"], [{"id": "pickle"}], "filters of the signal"),
    ],
)
def test_the_array_is_the_one_that_is_written(root, way, value, said):
    def change(content):
        *path, last = way
        for key in path:
            content = content[key]
        content[last] = value

    edit(root, "signal/zarr.json", change)
    (problem,) = deep(root)
    assert said in problem


def test_the_root_tells_of_the_array_that_is_there(mini_store, tmp_path):
    root = Path(shutil.copytree(mini_store, tmp_path / "mini.ecg"))
    told = json.loads((root / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    assert told == {"signal": json.loads((root / "signal/zarr.json").read_bytes())}
    told["signal"]["shape"] = [12, 7]
    edit(root, "zarr.json", lambda content: content["consolidated_metadata"].update(metadata=told))
    with pytest.raises(StoreFormatError, match="describes another array"):
        open_store(root)
    edit(root, "zarr.json", lambda content: content.pop("consolidated_metadata"))
    open_store(root)


def test_without_checksums_of_chunks_it_is_no_store(root):
    edit(root, "signal/zarr.json", lambda content: content["codecs"][0]["configuration"]["codecs"].pop())
    assert "codecs of the signal" in deep(root)[0]


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_zarr_of_version_2_is_never_decoded(root, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    about = {"zarr_format": 2, "shape": [12, 3000], "chunks": [12, 3000], "dtype": "|O", "compressor": None}
    about |= {"fill_value": "0", "order": "C", "filters": [{"id": "pickle", "protocol": 4}], "dimension_separator": "/"}
    (root / "signal/.zarray").write_text(json.dumps(about))
    (root / "signal/c/0/0").write_bytes(pickle.dumps(_Payload(tmp_path / "ran"), protocol=4))
    said = json.loads((root / "manifest.json").read_text())
    for name in ("signal/.zarray", "signal/c/0/0"):
        found = manifest.hash_object(root / name)
        said["objects"][name] = [found.size, found.sha256]
    (root / "manifest.json").write_text(json.dumps(said))
    reseal(root)
    with pytest.raises(StoreFormatError, match=r"names what no store holds.*\.zarray"):
        open_store(root)
    del said["objects"]["signal/.zarray"]  # a file that the manifest passes over is never looked at
    (root / "manifest.json").write_text(json.dumps(said))
    reseal(root)
    with pytest.raises(IntegrityError):
        open_store(root).read("50")
    assert not (tmp_path / "ran").exists()


# --- names, files, sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../secret",
            "/etc/passwd",
            "signal/../x",
            "signal\\c\\0\\0",
            "signal/c/0/00",
            "signal/c/1/0",
            "x.parquet",
            "",
        ),
        *("commits/../../x.json", "commits/000000.exe", "building.json", "signal/c/0/-1", "records.parquet/", "a\nb"),
    ],
)
def test_a_manifest_names_what_a_store_consists_of(root, name):
    edit(root, "manifest.json", lambda content: content["objects"].update({name: [1, "0" * 64]}))
    with pytest.raises(StoreFormatError, match="names what no store holds"):
        open_store(root)


@pytest.mark.parametrize(
    "pair", [[-1, "0" * 64], [1.5, "0" * 64], [True, "0" * 64], [1, "0"], [1], None, [1, "G" * 64]]
)
def test_sizes_and_hashes_are_such(root, pair):
    edit(root, "manifest.json", lambda content: content["objects"].update({"commits/000000.arrow": pair}))
    with pytest.raises(IntegrityError, match="no size and hash"):
        open_store(root)


def test_links_pipes_and_sockets_are_never_opened(root, tmp_path):
    (tmp_path / "else.parquet").write_bytes((root / "statements.parquet").read_bytes())
    (root / "statements.parquet").unlink()
    (root / "statements.parquet").symlink_to(tmp_path / "else.parquet")
    store = open_store(root)
    with pytest.raises(StoreFormatError, match="no plain file stands in the store.*cp -rL"):
        _ = store.statements
    (root / "beats.parquet").unlink()
    os.mkfifo(root / "beats.parquet")
    with pytest.raises(StoreFormatError, match="no plain file"):
        _ = store.beats
    (root / "signal/c/0/0").unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "signal/c/0/0"))
        problems = store.verify(deep=True)
    names = ["beats.parquet", "signal/c/0/0", "statements.parquet"]
    assert [problem.partition(":")[0] for problem in problems] == names
    assert all("no plain file" in problem for problem in problems)


def test_a_linked_folder_in_a_store_is_never_entered(root, tmp_path):
    shutil.move(root / "signal/c", tmp_path / "c")
    (root / "signal/c").symlink_to(tmp_path / "c")
    with pytest.raises(StoreFormatError, match="no plain file stands in the store"):
        open_store(root).read("50")


def test_a_store_in_a_cache_made_of_links_is_refused_with_its_cure(root, tmp_path):
    snapshot = tmp_path / "datasets--team--ecg" / "snapshots" / "0123abc"
    shutil.copytree(root, snapshot, copy_function=os.symlink)
    with pytest.raises(StoreFormatError, match=r"no plain file.*hf download NAME --local-dir FOLDER"):
        open_store(snapshot)


def test_a_store_that_is_named_by_a_link_opens(root, tmp_path):
    (tmp_path / "link.ecg").symlink_to(root)
    assert open_store(tmp_path / "link.ecg").verify(deep=True) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 50 + "1" + "}" * 50, "nested too deeply"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "a key stands there twice"),
        ('{"a": "\\ud800"}', "not JSON"),
        ("[1]", "no JSON object"),
        ("{" * 3, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a": [' + "1," * 1_000_001 + "1]}", "says too much"),
        ('{"a": "' + "x" * 2_000_000 + '"}', "too large"),
    ],
)
def test_json_is_bounded(text, said):
    with pytest.raises(StoreFormatError, match=said) as error:
        validate.parse_json(text.encode(), "x", 3_000_000 if "1,1" in text else 1_000_000)
    assert len(str(error.value)) < 400


def test_limits_can_be_raised(root, monkeypatch):
    monkeypatch.setattr(limits.Limits, "__init__", _small_limits(limits.Limits.__init__))
    with pytest.raises(StoreFormatError, match="too large.*ECGSTORE_LIMITS_TIMES=4"):
        open_store(root)
    monkeypatch.setenv(limits.TIMES, "1000")
    assert open_store(root).n_records == 3
    for wrong in ("0", "-1", "1.5", "many", "9" * 30):
        monkeypatch.setenv(limits.TIMES, wrong)
        with pytest.raises(ConfigError, match="no number of times"):
            open_store(root)


def _small_limits(init):
    def smaller(self, *values):
        init(self, *(values or (100, *[1 << 20] * 13)))

    return smaller


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("start", [-1000, 1000, 2000], "outside the signal"),
        ("start", [0, 1000, 10**9], "outside the signal"),
        ("start", [0, 500, 2000], "records overlap"),
        ("start", [0, 2000, 1000], "order of their start"),
        ("n_samples", [1000, 0, 1000], "outside the signal"),
        ("n_samples", [1000, 1001, 1000], "records overlap"),
        ("n_samples", [2**63 - 1] * 3, "outside the signal"),
        ("shard", [0, 1, 0], "not the shard"),
        ("shard", [-(2**31)] * 3, "not the shard"),
        ("record_id", ["a"] * 3, "records share an id"),
        ("record_id", [None, "a", "b"], "record_id lacks a value"),
        ("record_id", ["x" * 2000, "a", "b"], "too long"),
        ("lead_states", ["m" * 11] * 3, "lead_states are wrong"),
        ("lead_states", ["mmmmmmmmmmmM"] * 3, "lead_states are wrong"),
        ("fold", [-1, 1, 2], "fold is out of range"),
        ("age_years", [float("inf"), 1, 2], "age_years is out of range"),
        ("age_years", [float("nan"), 1, 2], "age_years is out of range"),
        ("age_years", [-5, 1, 2], "age_years is out of range"),
        ("sex", ["x", None, None], "a word that it can't"),
        ("source", ["elsewhere"] * 3, "a word that it can't"),
        ("source_fs_hz", [0.0] * 3, "source_fs_hz is out of range"),
        ("crc32", [None] * 3, "crc32 lacks a value"),
        ("crc32", [1, 2, 3], "is not what was written|not those that were written"),
    ],
)
def test_records_are_what_the_format_says(root, column, values, said):
    put(root, layout.RECORDS, column, values)
    problems = deep(root)
    assert any(part in problem for problem in problems for part in said.split("|")), problems


@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("statements", "row", 99, "a record that is not there"),
        ("statements", "row", -1, "a record that is not there"),
        ("statements", "row", None, "row lacks a value"),
        ("statements", "code", None, "code lacks a value"),
        ("statements", "likelihood", float("nan"), "likelihood is out of range"),
        ("rejected", "reason", "because", "a word that it can't"),
    ],
)
def test_other_tables_are_what_the_format_says(root, name, column, value, said):
    table = tables.from_parquet((root / f"{name}.parquet").read_bytes())
    if not len(table):
        table = pa.table({"record_id": ["x"], "reason": ["bad_gain"], "detail": [""]}, schema=table.schema)
        pq.write_table(table, root / f"{name}.parquet")
    put(root, f"{name}.parquet", column, [value] * len(table))
    (problem,) = open_store(root).verify()
    assert said in problem


def test_columns_have_their_names_and_types(root):
    path = root / layout.RECORDS
    table = tables.from_parquet(path.read_bytes())
    changes = {
        "lacks a column": table.drop_columns(["crc32"]),
        "doesn't know": table.append_column("x", pa.nulls(3, pa.string())),
        "wrong type": table.set_column(0, "record_id", table["record_id"].cast(pa.large_string())),
        "column twice": table.append_column("fold", table["fold"]),
        "can't be read": None,
    }
    for said, changed in changes.items():
        if changed is None:
            path.write_bytes(b"PAR1 and nothing else PAR1")
        else:
            pq.write_table(changed, path)
        reseal(root)
        with pytest.raises(StoreFormatError, match=said):
            open_store(root)


def test_a_small_file_that_is_huge_in_memory_is_not_read(root):
    schema = tables.STATEMENTS_SCHEMA
    n_rows = 2_000_000
    zeros = pa.array(np.zeros(n_rows, np.int32))
    texts = (pa.DictionaryArray.from_arrays(zeros, pa.array([text])) for text in ("x" * 60_000, "scp_ecg"))
    columns = [zeros.cast(pa.int64()), *texts, pa.nulls(n_rows, pa.float32())]
    pq.write_table(pa.table(columns, names=schema.names), root / layout.STATEMENTS, store_schema=False)
    assert (root / layout.STATEMENTS).stat().st_size < 1_000_000
    reseal(root)
    before = pa.default_memory_pool().max_memory()
    (problem,) = open_store(root).verify()
    assert "too large in memory" in problem  # 120 GB
    assert pa.default_memory_pool().max_memory() < max(before, 500_000_000)


def test_a_table_of_too_many_rows_is_not_read(root, monkeypatch):
    monkeypatch.setattr(validate_tables, "limits", lambda: limits.Limits(rows=2))
    with pytest.raises(StoreFormatError, match="too many rows.*expected 2 at most, got 3"):
        open_store(root)


def test_text_that_is_not_utf_8_is_found(root):
    table = tables.from_parquet((root / layout.RECORDS).read_bytes())
    odd = pa.array([b"50\xff", b"51", b"52"], pa.binary())
    odd = pa.StringArray.from_buffers(3, odd.buffers()[1], odd.buffers()[2])
    pq.write_table(table.set_column(0, "record_id", odd), root / layout.RECORDS)
    reseal(root)
    with pytest.raises(StoreFormatError, match="record_id holds a text that is not UTF-8"):
        open_store(root)


def test_samples_between_records_are_found(root):
    table = tables.from_parquet((root / layout.RECORDS).read_bytes())
    pq.write_table(table.take([0, 2]), root / layout.RECORDS)
    for name in (layout.STATEMENTS, layout.BEATS):
        pq.write_table(tables.from_parquet((root / name).read_bytes()).slice(0, 0), root / name)
    pq.write_table(tables.from_parquet((root / layout.LEADS).read_bytes()).take([0, 2]), root / layout.LEADS)
    edit(root, "zarr.json", lambda content: content["attributes"]["statistics"].pop("5"))
    assert deep(root)[0] == "signal/c/0/0: samples that belong to no record"


@pytest.mark.parametrize("claimed", [2**31 - 1, 0, 960_001])
def test_a_chunk_that_claims_another_size_is_never_unpacked(root, claimed):
    path = root / "signal/c/0/0"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-12:-4], "little")  # of its only chunk, which begins the object
    content[4:8] = claimed.to_bytes(4, "little")
    content[length - 4 : length] = crc32c(content[: length - 4])
    store = sealed_with_shard(root, content)
    for read in (lambda: store.read_shard(0), lambda: store.read("50", stop_s=1)):
        with pytest.raises(IntegrityError, match="a chunk claims another size than it has"):
            read()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("offset", "length"), [(2**64 - 2, 2), (0, 2**63), (2**64 - 1, 16)])
def test_an_index_that_points_out_of_its_shard_is_followed_nowhere(root, offset, length):
    path = root / "signal/c/0/0"
    content = bytearray(path.read_bytes())
    content[-20:-12], content[-12:-4] = offset.to_bytes(8, "little"), length.to_bytes(8, "little")
    content[-4:] = crc32c(content[-20:-4])
    store = sealed_with_shard(root, content)
    for read in (lambda: store.read_shard(0), lambda: store.read("50", stop_s=1)):
        with pytest.raises(IntegrityError, match="the index of a shard points out of it"):
            read()


def sealed_with_shard(root, content):
    """The store, opened, with another first shard."""
    (root / "signal/c/0/0").write_bytes(content)
    said = json.loads((root / "manifest.json").read_text())
    said["objects"]["signal/c/0/0"] = [len(content), hashlib.sha256(content).hexdigest()]
    (root / "manifest.json").write_text(json.dumps(said))
    reseal(root)
    return open_store(root)


def crc32c(content):
    """CRC-32C (Castagnoli), little endian, as it stands behind a chunk."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def test_a_gain_of_a_raw_store_is_a_number_or_null(tmp_path, write_record):
    write_record(tmp_path / "src", leads=("I", "II"))
    root = tmp_path / "raw.ecg"
    ingest_folder(tmp_path / "src", root, IngestSettings(profile="raw"))
    for gain, problem in ((0.0, True), (float("inf"), True), (float("nan"), True), (None, False), (-5.0, False)):
        put(root, layout.LEADS, "gain_per_mv", [[1000.0, gain, *[1.0] * 10]])
        assert any("a gain is zero, or no number" in one for one in deep(root)) == problem, gain
        assert problem or np.isnan(open_store(root).read("r1").signal_mv_lt[1]).all() == (gain is None)


@pytest.mark.parametrize(
    ("name", "n_bytes", "said"),
    [("commits/000000.arrow", 2**30 + 1, "an object is too large"), ("signal/c/0/0", 2**22, "a shard is too large")],
)
def test_nothing_is_sealed_that_takes_hours_to_hash(root, name, n_bytes, said):
    os.truncate(root / name, n_bytes)
    content = json.loads((root / layout.MANIFEST).read_text())
    content["objects"][name] = [n_bytes, "0" * 64]
    (root / layout.MANIFEST).write_text(json.dumps(content))
    objects = {name: manifest.ObjectHash(*pair) for name, pair in content["objects"].items()}
    content["fingerprint"] = manifest.fingerprint(objects)
    (root / layout.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(StoreFormatError, match=said):
        open_store(root)


@pytest.mark.parametrize("name", [layout.MANIFEST, layout.RECORDS, layout.BEATS, "signal/c/0/0"])
def test_a_folder_in_the_place_of_a_file_is_one_line(root, name):
    (root / name).unlink()
    (root / name).mkdir()

    def read():
        store = open_store(root)
        store.read_beats(store.id_of(0))
        store.read_shard(0)

    with pytest.raises(StoreFormatError, match="no plain file"):
        read()
