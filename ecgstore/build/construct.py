"""One way to make a store, whatever its shards are made of: decide, begin, one task per shard, commits, seal.

What becomes of the place where the store shall stand is decided and done under one lock: whoever plans at the same time
finds, when its turn comes, what stands there by then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

from ecgstore.build import building, commits, schedule
from ecgstore.build.commits import Committed, Unit
from ecgstore.build.schedule import Workers
from ecgstore.errors import StoreExists, StoreIncomplete
from ecgstore.storage import layout, manifest

#: Called with (phase, done, total); phases are "verify", "scan", "shards" and "seal".
Progress = Callable[[str, int, int], None]
#: The i-th of n equal shares of the tasks, counted from 1.
Part = tuple[int, int]


class Action(Enum):
    """What becomes of the place where a store shall stand."""

    #: The very store stands there, sealed, and that will do.
    ACCEPT = auto()
    #: Nothing stands there, or a store that was begun and not finished.
    BUILD = auto()
    #: A sealed store gives way to this one, once this one is sealed.
    REPLACE = auto()
    #: So it does, and shards that did not change are used again.
    GROW = auto()
    #: A sealed store stands there, and nobody said that it may go.
    REFUSE = auto()


class Wish(NamedTuple):
    """What the caller allows. ``grown_from``: fingerprint of the store that a next version was planned from."""

    resume: bool = False
    overwrite: bool = False
    append: bool = False
    grown_from: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A store to be made: what is known of it before a sample is read, and how it is made.

    ``do`` and ``ready``, which is called once in each process before, must be picklable.
    """

    plan_sha256: str
    tasks: Sequence[Unit]
    #: Identifies what a task makes.
    task_sha256: Callable[[Any], str]
    do: Callable[[Path, Any], None]
    ready: Callable[[], None]
    create_array: Callable[[Path], None]
    #: What is noted down for whoever seals the store.
    about: Mapping[str, Any]
    seal: Callable[[Path, Sequence[Committed]], manifest.Manifest]
    #: How a store of another plan differs from this one, in words; and what to do about one that stands there.
    otherwise: str
    instead: str
    #: Gives for tasks what travels to other processes in their stead, and what they need there; called once the store
    #: is begun.
    carried: Callable[[Path, Sequence[Unit]], Sequence[Unit]] = lambda root, tasks: tasks
    #: Called once the store is begun, before the first task.
    begun: Callable[[Path], None] = lambda root: None


class Outcome(NamedTuple):
    """``n_found``: tasks that were done already. ``fingerprint`` is empty for a part."""

    n_found: int
    fingerprint: str


def decide(out: Path, plan_sha256: str, wish: Wish) -> Action:
    """What is to become of ``out``, as it stands now; what it means to write holds for whoever has claimed it."""
    if not (out / layout.MANIFEST).exists():
        return Action.BUILD
    sealed = manifest.load(out)
    if wish.overwrite:
        return Action.REPLACE
    if wish.append and sealed.fingerprint == wish.grown_from:
        return Action.GROW
    if wish.resume and sealed.plan_sha256 == plan_sha256:
        return Action.ACCEPT
    return Action.REFUSE


def construct(
    job: Job, out: Path, wish: Wish, workers: Workers, part: Part | None = None, progress: Progress | None = None
) -> Outcome:
    """Make the store ``out``, or one part of it; the old one stays whole and readable until the new one is sealed.

    Raises StoreExists (a sealed store that may not go, an unfinished one of another plan, somebody else at work),
    StoreError (the disk refuses), and what tasks and seal raise.
    """
    with building.plain_disk_errors(out), contextlib.ExitStack() as stack:
        building.refuse_place(out)
        action = decide(out, job.plan_sha256, wish)
        if action not in (Action.ACCEPT, Action.REFUSE):  # who only looks keeps nobody from working
            stack.enter_context(building.claimed(out, part and f"part-{part[0]}-of-{part[1]}"))
            building.refuse_place(out)
            action = decide(out, job.plan_sha256, wish)
        match action:
            case Action.ACCEPT:
                return Outcome(len(job.tasks), manifest.load(out).fingerprint)
            case Action.REFUSE:
                raise _refusal(job, out, wish)
            case Action.BUILD:
                return _build(job, out, workers, part, None, progress)
            case Action.REPLACE:
                return _build_aside(job, out, workers, None, progress)
            case Action.GROW:
                return _build_aside(job, out, workers, out, progress)


def seal_parts(job: Job, out: Path) -> Outcome:
    """Seal a store whose parts are all done. Raises StoreIncomplete where tasks are left."""
    with building.plain_disk_errors(out), building.claimed(out):
        if building.read_about(out)["plan_sha256"] != job.plan_sha256:
            raise StoreExists("the store was begun anew meanwhile", where=out, fix="seal it again once it is done")
        found = commits.load_all(out, job.tasks, job.task_sha256, os.cpu_count() or 1)
        missing = [task.first_shard for task in job.tasks if task.first_shard not in found]
        if missing:
            raise StoreIncomplete(
                f"{len(missing)} of {len(job.tasks)} tasks are not done",
                where=out,
                got=f"no commit of shard {', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''}",
                fix="run the parts that are left, or the same command without --parts",
            )
        sealed = job.seal(out, [found[task.first_shard] for task in job.tasks])
    return Outcome(len(job.tasks), sealed.fingerprint)


def _refusal(job: Job, out: Path, wish: Wish) -> StoreExists:
    if wish.append:
        return StoreExists(
            "the store is no longer the one that its next version was planned from",
            where=out,
            fix="run the same command again",
        )
    different = f", {job.otherwise}" if wish.resume else ""
    return StoreExists(f"a sealed store is there already{different}", where=out, fix=job.instead)


def _build_aside(job: Job, out: Path, workers: Workers, previous: Path | None, progress: Progress | None) -> Outcome:
    aside = building.beside(out)
    is_sealed = (aside / layout.MANIFEST).exists()
    if is_sealed and manifest.load(aside).plan_sha256 != job.plan_sha256:
        shutil.rmtree(aside)  # sealed by a run that was killed before the swap, and not what is wanted now
        is_sealed = False
    if is_sealed:
        outcome = Outcome(len(job.tasks), manifest.load(aside).fingerprint)
    else:
        outcome = _build(job, aside, workers, None, previous, progress)
    building.swap(aside, out)
    return outcome


def _build(
    job: Job, root: Path, workers: Workers, part: Part | None, previous: Path | None, progress: Progress | None
) -> Outcome:
    """Do what is left of a plan, or of one part of it."""
    building.begin(root, job.plan_sha256, job.about, lambda: job.create_array(root))
    job.begun(root)
    tasks = job.tasks if part is None else job.tasks[part[0] - 1 :: part[1]]
    if part is None:
        building.remove_leftovers(root)
    if previous is not None:
        _reuse(previous, root, job)
    found = commits.load_all(root, tasks, job.task_sha256, workers.n)
    left = [task for task in tasks if task.first_shard not in found]
    n_found = len(tasks) - len(left)
    sent = job.carried(root, left) if left and workers.are_elsewhere else left
    schedule.run(root, sent, job.do, job.ready, workers, counter("shards", n_found, len(tasks), progress))
    if part is not None:
        return Outcome(n_found, "")
    found |= commits.load_all(root, left, job.task_sha256, workers.n, hashed=False)
    one_more = counter("seal", 0, 1, progress)
    sealed = job.seal(root, [found[task.first_shard] for task in tasks])
    one_more()
    return Outcome(n_found, sealed.fingerprint)


def _reuse(previous: Path, root: Path, job: Job) -> None:
    """Let the new version share the shards of those tasks that the version before did just so, and still holds."""
    sealed = manifest.load(previous).objects
    for task in job.tasks:
        commit = layout.commit_object(task.first_shard)
        if commit not in sealed or commits.is_noted(root, task):
            continue
        committed = commits.load(previous, task, job.task_sha256(task), sealed=sealed[commit])
        if committed is None or any(sealed.get(name) != own for name, own in committed.objects.items()):
            # A record that could not be read has no place in the version before: its task is another now, and is done.
            continue
        for name in (*committed.objects, commit):
            building.link(previous / name, root / name)
        commits.note(root, task.first_shard, committed.own)


def counter(phase: str, done: int, total: int, progress: Progress | None) -> Callable[[], None]:
    """A function that reports one more done each time it is called."""
    if progress is None:
        return lambda: None
    report, counted = progress, done
    report(phase, done, total)

    def one_more() -> None:
        nonlocal counted
        counted += 1
        report(phase, counted, total)

    return one_more
