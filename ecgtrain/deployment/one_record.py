"""A source of one record: what somebody names when asked which recording to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import ecgstore
from ecgstore import Listing, RecordRef, Terms

TERMS = Terms(name="one_record", version="", licence="as agreed with whoever made it", redistributable=False)

#: How the files of a WFDB record end.
_SUFFIXES = (".hea", ".dat", ".mat")


class Settings(ecgstore.Settings):
    """``record``: the last part of its path, without suffix."""

    name: Literal["one_record"] = "one_record"
    record: str


def list_records(root: Path, settings: Settings) -> Listing:
    """That record."""
    ref = RecordRef(settings.record, root / settings.record)
    return Listing((ref,), (), TERMS, is_published=False)


def record_at(path: Path) -> Path | None:
    """The record that ``path`` names, with or without a suffix; None where it names none."""
    if path.is_dir():
        return None
    stems = [path, *([path.with_suffix("")] if path.suffix.lower() in _SUFFIXES else [])]
    headers = (stem.with_name(f"{stem.name}{suffix}") for stem in stems for suffix in (".hea", ".HEA"))
    return next((header.with_suffix("") for header in headers if header.is_file()), None)
