"""The expert driver: plans from the current state alone, and says why.

It rolls the bicycle 5 s forward under a return-to-lane steering law and an IDM speed law, against vehicles that keep
their velocity and a lamp that keeps its colour. So it has a sensible plan from any state near the route.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE, Command, Trajectory
from spanvla_ros.geometry import to_local
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim.decision import Decision, situation
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.narrator import Narrator, Scene
from spanvla_ros.sim.route import SPACING_M, Path, Route
from spanvla_ros.sim.world import Actor

CRUISE_MPS = 7.8
FIELD_DISTANCES_M = (4.0, 8.0, 14.0, 20.0, 28.0)
FAR_M = 80.0
LAMPS = {"none": 0.0, "red": 1.0, "yellow": 2.0, "green": 3.0}
_LAMP_RANGE_M = 42.0
_STEP_S, _STEPS = 0.1, 50
_CURVE_ACCELERATION = 1.9
_ACCELERATE, _BRAKE, _HARDEST = 1.5, 2.0, 6.5
_HEADWAY_S, _GAP_M, _LINE_GAP_M = 1.2, 3.5, 1.2
_YELLOW_BRAKING = 3.0
_CLEARANCE_M = 0.35


@dataclass(frozen=True, kw_only=True)
class _Lead:
    """Obstacle in the corridor: arc length of its rear per 0.5 s (inf = not in the corridor), speed along the path."""

    rear_s: list[float]
    speed_mps: float
    kind: str


class Expert:
    """Planner of one episode. The plan depends on the given state only; the wording also on what was said before."""

    def __init__(self, route: Route, seed: int):
        self.route = route
        self._speeds = _speed_profile(route.path)
        self._curvature = route.path.curvature.tolist()
        self._frames = np.column_stack([route.path.xy, route.path.yaw]).tolist()
        self._narrator = Narrator(seed)
        self._near_s = route.start_s

    def plan(self, ego: EgoState, actors: tuple[Actor, ...], lamp: str, stamp_ns: int) -> Decision:
        """Decision for the ego among `actors` under the route's `lamp` (red, yellow, green)."""
        path = self.route.path
        s, lateral, heading = path.project(ego.pose, self._near_s)
        if abs(lateral) > 8.0:
            s, lateral, heading = path.project(ego.pose)
        self._near_s = s
        leads = self._leads(actors, s)
        to_line = path.stop_s - s - VEHICLE.front_m
        shown = lamp if -1.0 < to_line < _LAMP_RANGE_M else "none"
        needed = ego.speed_mps**2 / (2 * max(to_line, 0.1))
        stops = (shown == "red" and needed < _HARDEST) or (shown == "yellow" and needed < _YELLOW_BRAKING)
        stops = stops and to_line > -0.5
        stop_s = path.stop_s - VEHICLE.front_m if stops else math.inf
        states, lead_force, target = self._roll(ego, s, lateral, heading, leads, stop_s)
        poses = np.array([(state.x, state.y, state.yaw) for state in states])
        trajectory = Trajectory(
            stamp_ns=stamp_ns,
            times_s=np.arange(_STEPS + 1) * _STEP_S,
            poses_odom=poses,
            speeds_mps=np.array([state.speed_mps for state in states]),
            accelerations_mps2=np.array([state.acceleration_mps2 for state in states]),
            yaw_rates_rps=np.array([state.yaw_rate_rps for state in states]),
        )
        nearest = min(leads, key=lambda lead: lead.rear_s[0], default=None)
        gap = min(nearest.rear_s[0] - s - VEHICLE.front_m, FAR_M) if nearest else FAR_M
        fields = {
            "lateral_offset_m": lateral,
            "heading_error_rad": heading,
            **{f"curvature_1pm_{d:.0f}": path.curvature_at(s + d) for d in FIELD_DISTANCES_M},
            "lamp": LAMPS[shown],
            "stop_distance_m": min(to_line, FAR_M) if to_line > -1.0 else FAR_M,
            "lead_gap_m": gap,
            "lead_speed_mps": nearest.speed_mps if nearest and gap < FAR_M else 0.0,
            "target_speed_mps": target,
        }
        scene = Scene(
            speed_mps=ego.speed_mps,
            lateral_m=lateral,
            heading_rad=heading,
            lamp=shown,
            stops=stops,
            line_m=to_line,
            gap_m=gap,
            lead_speed_mps=fields["lead_speed_mps"],
            lead_kind=nearest.kind if nearest else "",
            lead_force=lead_force,
            turn=path.turn if -5.0 < path.stop_s - s < 35.0 else Command.STRAIGHT,
            inside=path.stop_s - VEHICLE.front_m - 1.0 < s < path.exit_s - 3.0,
            curvature=self._bend(s, ego.speed_mps),
        )
        topic, words, trace = self._narrator.tell(scene)
        longitudinal, lateral_decision, components = situation(topic, words)
        return Decision(
            waypoints_base=to_local(poses[0], poses[5::5]),
            trajectory=trajectory,
            longitudinal=longitudinal,
            lateral=lateral_decision,
            components=components,
            mode="fast" if trace is None else "slow",
            topic=topic,
            trace=trace,
            fields={name: float(value) for name, value in fields.items()},
        )

    def _bend(self, s: float, speed: float) -> float:
        """Sharpest curvature between here and a look-ahead of 2 s plus 6 m."""
        low = int(s / SPACING_M)
        part = self._curvature[low : low + int((6.0 + 2.0 * speed) / SPACING_M) + 1] or [0.0]
        return max(part, key=abs)

    def _leads(self, actors: tuple[Actor, ...], s: float) -> list[_Lead]:
        """Actors that are, or with constant velocity will be, in the corridor within the next 5 s."""
        path = self.route.path
        here = path.pose(s)[:2]
        near = [a for a in actors if abs(a.x - here[0]) < 70 and abs(a.y - here[1]) < 70]
        if not near:
            return []
        times = np.arange(0, 5.01, 0.5)
        direction = np.array([(math.cos(a.yaw), math.sin(a.yaw)) for a in near])
        centre = np.array([(a.x, a.y) for a in near])
        speed = np.array([a.speed_mps for a in near])
        half = np.array([a.length_m / 2 for a in near])
        along = half[:, None] * np.array([-1.0, 0.0, 1.0])
        # (actor, time, rear/centre/front, xy)
        points = (
            centre[:, None, None]
            + direction[:, None, None] * (along[:, None, :, None] + (speed[:, None] * times)[:, :, None, None])
        )  # fmt: skip
        at, distance = path.project_points(points.reshape(-1, 2), s - 6.0, s + 65.0)
        shape = points.shape[:3]
        reach = np.array([a.width_m / 2 for a in near]) + VEHICLE.width_m / 2 + _CLEARANCE_M
        at = np.where(distance.reshape(shape) < reach[:, None, None], at.reshape(shape), np.inf)
        # what is beside or behind our front bumper is not a lead
        rear = at.min(axis=2)
        ahead = at[:, :1].max(axis=2, initial=-np.inf, where=np.isfinite(at[:, :1])) > s + VEHICLE.center_m
        leads = []
        for k, actor in enumerate(near):
            if not np.isfinite(rear[k]).any() or not (ahead[k, 0] or not np.isfinite(rear[k, 0])):
                continue
            first = int(np.flatnonzero(np.isfinite(rear[k]))[0])
            if first > 4:
                continue
            yaw = path.pose(rear[k, first])[2]
            pace = max(actor.speed_mps * math.cos(actor.yaw - yaw), 0.0)
            # a vehicle that drives along the path stays on it through curves: its rear moves with the pace, not on a straight line
            series = rear[k].copy()
            if first == 0 and abs(math.remainder(actor.yaw - yaw, 2 * math.pi)) < 0.6:
                series = rear[k, 0] + pace * times
            leads.append(_Lead(rear_s=series.tolist(), speed_mps=pace, kind=actor.kind))
        return leads

    def _roll(self, ego: EgoState, s: float, lateral: float, heading: float, leads: list[_Lead], stop_s: float):
        """States after each 0.1 s (51), deceleration asked for by leads at the start, target speed at the start."""
        states = [ego]
        state = ego
        lead_force = target = 0.0
        last = len(self._speeds) - 1
        for k in range(_STEPS):
            speed = state.speed_mps
            limit = self._speeds[min(int((s + 0.4 * speed) / SPACING_M), last)]
            # far from the lane's centre or direction a driver is slow
            limit = min(limit, max(3.0, CRUISE_MPS - 2.2 * max(abs(lateral) - 0.5, 0.0) - 9.0 * max(abs(heading) - 0.12, 0.0)))
            free = min(max(1.1 * (limit - speed), -_HARDEST), _ACCELERATE)
            push = self._lead_push(leads, s, speed, k)
            line = _line_push(stop_s - s, speed)
            if k == 0:
                lead_force, target = push, limit
            acceleration = max(free - max(push, line), -_HARDEST)
            state = bicycle.advance(state, acceleration, self._steer(s, lateral, heading, speed), _STEP_S)
            states.append(state)
            s, lateral, heading = self._follow(state, s + 0.5 * (speed + state.speed_mps) * _STEP_S)
        return states, lead_force, target

    def _follow(self, state: EgoState, s: float) -> tuple[float, float, float]:
        """Arc length, lateral offset and heading error of a state whose arc length is about `s`."""
        i = min(max(round(s / SPACING_M), 0), len(self._frames) - 1)
        x, y, yaw = self._frames[i]
        dx, dy = state.x - x, state.y - y
        cos, sin = math.cos(yaw), math.sin(yaw)
        along = cos * dx + sin * dy
        heading = math.remainder(state.yaw - yaw - self._curvature[i] * along, 2 * math.pi)
        return i * SPACING_M + along, cos * dy - sin * dx, heading

    def _steer(self, s: float, lateral: float, heading: float, speed: float) -> float:
        """Steering angle that follows the path's curvature and lets offset and heading error die out, critically damped, over `reach` metres."""
        last = len(self._curvature) - 1
        ahead = self._curvature[min(int((s + 0.15 * speed + 0.6) / SPACING_M), last)]
        reach = max(4.5, 0.85 * speed, speed * math.sqrt(abs(lateral) / 2.0))
        curvature = ahead - lateral / reach**2 - 2.0 * math.sin(heading) / reach
        most = max(4.0 / max(speed, 1.0) ** 2, abs(ahead) + 0.02)
        return math.atan(VEHICLE.wheel_base_m * min(max(curvature, -most), most))

    def _lead_push(self, leads: list[_Lead], s: float, speed: float, k: int) -> float:
        """Deceleration [m/s^2] that the IDM takes off the free acceleration for the most urgent lead."""
        worst = 0.0
        share = k * _STEP_S / 0.5
        i = int(share)
        for lead in leads:
            rear, later = lead.rear_s[i], lead.rear_s[i + 1]
            if later < math.inf and rear < math.inf:
                rear += (share - i) * (later - rear)
            gap = rear - s - VEHICLE.front_m
            if not -6.0 < gap < 70.0:
                continue
            if speed < 0.4 and lead.speed_mps < 0.4 and gap < _GAP_M + 1.5:
                return 2 * _ACCELERATE
            wanted = _GAP_M + max(0.0, speed * _HEADWAY_S + speed * (speed - lead.speed_mps) / (2 * math.sqrt(_ACCELERATE * _BRAKE)))
            worst = max(worst, _ACCELERATE * (wanted / max(gap, 0.3)) ** 2)
        return worst


def _line_push(gap: float, speed: float) -> float:
    """The same for a stop line `gap` metres ahead of the front bumper (inf: no need to stop)."""
    if gap > 70.0:
        return 0.0
    if speed < 0.5 and gap < _LINE_GAP_M + 0.8:
        return 2 * _ACCELERATE
    wanted = _LINE_GAP_M + speed * 0.7 + speed * speed / (2 * math.sqrt(_ACCELERATE * _BRAKE))
    return _ACCELERATE * (wanted / max(gap, 0.3)) ** 2


def _speed_profile(path: Path) -> list[float]:
    """Highest comfortable speed per sample of the path: curves with 1.9 m/s^2 sideways, slowed down for with 1.2 m/s^2, standing at its end."""
    # neighbours count: a car is longer than a sample
    width = int(2.0 / SPACING_M)
    padded = np.pad(np.abs(path.curvature), width, mode="edge")
    sharp = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1).max(axis=1)
    speeds = np.minimum(CRUISE_MPS, np.sqrt(_CURVE_ACCELERATION / np.maximum(sharp, 1e-4)))
    speeds[-1] = 0.0
    for i in range(len(speeds) - 2, -1, -1):
        speeds[i] = min(speeds[i], math.sqrt(speeds[i + 1] ** 2 + 2 * 1.2 * SPACING_M))
    return speeds.tolist()
