"""Carry a withdrawal through: the successor is made, pushed, and takes the place of every version that holds them.

Whatever push would refuse is refused before anything is made. Then, in this order: the successor here, the successor
there under its tag, the tombstones, the other tags, the removal. Killed in between, the same call goes on: the
successor comes out the same, and what is there already is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecgstore.errors import ConfigError, EcgError, StoreError, StoreWithdrawn
from ecgstore.lineage.parents import LINEAGE
from ecgstore.lineage.withdraw import Left, WithdrawReport, what_is_left, withdraw_records
from ecgstore.look.scrub import look_through
from ecgstore.sharing import versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.delivery import Delivered
from ecgstore.sharing.opening import open_writable
from ecgstore.sharing.pushing import push
from ecgstore.sharing.target import Progress, Target, prove, refuse_no_share
from ecgstore.sharing.terms import refuse_by_terms, refuse_findings
from ecgstore.sharing.withdrawing import Withdrawn as TakenBack
from ecgstore.sharing.withdrawing import withdraw
from ecgstore.storage import layout
from ecgstore.storage.outside import refuse_nested
from ecgstore.storage.store import Store
from ecgstore.storage.withdrawn import Withdrawn, count_named

#: Versions of a share whose records are looked at.
MOST_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class Carried:
    """What was done here, and in the share. ``still_there``: where in the share they may still be, a line each."""

    made: WithdrawReport
    pushed: Delivered
    taken_back: TakenBack
    still_there: tuple[str, ...]


def withdraw_and_push(
    store: Store,
    out: str | Path,
    url: str,
    *,
    patients: Sequence[str] = (),
    records: Sequence[str] = (),
    secret_key: str = "",
    skip_unknown: bool = False,
    overwrite: bool = False,
    private_target: bool = False,
    findings_are_harmless: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    bytes_progress: Progress | None = None,
) -> Carried:
    """Make ``out``: ``store`` without these patients and records; it takes the place of every version with them.

    In the share ``url`` its tag (or ``main``) means the successor. Taken back are ``store`` itself and each version
    that holds somebody who has withdrawn, was prepared in the same way, and has no record that ``store`` lacks; tags
    that meant one of them mean the successor. Other versions that hold them stay, and are told of.

    Who goes and how is said as in :func:`ecgstore.withdraw_records` (``patients``, ``records``, ``secret_key``,
    ``skip_unknown``, ``overwrite``, ``progress``), the share as in :func:`push` (``private_target``,
    ``findings_are_harmless``; ``bytes_progress`` is called with bytes done and in all).

    Raises what :func:`withdraw_records`, :func:`push` and :func:`withdraw` raise.
    """
    out, address = Path(out), parse_address(url)
    if address.fingerprint is not None:
        raise ConfigError("a store is pushed under a tag, for its fingerprint is its own", where=url, expected="@TAG")
    if Path(store.path).resolve() == out.resolve():
        raise ConfigError(
            "until the share is done, the store is needed to go on after an interruption",
            where=out,
            fix="choose another OUT with --push, and delete the store afterwards",
        )
    refuse_nested(out, store.path)
    target = open_writable(address)
    refuse_no_share(target)
    left = what_is_left(store, patients=patients, records=records, secret_key=secret_key, skip_unknown=skip_unknown)
    refuse_by_terms(store, private_target=private_target)
    if not findings_are_harmless:
        tables = {name.removesuffix(".parquet"): table for name, table in left.tables.items()}
        refuse_findings(look_through(tables, left.attributes), store.path)
    prove(target)
    _refuse_another_successor(target, store, left)
    versions.refuse_returning(target, left.tables[layout.RECORDS], store.path)

    made = withdraw_records(
        store,
        out,
        patients=patients,
        records=records,
        secret_key=secret_key,
        skip_unknown=skip_unknown,
        overwrite=overwrite,
        progress=progress,
    )
    pushed = push(
        out,
        url,
        private_target=private_target,
        findings_are_harmless=findings_are_harmless,
        progress=bytes_progress,
    )
    gone, still_there = _who_holds_them(target, store, made.fingerprint, left.withdrawn)
    if address.kind == "s3":
        still_there += (f"older versions of the objects, if the bucket of {target.where} keeps such",)
    if address.kind == "hf":
        still_there += (f"the history of {target.where}, until it is squashed (HfApi.super_squash_history)",)
    return Carried(made, pushed, withdraw(target, gone, made.fingerprint), still_there)


def _refuse_another_successor(target: Target, store: Store, left: Left) -> None:
    """Raise StoreWithdrawn where the store was taken back for another one: who went then would come back with ours."""
    stone = versions.tombstone_of(target, store.fingerprint)
    if stone is None:
        return
    if stone.successor is not None and _is_ours(target, stone.successor, store, left):
        return  # we were here before, and were interrupted
    error = StoreWithdrawn(
        "the store was withdrawn there already, so somebody else may have gone from it",
        where=target.where,
        fix=f"pull @{stone.successor} and withdraw from that one" if stone.successor else "there is none in its place",
    )
    error.successor = stone.successor
    raise error


def _is_ours(target: Target, successor: str, store: Store, left: Left) -> bool:
    try:
        there = versions.open_version(target, successor)
    except StoreError:
        return False
    steps = there.attributes.get(LINEAGE)
    return bool(steps == left.attributes[LINEAGE] and Withdrawn.of(there.attributes) == left.withdrawn)


def _who_holds_them(
    target: Target, store: Store, successor: str, withdrawn: Withdrawn
) -> tuple[list[str], tuple[str, ...]]:
    """Versions to be taken back, and a line for each other one that holds them, or may."""
    gone, lines = [store.fingerprint], []
    # After an interruption: those that have their tombstone, and perhaps tags and objects.
    gone += [its for its, stone in versions.tombstones(target).items() if stone.successor == successor]
    known_ids = set(store.column("record_id").tolist())
    others = [one for one in versions.fingerprints(target) if one not in {*gone, successor}]
    for fingerprint in others[:MOST_LOOKED_AT]:
        if versions.tombstone_of(target, fingerprint) is not None:
            continue
        try:
            version = versions.open_version(target, fingerprint)
            n_held = _n_named(version, withdrawn)
        except EcgError as error:
            lines.append(f"the version {fingerprint} can't be looked at, and may hold them: {error.what}")
            continue
        if not n_held:
            if _key_of(version) != _key_of(store):
                lines.append(f"the version {fingerprint} has patients by another key: whether it holds them is unknown")
            continue
        if _is_made_alike(version, store) and known_ids.issuperset(_who_stay(version, withdrawn)):
            gone.append(fingerprint)
        else:
            lines.append(
                f"the version {fingerprint} holds them, and is made in another way or has records that the store "
                f"lacks: pull it, and withdraw from it as well"
            )
    if len(others) > MOST_LOOKED_AT:
        lines.append(f"{len(others) - MOST_LOOKED_AT} more versions were not looked at")
    return list(dict.fromkeys(gone)), tuple(lines)


def _n_named(version: Store, withdrawn: Withdrawn) -> int:
    """How many rows of a version are of somebody who has withdrawn, those of records that were left out among them."""
    n = count_named(withdrawn, *_named_by(version))
    left_out = version.rejected["record_id"].to_pylist()
    return n + sum(any(withdrawn.names(one, None, terms.name) for terms in version.terms) for one in left_out)


def _named_by(version: Store) -> tuple[list[str], list[str | None], list[str]]:
    columns = (version.records[name].to_pylist() for name in ("record_id", "patient_key", "source"))
    ids, keys, sources = columns
    return ids, keys, sources


def _who_stay(version: Store, withdrawn: Withdrawn) -> list[str]:
    named = zip(*_named_by(version), strict=True)
    return [record_id for record_id, key, source in named if not withdrawn.names(record_id, key, source)]


def _key_of(store: Store) -> tuple[object, ...]:
    return tuple(store.attributes.get(name) for name in ("patients", "patient_key_check", "record_ids"))


def _is_made_alike(version: Store, store: Store) -> bool:
    def how(one: Store) -> tuple[object, ...]:
        return one.recipe_sha256, one.leads, one.attributes.get("noise"), one.attributes.get("beats")

    return how(version) == how(store)
