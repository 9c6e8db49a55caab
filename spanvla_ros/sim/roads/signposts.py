"""Where the signal heads of a map stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from shapely.geometry import Point, Polygon

from spanvla_ros.contracts import Command
from spanvla_ros.sim.roads.lanes import Lane

HEAD_LAMPS_M = {"green": 0.4, "yellow": 1.15, "red": 1.9}  # lamp centres above the lower edge of a head


@dataclass(frozen=True, kw_only=True)
class SignalHead:
    """A three-lamp head: foot (x, y) of its post, (x, y, z) of the head's lower edge, yaw = driving direction it serves.

    It shows the colour of link `link` of the traffic light `tls`.
    """

    tls: str
    link: int
    post: tuple[float, float]
    head: tuple[float, float, float]
    yaw: float


def heads(rows: dict[str, list[Lane]], lanes: dict[str, Lane], outlines: dict[str, Polygon], drivable: Polygon, side: int) -> Iterator[SignalHead]:
    """Two heads per approach with a signal: one just past the stop line at the kerb, one above the far side.

    rows: lanes of each edge, kerb to middle. The near head is what a driver (or a 70-degree camera) at the stop line
    sees; with several lanes it stands further on, so that it stays in the picture of the inner lane.
    """
    for row in rows.values():
        ways = [lanes[name] for lane in row for name in lane.successors if lanes[name].signal]
        if not ways:
            continue
        tls, link = next((way for way in ways if way.turn is Command.STRAIGHT), ways[0]).signal
        points = row[0].baseline
        ahead = points[-1] - points[-2]
        yaw = math.atan2(ahead[1], ahead[0])
        half = row[0].width_m / 2
        near_m = 5.0 if len(row) == 1 else 6.5
        near = _local(points[-1], yaw, near_m, side * (-half - 0.3))
        yield SignalHead(tls=tls, link=link, post=_beside(points[-1], yaw, near_m, half, drivable, side), head=(*near, 2.0), yaw=yaw)
        border = np.array(outlines[ways[0].junction].exterior.coords)
        far_m = float(np.max((border - points[-1]) @ [math.cos(yaw), math.sin(yaw)])) - 1.0
        far = _local(points[-1], yaw, far_m, side * half * (len(row) - 1))
        yield SignalHead(tls=tls, link=link, post=_beside(points[-1], yaw, far_m, half, drivable, side), head=(*far, 4.6), yaw=yaw)


def _local(origin: np.ndarray, yaw: float, ahead: float, left: float) -> tuple[float, float]:
    return (
        float(origin[0] + ahead * math.cos(yaw) - left * math.sin(yaw)),
        float(origin[1] + ahead * math.sin(yaw) + left * math.cos(yaw)),
    )


def _beside(origin: np.ndarray, yaw: float, ahead: float, half: float, drivable: Polygon, side: int) -> tuple[float, float]:
    """First place beyond the kerb where a post is clear of the road."""
    away = half + 0.8
    while drivable.distance(Point(_local(origin, yaw, ahead, -side * away))) < 0.6 and away < 25.0:
        away += 0.25
    return _local(origin, yaw, ahead, -side * away)
