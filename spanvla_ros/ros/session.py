"""What the planner node is made of while it is configured: inputs, planning thread, supervisor, outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from spanvla_ros.contracts import ConfigError, InputError
from spanvla_ros.planning import messages, supervisor, validity
from spanvla_ros.planning.inputs import InputBuffer, InputLimits
from spanvla_ros.planning.planner import Planner, Rate
from spanvla_ros.planning.supervisor import Output, Reason, State, Supervisor
from spanvla_ros.planning.watch import InputWatch
from spanvla_ros.ros import conversions, parameters, qos
from spanvla_ros.ros.debug import DebugImage
from spanvla_ros.ros.navigation import Navigation
from spanvla_ros.ros.outputs import Outputs
from spanvla_ros.ros.report import Report
from spanvla_ros.ros.rig import RigCheck
from spanvla_ros.ros.worker import Attempt, PlanningThread

BACKWARD_JUMP_NS = 100_000_000  # smaller steps back are clock adjustment, not a new drive


class Session:
    """From configure to cleanup; plans between `start` and `stop`. Owns the planner once its constructor has returned.

    Callbacks come from many threads: `_lock` guards supervisor, watch, newest odometry and what is published of them.
    """

    def __init__(self, node: LifecycleNode, planner: Planner, values: Mapping[str, Any]):
        self._node, self._planner, self._values = node, planner, values
        self._spec = spec = planner.spec
        self._anchor = values["anchor_camera"] or spec.cameras[0]
        if self._anchor not in spec.cameras:
            raise ConfigError(f"parameter anchor_camera is {self._anchor!r}, the model has {', '.join(spec.cameras)}")
        self._check_rate(values)
        self._lock = threading.RLock()
        self._thread: PlanningThread | None = None
        self._limits = parameters.limits(supervisor.Limits, values)
        self._buffer = InputBuffer(spec, parameters.limits(InputLimits, values))
        self._valid = parameters.limits(validity.Limits, values, "limits.")
        self._supervisor = Supervisor(self._limits, valid=self._valid, lockstep=values["lockstep"])
        self._navigation = Navigation(values["route_horizon_m"])
        self.report = Report(node, spec, self._limits)
        self._forget()
        self.rig = RigCheck(node, spec, values, self._buffer.set_lens)
        mismatches = qos.Mismatches(node)
        self._outputs = Outputs(
            node,
            mismatches,
            base_frame=values["base_frame"],
            marker_lifetime_s=values["marker_lifetime_s"],
            autoware=values["publish_autoware"],
            debug=DebugImage(node, self._anchor, values["rig_file"]),
        )
        image = CompressedImage if values["image_transport"] == "compressed" else Image
        wanted = [(image, f"image/{c}", partial(self._on_image, c), qos.IMAGE) for c in spec.cameras]
        wanted += [(CameraInfo, f"camera_info/{c}", partial(self.rig.on_camera_info, c), qos.CAMERA_INFO) for c in spec.cameras]
        wanted += [
            (Odometry, "odometry", self._on_odometry, qos.ODOMETRY),
            (String, "command", self._on_command, qos.COMMAND),
            (Path, "route", self._on_route, qos.ROUTE),
        ]
        self._subscriptions = [
            node.create_subscription(kind, f"~/input/{name}", callback, profile, event_callbacks=mismatches.subscription(f"~/input/{name}"))
            for kind, name, callback, profile in wanted
        ]

    def _check_rate(self, values: Mapping[str, Any]) -> None:
        if values["replan_s"] and not self._spec.kv_age:
            cure = "set it to 0, or train the expert with bridge.kv_age=true"
            raise ConfigError(f"parameter replan_s is {values['replan_s']:g}, but the model {self._spec.name} was not made for old pictures; {cure}")

    @property
    def _deadline_s(self) -> float | None:
        return None if self._values["lockstep"] else self._limits.deadline_s

    @property
    def _rate(self) -> Rate:
        return Rate() if self._values["lockstep"] else parameters.limits(Rate, self._values)

    def start(self) -> None:
        """Begin to plan."""
        with self._lock:
            # in lock-step time stands still while a plan is made: there is nothing to cut, and nothing to bridge
            self._thread = PlanningThread(
                self._planner, self._buffer, self._valid, self._navigation.command, self._on_attempt, self._deadline_s, self._rate
            )

    def update(self, values: Mapping[str, Any]) -> None:
        """Take over the parameters that may change while the node runs (`parameters.Parameter.live`). ConfigError where one is wrong."""
        limits, valid = parameters.limits(supervisor.Limits, values), parameters.limits(validity.Limits, values, "limits.")
        inputs = parameters.limits(InputLimits, values)
        self._check_rate(values)
        with self._lock:
            self._values, self._limits, self._valid = values, limits, valid
            self._supervisor.limits, self._supervisor.valid, self.report.limits = limits, valid, limits
            self._buffer.limits = self._watch.limits = inputs
            self._watch.max_age_s = limits.max_input_age_s
            self._navigation.horizon_m = values["route_horizon_m"]
            self._outputs.marker_lifetime_s = values["marker_lifetime_s"]
            if self._thread is not None:
                self._thread.update(valid, self._deadline_s, self._rate)

    def stop(self) -> None:
        """End planning and publishing and forget the plan."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._supervisor.reset()
        if thread is not None:  # outside the lock: the thread may be about to report
            thread.stop()

    def close(self) -> None:
        """Stop, destroy topics, free the engine."""
        self.stop()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self.rig.destroy()
        self._outputs.destroy()
        self._planner.close()

    def reset(self, reason: Reason, detail: str, back_ns: int = 0) -> None:
        """Forget history and command, and the plan too unless the clock alone went back, by back_ns: then the car still follows it."""
        with self._lock:
            self._forget()
            self.report.detail = detail
            self._buffer.reset()
            if back_ns:
                self._supervisor.clock_jumped(back_ns)
            else:
                self._supervisor.reset()
            if self._thread is not None:
                self._thread.reset()
                self._outputs.plan_info(self.report.info("reset", self._expected(reason), None, detail))
        self._node.get_logger().info(f"reset: {detail}")

    def _expected(self, reason: Reason) -> Output:
        """What the next heartbeat will say: NOMINAL ends with it."""
        state = State.HOLD if self._supervisor.state is State.NOMINAL else self._supervisor.state
        return Output(state=state, reason=reason, trajectory=None)

    def _forget(self) -> None:
        self._watch = InputWatch(self._spec.cameras, self._limits.max_input_age_s, self._buffer.limits)
        self._sample: messages.OdometrySample | None = None
        self._frame = ""
        self._newest_ns = 0
        self._navigation.reset()
        self.report.reset()

    def _now_ns(self) -> int:
        """ROS time; a clock that jumped back ends the history."""
        with self._lock:
            # read under the lock: a thread that was held up between reading and comparing would look like a jump
            now_ns = self._node.get_clock().now().nanoseconds
            back_ns = self._newest_ns - now_ns
            if back_ns > BACKWARD_JUMP_NS:
                frame = self._frame
                self.reset(Reason.CLOCK_JUMPED, f"the clock jumped back by {back_ns / 1e9:.3f} s", back_ns)
                self._frame = frame
            self._newest_ns = now_ns
        return now_ns

    def _on_image(self, camera: str, message: Any) -> None:
        arrived_s = time.monotonic()
        stamp_ns = messages.stamp_ns(message.header.stamp)
        if self._ahead(f"image/{camera}", stamp_ns):
            return
        try:
            self._buffer.add_image(camera, stamp_ns, messages.image(message, conversions.with_cv_bridge))
        except InputError as error:
            self._fail(stamp_ns, Reason.IMAGE_INVALID, f"camera '{camera}' at {stamp_ns} ns: {error}")
            return
        with self._lock:
            self._watch.image(camera, stamp_ns)
            if self._thread is None:
                return
            if camera != self._anchor:
                self._thread.input()
            elif self.rig.refused:
                self._fail(stamp_ns, Reason.RIG_MISMATCH, self.rig.refused)
            elif self._thread.image(stamp_ns, arrived_s):
                self._supervisor.begin(arrived_s)

    def _ahead(self, name: str, stamp_ns: int) -> bool:
        """Whether a message must be left alone, for its stamp lies ahead of the clock. In lock-step /clock may come after it, and
        where /clock has not begun nothing can be told."""
        now_ns = self._now_ns()
        with self._lock:
            line = "" if self._values["lockstep"] or not now_ns else self._watch.ahead(name, stamp_ns, now_ns)
            if line:
                self.report.bad_input(name, line)
        return bool(line)

    def _on_odometry(self, message: Odometry) -> None:
        if self._ahead("odometry", messages.stamp_ns(message.header.stamp)):
            return
        try:
            sample = messages.odometry(message)
            if message.child_frame_id not in ("", self._values["base_frame"]):
                raise InputError(f"odometry child_frame_id is {message.child_frame_id!r}, parameter base_frame is {self._values['base_frame']!r}")
        except InputError as error:
            with self._lock:
                self._watch.invalid_odometry(str(error))
                self.report.bad_input("odometry", str(error))
            return
        with self._lock:
            if self._frame and message.header.frame_id != self._frame:
                self.reset(Reason.FRAME_CHANGED, f"the odometry frame changed from {self._frame!r} to {message.header.frame_id!r}")
            self._frame = message.header.frame_id
            if self._sample is None or sample.stamp_ns >= self._sample.stamp_ns:
                self._sample = sample
                self._navigation.moved(sample.pose_odom)
            self._watch.odometry(sample.stamp_ns)
            self._buffer.add_odometry(*sample)
            if self._thread is not None:
                self._thread.input()

    def _on_command(self, message: String) -> None:
        try:
            self._navigation.commanded(message.data)
        except InputError as error:
            with self._lock:
                self.report.bad_input("command", str(error))

    def _on_route(self, message: Path) -> None:
        try:
            self._navigation.routed(message, self._frame)
        except InputError as error:
            with self._lock:
                self.report.bad_input("route", str(error))

    def _on_attempt(self, found: Attempt) -> None:
        """From the planning thread: publish a plan at once, or remember why there is none."""
        if found.trajectory is None:
            self._fail(found.anchor_ns, found.reason, found.detail)
            return
        with self._lock:
            if self._thread is None:
                return
            if found.plan.revision == 2:
                output = self._supervisor.refine(found.trajectory, time.monotonic())
                if output is None:  # what is wrong now is not mended by older pictures
                    return
            else:
                output = self._supervisor.accept(found.trajectory, time.monotonic())
            self.report.planned(found, output, self._supervisor.deadline_misses, self._node.get_clock().now().nanoseconds)
            self._outputs.heartbeat(output, self._frame, self.report.reasoning)
            if found.plan.revision == 1:  # half a sentence is for the eye alone
                self._outputs.reasoning(found.plan.reasoning)
            self._outputs.plan_info(self.report.info("plan", output, found.anchor_ns, output.jump))
            self._outputs.picture(found.observation, found.plan)

    def _fail(self, anchor_ns: int, reason: Reason, detail: str) -> None:
        with self._lock:
            if self._thread is None:
                return
            self._supervisor.reject(reason, time.monotonic())
            self.report.rejected(reason, detail)
            self._outputs.plan_info(self.report.info("rejected", self._expected(reason), anchor_ns, detail))

    def heartbeat(self) -> None:
        """Every 0.1 s of steady time: the supervisor's trajectory, whatever happens."""
        now_ns = self._now_ns()
        with self._lock:
            if self._thread is None:
                return
            fault = self._watch.fault(now_ns)
            output = self._supervisor.tick(time.monotonic(), now_ns, self._sample, None if fault is None else fault.reason)
            self.report.beat(output, self._watch, fault, now_ns, self._supervisor.deadline_misses)
            self._outputs.heartbeat(output, self._frame, self.report.reasoning)
            detail = fault.detail if fault is not None and output.reason is fault.reason else self.report.detail
            self._outputs.plan_info(self.report.info("heartbeat", output, None, "" if output.state is State.NOMINAL else detail))
