"""Chooses what the expert says: one topic at a time, with hysteresis, in the wording of the episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Command
from spanvla_ros.sim.decision import TRACES

_BUCKET_M = 5


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the choice of topic depends on. Distances in metres from the front bumper; lateral offset left positive;
    lead_force: deceleration [m/s^2] that the lead asks for; curvature [1/m] of the sharpest bend just ahead."""

    speed_mps: float
    lateral_m: float
    heading_rad: float
    lamp: str
    stops: bool
    line_m: float
    gap_m: float
    lead_speed_mps: float
    lead_kind: str
    lead_force: float
    turn: Command
    inside: bool
    curvature: float


class Narrator:
    """Holds the last topic and distance, so that sentences don't flicker at thresholds."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 13])
        self._wording = {topic: int(rng.integers(len(texts))) for topic, texts in TRACES.items()}
        self._topic = "free"
        self._bucket = 0

    def tell(self, scene: Scene) -> tuple[str, Mapping[str, object], str | None]:
        """Topic, the words that fill its texts, and the sentence (None for a free road)."""
        previous = self._topic
        topic = self._choose(scene)
        self._topic = topic
        if topic in ("red", "yellow", "green", "green_left", "green_right", "red_wait"):
            distance = scene.line_m
        elif topic in ("lead", "stopped", "stopped_wait"):
            distance = scene.gap_m
        else:
            distance = 0.0
        words = {"d": self._rounded(distance, fresh=topic != previous), "v": scene.lead_kind, "side": self._side(topic, scene)}
        if topic == "free":
            return topic, words, None
        return topic, words, TRACES[topic][self._wording[topic]].format(**words)

    def _choose(self, scene: Scene) -> str:
        def wider(topics: tuple[str, ...], factor: float) -> float:
            # what is being said already keeps its place a little longer
            return factor if self._topic in topics else 1.0

        waits = scene.speed_mps < (0.6 if self._topic.endswith("_wait") else 0.3)
        lead_topics = ("lead", "stopped", "stopped_wait")
        lead_matters = scene.gap_m < 40.0 * wider(lead_topics, 1.1) and scene.lead_force > 0.3 / wider(lead_topics, 1.5)
        if lead_matters and (not scene.stops or scene.gap_m < scene.line_m):
            if scene.lead_speed_mps < 0.5 * wider(("stopped", "stopped_wait"), 1.6):
                return "stopped_wait" if waits and scene.gap_m < 8.0 else "stopped"
            return "lead"
        if scene.stops:
            if waits and scene.line_m < 6.0:
                return "red_wait" if scene.lamp == "red" else "yellow"
            return scene.lamp
        off = abs(scene.lateral_m) * wider(("recover",), 1.4)
        if off > 0.75 and not scene.inside:
            return "recover"
        if scene.lamp == "green" and scene.line_m < 30.0 * wider(("green", "green_left", "green_right"), 1.1):
            return "green" if scene.turn in (Command.STRAIGHT, Command.UNKNOWN) else f"green_{scene.turn.value}"
        bend = abs(scene.curvature) * wider(("curve", "turn"), 1.3)
        if scene.inside and bend > 0.03:
            return "turn"
        if bend > 0.022:
            return "curve"
        return "free"

    def _rounded(self, distance: float, fresh: bool) -> int:
        """Distance in 5-m buckets; the bucket changes only when the distance has left it by a metre."""
        if fresh or abs(distance - self._bucket) > _BUCKET_M / 2 + 1.0:
            self._bucket = max(_BUCKET_M, _BUCKET_M * round(distance / _BUCKET_M))
        return self._bucket

    @staticmethod
    def _side(topic: str, scene: Scene) -> str:
        value = scene.lateral_m if topic == "recover" else scene.curvature
        return "left" if value > 0 else "right"
