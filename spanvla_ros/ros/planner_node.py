"""Lifecycle node `spanvla_planner`: cameras and odometry in, a trajectory and the reason for it out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as Route
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from spanvla_ros.contracts import ConfigError, InputError, SpanVLAError
from spanvla_ros.planning import messages, supervisor, validity
from spanvla_ros.planning.inputs import InputBuffer, InputLimits
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.supervisor import InputWatch, Output, Reason, State, Supervisor
from spanvla_ros.ros import diagnostics, parameters, qos
from spanvla_ros.ros.navigation import Navigation
from spanvla_ros.ros.outputs import Outputs
from spanvla_ros.ros.report import Report
from spanvla_ros.ros.rig import RigCheck
from spanvla_ros.ros.worker import Attempt, PlanningThread, warm_up
from spanvla_ros.share import DEMO_ENGINE, share

HEARTBEAT_S = 0.1
DIAGNOSTICS_S = 1.0
BACKWARD_JUMP_NS = 100_000_000  # smaller steps back are clock adjustment, not a new drive

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def load_planner(engine_dir: str, backend: str) -> Planner:
    """The planner of an engine folder, empty = the demo engine; the engine room is imported only when a node is configured."""
    from spanvla_ros.engine.load import load_planner as load

    return load(Path(engine_dir).expanduser() if engine_dir else share(DEMO_ENGINE), backend=backend)


class PlannerNode(LifecycleNode):
    """See docs and config/planner.param.yaml. `load` makes the Planner: the seam at which tests put a fake Backend."""

    def __init__(self, load: Callable[[str, str], Planner] = load_planner, **kwargs: Any):
        super().__init__("spanvla_planner", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._load = load
        self._lock = threading.RLock()  # supervisor, watch and what is published belong together
        self._group = ReentrantCallbackGroup()
        self._planner: Planner | None = None
        self._active = False
        self.diagnostics = diagnostics.Diagnostics(self)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # steady: heartbeats and diagnostics go on when /clock stands still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, callback in ((DIAGNOSTICS_S, self.diagnostics.publish), (HEARTBEAT_S, self._on_heartbeat)):
            self.create_timer(period_s, callback, callback_group=MutuallyExclusiveCallbackGroup(), clock=steady)
        self._start = self.create_timer(0.01, self._on_start, callback_group=MutuallyExclusiveCallbackGroup(), clock=steady)

    # life cycle ---------------------------------------------------------------------------------------------------------

    def _on_start(self) -> None:
        self._start.cancel()
        if not self.has_parameter("autostart") or self.get_parameter("autostart").value is not False:
            if self.trigger_configure() == SUCCESS:
                self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load and warm the engine, make topics."""
        try:
            self._configure()
        except SpanVLAError as error:
            self._refuse(" ".join(str(error).split()))
            return FAILURE
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a word
            self._refuse(f"{type(error).__name__}: {error}")
            return FAILURE
        return super().on_configure(state)

    def _refuse(self, line: str) -> None:
        self.get_logger().error(f"configure failed: {line}")
        self.diagnostics.set("model", diagnostics.ERROR, f"configure failed: {line}")
        self._release()

    def _configure(self) -> None:
        values = self.values = parameters.read(self, parameters.PLANNER)
        limits = parameters.limits(supervisor.Limits, values)
        self._validity = parameters.limits(validity.Limits, values, "limits.")
        started = time.monotonic()
        self._planner = self._load(values["engine_dir"], values["backend"])
        warm = warm_up(self._planner)
        spec = self._planner.spec
        self._anchor = values["anchor_camera"] or spec.cameras[0]
        if self._anchor not in spec.cameras:
            raise ConfigError(f"parameter anchor_camera is {self._anchor!r}, the model has {', '.join(spec.cameras)}")
        self._buffer = InputBuffer(spec, parameters.limits(InputLimits, values))
        self._supervisor = Supervisor(limits, lockstep=values["lockstep"])
        self._watch_age_s = limits.max_input_age_s
        self._navigation = Navigation(values["route_horizon_m"])
        self.report = Report(self, spec, limits, values["max_skew_s"])
        self._outputs = Outputs(
            self, base_frame=values["base_frame"], marker_lifetime_s=values["marker_lifetime_s"], autoware=values["publish_autoware"]
        )
        self._rig = RigCheck(self, spec, values, self._group)
        self._thread: PlanningThread | None = None
        self._forget()
        self._subscribe(spec.cameras)
        engine_dir, took_ms = values["engine_dir"] or DEMO_ENGINE, 1e3 * (time.monotonic() - started)
        self.report.engine(engine_dir, self._planner.engine_hash, took_ms, warm)
        self.get_logger().info(f"engine {engine_dir} of model {spec.name} ready after {took_ms:.0f} ms, cameras {', '.join(spec.cameras)}")

    def _subscribe(self, cameras: tuple[str, ...]) -> None:
        kind = CompressedImage if self.values["image_transport"] == "compressed" else Image
        group = self._group
        self._inputs = [
            self.create_subscription(kind, f"~/input/image/{c}", partial(self._on_image, c), qos.IMAGE, callback_group=group) for c in cameras
        ]
        self._inputs += [
            self.create_subscription(
                CameraInfo, f"~/input/camera_info/{c}", partial(self._rig.on_camera_info, c), qos.CAMERA_INFO, callback_group=group
            )
            for c in cameras
        ]
        for kind, name, callback, profile in (
            (Odometry, "odometry", self._on_odometry, qos.ODOMETRY),
            (String, "command", self._on_command, qos.COMMAND),
            (Route, "route", self._on_route, qos.ROUTE),
        ):
            self._inputs.append(self.create_subscription(kind, f"~/input/{name}", callback, profile, callback_group=group))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start planning."""
        result = super().on_activate(state)
        with self._lock:
            self._thread = PlanningThread(self._planner, self._buffer, self._validity, self._navigation.command, self._on_attempt)
            self._active = True
        self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop planning and publishing; inputs are still received."""
        self._stop()
        self._supervisor.reset()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured: another configure may work."""
        self._release()
        return SUCCESS

    def _stop(self) -> None:
        with self._lock:
            self._active, thread = False, getattr(self, "_thread", None)
            self._thread = None
        if thread is not None:  # outside the lock: the thread may be about to report
            thread.stop()

    def _release(self) -> None:
        """Undo `_configure`, however far it came."""
        self._stop()
        for subscription in self.__dict__.pop("_inputs", []):
            self.destroy_subscription(subscription)
        for part in ("_rig", "_outputs"):
            if part in self.__dict__:
                self.__dict__.pop(part).destroy()
        if self._planner is not None:
            self._planner.close()
            self._planner = None

    def destroy_node(self) -> None:
        """Also ends the planning thread and frees the engine; may be called twice."""
        self._release()
        super().destroy_node()

    # inputs -------------------------------------------------------------------------------------------------------------

    def _on_image(self, camera: str, message: Any) -> None:
        arrived_s = time.monotonic()
        stamp_ns = messages.stamp_ns(message.header.stamp)
        self._now_ns()
        try:
            self._buffer.add_image(camera, stamp_ns, messages.image(message))
        except InputError as error:
            self._fail(stamp_ns, Reason.IMAGE_INVALID, f"camera '{camera}' at {stamp_ns} ns: {error}")
            return
        with self._lock:
            self._watch.image(camera, stamp_ns)
            if self._thread is None:
                return
            if camera != self._anchor:
                self._thread.input()
            elif self._rig.refused:
                self._fail(stamp_ns, Reason.RIG_MISMATCH, self._rig.refused)
            elif self._thread.image(stamp_ns):
                self._supervisor.begin(arrived_s)

    def _on_odometry(self, message: Odometry) -> None:
        self._now_ns()
        try:
            sample = messages.odometry(message)
            if message.child_frame_id not in ("", self.values["base_frame"]):
                raise InputError(f"odometry child_frame_id is {message.child_frame_id!r}, parameter base_frame is {self.values['base_frame']!r}")
        except InputError as error:
            with self._lock:
                self._watch.invalid_odometry()
            self.report.bad_input("odometry", str(error))
            return
        with self._lock:
            if self._frame and message.header.frame_id != self._frame:
                self._reset(f"the odometry frame changed from {self._frame!r} to {message.header.frame_id!r}")
            self._frame = message.header.frame_id
            if self._sample is None or sample.stamp_ns >= self._sample.stamp_ns:
                self._sample = sample
                self._watch.odometry(sample.stamp_ns)
                self._navigation.moved(sample.pose_odom)
            thread = self._thread
        self._buffer.add_odometry(*sample)
        if thread is not None:
            thread.input()

    def _on_command(self, message: String) -> None:
        try:
            self._navigation.commanded(message.data)
        except InputError as error:
            self.report.bad_input("command", str(error))

    def _on_route(self, message: Route) -> None:
        try:
            self._navigation.routed(message, self._frame)
        except InputError as error:
            self.report.bad_input("route", str(error))

    def _on_set_parameters(self, changed: list) -> SetParametersResult:
        if self._planner is not None:
            name = changed[0].name
            if name != "use_sim_time":
                return SetParametersResult(successful=False, reason=f"{name} takes effect at configure: deactivate and clean up first")
        return SetParametersResult(successful=True)

    def _now_ns(self) -> int:
        """ROS time; a clock that jumped back begins a new drive."""
        now_ns = self.get_clock().now().nanoseconds
        with self._lock:
            newest, self._newest_ns = self._newest_ns, now_ns
            if newest - now_ns > BACKWARD_JUMP_NS:
                self._reset(f"the clock jumped back by {(newest - now_ns) / 1e9:.3f} s")
        return now_ns

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._planner is not None
        response.message = "history, command and plan forgotten" if response.success else "the node is not configured"
        if response.success:
            self._reset("it was asked for")
        return response

    def _reset(self, why: str) -> None:
        with self._lock:
            self._forget()
            self._buffer.reset()
            self._supervisor.reset()
            if self._thread is not None:
                self._thread.reset()
        self.get_logger().info(f"reset: {why}")

    def _forget(self) -> None:
        self._watch = InputWatch(self._planner.spec.cameras, self._watch_age_s)
        self._sample: messages.OdometrySample | None = None
        self._frame = ""
        self._newest_ns = 0
        self._navigation.reset()
        self.report.reset()

    # outputs ------------------------------------------------------------------------------------------------------------

    def _on_attempt(self, found: Attempt) -> None:
        """From the planning thread: publish a plan at once, or remember why there is none."""
        if found.trajectory is None:
            self._fail(found.anchor_ns, found.reason, found.detail)
            return
        with self._lock:
            if not self._active:
                return
            output = self._supervisor.accept(found.trajectory, time.monotonic())
            self.report.planned(found, self._supervisor.deadline_misses, self.get_clock().now().nanoseconds)
            self._outputs.heartbeat(output, self._frame, found.plan.reasoning)
            self._outputs.reasoning(found.plan.reasoning)
            self._publish_info("plan", output, found.anchor_ns)

    def _fail(self, anchor_ns: int, reason: Reason, detail: str) -> None:
        with self._lock:
            if not self._active:
                return
            self._supervisor.reject(reason, time.monotonic())
            self.report.rejected(reason, detail)
            state = self._supervisor.state
            if state is State.NOMINAL:  # the next heartbeat makes it HOLD
                state = State.HOLD
            self._publish_info("rejected", Output(state=state, reason=reason, trajectory=None), anchor_ns, detail)

    def _on_heartbeat(self) -> None:
        if not self._active:
            return
        now_ns = self._now_ns()
        with self._lock:
            if not self._active:
                return
            output = self._supervisor.tick(time.monotonic(), now_ns, self._sample, self._watch.fault(now_ns))
            self.report.beat(output, self._watch.ages_s(now_ns), self._supervisor.deadline_misses)
            self._outputs.heartbeat(output, self._frame, self.report.reasoning)
            self._publish_info("heartbeat", output, None, self.report.detail if output.state is not State.NOMINAL else "")

    def _publish_info(self, event: str, output: Output, anchor_ns: int | None, detail: str = "") -> None:
        self._outputs.plan_info(self.report.info(event, output, anchor_ns, detail))
