"""From the roadblocks of a log to a route that begins where the ego is, and to the centreline that progress is measured along.

The rules are those of NAVSIM's metric cache (navsim.md section 3.2), down to how ties are broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim.city import Block, City, Lane
from spanvla_ros.evaluation.pdm.footprint import ego_centers, ego_corners

_BACKWARD, _FORWARD = 15, 30  # blocks that the searches look at in depth
_WINDOW = 30  # blocks of the route that the centreline reaches over
_FIRST = 3  # blocks of the route that a car beside it may join
_HEADING_RAD, _DISTANCE_M = np.pi / 4, 3.0  # of a baseline that fits the ego
_OVERLAP_M2 = 1.0  # of two connectors that cross: the route loops


def lanes_of(city: City, blocks: Iterable[str]) -> tuple[str, ...]:
    """Names of all lanes and connectors in the blocks, each once. DataError for a block that the map lacks."""
    names: dict[str, None] = {}
    for block in blocks:
        if block not in city.blocks:
            raise DataError(f"map {city.name} has no roadblock {block}; is the map of another version than the log?")
        names |= dict.fromkeys(city.blocks[block].lanes)
    return tuple(names)


def corrected(city: City, route: Sequence[str], pose: np.ndarray) -> tuple[str, ...]:
    """The route for an ego whose rear axle is at `pose` (3,): begun where it is, gaps filled, cut before it loops."""
    blocks = list(dict.fromkeys(route))
    lanes_of(city, blocks)
    if not blocks:
        raise DataError("the route names no roadblock")
    start, candidates = _current(city, pose, frozenset(blocks))
    if start.name not in blocks:
        blocks = _joined(city, blocks, start.name, [block.name for block in candidates])
    return tuple(dict.fromkeys(_uncrossed(city, _linked(city, blocks))))


def _current(city: City, pose: np.ndarray, route: frozenset[str]) -> tuple[Block, list[Block]]:
    """The block that the ego most likely is in, and all that are likely; those of the route come first."""
    around = city.near(float(pose[0]), float(pose[1]), 1.0) or city.closest(float(pose[0]), float(pose[1]))
    fits: dict[bool, list[tuple[float, Block]]] = {True: [], False: []}
    displacement = []
    for block in around:
        found = [city.lanes[name].nearest(pose) for name in block.lanes]
        displacement.append(min((distance for distance, _ in found), default=np.inf))
        fits[block.name in route] += [(distance, block) for distance, error in found if error < _HEADING_RAD and distance < _DISTANCE_M]
    for likely in (fits[True], fits[False]):
        if likely:
            return min(likely, key=lambda pair: pair[0])[1], [block for _, block in likely]
    return around[int(np.argmin(displacement))], around


def _joined(city: City, route: list[str], start: str, candidates: list[str]) -> list[str]:
    """A route with a way from where the ego is to it, where there is one."""
    path = _search(city, route[0], candidates, _BACKWARD, forward=False)
    if path is not None:
        return path[:-1] + route
    path = _search(city, start, route[:_FIRST], _FORWARD, forward=True)
    return route if path is None else path + route[route.index(path[-1]) + 1 :]


def _linked(city: City, route: list[str]) -> list[str]:
    """A route whose consecutive blocks are neighbours, where the map connects them."""
    found = route[:1]
    for before, after in zip(route, route[1:]):
        if before not in city.blocks[after].incoming:
            path = _search(city, before, [after], _FORWARD, forward=True)
            found += path[1:-1] if path is not None else []
        found.append(after)
    return found


def _uncrossed(city: City, route: list[str]) -> list[str]:
    """A route up to the first connector that crosses an earlier one."""
    passed: list[shapely.Polygon] = []
    for k, name in enumerate(route):
        block = city.blocks[name]
        if not block.connector:
            continue
        if any(shapely.intersection(block.polygon, other).area > _OVERLAP_M2 for other in passed):
            return route[:k]
        passed.append(block.polygon)
    return route


def _search(city: City, start: str, targets: Sequence[str], depth: int, *, forward: bool) -> list[str] | None:
    """Blocks of a shortest way between `start` and one of `targets`, at most `depth` of them in driving direction, or None.

    forward: `start` comes first; else last. Of several ways of the same length the official search, which never marks a block as
    seen, keeps the last parent it met.
    """
    layer, parents = [start], [{start: None}]
    for _ in range(depth):
        hit = next((name for name in layer if name in targets), None)
        if hit is not None:
            path = [hit]
            for known in reversed(parents[1:]):
                path.append(known[path[-1]])
            return path[::-1] if forward else path
        above: dict[str, str | None] = {}
        following: dict[str, None] = {}
        for name in layer:
            for neighbour in city.blocks[name].outgoing if forward else city.blocks[name].incoming:
                if neighbour in city.blocks:
                    above[neighbour] = name
                    following.setdefault(neighbour)
        layer = list(following)
        parents.append(above)
    return None


def starting_lane(city: City, lanes: Sequence[str], near: Iterable[str], ego: np.ndarray) -> Lane:
    """Of the lanes on the route, the one to start from. near: names of the lanes of the map around; ego (11,)."""
    axle = shapely.Point(ego[:2])
    on_route = frozenset(lanes)
    holding = [city.lanes[name] for name in near if name in on_route and city.lanes[name].polygon.intersects(axle)]
    if holding:
        return min(holding, key=lambda lane: lane.nearest(ego[:3])[1])
    center = shapely.Point(ego_centers(ego))
    inside = next((city.lanes[name] for name in lanes if city.lanes[name].polygon.contains(center)), None)
    if inside is not None:
        return inside
    if not lanes:
        raise DataError("the route has no lane")
    box = shapely.Polygon(ego_corners(ego))
    return min((city.lanes[name] for name in lanes), key=lambda lane: lane.polygon.distance(box))


def lane_path(city: City, route: Sequence[str], lanes: Sequence[str], start: Lane) -> tuple[str, ...]:
    """Lanes of the shortest way (by length) from `start` over `lanes` to the end of the route or its 30th block from there.

    Where there is no way, the deepest that there is.
    """
    first = route.index(start.block) if start.block in route else 0
    goal = route[first : first + _WINDOW][-1]
    allowed = frozenset(lanes)
    # queue and expanded in the order of the official search: name -> (cost, depth)
    queue, expanded = {start.name: (1.0, 1)}, {}
    parent: dict[str, str | None] = {start.name: None}
    end = None
    while queue:
        name = min(queue, key=lambda key: queue[key][0])
        cost, depth = queue.pop(name)
        if city.lanes[name].block == goal:
            end = name
            break
        expanded[name] = cost, depth
        for onward in city.lanes[name].outgoing:
            reached = cost + city.lanes[onward].length_m if onward in allowed else np.inf
            if onward not in allowed or onward in expanded or (onward in queue and queue[onward][0] <= reached):
                continue
            queue[onward] = reached, depth + 1
            parent[onward] = name
    if end is None:
        deepest = max(depth for _, depth in expanded.values())
        end = min((name for name in expanded if expanded[name][1] == deepest), key=lambda name: expanded[name][0])
    path = [end]
    while parent[path[-1]] is not None:
        path.append(parent[path[-1]])
    return tuple(reversed(path))


def centerline(baselines: Iterable[np.ndarray]) -> np.ndarray:
    """(N, 3) of x, y, heading: the vertices of the lanes' baselines one after the other."""
    return np.concatenate(list(baselines))
