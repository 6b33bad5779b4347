"""Records that are there twice, in one store or in two: the same patients, the same samples, nearly the same signal.

A model that is tested on what it was trained on looks better than it is. Exact copies are found by checksum, near
ones by :func:`ecgstore.signals.quality.signature`; each is then compared sample by sample before it is reported. Those
that begin later, are cut or lack leads are found by their beats (:mod:`ecgstore.look.shifted`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError
from ecgstore.look.parts import WHOLE_S, Reader
from ecgstore.look.shifted import Candidate, alike, marks
from ecgstore.look.shifted import candidates as candidates_of
from ecgstore.record import Record
from ecgstore.signals import quality
from ecgstore.storage import asked
from ecgstore.storage.store import Store

#: Signatures of nearly equal signals differ in at most this many of 64 bits.
MAX_BITS = 6
#: … and the signals themselves are at least this much alike.
MIN_CORRELATION = 0.98

_N_BANDS = 8
#: Of more records with one signature than this, each is compared with the first only.
_ALL_PAIRS = 64
#: Signatures that are compared at once: half a megabyte of them.
_PIECE = 1 << 16
#: What a correlation sees of a record, and a little more.
_SEEN_S = quality.SIGNED_S + 1

Rows = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two selections share.

    ``patients`` are the keys in both; None if the stores hash patients with different keys, which ``note`` then
    says. ``exact`` and ``near`` are pairs of row numbers, the first in the one store, the second in the other; near
    ones come with their correlation, and are not exact ones. ``shifted`` are pairs that share a stretch of signal and
    are neither: with the correlation over it, and by how many seconds it is later in the first than in the second.
    """

    patients: tuple[str, ...] | None
    exact: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int, float], ...]
    note: str = ""
    shifted: tuple[tuple[int, int, float, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patients or self.exact or self.near or self.shifted)


def exact_duplicates(store: Store) -> list[tuple[int, ...]]:
    """Groups of row numbers whose samples are the same, each ascending, found by CRC-32 and then compared.

    Reads only records whose checksum occurs twice.
    """
    its = Reader(store)
    found = []
    for rows in _alike_in_both(store.column("crc32"), store.column("n_samples")):
        while len(rows) > 1:
            # A checksum of 32 bits is the same by chance in one of four thousand million pairs.
            same = [row for row in rows if row == rows[0] or _is_same(its, row, its, rows[0])]
            if len(same) > 1:
                found.append(tuple(same))
            rows = [row for row in rows if row not in same]
    return sorted(found)


def _alike_in_both(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    """Places, ascending, of which both columns hold the same twice or more."""
    order = np.lexsort((other, one))  # stable
    is_as_next = ((np.diff(one[order]) == 0) & (np.diff(other[order]) == 0)).astype(np.int8)
    firsts = np.flatnonzero(np.diff(is_as_next, prepend=np.int8(0)) == 1)
    lasts = np.flatnonzero(np.diff(is_as_next, append=np.int8(0)) == -1) + 1
    return (order[first : last + 1].tolist() for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True))


def near_duplicates(
    store: Store, max_bits: int = MAX_BITS, min_correlation: float = MIN_CORRELATION
) -> list[tuple[int, int, float]]:
    """Pairs of rows of ``store``, lower first, of nearly the same signal, with their correlation; also exact copies.

    Candidates are pairs whose signatures differ in at most ``max_bits`` of 64 bits (0 to 6). Of each the stored
    signals are read and compared over their first 10 s; kept are pairs of ``min_correlation`` (0 to 1) or more. Raises
    ConfigError for settings out of range.
    """
    _check(max_bits, min_correlation)
    its = Reader(store)
    pairs = candidates(signatures(store), max_bits=max_bits)
    return _alike(pairs, its, its, min_correlation)


def duplicates(
    store: Store,
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
    *,
    shifted: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Overlap:
    """What a store holds twice, as pairs of rows, lower first; patients with several records are none of it.

    With ``shifted`` also records that share a stretch of signal; every sample is then read.
    """
    exact = {(one, two) for rows in exact_duplicates(store) for one, two in itertools.combinations(rows, 2)}
    near = [one for one in near_duplicates(store, max_bits, min_correlation) if (one[0], one[1]) not in exact]
    found: tuple[tuple[int, int, float, float], ...] = ()
    if shifted:
        its = marks(store, np.arange(store.n_records), progress)
        found = _shifted(candidates_of(its, its, is_one=True), store, store, exact, near, min_correlation)
    return Overlap((), tuple(sorted(exact)), tuple(near), shifted=found)


def find_overlap(
    store_a: Store,
    rows_a: Iterable[int] | None,
    store_b: Store,
    rows_b: Iterable[int] | None,
    *,
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
    shifted: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Overlap:
    """Find what ``rows_a`` of ``store_a`` and ``rows_b`` of ``store_b`` share; None means all rows.

    The stores may differ in rate, filters and leads, and may be one and the same; a row selected on both sides is then
    shared with itself. ``max_bits`` and ``min_correlation`` are those of :func:`near_duplicates`. Samples that are the
    same only before conditioning are near, not exact. With ``shifted`` also records that share a stretch of signal;
    every sample is then read, and ``progress`` is told of each shard.
    Raises ConfigError for settings out of range, or a row that is not there.
    """
    _check(max_bits, min_correlation)
    of_a, of_b = _rows(store_a, rows_a), _rows(store_b, rows_b)
    patients, note = _shared_patients(store_a, of_a, store_b, of_b)
    bits = np.concatenate([signatures(store_a)[of_a], signatures(store_b)[of_b]])
    is_b = np.arange(len(bits)) >= len(of_a)
    pairs = candidates(bits, max_bits=max_bits, side=is_b)
    pairs = np.stack([of_a[pairs[:, 0]], of_b[pairs[:, 1] - len(of_a)]], axis=1)
    exact = _exact_pairs(store_a, of_a, store_b, of_b)
    near = [
        one for one in _alike(pairs, Reader(store_a), Reader(store_b), min_correlation) if (one[0], one[1]) not in exact
    ]
    found: tuple[tuple[int, int, float, float], ...] = ()
    if shifted:
        its = [marks(store, rows, progress) for store, rows in ((store_a, of_a), (store_b, of_b))]
        found = _shifted(candidates_of(*its, is_one=False), store_a, store_b, exact, near, min_correlation)
    return Overlap(patients, tuple(sorted(exact)), tuple(near), note, found)


def signatures(store: Store) -> npt.NDArray[np.uint64]:
    """The signature of every record: the store's column, or computed from its shards where an old store has none."""
    if store.format_version > 1:
        return np.asarray(store.column("signature"), dtype=np.uint64)
    found = np.zeros(store.n_records, dtype=np.uint64)
    for shard in range(store.n_shards):
        signal = store.read_shard(shard)
        places = zip(signal.rows, signal.starts, signal.lengths, signal.offsets, strict=True)
        for row, start, length, offset in places:
            if offset == 0:
                counts_lt = signal.counts_lt[:, start : start + length]
                found[row] = quality.signature(counts_lt, store.fs_hz, store.leads)
    return found


def candidates(
    signatures: npt.NDArray[np.uint64], *, max_bits: int = MAX_BITS, side: npt.NDArray[np.bool_] | None = None
) -> Pairs:
    """Pairs (n, 2) of places whose signatures differ in at most ``max_bits`` bits, the lower place first.

    With ``side`` only pairs of one False and one True. Signature 0, of records without any change, pairs with none.
    Where more than 64 records share one signature, each is paired only with the first of them, or of either side.

    Of eight bytes, six wrong bits leave two untouched: so all pairs agree in both bytes of one of 28 choices, and
    only those need be compared (Manku, Jain and Das Sarma, WWW 2007).
    """
    signatures = np.asarray(signatures, dtype=np.uint64)
    places = np.flatnonzero(signatures)
    places = places[np.argsort(signatures[places], kind="stable")]
    # Records of one signature stand side by side now, from one first place up to the next.
    is_first = np.diff(signatures[places], prepend=np.uint64(0)) != 0  # none is 0
    firsts = np.append(np.flatnonzero(is_first), len(places))
    unique = signatures[places[firsts[:-1]]]
    found = []
    for i in np.flatnonzero(np.diff(firsts) > 1).tolist():
        found += _within(places[firsts[i] : firsts[i + 1]], side)
    for i, j in _near_values(unique, max_bits).tolist():
        found += _between(places[firsts[i] : firsts[i + 1]], places[firsts[j] : firsts[j + 1]], side)
    pairs = np.unique(np.array(found, dtype=np.int64).reshape(-1, 2), axis=0)
    return pairs if side is None else pairs[side[pairs[:, 0]] != side[pairs[:, 1]]]


def _near_values(values: npt.NDArray[np.uint64], max_bits: int) -> Pairs:
    """Pairs of places in ``values``, which are all different, at most ``max_bits`` bits apart."""
    found = []
    whole = np.uint64(0xFF)
    for first, second in itertools.combinations(range(_N_BANDS), 2):
        key = ((values >> np.uint64(8 * first)) & whole) << np.uint64(8) | ((values >> np.uint64(8 * second)) & whole)
        key = key.astype(np.uint16)
        order = np.argsort(key, kind="stable")
        found.append(order[_near_neighbours(key[order], values[order], max_bits)])
    pairs = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _near_neighbours(key: npt.NDArray[np.uint16], values: npt.NDArray[np.uint64], max_bits: int) -> Pairs:
    """Pairs of places with equal ``key``, which ascends, whose ``values`` are near; others that are near may be there.

    Neighbour by neighbour, then the next but one, as far as keys are equal. While that holds for many, all are compared
    in pieces that stay in the processor's cache: to pick those with equal keys would take longer.
    """
    found, n = [np.empty((0, 2), dtype=np.int64)], len(key)
    shift, many = 1, n
    while many > n // 16:
        many = int(np.count_nonzero(key[:-shift] == key[shift:]))
        for begin in range(0, n - shift if many else 0, _PIECE):
            end = min(begin + _PIECE, n - shift)
            differing = values[begin:end] ^ values[begin + shift : end + shift]
            near = np.flatnonzero(np.bitwise_count(differing) <= max_bits) + begin
            if near.size:
                found.append(np.stack([near, near + shift], axis=1))
        shift += 1
    at = np.flatnonzero(key[:-shift] == key[shift:]) if shift < n else np.empty(0, dtype=np.int64)
    while at.size:
        near = at[np.bitwise_count(values[at] ^ values[at + shift]) <= max_bits]
        found.append(np.stack([near, near + shift], axis=1))
        shift += 1
        at = at[at + shift < n]
        at = at[key[at] == key[at + shift]]
    return np.concatenate(found)


def _within(members: Rows, side: npt.NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    if len(members) <= _ALL_PAIRS:
        return list(itertools.combinations(members.tolist(), 2))
    firsts = [members] if side is None else [members[side[members] == one] for one in (False, True)]
    return [
        (min(first, other), max(first, other))
        for first in {int(of_side[0]) for of_side in firsts if of_side.size}
        for other in members.tolist()
        if other != first
    ]


def _between(some: Rows, others: Rows, side: npt.NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    if len(some) * len(others) <= _ALL_PAIRS**2:
        return [(min(i, j), max(i, j)) for i in some.tolist() for j in others.tolist()]
    return [
        (min(i, j), max(i, j))
        for i, j in itertools.chain(
            ((int(some[0]), j) for j in others.tolist()), ((i, int(others[0])) for i in some.tolist())
        )
    ]


# --- what candidates have to stand ----------------------------------------------------------------------------


def _alike(pairs: Pairs, of_a: Reader, of_b: Reader, min_correlation: float) -> list[tuple[int, int, float]]:
    found = []
    # In this order neighbouring pairs share a record, which is then read once.
    for i, j in sorted(map(tuple, pairs.tolist())):
        similarity = correlation(*(of.read(row, 0.0, _SEEN_S).record for of, row in ((of_a, i), (of_b, j))))
        if similarity >= min_correlation:
            found.append((i, j, round(similarity, 4)))
    return found


def _shifted(
    found: list[Candidate],
    store_a: Store,
    store_b: Store,
    exact: set[tuple[int, int]],
    near: list[tuple[int, int, float]],
    min_correlation: float,
) -> tuple[tuple[int, int, float, float], ...]:
    known = exact | {(i, j) for i, j, _ in near}
    left = [one for one in found if (one.row_a, one.row_b) not in known]
    return tuple(alike(left, Reader(store_a), Reader(store_b), min_correlation))


def correlation(a: Record, b: Record) -> float:
    """How much alike two records are: the correlation of what the signature sees, in all leads of both together.

    That is the second differences of means over 40 ms in the first 10 s: no filter or rate in use changes them much.
    What is missing in either record doesn't count. NaN where nothing is left to compare, or nothing changes.
    """
    leads = [lead for lead in a.leads if lead in b.leads]
    changes = []
    for record in (a, b):
        signal_mv_lt = record.signal_mv_lt[[record.leads.index(lead) for lead in leads]]
        means_lb = quality.block_means(signal_mv_lt[None], record.fs_hz)[0]
        changes.append(np.diff(means_lb, n=2, axis=1).astype(np.float64))
    n = min(changes[0].shape[1], changes[1].shape[1])
    is_known = np.isfinite(changes[0][:, :n]) & np.isfinite(changes[1][:, :n])
    one, other = (change[:, :n][is_known] for change in changes)
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size > 0 else math.nan


def _is_same(of_a: Reader, row_a: int, of_b: Reader, row_b: int) -> bool:
    """Whether two records hold the same samples; long ones are compared piece by piece."""
    start_s = 0.0
    while True:
        # A little more than a piece, so that none is left out between two.
        parts = [of.read(row, start_s, start_s + WHOLE_S + 1) for of, row in ((of_a, row_a), (of_b, row_b))]
        one, other = (part.record for part in parts)
        if one.fs_hz != other.fs_hz or not np.array_equal(one.signal_mv_lt, other.signal_mv_lt, equal_nan=True):
            return False
        if start_s + WHOLE_S >= max(part.whole_s for part in parts):
            return True
        start_s += WHOLE_S


def _exact_pairs(store_a: Store, of_a: Rows, store_b: Store, of_b: Rows) -> set[tuple[int, int]]:
    """Pairs with the same leads, rate and samples."""
    if store_a.leads != store_b.leads:
        return set()
    sums = [
        np.stack([store.column("crc32")[rows], store.column("n_samples")[rows]], axis=1)
        for store, rows in ((store_a, of_a), (store_b, of_b))
    ]
    # Most records are in one of them only: those are passed over as whole columns.
    there = [np.isin(sums[0][:, 0], sums[1][:, 0]), np.isin(sums[1][:, 0], sums[0][:, 0])]
    of_a, of_b = of_a[there[0]], of_b[there[1]]
    sums = [its[is_there] for its, is_there in zip(sums, there, strict=True)]
    in_b: dict[tuple[int, int], list[int]] = {}
    for row, (crc32, n) in zip(of_b.tolist(), sums[1].tolist(), strict=True):
        in_b.setdefault((crc32, n), []).append(row)
    its_a, its_b = Reader(store_a), Reader(store_b)
    is_one_store = store_a.fingerprint == store_b.fingerprint
    found = set()
    for i, (crc32, n) in zip(of_a.tolist(), sums[0].tolist(), strict=True):
        for j in in_b.get((crc32, n), ()):
            if (is_one_store and i == j) or _is_same(its_a, i, its_b, j):
                found.add((i, j))
    return found


def _shared_patients(store_a: Store, of_a: Rows, store_b: Store, of_b: Rows) -> tuple[tuple[str, ...] | None, str]:
    """Patient keys in both selections, or None, and a remark on how far that goes."""
    hashed = [str(store.attributes["patients"]) for store in (store_a, store_b)]
    sources = [{terms.name for terms in store.terms} for store in (store_a, store_b)]
    is_one_store = store_a.fingerprint == store_b.fingerprint
    is_secret = "secret" in hashed[0]
    checks = [store.attributes.get("patient_key_check") for store in (store_a, store_b)]
    if None not in checks and checks[0] != checks[1]:
        return None, "different keys: patients can't be compared; only signals were"
    # Without a secret the key is the source's name: a patient of two sources has two keys.
    if not is_one_store and (hashed[0] != hashed[1] or not (is_secret or sources[0] & sources[1])):
        return None, "patients can't be compared, for their keys are hashed differently; only signals were"
    keys = [
        {str(key) for key in store.column("patient_key")[rows]} - {""}
        for store, rows in ((store_a, of_a), (store_b, of_b))
    ]
    note = ""
    if not (keys[0] and keys[1]):
        note = "a selection names no patients; only signals were compared"
    elif is_secret and not is_one_store and None in checks:
        note = "patients were compared as if both stores hashed them with the same secret"
    elif not (is_secret or is_one_store or all(terms.redistributable for terms in store_a.terms)):
        note = "patients were compared by their ids alone: in two folders one id may stand for two persons"
    return tuple(sorted(keys[0] & keys[1])), note


def _rows(store: Store, rows: Iterable[int] | None) -> Rows:
    if rows is None:
        return np.arange(store.n_records, dtype=np.int64)
    return np.unique(np.array(asked.rows_of(rows, store.n_records, store.path), dtype=np.int64))


def _check(max_bits: int, min_correlation: float) -> None:
    if not 0 <= max_bits <= MAX_BITS:
        raise ConfigError("too many bits to look for", expected=f"0 to {MAX_BITS}", got=max_bits)
    if not 0 < min_correlation <= 1:
        raise ConfigError("a correlation to ask for", expected="above 0, at most 1", got=min_correlation)
