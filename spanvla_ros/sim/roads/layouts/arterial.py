"""arterial: a gently curved dual carriageway with two or three lanes per direction, an on-ramp and one signalised crossing."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.roads.layouts.plan import Plan
from spanvla_ros.sim.roads.layouts.sketch import SIGNALS, Sketch, direction, rounded, shifted

_SPEED_MPS = 13.89
_RAMP_MPS = 11.11
_SIDE_MPS = 8.33
_LANE_M = 3.5
_MEDIAN_M = 2.4


def plan(number: int) -> Plan:
    """Eastbound W -> R (ramp joins) -> M (ramp's lane ends) -> J -> E, westbound E' -> J -> W'; side street S - J - N, ramp from A."""
    rng = np.random.default_rng([number, 103])
    lanes = 2 + int(rng.random() < 0.5)
    line = _line(rng)
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    ramp_s = rng.uniform(290.0, 320.0)
    end_s = ramp_s + rng.uniform(110.0, 140.0)
    cross_s = end_s + rng.uniform(270.0, 310.0)
    sketch = Sketch()
    east, west = shifted(line, -_MEDIAN_M / 2), shifted(line, _MEDIAN_M / 2)
    crossing = _at(line, along, cross_s)
    for name, at in (
        ("W", east[0]),
        ("R", _at(east, along, ramp_s)),
        ("M", _at(east, along, end_s)),
        ("E", east[-1]),
        ("We", west[0]),
        ("Ee", west[-1]),
    ):
        sketch.node(name, at, radius_m=1.0 if name in "RM" else None)
    sketch.node("J", crossing, "traffic_light")
    main = {"speed_mps": _SPEED_MPS, "priority": 5, "sidewalk_m": 0.0}
    for a, b, start, end, more in (
        ("W", "R", 0.0, ramp_s, 0),
        ("R", "M", ramp_s, end_s, 1),
        ("M", "J", end_s, cross_s, 0),
        ("J", "E", cross_s, along[-1], 0),
    ):
        sketch.edge(f"{a}_{b}", (a, b), _part(east, along, start, end), lanes=lanes + more, **main)
    sketch.edge("Ee_J", ("Ee", "J"), _part(west, along, cross_s, along[-1])[::-1], lanes=lanes, **main)
    sketch.edge("J_We", ("J", "We"), _part(west, along, 0.0, cross_s)[::-1], lanes=lanes, **main)
    sketch.connect("W_R", "R_M", [(k, k + 1) for k in range(lanes)])
    sketch.connect("A_R", "R_M", [(0, 0)])
    sketch.connect("R_M", "M_J", [(k + 1, k) for k in range(lanes)])
    heading = _heading(line, along, ramp_s)
    # the ramp's one lane ends where the added lane begins
    last = _at(east, along, ramp_s) + (lanes + 0.5) * _LANE_M * direction(heading - math.pi / 2)
    bend = rng.uniform(0.35, 0.55)
    knee = last - 75.0 * direction(heading)
    start = knee - rng.uniform(150.0, 190.0) * direction(heading + bend)
    sketch.node("A", start)
    sketch.edge("A_R", ("A", "R"), rounded(np.array([start, knee, last]), [170.0]), speed_mps=_RAMP_MPS, sidewalk_m=0.0, spread="center")
    across = _heading(line, along, cross_s) + math.pi / 2 + rng.uniform(-0.12, 0.12)
    for name, angle in (("N", across), ("S", across + math.pi)):
        knee = crossing + 75.0 * direction(angle)
        end = knee + rng.uniform(80.0, 110.0) * direction(angle + rng.uniform(-0.5, 0.5))
        sketch.node(name, end)
        sketch.road("J", name, rounded(np.array([crossing, knee, end]), [60.0]), speed_mps=_SIDE_MPS, sidewalk_m=0.0)
    return sketch.plan("--default.junctions.radius", "11", *SIGNALS)


def _line(rng: np.random.Generator) -> np.ndarray:
    """Middle of the median (N, 2), about 1.1 km from west to east, a point every few metres."""
    corners = [np.zeros(2)]
    heading = rng.uniform(-0.15, 0.15)
    for turn in (1.0, -1.0, rng.choice([-1.0, 1.0]), 0.0):
        corners.append(corners[-1] + rng.uniform(255.0, 295.0) * direction(heading))
        heading += turn * rng.uniform(0.2, 0.36)
    line = rounded(np.array(corners), rng.uniform(260.0, 480.0, len(corners) - 2))
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    at = np.arange(0.0, along[-1], 4.0)
    return np.stack([np.interp(at, along, line[:, k]) for k in (0, 1)], axis=-1)


def _at(line: np.ndarray, along: np.ndarray, s: float) -> np.ndarray:
    return np.array([np.interp(s, along, line[:, k]) for k in (0, 1)])


def _heading(line: np.ndarray, along: np.ndarray, s: float) -> float:
    step = _at(line, along, s + 2.0) - _at(line, along, s - 2.0)
    return math.atan2(step[1], step[0])


def _part(line: np.ndarray, along: np.ndarray, start: float, end: float) -> np.ndarray:
    inside = line[(along > start + 1.0) & (along < end - 1.0)]
    return np.concatenate([_at(line, along, start)[None], inside, _at(line, along, end)[None]])
