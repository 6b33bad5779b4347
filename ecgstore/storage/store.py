"""The reading API: a sealed store, its tables, its shards, one record for people."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError, IntegrityError, StoreError, StoreFormatError, StoreUnreachable, nearest
from ecgstore.record import Beat, LeadState, Record, Statement, Terms
from ecgstore.storage import layout, manifest, tables
from ecgstore.storage.array import open_array
from ecgstore.storage.place import Place, patiently, place, refuse_whole_files_only, size_of
from ecgstore.storage.where import rows_where


@dataclass(frozen=True, slots=True, eq=False)
class ShardSignal:
    """One decoded shard. Piece i is ``counts_lt[:, starts[i] : starts[i] + lengths[i]]`` of record ``rows[i]``.

    ``offsets[i]`` is where the piece begins inside its record: 0, except for a record longer than a shard.
    Counts are int16 of 1 µV; -32768 means not recorded.
    """

    shard: int
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    counts_lt: npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class LeadStatistics:
    """Mean and standard deviation in mV over the recorded samples, and their number, each of shape (leads,)."""

    mean_mv_l: npt.NDArray[np.float64]
    std_mv_l: npt.NDArray[np.float64]
    n_l: npt.NDArray[np.int64]


def open_store(path: str | Path) -> Store:
    """Open a sealed store for reading: a folder, or an address such as ``https://…`` or ``s3://bucket/name``.

    Raises StoreNotFound, StoreIncomplete (never sealed), StoreFormatError (not a store, or of a version that
    this release can't read), IntegrityError (tables missing or not those that were sealed), StoreUnreachable
    (it is on another machine, and that doesn't answer).
    """
    root = place(path)
    sealed = manifest.load(root)
    refuse_whole_files_only(root, layout.MANIFEST)
    return Store(root, sealed)


class Store:
    """A sealed store. Made by :func:`open_store`; never changes, and never changes anything."""

    def __init__(self, root: Place, sealed: manifest.Manifest) -> None:
        self._root = root
        self._manifest = sealed
        self._attributes = _attributes(root, sealed)
        self.records: pa.Table = _table(root, sealed, layout.RECORDS)
        """One row per record; the row number is the record's number. Columns: docs/format.md."""

    def __repr__(self) -> str:
        rate = f"{self._attributes['fs_hz']:g} Hz" if self._attributes["fs_hz"] else "several rates"
        return f"<Store {self.path}: {self.n_records} records, {len(self.leads)} leads, {rate}>"

    @property
    def path(self) -> str:
        """Where the store stands."""
        return str(self._root)

    @property
    def leads(self) -> tuple[str, ...]:
        """Names of the leads, in the order of the signal's first axis."""
        return tuple(self._attributes["leads"])

    @property
    def fs_hz(self) -> float:
        """Samples per second, the same for all records; raises StoreError for a raw store of several rates."""
        if self._attributes["fs_hz"] is None:
            rates = ", ".join(f"{rate:g}" for rate in sorted(set(self.column("source_fs_hz"))))
            raise StoreError(
                "the records of this raw store have different sampling rates",
                where=self.path,
                got=f"{rates} Hz",
                fix="see the column source_fs_hz, or ingest again with one rate (--fs)",
            )
        return float(self._attributes["fs_hz"])

    @property
    def encoding(self) -> str:
        """``microvolt``: one count is 1 µV. ``adc``: the source's own counts, with gain and baseline per lead."""
        return str(self._attributes["recipe"].get("encoding", "microvolt"))

    @property
    def format_version(self) -> int:
        """Version of the format that the store was written in."""
        return int(self._attributes["format_version"])

    @property
    def storage(self) -> dict[str, Any]:
        """How the store keeps what the recipe made: codec, and how thoroughly quality was judged."""
        return dict(self._attributes.get("storage", {"codec": "blosc", "quality": "basic"}))

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything that the root of the store says, as docs/format.md lists it."""
        return dict(self._attributes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all objects: two stores with the same fingerprint are the same."""
        return self._manifest.fingerprint

    @property
    def recipe(self) -> dict[str, Any]:
        """What was done to every record."""
        return dict(self._attributes["recipe"])

    @property
    def recipe_sha256(self) -> str:
        """Hash of the recipe."""
        return str(self._attributes["recipe_sha256"])

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Under which terms the sources of this store may be used."""
        return tuple(Terms(**source) for source in self._attributes["sources"])

    @property
    def software(self) -> dict[str, str]:
        """Versions of what wrote the store."""
        return dict(self._attributes["software"])

    @property
    def n_records(self) -> int:
        """Number of records."""
        return int(self.records.num_rows)

    @property
    def n_bytes(self) -> int:
        """Size of all objects of the store."""
        return sum(found.size for found in self._manifest.objects.values())

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        end = int(pc.max(pc.add(self.records["start"], self.records["n_samples"])).as_py())
        return -(-end // self.shard_samples)

    @property
    def shard_samples(self) -> int:
        """Samples of a shard along time."""
        return int(self._attributes["shard_samples"])

    @functools.cached_property
    def statements(self) -> pa.Table:
        """One row per statement: row, code, system, likelihood (percent, null where not stated)."""
        return _table(self._root, self._manifest, layout.STATEMENTS)

    @functools.cached_property
    def lead_quality(self) -> pa.Table:
        """What was measured of each lead: one row per record, lists of one number per lead. Empty in format 1."""
        return self._optional_table(layout.LEADS)

    @functools.cached_property
    def beats(self) -> pa.Table:
        """One row per beat or other annotation: row, sample in the record, symbol, and more where there are any.

        Empty in format 1.
        """
        return self._optional_table(layout.BEATS)

    def _optional_table(self, name: str) -> pa.Table:
        return _table(self._root, self._manifest, name) if name in self._manifest.objects else pa.table({})

    @functools.cached_property
    def rejected(self) -> pa.Table:
        """One row per record that was left out: record_id, reason, detail."""
        return _table(self._root, self._manifest, layout.REJECTED)

    @functools.cached_property
    def _array(self) -> Any:
        return patiently(self._root, lambda: open_array(self._root))

    @functools.cached_property
    def _row_of(self) -> dict[str, int]:
        return {record_id: row for row, record_id in enumerate(self.records["record_id"].to_pylist())}

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column as NumPy: null is NaN in a float, -1 in an integer, 0 in an unsigned and "" in a text column."""
        if name not in self.records.column_names:
            near = nearest(name, self.records.column_names)
            known = f"did you mean {near}?" if near else f"there are {', '.join(self.records.column_names)}"
            raise ConfigError(f"no column {name!r} in the table of records", where=self.path, fix=known)
        column = self.records[name]
        if pa.types.is_unsigned_integer(column.type):
            return np.asarray(pc.fill_null(column, 0).to_numpy())
        if pa.types.is_integer(column.type):
            return np.asarray(pc.fill_null(column, -1).to_numpy())
        if pa.types.is_string(column.type):
            return np.asarray(pc.fill_null(column, "").to_pylist(), dtype=object)
        return np.asarray(column.to_numpy())

    def vocabulary(self, system: str) -> frozenset[str]:
        """Every code that the sources ever state in ``system``; :meth:`statement_mask` says of which records."""
        return frozenset(self._attributes["vocabulary"].get(system, ()))

    def statement_matrix(self, codes: Sequence[str], system: str) -> npt.NDArray[np.bool_]:
        """Which record states which code, bool (records, codes); a likelihood of any size counts.

        Raises ConfigError for a code that the sources never state in ``system``: it could only be misspelt.
        """
        matrix = np.zeros((self.n_records, len(codes)), dtype=np.bool_)
        column = {code: j for j, code in enumerate(codes)}
        known = set(self.vocabulary(system))
        for row, code, stated in zip(
            *(self.statements[name].to_pylist() for name in ("row", "code", "system")), strict=True
        ):
            if stated == system:
                known.add(code)
                if code in column:
                    matrix[row, column[code]] = True
        self._refuse_unknown(codes, system, known)
        for j, code in enumerate(codes):
            matrix[:, j] = matrix[:, column[code]]  # a code that is asked for twice
        return matrix

    def statement_mask(self, codes: Sequence[str], system: str) -> npt.NDArray[np.bool_]:
        """Of which records the absence of a code is a "no", bool (records, codes): where their site states it at all.

        Sources that publish their codes mean them for all records; for others each site has a list of its own. A
        store without such lists has one for all its records.
        """
        vocabulary = self.vocabulary(system)
        known_c = np.array([code in vocabulary for code in codes], dtype=np.bool_)
        mask = np.tile(known_c, (self.n_records, 1))
        by_site = self._attributes.get("vocabulary_by_site", {})
        if any(system in systems for systems in by_site.values()):
            site_n = self.column("site")
            for site in set(site_n.tolist()):
                its = frozenset(by_site.get(site, {}).get(system, ()))
                mask[site_n == site] = [code in its for code in codes]
        return mask

    def _refuse_unknown(self, codes: Sequence[str], system: str, known: set[str]) -> None:
        unknown = next((code for code in codes if code not in known), None)
        if unknown is None:
            return
        near = nearest(unknown, known)
        systems = ", ".join(sorted(self._attributes["vocabulary"])) or "none"
        listed = f"see store.vocabulary({system!r})" if known else f"the store has codes of: {systems}"
        fix = f"did you mean {near}?" if near else listed
        raise ConfigError(f"no record could state the code {unknown!r} of {system}", where=self.path, fix=fix)

    def select(
        self,
        folds: Iterable[int] | None = None,
        sources: Iterable[str] | None = None,
        sites: Iterable[str] | None = None,
        where: str = "",
    ) -> npt.NDArray[np.int64]:
        """Row numbers of the records in any of ``folds``, ``sources`` and ``sites``, ascending; None means all.

        ``where`` is a condition on the columns of :attr:`records`, such as
        ``"mains_mv < 0.05 and age_years >= 18 and sex == 'female'"``; a record that doesn't state what is asked
        for doesn't match. Raises ConfigError naming what in it is not understood.
        """
        wanted = np.ones(self.n_records, dtype=np.bool_)
        asked: dict[str, Iterable[Any] | None] = {"fold": folds, "source": sources, "site": sites}
        for name, values in asked.items():
            if values is not None:
                wanted &= np.isin(self.column(name), list(values))
        if where:
            wanted &= rows_where(self.records, where)
        return np.flatnonzero(wanted)

    def statistics(self, folds: Iterable[int] | None = None) -> LeadStatistics:
        """Mean and standard deviation per lead over all recorded samples of the records in ``folds`` (None: all).

        Computed from exact integer sums that the store carries, so no sample is read. A lead without a
        single sample has NaN. Raises StoreError for a raw store, whose counts have gains of their own.
        """
        if self.encoding == "adc":
            raise StoreError("a raw store has no statistics: its counts have gains of their own", where=self.path)
        by_fold: Mapping[str, Mapping[str, list[int]]] = self._attributes["statistics"]
        keys = list(by_fold) if folds is None else [str(fold) for fold in folds if str(fold) in by_fold]
        n, total, squares = (
            [sum(by_fold[key][name][lead] for key in keys) for lead in range(len(self.leads))]
            for name in ("n", "sum_counts", "sum_squared_counts")
        )
        mean_l, std_l = np.full(len(n), np.nan), np.full(len(n), np.nan)
        for lead, (count, first, second) in enumerate(zip(n, total, squares, strict=True)):
            if count:
                mean_l[lead] = first / count
                # Integers until the last step: no cancellation, however long the store.
                std_l[lead] = ((second * count - first * first) / count**2) ** 0.5
        return LeadStatistics(
            mean_l / layout.COUNTS_PER_MV, std_l / layout.COUNTS_PER_MV, np.asarray(n, dtype=np.int64)
        )

    def read_shard(self, shard: int) -> ShardSignal:
        """Read and decode one whole shard; every chunk's checksum is verified.

        Raises IntegrityError naming the records in it where the bytes are not those that were written.
        """
        if not 0 <= shard < self.n_shards:
            raise ConfigError(f"no shard {shard}", where=self.path, expected=f"0 to {self.n_shards - 1}")
        size = self.shard_samples
        begin, end = shard * size, min((shard + 1) * size, self._array.shape[1])
        starts, lengths = self.column("start"), self.column("n_samples")
        rows = np.flatnonzero((starts < end) & (starts + lengths > begin))
        counts_lt = self._decode(begin, end, rows)
        first = np.maximum(starts[rows], begin)
        last = np.minimum(starts[rows] + lengths[rows], end)
        return ShardSignal(shard, rows, first - begin, last - first, first - starts[rows], counts_lt)

    def read(self, record_id: str) -> Record:
        """Read one record: float32 mV of shape (leads, samples), NaN where nothing was recorded."""
        row = self._row(record_id)
        about = self.records.slice(row, 1).to_pylist()[0]
        counts_lt = self._decode(about["start"], about["start"] + about["n_samples"], np.array([row]))
        if self._crc32(counts_lt) != about["crc32"]:
            raise IntegrityError(f"record {record_id} is not what was written", where=self.path)
        stated = self.statements.filter(pc.equal(self.statements["row"], row)).to_pylist()
        return Record(
            record_id=record_id,
            leads=self.leads,
            fs_hz=self._fs_of(about),
            signal_mv_lt=self._to_mv(counts_lt, row),
            lead_states=tuple(LeadState(letter) for letter in about["lead_states"]),
            patient_key=about["patient_key"],
            fold=about["fold"],
            age_years=about["age_years"],
            sex=about["sex"],
            statements=tuple(Statement(one["code"], one["system"], one["likelihood"]) for one in stated),
            warnings=tuple(filter(None, about["warnings"].split("; "))),
        )

    def read_beats(self, record_id: str) -> tuple[Beat, ...]:
        """The beats and other annotations of one record, in time; empty where its source states none."""
        row = self._row(record_id)
        if self.beats.num_rows == 0:
            return ()
        fs_hz = self._fs_of(self.records.slice(row, 1).to_pylist()[0])
        its = self.beats.filter(pc.equal(self.beats["row"], row)).to_pylist()
        return tuple(_beat(one, fs_hz) for one in its)

    def _row(self, record_id: str) -> int:
        row = self._row_of.get(record_id)
        if row is None:
            near = nearest(record_id, self._row_of)
            fix = f"did you mean {near}?" if near else "list them with `ecgstore records`"
            raise ConfigError(f"no record {record_id!r}", where=self.path, fix=fix)
        return row

    def _fs_of(self, about: Mapping[str, Any]) -> float:
        return float(self._attributes["fs_hz"] or about["source_fs_hz"])

    def _to_mv(self, counts_lt: npt.NDArray[np.int16], row: int) -> npt.NDArray[np.float32]:
        if self.encoding != "adc":
            return layout.counts_to_mv(counts_lt)
        its = self.lead_quality.slice(row, 1).to_pylist()[0]
        return layout.adc_to_mv(counts_lt, np.array(its["gain_per_mv"]), np.array(its["baseline"], dtype=np.int32))

    def _crc32(self, counts_lt: npt.NDArray[np.int16]) -> int:
        """As format 2 defines it: lead after lead within each shard, shard after shard."""
        # A record of several shards begins at the beginning of one. Format 1 took it as one piece.
        size = self.shard_samples if self.format_version > 1 else counts_lt.shape[1]
        return layout.crc32_of_counts(counts_lt, size)

    def verify(self, *, deep: bool = False, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Check the store; returns one line per problem, none if all is well.

        Quick: every object present and of its size, nothing added. Deep: every byte by SHA-256, every shard
        decoded, every record by the CRC-32 of its counts.
        """
        problems = manifest.verify(self._root, self._manifest, deep=deep, progress=progress)
        if deep and not problems:
            for shard in range(self.n_shards):
                problems += self._verify_records(shard)
        return problems

    def _verify_records(self, shard: int) -> list[str]:
        try:
            signal = self.read_shard(shard)
        except IntegrityError as error:
            return [str(error)]
        crc32, lengths, ids = self.column("crc32"), self.column("n_samples"), self.column("record_id")
        problems = []
        for row, start, length in zip(signal.rows, signal.starts, signal.lengths, strict=True):
            if length != lengths[row]:  # a record of several shards: read() puts it together
                counts_lt = self._decode(*self._span(int(row)), np.array([row]))
            else:
                counts_lt = signal.counts_lt[:, start : start + length]
            if self._crc32(counts_lt) != crc32[row]:
                problems.append(f"record {ids[row]}: its samples are not those that were written")
        return problems

    def _span(self, row: int) -> tuple[int, int]:
        start = int(self.column("start")[row])
        return start, start + int(self.column("n_samples")[row])

    def _decode(self, begin: int, end: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
        for shard in range(begin // self.shard_samples, -(-end // self.shard_samples)):
            self._refuse_missing(shard)
        try:
            return patiently(self._root, lambda: np.asarray(self._array[:, begin:end], dtype=np.int16))
        except StoreUnreachable:
            raise
        except Exception as error:  # zarr and its codecs raise many kinds; each means that the bytes are bad
            ids = self.column("record_id")[rows]
            some = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
            raise IntegrityError(
                "a shard can't be decoded",
                where=f"{self.path} (samples {begin} to {end}, records {some})",
                got=" ".join(str(error).split())[:160],
                fix="see `ecgstore verify --deep`, and copy or ingest the store again",
            ) from error

    def _refuse_missing(self, shard: int) -> None:
        """Zarr reads a missing shard as "not recorded"; the manifest knows better."""
        name = layout.shard_object(shard)
        if name in self._manifest.objects and size_of(self._root, name) is None:
            raise IntegrityError("a shard is missing", where=self._root / name, fix="copy or ingest the store again")


def _beat(about: Mapping[str, Any], fs_hz: float) -> Beat:
    """One row of the table of beats, which in older stores has fewer columns."""
    more = {name: about[name] for name, _ in tables.ANNOTATION if about.get(name) is not None}
    return Beat(about["sample"] / fs_hz, about["symbol"], **more)


def _attributes(root: Place, sealed: manifest.Manifest) -> dict[str, Any]:
    content = json.loads(_sealed_bytes(root, sealed, layout.ROOT))
    attributes = content.get("attributes", {})
    if attributes.get("format") != layout.FORMAT:
        raise StoreFormatError("the root of the store is not an ecgstore", where=root / layout.ROOT)
    return dict(attributes)


def _table(root: Place, sealed: manifest.Manifest, name: str) -> pa.Table:
    return tables.from_parquet(_sealed_bytes(root, sealed, name))


def _sealed_bytes(root: Place, sealed: manifest.Manifest, name: str) -> bytes:
    """Read a small object and make sure that it is the one that was sealed."""
    stated = sealed.objects.get(name)
    try:
        content = patiently(root, (root / name).read_bytes)
    except FileNotFoundError:
        raise IntegrityError("an object of the store is missing", where=root / name) from None
    if stated is None or hashlib.sha256(content).hexdigest() != stated.sha256:
        raise IntegrityError("an object was changed after the store was sealed", where=root / name)
    return content
