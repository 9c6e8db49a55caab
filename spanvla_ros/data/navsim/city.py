"""The map of a city as NAVSIM uses it: lanes, connectors, the roadblocks they are in, intersections and car parks.

Layers and columns are those of nuPlan's maps (nuplan-maps-v1.0/<city>/<version>/map.gpkg). The orders of lanes and neighbours
are those of the layers, because the official searches break ties by them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim.geopackage import GeoPackage, Row
from spanvla_ros.evaluation.pdm.scene import Area
from spanvla_ros.geometry import wrap

VERSION = "nuplan-maps-v1.0"
_ALIASES = {"las_vegas": "us-nv-las-vegas-strip"}  # as some logs call it
_AREAS = (("INTERSECTION", "intersections"), ("CARPARK_AREA", "carpark_areas"))


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A lane or lane connector. baseline (N, 3): x, y and the heading towards the next vertex; block: its roadblock (connector)."""

    name: str
    connector: bool
    block: str
    polygon: shapely.Polygon
    baseline: np.ndarray
    outgoing: tuple[str, ...]
    speed_limit_mps: float | None = None
    controlled: bool = False  # by a traffic light

    @property
    def length_m(self) -> float:
        return float(np.hypot(*np.diff(self.baseline[:, :2], axis=0).T).sum())

    @property
    def area(self) -> Area:
        layer = "LANE_CONNECTOR" if self.connector else "LANE"
        return Area(name=self.name, layer=layer, polygon=self.polygon, speed_limit_mps=self.speed_limit_mps, baseline=self.baseline[:, :2])

    def nearest(self, pose: np.ndarray) -> tuple[float, float]:
        """Distance [m] of a pose (3,) to the nearest vertex of the baseline, and the heading error [rad, >= 0] there."""
        distance = np.hypot(*(self.baseline[:, :2] - pose[:2]).T)
        k = int(np.argmin(distance))
        return float(distance[k]), float(np.abs(wrap(self.baseline[k, 2] - pose[2])))


@dataclass(frozen=True, kw_only=True)
class Block:
    """A roadblock (all lanes of one direction) or, in intersections, a roadblock connector."""

    name: str
    connector: bool
    polygon: shapely.Polygon
    lanes: tuple[str, ...]
    incoming: tuple[str, ...]
    outgoing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class City:
    """lanes and blocks by name, roadblocks before connectors; grounds: intersections, then car parks."""

    name: str
    lanes: Mapping[str, Lane]
    blocks: Mapping[str, Block]
    grounds: tuple[Area, ...]

    def near(self, x: float, y: float, radius_m: float) -> list[Block]:
        """Blocks that meet the square of half-size `radius_m` around a point, roadblocks first."""
        blocks = tuple(self.blocks.values())
        square = shapely.box(x - radius_m, y - radius_m, x + radius_m, y + radius_m)
        return [blocks[k] for k in sorted(self._block_tree.query(square, predicate="intersects"))]

    def closest(self, x: float, y: float) -> list[Block]:
        """The roadblock and the connector that are closest to a point."""
        point = shapely.Point(x, y)
        kinds = [[block for block in self.blocks.values() if block.connector == connector] for connector in (False, True)]
        return [blocks[int(np.argmin(shapely.distance([block.polygon for block in blocks], point)))] for blocks in kinds if blocks]

    def areas(self, x: float, y: float, radius_m: float = 100.0) -> tuple[Area, ...]:
        """What the PDM score takes as the map around the ego's centre (navsim.md section 3.1), in the official order."""
        blocks = self.near(x, y, radius_m)
        square = shapely.box(x - radius_m, y - radius_m, x + radius_m, y + radius_m)
        return (
            *(Area(name=block.name, layer="ROADBLOCK", polygon=block.polygon) for block in blocks if not block.connector),
            *(self.lanes[name].area for block in blocks for name in block.lanes),
            *(self.grounds[k] for k in sorted(self._ground_tree.query(square, predicate="intersects"))),
        )

    @functools.cached_property
    def _block_tree(self) -> shapely.STRtree:
        return shapely.STRtree([block.polygon for block in self.blocks.values()])

    @functools.cached_property
    def _ground_tree(self) -> shapely.STRtree:
        return shapely.STRtree([ground.polygon for ground in self.grounds])


def baseline(points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """(N, 3) of a polyline (N, 2): each vertex heads for the next, the last as the one before."""
    xy = np.asarray(points, dtype=float)[:, :2]
    delta = np.diff(xy, axis=0)
    heading = np.arctan2(delta[:, 1], delta[:, 0])
    return np.column_stack([xy, np.append(heading, heading[-1:])])


def map_path(maps: Path, city: str) -> Path:
    """The map file of a city below the folder `maps` ($NUPLAN_MAPS_ROOT). DataError where it isn't listed."""
    index = maps / f"{VERSION}.json"
    try:
        versions = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{index} can't be read: {error}; --maps is the folder that nuPlan's maps were unpacked to") from None
    if city not in versions:
        raise DataError(f"map '{city}' is not in {index}; there are {', '.join(versions)}")
    return maps / city / str(versions[city]["version"]) / "map.gpkg"


def read_city(maps: Path, city: str) -> City:
    """The map of a city from its GeoPackage. DataError for what is missing or damaged."""
    name = _ALIASES.get(city, city)
    with GeoPackage(map_path(maps, name)) as package:
        return _assemble(name, {layer: package.rows(layer) for layer in _LAYERS})


_LAYERS = (
    "lanes_polygons",
    "lane_connectors",
    "gen_lane_connectors_scaled_width_polygons",
    "baseline_paths",
    "lane_groups_polygons",
    "lane_group_connectors",
    *(layer for _, layer in _AREAS),
)


def _assemble(city: str, layers: Mapping[str, list[Row]]) -> City:
    lines = {kind: {row.key(f"{kind}_fid"): row.geometry for row in layers["baseline_paths"]} for kind in ("lane", "lane_connector")}
    shapes = {row.key("lane_connector_fid"): row.geometry for row in layers["gen_lane_connectors_scaled_width_polygons"]}
    after: dict[str | None, list[str]] = {}
    for row in layers["lane_connectors"]:
        after.setdefault(row.key("exit_lane_fid"), []).append(row.fid)
    lanes: dict[str, Lane] = {}
    for row in layers["lanes_polygons"]:
        lanes[row.fid] = _lane(city, row, False, "lane_group_fid", lines["lane"], row.geometry, tuple(after.get(row.fid, ())))
    for row in layers["lane_connectors"]:
        if row.fid not in shapes:
            raise DataError(f"map {city}: lane connector {row.fid} has no polygon")
        onward = row.key("entry_lane_fid")
        outgoing = (onward,) if onward in lanes else ()
        lanes[row.fid] = _lane(city, row, True, "lane_group_connector_fid", lines["lane_connector"], shapes[row.fid], outgoing)
    return City(
        name=city,
        lanes=lanes,
        blocks=_blocks(layers, lanes),
        grounds=tuple(Area(name=row.fid, layer=kind, polygon=valid(row.geometry)) for kind, layer in _AREAS for row in layers[layer]),
    )


def _lane(city: str, row: Row, connector: bool, group: str, lines: Mapping[Any, Any], shape: shapely.Geometry, outgoing: tuple[str, ...]) -> Lane:
    line = lines.get(row.fid)
    if line is None or line.length == 0 or not np.isfinite(shapely.get_coordinates(line)).all():
        raise DataError(f"map {city}: {'lane connector' if connector else 'lane'} {row.fid} has no baseline of some length")
    limit = row.columns.get("speed_limit_mps")
    return Lane(
        name=row.fid,
        connector=connector,
        block=row.key(group) or "",
        polygon=valid(shape),
        baseline=baseline(shapely.get_coordinates(line)),
        outgoing=outgoing,
        speed_limit_mps=float(limit) if limit is not None and np.isfinite(limit) else None,
        controlled=connector and bool(row.columns.get("traffic_light_stop_line_fids")),
    )


def _blocks(layers: Mapping[str, list[Row]], lanes: Mapping[str, Lane]) -> dict[str, Block]:
    inside: dict[tuple[bool, str], list[str]] = {}
    for lane in lanes.values():
        inside.setdefault((lane.connector, lane.block), []).append(lane.name)
    ends = [(row, row.key("from_lane_group_fid") or "", row.key("to_lane_group_fid") or "") for row in layers["lane_group_connectors"]]
    found = {
        row.fid: Block(
            name=row.fid,
            connector=False,
            polygon=valid(row.geometry),
            lanes=tuple(inside.get((False, row.fid), ())),
            incoming=tuple(link.fid for link, _, end in ends if end == row.fid),
            outgoing=tuple(link.fid for link, start, _ in ends if start == row.fid),
        )
        for row in layers["lane_groups_polygons"]
    }
    for row, start, end in ends:
        if not {start, end} <= found.keys():
            continue  # it leads off the map
        names = tuple(inside.get((True, row.fid), ()))
        found[row.fid] = Block(name=row.fid, connector=True, polygon=valid(row.geometry), lanes=names, incoming=(start,), outgoing=(end,))
    return found


def valid(shape: shapely.Geometry) -> shapely.Polygon:
    """The same area as a valid polygon; several parts stay together under one name."""
    made = shape if shape.is_valid else shapely.make_valid(shape)
    parts = [part for part in shapely.get_parts(made) if part.geom_type in ("Polygon", "MultiPolygon")] if made.geom_type != "Polygon" else [made]
    if not parts:
        raise DataError(f"a polygon of the map has no area: {shape.wkt[:80]}")
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)
