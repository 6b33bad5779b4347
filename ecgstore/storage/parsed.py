"""Small tables that were read and found right before: opening a store again doesn't check the same bytes again.

What is looked up here has been hashed already, and a store's fingerprint is of all of its objects: the same bytes,
beside the same others, are as right as they were. Nothing is remembered of what was refused.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import pyarrow as pa

#: Tables that are kept, and bytes of the largest in memory: 16 × 8 MiB at most.
MOST_TABLES, MOST_BYTES = 16, 8 << 20

_known: OrderedDict[Hashable, pa.Table] = OrderedDict()
_lock = threading.Lock()


def once(key: Hashable, parse: Callable[[bytes], pa.Table], content: bytes) -> pa.Table:
    """The table that was made for ``key`` before, or that ``parse`` makes of ``content``; tables never change."""
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    table = parse(content)
    if table.nbytes <= MOST_BYTES:
        with _lock:
            _known[key] = table
            while len(_known) > MOST_TABLES:
                _known.popitem(last=False)
    return table
