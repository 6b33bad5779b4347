"""The plan as files: what other processes do is what was planned, and parts need not plan again."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore import open_store
from ecgstore.build import ingest, planned
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.parts import seal_store
from ecgstore.build.plan import Planned, Recipe, Scanned, Task, Work, make_plan
from ecgstore.build.planning import plan
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import IntegrityError, StoreExists
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms
from ecgstore.settings import Settings
from ecgstore.sources import synthetic
from ecgstore.storage import layout, tables
from ecgstore.wfdb_io.header import Header, Segment, SignalLayout

ROOT = Path("/somewhere")
ONE = SignalLayout(("I",), (200.5,), (-3,), ("mV",), (0,), ("16",), (1,), (0,), (0,))


def odd_plan():
    """Records with everything that a record can have, one of them longer than a shard."""
    part = Header(250, 2000, ("I",), True, ONE, ("p.dat",), b"\x01\x00\x00\x00" * 2, "ab" * 32)
    segments = (Segment("p", 9, part, (0,)), Segment("~", 3, None, ()))
    stated = (Statement("A", "own", 50.0), Statement("B", "own"))
    headers = [
        Header(250, 1000, ("I",), True, ONE, ("a.dat",), b"\xff\x00\x80\x00" * 2, "01" * 32, warnings=("a word",)),
        Header(360, 3600, ("I",), False, ONE, (), b"", "02" * 32, 2, segments),
        Header(250, 250 * 15_000, ("I",), True, ONE, ("c.dat",), b"", "03" * 32),
        Header(250, 500, ("I",), True, ONE, ("d.dat",), b"", "04" * 32),
    ]  # fmt: skip
    refs = [
        RecordRef("ward/ü1", ROOT / "ward/ü1", "P1", 3, 50.5, "female", stated),
        RecordRef("two", ROOT / "two", None, None, None, None, (), "a site", ("atr", "ecg"), 0.5, True),
        RecordRef("far", Path("/elsewhere/far"), "P1", inside="a place in it"),
        RecordRef("last", ROOT / "last"),
    ]  # fmt: skip
    listing = Listing(tuple(refs), (), Terms("test", "1", "", True), notes=("a note",))
    left_out = Rejection("bad", "bad_header", "said so")
    scanned = [*(Scanned(ref, header) for ref, header in zip(refs, headers, strict=True)), left_out]
    return make_plan(listing, scanned, Recipe(fs_hz=100, leads=("I",)), synthetic.Settings(), ROOT)


def of_stored(record: Planned) -> Planned:
    """A record as its task needs it; what only the store says of it goes another way."""
    bare = replace(record.ref, patient_id=None, age_years=None, sex=None, statements=(), site=None)
    return replace(record, ref=bare)


def test_a_task_reads_its_records_as_they_were_planned(tmp_path):
    made = odd_plan()
    stretches = planned.write(tmp_path, made, ROOT, "key", lambda patient: f"hash of {patient}")
    assert [one.n_shards for one in stretches] == [task.n_shards for task in made.tasks] == [1, 2, 1]
    for stretch, task in zip(stretches, made.tasks, strict=True):
        found = planned.read_task(tmp_path, stretch, ROOT, made.work)
        assert found == Task(task.first_shard, task.n_shards, tuple(map(of_stored, task.records)))
        assert len(pickle.dumps(stretch)) < 500


def test_a_plan_that_is_read_back_says_what_it_said(tmp_path):
    made = odd_plan()
    stretches = planned.write(tmp_path, made, ROOT, "key", lambda patient: f"hash of {patient}")

    def work(leads, shard_samples):
        return Work(made.work.recipe, made.work.storage, tuple(leads), shard_samples)

    assert planned.load(tmp_path, "another key", made.source, work) is None
    found = planned.load(tmp_path, "key", made.source, work)
    assert found.units == stretches
    same = ("work", "source", "rejected", "total_samples", "vocabulary", "vocabulary_by_site", "sha256", "needs_wfdb")
    assert [getattr(found, name) for name in same] == [getattr(made, name) for name in same]
    assert (found.n_records, found.listing.terms, found.listing.notes) == (4, made.listing.terms, made.listing.notes)
    facts = pa.concat_tables(planned.facts(tmp_path, found, str))
    assert facts.equals(pa.concat_tables(planned.facts(tmp_path, made, lambda patient: f"hash of {patient}")))
    assert facts["patient_key"].to_pylist() == ["hash of P1", None, "hash of P1", None]
    assert facts["likelihoods"].to_pylist()[0] == [50.0, None]


def test_many_tasks_stand_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "TASKS_PER_FILE", 2)
    made = odd_plan()
    stretches = planned.write(tmp_path, made, ROOT, "key", str)
    assert [(one.file, one.group) for one in stretches] == [
        ("00000.parquet", 0),
        ("00000.parquet", 1),
        ("00001.parquet", 0),
    ]
    assert planned.read_task(tmp_path, stretches[2], ROOT, made.work).records[0].ref.record_id == "last"
    read_back = replace(made, tasks=(), stretches=stretches)
    ids = [part["record_id"].to_pylist() for part in planned.facts(tmp_path, read_back, str)]
    assert ids == [["ward/ü1", "two"], ["far"], ["last"]]


@pytest.mark.parametrize("harm", ["torn", "one byte", "another plan's", "gone", "its other task"])
def test_files_that_are_not_the_plans_are_found_out(tmp_path, harm):
    made = odd_plan()
    stretch = planned.write(tmp_path, made, ROOT, "key", str)[0]
    path = tmp_path / layout.PLAN / stretch.file
    content = path.read_bytes()
    if harm == "torn":
        path.write_bytes(content[:-20])
    elif harm == "one byte":
        group = pq.ParquetFile(path).metadata.row_group(0)
        column = next(
            group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "n_samples"
        )
        at = column.dictionary_page_offset + column.total_compressed_size - 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif harm == "another plan's":
        planned.write(tmp_path, make_other(made), ROOT, "key", str)
    elif harm == "gone":
        path.unlink()
    else:
        stretch = replace(stretch, group=2)
    with pytest.raises(IntegrityError, match="the plan of the store is damaged"):
        planned.read_task(tmp_path, stretch, ROOT, made.work)


def make_other(made):
    records = tuple(replace(record, start=record.start + 1) for record in made.tasks[0].records)
    return replace(made, tasks=(replace(made.tasks[0], records=records), *made.tasks[1:]))


@pytest.fixture
def source(tmp_path, mini):
    """The bundled records as a plain folder, with patients in a table: two shards of them."""
    root = tmp_path / "source"
    root.mkdir()
    for path in (mini / "records500").rglob("*.*"):
        shutil.copy(path, root)
    stems = sorted(path.stem for path in root.glob("*.hea"))
    rows = [f"{stem},Smith-{i // 2},{'AF' if i % 3 else 'SR'}" for i, stem in enumerate(stems)]
    (root / "labels.csv").write_text("\n".join(["record_id,patient_id,diagnosis", *rows]) + "\n")
    return root


def settings(**more) -> IngestSettings:
    labels = {"name": "wfdb_folder", "labels": "labels.csv", "statements": ["diagnosis"]}
    return IngestSettings(**{"source": labels, "patient_key": "a secret that is long", **more})


def count_plans(monkeypatch) -> list[Settings]:
    plans = []

    def counted(*args, **kwargs):
        plans.append(args)
        return plan(*args, **kwargs)

    monkeypatch.setattr(ingest, "plan", counted)
    return plans


def test_one_part_plans_for_all_and_for_the_seal(source, tmp_path, monkeypatch):
    whole = ingest_folder(source, tmp_path / "whole.ecg", settings())
    out = tmp_path / "out.ecg"
    plans = count_plans(monkeypatch)
    reports = [ingest_folder(source, out, settings(), part=(i, 2)) for i in (1, 2)]
    assert len(plans) == 1
    assert [(one.records, one.n_shards) for one in reports] == [(53, 2), (53, 2)]
    said = b"".join(path.read_bytes() for path in (out / layout.PLAN).iterdir())
    assert said
    names = pq.ParquetFile(out / layout.PLAN / "00000.parquet").schema_arrow.names
    assert "patient_id" not in names
    table = tables.from_parquet((out / layout.PLAN / "00000.parquet").read_bytes())
    assert "Smith" not in str(table.to_pylist())
    assert seal_store(out, patient_key="a secret that is long").fingerprint == whole.fingerprint
    assert len(plans) == 1
    assert open_store(out).verify(deep=True) == []
    assert not list(out.glob("building*"))


def test_the_source_may_be_seen_under_another_path(source, tmp_path):
    whole = ingest_folder(source, tmp_path / "whole.ecg", settings())
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    other = shutil.copytree(source, tmp_path / "mounted/there")
    ingest_folder(other, out, settings(), part=(2, 2))
    assert seal_store(out, patient_key="a secret that is long").fingerprint == whole.fingerprint


def test_labels_that_changed_since_the_plan_are_refused(source, tmp_path):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    labels = source / "labels.csv"
    labels.write_text(labels.read_text().replace("SR", "AF"))
    with pytest.raises(StoreExists, match="other settings"):
        ingest_folder(source, out, settings(), part=(2, 2))
    with pytest.raises(StoreExists, match="the source is not what it was"):
        seal_store(out, patient_key="a secret that is long")


@pytest.mark.parametrize("change", ["header", "gone"])
def test_a_header_that_changed_since_the_plan_is_refused(source, tmp_path, change):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    hea = sorted(source.glob("*.hea"))[-1]
    if change == "gone":
        hea.unlink()
    else:
        hea.write_text(hea.read_text().replace("1000.0", "500.0"))
    with pytest.raises(StoreExists, match="the source is not what it was when this store was begun"):
        ingest_folder(source, out, settings(), part=(2, 2))


@pytest.mark.parametrize("more", [{"patient_key": "another long secret"}, {"fs_hz": 250}, {"record_ids": "hashed"}])
def test_a_part_of_other_settings_is_refused(source, tmp_path, more):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    with pytest.raises(StoreExists, match="other settings"):
        ingest_folder(source, out, settings(**more), part=(2, 2))


def test_without_the_plans_files_a_part_plans_again(source, tmp_path, monkeypatch):
    whole = ingest_folder(source, tmp_path / "whole.ecg", settings())
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    (out / layout.PLAN / "plan.json").write_text('{"torn')
    plans = count_plans(monkeypatch)
    ingest_folder(source, out, settings(), part=(2, 2))
    assert len(plans) == 1
    shutil.rmtree(out / layout.PLAN)
    assert seal_store(out, patient_key="a secret that is long").fingerprint == whole.fingerprint
    assert len(plans) == 2


def forge_records(out, name, change):
    """Another plan beside an unfinished store, whole in itself: ``change`` was done to a column of its records."""
    folder = out / layout.PLAN
    sha256 = {}
    for path in folder.glob("0*.parquet"):
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
        with pq.ParquetWriter(path, groups[0].schema) as writer:
            for group in groups:
                at = group.column_names.index(name)
                field = group.schema.field(name)
                changed = pa.array([change(one) for one in group[name].to_pylist()], field.type)
                writer.write_table(group.set_column(at, field, changed))
        sha256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = tables.from_parquet((folder / "tasks.parquet").read_bytes())
    rewritten = [sha256[one] for one in listed["file"].to_pylist()]
    forge_lists(out, listed.set_column(listed.column_names.index("file_sha256"), "file_sha256", [rewritten]))


def forge_lists(out, listed):
    folder = out / layout.PLAN
    (folder / "tasks.parquet").write_bytes(tables.to_parquet(listed))
    about = json.loads((folder / "plan.json").read_text())
    del about["sha256"]
    about["lists"]["tasks"] = hashlib.sha256((folder / "tasks.parquet").read_bytes()).hexdigest()
    own = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (folder / "plan.json").write_text(json.dumps({**about, "sha256": own}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("header.n_samples", lambda n: n - 1),
        ("header.stated", lambda stated: b""),
        ("header.warnings", lambda warnings: ["another"]),
        ("source_fs_hz", lambda fs_hz: 2 * fs_hz),
    ],
)
def test_what_a_plan_from_elsewhere_says_of_a_header_is_not_believed(source, tmp_path, name, change):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    forge_records(out, name, change)
    with pytest.raises(StoreExists, match="another header of record"):
        ingest_folder(source, out, settings(), part=(2, 2))


def test_a_plan_from_elsewhere_without_a_task_is_made_anew(source, tmp_path):
    whole = ingest_folder(source, tmp_path / "whole.ecg", settings())
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    forge_lists(out, tables.from_parquet((out / layout.PLAN / "tasks.parquet").read_bytes()).slice(0, 0))
    ingest_folder(source, out, settings(), part=(2, 2))
    assert seal_store(out, patient_key="a secret that is long").fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["plan.json", "tasks.parquet", "rejected.parquet", "00000.parquet"])
def test_a_changed_bit_of_a_plan_is_found_out(source, tmp_path, name):
    """Wherever it stands: the plan is made anew, or its file refused, and no other store comes out."""
    whole = ingest_folder(source, tmp_path / "whole.ecg", settings())
    begun = tmp_path / "begun.ecg"
    ingest_folder(source, begun, settings(), part=(1, 2))
    n = (begun / layout.PLAN / name).stat().st_size
    for at in np.random.default_rng(len(name)).choice(n, 4, replace=False):
        out = shutil.copytree(begun, tmp_path / f"{at}.ecg")
        content = bytearray((out / layout.PLAN / name).read_bytes())
        content[at] ^= 4
        (out / layout.PLAN / name).write_bytes(content)
        if name == "00000.parquet":
            with pytest.raises(IntegrityError, match="the plan of the store is damaged"):
                ingest_folder(source, out, settings(), part=(2, 2))
            shutil.rmtree(out / layout.PLAN)
        ingest_folder(source, out, settings(), part=(2, 2))
        assert seal_store(out, patient_key="a secret that is long").fingerprint == whole.fingerprint


def test_a_plan_from_elsewhere_reads_nothing_outside_the_source(source, tmp_path):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, settings(), part=(1, 2))
    secret = tmp_path / "secret"
    source.rename(secret)
    source.mkdir()
    shutil.copy2(secret / "labels.csv", source)
    # As if somebody had written a plan whose paths lead out of the folder.
    forge_records(out, "path", lambda path: f"../secret/{path.decode()}".encode())
    assert json.loads((out / layout.BUILDING).read_text())["source_root"] == str(source)
    with pytest.raises(StoreExists, match="the source is not what it was"):
        ingest_folder(source, out, settings(), part=(2, 2))
