"""Decoded records as int16 where windows can be gathered: in this process, on the device, or in a file per node.

A cache of a node is a folder of entries. An entry is one selection of one fingerprint, and can be thrown away at
any time: it is made again from the store. ::

    <key>/counts.i16    int16 (time, leads), record after record
    <key>/entry.json    what it holds
    <key>.filling/      the same while it is being filled; renamed when it is whole
    <key>.lock          held exclusively by whoever fills, shared by whoever uses it; says how far a fill is

The kernel gives a lock back when its process ends, however it ends. So whoever gets the exclusive lock and
finds ``.filling`` knows that a fill was killed, and an entry whose lock can be had is not in use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore import NOT_RECORDED, ConfigError, IntegrityError, Store, StoreReplaced
from ecgstore.inner import visible
from ecgtrain.data.plan import BatchPlan, Int64

#: Where caches go, and how much they may take, by the environment.
CACHE_DIR, CACHE_GB = "ECGTRAIN_CACHE_DIR", "ECGTRAIN_CACHE_GB"
#: Raised whenever the layout of an entry changes.
_ENTRY_VERSION = 2
#: Bytes of a buffer that have a CRC-32 of their own.
_CHECKED_BYTES = 64 << 20
_COUNTS, _ENTRY, _FILLING, _LOCK = "counts.i16", "entry.json", ".filling", ".lock"
#: Seconds between two looks at a fill that another process does, and between two words about it.
_LOOK_EVERY_S, _SAY_EVERY_S = 0.1, 5.0
#: The share of a file system that caches take at most, where CACHE_GB says nothing.
_DISK_SHARE = 0.5

log = logging.getLogger(__name__)

#: A piece of a decoded record: place among the selected records, offset in its usable samples, counts.
Piece = tuple[int, int, npt.NDArray[np.int16]]
#: Called with bytes filled and bytes in all.
Filled = Callable[[int, int], None]


class WindowCache:
    """Records of any lengths in one int16 buffer of shape (time, leads), record after record.

    Time-major, so that a window is one piece of memory: copying windows out then runs at the speed of any
    copy, twice that of the same windows lead by lead. A record shorter than ``window_samples`` is laid out as
    long as one window, its end "not recorded". ``counts_tl`` is a buffer to lay it in, such as a mapped file.
    """

    def __init__(
        self,
        n_leads: int,
        lengths_n: Int64,
        window_samples: int,
        counts_tl: npt.NDArray[np.int16] | None = None,
        *,
        filled: bool = False,
    ) -> None:
        self.lengths_n = np.asarray(lengths_n, dtype=np.int64)
        self.window_samples = window_samples
        pitch_n = np.maximum(self.lengths_n, window_samples)
        self._start_n = np.cumsum(pitch_n) - pitch_n
        # Allocated, not filled: only what no record covers needs "not recorded".
        if counts_tl is None:
            counts_tl = np.empty((int(pitch_n.sum()), n_leads), dtype=np.int16)
        self._counts_tl = counts_tl
        for row in np.flatnonzero(pitch_n > self.lengths_n) if not filled else ():
            start = self._start_n[row]
            self._counts_tl[start + self.lengths_n[row] : start + window_samples] = NOT_RECORDED
        # Every window of the buffer as one opaque item, which NumPy copies whole.
        sample_bytes = n_leads * self._counts_tl.itemsize
        self._windows: npt.NDArray[np.void] = np.ndarray(
            (len(self._counts_tl) - window_samples + 1,),
            dtype=np.dtype((np.void, window_samples * sample_bytes)),
            buffer=self._counts_tl,
            strides=(sample_bytes,),
        )

    @property
    def n_bytes(self) -> int:
        """Size of the buffer."""
        return self._counts_tl.nbytes

    def put(self, row: int, offset: int, counts_lt: npt.NDArray[np.int16]) -> None:
        """Write a piece of record ``row`` that begins at its sample ``offset``."""
        start = self._start_n[row] + offset
        self._counts_tl[start : start + counts_lt.shape[1]] = counts_lt.T

    def put_all(self, pieces: Iterable[Piece]) -> None:
        """Write all pieces of a shard. Threads may write different shards at once."""
        for row, offset, counts_lt in pieces:
            self.put(row, offset, counts_lt)

    def leave_out(self, places: Int64) -> None:
        """Forget the records at ``places``: those after them move up."""
        self.lengths_n, self._start_n = np.delete(self.lengths_n, places), np.delete(self._start_n, places)

    def windows(self, rows: Int64, offsets: Int64) -> npt.NDArray[np.int16]:
        """Copy windows out: int16 (batch, window, leads), that of ``rows[i]`` from ``offsets[i]`` on."""
        counts: npt.NDArray[np.int16] = self._windows[self._start_n[rows] + offsets].view(np.int16)
        return counts.reshape(len(rows), self.window_samples, self._counts_tl.shape[1])

    def ready(self, plans: Iterable[BatchPlan]) -> Iterable[BatchPlan]:
        """The plans, each when its windows can be had: here, at once."""
        return plans

    def mend(self, plan: BatchPlan) -> BatchPlan:
        """The plan without records that can't be read: here, as it is."""
        return plan

    def lost(self) -> Int64:
        """Places of the records that were found to be unreadable since this was opened: here, none."""
        return np.empty(0, dtype=np.int64)


# --- from the store -----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """The selected records of one store; ``weight`` is its share of the windows relative to other parts'."""

    store: Store
    rows: Int64
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """A part as it is decoded: which leads, which samples at both ends are left out, and its first place."""

    store: Store
    rows: Int64
    lead_index: list[int]
    edge_samples: int
    first_place: int

    @cached_property
    def lengths(self) -> Int64:
        """Samples of every record of the store."""
        return self.store.column("n_samples").astype(np.int64)

    @cached_property
    def spans(self) -> tuple[Int64, Int64]:
        """First and last shard of each record."""
        starts = self.store.column("start")[self.rows].astype(np.int64)
        return starts // self.store.shard_samples, (starts + self.lengths[self.rows] - 1) // self.store.shard_samples

    @cached_property
    def _place_of_row(self) -> Int64:
        place = np.full(self.store.n_records, -1, dtype=np.int64)
        place[self.rows] = self.first_place + np.arange(len(self.rows))
        return place

    def holds(self, place: int) -> bool:
        """Whether the record at ``place`` is of this part."""
        return self.first_place <= place < self.first_place + len(self.rows)

    def shards(self) -> list[int]:
        """The shards that hold a selected record, ascending."""
        first, last = self.spans
        marks = np.zeros(self.store.n_shards + 1, dtype=np.int64)
        np.add.at(marks, first, 1)
        np.add.at(marks, last + 1, -1)
        return np.flatnonzero(np.cumsum(marks)[:-1]).tolist()

    def places_in(self, shard: int) -> Int64:
        """Places of the records of which a part lies in ``shard``."""
        first, last = self.spans
        return self.first_place + np.flatnonzero((first <= shard) & (last >= shard))

    def pieces(self, shard: int) -> list[Piece]:
        """Decode one shard; raises IntegrityError where its bytes are not those that were written."""
        signal = self.store.read_shard(shard)
        all_leads = self.lead_index == list(range(len(self.store.leads)))
        edge = self.edge_samples
        found: list[Piece] = []
        for row, start, length, offset in zip(
            signal.rows.tolist(), signal.starts.tolist(), signal.lengths.tolist(), signal.offsets.tolist(), strict=True
        ):
            place = int(self._place_of_row[row])
            begin, end = max(edge - offset, 0), min(length, int(self.lengths[row]) - edge - offset)
            if place >= 0 and begin < end:
                piece = signal.counts_lt[:, start + begin : start + end]
                found.append((place, offset + begin - edge, piece if all_leads else piece[self.lead_index]))
        return found


def fill(
    put_all: Callable[[list[Piece]], None], sources: Sequence[Source], *, strict: bool, filled: Filled | None = None
) -> Int64:
    """Decode each shard that holds a selected record once; returns the places of records that can't be read.

    Raises IntegrityError at the first shard that can't be decoded if ``strict``, or if no record is left.
    """
    jobs = [(source, shard) for source in sources for shard in source.shards()]
    n_places = sum(len(source.rows) for source in sources)
    lost: set[int] = set()
    first_error: IntegrityError | None = None
    done_bytes = 0

    def decode(job: tuple[Source, int]) -> int | IntegrityError:
        source, shard = job
        try:
            pieces = source.pieces(shard)
        except StoreReplaced:  # what is left of the old store is no reason to go on
            raise
        except IntegrityError as error:
            return error
        put_all(pieces)
        return sum(counts_lt.nbytes for _, _, counts_lt in pieces)

    with ThreadPoolExecutor(decoders(), thread_name_prefix="ecgtrain-decode") as threads:
        try:
            for i, ((source, shard), result) in enumerate(zip(jobs, threads.map(decode, jobs), strict=True)):
                if isinstance(result, IntegrityError):
                    if strict:
                        raise result
                    first_error = first_error or result
                    lost |= set(source.places_in(shard).tolist())
                    continue
                done_bytes += result
                if filled is not None:
                    filled(done_bytes, done_bytes * len(jobs) // (i + 1))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if first_error is not None and len(lost) == n_places:
        raise first_error
    if first_error is not None:
        warn_lost(sources, sorted(lost), str(first_error))
    return np.array(sorted(lost), dtype=np.int64)


def ids_of(sources: Sequence[Source], places: Sequence[int]) -> list[str]:
    """Ids of the records at ``places``."""
    found: list[str] = []
    for source in sources:
        rows = [source.rows[place - source.first_place] for place in places if source.holds(place)]
        found += [str(name) for name in source.store.column("record_id")[rows]] if rows else []
    return found


def warn_lost(sources: Sequence[Source], places: Sequence[int], why: str) -> None:
    """Say which records a run goes on without."""
    ids = ids_of(sources, places)
    log.warning("%d records can't be read and are left out: %s (%s)", len(ids), visible(", ".join(ids)), why)


def decoders() -> int:
    """Threads that decode shards: a few, because each holds a decoded shard."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)))


# --- the cache of a node ------------------------------------------------------------------------------------


class NoRoom(Exception):
    """A cache can't be made in a folder; says why. Never reaches a user: another way of feeding is taken."""


class Entry(NamedTuple):
    """An entry of a cache folder, for people. ``state``: used, unused, filling or abandoned."""

    key: str
    folder: Path
    n_bytes: int
    used_s: float
    state: str
    about: Mapping[str, Any]


class Opened(NamedTuple):
    """A whole entry, mapped. Its lock is held as long as ``counts_tl`` lives."""

    counts_tl: npt.NDArray[np.int16]
    folder: Path
    about: Mapping[str, Any]


def folders(cache_dir: str | Path | None = None) -> list[Path]:
    """Where caches may go, in the order of trying.

    ``cache_dir`` or the variable CACHE_DIR alone, if either is set; else shared memory, then $TMPDIR or the
    user's cache.
    """
    asked = cache_dir or os.environ.get(CACHE_DIR)
    if asked:
        return [Path(asked).expanduser()]
    mine = f"ecgtrain-{os.getuid()}"
    shared = [Path("/dev/shm") / mine] if Path("/dev/shm").is_dir() else []
    if os.environ.get("TMPDIR"):
        return [*shared, Path(os.environ["TMPDIR"]) / mine]
    return [*shared, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecgtrain"]


def key_of(content: Mapping[str, Any]) -> str:
    """The name of the entry that holds ``content``."""
    text = json.dumps({"version": _ENTRY_VERSION, **content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def rows_sha256(rows: Int64) -> str:
    """Which rows, in which order."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()


def open_entry(
    folder: Path,
    key: str,
    shape: tuple[int, int],
    about: Mapping[str, Any],
    make: Callable[[npt.NDArray[np.int16], Filled], Mapping[str, Any]],
) -> Opened:
    """The entry ``key`` of int16 ``shape`` in ``folder``; filled by ``make`` first if it isn't there.

    One process fills, the others wait for it and say how far it is. Whoever opens an entry compares its checksums: one
    that is damaged is thrown away and filled again. ``make`` writes the buffer and returns what
    to add to ``about``. Raises NoRoom if the folder can't be written or has no room, and whatever ``make``
    raises; nothing is left behind then.
    """
    n_bytes = 2 * shape[0] * shape[1]
    try:
        _own_folder(folder)
        lock = _Lock(folder / f"{key}{_LOCK}")
    except OSError as error:
        raise NoRoom(f"{folder} can't be written: {error.strerror}") from error
    waiting = _Waiting(folder)
    try:
        while True:
            if not lock.take(exclusive=False):
                waiting.look(lock.path)
                continue
            if (known := _whole(folder / key, n_bytes)) is not None:
                os.utime(folder / key / _ENTRY)
                counts_tl = np.memmap(folder / key / _COUNTS, np.int16, "r", shape=shape)
                if _crc32_of(counts_tl) != known["crc32"]:
                    del counts_tl
                    _throw_away(folder / key, lock)
                    continue
                weakref.finalize(counts_tl, lock.close)
                return Opened(counts_tl, folder / key, known)
            lock.release()
            if lock.take(exclusive=True):
                if _whole(folder / key, n_bytes) is None:
                    _fill_entry(folder, key, shape, about, make, lock)
                lock.release()
            else:
                waiting.look(lock.path)
    except BaseException:
        lock.close()
        raise


def holds(folder: Path, key: str, n_bytes: int) -> bool:
    """Whether there is a whole entry ``key``."""
    return _whole(folder / key, n_bytes) is not None


def _fill_entry(
    folder: Path,
    key: str,
    shape: tuple[int, int],
    about: Mapping[str, Any],
    make: Callable[[npt.NDArray[np.int16], Filled], Mapping[str, Any]],
    lock: _Lock,
) -> None:
    """Fill aside, then rename. The exclusive lock is held."""
    aside = folder / f"{key}{_FILLING}"
    if aside.exists():
        log.warning("an earlier fill of the cache was killed; filling it again: %s", aside)
    n_bytes = 2 * shape[0] * shape[1]
    try:
        for stale in (aside, folder / key):
            if stale.exists():
                shutil.rmtree(stale)
        _make_room(folder, n_bytes)
        aside.mkdir()
        with (aside / _COUNTS).open("w+b") as file:
            # All of it now: a full disk is met here, and not as a SIGBUS on some page.
            os.posix_fallocate(file.fileno(), 0, n_bytes)
            counts_tl = np.memmap(file, np.int16, "r+", shape=shape)
            added = make(counts_tl, lambda done, of: lock.write(f"{os.getpid()} {done} {of}"))
            counts_tl.flush()
            crc32 = _crc32_of(counts_tl)
            del counts_tl
            os.fsync(file.fileno())
        content = {"version": _ENTRY_VERSION, "n_bytes": n_bytes, "shape": shape, "crc32": crc32, **about, **added}
        (aside / _ENTRY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        aside.rename(folder / key)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        why = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"can't be written: {error.strerror}"
        raise NoRoom(f"{folder} {why}") from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        lock.write("")


def _crc32_of(counts_tl: npt.NDArray[np.int16]) -> list[int]:
    """CRC-32 of each piece of the buffer; it is read whole, by a few threads."""
    byte = counts_tl.reshape(-1).view(np.uint8)
    with ThreadPoolExecutor(decoders()) as threads:
        begins = range(0, len(byte), _CHECKED_BYTES)
        return list(threads.map(lambda begin: zlib.crc32(byte[begin : begin + _CHECKED_BYTES].data), begins))


def _throw_away(entry: Path, lock: _Lock) -> None:
    """Remove an entry that is damaged; raises NoRoom where others use it."""
    log.warning("the cache %s is not what was filled; it is filled again", entry)
    lock.release()
    if not lock.take(exclusive=True):
        raise NoRoom(f"{entry} is damaged, and in use")
    shutil.rmtree(entry)
    lock.release()


def _whole(entry: Path, n_bytes: int) -> dict[str, Any] | None:
    try:
        known = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))
        is_whole = (entry / _COUNTS).stat().st_size == n_bytes == known["n_bytes"] and isinstance(known["crc32"], list)
        return known if is_whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _own_folder(folder: Path) -> None:
    """Make the folder; refuse one into which another user could put anything."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
    if found.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "everybody may write into it: chmod o-w", str(folder))


def _limit_bytes(folder: Path) -> int:
    """How much all entries of a folder may take together."""
    text = os.environ.get(CACHE_GB)
    if text is None:
        about = os.statvfs(folder)
        return int(_DISK_SHARE * about.f_frsize * about.f_blocks)
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise ConfigError(f"{CACHE_GB} is not a number", got=text, fix="say how many GB, such as 50") from None


def _make_room(folder: Path, n_bytes: int) -> None:
    """Remove unused entries, oldest first, until ``n_bytes`` more fit; raises NoRoom if they can't."""
    limit = _limit_bytes(folder)
    if n_bytes > limit:
        raise NoRoom(f"{n_bytes / 1e9:.3g} GB are over the limit of {limit / 1e9:.3g} GB for caches in {folder}")
    known = sorted(entries(folder), key=lambda entry: entry.used_s)
    taken = sum(entry.n_bytes for entry in known)

    def fits() -> bool:
        return taken + n_bytes <= limit and n_bytes <= _free_bytes(folder)

    for entry in known:
        if entry.state != "abandoned" and fits():
            continue
        if remove(entry):
            taken -= entry.n_bytes
            log.info("removed %s (%.3g GB) to make room", entry.folder, entry.n_bytes / 1e9)
    if not fits():
        raise NoRoom(f"{folder} has no room for {n_bytes / 1e9:.3g} GB")


def _free_bytes(folder: Path) -> int:
    """What can still be written there; in shared memory, no more than there is memory to spare."""
    about = os.statvfs(folder)
    free = about.f_frsize * about.f_bavail
    return min(free, int(0.8 * available_memory_bytes())) if folder.parts[:3] == ("/", "dev", "shm") else free


def entries(folder: Path) -> list[Entry]:
    """What there is in a cache folder, sorted by key."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        key, filling = path.name.removesuffix(_FILLING), path.name.endswith(_FILLING)
        if not path.is_dir() or not (folder / f"{key}{_LOCK}").exists():
            continue
        about: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            about = json.loads((path / _ENTRY).read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):  # gone meanwhile
            used_s = (path / _ENTRY if (path / _ENTRY).exists() else path).stat().st_mtime
            n_bytes = sum(file.stat().st_size for file in path.iterdir())
            busy = _busy(folder / f"{key}{_LOCK}")
            state = ("filling" if busy else "abandoned") if filling or not about else ("used" if busy else "unused")
            found.append(Entry(key, path, n_bytes, used_s, state, about))
    return found


def remove(entry: Entry) -> bool:
    """Remove an entry that nobody uses; returns whether that was so."""
    path = entry.folder.parent / f"{entry.key}{_LOCK}"
    try:
        lock = _Lock(path)
    except OSError:
        return False
    try:
        if not lock.take(exclusive=True):
            return False
        for folder in (entry.folder.parent / entry.key, entry.folder.parent / f"{entry.key}{_FILLING}"):
            shutil.rmtree(folder, ignore_errors=True)
        # Whoever waits for this lock finds that the file is another one, and opens that.
        path.unlink(missing_ok=True)
        return True
    finally:
        lock.close()


def _busy(path: Path) -> bool:
    try:
        lock = _Lock(path)
    except OSError:
        return True
    try:
        return not lock.take(exclusive=True)
    finally:
        lock.close()


class _Lock:
    """A lock between the processes of a node: ``flock`` on a file, given back when its process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, *, exclusive: bool) -> bool:
        """Try to get the lock; False if another process has it."""
        import fcntl

        while True:
            try:
                fcntl.flock(self._file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                raise NoRoom(f"{self.path.parent} has no locks: {error.strerror}") from error
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_ino == os.fstat(self._file).st_ino:
                    return True
            # The file was removed by whoever had the lock before: this one locks nothing.
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, text: str) -> None:
        """Leave a word for those who wait."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)

    def release(self) -> None:
        import fcntl

        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back, if it is held."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Waiting:
    """For a fill by another process, with a word about it now and then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._say_at_s = time.monotonic()

    def look(self, path: Path) -> None:
        time.sleep(_LOOK_EVERY_S)
        words: list[str] = []
        with contextlib.suppress(OSError):
            words = path.read_text().split()
        if len(words) == 3 and time.monotonic() >= self._say_at_s:
            done, of = int(words[1]), max(int(words[2]), 1)
            log.info("waiting for process %s to fill the cache in %s: %d %%", words[0], self._folder, 100 * done // of)
            self._say_at_s = time.monotonic() + _SAY_EVERY_S


# --- memory -------------------------------------------------------------------------------------------------


def machine_memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return min(limits)


def available_memory_bytes() -> int:
    """Memory that nothing holds at the moment."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        return min(1024 * kib, machine_memory_bytes())
    return machine_memory_bytes()
