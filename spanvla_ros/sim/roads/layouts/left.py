"""left: left-hand traffic with a signalised crossing, an unsignalised T-junction and bends."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.roads.layouts.plan import Plan
from spanvla_ros.sim.roads.layouts.sketch import SIGNALS, Sketch, direction, rounded

_SPEED_MPS = 8.33


def plan(number: int) -> Plan:
    """Signals at J with ends A0..A2, on the fourth arm the T-junction T with ends B0, B1; a zebra Z on arm 1."""
    rng = np.random.default_rng([number, 105])
    while not (sketch := _draw(rng)).clear():
        pass
    return sketch.plan("--lefthand", "true", "--default.junctions.radius", "10", "--crossings.guess", "true", *SIGNALS)


def _draw(rng: np.random.Generator) -> Sketch:
    turn = rng.uniform(0, 2 * math.pi)
    arms = turn + np.arange(4) * math.pi / 2 + rng.uniform(-0.12, 0.12, 4)
    wide = int(rng.random() < 0.6)  # the road A0 - J - A2 may have two lanes per direction
    sketch = Sketch()
    centre = np.zeros(2)
    sketch.node("J", centre, "traffic_light")
    for k, angle in enumerate(arms[:3]):
        lanes = 1 + wide if k in (0, 2) else 1
        line = _winding(rng, centre, angle, bends=2)
        sketch.node(f"A{k}", line[-1])
        if k == 1:
            middle = centre + 45.0 * direction(angle)
            sketch.node("Z", middle)
            sketch.road("J", "Z", speed_mps=_SPEED_MPS)
            sketch.road("Z", f"A{k}", np.concatenate([middle[None], line[1:]]), speed_mps=_SPEED_MPS)
            sketch.zebra("Z", "J_Z", "Z_J")
        else:
            sketch.road("J", f"A{k}", line, lanes=lanes, speed_mps=_SPEED_MPS)
    knee = centre + rng.uniform(75.0, 95.0) * direction(arms[3])
    ahead = arms[3] + rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 0.7)
    place = knee + rng.uniform(85.0, 105.0) * direction(ahead)
    sketch.node("T", place, "priority_stop" if rng.random() < 0.4 else "priority")
    sketch.road("J", "T", rounded(np.array([centre, knee, place]), [rng.uniform(30.0, 60.0)]), speed_mps=_SPEED_MPS, priority=3)
    side = rng.choice([-1.0, 1.0]) * math.pi / 2
    for k, heading in enumerate((ahead, ahead + side + rng.uniform(-0.1, 0.1))):
        line = _winding(rng, place, heading, bends=1 + (k == 0))
        sketch.node(f"B{k}", line[-1])
        sketch.road("T", f"B{k}", line, speed_mps=_SPEED_MPS, priority=3 if k == 0 else 1)
    return sketch


def _winding(rng: np.random.Generator, start: np.ndarray, heading: float, bends: int) -> np.ndarray:
    """A road (N, 2) from `start` that bends to and fro by about as much."""
    corners, angle = [start], heading
    side = rng.choice([-1.0, 1.0])
    for k in range(bends + 1):
        corners.append(corners[-1] + rng.uniform(62.0, 85.0) * direction(angle))
        angle += side * (-1.0) ** k * rng.uniform(0.5, 0.9)
    return rounded(np.array(corners), np.exp(rng.uniform(math.log(22.0), math.log(60.0), bends)))
