"""The compiled loops and those in NumPy give the same bits, on whatever is handed to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecgstore.kernel import plain
from ecgstore.signals.decimation import decimation

try:
    from ecgstore.kernel import compiled
except OSError as error:
    compiled = None
    WHY = str(error)

if compiled is None:
    pytest.skip(f"nothing is compiled here: {WHY}", allow_module_level=True)

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 70))
ONE_COUNT = st.one_of(st.integers(-32768, 32767), st.just(-32768))
COUNTS = hnp.arrays(np.int16, SHAPES, elements=ONE_COUNT)
MILLIVOLTS = hnp.arrays(
    np.float32,
    SHAPES,
    elements=st.one_of(
        st.floats(width=32),
        st.floats(-40, 40, width=32),
        # Halves between two counts, and the edge of the range.
        st.integers(-40_000, 40_000).map(lambda n: float(np.float32((n + 0.5) / 1000))),
    ),
)


@given(
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=40), elements=ONE_COUNT),
    st.integers(0, 2**32 - 1),
)
def test_counts_become_the_same_millivolts(counts_rtl, seed):
    random = np.random.default_rng(seed)
    shape_rl = len(counts_rtl), counts_rtl.shape[2]
    scale_rl = random.choice([0.001, 1 / 409.6, -0.3, 1e-30, np.nan], shape_rl).astype(np.float32)
    some = random.choice([[0.0, 0.5, -12.8, -0.0], [-0.0] * 4, [0.0, 0.0, -0.0, -0.0]])
    offset_rl = random.choice(some, shape_rl).astype(np.float32)
    found = [loops.decode(counts_rtl, scale_rl, offset_rl) for loops in (plain, compiled)]
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    is_there_rlt = ~np.isnan(found[0][0])
    np.testing.assert_array_equal(*(np.signbit(one[0][is_there_rlt]) for one in found))
    signal_rlt, sum_rl, n_recorded_r = found[1]
    assert signal_rlt.shape == (*shape_rl, counts_rtl.shape[1])
    np.testing.assert_array_equal(n_recorded_r, np.count_nonzero(counts_rtl != -32768, axis=(1, 2)))
    np.testing.assert_array_equal(sum_rl, counts_rtl.astype(np.int64).sum(axis=1) % 65536)


@given(
    hnp.arrays(np.float32, SHAPES, elements=st.one_of(st.floats(-50, 50, width=32), st.sampled_from([np.nan, np.inf]))),
    st.sampled_from([(500.0, 61.0), (400.0, 61.0), (1000.0, 61.0), (1000.0, 50.0), (2000.0, 61.0), (250.0, 125.0)]),
    st.integers(0, 90),
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_signals_are_decimated_alike(signal_lt, rates_hz, left):
    chosen = decimation(*rates_hz)
    n_padded = chosen.factor * -(-(signal_lt.shape[1] + left + 50) // chosen.factor)
    arguments = [signal_lt, signal_lt[:1]], left, n_padded, chosen.factor, chosen.half
    (plain_lm, plain_jump_l), (compiled_lm, compiled_jump_l) = plain.decimate(*arguments), compiled.decimate(*arguments)
    np.testing.assert_array_equal(plain_lm, compiled_lm)
    np.testing.assert_array_equal(plain_jump_l, compiled_jump_l)


@given(MILLIVOLTS)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_millivolts_become_the_same_counts(signal_lt):
    for mine, theirs in zip(plain.quantise(signal_lt), compiled.quantise(signal_lt), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@given(COUNTS)
def test_counts_are_counted_alike(counts_lt):
    for mine, theirs in zip(plain.tally(counts_lt), compiled.tally(counts_lt), strict=True):
        np.testing.assert_array_equal(mine, theirs)


#: Few different values, so that they stand in runs, and gaps.
STEPS = hnp.arrays(
    np.float32,
    SHAPES,
    elements=st.sampled_from([0.0, -0.0, 0.0, 0.25, 0.25, -1.0, 3.0, np.nan, np.inf, -np.inf]),
)


@given(st.one_of(STEPS, MILLIVOLTS), st.integers(1, 7), st.integers(1, 21))
def test_signals_are_looked_at_alike(signal_lt, step, least):
    arguments = [signal_lt, signal_lt[:1]], step, least
    seen = plain.look(*arguments)
    for mine, theirs in zip(seen, compiled.look(*arguments), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
        assert mine.tobytes() == theirs.tobytes() or mine is seen[0] or np.isnan(mine).any()
    grid_lg, _, _, n_missing_l, n_flat_l, n_lowest_l, _ = seen
    assert n_missing_l[0] == np.isnan(signal_lt[0]).sum()
    assert n_lowest_l[0] == (signal_lt[0, ::step] == np.nanmin(np.append(signal_lt[0], np.inf))).sum() or n_missing_l[0]
    runs = "".join("01"[bool(same)] for same in grid_lg[0, 1:] == grid_lg[0, :-1]).split("0")
    assert n_flat_l[0] == sum(len(run) + 1 for run in runs if len(run) + 1 >= least)


@given(hnp.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 70)), elements=st.floats(width=32)))
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow encountered")
def test_what_three_leads_lack_of_their_sum_is_alike(three_lt):
    signals_lt = [three_lt, three_lt[::-1]]
    for mine, theirs in zip(
        plain.residual(signals_lt, [2, 0, 1]), compiled.residual(signals_lt, [2, 0, 1]), strict=True
    ):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_sums_of_the_largest_counts_do_not_overflow():
    counts_lt = np.full((2, 3_000_000), 32767, dtype=np.int16)
    counts_lt[1] = -32767
    n_l, total_l, squares_l, lowest_l, highest_l = compiled.tally(counts_lt)
    assert n_l.tolist() == [3_000_000] * 2
    assert total_l.tolist() == [3_000_000 * 32767, -3_000_000 * 32767]
    assert squares_l.tolist() == [3_000_000 * 32767**2] * 2
    assert (lowest_l.tolist(), highest_l.tolist()) == ([32767, -32767],) * 2


def test_no_loop_is_given_arrays_that_do_not_fit():
    counts_rtl, two_rl, three_rl = np.zeros((4, 10, 2), dtype=np.int16), np.ones((4, 2)), np.ones((4, 3))
    for scale_rl, offset_rl in ((two_rl, three_rl), (three_rl, two_rl), (two_rl[:3], two_rl[:3])):
        with pytest.raises(ValueError, match="shapes that don't belong together"):
            compiled.decode(counts_rtl, scale_rl, offset_rl)
    signal_lt = np.zeros((2, 10), dtype=np.float32)
    for left, n_padded, factor, half in (
        (0, 9, 1, (1.0,)),
        (4, 20, 3, (1.0,)),
        (-1, 20, 2, (1.0,)),
        (0, 10, 2, (1.0,) * 11),
    ):
        with pytest.raises(ValueError, match="shapes"):
            compiled.decimate([signal_lt], left, n_padded, factor, half)
    for step, least in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="shapes"):
            compiled.look([signal_lt], step, least)
    with pytest.raises(ValueError, match="different lengths"):
        compiled.decimate([signal_lt, signal_lt[:, :9]], 0, 12, 2, (1.0,))
    with pytest.raises(ValueError, match="different lengths"):
        compiled.look([signal_lt, signal_lt[:, :9]], 1, 4)
    with pytest.raises(ValueError, match="different leads"):
        compiled.residual([np.zeros((4, 9), np.float32), np.zeros((2, 9), np.float32)], [0, 1, 2])
    with pytest.raises(ValueError, match="without a sample"):
        compiled.look([signal_lt[:, :0]], 1, 4)


def test_taking_away_a_negative_zero_leaves_the_same_zero():
    counts_rtl, scale_rl = np.zeros((1, 2, 1), np.int16), np.float32([[-1.0]])
    for offset, is_negative in ((0.0, True), (-0.0, False)):
        for loops in (plain, compiled):
            signal_rlt = loops.decode(counts_rtl, scale_rl, np.float32([[offset]]))[0]
            assert np.signbit(signal_rlt).tolist() == [[[is_negative] * 2]]


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_short_signal_with_nothing_in_front_is_extended_alike(n):
    signal_lt = np.arange(2 * n, dtype=np.float32).reshape(2, n) ** 2
    mine, theirs = (loops.decimate([signal_lt], 0, 4 * n, 1, (1.0,)) for loops in (plain, compiled))
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_at_odd_places_are_moved_before_c_takes_them():
    signal_lt = np.arange(30, dtype=np.float32).reshape(2, 15)
    odd_lt = np.frombuffer(b"-" + signal_lt.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 15)
    assert not odd_lt.flags.aligned
    assert compiled._as(odd_lt, np.float32).flags.aligned
    assert compiled._as(signal_lt, np.float32) is signal_lt
    for one, other in zip(compiled.quantise(odd_lt), compiled.quantise(signal_lt), strict=True):
        np.testing.assert_array_equal(one, other)


def name(folder=Path(__file__).parents[4], **environment):
    inherited = {key: value for key, value in os.environ.items() if key != "ECGSTORE_KERNEL"}
    command = "from ecgstore import kernel; print(kernel.NAME)"
    environment = {**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_environment_chooses():
    assert name() == "compiled"
    assert name(ECGSTORE_KERNEL="compiled") == "compiled"
    assert name(ECGSTORE_KERNEL="numpy") == "numpy"
    assert "expected compiled or numpy, got bogus" in name(ECGSTORE_KERNEL="bogus")


def test_a_library_of_another_version_is_not_used(tmp_path):
    copy = tmp_path / "ecgstore"
    shutil.copytree(Path(compiled.__file__).parents[1], copy, ignore=shutil.ignore_patterns("*.pyc"))
    assert name(tmp_path) == "compiled"
    source = copy / "kernel" / "compiled.py"
    source.write_text(source.read_text().replace(f"VERSION = {compiled.VERSION}\n", "VERSION = 0\n"))
    assert name(tmp_path) == "numpy"
    said = name(tmp_path, ECGSTORE_KERNEL="compiled")
    assert "ConfigError: there are no compiled loops that can be used; in ECGSTORE_KERNEL=compiled" in said
    assert f"got loops of version {compiled.VERSION} instead of 0; install ecgstore again" in said
    # A function of another name stands for one that the library lacks.
    source.write_text(source.read_text().replace("VERSION = 0\n", f"VERSION = {compiled.VERSION}\n"))
    source.write_text(source.read_text().replace("library.tally.", "library.talley."))
    assert name(tmp_path) == "numpy"
    assert "got loops that lack a function: " in name(tmp_path, ECGSTORE_KERNEL="compiled")
    (library,) = (copy / "kernel").glob("_loops*")
    library.unlink()
    assert name(tmp_path) == "numpy"
    assert "there are no compiled loops that can be used" in name(tmp_path, ECGSTORE_KERNEL="compiled")


def test_who_only_reads_loads_no_library(mini_store):
    command = (
        "import sys, ecgstore; store = ecgstore.open_store(sys.argv[1]); store[0]; store.read_shard(0);\n"
        "assert store.verify() == []; assert 'ecgstore.kernel' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", command, str(mini_store)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
