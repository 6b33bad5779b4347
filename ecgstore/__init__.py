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
        need,
    )
    from ecgstore.ingest import IngestReport, IngestSettings, ingest_folder
    from ecgstore.layout import COUNTS_PER_MV, NOT_RECORDED
    from ecgstore.memory import keep_freed_memory
    from ecgstore.record import LEADS_12, LeadState, Record, Statement, Terms
    from ecgstore.rooms import occupant, occupants
    from ecgstore.settings import Settings, override, parse, read_yaml
    from ecgstore.store import LeadStatistics, ShardSignal, Store, open_store

__version__ = "0.1.0"

_HOME = {
    "errors": (
        "ConfigError EcgError IntegrityError MissingExtra RecordError RejectedError SourceError StoreError "
        "StoreExists StoreFormatError StoreIncomplete StoreNotFound need"
    ),
    "ingest": "IngestReport IngestSettings ingest_folder",
    "layout": "COUNTS_PER_MV NOT_RECORDED",
    "memory": "keep_freed_memory",
    "record": "LEADS_12 LeadState Record Statement Terms",
    "rooms": "occupant occupants",
    "settings": "Settings override parse read_yaml",
    "store": "LeadStatistics ShardSignal Store open_store",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "COUNTS_PER_MV",
    "LEADS_12",
    "NOT_RECORDED",
    "ConfigError",
    "EcgError",
    "IngestReport",
    "IngestSettings",
    "IntegrityError",
    "LeadState",
    "LeadStatistics",
    "MissingExtra",
    "Record",
    "RecordError",
    "RejectedError",
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
    "Terms",
    "__version__",
    "ingest_folder",
    "keep_freed_memory",
    "need",
    "occupant",
    "occupants",
    "open_store",
    "override",
    "parse",
    "read_yaml",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"ecgstore.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'ecgstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
