"""The reading API: a sealed store, its tables, its shards, one record for people."""

from __future__ import annotations

import errno
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.errors import ConfigError, EcgError, IntegrityError, StoreError, StoreReplaced, StoreUnreachable, nearest
from ecgstore.record import Beat, LeadState, Record, Statement, Terms
from ecgstore.storage import asked, blocks, layout, manifest, parsed, stated_codes, tables, validate, validate_tables
from ecgstore.storage.blocks import Blocks
from ecgstore.storage.chunks import Chunks
from ecgstore.storage.columns import Columns, Ids, Whole, packed
from ecgstore.storage.handed import copied, fixed
from ecgstore.storage.limits import FIX, limits
from ecgstore.storage.objects import Folder, Objects, Remote
from ecgstore.storage.place import Place, is_remote, patiently, place, refuse_whole_files_only
from ecgstore.storage.selecting import selected
from ecgstore.storage.shard_signal import ShardSignal
from ecgstore.storage.statistics import LeadStatistics, statistics_of
from ecgstore.storage.verify import problems_of
from ecgstore.storage.ways import Ways

T = TypeVar("T")

#: So large an object is hashed in a thread while it is parsed; a smaller one is parsed once it is the sealed one.
PARSED_MEANWHILE_BYTES = 1 << 20

#: Columns of the table of records that reading one needs; older stores have fewer.
_TOLD = (
    "start", "n_samples", "crc32", "source_fs_hz", "lead_states", "patient_key", "fold", "age_years", "sex", "warnings",
    "site",
)  # fmt: skip

REPLACED = "the store was replaced by another one while it was open"

Spans = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def open_store(path: str | Path) -> Store:
    """Open the sealed store at ``path`` for reading: a folder, or an address as ``https://…`` or ``s3://bucket/name``.

    Raises StoreNotFound, StoreIncomplete (never sealed), StoreFormatError (not a store, or of a version that
    this release can't read, or not as docs/format.md says), IntegrityError (tables missing or not those that were
    sealed), StoreUnreachable (it is on another machine, and that doesn't answer). A store may come from anybody:
    docs/security.md says what opening one promises.
    """
    root = place(path)
    objects, sealed = manifest.open_sealed(root)
    if isinstance(objects, Remote):
        objects.read_ahead(manifest.needed_at_once(sealed, PARSED_MEANWHILE_BYTES))
    refuse_whole_files_only(root, layout.MANIFEST)
    return Store(root, objects, sealed)


def _reopen(path: str, fingerprint: str) -> Store:
    store = open_store(path)
    if store.fingerprint != fingerprint:
        raise StoreReplaced(REPLACED, where=path, fix="open it again")
    return store


class Store(Ways):
    """A sealed store. Made by :func:`open_store`; never changes, and never changes anything.

    What is read belongs together: where another store takes the place of this one, reading goes on with the old one as
    long as that is there, and then raises StoreReplaced. Stores may be used by several threads, and pickled.

    ``total_samples``: of the array, per lead. ``split_sha256``: of the table that its folds are of, where they are not
    its own (:func:`ecgstore.with_split`).
    """

    split_sha256: str | None = None

    def __init__(self, root: Place, objects: Objects, sealed: manifest.Manifest) -> None:
        self._root, self._objects, self._manifest = root, objects, sealed
        bounds = limits()
        said = self._json(layout.ROOT, bounds.root_bytes)
        self._attributes = validate.check_root(said, sealed.format_version, sealed.plan_sha256, root / layout.ROOT)
        self._metadata = self._json(layout.SIGNAL_JSON, bounds.array_bytes)
        where = root / layout.SIGNAL_JSON
        self.total_samples = validate.check_array(self._metadata, self._attributes, self._sizes, where)
        validate.check_consolidated(said, self._metadata, root / layout.ROOT)
        self._columns = self._columns_of_records()

    @property
    def records(self) -> pa.Table:
        """One row per record; the row number is the record's number. Columns: docs/format.md."""
        return self._columns.table(self._columns.names)

    @records.setter
    def records(self, table: pa.Table) -> None:
        self._columns = Whole(table)

    def _json(self, name: str, most_bytes: int) -> dict[str, Any]:
        where = self._root / name
        return self._sealed(name, most_bytes, lambda content: validate.parse_json(content, where, most_bytes))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

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
        """How the store keeps what was prepared: codec, and how quality was judged."""
        return dict(copied(self._attributes.get("storage", {"codec": "blosc", "quality": "basic"})))

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything that the root of the store says, as docs/format.md lists it; a copy, made each time."""
        return dict(copied(self._attributes))

    @property
    def objects(self) -> Mapping[str, manifest.ObjectHash]:
        """Size and SHA-256 of every object of the store, by its name."""
        return MappingProxyType(self._manifest.objects)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all objects: two stores with the same fingerprint are the same."""
        return self._manifest.fingerprint

    @property
    def recipe(self) -> dict[str, Any]:
        """The preparation: what was done to every record."""
        return dict(copied(self._attributes["recipe"]))

    @property
    def recipe_sha256(self) -> str:
        """Hash of the preparation."""
        return str(self._attributes["recipe_sha256"])

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Under which terms the sources of this store may be used."""
        return tuple(Terms(**source) for source in self._attributes["sources"])

    @property
    def software(self) -> dict[str, str]:
        """Versions of what wrote the store."""
        return dict(copied(self._attributes["software"]))

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self._columns.n_rows

    @property
    def n_bytes(self) -> int:
        """Size of all objects of the store."""
        return sum(found.size for found in self._manifest.objects.values())

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        ends = self.spans[1]
        return -(-int(ends[-1]) // self.shard_samples) if len(ends) else 0

    @property
    def shard_samples(self) -> int:
        """Samples of a shard along time."""
        return int(self._attributes["shard_samples"])

    @functools.cached_property
    def statements(self) -> pa.Table:
        """One row per statement: row, code, system, likelihood (percent, null where not stated)."""
        check = validate_tables.check_statements
        return self._table(layout.STATEMENTS, lambda table, where: check(table, where, self.n_records))

    @functools.cached_property
    def lead_quality(self) -> pa.Table:
        """What was measured of each lead: one row per record, lists of one number per lead. Empty in format 1."""
        if layout.LEADS not in self._manifest.objects:
            if self.encoding == "adc":
                validate.refuse("a raw store needs the gain of each lead", self.path, layout.LEADS)
            return pa.table({})
        check = validate_tables.check_leads
        return self._table(layout.LEADS, lambda table, where: check(table, where, self.n_records, self._attributes))

    @functools.cached_property
    def beats(self) -> pa.Table:
        """One row per beat or other annotation: row, sample in the record, symbol, and more where there are any.

        Empty in format 1.
        """
        if layout.BEATS not in self._manifest.objects:
            return pa.table({})
        n_samples = self.column("n_samples")
        return self._table(layout.BEATS, lambda table, where: validate_tables.check_beats(table, where, n_samples))

    @functools.cached_property
    def rejected(self) -> pa.Table:
        """One row per record that was left out: record_id, reason, detail."""
        return self._table(layout.REJECTED, validate_tables.check_rejected)

    def _table(self, name: str, check: Callable[[pa.Table, object], None]) -> pa.Table:
        """A table, once it is the one that was sealed and ``check`` passes it."""
        where, n_leads, version = self._root / name, len(self.leads), self.format_version

        def parse(content: bytes) -> pa.Table:
            table = validate_tables.parse_table(content, name, n_leads, version, where)
            check(table, where)
            return validate_tables.plain_texts(table, where)

        bounds = limits()
        if self._manifest.objects[name].size < PARSED_MEANWHILE_BYTES:
            parse = functools.partial(parsed.once, (name, self.fingerprint, bounds), parse)
        return self._sealed(name, bounds.table_bytes, parse)

    def _columns_of_records(self) -> Columns:
        def check(table: pa.Table, where: object) -> None:
            validate_tables.check_records(table, where, self._attributes, self.total_samples)

        if self._manifest.objects[layout.RECORDS].size < PARSED_MEANWHILE_BYTES:
            return Whole(self._table(layout.RECORDS, check))
        open_packed = functools.partial(
            packed, version=self.format_version, where=self._root / layout.RECORDS, check=check
        )
        if not isinstance(self._objects, Folder) and (parts := self._in_blocks(layout.RECORDS, limits().table_bytes)):
            return open_packed(parts)
        return self._sealed(layout.RECORDS, limits().table_bytes, open_packed)

    def _in_blocks(self, name: str, most_bytes: int) -> Blocks | None:
        """An object of which parts can be read, each compared with what was sealed."""
        where, size = self._root / name, self._manifest.objects[name].size
        validate.check_length(size, most_bytes, where)
        read, refuse = functools.partial(self._read_part, name), functools.partial(self._refuse_changed, where)
        return blocks.of(self._attributes, name, size, read, refuse, where)

    @functools.cached_property
    def _array(self) -> Any:
        from ecgstore.storage.array import read_array  # zarr takes a quarter of a second, and few stores need it

        return read_array(self._metadata, self._sizes, self._read_part)

    @functools.cached_property
    def _counts(self) -> Callable[[int, int], npt.NDArray[np.int16]]:
        """Reads counts (leads, samples) of the signal from one sample up to another."""
        if self.storage["codec"] == "blosc":
            return Chunks(self._metadata, self._sizes, self._read_part).counts
        return lambda begin, end: np.asarray(self._array[:, begin:end], dtype=np.int16)

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return {name: one.size for name, one in self._manifest.objects.items()}

    @functools.cached_property
    def _statements(self) -> tables.ByRecord:
        return tables.ByRecord(self.statements)

    @functools.cached_property
    def _beats(self) -> tables.ByRecord:
        return tables.ByRecord(self.beats)

    @functools.cached_property
    def _ids(self) -> Ids:
        table = self._columns.table(["record_id"])
        validate_tables.check_unique_ids(table, self._root / layout.RECORDS)
        return Ids(table["record_id"])

    @functools.cached_property
    def spans(self) -> Spans:
        """First sample of each record in the array, and the one behind its last, each (records,); both ascend.

        They can't be written into: the store finds its records by them.
        """
        starts = self.column("start")
        return fixed(starts), fixed(starts + self.column("n_samples"))

    def column(self, name: str) -> npt.NDArray[Any]:
        """The column ``name`` of :attr:`records` as NumPy, shape (records,); raises ConfigError where there is none.

        Null is NaN in a float, -1 in an integer, 0 in an unsigned and "" in a text column.
        """
        if asked.one_text(name, "the name of a column", self.path) not in self._columns.names:
            near = nearest(name, self._columns.names)
            known = f"did you mean {near}?" if near else f"there are {', '.join(self._columns.names)}"
            raise ConfigError(f"no column {name!r} in the table of records", where=self.path, fix=known)
        column = self._columns.table([name])[name]
        if pa.types.is_string(column.type):
            return np.asarray(["" if one is None else one for one in column.to_pylist()], dtype=object)
        if pa.types.is_unsigned_integer(column.type):
            return tables.numbers(column, 0).copy()
        return tables.numbers(column, -1 if pa.types.is_integer(column.type) else np.nan).copy()

    def vocabulary(self, system: str) -> frozenset[str]:
        """Every code that the sources ever state in ``system``; :meth:`statement_mask` says of which records."""
        system = asked.one_text(system, "a coding system", self.path)
        return frozenset(self._attributes["vocabulary"].get(system, ()))

    def statement_matrix(self, codes: Iterable[str], system: str) -> npt.NDArray[np.bool_]:
        """Which record states which of ``codes``, bool (records, codes); a likelihood of any size counts.

        Raises ConfigError for a code that the sources never state in ``system``: it could only be misspelt.
        """
        known = stated_codes.known_codes(codes, system, self.statements, self._attributes["vocabulary"], self.path)
        return stated_codes.matrix(known, system, self.statements, self.n_records)

    def statement_mask(self, codes: Iterable[str], system: str) -> npt.NDArray[np.bool_]:
        """Where the absence of one of ``codes`` in ``system`` is a "no", bool (records, codes): its site states it.

        Sources that publish their codes mean them for all records; for others each site has a list of its own. A
        store without such lists has one for all its records. Raises ConfigError as :meth:`statement_matrix` does.
        """
        known = stated_codes.known_codes(codes, system, self.statements, self._attributes["vocabulary"], self.path)
        by_site = self._attributes.get("vocabulary_by_site", {})
        return stated_codes.mask(known, self.vocabulary(system), system, by_site, self.column("site"))

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
        for doesn't match. A fold may have no record; raises ConfigError naming a source, a site or what in the
        condition is not known.
        """
        return selected(self, self._columns, folds, sources, sites, where)

    def statistics(self, folds: Iterable[int] | None = None) -> LeadStatistics:
        """Mean and standard deviation per lead over all recorded samples of the records in ``folds`` (None: all).

        Computed from exact integer sums that the store carries, so no sample is read. A lead without a
        single sample has NaN. Raises StoreError for a raw store, whose counts have gains of their own.
        """
        if self.encoding == "adc":
            raise StoreError("a raw store has no statistics: its counts have gains of their own", where=self.path)
        wanted = None if folds is None else asked.folds_of(folds, self.path)
        return statistics_of(self._attributes["statistics"], len(self.leads), wanted)

    def read_shard(self, shard: int) -> ShardSignal:
        """Read and decode the whole shard number ``shard``, from 0 on; every chunk's checksum is verified.

        Raises ConfigError where there is no such shard, IntegrityError naming the records in it where the bytes are not
        those that were written.
        """
        shard = asked.shard_of(shard, self.n_shards, self.path)
        size = self.shard_samples
        begin, end = shard * size, min((shard + 1) * size, self.total_samples)
        starts, ends = self.spans
        rows = np.arange(np.searchsorted(ends, begin, side="right"), np.searchsorted(starts, end, side="left"))
        counts_lt = self.decode(begin, end, rows)
        first, last = np.maximum(starts[rows], begin), np.minimum(ends[rows], end)
        signal = ShardSignal(shard, rows, first - begin, last - first, first - starts[rows], counts_lt)
        if is_remote(self._root):
            self._check_against_crc32(signal)
        return signal

    def read(
        self,
        record_id: str,
        *,
        start_s: float = 0.0,
        stop_s: float | None = None,
        leads: Iterable[str] | None = None,
    ) -> Record:
        """Read the record ``record_id``, or a part of it: float32 mV (leads, samples).

        NaN is what was not recorded, or has no known gain in a raw store: then ``warnings`` says so of which leads,
        and :meth:`read_shard` has their counts. ``start_s`` and ``stop_s`` are seconds from its first sample, each
        rounded to the nearest sample; None is its end. ``leads`` are read in the order in which they are named; None
        means all. Of a part, only the chunks that it lies in are decoded. Each chunk has a checksum of its own, which
        is always compared; the record's CRC-32 can only be compared where all of it is read.

        Raises ConfigError for a record or a lead that is not there, or a part that isn't within the record;
        IntegrityError where the samples are not those that were written, or the store was replaced.
        """
        row = self.row_of(record_id)
        about = self._columns.about(row, _TOLD)
        which, fs_hz = asked.leads_of(leads, self.leads, self.path), self._fs_of(about)
        first, last = asked.part_of(record_id, about["n_samples"], fs_hz, start_s, stop_s, self.path)
        begin = about["start"] + first
        with self._statements_meanwhile():
            counts_lt = self.decode(begin, about["start"] + last, np.array([row]))
        if last - first < about["n_samples"]:
            if is_remote(self._root):
                self._refuse_replaced()
        elif self.crc32_of(counts_lt) != about["crc32"]:
            self._refuse_replaced(certainly=True)
            raise IntegrityError(f"record {record_id} is not what was written", where=self.path)
        return Record(
            record_id=record_id,
            leads=tuple(self.leads[lead] for lead in which),
            fs_hz=fs_hz,
            signal_mv_lt=self._to_mv(counts_lt, row, which),
            lead_states=tuple(LeadState(about["lead_states"][lead]) for lead in which),
            patient_key=about["patient_key"],
            fold=about["fold"],
            age_years=about["age_years"],
            sex=about["sex"],
            statements=tuple(
                Statement(one["code"], one["system"], one["likelihood"]) for one in self._statements.of(row)
            ),
            warnings=tuple(filter(None, (about["warnings"] or "").split("; "))),
            site=about.get("site"),
        )

    def _statements_meanwhile(self) -> AbstractContextManager[Any]:
        """Fetch the statements while something else is waited for, where that takes its time."""
        if not is_remote(self._root) or "statements" in self.__dict__:
            return nullcontext()
        stack = ExitStack()
        thread = stack.enter_context(ThreadPoolExecutor(1))
        thread.submit(lambda: self.statements)  # whoever asks for them meets what went wrong
        return stack

    def read_beats(self, record_id: str) -> tuple[Beat, ...]:
        """Beats and other annotations of the record ``record_id``, in time; empty where its source states none."""
        row = self.row_of(record_id)
        if self.beats.num_rows == 0:
            return ()
        fs_hz = self._fs_of(self._columns.about(row, _TOLD))
        return tuple(tables.beat_of(one, fs_hz) for one in self._beats.of(row))

    def row_of(self, record_id: str) -> int:
        """The number, from 0 on, of ``record_id``. Raises ConfigError, naming the nearest, where there is none."""
        if not isinstance(record_id, str):
            raise ConfigError(
                "a record is read by its id, which is a text",
                where=self.path,
                got=repr(record_id)[:80],
                fix='the id of row 0 is store.column("record_id")[0]',
            )
        row = self._ids.row_of(record_id)
        if row is None:
            near = nearest(record_id, self.column("record_id").tolist())
            fix = f"did you mean {near}?" if near else "list them with `ecgstore records`"
            raise ConfigError(f"no record {record_id!r}", where=self.path, fix=fix)
        return row

    def _fs_of(self, about: Mapping[str, Any]) -> float:
        return float(self._attributes["fs_hz"] or about["source_fs_hz"])

    def _to_mv(self, counts_lt: npt.NDArray[np.int16], row: int, which: list[int]) -> npt.NDArray[np.float32]:
        if len(which) != len(self.leads) or which != sorted(which):
            counts_lt = counts_lt[which]
        if self.encoding != "adc":
            return layout.counts_to_mv(counts_lt)
        its = self.lead_quality.slice(row, 1).to_pylist()[0]
        gain_per_mv_l, baseline_l = (np.array(its[n], np.float64)[which] for n in ("gain_per_mv", "baseline"))
        return layout.adc_to_mv(counts_lt, gain_per_mv_l, baseline_l)

    def crc32_of(self, counts_lt: npt.NDArray[np.int16]) -> int:
        """CRC-32 of a whole record's ``counts_lt``, int16 (leads, samples): lead after lead, shard after shard."""
        # A record of several shards begins at the beginning of one. Format 1 took it as one piece.
        size = self.shard_samples if self.format_version > 1 else counts_lt.shape[1]
        return layout.crc32_of_counts(counts_lt, size)

    def verify(self, *, deep: bool = False, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Check the store; returns one line per problem, none if all is well.

        Quick: every object present and of its size, nothing added, every table as docs/format.md says. ``deep``: every
        byte by SHA-256, every shard decoded, every record by the CRC-32 of its counts, and nothing between records.
        ``progress`` is called with how many are done, and of how many.
        """
        return problems_of(self, self._objects, self._manifest, deep=deep, progress=progress)

    def _check_against_crc32(self, signal: ShardSignal) -> None:
        """On another machine a shard can be another store's by now: only its samples tell."""
        lengths, crc32 = self.column("n_samples"), self.column("crc32")
        for row, start, length in zip(signal.rows, signal.starts, signal.lengths, strict=True):
            if length != lengths[row]:
                self._refuse_replaced()
            elif self.crc32_of(signal.counts_lt[:, start : start + length]) != crc32[row]:
                self._refuse_replaced(certainly=True)
                raise IntegrityError(f"record {self.id_of(int(row))} is not what was written", where=self.path)

    def id_of(self, row: int) -> str:
        """The id of the record at ``row``, from 0 on; raises ConfigError where there is none."""
        row = asked.row_of(row, self.n_records, self.path)
        return str(self._columns.about(row, ("record_id",))["record_id"])

    def decode(self, begin: int, end: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
        """Counts (leads, samples) of the array from ``begin`` up to ``end``; ``rows`` are the records in there."""
        if not 0 <= begin <= end <= self.total_samples:
            raise ConfigError(
                "no such part of the array",
                where=self.path,
                expected=f"0 to {self.total_samples}",
                got=f"{begin} to {end}",
            )
        if (n_bytes := 2 * len(self.leads) * (end - begin)) > limits().record_bytes:
            raise StoreError("that is too much to read at once", where=self.path, got=f"{n_bytes} bytes", fix=FIX)
        if not is_remote(self._root):  # there, what is missing or too short is seen as it is read
            for shard in range(begin // self.shard_samples, -(-end // self.shard_samples)):
                self._refuse_missing(shard)
        try:
            counts_lt = patiently(self._root, lambda: self._counts(begin, end))
        except EcgError:
            raise
        except MemoryError:
            raise StoreError("that is too much to read at once", where=self.path, got=f"{n_bytes} bytes") from None
        except Exception as error:  # zarr and its codecs raise many kinds; each means that the bytes are bad
            self._refuse_replaced(certainly=True)
            ids = [self.id_of(int(row)) for row in rows[:5]]
            some = ", ".join(ids) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
            raise IntegrityError(
                "a shard can't be decoded",
                where=f"{self.path} (samples {begin} to {end}, records {some})",
                got=" ".join(str(error).split())[:160],
                fix="see `ecgstore verify --deep`, and copy or ingest the store again",
            ) from error
        if not is_remote(self._root):
            self._refuse_replaced()
        return counts_lt

    def _read_part(self, name: str, begin: int, end: int) -> bytes:
        try:
            part = self._objects.read(name, begin, end)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ESTALE:
                raise
            part = b""
        if len(part) != end - begin:
            self._refuse_replaced(certainly=True)
            what = "a shard" if name.startswith(f"{layout.SIGNAL}/") else "a table"
            missing, fix = f"{what} is missing, or has lost its end", "copy or ingest the store again"
            raise IntegrityError(missing, where=self._root / name, fix=fix)
        return part

    def _refuse_missing(self, shard: int) -> None:
        """Zarr reads a missing shard as "not recorded"; the manifest knows better."""
        name = layout.shard_object(shard)
        if (stated := self._manifest.objects.get(name)) is None:
            return
        size = self._objects.size(name)
        if size != stated.size:
            self._refuse_replaced(certainly=True)
        if size is None:
            raise IntegrityError("a shard is missing", where=self._root / name, fix="copy or ingest the store again")
        if size != stated.size:
            raise IntegrityError(
                "a shard was changed after the store was sealed",
                where=self._root / name,
                expected=f"{stated.size} bytes",
                got=size,
            )

    def _sealed(self, name: str, most_bytes: int, parse: Callable[[bytes], T]) -> T:
        """What ``parse`` makes of an object, once it is the one that was sealed."""
        where, stated = self._root / name, self._manifest.objects[name]
        validate.check_length(stated.size, most_bytes, where)
        try:
            content = self._objects.read(name, 0, stated.size + 1)
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_replaced(certainly=True)
            raise IntegrityError("an object of the store is missing", where=where) from None
        if len(content) != stated.size:
            self._refuse_changed(where)
        if len(content) < PARSED_MEANWHILE_BYTES:
            if hashlib.sha256(content).hexdigest() != stated.sha256:
                self._refuse_changed(where)
            return parse(content)
        with ThreadPoolExecutor(1) as thread:
            hashed = thread.submit(lambda: hashlib.sha256(content).hexdigest())
            try:
                return parse(content)
            finally:
                if hashed.result() != stated.sha256:  # then whatever parse says of it is beside the point
                    self._refuse_changed(where)

    def _refuse_changed(self, where: object) -> NoReturn:
        self._refuse_replaced(certainly=True)
        raise IntegrityError("an object was changed after the store was sealed", where=where)

    def _refuse_replaced(self, *, certainly: bool = False) -> None:
        """Raise StoreReplaced if another store stands in the place of the one that was opened.

        ``certainly``: something is wrong already, so look at the manifest itself.
        """
        if not certainly and not self._objects.is_rewritten():
            return
        try:
            is_current = manifest.load(self._root).fingerprint == self.fingerprint
        except StoreUnreachable:
            raise
        except EcgError:
            is_current = False
        if not is_current:
            raise StoreReplaced(REPLACED, where=self.path, fix="open it again")
