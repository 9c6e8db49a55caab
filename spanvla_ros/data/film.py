"""Plans drawn into the pictures of their bag: a video, a strip of moments, single pictures for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spanvla_ros.contracts import InputError, Plan
from spanvla_ros.data.bag import Bag
from spanvla_ros.data.cues import Cue, cues
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.evaluation import overlay
from spanvla_ros.evaluation.openloop import recorded_future
from spanvla_ros.evaluation.overlay import Camera
from spanvla_ros.planning import messages
from spanvla_ros.planning.images import decode_jpeg

VIDEO, STRIP = "overlay.mp4", "strip.png"
STRIP_PICTURES = 6
WIDTH_PX, MOMENT_PX, MOMENT_QUALITY = 960, 560, 80


def write(
    bag: Bag, topics: DriveTopics, plans: Sequence[Plan], stamps: np.ndarray, poses: np.ndarray, out: Path, moments: Sequence[int]
) -> tuple[list[str], dict[int, bytes]]:
    """Writes overlay.mp4 (where this OpenCV can) and strip.png; returns the names of the files, and JPEG bytes of the plans at `moments` (t0).

    stamps (N,), poses (N, 3): the recorded drive, drawn beside the plan.
    """
    wanted = {plans[i].t0_ns for i in np.linspace(0, len(plans) - 1, min(STRIP_PICTURES, len(plans))).round().astype(int)}
    interval_s = float(np.median(np.diff([plan.t0_ns for plan in plans]))) / 1e9 if len(plans) > 1 else 0.1
    strip, video, stills = [], None, {}
    for plan, picture in _pictures(bag, topics, plans, stamps, poses):
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if video is None:
            size = bgr.shape[1], bgr.shape[0]
            video = cv2.VideoWriter(str(out / VIDEO), cv2.VideoWriter_fourcc(*"mp4v"), 1 / max(interval_s, 1e-2), size)
        if video.isOpened():
            video.write(bgr)
        if plan.t0_ns in wanted:
            strip.append(bgr)
        if plan.t0_ns in moments:
            small = cv2.resize(bgr, (MOMENT_PX, round(bgr.shape[0] * MOMENT_PX / bgr.shape[1])), interpolation=cv2.INTER_AREA)
            stills[plan.t0_ns] = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, MOMENT_QUALITY])[1].tobytes()
    cv2.imwrite(str(out / STRIP), np.concatenate(strip))
    written = video is not None and video.isOpened()
    if video is not None:
        video.release()
    if not written:
        (out / VIDEO).unlink(missing_ok=True)
    return [VIDEO, STRIP] if written else [STRIP], stills


def _pictures(bag: Bag, topics: DriveTopics, plans: Sequence[Plan], stamps: np.ndarray, poses: np.ndarray) -> Iterator[tuple[Plan, np.ndarray]]:
    """Every plan with its drawn picture (H, W, 3), all of one size; reads the bag a second time instead of keeping pictures."""
    by_stamp = {plan.t0_ns: plan for plan in plans}
    newest: dict[str, Cue] = {}
    cameras = _Cameras(bag)
    rows = 0
    for cue in cues(bag, topics):
        if not cue.camera:
            continue
        newest[cue.camera] = cue
        plan = by_stamp.pop(cue.stamp_ns, None) if cue.asks else None
        if plan is None:
            continue
        future = recorded_future(plan, stamps, poses)
        driven = np.concatenate([np.zeros((1, 3)), future[np.isfinite(future).all(1)]])
        scaled = _scaled(_drawn(cue, cameras, plan, driven, known=False), WIDTH_PX)
        others = [name for name in topics.cameras if name != cue.camera and name in newest]
        if others:
            # beside each other below the first one, in the order of the model
            small = [_scaled(_drawn(newest[name], cameras, plan, driven, known=True), WIDTH_PX // len(others)) for name in others]
            low = min(picture.shape[0] for picture in small)
            row = np.concatenate([picture[:low] for picture in small], axis=1)
            scaled = np.concatenate([scaled, np.pad(row, ((0, 0), (0, WIDTH_PX - row.shape[1]), (0, 0)))])
        # room for three lines of reasoning, so that every picture of the video has one size
        drawn = overlay.caption(scaled, [f"t0 {plan.t0_ns / 1e9:.1f} s   {plan.speed_mps:.1f} m/s", plan.reasoning], min_lines=4)
        rows = rows or drawn.shape[0]
        yield plan, drawn[:rows] if drawn.shape[0] >= rows else np.pad(drawn, ((0, rows - drawn.shape[0]), (0, 0), (0, 0)))


def _scaled(rgb: np.ndarray, width: int) -> np.ndarray:
    return cv2.resize(rgb, (width, round(rgb.shape[0] * width / rgb.shape[1] / 2) * 2), interpolation=cv2.INTER_AREA)


def _drawn(cue: Cue, cameras: _Cameras, plan: Plan, driven: np.ndarray, known: bool) -> np.ndarray:
    """The picture of a cue with plan and recorded drive; a picture that can't be read is black. known: draw only where the bag says how
    the camera sits."""
    try:
        payload = messages.image(cue.message)
        rgb = decode_jpeg(payload) if isinstance(payload, bytes) else payload
    except InputError:
        return np.zeros((9, 16, 3), np.uint8)
    camera = cameras.of(cue.topic, rgb.shape[:2], cue.message.header.frame_id, known)
    return rgb if camera is None else overlay.draw_line(overlay.draw_plan(rgb, camera, plan.waypoints_base), camera, driven)


class _Cameras:
    """Calibrations, each looked up once."""

    def __init__(self, bag: Bag):
        self._bag = bag
        self._found: dict[Any, Camera | None] = {}

    def of(self, topic: str, size: tuple[int, int], optical_frame: str, known: bool) -> Camera | None:
        key = topic, size, optical_frame
        if key not in self._found:
            mounted = not known or self._bag.static_transform("base_link", optical_frame) is not None
            self._found[key] = calibration(self._bag, topic, size, optical_frame) if mounted else None
        return self._found[key]


def calibration(bag: Bag, topic: str, size: tuple[int, int], optical_frame: str) -> Camera:
    """The camera by CameraInfo and /tf_static; what the bag lacks is filled with the demo rig's mounting."""
    level = Camera.level(size)
    info = bag.camera_info(topic)
    matrix = level.matrix
    if info is not None and info.k[0] > 0 and (info.height, info.width) == size:
        matrix = np.array(info.k, np.float64).reshape(3, 3)
    pose = bag.static_transform("base_link", optical_frame)
    return Camera(matrix=matrix, base_from_optical=level.base_from_optical if pose is None else pose, size=size)
