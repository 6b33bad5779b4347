"""Copies that are planted or known are found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgstore import ConfigError, IngestSettings, ingest_folder, open_store
from ecgstore.look import overlap
from ecgstore.record import Record
from ecgstore.signals import quality
from ecgstore.storage.store import Store

GOLDEN = Path(__file__).parents[3] / "golden" / "v1.ecg"


@pytest.fixture(scope="module")
def store(mini_store: Path) -> Store:
    return open_store(mini_store)


@pytest.fixture(scope="module")
def other(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same records at another rate, without a filter."""
    out = tmp_path_factory.mktemp("stores") / "other.ecg"
    ingest_folder(mini, out, IngestSettings(fs_hz=250, filters=()), workers=1)
    return open_store(out)


def rows(store: Store, *ids: str) -> list[int]:
    return [store.column("record_id").tolist().index(one) for one in ids]


def test_the_known_copies_of_the_bundled_corpus_are_found(store: Store) -> None:
    groups = [tuple(store.column("record_id")[list(group)]) for group in overlap.exact_duplicates(store)]
    assert ("137", "138") in groups
    pairs = overlap.near_duplicates(store)
    named = {tuple(store.column("record_id")[[i, j]]) for i, j, _ in pairs}
    assert named == set(groups)
    assert all(i < j and correlation == 1.0 for i, j, correlation in pairs)


def test_an_old_store_without_signatures_is_searched_too() -> None:
    old = open_store(GOLDEN)
    assert "signature" not in old.records.column_names
    assert np.count_nonzero(overlap.signatures(old)) == old.n_records
    overlap.near_duplicates(old)


def test_a_store_shares_all_its_records_with_itself_at_another_rate(store: Store, other: Store) -> None:
    found = overlap.find_overlap(store, None, other, None)
    assert {(i, i) for i in range(store.n_records)} <= {(i, j) for i, j, _ in found.near}
    assert found.exact == ()
    assert set(found.patients or ()) == set(store.column("patient_key")) - {""}
    assert found.note == ""
    assert found


def test_two_selections_of_one_store(store: Store) -> None:
    one, two = rows(store, "137", "138")
    found = overlap.find_overlap(store, [one], store, [two])
    assert found.exact == ((one, two),)
    assert found.near == ()
    same = overlap.find_overlap(store, [one], store, [one])
    assert same.exact == ((one, one),)
    assert len(same.patients or ()) == 1


def test_selections_of_different_records_share_nothing(store: Store) -> None:
    copies = {row for group in overlap.exact_duplicates(store) for row in group}
    seen: set[str] = set()
    apart = []
    for row, key in enumerate(store.column("patient_key")):
        if row not in copies and key not in seen:
            apart.append(row)
            seen.add(key)
    found = overlap.find_overlap(store, apart[:10], store, apart[10:20])
    assert found == overlap.Overlap((), (), ())
    assert not found


def test_patients_hashed_with_a_secret_are_not_compared_with_others(store: Store, mini: Path, tmp_path: Path) -> None:
    settings = IngestSettings(fs_hz=100, filters=(), patient_key="a secret of many letters")
    ingest_folder(mini, tmp_path / "s.ecg", settings, workers=1)
    found = overlap.find_overlap(store, [0], open_store(tmp_path / "s.ecg"), [0])
    assert found.patients is None
    assert "can't be compared" in found.note
    assert [pair[:2] for pair in found.near] == [(0, 0)]


def test_settings_and_rows_out_of_range_are_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="bits"):
        overlap.near_duplicates(store, max_bits=7)
    with pytest.raises(ConfigError, match="correlation"):
        overlap.near_duplicates(store, min_correlation=0.0)
    with pytest.raises(ConfigError, match="no row 53"):
        overlap.find_overlap(store, [store.n_records], store, None)


# --- candidates -----------------------------------------------------------------------------------------------


def brute(signatures: np.ndarray, max_bits: int) -> set[tuple[int, int]]:
    n = len(signatures)
    return {
        (i, j)
        for i in range(n)
        for j in range(i + 1, n)
        if signatures[i] and signatures[j] and int(signatures[i] ^ signatures[j]).bit_count() <= max_bits
    }


def planted(n: int, n_planted: int, seed: int = 0) -> np.ndarray:
    """Random signatures, some of which are others with 0 to 7 bits turned."""
    rng = np.random.default_rng(seed)
    signatures = rng.integers(1, 2**64, n, dtype=np.uint64)
    for k in range(n_planted):
        source, target = rng.choice(n, 2, replace=False)
        turned = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, k % 8, replace=False).astype(np.uint64))
        signatures[target] = signatures[source] ^ (turned if k % 8 else np.uint64(0))
    signatures[:3] = 0
    return signatures


@pytest.mark.parametrize("max_bits", [0, 1, 3, 6])
def test_candidates_are_those_of_trying_all_pairs(max_bits: int) -> None:
    signatures = planted(600, 200)
    expected = brute(signatures, max_bits)
    assert len(expected) > 10
    assert {tuple(pair) for pair in overlap.candidates(signatures, max_bits=max_bits).tolist()} == expected


def test_candidates_of_two_sides_cross_them() -> None:
    signatures = planted(600, 200)
    side = np.arange(600) % 3 == 0
    expected = {(i, j) for i, j in brute(signatures, 6) if side[i] != side[j]}
    assert {tuple(pair) for pair in overlap.candidates(signatures, side=side).tolist()} == expected


def test_many_equal_signatures_are_compared_with_one_of_them() -> None:
    signatures = np.full(5000, 77, dtype=np.uint64)
    assert len(overlap.candidates(signatures)) == 4999
    side = np.arange(5000) < 2000
    pairs = overlap.candidates(signatures, side=side)
    assert set(pairs.ravel().tolist()) == set(range(5000))
    assert (side[pairs[:, 0]] != side[pairs[:, 1]]).all()


def test_nothing_to_compare_gives_no_candidates() -> None:
    assert overlap.candidates(np.zeros(5, dtype=np.uint64)).shape == (0, 2)
    assert overlap.candidates(np.empty(0, dtype=np.uint64)).shape == (0, 2)


# --- correlation ------------------------------------------------------------------------------------------------


def record(signal_mv_lt: np.ndarray, fs_hz: float = 100.0, leads: tuple[str, ...] = ("I", "II")) -> Record:
    return Record("r", leads[: len(signal_mv_lt)], fs_hz, signal_mv_lt.astype(np.float32))


def test_the_correlation_passes_over_gain_drift_and_gaps_and_sees_another_signal(store: Store) -> None:
    whole = store.read("50")
    one_lt = whole.signal_mv_lt[:2]
    other_lt = 0.5 * one_lt + np.linspace(0, 1, one_lt.shape[1])
    other_lt[0, 100:200] = np.nan
    assert overlap.correlation(record(one_lt), record(other_lt)) > 0.99
    assert overlap.correlation(record(one_lt), record(other_lt[::-1], leads=("II", "I"))) > 0.99
    assert overlap.correlation(record(one_lt), record(store.read("54").signal_mv_lt[:2])) < 0.5
    assert overlap.correlation(record(one_lt), record(-one_lt)) < -0.99


def test_records_without_a_common_lead_or_a_change_have_no_correlation() -> None:
    flat = record(np.ones((2, 500)))
    assert np.isnan(overlap.correlation(flat, flat))
    assert np.isnan(overlap.correlation(flat, record(np.ones((1, 500)), leads=("V1",))))


def test_a_noisy_copy_is_near_and_a_different_record_of_one_rhythm_is_not(store: Store) -> None:
    clean = store.read("50")
    rng = np.random.default_rng(0)
    counts_lt = np.rint(clean.signal_mv_lt * 1000)
    noisy_lt = counts_lt + 15 * rng.standard_normal(counts_lt.shape)
    bits = [quality.signature(one.astype(np.int16), 100.0) for one in (counts_lt, noisy_lt)]
    assert (bits[0] ^ bits[1]).bit_count() <= overlap.MAX_BITS


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_places_with_the_same_of_both_columns_are_grouped(n: int) -> None:
    from ecgstore.look.overlap import _alike_in_both

    rng = np.random.default_rng(n)
    one, other = rng.integers(0, 12, n), rng.integers(0, 12, n)
    groups: dict[tuple[int, int], list[int]] = {}
    for place, key in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        groups.setdefault(key, []).append(place)
    assert sorted(_alike_in_both(one, other)) == sorted(its for its in groups.values() if len(its) > 1)


def test_candidates_are_found_in_crowds_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgstore.look import overlap

    rng = np.random.default_rng(0)
    # A third of them are a crowd that differs in few bits, so that most share two bytes with a hundred others.
    crowd = np.uint64(0x0123456789ABCDEF) ^ (np.uint64(1) << rng.integers(0, 64, 150, dtype=np.uint64))
    crowd ^= np.uint64(1) << rng.integers(0, 64, 150, dtype=np.uint64)
    signatures = rng.permutation(np.concatenate([crowd, rng.integers(1, 2**63, 300, dtype=np.uint64)]))
    one, other = np.triu_indices(len(signatures), 1)
    near = np.bitwise_count(signatures[one] ^ signatures[other]) <= 3
    expected = np.stack([one[near], other[near]], axis=1)
    for piece in (7, 1 << 16):
        monkeypatch.setattr(overlap, "_PIECE", piece)
        np.testing.assert_array_equal(overlap.candidates(signatures, max_bits=3), expected)
