"""The strip along the route that the expert drives in: Frenet coordinates, room to both sides, the line and the steering that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.ego import MAX_STEER_RAD, MAX_STEER_RATE_RPS, EgoState
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import SPACING_M, Path

HALF_WIDTH_M = VEHICLE.width_m / 2
_DRIFT_STEP_M = 1.0
_DETOUR = 3.0  # who turns round gets no further along the road: so many times the reach is as far as it is followed
_OVERHANG_M = VEHICLE.front_m - 0.4
_MOST_BEND = math.tan(MAX_STEER_RAD) / VEHICLE.wheel_base_m


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A stretch of the line away from the lane's centre: `offset_m` (left positive) between arc lengths start_s and end_s of
    the rear axle, reached and left over ramp_m."""

    start_s: float
    end_s: float
    offset_m: float
    ramp_m: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """Lateral offsets to follow, with slope and second derivative, per path sample from index `first` on."""

    first: int
    offset: list[float]
    slope: list[float]
    bend: list[float]

    @property
    def flat(self) -> bool:
        """The lane's centre line itself."""
        return len(self.offset) == 1

    def at(self, s: float) -> tuple[float, float, float]:
        i = min(max(round(s / SPACING_M) - self.first, 0), len(self.offset) - 1)
        return self.offset[i], self.slope[i], self.bend[i]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What the car covers: offsets (K,) of the rear axle and of a point near the front bumper, at their arc lengths (K,)."""

    rear_s: np.ndarray
    rear_m: np.ndarray
    front_s: np.ndarray
    front_m: np.ndarray


class Corridor:
    """A path with its lanes, as arrays and lists for quick look-ups. Offsets are left positive; `side` +1: the road's middle is to the left."""

    def __init__(self, road: RoadMap, path: Path):
        self.path = path
        self.side = road.side
        self.xy = np.asarray(path.xy, float)
        self.yaw = np.asarray(path.yaw, float)
        self._cos, self._sin = np.cos(self.yaw), np.sin(self.yaw)
        self._square = (self.xy**2).sum(axis=1)
        self.curvature = path.curvature.tolist()
        self.frames = np.column_stack([self.xy, self.yaw]).tolist()
        half = np.full(len(self.xy), 1.75)
        for span in path.spans:
            half[int(span.start_s / SPACING_M) : int(span.end_s / SPACING_M) + 1] = road.lanes[span.lane].width_m / 2
        self.half_lane_m = half
        self.inner_m, self.oncoming_m, self.outer_m = path.inner_m, path.oncoming_m, path.outer_m
        self.last = len(self.xy) - 1
        # a lane change that the path itself makes: two lanes of one edge in a row
        self.blends = [
            (before.end_s - 20.0, before.end_s + 10.0)
            for before, after in zip(path.spans, path.spans[1:])
            if road.lanes[before.lane].edge == road.lanes[after.lane].edge and road.lanes[before.lane].junction is None
        ]

    def frenet(self, points: np.ndarray, from_s: float, to_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Arc length and offset (M,) of points (M, 2) on the stretch [from_s, to_s]; NaN for points beyond its ends."""
        low = min(max(0, int(from_s / SPACING_M)), self.last - 1)
        high = max(low + 2, min(self.last + 1, int(to_s / SPACING_M) + 1))
        i = low + 2 * np.argmin(self._square[low:high:2] - 2.0 * (points @ self.xy[low:high:2].T), axis=1)
        dx, dy = points[:, 0] - self.xy[i, 0], points[:, 1] - self.xy[i, 1]
        along = self._cos[i] * dx + self._sin[i] * dy
        across = self._cos[i] * dy - self._sin[i] * dx
        s = i * SPACING_M + along
        s[((i == low) & (along < -1.2)) | ((i >= high - 2) & (along > 1.2))] = np.nan
        return s, across

    def yaw_at(self, s: np.ndarray) -> np.ndarray:
        return self.yaw[np.clip(np.rint(np.nan_to_num(s) / SPACING_M).astype(int), 0, self.last)]

    def room(self, from_s: float, to_s: float) -> tuple[float, float, float, float]:
        """Least half lane width, room to the inner and outer border of the own direction, and oncoming width on a stretch."""
        low = min(max(int(from_s / SPACING_M), 0), self.last)
        part = slice(low, max(min(int(to_s / SPACING_M) + 1, self.last + 1), low + 1))
        return tuple(float(values[part].min()) for values in (self.half_lane_m, self.inner_m, self.outer_m, self.oncoming_m))  # type: ignore[return-value]

    def line(self, s: float, reach_m: float, shifts: list[Shift], bias_m: float, cuts_m: float) -> Line:
        """The line from a bit behind `s` to `reach_m` ahead: the strongest shift to each side counts, smooth ramps between."""
        first = min(max(int((s - 8.0) / SPACING_M), 0), self.last)
        count = int((reach_m + 12.0) / SPACING_M)
        if not shifts and not bias_m and not cuts_m:
            zeros = [0.0]
            return Line(first=first, offset=zeros, slope=zeros, bend=zeros)
        at = (first + np.arange(count)) * SPACING_M
        left, right = np.zeros(count), np.zeros(count)
        for shift in shifts:
            rise = np.clip((at - shift.start_s + shift.ramp_m) / shift.ramp_m, 0.0, 1.0)
            fall = np.clip((shift.end_s + shift.ramp_m - at) / shift.ramp_m, 0.0, 1.0)
            share = np.minimum(rise, fall)
            share = share**3 * (10 - 15 * share + 6 * share**2)
            if shift.offset_m > 0:
                left = np.maximum(left, shift.offset_m * share)
            else:
                right = np.minimum(right, shift.offset_m * share)
        offset = left + right + bias_m
        if cuts_m:
            bends = np.array(self.curvature[first : first + count])
            bends = np.pad(bends, (0, count - len(bends)), mode="edge")
            offset = offset + cuts_m * np.tanh(np.convolve(bends, np.full(13, 1 / 13), mode="same") / 0.02)
        slope = np.gradient(offset, SPACING_M)
        bend = np.gradient(slope, SPACING_M)
        return Line(first=first, offset=offset.tolist(), slope=slope.tolist(), bend=bend.tolist())

    def follow(self, state: EgoState, s: float) -> tuple[float, float, float]:
        """Arc length, lateral offset and heading error of a state whose arc length is about `s`."""
        i = min(max(round(s / SPACING_M), 0), self.last)
        x, y, yaw = self.frames[i]
        dx, dy = state.x - x, state.y - y
        cos, sin = math.cos(yaw), math.sin(yaw)
        along = cos * dx + sin * dy
        heading = math.remainder(state.yaw - yaw - self.curvature[i] * along, 2 * math.pi)
        return i * SPACING_M + along, cos * dy - sin * dx, heading

    def bend_command(self, s: float, lateral: float, heading: float, speed: float, line: Line) -> float:
        """Curvature [1/m] that follows the line and lets offset and heading error die out, critically damped, over `reach` metres."""
        look = s + 0.15 * speed + 0.6
        ahead = self.curvature[min(int(look / SPACING_M), self.last)]
        if len(line.offset) == 1:
            base, error, slope = ahead, lateral, 0.0
        else:
            offset, slope, _ = line.at(s)
            base = ahead / max(1.0 - ahead * offset, 0.4) + line.at(look)[2]
            error = lateral - offset
        # a car that pulls out from standing behind something turns as tightly as it can
        least = 2.4 if speed < 3.0 and abs(error) > 0.25 else 4.5
        reach = max(least, 0.85 * speed, speed * math.sqrt(abs(error) / 2.0))
        curvature = base - error / reach**2 - 2.0 * math.sin(heading - math.atan(slope)) / reach
        most = max(4.0 / max(speed, 1.0) ** 2, abs(base) + 0.02)
        return most if curvature > most else -most if curvature < -most else curvature

    def steer(self, s: float, lateral: float, heading: float, speed: float, line: Line) -> float:
        """Steering angle [rad] of `bend_command`."""
        return math.atan(VEHICLE.wheel_base_m * self.bend_command(s, lateral, heading, speed, line))

    def drift(self, s: float, lateral: float, heading: float, speed: float, steer: float, line: Line, reach_m: float) -> Sweep:
        """Where the car will really be when it follows the line from its present state."""
        pace = max(speed, 1.5)
        turn = math.tan(steer) / VEHICLE.wheel_base_m
        rate = MAX_STEER_RATE_RPS / VEHICLE.wheel_base_m * _DRIFT_STEP_M / pace
        rows = []
        end, most = s + reach_m, int(_DETOUR * reach_m / _DRIFT_STEP_M)
        while s < end and len(rows) < most:
            bend = self.curvature[min(int(s / SPACING_M), self.last)]
            rows.append((s, lateral, heading, bend))
            if line.flat and abs(lateral) < 0.06 and abs(heading) < 0.012 and abs(turn - bend) < 0.005:
                # on the line for good; bends still swing the bumper outwards
                rows += [(at, 0.0, 0.0, self.curvature[min(int(at / SPACING_M), self.last)]) for at in np.arange(s + 2.0, end, 2.0)]
                break
            wanted = min(max(self.bend_command(s, lateral, heading, pace, line), -_MOST_BEND), _MOST_BEND)
            turn += min(max(wanted - turn, -rate), rate)
            middle = heading + 0.5 * (turn - bend) * _DRIFT_STEP_M
            heading += (turn - bend) * _DRIFT_STEP_M
            lateral += math.sin(middle) * _DRIFT_STEP_M
            s += _DRIFT_STEP_M * math.cos(middle)
        at, rear, angle, bends = np.array(rows).T
        # the front bumper runs ahead of the rear axle, and to the outside of a bend
        front = rear + _OVERHANG_M * np.sin(angle) - 0.5 * bends * _OVERHANG_M**2
        # its outer corner is further ahead where the car stands askew
        return Sweep(rear_s=at, rear_m=rear, front_s=at + VEHICLE.front_m + HALF_WIDTH_M * np.abs(np.sin(angle)), front_m=front)
