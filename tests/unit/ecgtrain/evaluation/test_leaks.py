"""The guard against leaks: each way in which a test can hold what was seen is planted, alone, and seen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgstore import open_store
from ecgstore.inner import parse
from ecgtrain.config import RunConfig
from ecgtrain.data.seen import COLUMNS, _near, read_seen, seen_of, shared, write_seen
from ecgtrain.errors import CheckpointError, LeakageError
from ecgtrain.evaluation.judge import refuse_unfair
from ecgtrain.evaluation.leaks import are_other_patients, refuse_leaks
from ecgtrain.training.prepare import prepare

SIGNATURES = [int(one) for one in np.random.default_rng(5).integers(1, 2**63, size=16)]


def table(first: int, n: int = 4, **columns) -> pa.Table:
    """Records ``first`` to ``first + n`` of a set, all different, each of a patient of its own."""
    numbers = range(first, first + n)
    made = {
        "record_id": [f"r{k}" for k in numbers],
        "patient_key": [f"p{k}" for k in numbers],
        "source": ["hospital"] * n,
        "site": [None] * n,
        "fold": [1] * n,
        "role": ["train"] * n,
        "patients": ["key abc"] * n,
        "n_samples": [1000] * n,
        "crc32": [1_000_000 + k for k in numbers],
        "source_crc32": [2_000_000 + k for k in numbers],
        "signature": [SIGNATURES[k] for k in numbers],
        **columns,
    }
    return pa.table({name: pa.array(made[name], kind) for name, kind in COLUMNS.items()})


def guard(seen: pa.Table, tested: pa.Table, **options) -> tuple[str, ...]:
    return refuse_leaks([seen], tested, between="pretraining and test", **options)


def test_a_clean_test_passes_without_a_word():
    assert guard(table(0), table(8)) == ()


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"patient_key": ["p0", "p9", "p10", "p11"]}, "1 patients are on both sides of pretraining and test; in p0"),
        (
            {"record_id": ["r1", "r9", "r10", "r11"], "signature": [0, *SIGNATURES[9:12]]},
            "1 records .told by their names",
        ),
        ({"source_crc32": [2_000_003, 7, 8, 9]}, "1 records .told by checksums"),
        (
            {"crc32": [1_000_002, 7, 8, 9], "signature": [SIGNATURES[2], *SIGNATURES[9:12]]},
            "1 records .told by checksums",
        ),
        (
            {"patient_key": [None, "p9", "p10", "p11"], "signature": [SIGNATURES[1] ^ 0b10101, *SIGNATURES[9:12]]},
            "1 records .told by their signatures",
        ),
        (
            {"patients": ["key other"] * 4, "signature": [SIGNATURES[1] ^ 0b1, *SIGNATURES[9:12]]},
            "1 records .told by their signatures",
        ),
    ],
    ids=["patient", "name", "file", "samples", "signal-nobody", "signal-other-key"],
)
@pytest.mark.parametrize("role", ["train", "selection"])
def test_each_leak_alone_is_refused(planted, said, role):
    seen, tested = table(0, role=[role] * 4), table(8, **planted)
    with pytest.raises(LeakageError, match=said) as refused:
        guard(seen, tested)
    assert "\n" not in str(refused.value)
    told = guard(seen, tested, allow=True)
    assert told[0].startswith("1 of 4 test records")
    assert "were seen in pretraining (allowed on request)" in told[0]


def test_what_was_only_watched_may_be_tested_on():
    assert guard(table(0, role=["validation"] * 4), table(0)) == ()


def test_equal_names_and_flat_signals_alone_are_no_leak():
    """Many folders have a record r0; and every flat signal has the same checksum."""
    assert guard(table(0), table(0, patient_key=["a", "b", "c", "d"], signature=SIGNATURES[4:8], crc32=[1] * 4,
                                 source_crc32=[1] * 4)) == ()  # fmt: skip
    flat = {"signature": [0] * 4, "crc32": [5] * 4, "source_crc32": [6] * 4}
    assert guard(table(0, **flat), table(8, **flat)) == ()


def test_what_cannot_be_told_is_said():
    nobody = guard(table(0), table(8, patient_key=[None] * 4))
    assert nobody == (
        "whether patients are on both sides is unknown: compared by signature only, and by name and checksum; 4 of 4 "
        "test records name no patient",
    )
    (keys,) = guard(table(0), table(8, patients=["key other"] * 4))
    assert "unknown: different keys: patients can't be compared" in keys
    (public,) = guard(table(0, patients=["the name hospital"] * 4), table(8))
    assert public == keys
    assert are_other_patients(guard(table(0), table(8)))
    assert not any(are_other_patients(told) for told in (nobody, (keys,), guard(table(0), table(0), allow=True)))
    near = table(8, signature=[SIGNATURES[1] ^ 1, *SIGNATURES[9:12]])
    (alike,) = guard(table(0), near)
    assert "1 test records look like records of pretraining that are stated to be of other patients" in alike
    old = table(0, **{name: [None] * 4 for name in ("signature", "crc32", "source_crc32", "n_samples")})
    assert any("older version" in text for text in guard(old, table(8)))


@pytest.mark.parametrize(
    ("seen", "tested", "known"),
    [
        (("cinc2021", "ptb-xl"), ("ptbxl", None), True),
        (("ptbxl", None), ("cinc2021", "ptb-xl"), True),
        (("cinc2021", "ningbo"), ("ptbxl", None), False),
        (("cinc2021", None), ("PTB-XL", None), True),
        (("cinc2020", "georgia"), ("cinc2021", "georgia"), True),
        (("mitdb", None), ("ptbxl", None), False),
    ],
)
def test_sets_that_hold_each_other_are_refused(seen, tested, known):
    one, other = (table(k, source=[name] * 4, site=[site] * 4) for k, (name, site) in ((0, seen), (8, tested)))
    if not known:
        assert guard(one, other) == ()
        return
    with pytest.raises(LeakageError, match=r"known to share records.*allow_overlap") as refused:
        guard(one, other)
    assert "\n" not in str(refused.value)
    (told,) = guard(one, other, allow=True)
    assert told.endswith("(allowed on request)")


def test_near_signatures_are_found_as_one_by_one():
    draw = np.random.default_rng(0)
    some = draw.integers(1, 2**64, size=300, dtype=np.uint64)
    others = draw.integers(1, 2**64, size=300, dtype=np.uint64)
    for k in range(150):
        bits = draw.choice(64, size=k % 12, replace=False)
        others[k] = some[k] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0))
    plain = (np.bitwise_count(some[:, None] ^ others[None, :]) <= 6).any(axis=0)
    assert 70 < plain.sum() < 150
    np.testing.assert_array_equal(_near(some, others), plain)
    assert not _near(np.zeros(3, np.uint64), np.zeros(3, np.uint64)).any()


def test_what_was_seen_reads_back_and_torn_tables_are_one_line(tmp_path, mini_store):
    store = open_store(mini_store)
    made = seen_of(store, store.select(folds=[1, 2]), "train")
    write_seen(tmp_path / "seen.parquet", [made], store.fingerprint)
    assert read_seen(tmp_path / "seen.parquet").replace_schema_metadata(None) == made
    assert shared(made, made).any.all()
    for content in (b"", b"PAR1", bytes(100), b"PAR1" + bytes(50) + b"\xff\xff\xff\x7fPAR1"):
        (tmp_path / "torn.parquet").write_bytes(content)
        with pytest.raises(CheckpointError) as refused:
            read_seen(tmp_path / "torn.parquet")
        assert "\n" not in str(refused.value)


def config(store, **pretraining):
    return parse(
        RunConfig,
        {
            "name": "tiny",
            "data": {"store": str(store)},
            "pretrain": {
                "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
                "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
                "folds": [1, 2, 3],
                "validation_folds": [8],
                "window_samples": 100,
                "batch_size": 4,
                "steps": 2,
                **pretraining,
            },
            "downstream": [
                {
                    "name": "q",
                    "task": "ptbxl/superdiagnostic",
                    "train_folds": [1, 2, 3],
                    "validation_folds": [7],
                    "test_folds": [8],
                    "window_samples": 100,
                    "stride_samples": 100,
                }
            ],
        },
    )


@pytest.mark.parametrize(
    "choosing", [{"keep": "best"}, {"patience": 2}, {"online_probe": "ptbxl/superdiagnostic"}], ids=str
)
def test_nothing_is_chosen_by_test_folds(mini_store, choosing):
    made = config(mini_store)
    refuse_unfair(made, prepare(made, "cpu"))
    made = config(mini_store, **choosing)
    with pytest.raises(LeakageError, match="patients are on both sides of pretraining and test"):
        refuse_unfair(made, prepare(made, "cpu"))
