"""The actors that a scenario brings along: each follows a track and a list of phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.actor import SIZES, Actor
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.route import Path

_SPACING_M = 0.5
_NEAR_M = 45.0
_GAP_M, _HEADWAY_S, _BRAKE = 3.0, 1.2, 2.5
_HARDEST = 6.0


@dataclass(frozen=True, kw_only=True)
class Track:
    """A line to move along: xy (N, 2) and unwrapped yaw (N,) every 0.5 m."""

    xy: np.ndarray
    yaw: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray) -> Track:
        """Track of a polyline (M, 2)."""
        distance = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
        at = np.arange(0, distance[-1] + 1e-9, _SPACING_M)
        xy = np.stack([np.interp(at, distance, points[:, k]) for k in (0, 1)], axis=-1)
        step = np.gradient(xy, axis=0)
        return cls(xy=xy, yaw=np.unwrap(np.arctan2(step[:, 1], step[:, 0])))

    @property
    def length_m(self) -> float:
        return (len(self.xy) - 1) * _SPACING_M

    def pose(self, s: float, lateral_m: float) -> tuple[float, float, float]:
        """x, y, yaw at arc length s, `lateral_m` to the left; beyond its ends the track goes straight on."""
        at = min(max(s, 0.0), self.length_m)
        i = min(int(at / _SPACING_M), len(self.xy) - 2)
        share = at / _SPACING_M - i
        yaw = float(self.yaw[i] + share * (self.yaw[i + 1] - self.yaw[i]))
        x, y = self.xy[i] + share * (self.xy[i + 1] - self.xy[i])
        along = s - at
        cos, sin = math.cos(yaw), math.sin(yaw)
        return float(x + along * cos - lateral_m * sin), float(y + along * sin + lateral_m * cos), yaw

    def project(self, x: float, y: float) -> tuple[float, float]:
        """Arc length and lateral offset (left positive) of a point."""
        delta = np.array([x, y]) - self.xy
        i = int(np.argmin(delta[:, 0] ** 2 + delta[:, 1] ** 2))
        cos, sin = math.cos(self.yaw[i]), math.sin(self.yaw[i])
        return i * _SPACING_M + float(delta[i] @ (cos, sin)), float(delta[i] @ (-sin, cos))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """`PhaseSpec` with its values drawn; lateral_m is left positive on the actor's track."""

    ego_gap_m: float | None
    ego_eta_s: float | None
    after_s: float | None
    speed_mps: float | None
    acceleration_mps2: float
    lateral_m: float | None
    over_s: float


@dataclass(frozen=True, kw_only=True)
class Role:
    """One actor at the start: station s and offset on its track, speed, and what it does later. meet_s: station on the ego's path that
    the triggers count to."""

    name: str
    kind: str
    track: Track
    s: float
    lateral_m: float
    speed_mps: float
    meet_s: float
    turned_rad: float = 0.0
    careful: bool = True
    paint: int = 0
    phases: tuple[Phase, ...] = ()


@dataclass(kw_only=True)
class _Player:
    """A role while it is played."""

    role: Role
    s: float
    lateral_m: float
    speed_mps: float
    target_mps: float
    acceleration_mps2: float = 2.0
    braking: bool = False
    walked_m: float = 0.0
    slide: tuple[float, float, float] | None = None  # from, to, seconds
    slid_s: float = 0.0
    since_s: float = 0.0
    left: list[Phase] = field(default_factory=list)


class Cast:
    """All scripted actors of an episode. `step` moves them; `actors` is how they stand now."""

    def __init__(self, roles: Sequence[Role]):
        self._players = [
            _Player(role=r, s=r.s, lateral_m=r.lateral_m, speed_mps=r.speed_mps, target_mps=r.speed_mps, left=list(r.phases)) for r in roles
        ]
        self.actors: tuple[Actor, ...] = tuple(self._actor(p) for p in self._players)

    def step(self, seconds: float, ego: EgoState, path: Path, route_s: float, others: Sequence[Actor]) -> None:
        """Move everybody by one step. `others`: the traffic beside the cast."""
        moving = [p for p in self._players if p.left or p.speed_mps or p.target_mps or p.slide]
        if not moving:
            return
        around = (*others, *self.actors)
        for player in moving:
            self._cue(player, seconds, ego, path, route_s)
            self._move(player, seconds, ego, around)
        self.actors = tuple(self._actor(p) for p in self._players)

    def _cue(self, player: _Player, seconds: float, ego: EgoState, path: Path, route_s: float) -> None:
        """Begin the next phase when its conditions hold."""
        player.since_s += seconds
        if not player.left:
            return
        phase = player.left[0]
        front_s = route_s + VEHICLE.front_m
        if phase.ego_gap_m is not None:
            x, y, _ = player.role.track.pose(player.s, player.lateral_m)
            here, _ = path.project_points(np.array([[x, y]]), route_s - 20.0, route_s + 120.0)
            if here[0] - SIZES[player.role.kind][0] / 2 - front_s > phase.ego_gap_m:
                return
        if phase.ego_eta_s is not None and (player.role.meet_s - front_s) / max(ego.speed_mps, 2.0) > phase.ego_eta_s:
            return
        if phase.after_s is not None and player.since_s < phase.after_s:
            return
        player.left.pop(0)
        player.since_s = 0.0
        player.acceleration_mps2 = phase.acceleration_mps2
        if phase.speed_mps is not None:
            player.target_mps = phase.speed_mps
        if phase.lateral_m is not None:
            player.slide, player.slid_s = (player.lateral_m, phase.lateral_m, phase.over_s), 0.0

    def _move(self, player: _Player, seconds: float, ego: EgoState, around: Sequence[Actor]) -> None:
        wanted = (player.target_mps - player.speed_mps) / seconds
        acceleration = min(max(wanted, -player.acceleration_mps2), player.acceleration_mps2)
        if player.role.careful and player.speed_mps > 0.1:
            acceleration = min(acceleration, self._caution(player, ego, around))
        before = player.speed_mps
        player.speed_mps = max(before + acceleration * seconds, 0.0)
        player.braking = acceleration < -0.5 or (player.speed_mps < 0.1 and player.target_mps < 0.1)
        player.s += 0.5 * (before + player.speed_mps) * seconds
        player.walked_m += player.speed_mps * seconds
        if player.slide is not None:
            start, end, lasting = player.slide
            player.slid_s += seconds
            share = min(player.slid_s / lasting, 1.0)
            player.lateral_m = start + (end - start) * share * share * (3 - 2 * share)
            player.slide = None if share >= 1.0 else player.slide

    @staticmethod
    def _caution(player: _Player, ego: EgoState, around: Sequence[Actor]) -> float:
        """Acceleration that keeps the distance to whatever is ahead on the track."""
        role = player.role
        x, y, yaw = role.track.pose(player.s, player.lateral_m)
        length, width, _ = SIZES[role.kind]
        cos, sin = math.cos(yaw), math.sin(yaw)
        centre = ego.x + VEHICLE.center_m * math.cos(ego.yaw), ego.y + VEHICLE.center_m * math.sin(ego.yaw)
        things = [(*centre, ego.yaw, ego.speed_mps, VEHICLE.length_m, VEHICLE.width_m)]
        things += [(a.x, a.y, a.yaw, a.speed_mps, a.length_m, a.width_m) for a in around if a.name != role.name]
        least = math.inf
        for other_x, other_y, other_yaw, speed, other_length, other_width in things:
            dx, dy = other_x - x, other_y - y
            if not -2.0 < cos * dx + sin * dy < _NEAR_M or abs(cos * dy - sin * dx) > 12.0:
                continue
            s, lateral = role.track.project(other_x, other_y)
            if s <= player.s or abs(lateral - player.lateral_m) > (width + other_width) / 2 + 0.3:
                continue
            gap = max(s - player.s - (length + other_length) / 2, 0.3)
            pace = max(speed * math.cos(other_yaw - yaw), 0.0)
            closing = player.speed_mps * (player.speed_mps - pace) / (2 * math.sqrt(2.0 * _BRAKE))
            desired = _GAP_M + max(player.speed_mps * _HEADWAY_S + closing, 0.0)
            least = min(least, 2.0 * (1 - (desired / gap) ** 2))
        return max(least, -_HARDEST)

    @staticmethod
    def _actor(player: _Player) -> Actor:
        role = player.role
        x, y, yaw = role.track.pose(player.s, player.lateral_m)
        length, width, height = SIZES[role.kind]
        indicator = ""
        if player.slide is not None and player.speed_mps > 1.0:
            start, end, lasting = player.slide
            share = player.slid_s / lasting
            yaw += math.atan2((end - start) / lasting * 6 * share * (1 - share), player.speed_mps)
            indicator = "left" if end > start else "right"
        return Actor(
            name=role.name,
            kind=role.kind,
            x=x,
            y=y,
            yaw=math.remainder(yaw + role.turned_rad, 2 * math.pi),
            length_m=length,
            width_m=width,
            height_m=height,
            speed_mps=player.speed_mps,
            braking=player.braking,
            paint=role.paint,
            indicator=indicator,
            gait_m=player.walked_m,
        )
