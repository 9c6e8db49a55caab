"""Meshes of people, on foot and on bicycles, around the middle of their box, looking along x."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.pictures.mesh import PAINT, Mesh

CLOTHES = np.array([
    (0.80, 0.12, 0.12), (0.14, 0.26, 0.62), (0.92, 0.90, 0.86), (0.95, 0.72, 0.10), (0.12, 0.46, 0.26), (0.18, 0.18, 0.21),
    (0.92, 0.42, 0.08), (0.45, 0.16, 0.46), (0.25, 0.60, 0.78), (0.46, 0.34, 0.24),
])  # fmt: skip
OUTFITS = 12
GAITS = 8
_STRIDE_M = 1.4  # two steps
_TURN_M = 4.2  # one turn of the pedals
_TROUSERS = ((0.16, 0.18, 0.28), (0.10, 0.10, 0.11), (0.46, 0.40, 0.30), (0.26, 0.36, 0.56))
_SKIN = ((0.86, 0.66, 0.54), (0.62, 0.44, 0.32), (0.40, 0.27, 0.19))
_HAIR = ((0.10, 0.08, 0.07), (0.36, 0.24, 0.13), (0.62, 0.52, 0.34))
_SHOE, _DARK = (0.06, 0.06, 0.06), (0.07, 0.07, 0.08)
_COAT = (1.3, 1.3, 1.3)  # brighter than the paint: a figure of a few pixels has to stand out from the road


def gait(kind: str, gait_m: float, speed_mps: float) -> int:
    """Which of GAITS postures a person has after `gait_m` metres; one who stands keeps the legs together."""
    cycle = _TURN_M if kind == "bicycle" else _STRIDE_M
    return round(gait_m / cycle * GAITS) % GAITS if speed_mps > 0.1 or kind == "bicycle" else 0


def pedestrian(height: float, posture: int, outfit: int) -> Mesh:
    """A walking person `height` metres tall; the coat takes the paint of the drawn thing."""
    mesh = Mesh()
    k = height / 1.75
    trousers, skin, hair = _TROUSERS[outfit % 4], _SKIN[outfit % 3], _HAIR[(outfit // 4) % 3]
    swing = math.sin(2 * math.pi * posture / GAITS)
    coat_z = 0.62 if outfit % 5 == 0 else 0.84
    for side in (-1, 1):
        reach = 0.36 * swing * side
        foot = (reach * k, 0.11 * side * k, (0.05 + 0.08 * max(-reach, 0.0)) * k)
        mesh.beam((0, 0.11 * side * k, 0.90 * k), foot, (0.17 * k, 0.18 * k), trousers)
        mesh.box((foot[0] + 0.06 * k, foot[1], foot[2] - 0.05 * k), (0.28 * k, 0.13 * k, 0.10 * k), _SHOE)
        shoulder, hand = (0, 0.27 * side * k, 1.42 * k), (-0.75 * reach * k, 0.31 * side * k, 0.84 * k)
        mesh.beam(shoulder, hand, (0.13 * k, 0.14 * k), _COAT, PAINT)
        mesh.box((hand[0], hand[1], hand[2] - 0.09 * k), (0.10 * k, 0.10 * k, 0.12 * k), skin)
    mesh.box((0, 0, coat_z * k), (0.28 * k, 0.46 * k, (1.47 - coat_z) * k), _COAT, PAINT, taper=(0.08, -0.08))
    _head(mesh, (0.02 * k, 0.0), 1.49 * k, k, skin, hair)
    return mesh


def bicycle(length: float, height: float, posture: int, outfit: int) -> Mesh:
    """A cyclist; the jacket takes the paint of the drawn thing."""
    mesh = Mesh()
    k = height / 1.75
    trousers, skin = _TROUSERS[outfit % 4], _SKIN[outfit % 3]
    frame = ((0.75, 0.75, 0.78), (0.60, 0.10, 0.10), (0.10, 0.25, 0.50))[outfit % 3]
    wheel = 0.35
    rear, front = -length / 2 + wheel, length / 2 - wheel
    for x in (rear, front):
        mesh.ring((x, 0, wheel), (wheel, 0.25), _DARK)
        mesh.box((x, 0, 0), (0.30, 0.07, 0.06), _DARK)  # the tyre seen from behind
        mesh.box((x, 0, 2 * wheel - 0.12), (0.30, 0.07, 0.12), _DARK)
    crank, saddle, bar = (-0.05, 0.0, 0.32), (-0.22, 0.0, 0.86 * k), (front - 0.15, 0.0, 1.0 * k)
    for a, b in ((crank, saddle), (crank, bar), (saddle, bar), ((rear, 0, wheel), crank), ((front, 0, wheel), bar), ((rear, 0, wheel), saddle)):
        mesh.beam(a, b, (0.05, 0.06), frame)
    mesh.box((bar[0], 0, bar[2]), (0.06, 0.54, 0.05), _DARK)
    for side in (-1, 1):
        angle = 2 * math.pi * posture / GAITS + (math.pi if side > 0 else 0.0)
        pedal = (crank[0] + 0.17 * math.cos(angle), 0.11 * side, crank[2] - 0.17 * math.sin(angle))
        knee = (0.5 * (pedal[0] + saddle[0]) + 0.25, 0.13 * side, 0.5 * (pedal[2] + saddle[2]) + 0.12)
        mesh.beam((saddle[0], 0.10 * side, saddle[2] + 0.04), knee, (0.15, 0.17), trousers)
        mesh.beam(knee, pedal, (0.13, 0.14), trousers)
        mesh.box((pedal[0] + 0.05, pedal[1], pedal[2] - 0.05), (0.26, 0.11, 0.08), _SHOE)
        mesh.beam((0.10, 0.23 * side, 1.38 * k), (bar[0], 0.24 * side, bar[2] + 0.03), (0.11, 0.12), _COAT, PAINT)
    mesh.beam((saddle[0], 0, saddle[2]), (0.12, 0, 1.46 * k), (0.44, 0.26), _COAT, PAINT)
    _head(mesh, (0.20, 0.0), 1.47 * k, k, skin, frame)
    mesh.box((rear - 0.30, 0, 0.62), (0.05, 0.10, 0.09), (0.75, 0.05, 0.04))  # reflector
    return mesh


def _head(mesh: Mesh, xy: tuple[float, float], z: float, k: float, skin: tuple[float, float, float], hair: tuple[float, float, float]) -> None:
    """Face and hair (or helmet) above a neck at height z."""
    x, y = xy
    mesh.cylinder((x, y, z - 0.04 * k), (0.07 * k, 0.07 * k), 0.08 * k, skin, sides=6)
    mesh.cylinder((x, y, z), (0.105 * k, 0.12 * k), 0.18 * k, skin, sides=8)
    mesh.cylinder((x, y, z + 0.16 * k), (0.135 * k, 0.09 * k), 0.11 * k, hair, sides=8)
    mesh.box((x - 0.09 * k, y, z + 0.04 * k), (0.08 * k, 0.22 * k, 0.14 * k), hair)
