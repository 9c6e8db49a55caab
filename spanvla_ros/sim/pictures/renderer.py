"""The one renderer: moderngl on EGL (a GPU or Mesa's software rasteriser), 4x multisampling, one per process."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.sim.pictures.camera import Camera
from spanvla_ros.sim.pictures.look import Look
from spanvla_ros.sim.pictures.mesh import Tile

SAMPLES = 4
JPEG_QUALITY = 90
FAR_M = 250.0

_VERTEX = """#version 330
in vec3 position; in vec3 normal; in vec3 colour; in float material;
uniform mat4 clip; uniform vec3 eye; uniform vec4 place; uniform vec2 turn; uniform vec3 tint;
uniform vec3 sun; uniform vec2 light; uniform vec3 palette[8];
uniform vec3 haze; uniform float density; uniform float pierce; uniform float beam;
out vec3 shade; out vec3 far; out vec2 ground;
void main() {
  vec3 p = vec3(turn.x*position.x - turn.y*position.y, turn.y*position.x + turn.x*position.y, position.z) + place.xyz;
  vec3 n = vec3(turn.x*normal.x - turn.y*normal.y, turn.y*normal.x + turn.x*normal.y, normal.z);
  int m = int(material + 0.5);
  float lit = light.x * (0.85 + 0.15*n.z) + light.y * max(dot(n, sun), 0.0);
  if (m == 0 || m == 7) lit += beam / (1.0 + dot(p - eye, p - eye) * 0.0016);
  vec3 base = colour * palette[m] * (m == 7 ? tint : vec3(1.0));
  float fog = 1.0 - exp(-dot(p - eye, p - eye) * density * (m == 6 ? pierce : 1.0));
  shade = (m == 6 ? colour : base * lit) * (1.0 - fog);
  far = haze * fog; ground = p.xy * 0.11;
  gl_Position = clip * vec4(p, 1.0);
}"""

_FRAGMENT = """#version 330
in vec3 shade; in vec3 far; in vec2 ground; out vec4 pixel;
uniform sampler2D grain; uniform float textured;
void main() {
  vec3 c = shade;
  if (textured > 0.0) c *= (1.0 - 0.5*textured) + textured * texture(grain, ground).r;
  pixel = vec4(c + far, 1.0);
}"""

_SKY_VERTEX = """#version 330
in vec2 corner; out float up; void main() { up = corner.y; gl_Position = vec4(corner, 0.9999, 1.0); }"""
_SKY_FRAGMENT = """#version 330
in float up; out vec4 pixel; uniform vec3 haze; uniform vec3 zenith; uniform float horizon;
void main() { pixel = vec4(mix(haze, zenith, clamp((up - horizon)*1.2, 0.0, 1.0)), 1.0); }"""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An uploaded mesh at a place: position, yaw and paint. Of a tiled mesh only the visible tiles are drawn."""

    mesh: object
    tiles: Sequence[Tile] = ()
    position: tuple[float, float, float]
    yaw: float = 0.0
    paint: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Renderer:
    """Owns the OpenGL context. `shared()` returns the one of this process."""

    _shared: Renderer | None = None

    @classmethod
    def shared(cls) -> Renderer:
        if cls._shared is None:
            cls._shared = cls()
        return cls._shared

    def __init__(self):
        try:
            import moderngl
        except ImportError:
            raise SpanVLAError("moderngl is missing; pictures need: pip install 'spanvla_ros[sim]'") from None
        # one simulator is one process on one core: more threads of the software rasteriser only fight each other
        os.environ.setdefault("LP_NUM_THREADS", "1")
        try:
            self._context = moderngl.create_context(standalone=True, backend="egl")
        except Exception as error:
            # moderngl and its loader raise bare Exceptions of several kinds when libEGL or a driver is missing
            raise SpanVLAError(
                f"no OpenGL over EGL ({error}); install it with: apt install libegl1 libgl1-mesa-dri (or run with --render none)"
            ) from None
        self._moderngl = moderngl
        self.device = str(self._context.info["GL_RENDERER"])
        self._program = self._context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._sky = self._context.program(vertex_shader=_SKY_VERTEX, fragment_shader=_SKY_FRAGMENT)
        corners = self._context.buffer(np.array([-1, -1, 3, -1, -1, 3], np.float32).tobytes())
        self._backdrop = self._context.vertex_array(self._sky, [(corners, "2f", "corner")])
        self._grain = self._context.texture((256, 256), 1, _grain().tobytes())
        self._grain.build_mipmaps()
        self._grain.filter = (moderngl.LINEAR_MIPMAP_NEAREST, moderngl.LINEAR)
        self._targets: dict[tuple[int, int], tuple] = {}

    def upload(self, vertices: np.ndarray):
        """Vertex array object of (N, 10) float32 vertices as made by `Mesh.vertices`."""
        buffer = self._context.buffer(np.ascontiguousarray(vertices, np.float32).tobytes())
        return self._context.vertex_array(self._program, [(buffer, "3f 3f 3f 1f", "position", "normal", "colour", "material")])

    def release(self, meshes: Sequence) -> None:
        """Free uploaded meshes."""
        for mesh in meshes:
            mesh.release()

    def picture(self, camera: Camera, pose: np.ndarray, look: Look, ground: Sequence[Thing], things: Sequence[Thing]) -> np.ndarray:
        """RGB (H, W, 3) uint8 seen by `camera` of a car at `pose` (3,); `ground` is drawn with grain."""
        many, single = self._target(camera.width, camera.height)
        many.use()
        self._context.clear(0.0, 0.0, 0.0, depth=1.0)
        self._context.enable_only(self._moderngl.NOTHING)
        self._sky["haze"], self._sky["zenith"] = look.haze, look.zenith
        self._sky["horizon"] = camera.focal_px * math.tan(camera.pitch_rad) / (camera.height / 2)
        self._backdrop.render(vertices=3)
        self._context.enable_only(self._moderngl.DEPTH_TEST | self._moderngl.CULL_FACE)
        program = self._program
        program["clip"].write(camera.clip_matrix(pose).T.astype(np.float32).tobytes())
        program["eye"] = tuple(camera.eye(pose)[:3])
        program["sun"], program["light"] = look.sun, look.light
        program["palette"].write(look.palette.astype(np.float32).tobytes())
        program["haze"], program["density"], program["pierce"], program["beam"] = look.haze, look.density, look.pierce, look.beam
        self._grain.use(0)
        # near things first: what they hide needs no shading
        program["textured"] = 0.0
        for thing in things:
            self._draw(thing, camera, pose)
        program["textured"] = look.grain
        for thing in ground:
            self._draw(thing, camera, pose)
        self._context.copy_framebuffer(single, many)
        data = np.frombuffer(single.read(components=3, alignment=1), np.uint8)
        return data.reshape(camera.height, camera.width, 3)[::-1]

    def _draw(self, thing: Thing, camera: Camera, pose: np.ndarray) -> None:
        program = self._program
        program["place"] = (*thing.position, 0.0)
        program["turn"] = (float(np.cos(thing.yaw)), float(np.sin(thing.yaw)))
        program["tint"] = thing.paint
        if not thing.tiles:
            thing.mesh.render()
            return
        for first, count in _runs(thing.tiles, camera, pose):
            thing.mesh.render(first=first, vertices=count)

    def _target(self, width: int, height: int) -> tuple:
        size = (width, height)
        if size not in self._targets:
            context = self._context
            many = context.framebuffer([context.renderbuffer(size, 4, samples=SAMPLES)], context.depth_renderbuffer(size, samples=SAMPLES))
            self._targets[size] = many, context.framebuffer([context.renderbuffer(size, 4)])
        return self._targets[size]


def _runs(tiles: Sequence[Tile], camera: Camera, pose: np.ndarray) -> list[tuple[int, int]]:
    """(first, count) of the vertices in view, neighbours joined. The view is the wedge of the camera up to the far plane."""
    eye = camera.eye(pose)
    delta = np.array([tile.centre for tile in tiles]) - eye[:2]
    radius = np.array([tile.radius for tile in tiles])
    ahead = np.cos(eye[3]) * delta[:, 0] + np.sin(eye[3]) * delta[:, 1]
    aside = np.abs(-np.sin(eye[3]) * delta[:, 0] + np.cos(eye[3]) * delta[:, 1])
    cos, sin = np.cos(camera.hfov_rad / 2), np.sin(camera.hfov_rad / 2)
    seen = (aside * cos - ahead * sin < radius) & (ahead > -radius) & (np.hypot(*delta.T) < FAR_M + radius)
    runs: list[tuple[int, int]] = []
    for i in np.flatnonzero(seen):
        tile = tiles[i]
        if runs and sum(runs[-1]) == tile.first:
            runs[-1] = runs[-1][0], runs[-1][1] + tile.count
        else:
            runs.append((tile.first, tile.count))
    return runs


def encode(rgb: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """JPEG bytes of an RGB picture (H, W, 3) uint8."""
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _grain() -> np.ndarray:
    """Tileable mottled texture (256, 256) uint8 of three scales."""
    rng = np.random.default_rng(0)
    total = np.zeros((256, 256))
    for cells, weight in ((8, 0.25), (64, 0.3), (256, 0.45)):
        noise = np.pad(rng.random((cells, cells)), ((0, 1), (0, 1)), mode="wrap")
        at = np.arange(256) * cells / 256
        low, share = at.astype(int), at % 1
        rows = noise[low] * (1 - share)[:, None] + noise[low + 1] * share[:, None]
        total += weight * (rows[:, low] * (1 - share) + rows[:, low + 1] * share)
    return (np.clip(total, 0, 1) * 255).astype(np.uint8)
