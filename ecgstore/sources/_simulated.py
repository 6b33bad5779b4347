"""What folders that ``ecgstore simulate`` writes have in common: how they come to be, their records, their cells."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError, SourceError
from ecgstore.record import LEADS_12, RecordRef, Rejection, Sex
from ecgstore.sources._tables import MAX_AGE_YEARS, MAX_FOLD, number, whole
from ecgstore.storage import layout, publish
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.plain import open_text

N = TypeVar("N", int, float)

README, LABELS = "README.txt", "labels.csv"
#: Codes of WFDB's annotations: beats that are normal or ventricular, and an interval that fills more than ten bits.
_CODES, _SKIP = {"N": 1, "V": 5}, 59


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, that becomes ``out`` when all is done, and nothing if it is not.

    Raises ConfigError if ``out`` holds anything already, or is within a store.
    """
    refuse_within_store(Path(out))
    out = Path(out).resolve()
    there = ConfigError("there is already something at this place", where=out, fix="name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise there
    aside = out.with_name(f".{out.name}.{os.getpid()}{publish.ASIDE}")
    _remove_leftovers(out)
    try:
        aside.mkdir(parents=True)
        yield aside
        try:
            aside.rename(out)  # also in the place of an empty folder
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise there from None  # somebody else's, of just now
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Remove what processes that are gone have left half-written beside ``out``."""
    if not out.parent.is_dir():
        return
    for path in out.parent.iterdir():
        name = path.name.removeprefix(f".{out.name}.").removesuffix(publish.ASIDE)
        if path.name == f".{out.name}.{name}{publish.ASIDE}" and name.isdecimal() and not _is_running(int(name)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def draws(seed: int, person: int, stream: int) -> np.random.Generator:
    """An own stream of random numbers; the high word of the counter keeps streams apart."""
    return np.random.Generator(np.random.Philox(key=[seed, person], counter=[0, 0, 0, stream]))


def base(root: Path, number: int) -> Path:
    """Where record ``number`` stands, without a suffix: a thousand records to a folder."""
    return root / "records" / f"{number // 1000 * 1000:05d}" / f"{number:05d}"


def write_record(at: Path, signal_mv_lt: npt.NDArray[np.float64], fs_hz: int) -> None:
    """Write one WFDB record: format 16, 1000 counts per mV, checksum and first sample of each lead."""
    at.parent.mkdir(parents=True, exist_ok=True)
    counts_lt = _counts(signal_mv_lt)
    checksums = counts_lt.sum(axis=1, dtype=np.int64) % 65536
    header = [f"{at.name} {len(LEADS_12)} {fs_hz} {counts_lt.shape[1]}"]
    for lead, initial, checksum in zip(LEADS_12, counts_lt[:, 0], checksums, strict=True):
        header.append(f"{at.name}.dat 16 1000.0(0)/mV 16 0 {initial} {checksum} 0 {lead}")
    at.with_suffix(".dat").write_bytes(counts_lt.T.astype("<i2").tobytes())
    at.with_suffix(".hea").write_text("\n".join(header) + "\n", encoding="ascii", newline="\n")


def _counts(signal_mv_lt: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """Quantise to 1 µV in double precision; a simulated signal has no gaps."""
    counts_lt = np.clip(np.rint(signal_mv_lt * layout.COUNTS_PER_MV), -layout.MAX_COUNT, layout.MAX_COUNT)
    return counts_lt.astype(np.int16)


def write_beats(at: Path, samples: Sequence[int], symbols: Sequence[str]) -> None:
    """Write a WFDB annotation file ``.atr`` of beats, N or V, in the order of their samples."""
    words: list[int] = []
    before = 0
    for sample, symbol in zip(samples, symbols, strict=True):
        interval, before = sample - before, sample
        if interval > 1023:
            words += [_SKIP << 10, interval >> 16, interval & 0xFFFF]
            interval = 0
        words.append(_CODES[symbol] << 10 | interval)
    at.with_suffix(".atr").write_bytes(np.array([*words, 0], dtype="<u2").tobytes())


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────


def wrote(root: Path, title: str) -> bool:
    """Whether ``root`` is a folder whose README begins with ``title``, and that has labels."""
    try:
        with open_text(Path(root) / README) as file:
            return file.readline().rstrip("\n") == title and (Path(root) / LABELS).is_file()
    except (OSError, UnicodeDecodeError):
        return False


def listed(
    root: Path, ref: Callable[[Path, dict[str, str]], RecordRef], columns: Sequence[str]
) -> tuple[tuple[RecordRef, ...], tuple[Rejection, ...]]:
    """The records that ``ref`` makes of the lines of the labels, by their ids, and those that are left out.

    Raises SourceError if the labels can't be read, or ``ref`` raises one of what a wrong cell leads to. A line without
    its header file is rejected, not fatal.
    """
    labels = root / LABELS
    try:
        with open_text(labels, newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fix = "name the folder that `ecgstore simulate` wrote"
        raise SourceError(
            "the labels of a synthetic folder can't be read", where=labels, got=str(error), fix=fix
        ) from None
    records: dict[str, RecordRef] = {}
    rejected: list[Rejection] = []
    for at, line in enumerate(lines, start=2):
        try:
            if None in line:
                raise ValueError("more cells than columns")
            one = ref(root, line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                "a line of the labels can't be understood",
                where=f"{labels}, line {at}",
                expected=",".join(columns),
                got=repr(error),
            ) from None
        if one.record_id in records:
            rejected.append(Rejection(one.record_id, "duplicate_id", f"line {at} of {LABELS}"))
        elif not one.path.with_suffix(".hea").is_file():
            rejected.append(Rejection(one.record_id, "missing_header", f"{one.path.relative_to(root).as_posix()}.hea"))
        else:
            records[one.record_id] = one
    return tuple(records[record_id] for record_id in sorted(records)), tuple(rejected)


def about_record(root: Path, line: Mapping[str, str]) -> dict[str, Any]:
    """What a line says of the record itself and whom it is of; raises ValueError or KeyError where it can't be."""
    return {
        "record_id": line["record_id"],
        "path": base(root, int(line["record_id"])),
        "patient_id": line["patient_id"],
        "fold": within(whole(line["fold"], 0, MAX_FOLD)),
        "age_years": within(number(line["age_years"], 0, MAX_AGE_YEARS)),
        "sex": _sex(line["sex"]),
    }


def within(value: N | None) -> N:
    """The number, or ValueError where there is none."""
    if value is None:
        raise ValueError("no number, or out of bounds")
    return value


def _sex(word: str) -> Sex:
    """The word, if it is one of the two; else ValueError."""
    if word == "female":
        return "female"
    if word == "male":
        return "male"
    raise ValueError(word)
