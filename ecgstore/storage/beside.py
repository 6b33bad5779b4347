"""What stands beside a sealed store and belongs to it: ``STORE.sidecars/`` with its card and its sidecar tables.

Nothing in there is part of the store or of its fingerprint. docs/format.md is the contract.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import Field, field_validator

from ecgstore.errors import ConfigError, StoreError, StoreFormatError
from ecgstore.settings import Settings, parse, read_yaml
from ecgstore.storage.publish import write_bytes
from ecgstore.storage.validate import parse_json, refuse

M = TypeVar("M", bound=Settings)

CARD = "card.yaml"
#: What a sidecar table may be called.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_Line = Annotated[str, Field(min_length=1, max_length=300)]
_Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class CardSettings(Settings):
    """What only people know of a store: what it is called, whose it is, how it may be used and cited."""

    title: _Line
    description: _Text | None = None
    licence: _Line | None = None
    licence_url: Annotated[str, Field(max_length=500)] | None = None
    contact: _Line | None = None
    citation: _Text | None = None
    creators: tuple[_Line, ...] = Field(default=(), max_length=200)
    keywords: tuple[_Line, ...] = Field(default=(), max_length=100)
    #: Such as 1.0.0; and the day it was published, as 2026-11-28.
    version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){0,2}$", max_length=30)] | None = None
    published: Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")] | None = None
    #: What its users must know: a sentence each.
    limits: tuple[_Text, ...] = Field(default=(), max_length=100)

    @field_validator("licence_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s<>\"'()\\`@]+", url):
            raise ValueError("an address that begins with https:// or http://")
        return url

    @field_validator("published", mode="before")
    @classmethod
    def _as_text(cls, day: object) -> object:
        # YAML makes a date of what looks like one.
        return day.isoformat() if hasattr(day, "isoformat") else day


def folder_beside(store: str | Path) -> Path:
    """The folder beside a store at ``store``. Raises ConfigError for a store on another machine."""
    text = str(store).rstrip("/").removeprefix("file://")
    if "://" in text:
        raise ConfigError("what stands beside a store is only found in a folder", where=text, fix="copy it first")
    path = Path(text).expanduser()
    return path.with_name(f"{path.resolve().name if path.name in ('', '..') else path.name}.sidecars")


def files_beside(store: str | Path) -> list[Path]:
    """The card and the tables beside a store, sorted by name: what is passed on with it. Anything else is no part."""
    folder = folder_beside(store)
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = (
        path
        for path in folder.iterdir()
        if path.name == CARD or (path.suffix == ".parquet" and NAME.fullmatch(path.stem))
    )
    return sorted(path for path in found if stat.S_ISREG(path.lstat().st_mode))


def read_card(path: str | Path) -> CardSettings:
    """Read such a file; raises ConfigError in one line."""
    return parse(CardSettings, read_yaml(path), where=path)


def card_of(store: str | Path) -> CardSettings | None:
    """The card beside a store; None where there is none, or the store is elsewhere."""
    if "://" in str(store).removeprefix("file://"):
        return None
    path = folder_beside(store) / CARD
    return read_card(path) if path.exists() else None


def write_card(store: str | Path, card: CardSettings) -> Path:
    """Put a card beside a store, in the place of the one that is there; returns where it stands."""
    path = folder_beside(store) / CARD
    content = {name: value for name, value in card.model_dump(mode="json").items() if value not in (None, [])}
    try:
        write_bytes(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode())
    except OSError as error:
        raise StoreError("the card can't be written", where=path, got=error.strerror or str(error)) from error
    return path


def about_of(
    metadata: Mapping[bytes, bytes] | None,
    key: bytes,
    model: type[M],
    *,
    kind: str,
    version: int,
    most: int,
    path: object,
) -> M:
    """What a table that stands beside a store says of itself in its metadata, of at most so many bytes.

    ``kind``: what it is called, as ``split table``; its ``format`` begins so. Raises StoreFormatError.
    """
    made_by = f"ecgstore {kind.partition(' ')[0]}"
    said = (metadata or {}).get(key)
    if said is None:
        refuse(f"this is no {kind}", path, f"metadata {key.decode()}", fix=f"make one with `{made_by}`")
    content = parse_json(said, path, most)
    if content.get("format") == made_by and content.get("version") != version:
        refuse(f"a {kind} of a version that this release can't read", path, version, content.get("version"))
    try:
        return parse(model, content, where=path)
    except ConfigError as error:
        raise StoreFormatError(f"the {kind}'s metadata can't be understood", where=path, got=str(error)) from None
