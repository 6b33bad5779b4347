"""Whether the commits of a store are those of its shards: whoever withdraws, merges or appends goes by them.

What a commit in Arrow says of itself stands in its footer; its rows are read after that, one commit at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import pyarrow as pa

from ecgstore.errors import EcgError, StoreReplaced, StoreUnreachable, visible
from ecgstore.storage import layout, validate
from ecgstore.storage.commit_rows import Rows, Tabled
from ecgstore.storage.limits import limits
from ecgstore.storage.manifest import Manifest
from ecgstore.storage.objects import Objects

_NAME = re.compile(rf"{layout.COMMITS}/([0-9]+)\.(arrow|json)")
#: What an Arrow file ends with: the length of its footer, and a word.
_MARK = b"ARROW1"
_END_BYTES = 4 + len(_MARK)
_ABOUT = b"about"

#: Fold → sums of its samples, each a list with one integer per lead.
Sums = dict[str, list[list[int]]]


class Committed(Tabled, Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    @property
    def path(self) -> str: ...
    @property
    def encoding(self) -> str: ...
    @property
    def format_version(self) -> int: ...
    @property
    def n_shards(self) -> int: ...


def problems_of_commits(
    store: Committed, objects: Objects, sealed: Manifest, bad: Collection[str], *, with_rows: bool
) -> list[str]:
    """One line per commit that is not of shards that are there; ``bad``: objects of which a problem is known.

    ``with_rows``: whether the tables are right, so that the rows of commits can be held to them.
    """
    names = sorted(name for name in sealed.objects if name.startswith(f"{layout.COMMITS}/"))
    its_shards = shards_of(names, store.n_shards) if with_rows and store.format_version > 1 else {}
    problems, said, rows = [], [], Rows(store)
    for name in names:
        if name in bad:
            continue
        try:
            about, content = _said(store, objects, sealed, name)
            if name in its_shards:
                rows.of_commit(content, *its_shards[name], f"{store.path}/{name}")
            said.append(about)
        except (StoreReplaced, StoreUnreachable):
            raise
        except EcgError as error:
            problems.append(f"{visible(name)}: {error}")
    if problems or len(said) < len(names):
        return problems
    of_shards = Counter(shard for about in said for shard in about["objects"])
    shards = [name for name in sealed.objects if name.startswith(layout.shard_object(0)[:-1])]
    problems = [
        f"{name}: {'no commit is' if not of_shards[name] else f'{of_shards[name]} commits are'} of this shard"
        for name in shards
        if of_shards[name] != 1
    ]
    if not problems and store.encoding != "adc" and _added(said) != _stated(store.attributes["statistics"]):
        problems.append(f"{layout.ROOT}: the statistics are not the sums that the commits state")
    return problems


def shards_of(names: Iterable[str], n_shards: int) -> dict[str, tuple[int, int]]:
    """Commit → the shard that it is called after, and the one that the next is: what begins between is its own."""
    found = ((name, _NAME.fullmatch(name)) for name in names)
    numbers = {name: int(match[1]) for name, match in found if match is not None and _is_number(match[1])}
    ordered = sorted(numbers, key=numbers.__getitem__)
    after = [*(numbers[name] for name in ordered[1:]), n_shards]
    return {name: (numbers[name], end) for name, end in zip(ordered, after, strict=False)}


def _said(store: Committed, objects: Objects, sealed: Manifest, name: str) -> tuple[dict[str, Any], bytes]:
    """What a commit says besides its rows, and its bytes.

    Raises StoreFormatError where it isn't as docs/format.md says.
    """
    where = f"{store.path}/{name}"
    suffix = "json" if store.format_version == 1 else "arrow"
    match = _NAME.fullmatch(name)
    if match is None or match[2] != suffix or not _is_number(match[1]):
        validate.refuse("a commit has another name than this version gives", where, f"six digits and .{suffix}")
    if int(match[1]) >= store.n_shards:
        validate.refuse("a commit is of a shard that is not there", where, f"0 to {store.n_shards - 1}", int(match[1]))
    size = sealed.objects[name].size
    validate.check_length(size, limits().root_bytes if suffix == "json" else limits().table_bytes, where)
    content = objects.read(name, 0, size)
    about = _about_of_json(content, where) if suffix == "json" else about_of(content, where)
    task = "plan_sha256" if suffix == "json" else "task_sha256"
    if not validate.is_sha256(about.get(task)):
        validate.refuse("a commit doesn't say what it is of", where, f"{task}: a SHA-256")
    if not _are_objects(about.get("objects"), sealed):
        validate.refuse("a commit names objects that the store doesn't hold", where)
    if not _are_left_out(about.get("rejected")):
        validate.refuse("a commit doesn't say what was left out", where, "rejected: a list of id, reason and detail")
    if not are_sums(about.get("sums"), len(store.attributes["leads"])):
        validate.refuse("a commit has no sums of its samples", where, "sums: three lists of integers for each fold")
    return about, content


def _about_of_json(content: bytes, where: object) -> dict[str, Any]:
    about = validate.parse_json(content, where, limits().root_bytes)
    if not isinstance(about.get("written"), dict):
        validate.refuse("a commit lacks its rows", where, "written")
    return about


def about_of(content: bytes, where: object) -> dict[str, Any]:
    """What a commit in Arrow says of itself, in its footer. Raises StoreFormatError."""
    if content[-len(_MARK) :] != _MARK:
        validate.refuse("a commit is no Arrow file", where)
    validate.check_length(int.from_bytes(content[-_END_BYTES:][:4], "little"), 2 * limits().root_bytes, where)
    try:
        # In memory, and without threads: Arrow begins some to read a file, and one of its may outlive the process.
        alone = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_file(pa.BufferReader(content), options=alone) as file:
            schema = file.schema
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        validate.refuse("a commit can't be read", where, got=" ".join(str(error).split())[:160])
    if len(set(schema.names)) != len(schema.names):
        validate.refuse("a commit has a column twice", where)
    if "record_id" not in schema.names or schema.field("record_id").type != pa.string():
        validate.refuse("a commit has no ids", where, "record_id, a text")
    if _ABOUT not in (schema.metadata or {}):
        validate.refuse("a commit says nothing of itself", where, "about")
    return validate.parse_json(schema.metadata[_ABOUT], where, limits().root_bytes)


def _is_number(digits: str) -> bool:
    return digits == f"{int(digits):06d}"


def _are_objects(said: Any, sealed: Manifest) -> bool:
    return isinstance(said, dict) and all(
        name in sealed.objects
        and name.startswith(f"{layout.SIGNAL}/")
        and pair == [sealed.objects[name].size, sealed.objects[name].sha256]
        for name, pair in said.items()
    )


def _are_left_out(said: Any) -> bool:
    return isinstance(said, list) and all(
        isinstance(one, list) and len(one) == 3 and all(isinstance(text, str) for text in one) for one in said
    )


def are_sums(said: Any, n_leads: int) -> bool:
    """Whether these are the ``sums`` of a commit: for each fold three lists with one integer per lead."""
    return isinstance(said, dict) and all(
        isinstance(lists, list)
        and len(lists) == 3
        and all(isinstance(one, list) and len(one) == n_leads for one in lists)
        and all(type(value) is int for one in lists for value in one)
        for lists in said.values()
    )


def _added(said: list[dict[str, Any]]) -> Sums:
    found: Sums = {}
    for about in said:
        for fold, lists in about["sums"].items():
            before = found.get(fold, [[0] * len(one) for one in lists])
            found[fold] = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(before, lists, strict=True)]
    return found


def _stated(statistics: Mapping[str, Mapping[str, list[int]]]) -> Sums:
    return {fold: [its["n"], its["sum_counts"], its["sum_squared_counts"]] for fold, its in statistics.items()}
