"""A whole drive as small SVG drawings: from above, and speed over time. Vector graphics keep hundreds of them in one file."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from spanvla_ros.evaluation.tape import Ground, Tape
from spanvla_ros.geometry import to_local

WIDTH, MARGIN_M = 860, 14.0
_COLORS = {"pedestrian": "#d6289f", "bicycle": "#963cbe", "cone": "#f57814", "barrier": "#f57814"}
_VEHICLE = "#8a6d3b"
_TRACK_NEAR_M = 25.0


class _Frame:
    """World -> drawing: turned so that the route runs from left to right, y downwards."""

    def __init__(self, tape: Tape):
        driven = np.array([s.pose[:2] for s in tape.snapshots])
        points = np.concatenate([tape.ground.route, driven])
        chord = tape.ground.route[-1] - tape.ground.route[0]
        self._origin = np.array([*tape.ground.route[0], np.arctan2(chord[1], chord[0])])
        local = self._turned(points)
        self._low = local.min(axis=0) - MARGIN_M
        high = local.max(axis=0) + MARGIN_M
        # a winding route is shown whole, a straight one not as a needle
        self.scale = min(WIDTH / (high[0] - self._low[0]), 420 / max(high[1] - self._low[1], 1.0))
        self.size = (high - self._low) * self.scale
        self._high_y = high[1]

    def _turned(self, points: np.ndarray) -> np.ndarray:
        return to_local(self._origin, np.column_stack([points, np.zeros(len(points))]))[:, :2]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        local = self._turned(np.asarray(points, float).reshape(-1, 2))
        return np.column_stack([local[:, 0] - self._low[0], self._high_y - local[:, 1]]) * self.scale

    def inside(self, points: np.ndarray) -> bool:
        """Whether the bounding box of drawing points (N, 2) touches the drawing."""
        return bool((points.max(axis=0) > 0).all() and (points.min(axis=0) < self.size).all())


def from_above(tape: Tape) -> str:
    """The road, the route, the way that was driven, what moved near it, and numbered marks where something was wrong."""
    frame = _Frame(tape)
    width, height = frame.size
    parts = [f"<svg viewBox='0 0 {width:.0f} {height:.0f}' xmlns='http://www.w3.org/2000/svg' role='img'>"]
    parts.append(f"<rect width='{width:.0f}' height='{height:.0f}' fill='#e6ece0'/>")
    parts += _ground(tape.ground, frame)
    parts.append(_line(frame(tape.ground.route), "#9fc0ea", 0.5 * 3.0 * frame.scale, "stroke-linecap='round' stroke-opacity='.75'"))
    parts += _tracks(tape, frame)
    driven = frame(np.array([s.footprint.mean(axis=0) for s in tape.snapshots]))
    parts.append(_line(driven, "#0a3d91", 2.2))
    marked = {entry["actor"] for entry in tape.result["infractions"] if "actor" in entry}
    at = tape.fault_s if tape.fault_s is not None else tape.snapshots[-1].time_s
    moment = min(tape.snapshots, key=lambda s: abs(s.time_s - at))
    for box in moment.boxes:
        corners = frame(box.corners)
        if frame.inside(corners):
            fill = "#d62828" if box.name in marked else _COLORS.get(box.kind, "#f5dca0")
            parts.append(_polygon(corners, fill, "stroke='#3c3c3c' stroke-width='.6'"))
    parts.append(_polygon(frame(moment.footprint), "#145cbe", "stroke='#fff' stroke-width='.8'"))
    parts += [_mark(frame, tape, number, entry) for number, entry in enumerate(_placed(tape), 1)]
    return "".join(parts) + "</svg>"


def speed(tape: Tape) -> str:
    """Speed over time with the numbered marks."""
    width, height, left, base = WIDTH, 110, 34, 88
    times, speeds = (np.array([getattr(s, name) for s in tape.snapshots]) for name in ("time_s", "speed_mps"))
    end, top = max(float(times[-1]), 1.0), max(float(speeds.max()) * 1.15, 4.0)

    def at(time_s: float, speed_mps: float) -> tuple[float, float]:
        return left + (width - left - 8) * time_s / end, base - (base - 12) * speed_mps / top

    parts = [f"<svg viewBox='0 0 {width} {height}' xmlns='http://www.w3.org/2000/svg' role='img'>"]
    for value in np.arange(0, top, 2 if top < 11 else 5):
        y = at(0, value)[1]
        parts.append(
            f"<path d='M{left} {y:.1f}H{width - 8}' stroke='#d8dee4' stroke-width='.8'/>"
            f"<text x='{left - 5}' y='{y + 3.5:.1f}' text-anchor='end'>{value:g}</text>"
        )
    for value in np.arange(0, 0.97 * end, max(5 * round(end / 50), 5)):
        parts.append(f"<text x='{at(value, 0)[0]:.1f}' y='{height - 6}' text-anchor='middle'>{value:g}</text>")
    parts.append(f"<text x='{width - 8}' y='{height - 6}' text-anchor='end'>s</text><text x='2' y='10'>m/s</text>")
    parts.append(_line(np.array([at(t, v) for t, v in zip(times, speeds)]), "#0a3d91", 1.6))
    for number, entry in enumerate(_placed(tape), 1):
        x = at(entry["time_s"], 0)[0]
        parts.append(f"<path d='M{x:.1f} 12V{base}' stroke='#cf222e' stroke-width='1' stroke-dasharray='3 2'/>{_badge(x, 12, number)}")
    return "".join(parts) + "</svg>"


def _placed(tape: Tape) -> list[dict]:
    """The infractions that happened at a place: all but being slow."""
    return [entry for entry in tape.result["infractions"] if entry["type"] != "min_speed"]


def _ground(ground: Ground, frame: _Frame) -> list[str]:
    parts = []
    for shapes, color in ((ground.sidewalk, "#cfcabf"), (ground.drivable, "#7f858d"), (ground.white, "#f4f4f4"), (ground.yellow, "#ecbe3c")):
        path = ""
        for ring in shapes:
            points = frame(ring)
            if not frame.inside(points):
                continue
            points = points if len(points) < 12 else _thinned(points)
            if len(points) > 2:
                path += _path(points) + "Z"
        if path:  # the stroke keeps lines that are thinner than a pixel in sight
            parts.append(f"<path d='{path}' fill='{color}' stroke='{color}' stroke-width='.6' fill-rule='evenodd'/>")
    return parts


def _thinned(points: np.ndarray, spacing_px: float = 1.0) -> np.ndarray:
    """Without the points that a screen can't show apart; those that turn stay."""
    kept, out = points[0], [0]
    for i in range(1, len(points)):
        if np.abs(points[i] - kept).max() >= spacing_px:
            out.append(i)
            kept = points[i]
    return points[out]


def _tracks(tape: Tape, frame: _Frame) -> list[str]:
    """Ways of the moving things, where they were near the ego."""
    ways: dict[str, list[np.ndarray]] = {}
    kinds: dict[str, str] = {}
    for now in tape.snapshots:
        for box in now.boxes:
            centre = box.corners.mean(axis=0)
            if np.abs(centre - now.pose[:2]).max() < _TRACK_NEAR_M:
                ways.setdefault(box.name, []).append(centre)
                kinds[box.name] = box.kind
    lines = []
    for name, way in ways.items():
        if len(way) > 1 and np.ptp(np.array(way), axis=0).max() > 1.0:
            lines.append(_line(_thinned(frame(np.array(way)), 2.0), _COLORS.get(kinds[name], _VEHICLE), 1.0, "stroke-opacity='.7'"))
    return lines


def _mark(frame: _Frame, tape: Tape, number: int, entry: dict) -> str:
    now = min(tape.snapshots, key=lambda s: abs(s.time_s - entry["time_s"]))
    x, y = frame(now.footprint.mean(axis=0))[0]
    # beside the car, or the mark would hide what it points at
    up = max(y - 22 - 3 * (number % 3), 10)
    return f"<path d='M{x:.1f} {y:.1f}V{up:.1f}' stroke='#cf222e' stroke-width='1.2'/>{_badge(x, up, number)}"


def _badge(x: float, y: float, number: int) -> str:
    return (
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='7.5' fill='#cf222e' stroke='#fff'/>"
        f"<text x='{x:.1f}' y='{y + 3.6:.1f}' text-anchor='middle' style='fill:#fff;font-weight:600'>{html.escape(str(number))}</text>"
    )


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(points: np.ndarray, color: str, width: float, more: str = "") -> str:
    return f"<path d='{_path(points)}' fill='none' stroke='{color}' stroke-width='{width:.1f}' stroke-linejoin='round' {more}/>"


def _polygon(points: Sequence[np.ndarray], color: str, more: str = "") -> str:
    return f"<path d='{_path(np.asarray(points))}Z' fill='{color}' {more}/>"
