"""Map and route as the PDM score sees them: named areas, the centre line and the lanes on it; made once, kept with the samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.evaluation.pdm.scene import Area
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route

# a lane and its junction, or the two directions of a road, meet with gaps and slivers of some centimetres
_SEAM_M = 0.15
_ORDER = ("ROADBLOCK", "LANE", "LANE_CONNECTOR", "INTERSECTION")
_SPACING_M = 1.0
_BEHIND_M, _AHEAD_M = 30.0, 150.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All areas of a map in NAVSIM's order; edges: name of a lane or connector -> its edge (roadblock); controlled: connectors with a lamp."""

    map_id: str
    areas: tuple[Area, ...]
    edges: Mapping[str, str]
    controlled: frozenset[str]

    @functools.cached_property
    def _tree(self) -> shapely.STRtree:
        shapely.prepare([area.polygon for area in self.areas])
        return shapely.STRtree([area.polygon for area in self.areas])

    def near(self, x: float, y: float, radius_m: float) -> tuple[Area, ...]:
        """Areas that meet the square of half-size `radius_m` around a point."""
        square = shapely.box(x - radius_m, y - radius_m, x + radius_m, y + radius_m)
        return tuple(self.areas[i] for i in sorted(self._tree.query(square, predicate="intersects")))

    def document(self, digits: int | None = 3) -> dict[str, Any]:
        """JSON form: polygons as rings (outer first), rounded to millimetres and baselines to centimetres; digits None: not rounded."""
        return {
            "map": self.map_id,
            "areas": [
                {
                    "name": area.name,
                    "layer": area.layer,
                    "polygons": [[_ring(r, digits) for r in (p.exterior, *p.interiors)] for p in shapely.get_parts(area.polygon)],
                    **_middle(area, digits),
                }
                for area in self.areas
            ],
            "edges": dict(self.edges),
            "controlled": sorted(self.controlled),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Chart:
        """Inverse of `document`. DataError where a key is missing."""
        try:
            return cls(
                map_id=document["map"],
                areas=tuple(
                    Area(
                        name=entry["name"],
                        layer=entry["layer"],
                        polygon=_whole(shapely.MultiPolygon([(rings[0], rings[1:]) for rings in entry["polygons"]])),
                        baseline=np.array(entry["baseline"]) if "baseline" in entry else None,
                        speed_limit_mps=entry.get("limit_mps"),
                    )
                    for entry in document["areas"]
                ),
                edges=document["edges"],
                controlled=frozenset(document["controlled"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"map document '{document.get('map', '?')}' lacks {error}") from None


@dataclass(frozen=True, kw_only=True)
class Guide:
    """The route: line (N, 3) of x, y, yaw every metre, and the lanes and connectors under it as (start [m], end [m], name)."""

    line: np.ndarray
    spans: tuple[tuple[float, float, str], ...]

    def around(self, x: float, y: float) -> tuple[np.ndarray, frozenset[str]]:
        """The stretch (M, 3) from 30 m behind to 150 m ahead of a point, and the names under it.

        A route may cross itself further on; there, progress along the whole line would jump.
        """
        nearest = int(np.argmin((self.line[:, 0] - x) ** 2 + (self.line[:, 1] - y) ** 2))
        low, high = max(0, nearest - round(_BEHIND_M / _SPACING_M)), nearest + round(_AHEAD_M / _SPACING_M)
        start, end = low * _SPACING_M, high * _SPACING_M
        return self.line[low : high + 1], frozenset(name for first, last, name in self.spans if first < end and last > start)

    def document(self) -> dict[str, Any]:
        return {"line": np.round(self.line, 3).tolist(), "spans": [[round(a, 2), round(b, 2), name] for a, b, name in self.spans]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Guide:
        return cls(line=np.array(document["line"]), spans=tuple((a, b, name) for a, b, name in document["spans"]))


def chart(road: RoadMap) -> Chart:
    """The chart of a map, made once per process."""
    if road.map_id not in _charts:
        _charts.clear()
        _charts[road.map_id] = _chart(road)
    return _charts[road.map_id]


_charts: dict[str, Chart] = {}


def guide(route: Route) -> Guide:
    """The guide of a route."""
    path = route.path
    at = np.arange(0.0, path.length_m, _SPACING_M)
    return Guide(line=path.pose(at), spans=tuple((span.start_s, span.end_s, span.lane) for span in path.spans))


def _chart(road: RoadMap) -> Chart:
    blocks: dict[str, list[shapely.Polygon]] = {}
    areas = []
    for lane in road.lanes.values():
        if lane.junction is None:
            blocks.setdefault(lane.edge, []).append(lane.polygon)
        areas.append(
            Area(
                name=lane.name,
                layer="LANE" if lane.junction is None else "LANE_CONNECTOR",
                polygon=_valid(lane.polygon),
                speed_limit_mps=lane.speed_mps,
                baseline=np.asarray(lane.baseline)[:, :2],
            )
        )
    for edge, lanes in blocks.items():
        areas.append(Area(name=edge, layer="ROADBLOCK", polygon=_widened(lanes)))
    areas += [Area(name=name, layer="INTERSECTION", polygon=_widened([polygon])) for name, polygon in road.junctions.items()]
    return Chart(
        map_id=road.map_id,
        areas=tuple(sorted((a for a in areas if not a.polygon.is_empty), key=lambda area: _ORDER.index(area.layer))),
        edges={lane.name: lane.edge for lane in road.lanes.values()},
        controlled=frozenset(lane.name for lane in road.lanes.values() if lane.signal is not None),
    )


def _widened(parts: list[shapely.Polygon]) -> shapely.Polygon:
    return _valid(shapely.union_all([part.buffer(_SEAM_M, join_style="mitre") for part in parts]))


def _valid(polygon: shapely.Polygon) -> shapely.Polygon:
    """The same area as a valid (multi)polygon without lines and points."""
    made = polygon if polygon.is_valid else shapely.make_valid(polygon)
    parts = [part for part in shapely.get_parts(made) if part.geom_type == "Polygon"] if made.geom_type != "Polygon" else [made]
    return _whole(shapely.MultiPolygon([p for p in shapely.get_parts(shapely.union_all(parts)) if p.geom_type == "Polygon"]))


def _whole(shape: shapely.MultiPolygon) -> shapely.Polygon:
    """The polygon of a multipolygon of one; several stay together under one name."""
    shape = shape if shape.is_valid else shape.buffer(0)
    parts = shapely.get_parts(shape)
    return parts[0] if len(parts) == 1 else shape


def _ring(ring: shapely.LinearRing, digits: int | None) -> list[list[float]]:
    return _rounded(shapely.get_coordinates(ring)[:-1], digits)


def _middle(area: Area, digits: int | None) -> dict[str, Any]:
    if area.baseline is None:
        return {}
    return {"baseline": _rounded(area.baseline, None if digits is None else digits - 1), "limit_mps": area.speed_limit_mps}


def _rounded(values: np.ndarray, digits: int | None) -> list[list[float]]:
    return (values if digits is None else np.round(values, digits)).tolist()
