"""Where a ventricular beat begins: in which region, or at which point. One answer per record.

In a recipe::

    task: {kind: vt_origin}                                      # which of four: RVOT, LVOT, RV, LV
    task: {kind: vt_origin, labels: aha17}                       # which segment of the left ventricle
    task: {kind: vt_origin, labels: regions.csv, system: origin} # a table of your own: regions, codes, neighbours
    task: {kind: vt_origin, ask: coords}                         # x, y and z in mm, in the reference heart

Folds are the store's, which are drawn by patient. Cut the beats first: ``ecgstore beats``.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

import ecgstore
from ecgstore import Store
from ecgstore.inner import aha_segments, nearest, number, open_table, origin_sites
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Places, Targets, from_statements, one_each

DESCRIPTION = "where a ventricular beat begins: {kind: vt_origin, ask: regions, labels: aha17}, or {ask: coords} in mm"

Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Preset = Literal["four", "outflow", "sites", "aha17", "segments10"]
#: Ten groups of the AHA's segments: four walls at the base and in the middle, the apical ring, the apex.
_TEN = {
    "basal_anterior": (1,),
    "basal_septal": (2, 3),
    "basal_inferior": (4,),
    "basal_lateral": (5, 6),
    "mid_anterior": (7,),
    "mid_septal": (8, 9),
    "mid_inferior": (10,),
    "mid_lateral": (11, 12),
    "apical": (13, 14, 15, 16),
    "apex": (17,),
}
_FOUR = ("RVOT", "LVOT", "RV", "LV")
_AXES = ("x", "y", "z")
#: Nobody's heart is larger than this, and a table of regions is no catalogue.
_FARTHEST_MM, MAX_REGIONS = 1000.0, 1000
_COLUMNS = ("region", "codes", "neighbours", "x_mm", "y_mm", "z_mm")


class Region(ecgstore.Settings):
    """A region of one's own.

    ``codes``: they make a record one of it. ``neighbours``: regions that touch it. ``centroid_mm``: its middle, if
    known.
    """

    codes: Annotated[tuple[str, ...], Field(min_length=1)]
    neighbours: tuple[str, ...] = ()
    centroid_mm: Point | None = None


def _from_table(value: Any) -> Any:
    """The regions of a CSV file; raises ValueError for what is neither that nor the name of regions, nor a mapping."""
    if value is None or isinstance(value, Mapping) or value in typing.get_args(Preset):
        return value
    if not isinstance(value, str) or not value.lower().endswith((".csv", ".tsv")):
        presets = typing.get_args(Preset)
        near = nearest(value, presets) if isinstance(value, str) else None
        raise ValueError(
            f"labels are one of {', '.join(presets)}, or regions of your own: the path of a CSV file, or a mapping"
            f"{f'; did you mean {near}?' if near else ''}"
        )
    table = open_table(Path(value).expanduser())
    there = [name for name in _COLUMNS if name in table.names]
    found: dict[str, Any] = {}
    for line, cells in table.cells(there):
        row = dict(zip(there, cells, strict=True))
        name = row.get("region", "")
        if not name or name in found or len(found) == MAX_REGIONS:
            raise ValueError(
                f"line {line} of {value}: a region needs a name of its own, and there are {MAX_REGIONS} at most"
            )
        place = [row.get(axis, "") for axis in _COLUMNS[3:]]
        mm = [number(text, -_FARTHEST_MM, _FARTHEST_MM) for text in place]
        if any(place) and None in mm:
            raise ValueError(f"line {line} of {value}: x_mm, y_mm and z_mm are three numbers, or none")
        found[name] = {
            "codes": tuple(row.get("codes", "").split()) or (name,),
            "neighbours": tuple(row.get("neighbours", "").split()),
            "centroid_mm": tuple(mm) if any(place) else None,
        }
    return found


class Settings(ecgstore.Settings):
    """``ask``: for the region, or for coordinates in mm.

    ``labels``: regions by name. ``four``: the outflow tracts and the rest of each ventricle; ``outflow``: right or left
    outflow tract, other records take no part; ``sites``: the 25 sites of ``ecgstore simulate --kind vt``; ``aha17``:
    the segments of the left ventricle; ``segments10``: ten groups of them. Or regions of one's own: a CSV file with
    ``region`` and, if they are known, ``codes``, ``neighbours`` (both separated by blanks), ``x_mm``, ``y_mm`` and
    ``z_mm``; or the same as a mapping. ``system``: of the codes of such regions, or of coordinates, whose codes are
    such as ``x=-12``; for coordinates ``vt_reference_mm`` by default, in the reference heart.
    """

    ask: Literal["regions", "coords"] = "regions"
    labels: Annotated[Preset | dict[str, Region] | None, BeforeValidator(_from_table)] = None
    system: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ask == "coords" and self.labels is not None:
            raise ValueError("coordinates have no labels: leave labels out")
        if isinstance(self.labels, str) and self.system is not None:
            raise ValueError(f"the codes of {self.labels} have a system of their own: leave system out")
        if isinstance(self.labels, dict):
            self._check_own(self.labels)
        return self

    def _check_own(self, regions: Mapping[str, Region]) -> None:
        if self.system is None:
            raise ValueError("regions of your own need system: the coding system that their codes are of")
        if len(regions) < 2:
            raise ValueError("regions are at least two")
        codes = [code for region in regions.values() for code in region.codes]
        if len(set(codes)) < len(codes):
            raise ValueError("a code may stand in one region alone")
        for name, region in regions.items():
            for other in region.neighbours:
                if other not in regions:
                    raise ValueError(f"{name} has a neighbour that is no region: {other}")


def targets(store: Store, settings: Settings) -> Targets:
    """Targets for every record of ``store``; raises ProtocolError where no record states an origin."""
    made = _points(store, settings) if settings.ask == "coords" else _regions(store, settings)
    said = "the records are whole recordings, with sinus beats in them; `ecgstore beats` cuts their ectopic beats"
    return made if "beats" in store.attributes else replace(made, caveats=(*made.caveats, said))


def _regions(store: Store, settings: Settings) -> Targets:
    labels = settings.labels or "four"
    titles: dict[str, str] = {}
    if not isinstance(labels, str):
        system, codes_of = str(settings.system), {name: one.codes for name, one in labels.items()}
        middles = {name: one.centroid_mm for name, one in labels.items() if one.centroid_mm is not None}
        places = _places(((name, one.neighbours) for name, one in labels.items()), middles)
    else:
        system, codes_of, titles, places = _preset(labels)
    made = one_each(from_statements(store, "vt_origin", system, codes_of, titles))
    if not len(made.rows_with_label):
        raise ProtocolError(f"no record states just one origin of {system}", where=store.path)
    return replace(made, places=places)


def _preset(labels: str) -> tuple[str, dict[str, tuple[str, ...]], dict[str, str], Places]:
    """System, codes of each region, titles, and where regions lie."""
    if labels in ("aha17", "segments10"):
        groups = {str(one.segment): (one.segment,) for one in aha_segments()} if labels == "aha17" else _TEN
        its = {one.segment: one for one in aha_segments()}
        titles = {name: its[of[0]].title if len(of) == 1 else name.replace("_", " ") for name, of in groups.items()}
        codes_of = {name: tuple(map(str, of)) for name, of in groups.items()}
        parts = {str(one.segment): (tuple(map(str, one.neighbours)), one.centroid_mm) for one in aha_segments()}
        return "aha17", codes_of, titles, _grouped(codes_of, parts)
    sites = origin_sites()
    parts = {one.site: (one.neighbours, one.centroid_mm) for one in sites}
    if labels == "sites":
        codes_of = {one.site: (one.site,) for one in sites}
        return "vt_site", codes_of, {one.site: one.title for one in sites}, _grouped(codes_of, parts)
    wanted = _FOUR[:2] if labels == "outflow" else _FOUR
    sites_of = {name: tuple(one.site for one in sites if one.region == name) for name in wanted}
    return "vt_region", {name: (name,) for name in wanted}, {}, _grouped(sites_of, parts)


def _grouped(
    parts_of: Mapping[str, tuple[str, ...]], parts: Mapping[str, tuple[tuple[str, ...], tuple[float, float, float]]]
) -> Places:
    """Where regions lie that consist of parts: they touch if parts of them do; the middle is that of their parts'."""
    region_of = {part: name for name, of in parts_of.items() for part in of}
    touching = (
        (name, {region_of[near] for part in of for near in parts[part][0] if near in region_of} - {name})
        for name, of in parts_of.items()
    )
    middles = {name: np.mean([parts[part][1] for part in of], axis=0) for name, of in parts_of.items()}
    return _places(touching, {name: (float(at[0]), float(at[1]), float(at[2])) for name, at in middles.items()})


def _places(touching: Iterable[tuple[str, Iterable[str]]], middles: Mapping[str, tuple[float, float, float]]) -> Places:
    """Who touches is touched, whoever of both says so."""
    near: dict[str, set[str]] = {}
    for name, others in touching:
        for other in others:
            near.setdefault(name, set()).add(other)
            near.setdefault(other, set()).add(name)
    return Places({name: frozenset(its) for name, its in near.items()}, middles)


def _points(store: Store, settings: Settings) -> Targets:
    """Coordinates of every record, from codes such as x=-12."""
    system = settings.system or "vt_reference_mm"
    table = store.statements
    its = table.filter(pc.equal(table["system"], system))
    mm_nc = np.full((store.n_records, 3), np.nan)
    for row, code in zip(its["row"].to_pylist(), its["code"].to_pylist(), strict=True):
        axis, _, text = code.partition("=")
        mm = number(text, -_FARTHEST_MM, _FARTHEST_MM)
        if axis in _AXES and mm is not None:
            mm_nc[row, _AXES.index(axis)] = mm
    known_n = np.isfinite(mm_nc).all(axis=1)
    if not known_n.any():
        systems = ", ".join(sorted(store.attributes["vocabulary"])) or "no system"
        raise ProtocolError(
            f"no record states a place in {system}",
            where=store.path,
            expected="three codes such as x=-12, y=30 and z=4, in mm",
            got=f"codes of {systems}",
        )
    mm_nc[~known_n] = np.nan
    return Targets(
        task="vt_origin",
        classes=_AXES,
        y_nc=mm_nc,
        rows_with_label=np.flatnonzero(known_n),
        titles={"x": "towards the lateral wall", "y": "towards the anterior wall", "z": "from base to apex"},
        kind="regression",
        unit="mm",
        places=Places(is_point=True, in_reference_heart=system == "vt_reference_mm"),
    )
