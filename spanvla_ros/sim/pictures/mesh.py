"""Triangle meshes with one colour and one material per face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely

# materials: a look tints them; paint takes the colour of the drawn thing, glow ignores light
PLAIN, ASPHALT, GRASS, PAVEMENT, WHITE, YELLOW, GLOW, PAINT = range(8)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A run of vertices and the circle on the ground plane that holds them."""

    first: int
    count: int
    centre: tuple[float, float]
    radius: float


class Mesh:
    """Collects triangles; `vertices()` gives the array that the renderer uploads."""

    def __init__(self):
        self._parts: list[np.ndarray] = []

    def add(self, points: np.ndarray, faces: np.ndarray, colour: tuple[float, float, float], material: int = PLAIN) -> None:
        """Triangles `faces` (F, 3) into `points` (N, 3), counter-clockwise seen from outside."""
        corners = np.asarray(points, np.float64)[np.asarray(faces, np.int64)]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
        part = np.empty((len(corners), 3, 10), np.float32)
        part[..., 0:3] = corners
        part[..., 3:6] = normal[:, None]
        part[..., 6:9] = colour
        part[..., 9] = material
        self._parts.append(part)

    def place(self, other: Mesh, position: tuple[float, float, float], yaw: float) -> None:
        """Another mesh, turned about its origin and moved to `position`."""
        for part in other._parts:
            moved = part.copy()
            moved[..., 0:3] = _placed(part[..., 0:3].reshape(-1, 3), position, yaw).reshape(part.shape[:2] + (3,))
            moved[..., 3:6] = _placed(part[..., 3:6].reshape(-1, 3), (0.0, 0.0, 0.0), yaw).reshape(part.shape[:2] + (3,))
            self._parts.append(moved)

    def vertices(self) -> np.ndarray:
        """(3 F, 10) float32: position, normal, colour, material."""
        if not self._parts:
            return np.zeros((0, 10), np.float32)
        return np.ascontiguousarray(np.concatenate(self._parts).reshape(-1, 10))

    def tiles(self, size_m: float) -> tuple[np.ndarray, list[Tile]]:
        """`vertices()` ordered by square tiles of the ground plane, and the run of vertices of each tile."""
        triangles = self.vertices().reshape(-1, 3, 10)
        cell = np.floor(triangles[:, :, :2].mean(axis=1) / size_m).astype(np.int64)
        order = np.lexsort((cell[:, 1], cell[:, 0]))
        triangles, cell = triangles[order], cell[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(cell, axis=0) != 0).any(axis=1)])
        tiles = []
        for start, end in zip(starts, [*starts[1:], len(triangles)]):
            flat = triangles[start:end, :, :2].reshape(-1, 2)
            low, high = flat.min(axis=0), flat.max(axis=0)
            radius = float(np.hypot(*(high - low)) / 2)
            tiles.append(Tile(first=3 * int(start), count=3 * int(end - start), centre=tuple((low + high) / 2), radius=radius))
        return np.ascontiguousarray(triangles.reshape(-1, 10)), tiles

    def polygon(self, shape, z: float, colour: tuple[float, float, float], material: int = PLAIN) -> None:
        """A flat shapely polygon (or several) at height z, facing up."""
        corners = []
        for part in shapely.get_parts(shape):
            if part.geom_type == "Polygon" and part.area > 1e-3:
                triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(part))
                corners += [np.array(t.exterior.coords)[:3] for t in triangles]
        if not corners:
            return
        flat = np.array(corners)
        a, b = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
        clockwise = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
        flat[clockwise] = flat[clockwise][:, ::-1]
        points = np.concatenate([flat.reshape(-1, 2), np.full((3 * len(flat), 1), z)], axis=1)
        self.add(points, np.arange(3 * len(flat)).reshape(-1, 3), colour, material)

    def wall(self, shape, low: float, high: float, colour: tuple[float, float, float], material: int = PLAIN) -> None:
        """Vertical faces around the rings of a shapely polygon, seen from both sides."""
        for ring in shapely.get_rings(shape):
            line = np.array(ring.coords)
            count = len(line)
            points = np.concatenate([np.c_[line, np.full(count, low)], np.c_[line, np.full(count, high)]])
            i = np.arange(count - 1)
            outer = np.concatenate([np.c_[i, i + 1, count + i + 1], np.c_[i, count + i + 1, count + i]])
            self.add(points, np.concatenate([outer, outer[:, ::-1]]), colour, material)

    def box(
        self,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        colour: tuple[float, float, float],
        material: int = PLAIN,
        *,
        yaw: float = 0.0,
        taper: tuple[float, float] = (0.0, 0.0),
        shift: float = 0.0,
    ) -> None:
        """A box around (x, y) standing on z; `taper` shrinks its top in length and width, `shift` moves the top along x (shares of length)."""
        half = 0.5
        top_x, top_y = half * (1 - taper[0]), half * (1 - taper[1])
        points = np.array([
            (-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0),
            (-top_x + shift, -top_y, 1), (top_x + shift, -top_y, 1), (top_x + shift, top_y, 1), (-top_x + shift, top_y, 1),
        ]) * size  # fmt: skip
        faces = [
            (4, 5, 6), (4, 6, 7), (0, 1, 5), (0, 5, 4), (1, 2, 6), (1, 6, 5), (2, 3, 7), (2, 7, 6), (3, 0, 4), (3, 4, 7),
        ]  # fmt: skip
        self.add(_placed(points, centre, yaw), faces, colour, material)

    def cylinder(
        self, base: tuple[float, float, float], radii: tuple[float, float], height: float, colour: tuple[float, float, float],
        material: int = PLAIN, sides: int = 8,
    ) -> None:  # fmt: skip
        """A standing (cut) cone with bottom and top radius."""
        angle = np.arange(sides) * 2 * math.pi / sides
        ring = np.c_[np.cos(angle), np.sin(angle)]
        points = np.concatenate([np.c_[ring * radii[0], np.zeros(sides)], np.c_[ring * radii[1], np.full(sides, height)]]) + base
        i = np.arange(sides)
        j = (i + 1) % sides
        sheet = np.concatenate([np.c_[i, j, sides + j], np.c_[i, sides + j, sides + i]])
        lid = np.c_[np.full(sides - 2, sides), sides + i[1:-1], sides + i[2:]]
        self.add(points, np.concatenate([sheet, lid]), colour, material)

    def disc(
        self, centre: tuple[float, float, float], radius: float, yaw: float, colour: tuple[float, float, float],
        material: int = PLAIN, sides: int = 12, turn: float = 0.0,
    ) -> None:  # fmt: skip
        """A standing disc (or polygon, its first corner `turn` above the horizontal) whose front looks towards `yaw`."""
        angle = np.arange(sides) * 2 * math.pi / sides + turn
        points = np.c_[np.zeros(sides), np.cos(angle), np.sin(angle)] * radius
        i = np.arange(1, sides - 1)
        self.add(_placed(points, centre, yaw), np.c_[np.zeros_like(i), i, i + 1], colour, material)

    def beam(
        self, start: tuple[float, float, float], end: tuple[float, float, float], size: tuple[float, float],
        colour: tuple[float, float, float], material: int = PLAIN,
    ) -> None:  # fmt: skip
        """A bar from `start` to `end`; size: across (level) and thick (in the plane of the bar and the vertical)."""
        a, b = np.array(start, float), np.array(end, float)
        along = (b - a) / np.linalg.norm(b - a)
        across = np.cross((0.0, 0.0, 1.0), along) if abs(along[2]) < 0.99 else np.array([0.0, 1.0, 0.0])
        across *= size[0] / 2 / np.linalg.norm(across)
        thick = np.cross(along, across)
        thick *= size[1] / 2 / np.linalg.norm(thick)
        corners = [-across - thick, across - thick, across + thick, thick - across]
        points = [a + corner for corner in corners] + [b + corner for corner in corners]
        faces = [(0, 3, 2), (0, 2, 1), (4, 5, 6), (4, 6, 7)]
        for i in range(4):
            j = (i + 1) % 4
            faces += [(i, j, 4 + j), (i, 4 + j, 4 + i)]
        self.add(np.array(points), faces, colour, material)

    def ring(
        self, centre: tuple[float, float, float], radii: tuple[float, float], colour: tuple[float, float, float], sides: int = 14
    ) -> None:
        """A flat ring (outer, inner radius) in the plane of x and z, seen from both sides: a thin wheel."""
        angle = np.arange(sides) * 2 * math.pi / sides
        circle = np.c_[np.cos(angle), np.zeros(sides), np.sin(angle)]
        points = np.concatenate([circle * radii[0], circle * radii[1]]) + centre
        i = np.arange(sides)
        j = (i + 1) % sides
        face = np.concatenate([np.c_[i, j, sides + j], np.c_[i, sides + j, sides + i]])
        self.add(points, np.concatenate([face, face[:, ::-1]]), colour)


def _placed(points: np.ndarray, origin: tuple[float, float, float], yaw: float) -> np.ndarray:
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y = points[:, 0], points[:, 1]
    return np.stack([origin[0] + cos * x - sin * y, origin[1] + sin * x + cos * y, origin[2] + points[:, 2]], axis=-1)
