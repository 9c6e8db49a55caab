"""roundabout: four arms round an island, and an unsignalised crossing or T with yield or stop lines at one of them."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.roads.layouts.plan import Plan
from spanvla_ros.sim.roads.layouts.sketch import Sketch, direction, rounded

_SPEED_MPS = 8.33
_SPLIT_M = 24.0  # from the circle outward: where the directions of an arm part


def plan(number: int) -> Plan:
    """Arm k: end A<k>, zebra at the split P<k>, entry I<k> and exit X<k> on the circle; arm 0 leads to the crossing U with ends B0..B2."""
    rng = np.random.default_rng([number, 104])
    while not (sketch := _draw(rng)).clear():
        pass
    return sketch.plan("--default.junctions.radius", "10")


def _draw(rng: np.random.Generator) -> Sketch:
    radius = rng.uniform(20.0, 24.0)
    turn = rng.uniform(0, 2 * math.pi)
    arms = turn + np.arange(4) * math.pi / 2 + rng.uniform(-0.09, 0.09, 4)
    spread = 8.2 / radius  # half the angle between exit and entry of an arm
    sketch = Sketch()
    around: list[tuple[str, float]] = []
    for k, angle in enumerate(arms):
        around += [(f"X{k}", angle - spread), (f"I{k}", angle + spread)]
    for name, angle in around:
        sketch.node(name, radius * direction(angle), radius_m=3.0)
    for (a, start), (b, end) in zip(around, [*around[1:], (around[0][0], around[0][1] + 2 * math.pi)]):
        angles = np.linspace(start, end, max(4, math.ceil((end - start) * radius)))
        circle = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        sketch.edge(f"{a}_{b}", (a, b), circle, speed_mps=_SPEED_MPS, priority=6, spread="center")
    for k, angle in enumerate(arms):
        split = (radius + _SPLIT_M) * direction(angle)
        sketch.node(f"P{k}", split)
        for name, (a, b), left in ((f"P{k}_I{k}", (f"P{k}", f"I{k}"), spread), (f"X{k}_P{k}", (f"X{k}", f"P{k}"), -spread)):
            # the lane's own line: beside the middle at the split, onto the circle at about 45 degrees
            side = math.copysign(1.0, left)
            outside = split + side * 1.75 * direction(angle + math.pi / 2)
            inside = radius * direction(angle + left)
            knee = inside + 9.0 * direction(angle + left - side * 0.62)
            points = rounded(np.array([outside, knee, inside]), [24.0])
            sketch.edge(name, (a, b), points if side > 0 else points[::-1], speed_mps=_SPEED_MPS, priority=2, spread="center")
        if k:
            knee = split + rng.uniform(60.0, 90.0) * direction(angle)
            end = knee + rng.uniform(90.0, 120.0) * direction(angle + rng.uniform(-0.5, 0.5))
            sketch.node(f"A{k}", end)
            sketch.road(f"P{k}", f"A{k}", rounded(np.array([split, knee, end]), [rng.uniform(40.0, 80.0)]), speed_mps=_SPEED_MPS, priority=2)
        outward, inward = (f"P{k}_A{k}", f"A{k}_P{k}") if k else ("P0_U", "U_P0")
        sketch.zebra(f"P{k}", outward, inward)
        sketch.connect(f"X{k}_P{k}", outward, [(1, 1)])
        sketch.connect(inward, f"P{k}_I{k}", [(1, 1)])
    _crossing(sketch, rng, (radius + _SPLIT_M) * direction(arms[0]), arms[0])
    return sketch


def _crossing(sketch: Sketch, rng: np.random.Generator, start: np.ndarray, angle: float) -> None:
    """U at the end of arm 0: the way on has priority, the side roads give way or stop."""
    knee = start + rng.uniform(70.0, 90.0) * direction(angle)
    ahead = angle + rng.uniform(-0.35, 0.35)
    place = knee + rng.uniform(90.0, 110.0) * direction(ahead)
    sketch.node("U", place, "priority_stop" if rng.random() < 0.5 else "priority")
    sketch.road("P0", "U", rounded(np.array([start, knee, place]), [rng.uniform(40.0, 70.0)]), speed_mps=_SPEED_MPS, priority=3)
    sides = [1.0, -1.0] if rng.random() < 0.5 else [rng.choice([-1.0, 1.0])]
    for k, heading in enumerate([ahead, *(ahead + side * (math.pi / 2 + rng.uniform(-0.1, 0.1)) for side in sides)]):
        bend = place + rng.uniform(60.0, 80.0) * direction(heading)
        end = bend + rng.uniform(80.0, 100.0) * direction(heading + rng.uniform(-0.35, 0.35))
        sketch.node(f"B{k}", end)
        line = rounded(np.array([place, bend, end]), [rng.uniform(30.0, 60.0)])
        sketch.road("U", f"B{k}", line, speed_mps=_SPEED_MPS, priority=3 if k == 0 else 1)
