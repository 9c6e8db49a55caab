"""The scene from above as a picture, driving direction upwards; and clips of failures made of such pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from spanvla_ros.evaluation import webp
from spanvla_ros.evaluation.overlay import Camera, caption, draw_plan
from spanvla_ros.evaluation.tape import PERIOD_S, Ground, Snapshot, Tape
from spanvla_ros.geometry import to_local

GRASS, WALK, ROAD, WHITE, YELLOW = (222, 229, 214), (203, 199, 190), (108, 113, 120), (240, 240, 240), (236, 190, 60)
ROUTE, PLAN, EGO, HIT = (140, 168, 205), (40, 160, 255), (20, 92, 190), (214, 40, 40)
COLORS = {"pedestrian": (214, 40, 160), "bicycle": (150, 60, 190), "cone": (245, 120, 20), "barrier": (245, 120, 20)}
VEHICLE_COLOR, BRAKE = (245, 220, 160), (220, 30, 30)
LAMPS = {"red": (225, 40, 40), "yellow": (240, 180, 20), "green": (40, 170, 80)}
_SHIFT = 3  # fractional bits of OpenCV's drawing
BEFORE_S, AFTER_S = 5.0, 1.4
_CLIP_PX = (360, 203)


def draw(ground: Ground, now: Snapshot, size: tuple[int, int] = (240, 300), metres: float = 62.0, marked: frozenset[str] = frozenset()) -> np.ndarray:
    """Picture (H, W, 3) uint8 of `size` (width, height) that shows `metres` along its height; `marked` things are red."""
    width, height = size
    scale = height / metres
    origin = np.array([*now.pose[:2], now.pose[2]])

    def pixels(points: np.ndarray) -> np.ndarray:
        local = to_local(origin, np.column_stack([points, np.zeros(len(points))]))
        at = np.column_stack([width / 2 - local[:, 1] * scale, 0.72 * height - local[:, 0] * scale])
        return np.clip(at * (1 << _SHIFT), -1e8, 1e8).round().astype(np.int32)

    def fill(shapes: Sequence[np.ndarray], color: tuple[int, int, int]) -> None:
        near = [pixels(shape) for shape in shapes if (np.abs(shape - origin[:2]).min(axis=0) < 2 * metres).all() or len(shape) > 40]
        if near:
            cv2.fillPoly(picture, near, color, cv2.LINE_AA, _SHIFT)

    def line(points: np.ndarray, color: tuple[int, int, int], thickness: int) -> None:
        if len(points) > 1:
            cv2.polylines(picture, [pixels(points)], False, color, thickness, cv2.LINE_AA, _SHIFT)

    picture = np.full((height, width, 3), GRASS, np.uint8)
    fill(ground.sidewalk, WALK)
    fill(ground.drivable, ROAD)
    near_route = ground.route[np.hypot(*(ground.route - origin[:2]).T) < 2 * metres]
    line(near_route, ROUTE, 3)
    fill(ground.white, WHITE)
    fill(ground.yellow, YELLOW)
    if now.stop is not None:
        across = 2.0 * np.array([-np.sin(now.stop[2]), np.cos(now.stop[2])])
        line(np.stack([now.stop[:2] - across, now.stop[:2] + across]), LAMPS.get(now.lamp, WHITE), 4)
    for box in now.boxes:
        color = HIT if box.name in marked else COLORS.get(box.kind, VEHICLE_COLOR)
        cv2.fillConvexPoly(picture, pixels(box.corners), color, cv2.LINE_AA, _SHIFT)
        cv2.polylines(picture, [pixels(box.corners)], True, (60, 60, 60), 1, cv2.LINE_AA, _SHIFT)
        if box.braking and box.kind not in COLORS:
            line(box.corners[1:3], BRAKE, 3)
    line(now.plan[:, :2], PLAN, 2)
    cv2.fillConvexPoly(picture, pixels(now.footprint), EGO, cv2.LINE_AA, _SHIFT)
    nose = np.stack([now.footprint[[0, 3]].mean(axis=0) * 0.7 + now.footprint.mean(axis=0) * 0.3, now.footprint[0], now.footprint[3]])
    cv2.fillConvexPoly(picture, pixels(nose), WHITE, cv2.LINE_AA, _SHIFT)
    return picture


def clip(tape: Tape) -> bytes | None:
    """Animated WebP of the seconds around the first failure, camera (where there is one) beside the view from above; None for a success."""
    if tape.fault_s is None:
        return None
    marked = frozenset(entry["actor"] for entry in tape.result["infractions"] if "actor" in entry)
    chosen = list(tape.around(tape.fault_s, BEFORE_S, AFTER_S))
    lines = 3 if any(now.text for now in chosen) else 1
    frames = [_frame(tape, now, marked, lines) for now in chosen]
    # a long line of text wraps, and makes its frame taller
    tallest = max((len(frame) for frame in frames), default=0)
    frames = [np.pad(frame, ((0, tallest - len(frame)), (0, 0), (0, 0)), mode="edge") for frame in frames]
    return webp.encode(frames, round(1000 * PERIOD_S)) if frames else None


def _frame(tape: Tape, now: Snapshot, marked: frozenset[str], lines: int) -> np.ndarray:
    width, height = _CLIP_PX
    if now.jpeg is None:
        picture = draw(tape.ground, now, (width, round(1.2 * height)), 54.0, marked)
    else:
        seen = cv2.cvtColor(cv2.imdecode(np.frombuffer(now.jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        ahead = to_local(now.pose, now.plan)
        seen = draw_plan(seen, Camera.level(seen.shape[:2]), ahead[ahead[:, 0] > 0])
        seen = cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA)
        picture = np.concatenate([seen, draw(tape.ground, now, (round(0.8 * height), height), 54.0, marked)], axis=1)
    done = [e["type"].replace("_", " ") for e in tape.result["infractions"] if abs(e["time_s"] - now.time_s) < 1.0 and e["type"] != "min_speed"]
    told = f"{now.time_s:.1f} s   {now.speed_mps:.1f} m/s" + (f"   lamp {now.lamp}" if now.lamp else "") + (f"   {done[0].upper()}" if done else "")
    return caption(picture, [told, now.text[:120]] if lines > 1 else [told], height_px=20, min_lines=lines)
