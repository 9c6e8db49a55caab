"""What the planner node itself costs: real node, real DDS, pictures and odometry of a car, a model that takes no time.

`python -m spanvla_ros.ros.bench --ros-args ...` is the node; `Car` sends to it from another process and hears its answers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from spanvla_ros.contracts import NS_PER_S, ModelSpec
from spanvla_ros.planning import tokenizer as words
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.prompt import FAST_TEXT, answer
from spanvla_ros.ros import conversions, qos
from spanvla_ros.ros.background import Background
from spanvla_ros.ros.processes import PLANNER

CAMERAS = ("front", "front_left", "front_right")
IMAGE_HZ, ODOMETRY_HZ = 10, 100
SIZE, QUALITY, PICTURES = (1600, 900), 80, 4
SPEED_MPS = 8.0
CAMERA_S = 0.02  # between exposure and message: odometry of the exposure is there by then
_POLL_S, _AFTER_S = 0.05, 1.0
_STEP_S = 1 / ODOMETRY_HZ


class Instant:
    """A Backend that says a fixed sentence and goes on as the car goes, in no time."""

    def __init__(self, ids: list[int]):
        self._ids = ids

    def prefill(self, prompt: Mapping[str, np.ndarray]) -> None:
        pass

    def decode(self, max_tokens: int) -> Iterator[int]:
        yield from self._ids[:max_tokens]

    def flow(self, motion: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        return motion["base"]

    def close(self) -> None:
        pass


def load(values: Mapping[str, Any]) -> Planner:
    """A planner that is asked for what spanvla-3b is asked for: three cameras, four frames each."""
    spec = ModelSpec(
        name="instant",
        cameras=CAMERAS,
        frame_offsets_s=(-1.5, -1.0, -0.5, 0.0),
        history_offsets_s=(-1.5, -1.0, -0.5, 0.0),
        image_size=(224, 448),
        waypoints=10,
        waypoint_interval_s=0.5,
        prompt_version="compact/1",
        prompt_tokens=1152,
        max_reasoning_tokens=96,
        tokenizer_sha256="",
        taps=(0,),
        flow_steps=5,
        source_sigma=0.1,
        action_scale=((1.0, 1.0, 1.0),) * 10,
    )
    texts = [" user front left right assistant turn go straight follow the road ; acceleration speed path 0 1 2 3 4 5 6 7 8 9 . -", FAST_TEXT]
    tokenizer = words.train(texts * 20, 400)
    return Planner(spec, tokenizer, Instant(tokenizer.encode(answer(FAST_TEXT)).ids), "instant", backend_name="instant")


def pictures(size: tuple[int, int] = SIZE) -> list[bytes]:
    """JPEGs (width, height) with detail everywhere, each another one."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(PICTURES):
        blocks = rng.integers(0, 255, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
        picture = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC)
        made.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return made


@dataclass
class Heard:
    """What came back. sent_s: stamp of the pictures -> steady time before the first of them was sent; plans: steady time and plan_info;
    odometry: messages sent; gap_s: longest time between two heartbeats."""

    sent_s: dict[int, float] = field(default_factory=dict)
    plans: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    odometry: int = 0
    gap_s: float = 0.0


class Car(Background):
    """Drives straight on and sends what a car sends; a context manager. env: of `processes.environment`, as the node's."""

    def __init__(self, env: Mapping[str, str]):
        super().__init__("spanvla_bench", env)
        self.heard = Heard()
        self._beat_s: float | None = None
        self._images = [self._node.create_publisher(CompressedImage, f"{PLANNER}/input/image/{c}", qos.IMAGE) for c in CAMERAS]
        self._odometry = self._node.create_publisher(Odometry, f"{PLANNER}/input/odometry", qos.ODOMETRY)
        self._node.create_subscription(String, f"{PLANNER}/output/plan_info", self._on_info, qos.PLAN_INFO)
        # one message per picture, made once: what building them costs is not the node's
        self._messages = [CompressedImage(format="jpeg", data=data) for data in pictures()]

    def wait(self, timeout_s: float, check: Callable[[], object]) -> bool:
        """Whether the node hears everything and says so within the time; `check` may raise meanwhile."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            check()
            if self._beat_s is not None and all(p.get_subscription_count() for p in (*self._images, self._odometry)):
                return True
            time.sleep(_POLL_S)
        return False

    def drive(self, seconds: float, say: Callable[[str], None]) -> Heard:
        """Send for that long; the last pictures come after all odometry, so that their plan has the final counts."""
        begun_s, offset_ns = time.monotonic(), time.time_ns() - time.monotonic_ns()
        every = ODOMETRY_HZ // IMAGE_HZ
        for tick in range(round(seconds * ODOMETRY_HZ)):
            due_s = begun_s + tick * _STEP_S
            time.sleep(max(0.0, due_s - time.monotonic()))
            stamp_ns = round(due_s * NS_PER_S) + offset_ns
            pose = np.array([SPEED_MPS * tick * _STEP_S, 0.0, 0.0])
            self._odometry.publish(conversions.odometry(stamp_ns, "odom", "base_link", pose, SPEED_MPS, 0.0))
            self.heard.odometry += 1
            if tick % every == 0:
                self._expose(tick // every, stamp_ns - round(CAMERA_S * NS_PER_S))
            if tick % (10 * ODOMETRY_HZ) == 0 and tick:
                say(f"{tick // ODOMETRY_HZ} of {seconds:g} s, {len(self.heard.plans)} plans")
        time.sleep(_AFTER_S)
        self._expose(0, stamp_ns - round(CAMERA_S * NS_PER_S) + 1)
        time.sleep(_AFTER_S)
        return self.heard

    def _expose(self, count: int, stamp_ns: int) -> None:
        message = self._messages[count % PICTURES]
        self.heard.sent_s[stamp_ns] = time.monotonic()
        # the first camera asks for the plan: its frame comes last
        for camera, publisher in reversed(list(zip(CAMERAS, self._images))):
            message.header = conversions.header(stamp_ns, camera)
            publisher.publish(message)

    def _on_info(self, message: String) -> None:
        now_s, info = time.monotonic(), json.loads(message.data)
        if info["event"] == "plan":
            self.heard.plans.append((now_s, info))
        elif info["event"] == "heartbeat":
            if self._beat_s is not None and self.heard.sent_s:
                self.heard.gap_s = max(self.heard.gap_s, now_s - self._beat_s)
            self._beat_s = now_s


if __name__ == "__main__":
    from spanvla_ros.ros.main import spin
    from spanvla_ros.ros.planner_node import PlannerNode

    sys.exit(spin(lambda: PlannerNode(load)))
