"""Who is who, without saying who: keyed hashes of patients' identifiers, and ids of records that name nobody.

The same key gives the same hashes in every store. Identifiers of published data sets are known to all, so there the
source's name is the key. Those of anybody else could be guessed then: numbers of patients are few.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from ecgstore.errors import ConfigError
from ecgstore.record import Listing, RecordRef
from ecgstore.rooms import occupant, occupants
from ecgstore.sources._labels import names_patient
from ecgstore.storage.store import Store

RecordIds = Literal["path", "stem", "hashed"]

#: Said in the place of a secret key: identifiers may be guessed.
PUBLIC = "public"
MIN_KEY = 16
#: BLAKE2b's personalisation keeps what is not the hash of a patient apart from those that are.
_CHECK, _RECORD = b"ecgstore key", b"ecgstore record"


def patient_hash(key: str, patient_id: str) -> str:
    """Keyed BLAKE2b hash of a patient's identifier, 16 hex digits; what a store holds instead of the identifier."""
    keyed = hashlib.blake2b(patient_id.encode(), digest_size=8, key=hashlib.sha256(key.encode()).digest())
    return keyed.hexdigest()


def key_check(key: str) -> str:
    """16 hex digits that are equal for two stores if their patients were hashed with the same secret ``key``."""
    return hashlib.blake2b(digest_size=8, key=hashlib.sha256(key.encode()).digest(), person=_CHECK).hexdigest()


def patients_in_words(store: Store) -> str:
    """How many patients the records of a store name, how their identifiers were hashed, and what that is worth."""
    n = len(set(store.column("patient_key")) - {""})
    how = str(store.attributes["patients"])
    return f"{n:,}, {how}{'' if 'secret' in how else ': ids can be guessed'}" if n else "not named"


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


def refuse_identifying(key: str, record_ids: RecordIds, refs: Sequence[RecordRef], source: str) -> None:
    """Raise ConfigError where a store would tell who its patients are, unless ``source`` has published that anyway."""
    if ids_are_public(source):
        return
    if not key:
        _refuse_guessable(refs)
    if record_ids != "hashed":
        _refuse_telling(refs)


def _refuse_guessable(refs: Iterable[RecordRef]) -> None:
    """Raise ConfigError where patients are named."""
    if not any(ref.patient_id for ref in refs):
        return
    raise ConfigError(
        "the records name patients, and without a secret key their identifiers could be guessed from the store",
        fix=f"set ECGSTORE_PATIENT_KEY to a secret of {MIN_KEY} characters or more and keep it, or say "
        f"--patient-key {PUBLIC} if they may be guessed",
    )


def with_record_ids(listing: Listing, kind: RecordIds, key: str) -> Listing:
    """The listing with the ids that the store will have: the source's own, their last parts, or keyed hashes of them.

    Raises ConfigError where last parts are not unique, or where hashes are asked for without a secret ``key``.
    """
    if kind == "path":
        return listing
    if kind == "hashed" and not key:
        raise ConfigError(
            "hashed record ids need a secret key", fix=f"set ECGSTORE_PATIENT_KEY to {MIN_KEY} characters or more"
        )
    new_id = functools.partial(_record_hash, key) if kind == "hashed" else _stem
    records = tuple(replace(ref, record_id=new_id(ref.record_id)) for ref in listing.records)
    n_alike = len(records) - len({ref.record_id for ref in records})
    if n_alike:
        raise ConfigError(
            f"{n_alike} of {len(records)} records have the last part of their path in common with another",
            fix="choose --record-ids path or hashed",
        )
    rejected = tuple(replace(one, record_id=new_id(one.record_id)) for one in listing.rejected)
    return replace(listing, records=records, rejected=rejected)


def _refuse_telling(refs: Sequence[RecordRef]) -> None:
    """Raise ConfigError where ids of records contain those of their patients. Shows none."""
    n_telling = sum(names_patient(ref.record_id, ref.patient_id) for ref in refs)
    if n_telling:
        raise ConfigError(
            f"{n_telling} of {len(refs)} record ids contain their patient's identifier, and would stand in the store",
            fix="choose --record-ids hashed, or --record-ids stem if only folders are named so",
        )


def _stem(record_id: str) -> str:
    """The last part of a path; a folder keeps its name and its ``/``."""
    return record_id.rstrip("/").rpartition("/")[2] + "/" * record_id.endswith("/")


def _record_hash(key: str, record_id: str) -> str:
    keyed = hashlib.sha256(key.encode()).digest()
    return hashlib.blake2b(
        record_id.encode("utf-8", "surrogateescape"), digest_size=8, key=keyed, person=_RECORD
    ).hexdigest()
