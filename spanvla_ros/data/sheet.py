"""Contact sheet of a data set: the newest pictures of a sample with its future drawn in, a map from above, and what it says."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from spanvla_ros.data import rig
from spanvla_ros.data.sample import Sample
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.overlay import Camera
from spanvla_ros.geometry import to_global, to_local

CAMERAS = ("front_left", "front", "front_right")
_WIDTH, _HEIGHT, _TEXT = 336, 189, 430
_COLOURS = {"pos": (80, 190, 60), "neg": (50, 50, 230), "rec": (230, 150, 40)}  # BGR
_LAYERS = {"ROADBLOCK": (90, 90, 90), "INTERSECTION": (105, 105, 105)}
_THINGS = {"VEHICLE": (200, 160, 60), "PEDESTRIAN": (60, 60, 240), "BICYCLE": (200, 60, 200)}
_METRES = 55.0  # seen from above, mostly ahead
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def choose(dataset: Dataset, count: int) -> list[int]:
    """Samples of as many families and labels as possible, spread over each; the order is that of the families."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, entry in enumerate(dataset.entries):
        groups.setdefault((entry.label, entry.family), []).append(index)
    # all labels in turn, of each another family in turn
    order: list[tuple[str, str]] = []
    by_label = {label: [key for key in sorted(groups) if key[0] == label] for label in _COLOURS}
    for k in range(max(map(len, by_label.values()))):
        order += [keys[(k * 7 + 3 * i) % len(keys)] for i, keys in enumerate(by_label.values()) if keys]
    rng = np.random.default_rng(0)
    left = {key: list(rng.permutation(indices)) for key, indices in groups.items()}
    found: list[int] = []
    while len(found) < min(count, len(dataset)):
        for key in dict.fromkeys([*order, *left]):
            if left[key] and len(found) < count:
                found.append(int(left[key].pop()))
    return sorted(found, key=lambda i: (dataset.entries[i].family, dataset.entries[i].label))


def sheet(dataset: Dataset, indices: Sequence[int], columns: int = 1) -> np.ndarray:
    """BGR picture: one strip per sample."""
    charts: dict[str, list[tuple[str, np.ndarray]]] = {}
    strips = [_strip(dataset, index, charts) for index in indices]
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    return np.concatenate([np.concatenate(strips[k : k + columns], axis=1) for k in range(0, len(strips), columns)], axis=0)


def _strip(dataset: Dataset, index: int, charts: dict[str, list[tuple[str, np.ndarray]]]) -> np.ndarray:
    sample, truth = dataset[index], dataset.truth(index)
    if sample.map not in charts:
        areas = dataset.chart(sample.map)["areas"] if dataset.has_chart(sample.map) else []
        charts[sample.map] = [(area["layer"], np.array(rings[0])) for area in areas for rings in area["polygons"]]
    colour = _COLOURS[sample.label]
    pictures = []
    shown = [name for name in CAMERAS if name in sample.observation.images] or list(sample.observation.images)[: len(CAMERAS)]
    for name in shown:
        rgb = sample.observation.images[name][-1].rgb
        picture = np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        _draw_future(picture, rig.view(truth["cameras"][name]), sample, colour)
        # a lone camera has the room of all
        pictures.append(_fitted(picture, _WIDTH * len(CAMERAS) // len(shown)))
    strip = np.concatenate([*pictures, _from_above(sample, truth, charts[sample.map], colour), _text(sample, colour)], axis=1)
    cv2.rectangle(strip, (0, 0), (strip.shape[1] - 1, strip.shape[0] - 1), colour, 2)
    return strip


def _draw_future(picture: np.ndarray, camera: Camera, sample: Sample, colour: tuple[int, int, int]) -> None:
    """The driven path as dots on the ground, bigger ones every 0.5 s."""
    pixels, ahead = camera.project(np.column_stack([sample.dense[:, :2], np.zeros(len(sample.dense))]))
    height, width = picture.shape[:2]
    scale = max(1.0, width / 448)
    for k in np.flatnonzero(ahead):
        u, v = pixels[k]
        if -50 < u < width + 50 and -50 < v < height + 50:
            cv2.circle(picture, (round(u), round(v)), round(scale * (4 if k % 5 == 4 else 2)), colour, -1, cv2.LINE_AA)


def _fitted(picture: np.ndarray, width: int) -> np.ndarray:
    """In a frame of `width` x _HEIGHT, whole and with its own aspect."""
    scale = min(width / picture.shape[1], _HEIGHT / picture.shape[0])
    small = cv2.resize(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    frame = np.full((_HEIGHT, width, 3), 24, np.uint8)
    top, left = (_HEIGHT - small.shape[0]) // 2, (width - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def _from_above(
    sample: Sample, truth: Mapping[str, Any], areas: Sequence[tuple[str, np.ndarray]], colour: tuple[int, int, int]
) -> np.ndarray:
    """Roads (layer and outline (N, 2) of every area), boxes and the future, the ego looking up."""
    picture = np.full((_HEIGHT, _HEIGHT, 3), 40, np.uint8)
    pose = sample.observation.pose_odom

    def pixels(xy: np.ndarray) -> np.ndarray:
        local = to_local(pose, np.column_stack([xy, np.zeros(len(xy))]))
        scale = _HEIGHT / _METRES
        return np.column_stack([_HEIGHT / 2 - local[:, 1] * scale, _HEIGHT * 0.8 - local[:, 0] * scale]).round().astype(np.int32)

    for layer, outline in areas:
        if layer in _LAYERS:
            cv2.fillPoly(picture, [pixels(outline)], _LAYERS[layer])
    for layer, outline in areas:
        if layer == "LANE":
            cv2.polylines(picture, [pixels(outline)], True, (150, 150, 150), 1, cv2.LINE_AA)
    frame = truth["frames"][sample.span[1]]
    for name, x, y, yaw, *_ in frame["boxes"]:
        kind, length, width = truth["objects"][name]
        corners = np.array([(length, width), (-length, width), (-length, -width), (length, -width)]) / 2
        turned = corners @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        cv2.fillPoly(picture, [pixels(turned + (x, y))], _THINGS.get(kind, (0, 140, 255)), cv2.LINE_AA)
    for row in (to_global(pose, sample.dense[4::5]), np.array(frame["ego"])[None, :3]):
        for x, y, _ in row:
            cv2.circle(picture, tuple(map(int, pixels(np.array([[x, y]]))[0])), 2, colour, -1, cv2.LINE_AA)
    return picture


def _text(sample: Sample, colour: tuple[int, int, int]) -> np.ndarray:
    picture = np.full((_HEIGHT, _TEXT, 3), 250, np.uint8)
    lapse = sample.provenance.get("lapse")
    speed = sample.observation.history.speeds_mps[-1]
    head = f"{sample.label}  {sample.id}" + (f"  [{lapse['kind']}]" if lapse and sample.label != "pos" else "")
    end = sample.future[-1]
    lines = [
        f"{sample.instruction}  ({sample.observation.command.value})",
        f"{speed:.1f} m/s; {len(sample.future) / 2:g} s later {end[0]:.1f} m ahead, {end[1]:.1f} m left",
        f"{sample.decision['longitudinal']} | {sample.decision['lateral']}",
        *(f"- {c['class']}: {c['type']}, {c['location']}, {c.get('behavior', c.get('impact'))}" for c in sample.components[:3]),
        *textwrap.wrap(sample.reasoning, 62),
    ]
    cv2.putText(picture, head, (8, 18), _FONT, 0.45, colour, 1, cv2.LINE_AA)
    for k, line in enumerate(lines[:10]):
        cv2.putText(picture, line, (8, 36 + 16 * k), _FONT, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    return picture


