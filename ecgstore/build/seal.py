"""What every finished shard said, put together: the tables, the root, and the manifest that seals the store."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.build import building, planned
from ecgstore.build.commits import Committed
from ecgstore.build.patients import key_check, patient_hash
from ecgstore.build.plan import Plan, public
from ecgstore.build.settings import IngestSettings
from ecgstore.build.sums import Sums, by_fold, statistics
from ecgstore.errors import IntegrityError, SourceError
from ecgstore.record import Rejection, Terms
from ecgstore.storage import blocks, layout, manifest, publish
from ecgstore.storage.arrow import column, repeated, table
from ecgstore.storage.growing import growing
from ecgstore.storage.tables import (
    ANNOTATION,
    BEATS_SCHEMA,
    RECORDS_SCHEMA,
    REJECTED_SCHEMA,
    STATEMENTS_SCHEMA,
    WRITTEN,
    leads_schema,
    numbers,
    to_parquet,
)


def seal_ingested(root: Path, made: Plan, settings: IngestSettings, commits: Sequence[Committed]) -> manifest.Manifest:
    """Seal an ingest: the plan's records that the commits hold, with what was found out of them.

    The tables are written as the tasks' rows are read, so that memory holds a row group of each, not all records.
    """
    key = settings.secret_key or made.listing.terms.name
    facts_of_tasks = planned.facts(root, made, functools.lru_cache(1 << 16)(functools.partial(patient_hash, key)))
    left_out = [*made.rejected, *(one for commit in commits for one in commit.rejected)]
    schemas = _schemas(len(made.work.leads), annotated=any("beats.note" in commit.names for commit in commits))
    rates: dict[float, None] = {}
    n_records = 0
    with growing(root, {**schemas, layout.REJECTED: REJECTED_SCHEMA}) as tables:
        for facts, commit in zip(facts_of_tasks, commits, strict=True):
            rates |= dict.fromkeys(pc.unique(facts["source_fs_hz"]).to_pylist())
            with _told_by(commit):
                written = commit.written
                if commit.rejected:
                    facts = facts.filter(pc.is_in(facts["record_id"], value_set=written["record_id"].combine_chunks()))
                tables[layout.RECORDS].add(records(facts, written, made))
                tables[layout.LEADS].add(leads(written, len(made.work.leads)))
                tables[layout.STATEMENTS].add(statements(facts, n_records))
                tables[layout.BEATS].add(beats(written, schemas[layout.BEATS], n_records))
            n_records += facts.num_rows
        if not n_records:
            first = left_out[0]
            got = f"{first.record_id}: {first.reason} {first.detail}".strip()
            raise SourceError(f"none of {len(left_out)} records could be read", where=root, got=got)
        tables[layout.REJECTED].add(rejected(left_out))
    attributes = _attributes(made, sums_of(commits), settings, list(rates))
    if settings.folds is not None:
        attributes["folds_drawn"] = settings.folds
    return _seal_written(root, tables, attributes, commits, made.sha256)


@contextlib.contextmanager
def _told_by(commit: Committed) -> Iterator[None]:
    """An unfinished store may come from elsewhere: what its commits lack is said, and where."""
    try:
        yield
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise IntegrityError(
            "a commit of the store doesn't hold what one must",
            where=commit.path,
            got=" ".join(str(error).split())[:160],
            fix="delete it, and run the command again",
        ) from None


def _schemas(n_leads: int, *, annotated: bool) -> dict[str, pa.Schema]:
    """Those of the tables of a store. One without annotations has the columns of beats that were there before others
    were: its bytes don't tell that other stores may have more."""
    names = [name for name in BEATS_SCHEMA.names if annotated or name not in dict(ANNOTATION)]
    return {
        layout.RECORDS: RECORDS_SCHEMA,
        layout.LEADS: leads_schema(n_leads),
        layout.STATEMENTS: STATEMENTS_SCHEMA,
        layout.BEATS: pa.schema([BEATS_SCHEMA.field(name) for name in names]),
    }


def seal_commits(
    root: Path,
    tables: Mapping[str, pa.Table],
    attributes: Mapping[str, Any],
    commits: Sequence[Committed],
    plan_sha256: str,
) -> manifest.Manifest:
    """Write tables and root beside the shards that the commits name, and seal all of it."""
    for name, one in tables.items():
        publish.write_bytes(root / name, to_parquet(one, name))
    return _seal_written(root, tables, attributes, commits, plan_sha256)


def _seal_written(
    root: Path,
    tables: Iterable[str],
    attributes: Mapping[str, Any],
    commits: Sequence[Committed],
    plan_sha256: str,
) -> manifest.Manifest:
    """The same where the tables stand there already."""
    objects = {name: manifest.hash_object(root / name) for name in (layout.SIGNAL_JSON, *tables)}
    for commit in commits:
        objects |= {commit.path.relative_to(root).as_posix(): commit.own, **commit.objects}
    content = root_metadata(root, attributes, root / layout.RECORDS)
    return building.seal(root, [(layout.ROOT, content)], objects, plan_sha256)


def sums_of(commits: Sequence[Committed]) -> dict[str, Sums]:
    """The sums of all commits, by fold."""
    return by_fold(part for commit in commits for part in commit.sums.items())


def root_metadata(root: Path, attributes: Mapping[str, Any], of_records: bytes | Path) -> bytes:
    """The Zarr v3 root group with everything a reader must know before it touches a sample.

    ``of_records``: the table of records, or where it stands.
    """
    own = {name: value for name, value in attributes.items() if name != blocks.ATTRIBUTE}
    content = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": own | blocks.stated(layout.RECORDS, of_records),
        "consolidated_metadata": layout.consolidated(json.loads((root / layout.SIGNAL_JSON).read_bytes())),
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _attributes(
    made: Plan, sums: Mapping[str, Sums], settings: IngestSettings, rates: Sequence[float]
) -> dict[str, Any]:
    work = made.work
    is_raw = work.recipe.encoding == "adc"
    return {
        "format": layout.FORMAT,
        "format_version": layout.FORMAT_VERSION,
        "recipe": work.recipe.model_dump(mode="json"),
        "recipe_sha256": work.recipe.sha256,
        "storage": work.storage.model_dump(mode="json"),
        "plan_sha256": made.sha256,
        "leads": list(work.leads),
        "fs_hz": work.recipe.fs_hz or (rates[0] if len(rates) == 1 else None),
        "counts_per_mv": None if is_raw else layout.COUNTS_PER_MV,
        "not_recorded": int(layout.NOT_RECORDED),
        "shard_samples": work.shard_samples,
        "sources": [_terms(made.listing.terms)],
        "source_settings": public(made.source),
        "vocabulary": {system: sorted(codes) for system, codes in made.vocabulary.items()},
        **_by_site(made),
        "patients": "hashed with a secret key" if settings.secret_key else "hashed with the source's name as key",
        # Only where there is a secret: a store of a public source is the same to the byte for everybody.
        **({"patient_key_check": key_check(settings.secret_key)} if settings.secret_key else {}),
        **({"record_ids": settings.record_ids} if settings.record_ids != "path" else {}),
        # Sums over counts of different gains would mean nothing.
        "statistics": {} if is_raw else statistics(sums),
        "software": software(),
        **made.inherited,
    }


def _by_site(made: Plan) -> dict[str, Any]:
    """The attribute ``vocabulary_by_site``, where sites state different codes."""
    by_site = made.vocabulary_by_site
    if not by_site:
        return {}
    return {
        "vocabulary_by_site": {
            site: {system: list(codes) for system, codes in systems.items()} for site, systems in by_site.items()
        }
    }


def _terms(terms: Terms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in Terms.__dataclass_fields__}


def software() -> dict[str, str]:
    """Versions of what writes stores; a dictionary of the caller's own."""
    return dict(_versions())


@functools.cache  # each is read from a file of its package
def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("ecgstore", "numcodecs", "numpy", "scipy", "wfdb", "zarr"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def records(facts: pa.Table, written: pa.Table, made: Plan) -> pa.Table:
    """One row per record, in the plan's order; the row number is the record's number in the store.

    ``facts`` and ``written`` have one row per record, in the same order.
    """
    columns = {name: facts[name] for name in facts.column_names if name in RECORDS_SCHEMA.names}
    columns["source"] = repeated(made.listing.terms.name, len(facts))
    columns["shard"] = column(numbers(facts["start"]) // made.work.shard_samples, pa.int32())
    columns |= {name: written[name] for name, _ in WRITTEN}
    return table(columns, RECORDS_SCHEMA)


def leads(written: pa.Table, n_leads: int) -> pa.Table:
    """What was measured of each lead, one row per record."""
    schema = leads_schema(n_leads)
    return pa.table({name: written[f"leads.{name}"] for name in schema.names}, schema=schema)


def statements(facts: pa.Table, first: int) -> pa.Table:
    """One row per statement; ``likelihood`` in percent, null where the source states none.

    ``first`` is the number of the first of these records.
    """
    codes, systems, likelihoods = (facts[name].combine_chunks() for name in ("codes", "systems", "likelihoods"))
    columns = {
        "row": _numbered(codes, first),
        "code": codes.flatten(),
        "system": systems.flatten(),
        "likelihood": likelihoods.flatten(),
    }
    return pa.table(columns).cast(STATEMENTS_SCHEMA)


def beats(written: pa.Table, schema: pa.Schema, first: int) -> pa.Table:
    """One row per beat or other annotation: the record's row, the sample in it, and what is said of it.

    ``first`` is the number of the first of these records. Tasks without annotations lack the columns that say more.
    """
    names = [name for name in schema.names if f"beats.{name}" in written.column_names]
    lists = {name: written[f"beats.{name}"].combine_chunks() for name in names}
    columns = {"row": _numbered(lists["sample"], first), **{name: its.flatten() for name, its in lists.items()}}
    n = len(columns["row"])
    return pa.table({one.name: columns.get(one.name, pa.nulls(n, one.type)) for one in schema}).cast(schema)


def _numbered(lists: pa.Array, first: int) -> pa.Array:
    """The number of the record of each value of its list."""
    parents: pa.Array = lists.value_parent_indices()
    return column(numbers(pa.chunked_array([parents])) + first, pa.int64())


def rejected(rejections: Sequence[Rejection]) -> pa.Table:
    """One row per record that was left out, by record id."""
    ordered = sorted(rejections, key=lambda one: (one.record_id, one.reason))
    columns = {name: [getattr(one, name) for one in ordered] for name in REJECTED_SCHEMA.names}
    return table(columns, REJECTED_SCHEMA)
