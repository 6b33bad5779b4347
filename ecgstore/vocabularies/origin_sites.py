"""Where ventricular beats begin: sites, their regions and places, and which of them touch.

Coordinates are mm in the heart frame of the reference heart of :mod:`ecgstore.simulate.ventricles`: the origin is the
centre of the mitral ring, x points to the lateral wall, y to the anterior wall, z from base to apex.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

from ecgstore.vocabularies import packaged

Region = Literal["RVOT", "LVOT", "RV", "LV"]


class OriginSite(NamedTuple):
    """A named part of the ventricles.

    ``region`` is one of four: the two outflow tracts, and the rest of each ventricle. ``aha17`` are the segments that
    it lies in, none in the right ventricle. ``centroid_mm`` is the mean of its points; ``neighbours`` touch it.
    """

    site: str
    title: str
    region: Region
    ventricle: Literal["RV", "LV"]
    aha17: tuple[int, ...]
    centroid_mm: tuple[float, float, float]
    neighbours: tuple[str, ...]


class AhaSegment(NamedTuple):
    """One of the 17 segments of the left ventricle (Cerqueira et al. 2002, doi:10.1161/hc0402.102975).

    ``angle_deg`` is its middle about the long axis, from lateral towards anterior; None at the apex. Neighbours are
    next to it in its ring, or touch it in the ring above or below at an angle that both have.
    """

    segment: int
    title: str
    level: Literal["basal", "mid", "apical", "apex"]
    angle_deg: float | None
    centroid_mm: tuple[float, float, float]
    neighbours: tuple[int, ...]


@cache
def origin_sites() -> tuple[OriginSite, ...]:
    """All sites that a simulated beat may begin at."""
    return tuple(
        OriginSite(
            row["site"],
            row["title"],
            row["region"],  # type: ignore[arg-type]
            row["ventricle"],  # type: ignore[arg-type]
            tuple(map(int, row["aha17"].split())),
            _place(row),
            tuple(row["neighbours"].split()),
        )
        for row in packaged.rows("origin_sites")
    )


@cache
def aha_segments() -> tuple[AhaSegment, ...]:
    """The 17 segments in their order."""
    return tuple(
        AhaSegment(
            int(row["segment"]),
            row["title"],
            row["level"],  # type: ignore[arg-type]
            float(row["angle_deg"]) if row["angle_deg"] else None,
            _place(row),
            tuple(map(int, row["neighbours"].split())),
        )
        for row in packaged.rows("aha17")
    )


def _place(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["x_mm"]), float(row["y_mm"]), float(row["z_mm"])
