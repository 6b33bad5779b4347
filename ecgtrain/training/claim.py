"""A run's directory belongs to one process at a time: from the decision that work may go on there to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ecgstore import ConfigError, EcgError
from ecgstore.inner import held, refuse_within_store
from ecgtrain import distributed
from ecgtrain.errors import ClaimedError
from ecgtrain.training.layout import CONFIG, EXPORT, METRICS, SEEDS

#: The lock's name in the directory itself, where none can stand beside it.
_INSIDE = ".lock"
#: By these a run is known, however early it ended.
_OF_A_RUN = (CONFIG, METRICS, EXPORT, SEEDS)


@contextmanager
def claimed(run_dir: Path, *, of_run: bool = False) -> Iterator[None]:
    """Have ``run_dir`` alone, to write into it; of several ranks the first holds it for all.

    Nothing is made at ``run_dir`` itself. The system frees the lock of a process that dies. Raises ClaimedError, on
    all ranks, where another process has it, or where the file system knows no locks, and ConfigError where a file
    stands there, it is within a sealed store or, ``of_run``, something else than a run stands there.
    """
    with ExitStack() as stack:
        refusal: EcgError | None = None
        if distributed.rank() == 0:
            try:
                if run_dir.exists() and not run_dir.is_dir():
                    raise ConfigError("a file stands in the place of the directory", where=run_dir, fix="name another")
                refuse_within_store(run_dir)
                stack.enter_context(_lock(run_dir, shared=False))
                if of_run:
                    _refuse_other_folder(run_dir)
            except EcgError as error:
                refusal = error
        refusal = distributed.told_by_first(refusal)
        if refusal is not None:
            raise refusal
        yield


def _refuse_other_folder(run_dir: Path) -> None:
    """Raise ConfigError where somebody keeps something else: a run would be mixed with it. Hidden files don't count."""
    if not run_dir.is_dir() or any((run_dir / name).exists() for name in _OF_A_RUN):
        return
    there = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
    if there:
        raise ConfigError(
            "the directory holds something else than a run",
            where=run_dir,
            expected="a new or an empty directory, or a run",
            got=", ".join(there[:3]) + (", …" if len(there) > 3 else ""),
            fix="name another directory (--out)",
        )


@contextmanager
def looked_at(run_dir: Path) -> Iterator[None]:
    """Keep others from writing into ``run_dir`` while it is read; many may read it at once.

    Raises ClaimedError where a process writes into it.
    """
    if not run_dir.is_dir():
        yield  # whoever reads it says that it isn't there
        return
    with _lock(run_dir, shared=True):
        yield


@contextmanager
def _lock(run_dir: Path, *, shared: bool) -> Iterator[None]:
    place = run_dir.resolve()

    def busy(who: str) -> ClaimedError:
        return ClaimedError(
            "another process is at work in this directory",
            where=run_dir,
            got=who,
            fix="wait for it" if shared else "wait for it, or choose another directory",
        )

    def lockless(error: OSError) -> ClaimedError:
        return ClaimedError(
            "the file system knows no locks, and without them two processes could write one run",
            where=run_dir,
            got=error.strerror or str(error),
            fix="choose a directory on another file system",
        )

    try:
        with held(
            place.with_name(f".{place.name}.lock"),
            busy=busy,
            lockless=lockless,
            shared=shared,
            instead=place / _INSIDE,
        ):
            yield
    except OSError as error:
        failed = Path(str(error.filename))
        if failed.name not in (f".{place.name}.lock", _INSIDE) and failed not in place.parents:
            raise
        raise ClaimedError("the directory can't be locked", where=run_dir, got=error.strerror) from error
