"""A lane-correct path through the map with everything the driver and the judge ask along it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Command
from spanvla_ros.geometry import wrap

SPACING_M = 0.5
_SMOOTH_M = 1.5
_CLOSE_M = 14.0  # junctions with less road between them are one manoeuvre
_TURN_RAD = 0.8
_COMMAND_M = 40.0  # the instruction to turn comes this far ahead of the junction


@dataclass(frozen=True, kw_only=True)
class Span:
    """The stretch of a path on one lane or connector."""

    start_s: float
    end_s: float
    lane: str


@dataclass(frozen=True, kw_only=True)
class StopLine:
    """Where a path enters a connector, and where it leaves the junction again; fields as those of the connector."""

    s: float
    exit_s: float
    connector: str
    junction: str
    turn: Command
    control: str
    signal: tuple[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Path:
    """Centre line of a way over lanes and connectors, in the world frame, sampled every SPACING_M.

    xy (N, 2), yaw (N,) unwrapped, curvature (N,), limit_mps (N,) the speed limit. inner_m (N,): from the centre line to
    the border of the lanes of this direction towards the middle of the road; oncoming_m (N,): width of the lanes of the
    other direction beyond that border, 0 where a kerb lies between and in junctions; outer_m (N,): from the centre line
    to the kerb. spans cover the path without gaps; stops: one per connector, in order.
    """

    xy: np.ndarray
    yaw: np.ndarray
    curvature: np.ndarray
    spans: tuple[Span, ...]
    stops: tuple[StopLine, ...]
    limit_mps: np.ndarray
    inner_m: np.ndarray
    oncoming_m: np.ndarray
    outer_m: np.ndarray

    @functools.cached_property
    def manoeuvres(self) -> tuple[tuple[float, float, Command], ...]:
        """(start_s, end_s, turn) of every junction; junctions close to each other, such as those of a roundabout, are one."""
        groups: list[list[StopLine]] = []
        for stop in self.stops:
            if groups and stop.s - groups[-1][-1].exit_s < _CLOSE_M:
                groups[-1].append(stop)
            else:
                groups.append([stop])
        return tuple((group[0].s, group[-1].exit_s, self._turn(group)) for group in groups)

    def _turn(self, group: list[StopLine]) -> Command:
        if len(group) == 1:
            return group[0].turn
        turned = self.yaw[self.index(group[-1].exit_s + 2.0)] - self.yaw[self.index(group[0].s - 2.0)]
        if abs(turned) < _TURN_RAD:
            return Command.STRAIGHT
        return Command.LEFT if turned > 0 else Command.RIGHT

    @staticmethod
    def geometry(points: np.ndarray) -> dict[str, np.ndarray]:
        """xy, yaw and curvature of the polyline (M, 2), resampled and smoothed."""
        points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.05]]
        xy = _resample(_smooth(_resample(points)))
        step = np.gradient(xy, axis=0)
        yaw = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        return {"xy": xy, "yaw": yaw, "curvature": _smooth(np.gradient(yaw, SPACING_M)[:, None])[:, 0]}

    @property
    def length_m(self) -> float:
        return (len(self.xy) - 1) * SPACING_M

    def pose(self, s: float | np.ndarray) -> np.ndarray:
        """Pose (..., 3) of the centre line at arc length s (clipped to the path)."""
        knots = np.arange(len(self.xy)) * SPACING_M
        return np.stack([np.interp(s, knots, self.xy[:, 0]), np.interp(s, knots, self.xy[:, 1]), wrap(np.interp(s, knots, self.yaw))], axis=-1)

    def index(self, s: float) -> int:
        """Index of the sample nearest to arc length s."""
        return min(max(round(s / SPACING_M), 0), len(self.xy) - 1)

    def curvature_at(self, s: float) -> float:
        return float(self.curvature[self.index(s)])

    def next_stop(self, s: float) -> StopLine | None:
        """The first stop line whose junction is not left behind at arc length s: the one ahead, or the one being crossed."""
        return next((stop for stop in self.stops if stop.exit_s > s), None)

    def lane_at(self, s: float) -> str:
        """Name of the lane or connector at arc length s."""
        return next((span.lane for span in self.spans if s < span.end_s), self.spans[-1].lane)

    def turn_at(self, s: float) -> Command:
        """Turn of the connector at arc length s, STRAIGHT on a lane."""
        return next((stop.turn for stop in self.stops if stop.s <= s < stop.exit_s), Command.STRAIGHT)

    def project(self, pose: np.ndarray, near_s: float | None = None, window_m: float = 15.0) -> tuple[float, float, float]:
        """Arc length, signed lateral offset (left positive) and heading error of a pose (3,).

        With `near_s` only that neighbourhood of the path is searched, which keeps the answer on the right branch.
        """
        low, high = 0, len(self.xy)
        if near_s is not None:
            low = max(0, int((near_s - window_m) / SPACING_M))
            high = min(high, int((near_s + window_m) / SPACING_M) + 2)
            low = min(low, high - 1)
        delta = self.xy[low:high] - pose[:2]
        i = low + int(np.argmin(delta[:, 0] ** 2 + delta[:, 1] ** 2))
        x, y = pose[0] - self.xy[i, 0], pose[1] - self.xy[i, 1]
        cos, sin = math.cos(self.yaw[i]), math.sin(self.yaw[i])
        along, lateral = cos * x + sin * y, -sin * x + cos * y
        s = min(max(i * SPACING_M + along, 0.0), self.length_m)
        heading = float(wrap(pose[2] - self.yaw[i] - self.curvature[i] * along))
        return s, float(lateral), heading

    def project_points(self, xy: np.ndarray, from_s: float, to_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Arc length (M,) and distance (M,) of points (M, 2) from the stretch [from_s, to_s] of the path."""
        low = max(0, int(from_s / SPACING_M))
        high = max(low + 1, min(len(self.xy), int(to_s / SPACING_M) + 1))
        part = self.xy[low:high]
        square = ((xy[:, None, :] - part[None]) ** 2).sum(-1)
        i = square.argmin(1)
        return (low + i) * SPACING_M, np.sqrt(square[np.arange(len(xy)), i])


@dataclass(frozen=True, kw_only=True)
class Route:
    """The stretch [start_s, end_s] of a path that an episode drives."""

    path: Path
    start_s: float
    end_s: float

    @property
    def length_m(self) -> float:
        return self.end_s - self.start_s

    def completion(self, s: float) -> float:
        """Share of the route driven at arc length s, 0 to 1."""
        return min(max((s - self.start_s) / self.length_m, 0.0), 1.0)

    def command(self, s: float) -> Command:
        """Turn at the junction that is crossed at arc length s or comes within 40 m, STRAIGHT where there is none."""
        ahead = (turn for start, end, turn in self.path.manoeuvres if end > s > start - _COMMAND_M and turn is not Command.STRAIGHT)
        return next(ahead, Command.STRAIGHT)


def along(points: np.ndarray) -> np.ndarray:
    """Arc length (N,) of the points (N, 2) of a polyline."""
    return np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]


def densify(points: np.ndarray) -> np.ndarray:
    """The polyline with a point every SPACING_M and its last one."""
    return np.concatenate([_resample(points), points[-1:]])


def _resample(points: np.ndarray) -> np.ndarray:
    distance = along(points)
    at = np.arange(0, distance[-1], SPACING_M)
    return np.stack([np.interp(at, distance, points[:, k]) for k in (0, 1)], axis=-1)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian filter along axis 0 that keeps the ends in place (odd reflection)."""
    radius = int(3 * _SMOOTH_M / SPACING_M)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) * SPACING_M / _SMOOTH_M) ** 2)
    kernel /= kernel.sum()
    head = 2 * values[0] - values[radius:0:-1]
    tail = 2 * values[-1] - values[-2 : -radius - 2 : -1]
    padded = np.concatenate([head, values, tail])
    return np.stack([np.convolve(padded[:, k], kernel, mode="valid") for k in range(values.shape[1])], axis=-1)
