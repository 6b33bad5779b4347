"""Whether a store may be handed to others: its sources' terms, how patients are hashed, what seems to name somebody."""

from __future__ import annotations

from collections.abc import Sequence

from ecgstore.errors import StoreError
from ecgstore.look.scrub import Finding, scrub_check
from ecgstore.storage.store import Store

_MOST_SHOWN = 3


class TermsRefused(StoreError):
    """The store may not be handed on, or not like this: its terms, its patients' key, or what it seems to hold."""


def refuse_unshareable(store: Store, *, private_target: bool, harmless: bool = False) -> None:
    """Raise TermsRefused where a store must not be pushed.

    ``private_target``: all who can read there have signed what the sources ask for. ``harmless``: somebody has looked
    at what :func:`scrub_check` finds, and it names nobody.
    """
    refuse_by_terms(store, private_target=private_target)
    if not harmless:
        refuse_findings(scrub_check(store), store.path)


def refuse_by_terms(store: Store, *, private_target: bool) -> None:
    """Raise TermsRefused for sources that may not be passed on, and for patients of theirs who can be found out."""
    bound = [one.name for one in store.terms if not one.redistributable]
    if bound and not private_target:
        raise TermsRefused(
            f"the source {', '.join(bound)} may not be passed on",
            where=store.path,
            fix="if all who can read the target have agreed to its terms, say --private-target",
        )
    if bound and "secret" not in store.attributes["patients"] and any(store.column("patient_key")):
        raise TermsRefused(
            f"patients of {', '.join(bound)} are hashed with a public key, so whoever knows an id can find the patient",
            where=store.path,
            fix="ingest again with a secret in ECGSTORE_PATIENT_KEY",
        )


def refuse_findings(found: Sequence[Finding], where: object) -> None:
    """Raise TermsRefused where something was found that seems to identify somebody."""
    if found:
        some = ", ".join(f"{one.where} ({one.kind})" for one in found[:_MOST_SHOWN])
        raise TermsRefused(
            "the store seems to hold what identifies somebody",
            where=where,
            got=f"{some}{' …' if len(found) > _MOST_SHOWN else ''}",
            fix="look at what `ecgstore scrub-check` finds; if it names nobody, say --findings-are-harmless",
        )
