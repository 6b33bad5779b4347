from __future__ import annotations

from pathlib import Path

import pytest

from ecgstore.build.plan import Recipe, Scanned, make_plan, scan
from ecgstore.errors import ConfigError
from ecgstore.record import LEADS_12, Listing, RecordRef, Rejection, Terms
from ecgstore.settings import parse
from ecgstore.sources import synthetic
from ecgstore.storage import layout
from ecgstore.wfdb_io.header import Header, SignalLayout

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


def scanned(n_samples, source_hz, gains=(200.0,) * 12, **settings):
    layout = SignalLayout(LEADS_12, gains, (0,) * 12, ("mV",) * 12)
    header = Header(source_hz, n_samples, LEADS_12, plain=True, layout=layout)
    return scan(RecordRef("r", ROOT / "r"), header, (), Recipe(**settings))


@pytest.mark.parametrize(
    ("n_samples", "source_hz", "settings"),
    [
        (100_000, 0.01, {}),
        (10, 0.01, {}),
        (10, 4.99, {"fs_hz": 500}),
        (100_000_000, 500, {"fs_hz": 1000}),
        (200_000_000, 100, {"fs_hz": None}),
    ],
)
def test_a_record_that_would_become_too_long_is_rejected_before_it_is_read(n_samples, source_hz, settings):
    rejection = scanned(n_samples, source_hz, **settings)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "too_large"
    assert rejection.detail.startswith(f"{n_samples} samples at {source_hz:g} Hz become")


@pytest.mark.parametrize(
    ("n_samples", "source_hz", "settings"),
    [(5000, 500, {}), (10, 1, {}), (86_400_000, 1000, {}), (10, 0.01, {"fs_hz": None}), (2500, 249.999872, {})],
)
def test_other_records_are_planned_without_a_word(n_samples, source_hz, settings):
    found = scanned(n_samples, source_hz, **settings)
    assert isinstance(found, Scanned)
    assert found.header.warnings == ()


def test_a_record_whose_time_slips_by_a_sample_says_its_true_rate():
    found = scanned(21_600_000, 249.999872)
    assert found.header.warnings == ("the true rate is 99.9999488 Hz: the record's end stands 0.0442 s early",)


def test_a_signal_without_a_gain_is_refused_unless_one_is_assumed_and_that_is_said():
    some = (200.0,) * 10 + (0.0, -5.0)
    refused = scanned(5000, 500, gains=some)
    assert (refused.reason, refused.detail.partition(" --")[0]) == ("bad_gain", "signal 10 states no gain;")
    assert "--uncalibrated assume=" in refused.detail
    negative = scanned(5000, 500, gains=some, uncalibrated="assume=100")
    assert (negative.reason, "signal 11" in negative.detail) == ("bad_gain", True)
    assumed = scanned(5000, 500, gains=(200.0,) * 10 + (0.0, 0.0), uncalibrated="assume=100")
    assert assumed.header.layout.gains == (200.0,) * 10 + (100.0, 100.0)
    assert assumed.header.warnings == ("calibration assumed: 100 counts per mV for signal 10, 11",)
    assert scanned(5000, 500, uncalibrated="assume=100").header.warnings == ()


@pytest.mark.parametrize("text", ["assume", "assume=", "assume=0", "assume=-5", "assume=nan", "assume=1e9", "200"])
def test_what_is_assumed_is_a_number_of_counts(text):
    with pytest.raises(ConfigError, match="assume=200"):
        parse(Recipe, {"uncalibrated": text})


def test_a_recipe_that_assumes_nothing_has_the_hash_it_always_had():
    assert "uncalibrated" not in Recipe().model_dump(mode="json")
    assert Recipe(uncalibrated="assume=200").sha256 != Recipe().sha256
    assert parse(Recipe, Recipe(uncalibrated="assume=200").model_dump(mode="json")).assumed_gain_per_mv == 200
