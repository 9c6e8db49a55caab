"""Plays recorded messages to a running planner node, in lock-step: the next one goes out when the last image is answered."""

from __future__ import annotations

import importlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

from spanvla_ros.contracts import NS_PER_S, Plan, SpanVLAError
from spanvla_ros.ros import conversions, qos
from spanvla_ros.ros.background import Background
from spanvla_ros.ros.link import Answer, PlannerLink

PLANNER_TIMEOUT_S, RESET_TIMEOUT_S = 60.0, 5.0
# an image for which a frame of another camera is missing is never answered: wait much longer than an answer took so far, but not for ever
ANSWER_TIMEOUT_S, FEWEST_S, TIMES = 30.0, 2.0, 10.0
_POLL_S = 0.05
# between the frames of the other cameras and the image that asks for a plan of them: topics may overtake each other
_SETTLE_S = 0.02
_CLOCK_S = 0.5  # some heartbeats of the planner
_PROFILES = {
    "nav_msgs/msg/Odometry": qos.SIM_ODOMETRY,
    "std_msgs/msg/String": qos.COMMAND,
    "tf2_msgs/msg/TFMessage": qos.TF_STATIC,
}


class PlannerMissing(SpanVLAError):
    """No active planner node listens to the topics that are played."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the planner said to an image: a plan and what it says about its inputs, or a reason code and a line."""

    plan: Plan | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


class Player(Background):
    """A node in a thread of its own; a context manager.

    kinds: topic -> message type as "sensor_msgs/msg/Image"; those whose package is not installed are left out, unless they are among
    `inputs`, which the planner must listen to. rate: at most so many times as fast as recorded, 0 as fast as the planner. /clock follows
    the stamps: the planner runs with use_sim_time and lockstep.
    """

    def __init__(self, planner: str, kinds: Mapping[str, str], inputs: Collection[str], rate: float):
        super().__init__("spanvla_player")
        self._planner, self._inputs, self._rate = planner, tuple(inputs), rate
        self._link = PlannerLink(self._node, planner)
        self._clock = self._node.create_publisher(Clock, "/clock", qos.SIM_CLOCK)
        self._publishers = {}
        for topic, kind in kinds.items():
            message = _message(kind)
            if message is not None:
                self._publishers[topic] = self._node.create_publisher(message, topic, _profile(kind))
            elif topic in inputs:
                raise PlannerMissing(f"topic {topic} has type {kind}, whose package is not installed")
        self._now_ns = 0
        self._longest_s: float | None = None
        self._began: tuple[int, float] | None = None

    def wait(self) -> None:
        """Until the planner is active and listens. Raises PlannerMissing."""
        end_s = time.monotonic() + PLANNER_TIMEOUT_S
        while not (self._link.alive and all(self._publishers[topic].get_subscription_count() for topic in self._inputs)):
            if time.monotonic() > end_s:
                deaf = [topic for topic in self._inputs if not self._publishers[topic].get_subscription_count()]
                what = f"nobody listens to {', '.join(deaf)}" if deaf else f"{self._planner} publishes no plan_info"
                raise PlannerMissing(f"no active planner after {PLANNER_TIMEOUT_S:g} s: {what}")
            time.sleep(_POLL_S)

    @property
    def alive(self) -> bool:
        """The planner still tells something at every heartbeat."""
        return self._link.alive

    def send(self, topic: str, stamp_ns: int, raw: bytes) -> None:
        """Publish a message, given as CDR bytes, and let the clock follow its stamp."""
        self._pace(stamp_ns)
        if stamp_ns > self._now_ns:
            first, self._now_ns = not self._now_ns, stamp_ns
            self._clock.publish(Clock(clock=conversions.time(stamp_ns)))
            if first:
                self._forget()
        if topic in self._publishers:
            self._publishers[topic].publish(raw)

    def ask(self, topic: str, stamp_ns: int, raw: bytes) -> Reply | None:
        """Publish an image of the anchor camera and wait for what the planner says to it; None when it says nothing."""
        if len(self._inputs) > 2:
            time.sleep(_SETTLE_S)
        self._link.expect(stamp_ns)
        self.send(topic, stamp_ns, raw)
        began_s = time.monotonic()
        answer, planned = self._link.wait(ANSWER_TIMEOUT_S if self._longest_s is None else max(FEWEST_S, TIMES * self._longest_s))
        if answer is Answer.NONE:
            return None
        self._longest_s = max(self._longest_s or 0.0, time.monotonic() - began_s)
        info = self._link.info
        if planned is None:
            return Reply(reason=info["reason"], detail=info["detail"])
        return Reply(plan=planned.plan, inputs={name: info[name] for name in ("image_ages_s", "skew_s", "command")})

    def _forget(self) -> None:
        """Have the planner forget what it saw before, once it knows the new time: a clock that jumps back later would take the first
        messages away."""
        time.sleep(_CLOCK_S)
        if not self._link.reset(RESET_TIMEOUT_S):
            raise PlannerMissing(f"{self._planner}/reset doesn't answer")

    def _pace(self, stamp_ns: int) -> None:
        if not self._rate or not stamp_ns:
            return
        if self._began is None:
            self._began = stamp_ns, time.monotonic()
        ahead_s = (stamp_ns - self._began[0]) / NS_PER_S / self._rate - (time.monotonic() - self._began[1])
        if ahead_s > 0:
            time.sleep(ahead_s)


def _message(kind: str) -> type | None:
    package, _, name = kind.rpartition("/")
    try:
        return getattr(importlib.import_module(package.replace("/", ".")), name, None)
    except ImportError:
        return None


def _profile(kind: str) -> QoSProfile:
    return _PROFILES.get(kind, qos.SIM_IMAGE)
