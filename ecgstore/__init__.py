"""ecgstore: raw WFDB folders to a chunked, verified, shareable Zarr store, and back as NumPy.

>>> import ecgstore
>>> store = ecgstore.open_store("ptbxl.ecg")            # doctest: +SKIP
>>> store.read("1").signal_mv_lt.shape                  # doctest: +SKIP
(12, 1000)

Names are imported when they are first used, so that ``import ecgstore`` stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgstore.augment import augment_store
    from ecgstore.errors import (
        ConfigError,
        EcgError,
        IntegrityError,
        MissingExtra,
        RecordError,
        RejectedError,
        SourceError,
        StoreError,
        StoreExists,
        StoreFormatError,
        StoreIncomplete,
        StoreNotFound,
        StoreUnreachable,
        need,
    )
    from ecgstore.ingest import IngestReport, IngestSettings, ingest_folder, seal_store
    from ecgstore.layout import COUNTS_PER_MV, NOT_RECORDED
    from ecgstore.memory import keep_freed_memory
    from ecgstore.noise import Bank, NoiseSettings, load_bank
    from ecgstore.overlap import Overlap, find_overlap, near_duplicates
    from ecgstore.record import (
        LEADS_12,
        Beat,
        LeadState,
        Listing,
        Record,
        RecordRef,
        Rejection,
        Statement,
        Terms,
    )
    from ecgstore.rooms import occupant, occupants
    from ecgstore.schedule import Workers
    from ecgstore.settings import Settings, override, parse, read_yaml
    from ecgstore.store import LeadStatistics, ShardSignal, Store, open_store

__version__ = "0.1.0"

_HOME = {
    "errors": (
        "ConfigError EcgError IntegrityError MissingExtra RecordError RejectedError SourceError StoreError "
        "StoreExists StoreFormatError StoreIncomplete StoreNotFound StoreUnreachable need"
    ),
    "augment": "augment_store",
    "ingest": "IngestReport IngestSettings ingest_folder seal_store",
    "layout": "COUNTS_PER_MV NOT_RECORDED",
    "memory": "keep_freed_memory",
    "noise": "Bank NoiseSettings load_bank",
    "overlap": "Overlap find_overlap near_duplicates",
    "record": "LEADS_12 Beat LeadState Listing Record RecordRef Rejection Statement Terms",
    "rooms": "occupant occupants",
    "schedule": "Workers",
    "settings": "Settings override parse read_yaml",
    "store": "LeadStatistics ShardSignal Store open_store",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "COUNTS_PER_MV",
    "LEADS_12",
    "NOT_RECORDED",
    "Bank",
    "Beat",
    "ConfigError",
    "EcgError",
    "IngestReport",
    "IngestSettings",
    "IntegrityError",
    "LeadState",
    "LeadStatistics",
    "Listing",
    "MissingExtra",
    "NoiseSettings",
    "Overlap",
    "Record",
    "RecordError",
    "RecordRef",
    "RejectedError",
    "Rejection",
    "Settings",
    "ShardSignal",
    "SourceError",
    "Statement",
    "Store",
    "StoreError",
    "StoreExists",
    "StoreFormatError",
    "StoreIncomplete",
    "StoreNotFound",
    "StoreUnreachable",
    "Terms",
    "Workers",
    "__version__",
    "augment_store",
    "find_overlap",
    "ingest_folder",
    "keep_freed_memory",
    "load_bank",
    "near_duplicates",
    "need",
    "occupant",
    "occupants",
    "open_store",
    "override",
    "parse",
    "read_yaml",
    "seal_store",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"ecgstore.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'ecgstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
