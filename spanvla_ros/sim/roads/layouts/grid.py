"""grid: three by three signalised junctions with sidewalks and zebras, long straight streets to the east and west."""

from __future__ import annotations

import itertools

import numpy as np

from spanvla_ros.sim.roads.layouts.plan import Plan
from spanvla_ros.sim.roads.layouts.sketch import SIGNALS, Sketch

_SPEEDS_MPS = (8.33, 11.11)


def plan(number: int) -> Plan:
    """Junctions J<column><row>, ends W<row> E<row> S<column> N<column>; the middle row has one lane per direction."""
    rng = np.random.default_rng([number, 101])
    columns, rows = (np.cumsum(rng.uniform(105.0, 140.0, 3)) for _ in range(2))
    lanes = {"row": [1 + int(rng.random() < 0.4) for _ in range(3)], "column": [1 + int(rng.random() < 0.35) for _ in range(3)]}
    lanes["row"][1] = 1
    sketch = Sketch()
    places = np.stack(np.meshgrid(columns, rows, indexing="ij"), axis=-1) + rng.uniform(-5.0, 5.0, (3, 3, 2))
    for i in range(3):
        for j in range(3):
            sketch.node(f"J{i}{j}", places[i, j], "traffic_light")
    zebra = int(rng.integers(2))
    for k in range(3):
        west = places[0, k] - [rng.uniform(240.0, 290.0), rng.uniform(-12.0, 12.0)]
        east = places[2, k] + [rng.uniform(240.0, 290.0), rng.uniform(-12.0, 12.0)]
        south = places[k, 0] - [rng.uniform(-8.0, 8.0), rng.uniform(110.0, 150.0)]
        north = places[k, 2] + [rng.uniform(-8.0, 8.0), rng.uniform(110.0, 150.0)]
        for name, at in ((f"W{k}", west), (f"E{k}", east), (f"S{k}", south), (f"N{k}", north)):
            sketch.node(name, at)
        for chain, count in (
            ([f"W{k}", f"J0{k}", f"J1{k}", f"J2{k}", f"E{k}"], lanes["row"][k]),
            ([f"S{k}", f"J{k}0", f"J{k}1", f"J{k}2", f"N{k}"], lanes["column"][k]),
        ):
            for a, b in itertools.pairwise(chain):
                values = {"lanes": count, "speed_mps": _SPEEDS_MPS[count - 1], "priority": count}
                if (a, b) == (f"J{zebra}1", f"J{zebra + 1}1"):
                    # a zebra of its own in the middle of the block
                    sketch.node("Z", 0.5 * (places[zebra, 1] + places[zebra + 1, 1]))
                    sketch.road(a, "Z", **values)
                    sketch.road("Z", b, **values)
                    sketch.zebra("Z", f"{a}_Z", f"Z_{a}")
                else:
                    sketch.road(a, b, **values)
    return sketch.plan("--default.junctions.radius", "10", "--crossings.guess", "true", *SIGNALS)
