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
    from ecgstore.build.augment import augment_store
    from ecgstore.build.from_arrays import write_records
    from ecgstore.build.ingest import IngestReport, ingest_folder
    from ecgstore.build.parts import seal_store
    from ecgstore.build.schedule import Workers
    from ecgstore.build.settings import IngestSettings
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
        StoreReplaced,
        StoreUnreachable,
        StoreWithdrawn,
        TagMoved,
    )
    from ecgstore.lineage.merge import MergeReport, merge_stores
    from ecgstore.lineage.subset import SubsetReport, subset_store
    from ecgstore.lineage.withdraw import WithdrawReport, withdraw_records
    from ecgstore.look.overlap import Overlap, find_overlap, near_duplicates
    from ecgstore.look.plot import plot_record, record_png
    from ecgstore.record import LEADS_12, Beat, LeadState, Listing, Record, RecordRef, Rejection, Statement, Terms
    from ecgstore.settings import Settings, override
    from ecgstore.sharing.caching import is_shared, open_shared, pinned_address
    from ecgstore.signals.noise import NoiseSettings
    from ecgstore.signals.recorded_noise import Bank, load_bank
    from ecgstore.sources._reader import RecordHeader
    from ecgstore.split.draw import split_records
    from ecgstore.storage.layout import COUNTS_PER_MV, NOT_RECORDED
    from ecgstore.storage.shard_signal import ShardSignal
    from ecgstore.storage.splits import Split, read_split, with_split
    from ecgstore.storage.statistics import LeadStatistics
    from ecgstore.storage.store import Store, open_store

#: The release, and what a store writes down as its software.
__version__ = "0.1.0"

_HOME = {
    "errors": (
        "ConfigError EcgError IntegrityError MissingExtra RecordError RejectedError SourceError StoreError "
        "StoreExists StoreFormatError StoreIncomplete StoreNotFound StoreReplaced "
        "StoreUnreachable StoreWithdrawn TagMoved"
    ),
    "build.augment": "augment_store",
    "build.from_arrays": "write_records",
    "build.ingest": "IngestReport ingest_folder",
    "build.parts": "seal_store",
    "build.settings": "IngestSettings",
    "storage.layout": "COUNTS_PER_MV NOT_RECORDED",
    "signals.noise": "NoiseSettings",
    "signals.recorded_noise": "Bank load_bank",
    "lineage.merge": "MergeReport merge_stores",
    "lineage.subset": "SubsetReport subset_store",
    "lineage.withdraw": "WithdrawReport withdraw_records",
    "look.overlap": "Overlap find_overlap near_duplicates",
    "look.plot": "plot_record record_png",
    "record": "LEADS_12 Beat LeadState Listing Record RecordRef Rejection Statement Terms",
    "sources._reader": "RecordHeader",
    "build.schedule": "Workers",
    "settings": "Settings override",
    "sharing.caching": "is_shared open_shared pinned_address",
    "split.draw": "split_records",
    "storage.splits": "Split read_split with_split",
    "storage.statistics": "LeadStatistics",
    "storage.shard_signal": "ShardSignal",
    "storage.store": "Store open_store",
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
    "MergeReport",
    "MissingExtra",
    "NoiseSettings",
    "Overlap",
    "Record",
    "RecordError",
    "RecordHeader",
    "RecordRef",
    "RejectedError",
    "Rejection",
    "Settings",
    "ShardSignal",
    "SourceError",
    "Split",
    "Statement",
    "Store",
    "StoreError",
    "StoreExists",
    "StoreFormatError",
    "StoreIncomplete",
    "StoreNotFound",
    "StoreReplaced",
    "StoreUnreachable",
    "StoreWithdrawn",
    "SubsetReport",
    "TagMoved",
    "Terms",
    "WithdrawReport",
    "Workers",
    "__version__",
    "augment_store",
    "find_overlap",
    "ingest_folder",
    "is_shared",
    "load_bank",
    "merge_stores",
    "near_duplicates",
    "open_shared",
    "open_store",
    "override",
    "pinned_address",
    "plot_record",
    "read_split",
    "record_png",
    "seal_store",
    "split_records",
    "subset_store",
    "with_split",
    "withdraw_records",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"ecgstore.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'ecgstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
