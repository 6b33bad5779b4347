"""Folds that are drawn here, for sources that state none: by patient, and the same again whenever they are drawn."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ecgstore.errors import ConfigError
from ecgstore.record import Listing


def draw_folds(listing: Listing, n_folds: int, key: str) -> Listing:
    """Give each record a fold out of 1 to ``n_folds``, all records of a patient the same one.

    The fold is a keyed hash of the patient's identifier: it hangs on nothing else, so that it stays when records are
    added, and it says nothing of the patient to whom the key is unknown. Folds are of nearly the same size only where
    there are many patients. A record that names no patient is drawn by its id.

    Raises ConfigError where the source states folds itself.
    """
    stated = sum(ref.fold is not None for ref in listing.records)
    if stated:
        raise ConfigError(
            f"the source states folds itself, of {stated} of {len(listing.records)} records",
            fix="leave --folds out",
        )
    refs = tuple(
        replace(ref, fold=_fold("patient", ref.patient_id, n_folds, key))
        if ref.patient_id
        else replace(ref, fold=_fold("record", ref.record_id, n_folds, key))
        for ref in listing.records
    )
    return replace(listing, records=refs, notes=(*listing.notes, _said(listing, n_folds)))


def _fold(kind: str, name: str, n_folds: int, key: str) -> int:
    keyed = hashlib.blake2b(
        name.encode(), digest_size=8, key=hashlib.sha256(key.encode()).digest(), person=f"fold {kind}".encode()
    )
    return 1 + int.from_bytes(keyed.digest(), "little") % n_folds


def _said(listing: Listing, n_folds: int) -> str:
    unnamed = sum(not ref.patient_id for ref in listing.records)
    if not unnamed:
        return f"folds 1 to {n_folds} were drawn by patient"
    return (
        f"folds 1 to {n_folds} were drawn; {unnamed} records name no patient and were drawn one by one, "
        "so that records of one person may be in several folds"
    )
