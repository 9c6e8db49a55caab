"""A drive as it was heard: pictures, odometry and answers of the planner; and what can be made of them afterwards."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import NS_PER_S, Command, Image, NotReady, Observation
from spanvla_ros.evaluation import overlay
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.inputs import InputBuffer
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.planner import Planner

# how much before and after t0 an observation may draw from
_BEFORE_NS, _AFTER_NS = 5 * NS_PER_S // 2, NS_PER_S // 5
PLAN_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One picture of a drive: JPEG bytes with the plan drawn in, and what the planner said."""

    time_s: float
    jpeg: bytes
    text: str


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One scenario as it was driven.

    result: family, seed, route_completion (0-1), driving_score_lb21 (0-100), infractions; times_s (N,) from the start;
    poses (N, 3) and route (M, 2) in one frame; speeds_mps (N,); plans: (K, 2) points each, in the same frame; states:
    (time_s, supervisor state), increasing.
    """

    result: Mapping[str, Any]
    times_s: np.ndarray
    poses: np.ndarray
    speeds_mps: np.ndarray
    route: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    plans: Sequence[np.ndarray] = ()
    states: Sequence[tuple[float, str]] = ()
    moments: Sequence[Moment] = ()

    @property
    def name(self) -> str:
        return f"{self.result['family']} {self.result['seed']}"


@dataclass
class Recording:
    """images: stamp_ns -> JPEG bytes of the anchor camera; odometry in order of arrival; infos: (steady time of arrival in
    seconds, plan_info as in docs/plan_info.md)."""

    images: dict[int, bytes] = field(default_factory=dict)
    odometry: list[OdometrySample] = field(default_factory=list)
    infos: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def plans(self, first_ns: int = 0, last_ns: int = 1 << 62) -> list[dict[str, Any]]:
        """The infos that carry a whole plan, with t0 in the given span."""
        return [info for _, info in self.infos if info["event"] == "plan" and first_ns <= info["t0_ns"] <= last_ns]

    def drive(self, result: Mapping[str, Any], route: np.ndarray, moments: int) -> Drive:
        """The part of the recording that belongs to one result (with first_stamp_ns and last_stamp_ns)."""
        first, last = result["first_stamp_ns"], result["last_stamp_ns"]
        samples = sorted((s for s in self.odometry if first <= s.stamp_ns <= last), key=lambda s: s.stamp_ns)
        plans = self.plans(first, last)
        every = max(1, round(PLAN_EVERY_S * (len(plans) - 1) * NS_PER_S / max(plans[-1]["t0_ns"] - plans[0]["t0_ns"], 1))) if plans else 1
        shown = [plans[i] for i in np.unique(np.linspace(0, len(plans) - 1, moments).round().astype(int))] if plans else []
        return Drive(
            result=result,
            times_s=np.array([(s.stamp_ns - first) / NS_PER_S for s in samples]),
            poses=np.array([s.pose_odom for s in samples]).reshape(-1, 3),
            speeds_mps=np.array([s.speed_mps for s in samples]),
            route=route,
            plans=[_points_odom(info) for info in plans[::every]],
            states=self._states(first, last),
            moments=[self._moment(info, first) for info in shown if info["t0_ns"] in self.images],
        )

    def state_share(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Supervisor state -> share of the heartbeats between the first and the last plan of every drive."""
        counts: Counter[str] = Counter()
        for result in results:
            counts.update(info["state"] for _, info in self._beats(result["first_stamp_ns"], result["last_stamp_ns"]))
        total = sum(counts.values())
        return {state: count / total for state, count in counts.most_common()}

    def observation(self, info: Mapping[str, Any], planner: Planner) -> Observation:
        """What the planner was shown for the plan in `info`, formed again from the messages. Raises NotReady."""
        t0_ns, buffer = info["t0_ns"], InputBuffer(planner.spec)
        for stamp_ns, data in self.images.items():
            if -_BEFORE_NS <= stamp_ns - t0_ns <= _AFTER_NS:
                buffer.add_image(planner.spec.cameras[0], stamp_ns, data)
        for sample in self.odometry:
            if -_BEFORE_NS <= sample.stamp_ns - t0_ns <= _AFTER_NS:
                buffer.add_odometry(*sample)
        return buffer.observe(t0_ns, Command(info["command"]))

    def black_image_change(self, planner: Planner, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Plans of the same observations with and without sight: does the planner look, or guess from its motion?

        mean_m and max_m over n plans of the mean distance between their waypoints; identical: how many of the plans with
        sight equal those that were heard, to the last digit.
        """
        changes, identical = [], 0
        for info in infos:
            try:
                observation = self.observation(info, planner)
            except NotReady:
                continue  # the recording began, or lost a message, in the middle of this plan's history
            black = {c: tuple(Image(stamp_ns=i.stamp_ns, rgb=np.zeros_like(i.rgb)) for i in frames) for c, frames in observation.images.items()}
            seeing = planner.plan(observation).waypoints_base
            blind = planner.plan(dataclasses.replace(observation, images=black)).waypoints_base
            changes.append(float(np.linalg.norm((seeing - blind)[:, :2], axis=1).mean()))
            identical += np.array_equal(seeing, np.array(info["waypoints_base"]))
        if not changes:
            return {"n": 0, "mean_m": None, "max_m": None, "identical": 0}
        return {"n": len(changes), "mean_m": float(np.mean(changes)), "max_m": max(changes), "identical": identical}

    def _beats(self, first_ns: int, last_ns: int) -> list[tuple[float, dict[str, Any]]]:
        """Heartbeats that arrived from the first to the last plan of a drive."""
        arrivals = [at for at, info in self.infos if info["event"] == "plan" and first_ns <= info["t0_ns"] <= last_ns]
        if not arrivals:
            return []
        return [(at, info) for at, info in self.infos if info["event"] == "heartbeat" and arrivals[0] <= at <= arrivals[-1]]

    def _states(self, first_ns: int, last_ns: int) -> list[tuple[float, str]]:
        """Changes of state, placed on the time axis of the drive by the stamps of the trajectories."""
        changes: list[tuple[float, str]] = []
        for _, info in self._beats(first_ns, last_ns):
            if info["stamp_ns"] is not None and (not changes or changes[-1][1] != info["state"]):
                changes.append(((info["stamp_ns"] - first_ns) / NS_PER_S, info["state"]))
        return changes

    def _moment(self, info: Mapping[str, Any], first_ns: int) -> Moment:
        rgb = decode_jpeg(self.images[info["t0_ns"]])
        drawn = overlay.draw_plan(rgb, overlay.Camera.level(rgb.shape[:2]), np.array(info["waypoints_base"]))
        encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        return Moment(time_s=(info["t0_ns"] - first_ns) / NS_PER_S, jpeg=encoded.tobytes(), text=f"{info['speed_mps']:.1f} m/s. {info['reasoning']}")


def _points_odom(info: Mapping[str, Any]) -> np.ndarray:
    """Start and waypoints (T + 1, 2) of a plan in the odometry frame."""
    poses = np.concatenate([np.zeros((1, 3)), np.array(info["waypoints_base"])])
    return geometry.to_global(np.array(info["pose_odom"]), poses)[:, :2]
