"""Passing somebody slow on a road with several lanes: when to move to the inner lane, how long to stay there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.corridor import Corridor, Shift

_SLOW_SHARE = 0.6
_LOOK_M = 55.0
_BEHIND_M = 7.0
_FIRST_SHARE = 0.15
_KNOTS = np.linspace(0.0, 1.0, 41)
_SHARES = _KNOTS**3 * (10 - 15 * _KNOTS + 6 * _KNOTS**2)


@dataclass(frozen=True, kw_only=True)
class Traveller:
    """A vehicle that drives along the path: arc length of its centre, offset towards the middle of the road."""

    actor: Actor
    s: float
    u: float


def travellers(corridor: Corridor, actors: list[Actor], s: float) -> list[Traveller]:
    """Vehicles on the lanes of our direction around arc length `s`, whatever their lane."""
    cars = [a for a in actors if not a.is_static and a.kind != "pedestrian"]
    if not cars:
        return []
    at, d = corridor.frenet(np.array([(a.x, a.y) for a in cars]), s - 45.0, s + 80.0)
    yaw = corridor.yaw_at(at)
    return [
        Traveller(actor=a, s=float(at[k]), u=float(d[k] * corridor.side))
        for k, a in enumerate(cars)
        if math.isfinite(at[k]) and math.cos(a.yaw - yaw[k]) > 0.7 and -6.0 < d[k] * corridor.side < 6.0
    ]


def overtake(
    corridor: Corridor, around: list[Traveller], s: float, u: float, speed: float, cruise: float, free_m: float
) -> tuple[Shift, Traveller] | None:
    """The lane change that passes the next slow vehicle of the own lane, with that vehicle; None where there is none or no lane for it.

    u: the ego's offset towards the middle; free_m: distance to the next junction, up to where one must be back.
    """
    half, inner, _, _ = corridor.room(s, s + 40.0)
    width = 2 * half
    if inner < half + width - 0.4:
        return None
    own = [t for t in around if abs(t.u) < 0.6 * half]
    beside = u > 0.35 * width
    near = s - VEHICLE.rear_m - (_BEHIND_M if beside else 0.0)
    slow = [
        t for t in own
        if t.s + t.actor.length_m / 2 > near and t.s - s < _LOOK_M and 0.5 < t.actor.speed_mps < (_SLOW_SHARE + 0.25 * beside) * cruise
    ]  # fmt: skip
    if not beside:
        # only somebody right ahead, and nobody as slow ahead of him in the other lane
        slow = [t for t in slow if t.s - s - t.actor.length_m / 2 - VEHICLE.front_m < 12.0 + 2.2 * speed and t.s > s]
        slow = slow[:1] if slow else []
    if not slow or (not beside and _too_close(slow[0], s, speed)):
        return None
    last = max(slow, key=lambda t: t.s)
    others = [t for t in around if abs(t.u - width) < 0.6 * half and s + VEHICLE.front_m < t.s < last.s + 30.0]
    if not beside and any(t.actor.speed_mps < last.actor.speed_mps + 1.5 for t in others):
        return None
    faster = max(cruise - last.actor.speed_mps, 1.0)
    way = (max(last.s - s, 0.0) + last.actor.length_m / 2 + VEHICLE.length_m + _BEHIND_M) * cruise / faster
    pace = max(speed, 4.0)
    ramp = max(14.0, pace * math.sqrt(5.8 * width / 1.0))
    if not beside and way + ramp > free_m:
        return None
    # the change goes on from where the car is: the ramp's share that belongs to its present offset is behind it
    done = max(_progress(u / width), _FIRST_SHARE)
    return Shift(start_s=s + ramp * (1 - done), end_s=s + min(way, free_m), offset_m=corridor.side * (width - 0.12), ramp_m=ramp), last


def back(corridor: Corridor, s: float, u: float, speed: float) -> Shift:
    """The way back to the own lane's centre from an offset `u` towards the middle, as the second half of a lane change."""
    pace = max(speed, 4.0)
    ramp = max(14.0, pace * math.sqrt(5.8 * abs(u) / 1.0))
    done = max(1.0 - _progress(0.97), _FIRST_SHARE)
    return Shift(start_s=s - 2 * ramp, end_s=s - ramp * done, offset_m=corridor.side * u / _share(1.0 - done), ramp_m=ramp)


def stay(corridor: Corridor, s: float, u: float) -> Shift:
    """On the inner lane until further notice."""
    width = 2 * corridor.room(s, s + 1.0)[0]
    return Shift(start_s=s - 1.0, end_s=s + 200.0, offset_m=corridor.side * math.copysign(width, u), ramp_m=12.0)


def _too_close(slow: Traveller, s: float, speed: float) -> bool:
    """Too late to swing out behind somebody."""
    gap = slow.s - slow.actor.length_m / 2 - s - VEHICLE.front_m
    return gap < max(5.0, 2.2 * (speed - slow.actor.speed_mps))


def _share(progress: float) -> float:
    return progress**3 * (10 - 15 * progress + 6 * progress**2)


def _progress(share: float) -> float:
    """Where along a ramp (0 to 1) the line has this share of its offset."""
    return float(np.interp(share, _SHARES, _KNOTS))
