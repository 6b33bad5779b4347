"""The inner door: what ``ecgtrain`` takes from this package besides the public names of :mod:`ecgstore`.

These are no business of users, and no promise is made of them; they load on first use, as the public ones do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgstore.build.memory import keep_freed_memory
    from ecgstore.build.patients import patients_in_words
    from ecgstore.build.plan import Recipe
    from ecgstore.build.single import Prepared, prepare_record
    from ecgstore.errors import nearest, need, visible, visible_on_page, without_links
    from ecgstore.rooms import (
        descriptions,
        name_own_file,
        named_by_name,
        named_by_sha256,
        occupant,
        occupants,
        own_file_sha256,
    )
    from ecgstore.settings import NOT_SAID, first_difference, innermost_difference, parse, read_yaml, yaml_of
    from ecgstore.signals.ectopic import steepest_complex
    from ecgstore.signals.noise import add_noise, check_noise, with_bank
    from ecgstore.simulate.ventricles import distances_mm, reference_heart
    from ecgstore.sources._tables import Table, number, open_table
    from ecgstore.storage.layout import counts_to_mv, mv_to_counts
    from ecgstore.storage.locks import held
    from ecgstore.storage.outside import refuse_within_store
    from ecgstore.storage.plain import open_plain
    from ecgstore.storage.splits import load_split
    from ecgstore.storage.tables import unpacked_bytes
    from ecgstore.storage.withdrawn import Withdrawn
    from ecgstore.terminal import PlainUsage, completion_of, names_or_files
    from ecgstore.vocabularies.known_overlaps import Origin, overlaps_between
    from ecgstore.vocabularies.origin_sites import aha_segments, origin_sites
    from ecgstore.vocabularies.vocabulary import challenge_weights, scored_classes, scp_to_snomed

__all__ = [
    "NOT_SAID",
    "Origin",
    "PlainUsage",
    "Prepared",
    "Recipe",
    "Table",
    "Withdrawn",
    "add_noise",
    "aha_segments",
    "challenge_weights",
    "check_noise",
    "completion_of",
    "counts_to_mv",
    "descriptions",
    "distances_mm",
    "first_difference",
    "held",
    "innermost_difference",
    "keep_freed_memory",
    "load_split",
    "mv_to_counts",
    "name_own_file",
    "named_by_name",
    "named_by_sha256",
    "names_or_files",
    "nearest",
    "need",
    "number",
    "occupant",
    "occupants",
    "open_plain",
    "open_table",
    "origin_sites",
    "overlaps_between",
    "own_file_sha256",
    "parse",
    "patients_in_words",
    "prepare_record",
    "read_yaml",
    "reference_heart",
    "refuse_within_store",
    "scored_classes",
    "scp_to_snomed",
    "steepest_complex",
    "unpacked_bytes",
    "visible",
    "visible_on_page",
    "with_bank",
    "without_links",
    "yaml_of",
]

_HOME = {
    "NOT_SAID": "settings",
    "Origin": "vocabularies.known_overlaps",
    "PlainUsage": "terminal",
    "Prepared": "build.single",
    "Recipe": "build.plan",
    "add_noise": "signals.noise",
    "Table": "sources._tables",
    "Withdrawn": "storage.withdrawn",
    "aha_segments": "vocabularies.origin_sites",
    "challenge_weights": "vocabularies.vocabulary",
    "check_noise": "signals.noise",
    "completion_of": "terminal",
    "counts_to_mv": "storage.layout",
    "descriptions": "rooms",
    "distances_mm": "simulate.ventricles",
    "first_difference": "settings",
    "held": "storage.locks",
    "innermost_difference": "settings",
    "keep_freed_memory": "build.memory",
    "load_split": "storage.splits",
    "mv_to_counts": "storage.layout",
    "name_own_file": "rooms",
    "named_by_name": "rooms",
    "named_by_sha256": "rooms",
    "names_or_files": "terminal",
    "nearest": "errors",
    "need": "errors",
    "number": "sources._tables",
    "occupant": "rooms",
    "occupants": "rooms",
    "open_plain": "storage.plain",
    "open_table": "sources._tables",
    "origin_sites": "vocabularies.origin_sites",
    "overlaps_between": "vocabularies.known_overlaps",
    "own_file_sha256": "rooms",
    "parse": "settings",
    "patients_in_words": "build.patients",
    "prepare_record": "build.single",
    "read_yaml": "settings",
    "reference_heart": "simulate.ventricles",
    "refuse_within_store": "storage.outside",
    "scored_classes": "vocabularies.vocabulary",
    "scp_to_snomed": "vocabularies.vocabulary",
    "steepest_complex": "signals.ectopic",
    "unpacked_bytes": "storage.tables",
    "visible": "errors",
    "visible_on_page": "errors",
    "with_bank": "signals.noise",
    "without_links": "errors",
    "yaml_of": "settings",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ecgstore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgstore.inner' has no attribute {name!r}")
