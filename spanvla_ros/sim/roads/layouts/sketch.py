"""Pencil of the layouts: nodes, roads of both directions, single edges, rounded polylines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from shapely.geometry import LineString, Point
from shapely.ops import unary_union

from spanvla_ros.sim.roads.layouts.plan import Plan

_CLEARANCE_M = 25.0
_MEETING_M = 45.0  # roads may be this close to each other near a node that they share
STEP_M = 1.0  # distance of points on arcs
SIDEWALK_M = 2.0
# two phases of 22 s, no green of their own for turns: all links of an approach share one colour
SIGNALS = ("--tls.green.time", "22", "--tls.yellow.time", "3", "--tls.allred.time", "2", "--tls.left-green.time", "0")


class Sketch:
    """Collects SUMO's plain XML."""

    def __init__(self) -> None:
        self._nodes: dict[str, np.ndarray] = {}
        self._lines: dict[tuple[str, str], LineString] = {}
        self._xml: dict[str, list[str]] = {"nodes": [], "edges": [], "connections": []}

    def node(self, name: str, at: Sequence[float], kind: str = "priority", radius_m: float | None = None) -> None:
        self._nodes[name] = np.array(at, dtype=float)
        radius = "" if radius_m is None else f' radius="{radius_m}"'
        self._xml["nodes"].append(f'<node id="{name}" x="{at[0]:.2f}" y="{at[1]:.2f}" type="{kind}"{radius}/>')

    def edge(
        self,
        name: str,
        ends: tuple[str, str],
        points: np.ndarray | None = None,
        *,
        lanes: int = 1,
        speed_mps: float = 8.33,
        priority: int = 1,
        sidewalk_m: float = SIDEWALK_M,
        spread: str = "right",
    ) -> None:
        """One direction. points (N, 2): the middle of the road, or with spread "center" that of the lanes; a straight line if None."""
        shape = np.array([self._nodes[end] for end in ends]) if points is None else points
        if ends[::-1] not in self._lines:
            self._lines[ends] = LineString(shape)
        text = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)
        walk = f' sidewalkWidth="{sidewalk_m}"' if sidewalk_m else ""
        self._xml["edges"].append(
            f'<edge id="{name}" from="{ends[0]}" to="{ends[1]}" numLanes="{lanes}" speed="{speed_mps}" priority="{priority}" '
            f'spreadType="{spread}" shape="{text}"{walk}/>'
        )

    def road(self, a: str, b: str, points: np.ndarray | None = None, **values) -> None:
        """Both directions, edges "a_b" and "b_a"; points (N, 2) lead from a to b."""
        line = np.array([self._nodes[a], self._nodes[b]]) if points is None else points
        self.edge(f"{a}_{b}", (a, b), line, **values)
        self.edge(f"{b}_{a}", (b, a), line[::-1], **values)

    def zebra(self, node: str, *edges: str) -> None:
        """A crossing with priority for people at a node, over the named edges."""
        self._xml["connections"].append(f'<crossing node="{node}" edges="{" ".join(edges)}" priority="true" width="4"/>')

    def connect(self, source: str, target: str, lanes: Sequence[tuple[int, int]]) -> None:
        """Connections between two edges: pairs of lane numbers, a sidewalk being number 0. Names all connections from `source` to `target`."""
        self._xml["connections"] += [f'<connection from="{source}" to="{target}" fromLane="{a}" toLane="{b}"/>' for a, b in lanes]

    def clear(self) -> bool:
        """True if no two roads come close to each other, but for where they meet."""
        roads = [(ends, line) for ends, line in self._lines.items() if line.length > _MEETING_M]
        for k, (ends, line) in enumerate(roads):
            for others, other in roads[k + 1 :]:
                shared = [Point(self._nodes[name]).buffer(_MEETING_M) for name in set(ends) & set(others)]
                if line.difference(unary_union(shared)).distance(other) < _CLEARANCE_M:
                    return False
        return True

    def plan(self, *options: str) -> Plan:
        parts = {name: "".join(lines) for name, lines in self._xml.items()}
        return Plan(**parts, options=("--junctions.internal-link-detail", "24", "--walkingareas", "true", *options))


def rounded(corners: np.ndarray, radii: Sequence[float], closed: bool = False) -> np.ndarray:
    """Polyline (N, 2) with the inner corners of `corners` (M, 2) replaced by arcs, one radius each (M - 2, closed: M).

    A radius shrinks where an arc would take more than 0.48 of a side. Closed lines end where they start, in the middle of the last side.
    """
    corners = np.asarray(corners, dtype=float)
    if closed:
        middle = 0.5 * (corners[-1] + corners[0])
        corners = np.concatenate([middle[None], corners, middle[None]])
    points = [corners[0]]
    for before, corner, after, radius in zip(corners, corners[1:], corners[2:], radii):
        points += list(_arc(before, corner, after, radius))
    points.append(corners[-1])
    return np.array(points)


def _arc(before: np.ndarray, corner: np.ndarray, after: np.ndarray, radius: float) -> np.ndarray:
    back, ahead = before - corner, after - corner
    sides = np.hypot(*back), np.hypot(*ahead)
    back, ahead = back / sides[0], ahead / sides[1]
    turn = math.pi - math.acos(float(np.clip(back @ ahead, -1, 1)))
    if turn < 1e-3:
        return corner[None]
    tangent = min(radius * math.tan(turn / 2), 0.48 * min(sides))
    radius = tangent / math.tan(turn / 2)
    start = corner + tangent * back
    side = math.copysign(1.0, back[1] * ahead[0] - back[0] * ahead[1])
    heading = math.atan2(-back[1], -back[0])
    angles = np.linspace(0.0, turn, max(3, math.ceil(radius * turn / STEP_M) + 1))
    centre = start + side * radius * np.array([-math.sin(heading), math.cos(heading)])
    around = heading + side * (angles - math.pi / 2)
    return centre + radius * np.stack([np.cos(around), np.sin(around)], axis=-1)


def shifted(points: np.ndarray, left_m: float) -> np.ndarray:
    """The polyline (N, 2), moved to its left."""
    along = np.gradient(points, axis=0)
    along /= np.hypot(*along.T)[:, None]
    return points + left_m * np.stack([-along[:, 1], along[:, 0]], axis=-1)


def direction(angle: float) -> np.ndarray:
    return np.array([math.cos(angle), math.sin(angle)])
