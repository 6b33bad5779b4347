"""Two ventricles as thin walls of points, and how fast a beat that begins anywhere spreads through them.

The left ventricle is half a prolate spheroid of three layers, the right one a crescent of two that is attached to the
septum, with a tapering tube as its outflow tract. Activation is the solution of the eikonal equation |∇T| = 1/speed,
as the shortest path between points that are near each other (Dijkstra 1959; for the heart Wallman et al., IEEE Trans
Biomed Eng 59:1739, 2012). Speed is the same in all directions: there are no fibres.

Heart frame, in mm: the origin is the centre of the mitral ring, x points to the lateral wall, y to the anterior
wall, z from base to apex. It is right-handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import need

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Middle of the left wall: radius at the base, length from base to apex; thickness of the wall.
LV_RADIUS_MM, LV_LENGTH_MM, LV_WALL_MM = 27.0, 75.0, 9.0
#: Right ventricle: how far its wall bulges from the septum, its length, thickness, and its gap to the septum's layer.
RV_BULGE_MM, RV_LENGTH_MM, RV_WALL_MM, RV_GAP_MM = 31.0, 70.0, 4.0, 3.0
#: Angles about the long axis, from lateral towards anterior, between which the right ventricle is attached.
SEPTUM_DEG = (120.0, 240.0)
#: Outflow tract of the right ventricle: where its axis begins, its direction, length, radii at both ends.
RVOT_START_MM, RVOT_DIRECTION = np.array([-28.0, 31.0, 8.0]), np.array([0.32, 0.76, -0.55])
RVOT_LENGTH_MM, RVOT_RADII_MM = 34.0, (13.0, 11.0)
#: Outflow tract of the left ventricle: its base, between these angles.
LVOT_DEPTH_MM, LVOT_DEG = 10.0, (75.0, 160.0)
#: Distance of neighbouring points, and of points that hand the wave to each other: 30 to 40 ways out of each point.
SPACING_MM, REACH_MM = 4.5, 9.5

#: Walls and layers as numbers.
LV, RV, RVOT = 0, 1, 2
ENDO, MID, EPI = 0, 1, 2
_AHA_RING = ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
_AHA_APICAL = ("anterior", "septal", "inferior", "lateral")


@dataclass(frozen=True, slots=True, eq=False)
class Ventricles:
    """The points of both ventricles in the heart frame, and which of them are neighbours.

    ``xyz_mm`` (points, 3); ``area_mm2`` (points, 3) is the piece of surface of each point as a vector out of the
    muscle, zero inside the wall; ``wall``, ``layer`` as numbers; ``is_endocardium`` also on the right side of the
    septum; ``site`` one of :func:`ecgstore.vocabularies.origin_sites.origin_sites`, ``aha17`` 0 outside the left
    ventricle. ``neighbours`` and ``first`` are a sparse matrix by rows: those of point i stand from ``first[i]`` on.
    """

    xyz_mm: Floats
    area_mm2: Floats
    wall: Ints
    layer: Ints
    is_endocardium: Bools
    site: npt.NDArray[np.str_]
    aha17: Ints
    rows: Ints
    neighbours: Ints
    lengths_mm: Floats
    first: Ints

    @property
    def n_points(self) -> int:
        """How many points there are."""
        return len(self.xyz_mm)


def scaled(heart: Ventricles, scale: Floats) -> Ventricles:
    """The same heart, ``scale`` (3,) times as large along the axes of its frame; neighbours stay neighbours."""
    # Areas are cross products, so they grow with the other two axes.
    xyz_mm = heart.xyz_mm * scale
    return replace(
        heart,
        xyz_mm=xyz_mm,
        area_mm2=heart.area_mm2 * (np.prod(scale) / scale),
        lengths_mm=_lengths_mm(xyz_mm, heart.rows, heart.neighbours),
    )


def _lengths_mm(xyz_mm: Floats, rows: Ints, neighbours: Ints) -> Floats:
    step_mm = xyz_mm[rows] - xyz_mm[neighbours]
    length: Floats = np.sqrt(np.einsum("pk,pk->p", step_mm, step_mm))
    return length


# ── Activation ───────────────────────────────────────────────────────────────────────────────────────────


class Speeds(NamedTuple):
    """Speeds of conduction in m/s: in the muscle, and along the endocardium.

    Along the endocardium of the base, less than ``bare_mm`` from it, the wave is as slow as in the muscle: the
    network of Purkinje ends before it.
    """

    muscle: float
    endocardium: float
    bare_mm: float = 0.0


def activation_s(
    heart: Ventricles, speeds: Speeds, origins: Sequence[int], delays_s: Sequence[float], blocked: Bools | None = None
) -> Floats:
    """When each point is reached, in s, by waves that begin at ``origins`` after ``delays_s``; inf where never.

    ``blocked`` points (scar) are never reached and let nothing through.
    """
    time_s = np.full(heart.n_points, np.inf)
    graph = _graph_s(heart, speeds, blocked)
    dijkstra = need("scipy.sparse.csgraph", "ingest").dijkstra
    for origin, delay_s in zip(origins, delays_s, strict=True):
        if blocked is None or not blocked[origin]:
            np.minimum(time_s, delay_s + dijkstra(graph, indices=origin), out=time_s)
    return time_s


def distances_mm(heart: Ventricles, origin: int, blocked: Bools | None = None) -> Floats:
    """Shortest ways in mm through the muscle from ``origin`` to all points: (points,)."""
    found: Floats = need("scipy.sparse.csgraph", "ingest").dijkstra(
        _graph_s(heart, Speeds(1e-3, 1e-3), blocked), indices=origin
    )
    return found


def _graph_s(heart: Ventricles, speeds: Speeds, blocked: Bools | None) -> Any:
    """Seconds from each point to its neighbours as a sparse matrix."""
    rows, columns = heart.rows, heart.neighbours
    is_fast = heart.is_endocardium & (heart.xyz_mm[:, 2] >= speeds.bare_mm)
    speed = np.where(is_fast[rows] & is_fast[columns], speeds.endocardium, speeds.muscle)
    seconds = heart.lengths_mm / (1000 * speed)
    if blocked is not None:
        seconds[blocked[rows] | blocked[columns]] = np.inf
    shape = (heart.n_points, heart.n_points)
    return need("scipy.sparse", "ingest").csr_array((seconds, columns, heart.first), shape=shape)


def nearest_point(heart: Ventricles, xyz_mm: Floats, among: Bools) -> int:
    """The point nearest to a place, of those ``among`` which it is sought."""
    candidates = np.flatnonzero(among)
    return int(candidates[np.argmin(np.linalg.norm(heart.xyz_mm[candidates] - xyz_mm, axis=1))])


# ── Geometry ─────────────────────────────────────────────────────────────────────────────────────────────

#: Two parameters and the distance from the middle of the wall to places: (points, 3).
Position = Callable[[Floats, Floats, float], Floats]


class _Points(NamedTuple):
    xyz_mm: Floats
    area_mm2: Floats
    wall: Ints
    layer: Ints
    #: The middle of the wall at each point.
    middle_mm: Floats

    def only(self, kept: Bools) -> _Points:
        return _Points(self.xyz_mm[kept], self.area_mm2[kept], self.wall[kept], self.layer[kept], self.middle_mm[kept])


def _together(parts: Sequence[_Points]) -> _Points:
    xyz_mm, area_mm2, middle_mm = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("xyz_mm", "area_mm2", "middle_mm")
    )
    wall, layer = (np.concatenate([getattr(part, name) for part in parts]) for name in ("wall", "layer"))
    return _Points(xyz_mm, area_mm2, wall, layer, middle_mm)


@cache
def reference_heart() -> Ventricles:
    """The heart of which all others are stretched copies; a few thousand points, the same on every call."""
    parts = [_left(), _right(), _outflow()]
    points = _together(parts)
    kept = _is_outside_others(points)
    points = points.only(kept)
    pairs = need("scipy.spatial", "ingest").cKDTree(points.xyz_mm).query_pairs(REACH_MM, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    first = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=len(points.xyz_mm)))])
    rows, neighbours = both.astype(np.int32).T.copy()
    site, aha17 = _sites(points)
    return Ventricles(
        xyz_mm=points.xyz_mm,
        area_mm2=points.area_mm2,
        wall=points.wall,
        layer=points.layer,
        is_endocardium=(points.layer == ENDO) | _is_right_septum(points),
        site=site,
        aha17=aha17,
        rows=rows,
        neighbours=neighbours,
        lengths_mm=_lengths_mm(points.xyz_mm, rows, neighbours),
        first=first.astype(np.int32),
    )


def angle_deg(xyz_mm: Floats) -> Floats:
    """Angle about the long axis from 0 to 360: 0 lateral, 90 anterior, 180 septal, 270 inferior."""
    angle: Floats = np.rad2deg(np.arctan2(xyz_mm[..., 1], xyz_mm[..., 0])) % 360
    return angle


def _left() -> _Points:
    def position(u: Floats, v: Floats, offset_mm: float) -> Floats:
        radius, length = LV_RADIUS_MM + offset_mm, LV_LENGTH_MM + offset_mm
        return np.stack([radius * np.cos(u) * np.sin(v), radius * np.sin(u) * np.sin(v), length * np.cos(v)], axis=-1)

    # Steps of equal length along a meridian, from the base to just before the apex.
    fine = np.linspace(np.pi / 2, 0, 2001)
    along_mm = np.concatenate(
        [[0], np.cumsum(np.hypot(*(np.diff(position(0 * fine, fine, 0.0)[:, [0, 2]], axis=0).T)))]
    )
    rows: list[tuple[float, float, Floats, float]] = []
    edges = np.interp(np.linspace(0, along_mm[-1], round(along_mm[-1] / SPACING_MM) + 1), along_mm, fine)
    for above, below in pairwise(edges):
        v = (above + below) / 2
        n = max(4, round(2 * np.pi * LV_RADIUS_MM * np.sin(v) / SPACING_MM))
        rows.append((v, above - below, 2 * np.pi * (np.arange(n) + 0.5 * (len(rows) % 2)) / n, 2 * np.pi / n))
    return _wall(LV, position, rows, {ENDO: -LV_WALL_MM / 2, MID: 0.0, EPI: LV_WALL_MM / 2})


def _right() -> _Points:
    low, high = np.deg2rad(SEPTUM_DEG)

    def position(u: Floats, v: Floats, offset_mm: float) -> Floats:
        angle, level = low + (high - low) * u, np.clip(v / RV_LENGTH_MM, 0, 1)
        outer_mm = LV_LENGTH_MM + LV_WALL_MM / 2
        septum_mm = (LV_RADIUS_MM + LV_WALL_MM / 2) * np.sqrt(1 - np.minimum(v / outer_mm, 1) ** 2)
        bulge_mm = RV_BULGE_MM * np.sqrt(1 - level**2) * np.sin(np.pi * u)
        radius = septum_mm + RV_GAP_MM + bulge_mm + offset_mm
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), v], axis=-1)

    rows = []
    n_rows = round(RV_LENGTH_MM / SPACING_MM)
    fine = np.linspace(0, 1, 401)
    for row in range(n_rows):
        v = RV_LENGTH_MM * (row + 0.5) / n_rows
        length_mm = np.linalg.norm(np.diff(position(fine, np.full(401, v), 0.0), axis=0), axis=1).sum()
        n = round(length_mm / SPACING_MM)
        rows.append((v, RV_LENGTH_MM / n_rows, (np.arange(n) + 0.5) / n, 1 / n))
    return _wall(RV, position, rows, {ENDO: -RV_WALL_MM / 2, EPI: RV_WALL_MM / 2})


def _outflow() -> _Points:
    along = RVOT_DIRECTION / np.linalg.norm(RVOT_DIRECTION)
    one = np.cross(along, [0.0, 0.0, 1.0])
    one /= np.linalg.norm(one)
    other = np.cross(along, one)

    def position(u: Floats, v: Floats, offset_mm: float) -> Floats:
        radius = np.interp(v, (0, RVOT_LENGTH_MM), RVOT_RADII_MM) + offset_mm
        ring = np.cos(u)[..., None] * one + np.sin(u)[..., None] * other
        place: Floats = RVOT_START_MM + v[..., None] * along + radius[..., None] * ring
        return place

    rows = []
    n_rows = round(RVOT_LENGTH_MM / SPACING_MM)
    for row in range(n_rows):
        v = RVOT_LENGTH_MM * (row + 0.5) / n_rows
        n = round(2 * np.pi * float(np.interp(v, (0, RVOT_LENGTH_MM), RVOT_RADII_MM)) / SPACING_MM)
        rows.append((v, RVOT_LENGTH_MM / n_rows, 2 * np.pi * (np.arange(n) + 0.5 * (row % 2)) / n, 2 * np.pi / n))
    return _wall(RVOT, position, rows, {ENDO: -RV_WALL_MM / 2, EPI: RV_WALL_MM / 2})


def _wall(
    wall: int, position: Position, rows: list[tuple[float, float, Floats, float]], layers: dict[int, float]
) -> _Points:
    """Points of a wall, row by row and layer by layer: ``rows`` of (v, its step, all u, their step)."""
    parts = []
    for v_one, v_step, u, u_step in rows:
        v = np.full(len(u), v_one)
        middle = position(u, v, 0.0)
        for layer, offset_mm in layers.items():
            xyz_mm = position(u, v, offset_mm)
            area_mm2 = _surface(position, u, v, offset_mm) * (u_step * v_step)
            # Out of the muscle: the way from its middle, for a layer inside it none.
            outside = np.sign(np.sum(area_mm2 * (xyz_mm - middle), axis=1, keepdims=True))
            n = len(u)
            parts.append(_Points(xyz_mm, area_mm2 * outside, np.full(n, wall), np.full(n, layer), middle))
    return _together(parts)


def _surface(position: Position, u: Floats, v: Floats, offset_mm: float) -> Floats:
    """Cross product of the derivatives by both parameters: the surface per step of each."""
    step = 1e-5
    by_u = (position(u + step, v, offset_mm) - position(u - step, v, offset_mm)) / (2 * step)
    by_v = (position(u, v + step, offset_mm) - position(u, v - step, offset_mm)) / (2 * step)
    return np.cross(by_u, by_v)


def _is_outside_others(points: _Points) -> Bools:
    """Leave out what of the outflow tract is in the left wall, and what of the right wall is in the outflow tract."""
    along = RVOT_DIRECTION / np.linalg.norm(RVOT_DIRECTION)
    at_mm = (points.xyz_mm - RVOT_START_MM) @ along
    off_axis_mm = np.linalg.norm(points.xyz_mm - RVOT_START_MM - at_mm[:, None] * along, axis=1)
    in_tube = (points.wall == RV) & (off_axis_mm < RVOT_RADII_MM[0] - RV_WALL_MM / 2) & (at_mm > 0)
    beside = np.linalg.norm(points.xyz_mm[:, :2], axis=1) / (LV_RADIUS_MM + LV_WALL_MM / 2 + 1)
    level = points.xyz_mm[:, 2] / (LV_LENGTH_MM + LV_WALL_MM / 2)
    in_left = (points.wall == RVOT) & (beside**2 + level**2 < 1) & (level > -0.05)
    outside: Bools = ~(in_tube | in_left)
    return outside


def _is_right_septum(points: _Points) -> Bools:
    """The outer layer of the left ventricle where the right one covers it."""
    angle = angle_deg(points.xyz_mm)
    covered = (angle > SEPTUM_DEG[0]) & (angle < SEPTUM_DEG[1]) & (points.xyz_mm[:, 2] < RV_LENGTH_MM)
    is_right: Bools = (points.wall == LV) & (points.layer == EPI) & covered
    return is_right


# ── Names ────────────────────────────────────────────────────────────────────────────────────────────────


def _sites(points: _Points) -> tuple[npt.NDArray[np.str_], Ints]:
    """Site and AHA segment of each point; see docs/simulate-vt.md for the borders."""
    named = list(_named(points))
    return np.array([site for site, _ in named]), np.array([segment for _, segment in named])


def _named(points: _Points) -> Iterator[tuple[str, int]]:
    # Many points lie on a border exactly, and on which side of it rounding puts them hangs on the processor.
    angles = np.round(angle_deg(points.middle_mm), 6) % 360
    along = RVOT_DIRECTION / np.linalg.norm(RVOT_DIRECTION)
    for at, (wall, angle) in enumerate(zip(points.wall, angles, strict=True)):
        middle_mm = points.middle_mm[at]
        if wall == LV:
            segment = aha_segment(float(angle), float(middle_mm[2] / LV_LENGTH_MM))
            outflow = middle_mm[2] < LVOT_DEPTH_MM and LVOT_DEG[0] < angle < LVOT_DEG[1]
            is_summit = points.layer[at] == EPI and angle < SEPTUM_DEG[0]
            yield (("LVOT_summit" if is_summit else "LVOT_septal") if outflow else aha_name(segment)), segment
        elif wall == RVOT:
            axis_mm = RVOT_START_MM + ((middle_mm - RVOT_START_MM) @ along) * along
            # The side that looks to the aorta, which stands at the septal edge of the mitral ring.
            is_septal = (middle_mm - axis_mm) @ (np.array([-6.0, 12.0, -5.0]) - axis_mm) > 0
            yield ("RVOT_septal" if is_septal else "RVOT_free"), 0
        elif middle_mm[2] > 0.68 * RV_LENGTH_MM:
            yield "RV_apical", 0
        elif angle > 205:
            yield "RV_inferior", 0
        elif middle_mm[2] < 0.34 * RV_LENGTH_MM:
            yield "RV_basal", 0
        else:
            yield "RV_mid", 0


def aha_segment(angle: float, level: float) -> int:
    """Segment 1 to 17 of the American Heart Association (Cerqueira et al. 2002, doi:10.1161/hc0402.102975).

    ``angle`` in degrees as of :func:`angle_deg`; ``level`` from 0 at the base to 1 at the apex.
    """
    if level > 0.93:
        return 17
    if level > 2 / 3:
        return 13 + int((angle - 45) % 360 // 90)
    return (1 if level <= 1 / 3 else 7) + int((angle - 60) % 360 // 60)


def aha_name(segment: int) -> str:
    """The site of a segment outside the outflow tract, such as ``LV_mid_inferior``."""
    if segment == 17:
        return "LV_apex"
    if segment > 12:
        return f"LV_apical_{_AHA_APICAL[segment - 13]}"
    return f"LV_{'basal' if segment < 7 else 'mid'}_{_AHA_RING[(segment - 1) % 6]}"
