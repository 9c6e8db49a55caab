"""Meshes of vehicles, signals, signs, obstacles, houses and trees, around their own origin, looking along x."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.sim.pictures.mesh import GLOW, PAINT, Mesh
from spanvla_ros.sim.roads.road import HEAD_LAMPS_M

PAINTS = np.array([
    (0.72, 0.10, 0.10), (0.86, 0.86, 0.87), (0.12, 0.22, 0.55), (0.10, 0.10, 0.11), (0.52, 0.54, 0.57), (0.78, 0.62, 0.14),
    (0.14, 0.38, 0.24), (0.35, 0.18, 0.12), (0.20, 0.45, 0.62), (0.80, 0.40, 0.12),
])  # fmt: skip
LAMP_RADIUS_M = 0.3
CONE_HEIGHT_M = 0.75
LAMP_COLOURS = {"red": (1.0, 0.10, 0.08), "yellow": (1.0, 0.78, 0.08), "green": (0.12, 1.0, 0.42)}
_DARK, _GLASS, _TYRE = (0.09, 0.09, 0.10), (0.11, 0.14, 0.18), (0.06, 0.06, 0.07)
_WHITE = (1.0, 1.0, 1.0)
_AMBER, _STEEL = (1.0, 0.60, 0.04), (0.46, 0.47, 0.49)
_RED, _ORANGE, _PLATE = (1.05, 0.06, 0.07), (1.4, 0.62, 0.03), (1.3, 1.3, 1.25)  # sheeting that throws light back
_SIGN_Z_M, _SIGN_RADIUS_M = 2.25, 0.55


def vehicle(kind: str, length: float, width: float, height: float, braking: bool, blinking: str = "") -> Mesh:
    """A car, van, truck or bus around the centre of its box; `blinking`: side ("left", "right") whose indicators are lit now."""
    mesh = Mesh()
    if kind == "truck":
        mesh.box((-0.11 * length, 0, 0.75), (0.76 * length, width, height - 0.75), (0.83, 0.83, 0.80))
        mesh.box((0.0, 0, 0.45), (0.96 * length, 0.7 * width, 0.32), _DARK)
        mesh.box((0.40 * length, 0, 0.4), (0.20 * length, width, 0.76 * height - 0.4), _WHITE, PAINT)
        mesh.box((0.492 * length, 0, 0.44 * height), (0.03 * length, 0.9 * width, 0.24 * height), _GLASS)
        lamp_z, wheel = 0.78, 0.95
    elif kind == "van":
        mesh.box((-0.08 * length, 0, 0.30), (0.84 * length, width, height - 0.30), _WHITE, PAINT, taper=(0.04, 0.10))
        mesh.box((0.36 * length, 0, 0.30), (0.28 * length, 0.98 * width, 0.42 * height), _WHITE, PAINT)
        mesh.box((0.315 * length, 0, 0.55 * height), (0.10 * length, 0.84 * width, 0.30 * height), _GLASS, taper=(0.3, 0.08))
        mesh.box((-0.497 * length, 0, 0.58 * height), (0.02 * length, 0.80 * width, 0.28 * height), _GLASS)
        lamp_z, wheel = 0.85, 0.68
    elif kind == "bus":
        _bus_body(mesh, length, width, height)
        lamp_z, wheel = 0.95, 0.95
    else:
        mesh.box((0, 0, 0.28), (length, width, 0.40 * height), _WHITE, PAINT, taper=(0.03, 0.06))
        mesh.box((-0.05 * length, 0, 0.28 + 0.40 * height), (0.58 * length, 0.90 * width, 0.37 * height), _GLASS, taper=(0.30, 0.16))
        mesh.box((-0.05 * length, 0, 0.28 + 0.77 * height), (0.41 * length, 0.76 * width, 0.05), _WHITE, PAINT)
        lamp_z, wheel = 0.28 + 0.24 * height, 0.64
    for x in (-0.32, 0.32):
        for y in (-0.46, 0.46):
            mesh.box((x * length, y * width, 0), (wheel, 0.24, wheel), _TYRE, taper=(0.3, 0.0))
    tail = (1.0, 0.08, 0.05) if braking else (0.50, 0.03, 0.03)
    for y in (-0.38, 0.38):
        mesh.box((-0.5 * length - 0.02, y * width, lamp_z), (0.06, 0.20 * width, 0.20), tail, GLOW)
        mesh.box((0.5 * length + 0.02, y * width, lamp_z - 0.05), (0.06, 0.20 * width, 0.16), (1.0, 1.0, 0.86), GLOW)
    if braking and kind == "car":
        mesh.box((-0.36 * length, 0, 0.28 + 0.72 * height), (0.06, 0.34 * width, 0.07), tail, GLOW)
    if blinking:
        y = (0.42 if blinking == "left" else -0.42) * width
        for x in (-0.5 * length - 0.02, 0.5 * length + 0.02):
            mesh.box((x, y, lamp_z + 0.21), (0.10, 0.22 * width, 0.20), _AMBER, GLOW)
        mesh.box((0.22 * length, 1.2 * y, lamp_z + 0.10), (0.22, 0.06, 0.14), _AMBER, GLOW)
    mesh.box((-0.5 * length - 0.03, 0, lamp_z - 0.24), (0.04, 0.52, 0.12), (0.93, 0.93, 0.90))
    mesh.box((0, 0, 0.16), (0.9 * length, 0.92 * width, 0.14), _TYRE)
    return mesh


def _bus_body(mesh: Mesh, length: float, width: float, height: float) -> None:
    mesh.box((0, 0, 0.32), (length, width, height - 0.32), _WHITE, PAINT, taper=(0.01, 0.05))
    mesh.box((0, 0, 0.42 * height), (0.95 * length, width + 0.03, 0.34 * height), _GLASS, taper=(0.0, 0.02))
    count = round(length / 1.6)
    for k in range(count):
        mesh.box(((k + 0.5) / count * 0.92 * length - 0.46 * length, 0, 0.40 * height), (0.12, width + 0.05, 0.37 * height), _WHITE, PAINT)
    for x, low, high in ((0.495, 0.34, 0.78), (-0.495, 0.50, 0.76)):
        mesh.box((x * length, 0, low * height), (0.05, 0.88 * width, (high - low) * height), _GLASS)
    for x in (0.493, -0.493):
        mesh.box((x * length, 0, 0.81 * height), (0.06, 0.66 * width, 0.12 * height), _DARK)
        mesh.box((x * length, 0, 0.835 * height), (0.09, 0.50 * width, 0.07 * height), _AMBER)


def barrier(length: float, width: float, height: float) -> Mesh:
    """Two boards with red and white fields on feet, across the road when its x axis is."""
    mesh = Mesh()
    count = max(4, 2 * round(length / 0.6))
    step = length / count
    for low, high, first in ((0.30, 0.58, 0), (0.70, 1.0, 1)):
        for k in range(count):
            colour = _RED if (k + first) % 2 else _PLATE
            mesh.box(((k + 0.5) * step - length / 2, 0, low * height), (step, 0.06, (high - low) * height), colour)
    for x in (-0.38, 0.38):
        mesh.box((x * length, 0, 0), (0.18, width, 0.14), _DARK)
        mesh.box((x * length, 0, 0.14), (0.07, 0.10, 0.86 * height - 0.14), _STEEL)
    return mesh


def sign(kind: str) -> Mesh:
    """A road sign on its post that looks against the driving direction: "yield", "stop" or "works"."""
    mesh = Mesh()
    plates: dict[str, tuple[int, float, tuple]] = {
        "yield": (3, -math.pi / 2, ((1.0, _RED), (0.62, _PLATE))),
        "stop": (8, math.pi / 8, ((1.0, _PLATE), (0.90, _RED))),
        "works": (4, 0.0, ((1.0, _DARK), (0.88, _ORANGE))),
    }
    sides, turn, layers = plates[kind]
    mesh.cylinder((0, 0, 0), (0.05, 0.05), _SIGN_Z_M, _STEEL, sides=6)
    mesh.disc((-0.06, 0, _SIGN_Z_M), _SIGN_RADIUS_M, 0.0, _STEEL, sides=sides, turn=math.pi - turn)
    for k, (share, colour) in enumerate(layers):
        mesh.disc((-0.07 - 0.01 * k, 0, _SIGN_Z_M), share * _SIGN_RADIUS_M, math.pi, colour, sides=sides, turn=turn)
    if kind == "stop":
        mesh.box((-0.09, 0, _SIGN_Z_M - 0.09), (0.02, 0.72, 0.18), _PLATE)
    if kind == "works":
        for start, end in (((-0.22, -0.22), (0.02, 0.16)), ((0.02, 0.16), (0.12, -0.24)), ((0.02, 0.10), (0.24, -0.04))):
            mesh.beam((-0.09, start[0], _SIGN_Z_M + start[1]), (-0.09, end[0], _SIGN_Z_M + end[1]), (0.02, 0.10), _DARK)
        mesh.box((-0.09, 0.06, _SIGN_Z_M + 0.20), (0.02, 0.12, 0.12), _DARK)
    return mesh


def cone() -> Mesh:
    """A traffic cone."""
    mesh = Mesh()
    orange = (1.0, 0.36, 0.05)
    mesh.box((0, 0, 0), (0.44, 0.44, 0.05), orange)
    rings = ((0.05, 0.32, 0.18, 0.125, orange), (0.32, 0.50, 0.125, 0.09, _WHITE), (0.50, CONE_HEIGHT_M, 0.09, 0.03, orange))
    for low, high, bottom, top, colour in rings:
        mesh.cylinder((0, 0, low), (bottom, top), high - low, colour)
    return mesh


def lamp(colour: str) -> Mesh:
    """A lit lamp that looks against the driving direction."""
    mesh = Mesh()
    mesh.disc((0, 0, 0), LAMP_RADIUS_M, np.pi, LAMP_COLOURS[colour], GLOW, sides=16)
    return mesh


def signal_head(mesh: Mesh, x: float, y: float, z: float, yaw: float) -> None:
    """Housing of three lamps with a pale rim; dark lamps on the face that looks against `yaw`."""
    mesh.box((x, y, z - 0.08), (0.26, 1.02, 2.46), (0.80, 0.80, 0.78), yaw=yaw)
    back = np.array([np.cos(yaw), np.sin(yaw)])
    mesh.box((x - 0.10 * back[0], y - 0.10 * back[1], z), (0.20, 0.86, 2.30), (0.03, 0.03, 0.03), yaw=yaw)
    for colour, height in HEAD_LAMPS_M.items():
        dim = tuple(0.14 * value for value in LAMP_COLOURS[colour])
        mesh.disc((x - 0.22 * back[0], y - 0.22 * back[1], z + height), 0.27, yaw + np.pi, dim, GLOW)


def signal_post(mesh: Mesh, post: tuple[float, float], head: tuple[float, float, float]) -> None:
    """A post beside the road with an arm to the head's upper edge."""
    grey = (0.36, 0.37, 0.39)
    top = head[2] + 2.5
    mesh.cylinder((*post, 0), (0.12, 0.09), top, grey)
    span = np.array(head[:2]) - post
    length = float(np.hypot(*span))
    if length > 0.5:
        middle = np.array(post) + span / 2
        mesh.box((middle[0], middle[1], top - 0.12), (length, 0.12, 0.12), grey, yaw=float(np.arctan2(span[1], span[0])))


def building(mesh: Mesh, x: float, y: float, yaw: float, size: tuple[float, float, float], colour: tuple[float, float, float]) -> None:
    """A block with bands of windows."""
    mesh.box((x, y, 0), size, colour, yaw=yaw)
    for floor in np.arange(1.3, size[2] - 1.6, 3.1):
        mesh.box((x, y, floor), (size[0] + 0.08, size[1] + 0.08, 1.4), (0.20, 0.26, 0.34), yaw=yaw)
    mesh.box((x, y, size[2]), (1.02 * size[0], 1.02 * size[1], 0.4), tuple(0.7 * c for c in colour), yaw=yaw)


def tree(mesh: Mesh, x: float, y: float, radius: float, height: float, green: float) -> None:
    """A trunk with two crowns."""
    mesh.cylinder((x, y, 0), (0.20, 0.15), 0.35 * height, (0.33, 0.23, 0.14), sides=5)
    mesh.cylinder((x, y, 0.27 * height), (radius, 0.6 * radius), 0.38 * height, (0.13, green, 0.10), sides=7)
    mesh.cylinder((x, y, 0.60 * height), (0.8 * radius, 0.1), 0.40 * height, (0.15, 1.1 * green, 0.12), sides=7)
