"""What stands and lies around in a map: ground, paint, signals, signs, houses and trees, the same for every episode on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Point, Polygon

from spanvla_ros.sim.ego import box
from spanvla_ros.sim.pictures import assets
from spanvla_ros.sim.pictures.mesh import ASPHALT, GRASS, PAVEMENT, WHITE, YELLOW, Mesh
from spanvla_ros.sim.roads.lanes import Lane
from spanvla_ros.sim.roads.markings import entry_control
from spanvla_ros.sim.roads.road import RoadMap

TILE_M = 40.0
KERB_M = 0.10
_GRASS_M = -0.08
_TRIES_PER_M2 = 1100 / 570.0**2
_MOST_TRIES = 4000
_KEPT_MAPS = 4


@dataclass(frozen=True, kw_only=True)
class _Style:
    """Share of houses among the things that stand about, and how tall they are."""

    houses: float
    height_m: tuple[float, float]


_STYLES = {"grid": _Style(houses=0.6, height_m=(7.0, 24.0)), "ring": _Style(houses=0.12, height_m=(4.0, 8.0))}
_COMMON = _Style(houses=0.3, height_m=(5.0, 17.0))


@dataclass(frozen=True, kw_only=True)
class House:
    x: float
    y: float
    yaw: float
    size: tuple[float, float, float]
    colour: tuple[float, float, float]

    @property
    def footprint(self) -> Polygon:
        return Polygon(box(self.x, self.y, self.yaw, *self.size[:2]))


@dataclass(frozen=True, kw_only=True)
class Tree:
    x: float
    y: float
    radius: float
    height: float
    green: float


_layouts: dict[str, tuple[tuple[House, ...], tuple[Tree, ...]]] = {}


def layout(road: RoadMap) -> tuple[tuple[House, ...], tuple[Tree, ...]]:
    """Houses and trees of a map, at random places clear of the road; the latest maps are kept."""
    if road.map_id not in _layouts:
        if len(_layouts) >= _KEPT_MAPS:
            _layouts.pop(next(iter(_layouts)))
        _layouts[road.map_id] = _scatter(road)
    return _layouts[road.map_id]


def ground(road: RoadMap) -> Mesh:
    """Road, pavement and paint, cut into tiles: a triangulated road has triangles as long as the road."""
    mesh = Mesh()
    layers = (
        (road.sidewalk, KERB_M, (0.63, 0.62, 0.58), PAVEMENT),
        (road.drivable, 0.0, (0.25, 0.25, 0.26), ASPHALT),
        (road.white, 0.015, (0.92, 0.92, 0.90), WHITE),
        (road.yellow, 0.015, (0.92, 0.70, 0.12), YELLOW),
    )
    for shape, height, colour, material in layers:
        left, bottom, right, top = (math.floor(edge / TILE_M) for edge in road.drivable.bounds)
        for part in _pieces(shape.simplify(0.015), (left, bottom, right + 1, top + 1)):
            mesh.polygon(part, height, colour, material)
    for part in shapely.get_parts(road.sidewalk.simplify(0.03)):
        mesh.wall(part, _GRASS_M, KERB_M, (0.50, 0.50, 0.48), PAVEMENT)
    return mesh


def plain(road: RoadMap) -> Mesh:
    """Grass all around, in squares small enough for fog per vertex."""
    mesh = Mesh()
    left, bottom, right, top = (edge // TILE_M for edge in road.drivable.bounds)
    x, y = np.meshgrid(np.arange(left - 7, right + 8) * TILE_M, np.arange(bottom - 7, top + 8) * TILE_M)
    x, y = x.ravel(), y.ravel()
    corners = [np.c_[x + dx, y + dy, np.full(len(x), _GRASS_M)] for dx, dy in ((0, 0), (TILE_M, 0), (TILE_M, TILE_M), (0, TILE_M))]
    i, count = np.arange(len(x)), len(x)
    faces = np.concatenate([np.c_[i, count + i, 2 * count + i], np.c_[i, 2 * count + i, 3 * count + i]])
    mesh.add(np.concatenate(corners), faces, (0.33, 0.43, 0.22), GRASS)
    return mesh


def standing(road: RoadMap) -> Mesh:
    """Signal heads, yield and stop signs, houses and trees."""
    mesh = Mesh()
    for head in road.heads:
        assets.signal_post(mesh, head.post, head.head)
        assets.signal_head(mesh, *head.head, head.yaw)
    for edge in road.rows:
        lane = road.lanes_of(edge)[0]
        control = entry_control(lane, road.lanes)
        if control in ("yield", "stop"):
            x, y, yaw = beside(road, lane, lane.length_m - 1.0)
            mesh.place(assets.sign(control), (x, y, 0.0), yaw)
    houses, trees = layout(road)
    for house in houses:
        assets.building(mesh, house.x, house.y, house.yaw, house.size, house.colour)
    for tree in trees:
        assets.tree(mesh, tree.x, tree.y, tree.radius, tree.height, tree.green)
    return mesh


def beside(road: RoadMap, lane: Lane, along_m: float) -> tuple[float, float, float]:
    """First place (x, y, yaw of the traffic) beyond the kerb where a post is clear of the road, `along_m` down a kerbside lane."""
    knots = np.r_[0.0, np.cumsum(np.hypot(*np.diff(lane.baseline, axis=0).T))]
    i = int(np.clip(np.searchsorted(knots, along_m) - 1, 0, len(knots) - 2))
    ahead = lane.baseline[i + 1] - lane.baseline[i]
    ahead = ahead / np.hypot(*ahead)
    kerbwards = road.side * np.array([ahead[1], -ahead[0]])
    foot = lane.baseline[i] + ahead * (np.clip(along_m, 0.0, knots[-1]) - knots[i])
    away = lane.width_m / 2 + 0.9
    while road.drivable.distance(Point(foot + kerbwards * away)) < 0.7 and away < 25.0:
        away += 0.25
    x, y = foot + kerbwards * away
    return float(x), float(y), math.atan2(ahead[1], ahead[0])


def _pieces(shape, tiles: tuple[int, int, int, int]):
    """The parts of a shape on every tile of (left, bottom, right, top), halved again and again: cutting a small piece is cheap."""
    left, bottom, right, top = tiles
    piece = shape.intersection(shapely.box(left * TILE_M, bottom * TILE_M, right * TILE_M, top * TILE_M))
    if piece.is_empty:
        return
    if right - left == 1 and top - bottom == 1:
        yield piece
    elif right - left > top - bottom:
        middle = (left + right) // 2
        yield from _pieces(piece, (left, bottom, middle, top))
        yield from _pieces(piece, (middle, bottom, right, top))
    else:
        middle = (bottom + top) // 2
        yield from _pieces(piece, (left, bottom, right, middle))
        yield from _pieces(piece, (left, middle, right, top))


def _scatter(road: RoadMap) -> tuple[tuple[House, ...], tuple[Tree, ...]]:
    kind, number = road.map_id.rsplit("-", 1)
    style = _STYLES.get(kind, _COMMON)
    rng = np.random.default_rng([int(number), 41])
    left, bottom, right, top = road.drivable.bounds
    # towns keep the places that they always had
    tries = 1100 if kind == "town" else min(int((right - left + 70) * (top - bottom + 70) * _TRIES_PER_M2), _MOST_TRIES)
    taken = road.drivable.union(road.sidewalk).buffer(4.5)
    shapely.prepare(taken)
    shapely.prepare(road.drivable)
    houses, trees = [], []
    areas: list[Polygon] = []
    circles = np.empty((tries, 3))  # x, y, radius around every area: most pairs are apart at a glance
    for _ in range(tries):
        x, y = rng.uniform(left - 35, right + 35), rng.uniform(bottom - 35, top + 35)
        is_house = rng.random() < style.houses
        size = (rng.uniform(10, 22), rng.uniform(8, 15), rng.uniform(*style.height_m))
        yaw, radius, height, green = rng.uniform(0, math.pi), rng.uniform(1.3, 2.6), rng.uniform(4.5, 9), rng.uniform(0.22, 0.42)
        tone = rng.uniform(0.42, 0.78) * np.array([1.0, rng.uniform(0.82, 1.0), rng.uniform(0.68, 1.0)])
        if not shapely.dwithin(road.drivable, Point(x, y), 45.0):
            continue
        area = Polygon(box(x, y, yaw, size[0] + 3, size[1] + 3)) if is_house else Point(x, y).buffer(radius)
        reach = math.hypot(size[0] + 3, size[1] + 3) / 2 if is_house else radius
        others = circles[: len(areas)]
        close = np.flatnonzero(np.hypot(others[:, 0] - x, others[:, 1] - y) < others[:, 2] + reach)
        if taken.intersects(area) or any(area.intersects(areas[k]) for k in close):
            continue
        circles[len(areas)] = x, y, reach
        areas.append(area)
        if is_house:
            houses.append(House(x=x, y=y, yaw=yaw, size=size, colour=tuple(tone)))
        else:
            trees.append(Tree(x=x, y=y, radius=radius, height=height, green=green))
    return tuple(houses), tuple(trees)
