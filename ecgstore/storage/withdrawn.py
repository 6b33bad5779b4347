"""Who has withdrawn, without saying who: hashes that a store keeps so that nobody comes back when it grows.

Of a patient the hash of ``patient_key``, of a record the hash of its id with ``patient_key`` as the key: whoever can't
tell the patient can't guess the record. A record that names no patient has its source's name for a key. So what is kept
tells no more than ``patient_key`` did, and no secret is needed to keep it. docs/format.md has the definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The root's attribute, and what it may hold.
ATTRIBUTE = "withdrawn"
MOST = 200_000
_PATIENT, _RECORD = b"ecgstore gone p", b"ecgstore gone r"
_DIGEST_BYTES = 16


def patient_gone(patient_key: str) -> str:
    """32 hex digits that stand for a patient who has withdrawn."""
    return hashlib.blake2b(patient_key.encode(), digest_size=_DIGEST_BYTES, person=_PATIENT).hexdigest()


def record_gone(record_id: str, patient_key: str | None, source: str) -> str:
    """32 hex digits that stand for a record that was withdrawn."""
    key = hashlib.sha256((patient_key or source).encode()).digest()
    content = record_id.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=key, person=_RECORD).hexdigest()


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Hashes of patients and of records, as a store keeps them."""

    patients: frozenset[str] = frozenset()
    records: frozenset[str] = frozenset()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Withdrawn:
        """What the root of a store says; nothing in a store from which nobody has withdrawn."""
        said = attributes.get(ATTRIBUTE, {})
        return cls(frozenset(said.get("patients", ())), frozenset(said.get("records", ())))

    def __bool__(self) -> bool:
        return bool(self.patients or self.records)

    def __or__(self, other: Withdrawn) -> Withdrawn:
        return Withdrawn(self.patients | other.patients, self.records | other.records)

    def names(self, record_id: str, patient_key: str | None, source: str) -> bool:
        """Whether this record, or its patient, has withdrawn."""
        if not self:
            return False
        if patient_key and patient_gone(patient_key) in self.patients:
            return True
        if not self.records:
            return False
        # A record that was left out while its patient was not known was kept under the name of its source.
        return any(record_gone(record_id, key, source) in self.records for key in {patient_key or None, None})

    def attribute(self) -> dict[str, Any]:
        """The attributes of a root that say so: none where nobody has withdrawn."""
        if not self:
            return {}
        return {ATTRIBUTE: {"patients": sorted(self.patients), "records": sorted(self.records)}}


def count_named(
    withdrawn: Withdrawn, record_ids: Iterable[str], patient_keys: Iterable[str | None], sources: Iterable[str]
) -> int:
    """How many of these records have withdrawn."""
    return sum(withdrawn.names(*one) for one in zip(record_ids, patient_keys, sources, strict=True)) if withdrawn else 0
