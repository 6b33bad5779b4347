"""Open sets of ECGs into a folder, from PhysioNet or a mirror of it: verified, resumable, polite.

The list of a set's files and their SHA-256 (``SHA256SUMS.txt``) comes first. Each file is then written aside,
hashed, and only renamed to its name once the hash is the stated one, so a folder never holds a half file under
a whole file's name. Interrupted or killed at any moment, the same call goes on where it stopped: whole files
are kept, half ones are resumed with an HTTP range request. ``.fetch.jsonl`` in the folder remembers size and
time of change of files once verified, so that the next call needs not read them again.

What the server says is not trusted: no path of the list leads out of the folder or through a link in it, no
redirect leads from https to http, no body is longer than announced, and no password is ever sent.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import queue
import re
import shutil
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ecgstore.errors import ConfigError, SourceError, nearest
from ecgstore.fetching import checksums
from ecgstore.fetching.checksums import FETCH_STATE, SUMS
from ecgstore.fetching.http import ATTEMPTS, Final, Http, Passing, Stopped, read_list, span_of
from ecgstore.fetching.journal import Journal, Verified, verified_as
from ecgstore.settings import Settings, parse, read_yaml
from ecgstore.storage import publish
from ecgstore.storage.outside import refuse_within_store

PHYSIONET = "https://physionet.org/files/"
OPEN_DATA = Path(__file__).with_name("open_data.yaml")

#: More connections at once than this is more than a public archive should be asked for.
MAX_WORKERS = 8
#: Files in a row that could not be had; then something is wrong with the server or the way to it.
FAILURES_IN_A_ROW = 20
MAX_UNANNOUNCED_BYTES = 1 << 30
#: Room to leave on the disk.
SPARE_BYTES = 64 << 20
#: An attempt that brought this much doesn't count as failed: a long file over a bad line gets there in the end.
_HEADWAY_BYTES = 1 << 20
_JOIN_S = 5.0
_SAMPLED_SUFFIXES, _SAMPLES = 6, 6
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTENT_PAGE = re.compile(r"(https?://(?:www\.)?physionet\.org)/content/", re.IGNORECASE)


class OpenSet(Settings):
    """One entry of ``open_data.yaml``. Sizes and counts are those of the whole set."""

    slug: str
    version: str
    title: str
    licence: str
    doi: str
    citation: str
    #: Where all this was looked up.
    page: str
    records: int
    #: What it takes on disk, roughly; None where it has to be estimated.
    about_bytes: int | None = None
    #: Something to know before fetching it.
    hint: str = ""
    #: Why it is not fetched, and what to do instead; empty: it is.
    not_fetched: str = ""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch is going to do. ``files`` are paths relative to ``dest``, in the order they are asked for.

    ``about_bytes``: what is still to be transferred, roughly; None where the server gives no lengths.
    ``n_here``: how many of the files already stand in ``dest``; whether they are right is seen later.
    ``terms``: the entry of ``open_data.yaml``, or None for a set named by its address.
    """

    url: str
    dest: Path
    terms: OpenSet | None
    version: str
    files: tuple[str, ...]
    n_records: int
    n_here: int
    about_bytes: int | None
    free_bytes: int
    sums: Mapping[str, str] = field(repr=False)
    sums_text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did, of ``files`` that were asked for.

    ``bytes_fetched``: what came over the line, the list of files and all that was thrown away included.
    ``failed`` maps the path of a file that could not be had, or is not the stated one, to why.
    """

    url: str
    dest: Path
    version: str
    files: int
    fetched: int
    kept: int
    bytes_fetched: int
    seconds: float
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every file that was asked for is in the folder, with the stated hash."""
        return not self.failed


#: ``progress(files_done, files_total, bytes_fetched)``, from the thread that called :func:`fetch`.
Progress = Callable[[int, int, int], None]


def open_sets() -> dict[str, OpenSet]:
    """The sets that can be fetched by name, and those that can't with the reason, by name."""
    entries = read_yaml(OPEN_DATA).items()
    return {name: parse(OpenSet, entry, where=f"{OPEN_DATA.name}, {name}") for name, entry in entries}


def fetch(
    name_or_url: str,
    dest: Path,
    *,
    version: str | None = None,
    only: str | Sequence[str] | None = None,
    max_records: int | None = None,
    workers: int = 2,
    base_url: str | None = None,
    recheck: bool = False,
    announce: Callable[[FetchPlan], None] | None = None,
    progress: Progress | None = None,
) -> FetchReport:
    """Bring an open set, or a part of it, into the folder ``dest``; go on where an earlier call stopped.

    ``name_or_url``, ``version``, ``only``, ``max_records``, ``base_url``: see :func:`plan_fetch`.
    ``workers``: connections at once, 1 to 8. ``recheck``: read files again that were verified by an earlier call.
    ``announce``: called once with the plan (licence, number of files, size) before the first file is asked for.
    ``progress(files_done, files_total, bytes_fetched)``: called at least twice a second, from this thread.

    A file that can't be had, or whose hash is wrong twice, is in ``FetchReport.failed``; the rest goes on.
    Raises ConfigError for arguments that contradict each other, SourceError if the set can't be fetched at all:
    no list, no room, no connection, another set in ``dest``, another fetch at work there. Ctrl-C and errors
    leave a folder that the same call completes.
    """
    if not 1 <= workers <= MAX_WORKERS:
        raise ConfigError("the number of connections", expected=f"1 to {MAX_WORKERS}", got=workers)
    began = time.perf_counter()
    http = Http()
    try:
        plan = _plan(http, name_or_url, Path(dest), version, only, max_records, base_url)
        if announce is not None:
            announce(plan)
        if plan.about_bytes is not None:
            _refuse_full_disk("there is no room for the set", plan.dest, plan.about_bytes, plan.free_bytes)
        with Journal(plan.dest) as journal:
            _keep_list(plan)
            counts = _run(http, plan, journal, workers, recheck, progress)
    finally:
        http.close()
    return FetchReport(
        url=plan.url,
        dest=plan.dest,
        version=plan.version,
        files=len(plan.files),
        fetched=counts.fetched,
        kept=counts.kept,
        bytes_fetched=http.n_bytes,
        seconds=time.perf_counter() - began,
        failed=dict(sorted(counts.failed.items())),
    )


def plan_fetch(
    name_or_url: str,
    dest: Path,
    *,
    version: str | None = None,
    only: str | Sequence[str] | None = None,
    max_records: int | None = None,
    base_url: str | None = None,
) -> FetchPlan:
    """Say what :func:`fetch` would do: read the list of files, write nothing.

    ``name_or_url``: a name of :func:`open_sets`, or the address of a folder with a ``SHA256SUMS.txt``; PhysioNet's
    page of a version will do. ``version``: of a named set, another one than the stated. ``base_url``: a mirror,
    in the place of ``https://physionet.org/files/``.

    ``only``: patterns as in a shell, over the whole path (``*`` also covers ``/``); a file is taken if any fits.
    ``max_records``: at most so many records, drawn without regard to their order in the list; more of them later
    includes those of before. A record is a header and all files that are named like it. Files at the top of the
    set that belong to no record (tables, terms of use) are always taken: without them it can't be understood.

    Raises ConfigError, SourceError.
    """
    http = Http()
    try:
        return _plan(http, name_or_url, Path(dest), version, only, max_records, base_url)
    finally:
        http.close()


def _plan(
    http: Http,
    name_or_url: str,
    dest: Path,
    version: str | None,
    only: str | Sequence[str] | None,
    max_records: int | None,
    base_url: str | None,
) -> FetchPlan:
    if max_records is not None and max_records < 1:
        raise ConfigError("the number of records", expected="1 or more", got=max_records)
    refuse_within_store(dest)
    url, terms, chosen = _where(name_or_url, version, base_url)
    text = read_list(http, url)
    sums = _parse_list(text, url + SUMS)
    _refuse_other_set(dest, sums, url)
    patterns = (only,) if isinstance(only, str) else tuple(only or ())
    files, n_records = _select(sums, patterns, max_records)
    if not files:
        raise ConfigError("no file of the set fits", where=url, got=f"only {' '.join(patterns)}")
    missing = [name for name in files if not (dest / name).is_file()]
    stated = terms.about_bytes if terms is not None and terms.version == chosen else None
    untouched_and_whole = len(missing) == len(sums)
    about = stated if stated is not None and untouched_and_whole else _estimate_bytes(http, url, missing)
    return FetchPlan(
        url=url,
        dest=dest,
        terms=terms,
        version=chosen,
        files=files,
        n_records=n_records,
        n_here=len(files) - len(missing),
        about_bytes=about,
        free_bytes=_free_bytes(dest),
        sums=sums,
        sums_text=text,
    )


def _where(name_or_url: str, version: str | None, base_url: str | None) -> tuple[str, OpenSet | None, str]:
    """Address of the folder, ending with a slash; the terms of a named set; its version."""
    if "://" in name_or_url:
        if version is not None or base_url is not None:
            raise ConfigError("a version or a mirror can't be given along with an address", got=name_or_url)
        url = _folder_url(_CONTENT_PAGE.sub(r"\1/files/", name_or_url))
        return url, None, url.rstrip("/").rpartition("/")[2]
    sets = open_sets()
    # A set is also known by its name on PhysioNet.
    names = {entry.slug: name for name, entry in sets.items()} | {name: name for name in sets}
    if name_or_url not in names:
        near = nearest(name_or_url, names)
        known = ", ".join(name for name, entry in sets.items() if not entry.not_fetched)
        hint = f"did you mean {near}?" if near else f"known: {known}"
        raise ConfigError(f"unknown set {name_or_url!r}", fix=f"{hint}; any other set is fetched by its address")
    terms = sets[names[name_or_url]]
    if terms.not_fetched:
        raise SourceError(f"{name_or_url} is not fetched", where=terms.page, fix=terms.not_fetched)
    version = terms.version if version is None else version
    if not _WORD.fullmatch(version):
        raise ConfigError("this is no version", got=repr(version))
    return f"{_folder_url(base_url or PHYSIONET)}{terms.slug}/{version}/", terms, version


def _folder_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ConfigError("this is no address of a folder", expected="https://…/", got=ascii(url))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "an address with a password in it is not used: it would be written down",
            where=parts.hostname,
            fix="sets that need a login are not fetched; download them as their page says",
        )
    return url.removesuffix(SUMS).rstrip("/") + "/"


def _parse_list(text: bytes, url: str) -> dict[str, str]:
    try:
        sums = checksums.parse_sums(io.StringIO(text.decode("utf-8-sig"), newline="\n"), url)
    except UnicodeDecodeError as error:
        raise SourceError("the list of checksums is not text", where=url, got=str(error)) from None
    sums.pop(SUMS, None)
    for name in sums:
        if name == FETCH_STATE or name.endswith(publish.ASIDE):
            raise SourceError("the list has a file with a name that is kept for fetching", where=url, got=name)
    return sums


def _refuse_other_set(dest: Path, sums: Mapping[str, str], url: str) -> None:
    """A folder is completed only if it holds this very set: nothing else in it may be replaced."""
    try:
        here = sorted(path.name for path in dest.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise SourceError(
            "the destination can't be used", where=dest, got=error.strerror, fix="name a folder"
        ) from None
    if SUMS in here:
        if checksums.load_sums(dest) != sums:
            raise SourceError(
                "the folder holds another set, or another version of it",
                where=dest,
                got=f"a {SUMS} that differs from {url}{SUMS}",
                fix="choose another folder",
            )
        return
    others = [name for name in here if name != FETCH_STATE and not name.endswith(publish.ASIDE)]
    if others:
        raise SourceError(
            "the folder holds other files",
            where=dest,
            got=others[0],
            fix=f"choose an empty folder; or, if these are files of the set, put its {SUMS} there: "
            "then right ones are kept and wrong ones replaced",
        )


def _select(sums: Mapping[str, str], patterns: Sequence[str], max_records: int | None) -> tuple[tuple[str, ...], int]:
    """The files to fetch, those of no record first, and the number of records among them."""
    stems = {name.removesuffix(".hea") for name in sums if name.endswith(".hea")}
    alone: list[str] = []
    records: dict[str, list[str]] = defaultdict(list)
    for name in sorted(sums):
        stem = _stem(name)
        belongs = stem in stems
        fits = not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        if fits and belongs:
            records[stem].append(name)
        elif fits or ("/" not in name and not belongs):
            alone.append(name)
    order = list(records)
    if max_records is not None:
        # By a hash of the name: lists go by site or year, so the first N would be of one kind.
        order.sort(key=lambda stem: hashlib.sha256(stem.encode()).digest())
        order = sorted(order[:max_records])
    return (*alone, *(name for stem in order for name in records[stem])), len(order)


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0] or last}"


def _estimate_bytes(http: Http, url: str, names: Sequence[str]) -> int | None:
    """Roughly what these files are together: the lengths of a few of each kind. None if the server won't say."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        kinds[PurePosixPath(name).suffix].append(name)
    total = 0.0
    for members in sorted(kinds.values(), key=len, reverse=True)[:_SAMPLED_SUFFIXES]:
        # Evenly spread over the list, which goes by folder: folders differ in what is in them.
        asked = min(_SAMPLES, len(members))
        chosen = [members[(2 * i + 1) * len(members) // (2 * asked)] for i in range(asked)]
        lengths = [http.length(url + quote(name)) for name in chosen]
        known = [length for length in lengths if length is not None]
        if not known:
            return None
        total += sum(known) / len(known) * len(members)
    return round(total)


def _refuse_full_disk(what: str, where: Path, n_bytes: int, free_bytes: int) -> None:
    if n_bytes + SPARE_BYTES > free_bytes:
        raise SourceError(
            what,
            where=where,
            expected=f"about {n_bytes / 1e9:.1f} GB",
            got=f"{free_bytes / 1e9:.1f} GB free",
            fix="make room or choose another disk, or a part of the set; what is there already is kept",
        )


def _keep_list(plan: FetchPlan) -> None:
    try:
        publish.write_bytes(plan.dest / SUMS, plan.sums_text)
    except OSError as error:
        raise SourceError("the folder can't be written to", where=plan.dest, got=error.strerror) from None


def _free_bytes(dest: Path) -> int:
    place = dest.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


class _Outcome(NamedTuple):
    """What became of one file. ``kept`` and ``failure`` both unset: it was fetched."""

    name: str
    kept: bool = False
    failure: str = ""
    #: The failure is that of the server or of the way to it, so others may go the same way.
    transport: bool = False
    halt: Exception | None = None


@dataclass(slots=True)
class _Counts:
    fetched: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def _run(
    http: Http, plan: FetchPlan, journal: Journal, workers: int, recheck: bool, progress: Progress | None
) -> _Counts:
    """Let ``workers`` threads go through the files; write down, count and tell here."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in plan.files:
        waiting.put(name)
    outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
    known = {} if recheck else journal.verified
    # Daemons: one that hangs in a dead connection must not keep the program from ending.
    threads = [
        threading.Thread(target=_work, args=(http, plan, known, waiting, outcomes), daemon=True)
        for _ in range(min(workers, len(plan.files)))
    ]
    counts = _Counts()
    done = in_a_row = 0
    try:
        for thread in threads:
            thread.start()
        while done < len(plan.files):
            with contextlib.suppress(queue.Empty):
                outcome = outcomes.get(timeout=0.5)
                if outcome.halt is not None:
                    raise outcome.halt
                done += 1
                in_a_row = in_a_row + 1 if outcome.transport else 0
                _count(counts, outcome, plan, journal)
            if in_a_row >= FAILURES_IN_A_ROW and done < len(plan.files):
                raise SourceError(
                    f"{in_a_row} files in a row could not be had",
                    where=plan.url,
                    got=f"at last {outcome.name}: {outcome.failure}",
                    fix=f"{counts.fetched + counts.kept} of {len(plan.files)} files are in {plan.dest}; "
                    "run the same command again later to go on",
                )
            if progress is not None:
                progress(done, len(plan.files), http.n_bytes)
    finally:
        http.stop.set()
        deadline = time.monotonic() + _JOIN_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
    return counts


def _count(counts: _Counts, outcome: _Outcome, plan: FetchPlan, journal: Journal) -> None:
    if outcome.failure:
        counts.failed[outcome.name] = outcome.failure
        return
    if outcome.kept:
        counts.kept += 1
    else:
        counts.fetched += 1
    journal.remember(outcome.name, plan.sums[outcome.name])


def _work(
    http: Http,
    plan: FetchPlan,
    known: Mapping[str, Verified],
    waiting: queue.SimpleQueue[str],
    outcomes: queue.SimpleQueue[_Outcome],
) -> None:
    try:
        while not http.stop.is_set():
            outcomes.put(_one(http, plan, waiting.get_nowait(), known))
    except (queue.Empty, Stopped):
        pass
    except Exception as error:  # told to the thread that waits, which raises it
        outcomes.put(_Outcome("", halt=error))
    finally:
        http.hang_up()


def _one(http: Http, plan: FetchPlan, name: str, known: Mapping[str, Verified]) -> _Outcome:
    """Make one file stand in the folder with its stated hash."""
    path, stated = plan.dest / name, plan.sums[name]
    try:
        _make_folders(plan.dest, name)
        remembered = known.get(name)
        if remembered is not None and remembered == verified_as(path, stated):
            return _Outcome(name, kept=True)
        if checksums.compare(path, stated) is None:
            return _Outcome(name, kept=True)
        return _bring(http, plan.url + quote(name), name, path, stated)
    except Final as error:
        return _Outcome(name, failure=str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(
                "the disk is full", where=path, fix="make room, then run the same command again to go on"
            ) from None
        return _Outcome(name, failure=f"can't be written: {error.strerror}")


def _bring(http: Http, url: str, name: str, path: Path, stated: str) -> _Outcome:
    """Ask for a file until its hash is right, wrong twice, or the server has failed too often."""
    aside = path.with_name(path.name + publish.ASIDE)
    wrong = failures = 0
    forgiven = False
    etag: list[str] = []
    while True:
        # What an earlier call left may already be whole. A half file's wrong hash says nothing.
        resumed = _size(aside) or 0
        if resumed and checksums.compare(aside, stated) is None:
            break
        try:
            _receive(http, url, aside, etag)
        except Passing as error:
            failures = 1 if (_size(aside) or 0) >= resumed + _HEADWAY_BYTES else failures + 1
            if failures >= ATTEMPTS:
                return _Outcome(name, failure=f"{error} ({failures} times)", transport=True)
            http.pause(failures, error.retry_after_s)
            continue
        except Final as error:
            return _Outcome(name, failure=str(error), transport=True)
        problem = checksums.compare(aside, stated)
        if problem is None:
            break
        aside.unlink(missing_ok=True)
        etag.clear()
        if resumed and not forgiven:  # the half may have been of something else: the whole gets its two chances
            forgiven = True
            continue
        wrong += 1
        if wrong == 2:
            return _Outcome(name, failure=f"{problem} (twice)")
    http.refuse_stopped()
    # Not flushed to the disk one by one: what a power cut takes has another size afterwards, and is fetched again.
    aside.replace(path)
    return _Outcome(name)


def _receive(http: Http, url: str, aside: Path, etag: list[str]) -> None:
    """One request: append to ``aside`` what is missing of it, or begin anew where the server can't go on.

    ``etag`` holds the mark of the version that ``aside`` is of, if this call knows it.
    """
    have = _size(aside) or 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag:
        headers["If-Range"] = etag[0]
    with http.get(url, headers) as response:
        start, total = span_of(response, have)
        if start is None:
            aside.unlink(missing_ok=True)
            raise Passing("the server could not go on where the file ended")
        mark = response.headers.get("ETag", "")
        if mark or start == 0:
            etag[:] = [mark] if mark.startswith('"') else []
        limit = MAX_UNANNOUNCED_BYTES if total is None else total
        if total is not None:
            _refuse_full_disk("there is no room for a file", aside, total - start, _free_bytes(aside.parent))
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(start)
            file.seek(start)
            for block in http.blocks(response):
                start += len(block)
                if start > limit:
                    file.truncate(0)
                    raise Final(f"the server sends more than the {limit} bytes that it may")
                file.write(block)
    if total is not None and start < total:
        raise Passing(f"the connection ended after {start} of {total} bytes")


def _make_folders(dest: Path, name: str) -> None:
    """Make the folders of a file below ``dest``; nothing is written through a link."""
    place = dest
    *folders, last = name.split("/")
    for part in folders:
        place = place / part
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise Final(f"a link or file stands where a folder must be: {place}")
    for file in (place / last, place / (last + publish.ASIDE)):
        if file.is_symlink():
            raise Final(f"a link stands where the file must be: {file}")


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None
