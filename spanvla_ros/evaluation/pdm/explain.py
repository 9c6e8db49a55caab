"""A picture of one proposal in its scene: map, traffic, plan, and the moment of every failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spanvla_ros.evaluation.pdm.footprint import corners, ego_corners
from spanvla_ros.evaluation.pdm.scene import STEP_S, STEPS, Scene
from spanvla_ros.evaluation.pdm.scorer import Scores, reference, traffic

_GROUND = {
    "ROADBLOCK": "#dddddd",
    "INTERSECTION": "#d2d2d2",
    "CARPARK_AREA": "#e4dccb",
    "DRIVABLE_AREA": "#dddddd",
}
_MARGIN_M = 14.0
_EVERY = 10  # steps between drawn boxes


def draw(scene: Scene, scores: Scores, index: int, path: Path) -> None:
    """Write a PNG of proposal `index`: its simulated drive, the traffic at the steps of its failures, and the reasons in words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon

    states = scores.states[index]
    failures = {name: found[index] for name, found in scores.failures.items() if found[index] is not None}
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    def patch(points: np.ndarray, **style: object) -> None:
        axes.add_patch(Polygon(points, closed=True, **style))

    for area in scene.areas:
        ring = np.asarray(area.polygon.exterior.coords)
        if area.layer in _GROUND:
            patch(ring, facecolor=_GROUND[area.layer], edgecolor="none", zorder=0)
        else:
            patch(ring, facecolor="#c9d8e8" if area.name in scene.route_lanes else "none", edgecolor="white", linewidth=0.8, alpha=0.7, zorder=1)
    at = sorted({min(max(failure.step, 0), STEPS - 1) for failure in failures.values()})
    for name in sorted({name for step in scene.red_lights for name in step}):
        ring = next(np.asarray(area.polygon.exterior.coords) for area in scene.areas if area.name == name)
        patch(ring, facecolor="#e04040", alpha=0.25, edgecolor="none", zorder=2)
    axes.plot(*scene.centerline[:, :2].T, color="#6080a0", linewidth=1, linestyle="--", zorder=2, label="centerline")
    axes.plot(*reference(scene, scores.version)[:, :2].T, color="#30a050", linewidth=1.5, zorder=3, label="PDM-Closed")

    agents = traffic(scene, scores.version)
    culprits = {failure.cause for failure in failures.values()}
    for token, size, frames in zip(agents.tokens, agents.sizes, agents.frames):
        for step in sorted({0, *at}):
            if np.isnan(frames[step, 0]):
                continue
            color = "#d03030" if token in culprits else "#555555"
            box = corners(frames[step, :2], frames[step, 2], size[0], size[1])
            patch(box, facecolor=color, alpha=0.65 if step in at else 0.2, edgecolor=color, zorder=4)
    boxes = ego_corners(states)
    for step in range(0, STEPS, _EVERY):
        patch(boxes[step], facecolor="none", edgecolor="#3060c0", linewidth=0.8, zorder=5)
    for step in at:
        patch(boxes[step], facecolor="#f0a020", alpha=0.5, edgecolor="#c07000", linewidth=1.5, zorder=6)
        axes.annotate(f"{step * STEP_S:.1f} s", states[step, :2], fontsize=8, zorder=8)
    axes.plot(*states[:, :2].T, color="#3060c0", linewidth=2, zorder=7, label="simulated plan")

    low, high = boxes.min(axis=(0, 1)) - _MARGIN_M, boxes.max(axis=(0, 1)) + _MARGIN_M
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="x (m)", ylabel="y (m)")
    axes.legend(loc="lower right", fontsize=8)
    name = "EPDMS" if scores.version == "v2" else "PDMS"
    values = "  ".join(f"{key} {value[index]:.3g}" for key, value in scores.values.items())
    lines = [f"{key} at {failure.step * STEP_S:.1f} s, {failure.cause}: {failure.reason}" for key, failure in failures.items()]
    axes.set_title("\n".join([f"{scene.name}, plan {index}: {name} {scores.total[index]:.3f}", values, *lines]), fontsize=9, loc="left")
    figure.savefig(path, dpi=90)
