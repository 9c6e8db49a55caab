"""Speed along the route: 5 s of one-dimensional driving under curves, leads and places to stop at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.driver.prediction import TIMES_S
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.ego import ACCELERATION_LAG_S, MAX_BRAKING_MPS2
from spanvla_ros.sim.roads.route import SPACING_M, Path

STEP_S, STEPS = 0.1, 50
_GRID_S = float(TIMES_S[1])
_HARDEST = 6.8
_SLOW_DOWN = 1.2  # for curves and caps [m/s^2]
_JERK_UP, _JERK_DOWN, _JERK_URGENT, _JERK_EMERGENCY = 3.0, 4.0, 9.0, 50.0
_GENTLE = 2.0
_SHORT_M = 1.2
_LAG = 1 - math.exp(-STEP_S / ACCELERATION_LAG_S)


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Something to stay behind: arc length of its rear at TIMES_S (inf: not there), speed along the path. gentle: no hard braking for it yet;
    extra_m: gap beyond the usual one."""

    rear_s: list[float]
    speed_mps: float
    gentle: bool = False
    extra_m: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Halt:
    """A place the front bumper must not pass before `until_s` from now; it comes to rest 1.2 m short of it."""

    s: float
    until_s: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Cap:
    """A speed limit of its own between two arc lengths of the rear axle."""

    start_s: float
    end_s: float
    speed_mps: float


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """s (51,) of the rear axle and speeds (51,) every 0.1 s, commanded accelerations (50,); at the start: deceleration that leads and halts
    ask for, and the target speed."""

    s: list[float]
    speeds: list[float]
    commands: list[float]
    lead_push: float
    halt_push: float
    target_mps: float

    @property
    def times(self) -> np.ndarray:
        return np.arange(len(self.s)) * STEP_S


def profile(path: Path, style: Style) -> list[float]:
    """Highest comfortable speed per sample of the path: cruise speed and curves, slowed down for with 1.2 m/s^2, standing at its end."""
    # neighbours count: a car is longer than a sample
    width = int(2.0 / SPACING_M)
    padded = np.pad(np.abs(path.curvature), width, mode="edge")
    sharp = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1).max(axis=1)
    cruise = style.cruise_share * path.limit_mps * (1 - 0.6 * style.hesitates)
    speeds = np.minimum(cruise, np.sqrt(style.curve_acceleration_mps2 / np.maximum(sharp, 1e-4)))
    speeds[-1] = 0.0
    values = speeds.tolist()
    for i in range(len(values) - 2, -1, -1):
        values[i] = min(values[i], math.sqrt(values[i + 1] ** 2 + 2 * _SLOW_DOWN * SPACING_M))
    return values


def roll(
    style: Style,
    speeds: list[float],
    start: tuple[float, float, float],
    leads: list[Lead],
    halts: list[Halt],
    caps: list[Cap],
    error: tuple[float, float],
) -> SpeedPlan:
    """Drive from `start` (arc length, speed, acceleration). error: offset [m] and heading error [rad] to the line, which dies out as
    the car goes on."""
    s, speed, actual = start
    command = actual
    begin = s
    places, pace, commands = [s], [speed], []
    last = len(speeds) - 1
    first = (0.0, 0.0, 0.0)
    for k in range(STEPS):
        limit = speeds[min(int((s + 0.4 * speed) / SPACING_M), last)]
        fade = math.exp((begin - s) / 8.0)
        # far from the lane's centre or direction a driver is slow
        excess = 2.2 * max(error[0] * fade - 0.5, 0.0) + 9.0 * max(error[1] * fade - 0.12, 0.0)
        if excess:
            limit = min(limit, max(3.0, limit - excess))
        for cap in caps:
            if s < cap.end_s:
                limit = min(limit, math.sqrt(cap.speed_mps**2 + 2 * _SLOW_DOWN * max(cap.start_s - s - 0.3 * speed, 0.0)))
        free = min(max(1.1 * (limit - speed), -_HARDEST), style.accelerate_mps2)
        lead = _lead_push(style, leads, s, speed, k) if leads else 0.0
        halt = 0.0
        for stop in halts:
            if k * STEP_S < stop.until_s:
                halt = max(halt, _halt_push(style, stop.s - s - VEHICLE.front_m, speed))
        if k == 0:
            first = (lead, halt, limit)
        wanted = max(free - max(lead, halt), -_HARDEST)
        fall = _JERK_DOWN if wanted > -2.4 else _JERK_URGENT if wanted > -3.6 else _JERK_EMERGENCY
        rise = _JERK_URGENT if command < -2.4 else _JERK_UP
        # under a steady jerk the command is one lag ahead of what the car does
        lasting = STEP_S if k else STEP_S + ACCELERATION_LAG_S
        command = min(max(wanted, command - fall * lasting), command + rise * lasting)
        commands.append(command)
        actual += (max(command, -MAX_BRAKING_MPS2) - actual) * _LAG
        after = speed + actual * STEP_S
        if after <= 0.0:
            after, actual, command = 0.0, 0.0, max(command, -0.5)
        s += 0.5 * (speed + after) * STEP_S
        speed = after
        places.append(s)
        pace.append(speed)
    return SpeedPlan(s=places, speeds=pace, commands=commands, lead_push=first[0], halt_push=first[1], target_mps=first[2])


def _lead_push(style: Style, leads: list[Lead], s: float, speed: float, k: int) -> float:
    """Deceleration [m/s^2] that the IDM takes off the free acceleration for the most urgent lead."""
    worst = 0.0
    share = k * STEP_S / _GRID_S
    i = int(share)
    for lead in leads:
        rear, later = lead.rear_s[i], lead.rear_s[i + 1]
        if later < math.inf and rear < math.inf:
            rear += (share - i) * (later - rear)
        gap = rear - s - VEHICLE.front_m
        rest = style.gap_m + lead.extra_m
        if not -6.0 < gap < 90.0:
            continue
        if speed < 0.4 and lead.speed_mps < 0.4 and gap < rest + min(1.5, 0.4 * rest):
            return 2 * style.accelerate_mps2
        if lead.gentle:
            # it is not in the lane yet: whoever is still beside it drops back, no more
            gap = max(gap, 3.0)
        needed = max(speed - max(lead.speed_mps, 0.0), 0.0) ** 2 / (2 * max(gap - 1.0, 0.3))
        if needed < style.late_braking_mps2 and gap > 2.0:
            continue
        braking = speed * (speed - lead.speed_mps) / (2 * math.sqrt(1.5 * style.brake_mps2))
        wanted = rest + max(0.0, speed * style.headway_s + braking)
        push = 1.5 * (wanted / max(gap, 0.3)) ** 2
        # what can still be reached softly is not braked for harder than that
        tight = 3.5 * max(1.0 - gap / (rest + 0.6 * speed), 0.0)
        push = min(push, 1.5 + max(1.6, 1.5 * needed) + tight) if gap > 2.0 else push
        worst = max(worst, min(push, 1.5 + max(_GENTLE, 1.3 * needed) + tight) if lead.gentle else push)
    return worst


def _halt_push(style: Style, gap: float, speed: float) -> float:
    """The same for a place to stop at, `gap` metres ahead of the front bumper."""
    if gap > 90.0 or gap < -4.0:
        return 0.0
    if speed < 0.5 and gap < _SHORT_M + 0.8:
        return 2 * style.accelerate_mps2
    needed = speed * speed / (2 * max(gap, 0.3))
    if needed < style.late_braking_mps2:
        return 0.0
    if style.late_braking_mps2:
        return 1.5 + 1.1 * needed
    wanted = _SHORT_M + speed * 0.7 + speed * speed / (2 * math.sqrt(1.5 * style.brake_mps2))
    return 1.5 * (wanted / max(gap, 0.3)) ** 2


def push(style: Style, s: float, speed: float, *, lead: Lead | None = None, halt: Halt | None = None) -> float:
    """Deceleration [m/s^2] that one lead or halt asks for now."""
    if lead is not None:
        return _lead_push(style, [lead], s, speed, 0)
    return _halt_push(style, halt.s - s - VEHICLE.front_m, speed) if halt is not None else 0.0
