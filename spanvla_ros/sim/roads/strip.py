"""Lays a Path over the lanes and connectors of a map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spanvla_ros.contracts import ConfigError
from spanvla_ros.sim.roads.lanes import Lane
from spanvla_ros.sim.roads.route import SPACING_M, Path, Span, StopLine, along, densify

if TYPE_CHECKING:
    from spanvla_ros.sim.roads.road import RoadMap

_NEAR_M = 12.0  # how far smoothing may move a place along the path


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Points (N, 2) of the path on one lane or connector. While lanes change, `blend` (N,) goes from 0 to 1 and `to` names the new lane."""

    lane: Lane
    points: np.ndarray
    blend: np.ndarray | None = None
    to: Lane | None = None


def lay(road: RoadMap, names: Sequence[str], changes: Iterable[tuple[str, float, float]]) -> Path:
    """Path over `names`; see RoadMap.path. ConfigError where the names don't join or a lane has no inner neighbour."""
    wanted: dict[str, list[tuple[float, float]]] = {}
    for lane, start, end in changes:
        wanted.setdefault(lane, []).append((start, end))
    pieces: list[_Piece] = []
    last = None
    for name in names:
        if name not in road.lanes:
            raise ConfigError(f"path over '{name}': map {road.map_id} has no such lane")
        lane = road.lanes[name]
        if last is not None and name not in last.successors:
            raise ConfigError(f"path over '{name}': '{last.name}' does not lead there but to {', '.join(last.successors) or 'nothing'}")
        parts = _change(road, lane, wanted.pop(name, []))
        pieces += parts
        last = parts[-1].lane
    if wanted:
        raise ConfigError(f"lane change on '{next(iter(wanted))}': the path does not use that lane")
    return _join(road, pieces)


def _change(road: RoadMap, lane: Lane, stretches: list[tuple[float, float]]) -> list[_Piece]:
    """Pieces over one edge: one for each lane that is used, the blends between them."""
    if not stretches:
        return [_Piece(lane=lane, points=lane.baseline)]
    pieces, points, at = [], densify(lane.baseline), 0.0
    for start, end in sorted(stretches):
        if lane.inner is None or not at <= start < end <= along(points)[-1]:
            raise ConfigError(f"lane change on '{lane.name}' from {start} to {end} m: there is no inner lane or no room")
        inner, distance = road.lanes[lane.inner], along(points)
        beside = _beside(points, densify(inner.baseline))
        share = np.clip((distance - start) / (end - start), 0.0, 1.0)
        weight = share**3 * (10 - 15 * share + 6 * share**2)
        moved = points + weight[:, None] * (beside - points)
        before, within = distance < start, (distance >= start) & (distance <= end)
        pieces.append(_Piece(lane=lane, points=points[before & (distance >= at)]))
        pieces.append(_Piece(lane=lane, points=moved[within], blend=weight[within], to=inner))
        points, lane, at = np.concatenate([moved[distance <= end], beside[distance > end]]), inner, end
    pieces.append(_Piece(lane=lane, points=points[along(points) > at]))
    return [piece for piece in pieces if len(piece.points)]


def _beside(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """For every point (N, 2) the nearest of the points of `line` (M, 2)."""
    return line[((points[:, None] - line[None]) ** 2).sum(-1).argmin(1)]


def _join(road: RoadMap, pieces: list[_Piece]) -> Path:
    points = np.concatenate([piece.points for piece in pieces])
    raw = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    geometry = Path.geometry(points)
    xy = geometry["xy"]
    last_s = (len(xy) - 1) * SPACING_M

    def locate(i: int) -> float:
        """Arc length of the path at the raw point i: the nearest sample about there."""
        low = max(0, int((raw[i] - _NEAR_M) / SPACING_M))
        part = xy[low : int((raw[i] + _NEAR_M) / SPACING_M) + 2]
        if not len(part):
            return last_s
        return (low + int(np.argmin(np.hypot(*(part - points[i]).T)))) * SPACING_M

    spans: list[Span] = []
    stops: list[StopLine] = []
    widths = np.zeros((3, len(xy)))
    limits = np.zeros(len(xy))
    first = 0
    for k, piece in enumerate(pieces):
        end = first + len(piece.points) - 1
        start_s = spans[-1].end_s if spans else 0.0
        end_s = last_s if k == len(pieces) - 1 else locate(end)
        here = slice(round(start_s / SPACING_M), round(end_s / SPACING_M) + 1)
        limits[here] = piece.lane.speed_mps
        if piece.blend is None:
            widths[:, here] = _widths(road, piece.lane)[:, None]
            _extend(spans, Span(start_s=start_s, end_s=end_s, lane=piece.lane.name))
        else:
            weight = np.interp(np.linspace(0, 1, here.stop - here.start), np.linspace(0, 1, len(piece.blend)), piece.blend)
            widths[:, here] = _widths(road, piece.lane)[:, None] * (1 - weight) + _widths(road, piece.to)[:, None] * weight
            middle = start_s + round(np.argmax(weight >= 0.5)) * SPACING_M
            _extend(spans, Span(start_s=start_s, end_s=middle, lane=piece.lane.name))
            _extend(spans, Span(start_s=middle, end_s=end_s, lane=piece.to.name))
        if piece.lane.junction:
            lane = piece.lane
            # the place is known to half a metre, the line may not be behind the lane's end
            stops.append(
                StopLine(
                    s=start_s, exit_s=end_s, connector=lane.name, junction=lane.junction, turn=lane.turn, control=lane.control, signal=lane.signal
                )
            )
        first = end + 1
    return Path(**geometry, spans=tuple(spans), stops=tuple(stops), limit_mps=limits, inner_m=widths[0], oncoming_m=widths[1], outer_m=widths[2])


def _extend(spans: list[Span], span: Span) -> None:
    """Append a span; it melts with the last one where that is on the same lane."""
    if spans and spans[-1].lane == span.lane:
        span = Span(start_s=spans.pop().start_s, end_s=span.end_s, lane=span.lane)
    if span.end_s > span.start_s or not spans:
        spans.append(span)


def _widths(road: RoadMap, lane: Lane) -> np.ndarray:
    """(3,): from the lane's centre to the middle of the road, lanes of the other direction beyond that, from the centre to the kerb."""
    half = lane.width_m / 2
    if lane.junction:
        return np.array([half, 0.0, half])
    row = road.lanes_of(lane.edge)
    other = road.oncoming[lane.edge]
    facing = sum(beyond.width_m for beyond in road.lanes_of(other)) if other else 0.0
    inner = half + sum(beyond.width_m for beyond in row[lane.index + 1 :])
    return np.array([inner, facing, half + sum(beyond.width_m for beyond in row[: lane.index])])
