"""What a table of labels says of the records of a folder.

Which column is which is asked, not guessed: a column is read if the settings name it, if it is called like one of
:data:`ALIASES`, or like a coding system of :data:`SYSTEMS`. All others are left out, and that is said. Cells are
typed and bounded here, while listing, so that nothing is refused after the work is done.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ecgstore.errors import SourceError, nearest
from ecgstore.record import Rejection, Sex, Statement
from ecgstore.sources._tables import (
    MAX_AGE_YEARS,
    MAX_FOLD,
    MISSING,
    Faults,
    Table,
    composed,
    identifier,
    note_rounded,
    number,
    open_table,
    unfloated,
    whole,
)
from ecgstore.vocabularies.names import holds_name

N = TypeVar("N", int, float)

#: Our columns, and the names under which they are understood: small letters and digits alone count. Short, for a
#: wrong guess is worse than a question: an id of whom or a name of what is not to be told from its name.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "record_id": ("recordid", "record", "recordname"),
    "patient_id": ("patientid", "patient", "subjectid", "subject"),
    "fold": ("fold", "stratfold"),
    "age_years": ("ageyears", "age", "ageinyears"),
    "sex": ("sex", "gender"),
    "site": ("site", "centre", "center"),
}
#: Coding systems that columns are known to be named after, with common spellings and the form of a code. Closed: only
#: systems whose codes can be told from words and identifiers stand here; any other column must be named to be read.
SYSTEMS: Mapping[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "scp_ecg": (("scpecg", "scp"), re.compile(r"[^\s@/\\,;|]{1,12}|[A-Z]{2,6}/[A-Z]{2,6}")),
    "snomed_ct": (("snomedct", "snomed"), re.compile(r"\d{6,18}", re.ASCII)),
    "icd9": (("icd9", "icd9cm"), re.compile(r"[EV]?\d{2,5}(\.\d{1,2})?", re.ASCII | re.IGNORECASE)),
    "icd10": (
        ("icd10", "icd10cm", "icd10gm"),
        re.compile(r"[A-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4}|\.-)?[+*!]?", re.ASCII | re.IGNORECASE),
    ),
    "minnesota": (("minnesota",), re.compile(r"\d([-.]?\d){0,3}", re.ASCII)),
    "aha": (("aha", "ahaecg"), re.compile(r"\d{1,3}(\+\d{1,3})*", re.ASCII)),
}
_ENDINGS = ("", "code", "codes", "statement", "statements")
_SEX: Mapping[str, Sex | None] = {
    **dict.fromkeys(("f", "female", "w", "woman", "weiblich"), "female"),
    **dict.fromkeys(("m", "male", "man", "männlich"), "male"),
    **dict.fromkeys(("u", "unk", "unknown", "not stated", "unbekannt"), None),
}
#: A code that is longer, or that has more words, is a text.
MAX_CODE, MAX_WORDS = 64, 8
#: No text of a store is longer, allowed or not.
_MAX_TEXT = 10_000
_MAX_SITE = 64
#: Cells of which nearly all are different are no codes but identifiers, names or texts. In few rows chance can do that:
#: there they must also look alike and have digits, as MRN-0001 and MRN-0002 do.
_MANY, _FEW, _NEARLY_ALL = 20, 3, 0.9
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4})([T ].*)?", re.ASCII)
#: A date without marks; a code of eight digits may be like one by chance, most codes of a column are not.
_BARE_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", re.ASCII)
#: What may stand between the codes of a cell instead of what was said.
_SEPARATORS = (",", ";", "|", "/", " ")
_DIGIT = re.compile(r"\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Label:
    """What one row says of one record; ``age_years`` in years."""

    patient_id: str | None = None
    fold: int | None = None
    age_years: float | None = None
    sex: Sex | None = None
    site: str | None = None
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """The rows of a table: line, record id as it stands there, what is said; and sentences on what was not read."""

    path: Path
    counted: str
    rows: tuple[tuple[int, str, Label], ...]
    systems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which columns are read: ``ours`` and ``systems`` map our names to the table's; ``left_out`` are all others."""

    ours: Mapping[str, str]
    systems: Mapping[str, str]
    left_out: tuple[str, ...]


def read_labels(
    path: Path,
    columns: Mapping[str, str] | None = None,
    statements: Mapping[str, str] | None = None,
    separator: str = ";",
    *,
    allow_text: bool = False,
) -> Labels:
    """Read a table of labels. ``columns`` and ``statements`` map our names to the table's; see :func:`choose`.

    Raises SourceError where it can't be read, has not the columns that are named, or has cells that can't be what
    their column says. Unless ``allow_text``, also where a column of codes or sites holds texts, dates or identifiers.
    """
    table = open_table(path, separator)
    choice = choose(table, columns or {}, statements)
    if "record_id" not in choice.ours:
        raise SourceError(
            "the table of labels has no column record_id",
            where=path,
            got=_some(table.names) or "an empty file",
            fix="call the column that holds the record's path or name record_id, or say which: "
            "--set 'source.columns.record_id=…'",
        )
    reader = _Reader(table, choice, separator)
    wanted = [*choice.ours.values(), *choice.systems.values()]
    rows = tuple(reader.row(line, cells) for line, cells in table.cells(wanted))
    reader.faults.refuse("correct them; a cell may be empty, but for that of the record")
    if not allow_text:
        _refuse_texts(table, choice, [label for _, _, label in rows])
    return Labels(path, table.counted, rows, tuple(choice.systems), _notes(path, choice, reader))


def choose(table: Table, columns: Mapping[str, str], statements: Mapping[str, str] | None) -> Choice:
    """Tell which columns are read; a name counts in any case, with any blanks, ``-`` and ``_`` in it.

    ``statements`` None takes the columns that are called like a coding system. Raises SourceError where a column that
    is named is not there, where two could be meant, or where an identifier is named as statements.
    """
    theirs = {ours: _find(name, table, f"source.columns.{ours}") for ours, name in columns.items()}
    for ours, aliases in ALIASES.items():
        if ours not in theirs:
            meant = [name for name in table.names if spelling(name) in aliases and name not in theirs.values()]
            if found := _only(meant, ours, f"source.columns.{ours}", table):
                theirs[ours] = found
    if statements is None:
        free = [name for name in table.names if name not in theirs.values()]
        meant_by: dict[str, list[str]] = {}
        for name in free:
            if system := system_of(name):
                meant_by.setdefault(system, []).append(name)
        for system, names in meant_by.items():
            _only(names, system, f"source.statements.{system}", table)
        systems = {system: names[0] for system, names in meant_by.items()}
    else:
        systems = {system: _find(name, table, f"source.statements.{system}") for system, name in statements.items()}
    _refuse_identifiers(theirs, systems, table)
    used = {*theirs.values(), *systems.values()}
    return Choice(theirs, systems, tuple(name for name in table.names if name not in used))


def spelling(name: str) -> str:
    """A name by its letters and digits alone, in small letters: ``Patient_ID`` and ``patient id`` are ``patientid``."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def system_of(name: str) -> str | None:
    """The known coding system that a column of this name holds, or None."""
    word = spelling(name)
    for system, (names, _) in SYSTEMS.items():
        if any(word == known + ending for known in names for ending in _ENDINGS):
            return system
    return None


def by_record(labels: Labels, ids: Sequence[str]) -> tuple[dict[str, Label], tuple[Rejection, ...]]:
    """What is said of each of the records ``ids``, and the rows that name none of them.

    A row names a record by its path, or by the last part of it. Raises SourceError where that fits two records, where
    two rows of one record contradict each other, or where no row at all names a record.
    """
    known = frozenset(ids)
    by_name: dict[str, list[str]] = {}
    for record_id in ids:
        by_name.setdefault(composed(record_id.rpartition("/")[2]), []).append(record_id)
        if "/" in record_id and not record_id.isascii():
            by_name.setdefault(composed(record_id), []).append(record_id)
    said: dict[str, tuple[int, Label]] = {}
    strangers: dict[str, Rejection] = {}
    for line, name, label in labels.rows:
        named = _record(name, known, by_name, labels, line)
        if named is None:
            stranger = f"{labels.counted} {line} of the labels" if names_patient(name, label.patient_id) else name
            strangers[stranger] = Rejection(stranger, "missing_header", "in the labels only")
        elif named not in said:
            said[named] = line, label
        elif said[named][1] != label:
            raise SourceError(
                f"{labels.counted}s {said[named][0]} and {line} of the labels contradict each other",
                where=labels.path,
                got=f"record {named}",
                fix="keep one row per record; several codes stand in one cell",
            )
    if strangers and not said:
        raise SourceError(
            f"none of {len(labels.rows)} rows of the labels names a record of the folder",
            where=labels.path,
            expected=f"paths or names such as {ids[0]}" if ids else "records in the folder",
            fix="say which column holds them: --set 'source.columns.record_id=…'",
        )
    return {record_id: label for record_id, (_, label) in said.items()}, tuple(strangers.values())


def names_patient(record_id: str, patient_id: str | None) -> bool:
    """Whether a patient's identifier stands in a record's id as a part of its path or as a word of it.

    A number counts with zeros before it, and from four digits on also behind letters: ``p10000032``.
    """
    record_id, patient_id = composed(record_id), patient_id and composed(patient_id)
    # Most ids don't hold it at all, which is found out without a pattern for each patient.
    if not patient_id or patient_id.lstrip("0").casefold() not in record_id.casefold():
        return False
    before, after = r"(?<![^\W_])", r"(?![^\W_])"
    if patient_id.isdecimal():
        zeros = "0*"
        if len(patient_id) >= 4:
            before, after = r"(?<!\d)", r"(?!\d)"
        pattern = f"{before}{zeros}{re.escape(patient_id.lstrip('0') or '0')}{after}"
    else:
        pattern = f"{before}{re.escape(patient_id)}{after}"
    return re.search(pattern, record_id, re.IGNORECASE) is not None


# ── Columns ──────────────────────────────────────────────────────────────────────────────────────────────


def _find(name: str, table: Table, setting: str) -> str:
    """The column that a setting names: as it is spelt, or else by its letters and digits."""
    if name in table.names:
        return name
    alike = [one for one in table.names if spelling(one) == spelling(name) != ""]
    found = _only(alike, name, setting, table)
    if found is not None:
        return found
    near = nearest(name, table.names)
    raise SourceError(
        f"the table of labels has no column {name!r}, which {setting} names",
        where=table.path,
        fix=f"did you mean {near!r}?" if near else f"it has: {_some(table.names)}",
    )


def _only(names: Sequence[str], meaning: str, setting: str, table: Table) -> str | None:
    if len(names) > 1:
        raise SourceError(
            f"{len(names)} columns of the labels could be {meaning}: {_some(names)}",
            where=table.path,
            fix=f"say which with --set {setting}=…",
        )
    return names[0] if names else None


def _refuse_identifiers(theirs: Mapping[str, str], systems: Mapping[str, str], table: Table) -> None:
    """Refuse what would stand in the store as it is, codes and sites, where an identifier is named as that."""
    stored = [(name, "statements", f"source.statements.{system}") for system, name in systems.items()]
    if "site" in theirs:
        stored.append((theirs["site"], "sites", "source.columns.site"))
    for name, what, setting in stored:
        meaning = [ours for ours, its in theirs.items() if its == name and ours != "site"]
        if what == "statements" and theirs.get("site") == name:
            meaning.append("site")
        if spelling(name) in (*ALIASES["record_id"], *ALIASES["patient_id"]):
            meaning.append("an identifier")
        if meaning:
            raise SourceError(
                f"column {name!r} is read as {meaning[0]}, so it can't hold {what}",
                where=table.path,
                fix=f"name another column as {setting}",
            )


def _some(names: Iterable[str], most: int = 20) -> str:
    """Names of columns as they are shown: without what a terminal obeys, not too long, not too many."""
    shown = ["".join(c if c.isprintable() else "?" for c in name)[:40] or "(no name)" for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _notes(path: Path, choice: Choice, reader: _Reader) -> tuple[str, ...]:
    notes = []
    if choice.left_out:
        n = len(choice.left_out)
        word = "a column" if n == 1 else f"{n} columns"
        notes.append(
            f"left out of {path.name}, not stored: {word} that nobody named: {_some(choice.left_out, 50)} "
            "(--statements names those that hold codes)"
        )
    if "patient_id" not in choice.ours:
        notes.append(f"{path.name} has no column patient_id: records of one patient can't be kept together")
    return (*notes, *reader.remarks.sentences())


# ── Cells ────────────────────────────────────────────────────────────────────────────────────────────────


class _Reader:
    """Rows of cells to what they say; what is wrong with them is collected, to be said all at once."""

    def __init__(self, table: Table, choice: Choice, separator: str) -> None:
        self._ours = tuple(choice.ours)
        self._systems = tuple(choice.systems.items())
        self._separator = separator
        self._columns = choice.ours
        self.faults: Faults = table.faults()
        self.remarks: Faults = table.faults()

    def row(self, line: int, cells: Sequence[str]) -> tuple[int, str, Label]:
        """What a row says of which record."""
        said = dict(zip(self._ours, cells, strict=False))
        codes = cells[len(self._ours) :]
        if not said["record_id"]:
            self.faults.add(f"column {self._columns['record_id']} is empty", line)
        label = Label(
            patient_id=self._identifier(said, "patient_id", line),
            fold=self._bounded(said, "fold", line, whole, MAX_FOLD),
            age_years=self._bounded(said, "age_years", line, number, MAX_AGE_YEARS),
            sex=self._sex(said.get("sex", ""), line),
            site=composed(unfloated(said.get("site", ""))) or None,
            statements=tuple(
                Statement(code, system)
                for (system, _), cell in zip(self._systems, codes, strict=True)
                for code in _codes(cell, self._separator, system)
            ),
        )
        if len(label.site or "") > _MAX_TEXT:
            self.faults.add(f"column {self._columns['site']} has more than {_MAX_TEXT} letters", line)
        for (_, column), cell in zip(self._systems, codes, strict=True):
            if len(cell) > _MAX_TEXT and any(len(part) > _MAX_TEXT for part in cell.split(self._separator)):
                self.faults.add(f"column {column} has more than {_MAX_TEXT} letters", line)
            for part in cell.split(self._separator):
                note_rounded(part.strip(), column, line, self.faults)
        return line, self._identifier(said, "record_id", line) or "", label

    def _identifier(self, said: Mapping[str, str], ours: str, line: int) -> str | None:
        text = said.get(ours, "")
        meant = identifier(text, self._columns[ours], line, self.faults) if text else ""
        # A file may be called 100.0, and as its file system spells it.
        return (text if ours == "record_id" else meant) or None

    def _bounded(
        self, said: Mapping[str, str], ours: str, line: int, parse: Callable[[str, int, int], N | None], most: int
    ) -> N | None:
        text = said.get(ours, "")
        value = parse(text, 0, most) if text else None
        if text and value is None:
            kind = "whole number" if parse is whole else "number"
            self.faults.add(f"column {self._columns[ours]} is no {kind} from 0 to {most}", line)
        return value

    def _sex(self, text: str, line: int) -> Sex | None:
        word = text.casefold()
        if text and word not in _SEX:
            self.remarks.add(f"column {self._columns['sex']} says neither female nor male, and is left empty", line)
        return _SEX.get(word)


def _codes(cell: str, separator: str, system: str) -> Iterable[str]:
    for code in dict.fromkeys(part.strip() for part in cell.split(separator)):
        if code.lower() not in MISSING:
            yield unfloated(code) if system == "snomed_ct" else code


def _record(
    name: str, known: frozenset[str], by_name: Mapping[str, Sequence[str]], labels: Labels, line: int
) -> str | None:
    """The record that a row names, by any of the ways in which tables spell a path."""
    plain = re.sub(r"\.(hea|dat|mat)$", "", name.replace("\\", "/").removeprefix("./"), flags=re.IGNORECASE)
    for spelt in dict.fromkeys((name, plain, unfloated(name))):
        if spelt in known:
            return spelt
        found = by_name.get(composed(spelt), ())
        if len(found) > 1:
            raise SourceError(
                f"{labels.counted} {line} of the labels names {len(found)} records: {_some(found, 5)}",
                where=labels.path,
                expected="the path of one",
                got=spelt,
                fix="write the path below the folder",
            )
        if found:
            return found[0]
    return None


# ── Texts and identifiers where codes belong ─────────────────────────────────────────────────────────────


def _refuse_texts(table: Table, choice: Choice, labels: Sequence[Label]) -> None:
    """Refuse columns of statements, and of sites, that hold what must not get into a store by mistake."""
    stated: dict[str, list[str]] = {system: [] for system in choice.systems}
    for label in labels:
        for statement in label.statements:
            stated[statement.system].append(statement.code)
    held = {name: (stated[system], SYSTEMS.get(system)) for system, name in choice.systems.items()}
    if "site" in choice.ours:
        held[choice.ours["site"]] = [label.site for label in labels if label.site], None
    for name, (codes, known) in held.items():
        kind = looks_like(codes, known[1] if known else None)
        if kind:
            between = _stands_between(codes, known[1]) if known else None
            raise SourceError(
                f"column {name} seems to hold {kind}, which would stand in the store as they are",
                where=table.path,
                fix=f"say what stands between its codes, --set 'source.separator=\"{between}\"'"
                if between
                else "name another column with --statements, or allow it with --allow-text",
            )


def _stands_between(cells: Sequence[str], form: re.Pattern[str]) -> str | None:
    """What cells must be cut at, so that all parts are codes of this form with digits; None where nothing will do.

    Codes without digits can't be told from the words of a text, which nobody shall be told to cut.
    """

    def are_codes(parts: Iterable[str]) -> bool:
        return all(form.fullmatch(part) and _DIGIT.search(part) for part in map(str.strip, parts) if part)

    return next((one for one in _SEPARATORS if are_codes(part for cell in cells for part in cell.split(one))), None)


def looks_like(codes: Sequence[str], form: re.Pattern[str] | None = None) -> str | None:
    """What a column of codes seems to hold instead: dates, texts, identifiers; None where it may be codes.

    ``form`` is that of the codes of a known system, which then are all that may stand there.
    """
    if form is not None:
        if not all(form.fullmatch(code) for code in codes):
            return "other things than codes of its system"
        return None
    different = set(codes)
    if any(len(code) > MAX_CODE or len(code.split()) > MAX_WORDS for code in different):
        return "texts"
    if any(_DATE.fullmatch(code) for code in different) or 2 * sum(
        _BARE_DATE.fullmatch(code) is not None for code in different
    ) > len(different):
        return "dates"
    if len(different) > 1 and 2 * sum(map(holds_name, different)) > len(different):
        return "names"
    nearly_all = len(different) > _NEARLY_ALL * len(codes)
    if nearly_all and (len(codes) >= _MANY or (len(codes) >= _FEW and _are_numbered(different))):
        return "identifiers or names"
    return None


def _are_numbered(different: set[str]) -> bool:
    """Whether all look alike, with three digits or more: like identifiers that count on."""
    shapes = {re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", code)) for code in different}
    return len(shapes) == 1 and next(iter(shapes)).count("9") >= 3
