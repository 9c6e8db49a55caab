"""ring: a winding loop with one lane per direction, curves of 15 to 80 m radius and three T-junctions without lights."""

from __future__ import annotations

import math

import numpy as np
from shapely.geometry import LineString

from spanvla_ros.sim.roads.layouts.plan import Plan
from spanvla_ros.sim.roads.layouts.sketch import Sketch, direction, rounded, shifted

_SPEED_MPS = 8.33
_STEM_M = 34.0  # straight part of a side road before its bend


def plan(number: int) -> Plan:
    """Junctions T0..T2 on the loop, side roads to A0..A2, a zebra Z on one of them."""
    rng = np.random.default_rng([number, 102])
    while not (sketch := _draw(rng, _loop(rng))).clear():
        pass
    return sketch.plan("--default.junctions.radius", "10")


def _loop(rng: np.random.Generator) -> np.ndarray:
    """Closed middle line (N, 2) with curves of both kinds and at least three straights."""
    while True:
        corners = _corners(rng)
        radii = np.exp(rng.uniform(math.log(15.0), math.log(80.0), len(corners)))
        radii[rng.permutation(len(corners))[:3]] = rng.uniform([15.0, 24.0, 45.0], [20.0, 34.0, 60.0])
        loop = rounded(corners, radii, closed=True)
        if len(_straights(loop)) >= 3 and LineString(loop).is_simple and _roomy(loop):
            return loop


def _draw(rng: np.random.Generator, loop: np.ndarray) -> Sketch:
    chosen = sorted(sorted(_straights(loop), key=lambda pair: -pair[1])[:3])
    sketch = Sketch()
    cut = [index for index, _ in chosen]
    places = [0.5 * (loop[i] + loop[i + 1]) for i in cut]
    for k, (index, place) in enumerate(zip(cut, places)):
        kind = "priority_stop" if rng.random() < 0.4 else "priority"
        sketch.node(f"T{k}", place, kind)
        ahead = loop[index + 1] - loop[index]
        out = math.atan2(-ahead[0], ahead[1])  # to the right of a loop that runs counter-clockwise
        bend = rng.uniform(0.4, 0.9) * rng.choice([-1.0, 1.0])
        knee = place + _STEM_M * 1.6 * direction(out)
        end = knee + rng.uniform(75.0, 110.0) * direction(out + bend)
        sketch.node(f"A{k}", end)
        stem = rounded(np.array([place, knee, end]), [rng.uniform(25.0, 45.0)])
        if k == 0:
            middle = place + 0.62 * (end - knee) + (knee - place)
            sketch.node("Z", middle)
            sketch.road(f"T{k}", "Z", np.concatenate([stem[:-1], middle[None]]), speed_mps=_SPEED_MPS)
            sketch.road("Z", f"A{k}", speed_mps=_SPEED_MPS)
            sketch.zebra("Z", f"T{k}_Z", f"Z_T{k}")
        else:
            sketch.road(f"T{k}", f"A{k}", stem, speed_mps=_SPEED_MPS)
    for k in range(3):
        a, b = cut[k], cut[(k + 1) % 3]
        inside = loop[a + 1 : b + 1] if a < b else np.concatenate([loop[a + 1 : -1], loop[: b + 1]])
        points = np.concatenate([places[k][None], inside, places[(k + 1) % 3][None]])
        sketch.road(f"T{k}", f"T{(k + 1) % 3}", points, speed_mps=_SPEED_MPS, priority=3)
    return sketch


def _corners(rng: np.random.Generator) -> np.ndarray:
    """Corners (M, 2) of a star-shaped loop, counter-clockwise."""
    count = int(rng.integers(8, 11))
    angles = np.sort((np.arange(count) + rng.uniform(-0.22, 0.22, count)) * 2 * math.pi / count)
    reach = np.where(np.arange(count) % 2 == 0, rng.uniform(150.0, 200.0, count), rng.uniform(85.0, 150.0, count))
    return reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _straights(loop: np.ndarray) -> list[tuple[int, float]]:
    """(index of the first point, length) of the straight parts where a T-junction has room."""
    lengths = np.hypot(*np.diff(loop, axis=0).T)
    return [(i, float(lengths[i])) for i in range(1, len(lengths) - 1) if lengths[i] > 52.0]


def _roomy(loop: np.ndarray) -> bool:
    """True if no two parts of the loop come close to each other, which would fold its borders."""
    return all(LineString(shifted(loop, side)).is_simple for side in (-14.0, 14.0))
