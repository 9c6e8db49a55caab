"""town: one signalised junction with 3-4 winding arms."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.roads.layouts.plan import Plan

_SPEED_MPS = 8.33


def plan(number: int) -> Plan:
    """Edges i<k> lead to the junction J, edges o<k> away from it."""
    rng = np.random.default_rng([number, 77])
    count = 4 if rng.random() < 0.7 else 3
    turn = rng.uniform(0, 2 * math.pi)
    while True:
        headings = [turn + k * math.pi / 2 + rng.uniform(-0.15, 0.15) for k in range(count)]
        arms = [_arm(rng, heading) for heading in headings]
        if _apart(arms):
            break
    nodes = ['<node id="J" x="0" y="0" type="traffic_light"/>']
    edges = []
    for k, arm in enumerate(arms):
        lanes = 1 if rng.random() < 0.6 else 2
        nodes.append(f'<node id="O{k}" x="{arm[-1, 0]:.2f}" y="{arm[-1, 1]:.2f}"/>')
        for name, start, end, shape in ((f"o{k}", "J", f"O{k}", arm), (f"i{k}", f"O{k}", "J", arm[::-1])):
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)
            edges.append(
                f'<edge id="{name}" from="{start}" to="{end}" numLanes="{lanes}" speed="{_SPEED_MPS}" shape="{points}" sidewalkWidth="2.0"/>'
            )
    options = ("--junctions.internal-link-detail", "12", "--default.junctions.radius", "11", "--crossings.guess", "true")
    return Plan(nodes="".join(nodes), edges="".join(edges), options=options)


def _arm(rng: np.random.Generator, heading: float) -> np.ndarray:
    """Centre line (N, 2) of one arm from the junction outward: straights and arcs that stay within 0.7 rad of the start."""
    points = [(0.0, 0.0)]
    x = y = length = 0.0
    angle = heading

    def extend(distance: float, curvature: float) -> None:
        nonlocal x, y, angle, length
        steps = max(2, int(distance / 3))
        for _ in range(steps):
            middle = angle + curvature * distance / steps / 2
            x += distance / steps * math.cos(middle)
            y += distance / steps * math.sin(middle)
            angle += curvature * distance / steps
            points.append((x, y))
        length += distance

    extend(rng.uniform(42, 65), 0.0)
    total = rng.uniform(235, 275)
    while length < total:
        radius = math.exp(rng.uniform(math.log(25), math.log(110)))
        side = rng.choice([-1.0, 1.0])
        distance = radius * rng.uniform(0.35, 1.0)
        if abs(angle + side * distance / radius - heading) > 0.7:
            side = -side
        if abs(angle + side * distance / radius - heading) < 0.8:
            extend(min(distance, 55.0), side / radius)
        extend(rng.uniform(4, 32), 0.0)
    return np.array(points)


def _apart(arms: list[np.ndarray], clearance_m: float = 30.0) -> bool:
    """True if the arms keep clear of each other once they have left the junction."""
    for k, arm in enumerate(arms):
        for other in arms[k + 1 :]:
            far = arm[np.hypot(*arm.T) > 45][:, None]
            if np.hypot(*(far - other[None]).transpose(2, 0, 1)).min() < clearance_m:
                return False
    return True
