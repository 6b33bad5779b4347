"""Who is who, without saying who: keyed hashes of patients' identifiers, and ids of records that name nobody.

The same key gives the same hashes in every store. Identifiers of published data sets are known to all, so there the
source's name is the key. Those of anybody else could be guessed then: numbers of patients are few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ecgstore.errors import ConfigError
from ecgstore.record import RecordRef
from ecgstore.rooms import occupant, occupants

#: Said in the place of a secret key: identifiers may be guessed.
PUBLIC = "public"
MIN_KEY = 16
#: BLAKE2b's personalisation keeps what is not the hash of a patient apart from those that are.
_CHECK = b"ecgstore key"


def patient_hash(key: str, patient_id: str) -> str:
    """Keyed BLAKE2b hash of a patient's identifier, 16 hex digits; what a store holds instead of the identifier."""
    keyed = hashlib.blake2b(patient_id.encode(), digest_size=8, key=hashlib.sha256(key.encode()).digest())
    return keyed.hexdigest()


def key_check(key: str) -> str:
    """16 hex digits that are equal for two stores if their patients were hashed with the same secret ``key``."""
    return hashlib.blake2b(digest_size=8, key=hashlib.sha256(key.encode()).digest(), person=_CHECK).hexdigest()


def refuse_short(key: str) -> str:
    """The key, if it is none, the word :data:`PUBLIC`, or long enough; else ValueError."""
    if key not in ("", PUBLIC) and len(key.strip()) < MIN_KEY:
        raise ValueError(f"a secret key for patients needs {MIN_KEY} characters or more, so that it can't be guessed")
    return key


def ids_are_public(source: str) -> bool:
    """Whether the identifiers of this source's patients are published: only sources of this package can say so."""
    return source in occupants("ecgstore.sources") and getattr(
        occupant("ecgstore.sources", source), "PATIENT_IDS_ARE_PUBLIC", False
    )


def refuse_guessable(refs: Iterable[RecordRef], source: str, key: str) -> None:
    """Raise ConfigError where patients are named, their identifiers are not public, and ``key`` is empty."""
    if key or ids_are_public(source) or not any(ref.patient_id for ref in refs):
        return
    raise ConfigError(
        "the records name patients, and without a secret key their identifiers could be guessed from the store",
        fix=f"set ECGSTORE_PATIENT_KEY to a secret of {MIN_KEY} characters or more and keep it, or say "
        f"--patient-key {PUBLIC} if they may be guessed",
    )
