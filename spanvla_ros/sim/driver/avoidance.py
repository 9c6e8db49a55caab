"""Standing things beside and in the lane: how far to move over for them, with whose lanes, and how slowly to go past."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.corridor import HALF_WIDTH_M, Corridor, Shift
from spanvla_ros.sim.driver.speed import Cap

STANDING_MPS = 0.3
_MARGINS_M = (0.6, 0.5, 0.42, 0.35)
_TIGHT_M = 0.25
_WRONG_SIDE_MPS = 5.0
_JOIN_M = 16.0
_PEOPLE_EXTRA_M = 0.35
_FREE_M = 0.75  # beyond this distance nothing has to be done about a standing thing


class Use(enum.IntEnum):
    """Which part of the road passing needs."""

    OWN_LANE = 0
    OWN_DIRECTION = 1
    ONCOMING = 2
    NOTHING_HELPS = 3


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """A standing thing in the corridor's coordinates: arc lengths, and offsets towards the middle of the road (u)."""

    actor: Actor
    start_s: float
    end_s: float
    low: float
    high: float

    @property
    def middle(self) -> float:
        return 0.5 * (self.low + self.high)


@dataclass(frozen=True, kw_only=True)
class Passing:
    """How to get past a cluster of obstacles: offset towards the middle of the road, free distance beside it."""

    obstacles: tuple[Obstacle, ...]
    use: Use
    offset: float
    margin_m: float

    @property
    def start_s(self) -> float:
        return self.obstacles[0].start_s

    @property
    def end_s(self) -> float:
        return max(o.end_s for o in self.obstacles)

    @property
    def main(self) -> Obstacle:
        """The obstacle that asks for most: the one nearest to the lane's centre."""
        return min(self.obstacles, key=lambda o: max(o.low, -o.high))

    def shift(self, side: int, speed: float) -> Shift:
        pace = max(speed, 3.0)
        ramp = max(9.0, pace * math.sqrt(5.8 * abs(self.offset) / 1.1))
        return Shift(
            start_s=self.start_s - VEHICLE.front_m - 0.5, end_s=self.end_s + VEHICLE.rear_m + 1.0, offset_m=side * self.offset, ramp_m=ramp
        )

    def cap(self) -> Cap:
        people = any(o.actor.kind == "pedestrian" for o in self.obstacles)
        speed = 2.5 + (5.0 if people else 6.0) * max(self.margin_m, 0.15) + (2.0 if self.use is Use.OWN_DIRECTION and self.offset > 2 else 0.0)
        if self.use is Use.ONCOMING:
            speed = min(speed, _WRONG_SIDE_MPS)
        return Cap(start_s=self.start_s - VEHICLE.front_m - 4.0, end_s=self.end_s + VEHICLE.rear_m, speed_mps=speed)


def standing(corridor: Corridor, actors: list[Actor], from_s: float, to_s: float) -> list[Obstacle]:
    """Obstacles among `actors` on a stretch, in order."""
    if not actors:
        return []
    corners = np.concatenate([a.corners for a in actors])
    s, d = corridor.frenet(corners, from_s, to_s)
    s, u = s.reshape(-1, 4), d.reshape(-1, 4) * corridor.side
    found = [
        Obstacle(actor=actor, start_s=float(s[k].min()), end_s=float(s[k].max()), low=float(u[k].min()), high=float(u[k].max()))
        for k, actor in enumerate(actors)
        if np.isfinite(s[k]).all() and u[k].min() < 9.0 and u[k].max() > -6.0
    ]
    return sorted(found, key=lambda o: o.start_s)


def clusters(corridor: Corridor, obstacles: list[Obstacle], share: float) -> list[Passing]:
    """One way past each group of obstacles that stand nearer to the lane's centre line than a car needs."""
    near = [o for o in obstacles if _reach(o) < HALF_WIDTH_M + _FREE_M * share]
    groups: list[list[Obstacle]] = []
    for obstacle in near:
        if groups and obstacle.start_s - max(o.end_s for o in groups[-1]) < _JOIN_M:
            groups[-1].append(obstacle)
        else:
            groups.append([obstacle])
    ways = []
    for group in groups:
        start, end = group[0].start_s, max(o.end_s for o in group)
        # what stands further out matters as soon as the car moves over
        around = [o for o in obstacles if o.end_s > start - 4.0 and o.start_s < end + 4.0]
        room = corridor.room(start - 3.0, end + 3.0)
        ways.append(_way(tuple(group), around, room, share))
    return ways


def _reach(obstacle: Obstacle) -> float:
    """Distance of its nearest edge from the lane's centre line (0 where it covers it)."""
    return max(obstacle.low, -obstacle.high, 0.0)


def _extra(obstacle: Obstacle) -> float:
    return _PEOPLE_EXTRA_M if obstacle.actor.kind == "pedestrian" else 0.0


def _way(group: tuple[Obstacle, ...], around: list[Obstacle], room: tuple[float, float, float, float], share: float) -> Passing:
    half_lane, inner, outer, oncoming = room
    lane = max(half_lane - HALF_WIDTH_M, 0.0)
    own = inner - HALF_WIDTH_M - 0.1
    far = inner + oncoming - HALF_WIDTH_M - 0.3
    kerb = outer - HALF_WIDTH_M - 0.12
    best = Passing(obstacles=group, use=Use.NOTHING_HELPS, offset=0.0, margin_m=0.0)
    # split by the side they stand on; then everything on the outer side (pass inside), then everything inside
    splits = [({id(o) for o in around if o.middle < 0.0},), ({id(o) for o in around},), (set(),)]
    for (outside,) in splits:
        low = max((o.high + _extra(o) for o in around if id(o) in outside), default=-math.inf) + HALF_WIDTH_M
        high = min((o.low - _extra(o) for o in around if id(o) not in outside), default=math.inf) - HALF_WIDTH_M
        found = _fit(group, low, high, lane, own, far, kerb, half_lane, share)
        if found is not None and (found.use, abs(found.offset)) < (best.use, abs(best.offset) if best.use < Use.NOTHING_HELPS else math.inf):
            best = found
    return best


def _fit(group, low: float, high: float, lane: float, own: float, far: float, kerb: float, half_lane: float, share: float) -> Passing | None:
    """The least offset between `low` and `high` (limits for the car's centre line when it touches) with a margin to both and on the road."""
    for use, most in ((Use.OWN_LANE, lane), (Use.OWN_DIRECTION, own), (Use.ONCOMING, far)):
        least = -(min(lane, kerb) if use is Use.OWN_LANE else kerb)
        for margin in (*_MARGINS_M, _TIGHT_M):
            margin *= share
            a, b = max(low + margin, least), min(high - margin, most)
            if a > b + 1e-9 or low + margin > most or high - margin < least:
                continue
            if margin < 0.3 * share and use is Use.OWN_LANE and high == math.inf and own > half_lane + 1.5:
                continue  # a free lane beside is better than squeezing past
            offset = min(max(0.0, a), b)
            if use is Use.ONCOMING:
                # rather a little closer than with the middle of the car on the wrong side
                least_needed = low + _MARGINS_M[-1] * share
                border = half_lane - 0.15
                if least_needed < border < offset:
                    offset, margin = border, margin - (offset - border)
            if use is Use.OWN_DIRECTION and abs(offset) > lane + 0.3:
                # the whole neighbouring lane rather than two halves
                whole = math.copysign(2 * half_lane, offset)
                offset = whole if a <= whole <= b else offset
            return Passing(obstacles=group, use=use, offset=offset, margin_m=margin)
    return None
