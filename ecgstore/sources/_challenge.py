"""What the challenges of 2020 and 2021 share: databases, folders, headers, traps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Sex, Statement, Terms
from ecgstore.sources._tables import unfloated
from ecgstore.sources._walk import some, stems_in, walk
from ecgstore.storage.plain import open_plain
from ecgstore.wfdb_io.files import find_header

SYSTEM = "snomed_ct"

#: The databases that the challenge of 2021 added to those of 2020.
NEW_IN_2021 = ("chapman_shaoxing", "ningbo")
#: The databases of the challenge, and the folders they are published or were once downloaded as.
DATABASES: dict[str, tuple[str, ...]] = {
    "cpsc_2018": ("WFDB_CPSC2018", "Training_WFDB"),
    "cpsc_2018_extra": ("WFDB_CPSC2018_2", "Training_2"),
    "st_petersburg_incart": ("WFDB_StPetersburg", "Training_StPetersburg"),
    "ptb": ("WFDB_PTB", "Training_PTB"),
    "ptb-xl": ("WFDB_PTBXL", "Training_PTBXL"),
    "georgia": ("WFDB_Ga", "Training_E"),
    "chapman_shaoxing": ("WFDB_ChapmanShaoxing",),
    "ningbo": ("WFDB_Ningbo",),
}

#: True counts per millivolt. Signals of all eight databases were written to the files as whole microvolts.
COUNTS_PER_MV = 1000.0
#: Gains (counts per mV) that headers state wrongly, by database. Measured, not published: S0001 holds the same
#: samples as s0010_re of the PTB Diagnostic database, whose gain is right, and is in whole microvolts (so its
#: header is wrong by 2,000); Georgia's recorder has steps of 4.88 µV, and the samples stand on multiples of 4.88
#: under headers with 1,000 and with 4,880 counts per mV alike.
WRONG_GAINS = {"ptb": 2_000_000.0, "georgia": 4_880.0}

_SITES = {name.lower(): site for site, names in DATABASES.items() for name in (site, *names)}
_ID = re.compile(r"(A|Q|I|S|E|HR|JS)(\d{4,5})")
_SITE_OF_PREFIX = {
    "A": "cpsc_2018",
    "Q": "cpsc_2018_extra",
    "I": "st_petersburg_incart",
    "S": "ptb",
    "HR": "ptb-xl",
    "E": "georgia",
}
#: Chapman-Shaoxing and Ningbo are numbered through; this is the last number of the former.
_LAST_OF_CHAPMAN = 10646

#: SNOMED CT identifiers have 6 to 18 digits; ages and other numbers that stand in texts have fewer.
_CODE = re.compile(r"\d{6,18}", re.ASCII)
_SEX: dict[str, Sex] = {"f": "female", "female": "female", "m": "male", "male": "male"}
#: Above this an age is a code for something else (PTB-XL writes 300 for "over 89").
_MAX_AGE_YEARS = 120


def described(ref: RecordRef, comments: tuple[str, ...], gains: tuple[float, ...]) -> RecordRef:
    """:func:`describe` for both challenges; without ``gains`` the millivolts stay what the header says."""
    said = _said(comments)
    return replace(
        ref,
        age_years=_age_years(said.get("age", "")),
        sex=_SEX.get(said.get("sex", "").lower()),
        statements=tuple(Statement(code, SYSTEM) for code in _codes(said.get("dx", ""))),
        mv_factor=_mv_factor(ref.site, gains),
    )


def listing(root: Path, terms: Terms) -> Listing:
    """The records below ``root`` in the order of database, record id and path; raises SourceError for none."""
    found = walk(root)
    refs: list[RecordRef] = []
    others: list[str] = []
    for stem in found.stems:
        path = root / stem
        if _ID.fullmatch(path.name) or _folder_site(path, root):
            refs.append(RecordRef(record_id=path.name, path=path, site=site_of(path, root)))
        else:
            others.append(stem)
    if not refs:
        raise SourceError(
            "no record of the challenge was found",
            where=root,
            expected=f"folders such as training/georgia or WFDB_Ga, of {', '.join(DATABASES)}",
            fix="for other folders use --source wfdb_folder",
        )
    order = {site: number for number, site in enumerate(DATABASES)}
    refs.sort(key=lambda ref: (order.get(ref.site or "", len(order)), ref.record_id, ref.path.as_posix()))
    notes = (f"passed over {len(others)} headers that are not the challenge's: {some(others)}",) if others else ()
    return Listing(tuple(refs), found.rejected, terms, notes=(*found.notes, *notes))


def site_of(path: Path, root: Path) -> str | None:
    """Which database a record is from: by its folder's name if that is known, else by its id, else None."""
    return _folder_site(path, root) or _id_site(path.name)


def year(root: Path) -> int | None:
    """Which challenge a folder holds: 2021, 2020, or None if it looks like neither.

    Six of the eight databases were in both. They are taken for 2020 where the folder's name says so, or where
    all six are there and none of the two that 2021 added; anything less is taken for a part of 2021.
    """
    sites = {site for folder in _database_folders(root) if (site := _looked_at(folder, root))}
    if not sites:
        return None
    if not sites.isdisjoint(NEW_IN_2021):
        return 2021
    # PhysioNet's archive is called …-challenge-2020-1.0.2; its folders, when mirrored, challenge-2020/1.0.2.
    is_named = re.search(r"challenge.?2020", "/".join(root.resolve().parts[-2:]), re.IGNORECASE)
    return 2020 if is_named or len(sites) == len(DATABASES) - len(NEW_IN_2021) else 2021


def _database_folders(root: Path) -> Iterator[Path]:
    """Folders that could hold records of one database, without a search through everything."""
    tops = [root, root / "training"]
    for top in tops:
        if top.is_dir():
            yield top
            yield from sorted(path for path in top.iterdir() if path.name.lower() in _SITES and path.is_dir())


def _looked_at(folder: Path, root: Path) -> str | None:
    """The database of the first record in ``folder`` or its groups, if that record is the challenge's."""
    groups = sorted(path for path in folder.glob("g[0-9]*") if path.is_dir())
    for place in [folder, *groups[:1]]:
        if stems := stems_in(place):
            path = place / stems[0]
            return site_of(path, root) if _ID.fullmatch(path.name) and _is_challenge(path) else None
    return None


def _is_challenge(path: Path) -> bool:
    header = find_header(path)
    if header is None or not any(path.with_suffix(suffix).is_file() for suffix in (".mat", ".MAT")):
        return False
    with open_plain(header) as file:
        text = file.read(1 << 16).decode("latin-1")
    return "dx" in _said(line for line in text.splitlines() if line.startswith("#"))


def _folder_site(path: Path, root: Path) -> str | None:
    for folder in path.parents:
        if (site := _SITES.get(folder.name.lower())) is not None:
            return site
        if folder == root:
            break
    return None


def _id_site(record_id: str) -> str | None:
    match = _ID.fullmatch(record_id)
    if match is None:
        return None
    if match[1] == "JS":
        return "chapman_shaoxing" if int(match[2]) <= _LAST_OF_CHAPMAN else "ningbo"
    return _SITE_OF_PREFIX[match[1]]


def _said(comments: Iterable[str]) -> dict[str, str]:
    """Comment lines ``Key: value`` by lower-case key; of a key that stands there twice, both values."""
    said: dict[str, str] = {}
    for comment in comments:
        key, colon, value = comment.lstrip("# \t").partition(":")
        if colon:
            key = key.strip().lower()
            said[key] = f"{said[key]},{value.strip()}" if key in said else value.strip()
    return said


def _age_years(text: str) -> float | None:
    try:
        age_years = float(text)
    except ValueError:
        return None
    return age_years if math.isfinite(age_years) and 0 <= age_years <= _MAX_AGE_YEARS else None


def _codes(text: str) -> list[str]:
    """The SNOMED CT identifiers in a list, each once, in its order. What stands beside words is no code."""
    found: list[str] = []
    for part in re.split("[,;|]", text):
        words = [unfloated(word.strip("\"'")) for word in part.split()]
        found += words if all(_CODE.fullmatch(word) for word in words) else ()
    return list(dict.fromkeys(found))


def _mv_factor(site: str | None, gains: tuple[float, ...]) -> float:
    wrong = WRONG_GAINS.get(site or "")
    return wrong / COUNTS_PER_MV if wrong is not None and set(gains) == {wrong} else 1.0
