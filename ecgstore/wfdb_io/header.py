"""What a header says, as values that cross process walls and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

#: Millivolts per unit, by the unit's lower-case name (µ in both its Unicode spellings).
MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}

#: "No sample here" in counts of 32 bits: see :meth:`PieceReader.read_counts`.
NOT_RECORDED = -(2**31)
#: "Not stated" in ``Header.stated``.
NOT_STATED = NOT_RECORDED
#: What headers of more signals than this say is not kept for others.
MOST_SHARED = 256


@dataclass(frozen=True, slots=True)
class SignalLayout:
    """What a header says of its signals and thousands of headers say alike: kept once, shared by all of them.

    One entry per signal. ``gains`` are counts per unit, 0 where the header states none.
    """

    names: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    baselines: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    byte_offsets: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    samples_per_frame: tuple[int, ...] = ()
    skews: tuple[int, ...] = ()
    #: Which of the header's files each signal stands in.
    file_numbers: tuple[int, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Headers cross process walls in millions; on the other side, too, they share their layouts.
        return shared_layout, tuple(getattr(self, name) for name in self.__slots__)


def shared_layout(*fields: Any) -> SignalLayout:
    """The layout of these fields, in the order of its slots: one and the same for all headers that say the same."""
    # Headers of hundreds of signals are rare and large: memory must not be filled by keeping them.
    make = _shared_layout if len(fields[0]) <= MOST_SHARED else SignalLayout
    return make(*fields)


_shared_layout = lru_cache(maxsize=4096)(SignalLayout)


class Segment(NamedTuple):
    """A part of a multi-segment record.

    ``header`` is None for a gap; ``rows`` has per signal of the record its number in the segment, -1 where the
    segment doesn't have it.
    """

    name: str
    n_frames: int
    header: Header | None
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. ``plain`` records are read by NumPy, the others by wfdb.

    ``fs_hz`` and ``n_samples`` are those of the fastest voltage: where a header has several samples per frame,
    ``samples_per_frame`` of them make one of its frames. ``stated`` packs the initial values and then the
    checksums of all signals, int32 each, -2**31 where one isn't stated. ``sha256`` is that of the header file; for
    a record of several segments, that of its own hash and theirs. ``warnings`` say what was passed over in it.
    """

    fs_hz: float
    n_samples: int
    lead_names: tuple[str, ...]
    plain: bool
    layout: SignalLayout = SignalLayout()
    files: tuple[str, ...] = ()
    stated: bytes = b""
    sha256: str = ""
    samples_per_frame: int = 1
    segments: tuple[Segment, ...] = ()
    warnings: tuple[str, ...] = ()


def header_to_row(header: Header) -> dict[str, Any]:
    """The header as plain values, for a table of headers; what many headers share is one and the same text."""
    return {
        "fs_hz": header.fs_hz,
        "n_samples": header.n_samples,
        "plain": int(header.plain),
        "layout": _layout_text(header.layout),
        "files": list(header.files),
        "stated": header.stated,
        "sha256": header.sha256,
        "samples_per_frame": header.samples_per_frame,
        "segments": json.dumps(
            [
                [name, n_frames, None if part is None else header_to_row(part), rows]
                for name, n_frames, part, rows in header.segments
            ],
            default=bytes.hex,
        )
        if header.segments
        else "",
        "warnings": list(header.warnings),
    }


def header_from_row(row: Mapping[str, Any]) -> Header:
    """The header that :func:`header_to_row` made ``row`` of."""
    layout, stated = _layout_from_text(row["layout"]), row["stated"]
    segments = (
        Segment(name, n_frames, None if part is None else header_from_row(part), tuple(rows))
        for name, n_frames, part, rows in (json.loads(row["segments"]) if row["segments"] else ())
    )
    return Header(
        fs_hz=row["fs_hz"],
        n_samples=row["n_samples"],
        lead_names=layout.names,
        plain=bool(row["plain"]),
        layout=layout,
        files=tuple(row["files"]),
        stated=stated if isinstance(stated, bytes) else bytes.fromhex(stated),
        sha256=row["sha256"],
        samples_per_frame=row["samples_per_frame"],
        segments=tuple(segments),
        warnings=tuple(row["warnings"]),
    )


@lru_cache(maxsize=4096)
def _layout_text(layout: SignalLayout) -> str:
    return json.dumps([getattr(layout, name) for name in SignalLayout.__slots__], separators=(",", ":"))


@lru_cache(maxsize=4096)
def _layout_from_text(text: str) -> SignalLayout:
    return shared_layout(*(tuple(field) if isinstance(field, list) else field for field in json.loads(text)))


def own_rates_hz(header: Header) -> tuple[float, ...]:
    """Per signal the rate at which it was recorded, the lowest of its segments; above it, its values are repeated."""
    frame_hz = header.fs_hz / header.samples_per_frame
    per_frame = list(header.layout.samples_per_frame or (1,) * len(header.lead_names))
    for row in range(len(per_frame) if header.segments else 0):
        of_segments = [
            segment.header.layout.samples_per_frame[segment.rows[row]]
            for segment in header.segments
            if segment.header is not None and segment.rows[row] >= 0
        ]
        per_frame[row] = min(of_segments, default=header.samples_per_frame)
    return tuple(n * frame_hz for n in per_frame)
