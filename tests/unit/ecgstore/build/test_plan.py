from __future__ import annotations

from pathlib import Path

from ecgstore.build.plan import Recipe, Scanned, make_plan
from ecgstore.record import Listing, RecordRef, Rejection, Terms
from ecgstore.sources import synthetic
from ecgstore.storage import layout
from ecgstore.wfdb_io.header import Header

TERMS = Terms(name="test", version="1", licence="CC0-1.0", redistributable=True)
ROOT = Path("/somewhere")
SOURCE = synthetic.Settings()


def planned(lengths, recipe=None, **changes):
    recipe = recipe or Recipe(fs_hz=100)
    refs = tuple(RecordRef(f"r{i}", ROOT / f"r{i}", **changes) for i in range(len(lengths)))
    scanned = [
        Scanned(ref, Header(fs_hz=100, n_samples=n, lead_names=("I",), plain=True))
        for ref, n in zip(refs, lengths, strict=True)
    ]
    return make_plan(Listing(refs, (), TERMS), scanned, recipe, SOURCE, ROOT)


def test_no_record_straddles_a_shard():
    plan = planned([15_000] * 10)
    for task in plan.tasks:
        assert task.n_shards == 1
        for record in task.records:
            assert (
                record.start // plan.work.shard_samples
                == (record.start + record.n_samples - 1) // plan.work.shard_samples
            )
    assert plan.n_records == 10
    assert plan.work.shard_samples == layout.CHUNK_SAMPLES


def test_a_record_longer_than_a_shard_has_its_shards_for_itself():
    longest = 3_000_000
    plan = planned([1000, longest, 1000])
    assert plan.work.shard_samples == 1_280_000
    assert [(task.first_shard, task.n_shards) for task in plan.tasks] == [(0, 1), (1, 3), (4, 1)]
    assert plan.tasks[1].records[0].start == plan.work.shard_samples


def test_places_do_not_overlap_and_keep_the_order():
    lengths = [37, 40_000, 1, 39_999, 2, 40_000]
    plan = planned(lengths)
    spans = [(r.start, r.start + r.n_samples) for task in plan.tasks for r in task.records]
    assert [b - a for a, b in spans] == lengths
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_the_hash_is_of_all_that_the_store_will_say():
    base = planned([1000, 1000])
    assert planned([1000, 1000]).sha256 == base.sha256
    others = [
        planned([1000, 1001]),
        planned([1000, 1000], fold=3),
        planned([1000, 1000], patient_id="p"),
        planned([1000, 1000], Recipe(fs_hz=100, leads=("I", "II"))),
        planned([1000, 1000], Recipe(fs_hz=100, filters=({"name": "notch", "freq_hz": 50.0},))),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 6


def test_the_second_record_of_the_same_name_is_rejected():
    ref = RecordRef("r0", ROOT / "r0")
    one = Scanned(ref, Header(fs_hz=100, n_samples=10, lead_names=("I",), plain=True))
    plan = make_plan(Listing((ref, ref), (), TERMS), [one, one], Recipe(), SOURCE, ROOT)
    assert plan.rejected == (Rejection("r0", "duplicate_id", "kept the first"),)
    assert plan.n_records == 1
