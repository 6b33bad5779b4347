"""What a source file of a user's own lists, and what a user's own records say of themselves: checked, and made plain.

Numbers of NumPy become Python's; NaN, pandas' word for an empty cell, becomes None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from ecgstore.errors import REASONS, SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms

#: Bytes of a record's id, which stands in tables and is read by every reader.
MAX_ID_BYTES = 1024
MAX_CODE, MAX_STATEMENTS = 256, 10_000
#: What Python, NumPy and pandas make of a missing value when they are asked for a text.
_MISSING = frozenset({"nan", "NaN", "None", "NaT", "<NA>"})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _none_if_nan(value: Any) -> Any:
    value = _plain(value)
    is_missing = isinstance(value, float) and math.isnan(value)
    return None if is_missing or (isinstance(value, str) and value in _MISSING) else value


def _encodable(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("text that is no Unicode") from None
    if size > MAX_ID_BYTES:
        raise ValueError(f"{size} bytes, where {MAX_ID_BYTES} are the most")
    return text


_Text = Annotated[str, StringConstraints(min_length=1), BeforeValidator(_plain)]
_Line = Annotated[str, StringConstraints(max_length=MAX_ID_BYTES)]
_Short = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE), BeforeValidator(_plain)]


class _Statement(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    code: _Short
    system: _Short
    likelihood: Annotated[float | None, BeforeValidator(_none_if_nan)] = Field(None, ge=0, le=100)

    _is_text = field_validator("code", "system")(_encodable)

    @field_validator("code")
    @classmethod
    def _is_there(cls, code: str) -> str:
        if code in _MISSING:
            raise ValueError("a missing value is no code")
        return code


class Said(BaseModel):
    """What is said of a record besides its signals: fields of :class:`ecgstore.RecordRef`, with their bounds."""

    model_config = ConfigDict(from_attributes=True)
    record_id: _Text
    patient_id: Annotated[_Text | None, BeforeValidator(_none_if_nan)] = None
    fold: Annotated[int | None, BeforeValidator(_none_if_nan)] = Field(None, ge=0, le=999)
    age_years: Annotated[float | None, BeforeValidator(_none_if_nan)] = Field(None, ge=0, le=150)
    sex: Annotated[Literal["female", "male"] | None, BeforeValidator(_none_if_nan)] = None
    statements: tuple[_Statement, ...] = Field((), max_length=MAX_STATEMENTS)
    site: Annotated[_Short | None, BeforeValidator(_none_if_nan)] = None

    @field_validator("record_id", "patient_id", "site")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        return text if text is None else _encodable(text)

    def fields(self) -> dict[str, Any]:
        """The fields as :class:`ecgstore.RecordRef` takes them."""
        said = {name: getattr(self, name) for name in type(self).model_fields}
        statements = tuple(Statement(one.code, one.system, one.likelihood) for one in self.statements)
        return {**said, "statements": statements}


class SaidTerms(BaseModel):
    """What a source is and under which terms it may be used: the fields of :class:`ecgstore.Terms`."""

    model_config = ConfigDict(from_attributes=True)
    name: _Short
    version: _Line
    licence: _Line
    redistributable: bool
    doi: _Line = ""
    citation: _Line = ""


class _Ref(Said):
    path: Path
    annotators: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")], ...] = ()
    mv_factor: float = Field(1.0, gt=0, allow_inf_nan=False)
    keeps_text: bool = False
    inside: str = Field("", max_length=MAX_ID_BYTES)


def what_is_wrong(error: ValidationError) -> str:
    """The first thing that is wrong, by the name of its field; never what stands in it, which may name a person."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}"[:200]


def checked_listing(listing: object, where: object) -> Listing:
    """A listing whose fields are what they are said to be. Raises SourceError, which names the first that isn't."""
    if not isinstance(listing, Listing):
        raise _wrong(where, "list_records gives no Listing", type(listing).__name__)
    if not isinstance(listing.terms, Terms):
        raise _wrong(where, "the listing's terms are no Terms", type(listing.terms).__name__)
    try:
        SaidTerms.model_validate(listing.terms)
    except ValidationError as error:
        raise _wrong(where, "the listing's terms", what_is_wrong(error)) from None
    records = tuple(
        _checked_ref(ref, f"record {number} of the listing", where) for number, ref in enumerate(listing.records)
    )
    for one in listing.rejected:
        if not isinstance(one, Rejection) or one.reason not in REASONS or not isinstance(one.record_id, str):
            raise _wrong(where, "a record is left out for a reason that there isn't", f"known: {', '.join(REASONS)}")
    if not isinstance(listing.vocabulary, Mapping):
        raise _wrong(where, "the listing's vocabulary is no mapping", type(listing.vocabulary).__name__)
    return Listing(
        records,
        tuple(listing.rejected),
        listing.terms,
        listing.vocabulary,
        listing.is_published,
        tuple(map(str, listing.notes)),
    )


def checked_description(described: object, ref: RecordRef, where: object) -> RecordRef:
    """What ``describe`` made of ``ref``, whose fields are what they are said to be, and which is the same record.

    Raises SourceError, which names the first that isn't.
    """
    made = _checked_ref(described, f"what describe gives for record {ref.record_id}", where)
    if (made.record_id, made.path, made.inside) != (ref.record_id, ref.path, ref.inside):
        raise _wrong(where, f"what describe gives for record {ref.record_id}", "another record_id, path or inside")
    return made


def _checked_ref(ref: object, which: str, where: object) -> RecordRef:
    if not isinstance(ref, RecordRef):
        raise _wrong(where, f"{which} is no RecordRef", type(ref).__name__)
    try:
        said = _Ref.model_validate(ref)
    except ValidationError as error:
        raise _wrong(where, which, what_is_wrong(error)) from None
    return RecordRef(**said.fields())


def _wrong(where: object, what: str, got: str) -> SourceError:
    return SourceError(f"the source file is wrong: {what}", where=where, got=got, fix="mend it")
