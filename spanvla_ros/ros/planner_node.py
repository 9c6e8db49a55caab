"""Lifecycle node `spanvla_planner`: cameras and odometry in, a trajectory and the reason for it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.supervisor import Reason
from spanvla_ros.ros import diagnostics, memory, parameters
from spanvla_ros.ros.session import Session
from spanvla_ros.ros.worker import warm_up
from spanvla_ros.share import DEMO_ENGINE, share

HEARTBEAT_S = 0.1
DIAGNOSTICS_S = 1.0
# pictures come and go at every size: without it memory wandered between 386 and 417 MB;
# with the demo engine by 17 MB if done every 10 s, by 15 every second
TRIM_S = 1.0

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def load_planner(values: Mapping[str, Any]) -> Planner:
    """The planner of parameter engine_dir, empty = the demo engine; the engine room is imported only when a node is configured."""
    from spanvla_ros.engine.load import load_planner as load

    budget = values["max_reasoning_tokens"]
    return load(
        Path(values["engine_dir"]).expanduser() if values["engine_dir"] else share(DEMO_ENGINE),
        backend=values["backend"],
        allow_fallback=values["allow_fallback"],
        max_reasoning_tokens=None if budget < 0 else budget,
    )


class PlannerNode(LifecycleNode):
    """The life cycle; a `Session` is what exists while configured. Parameters: config/planner.param.yaml.

    `load` makes the Planner from the parameters: the seam at which tests put a fake Backend.
    """

    def __init__(self, load: Callable[[Mapping[str, Any]], Planner] = load_planner, **kwargs: Any):
        super().__init__("spanvla_planner", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._load = load
        self._session: Session | None = None
        self.diagnostics = diagnostics.Diagnostics(self)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # steady: heartbeats and diagnostics go on when /clock stands still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, callback in ((DIAGNOSTICS_S, self.diagnostics.publish), (HEARTBEAT_S, self._on_heartbeat), (TRIM_S, memory.trim)):
            self.create_timer(period_s, callback, clock=steady)
        # from the executor, so that services already answer while the engine loads
        self._start = self.create_timer(0.01, self._on_start, clock=steady)

    def _on_start(self) -> None:
        self._start.cancel()
        autostart = not self.has_parameter("autostart") or self.get_parameter("autostart").value is not False
        if autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load and warm the engine, make topics."""
        try:
            self._configure()
        except SpanVLAError as error:
            return self._refuse(" ".join(str(error).split()))
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a word
            return self._refuse(f"{type(error).__name__}: {error}")
        return super().on_configure(state)

    def _refuse(self, line: str) -> TransitionCallbackReturn:
        self.get_logger().error(f"configure failed: {line}")
        self.diagnostics.set("model", diagnostics.ERROR, f"configure failed: {line}")
        self._release()
        return FAILURE

    def _configure(self) -> None:
        values = parameters.read(self, parameters.PLANNER)
        started_s = time.monotonic()
        with memory.apart():
            planner = self._load(values)
        try:
            warm = warm_up(planner)
            self._session = Session(self, planner, values)
        except Exception:
            planner.close()
            raise
        engine_dir, took_ms = values["engine_dir"] or DEMO_ENGINE, 1e3 * (time.monotonic() - started_s)
        memory.collect()  # what loading took
        self._session.report.engine(engine_dir, planner, took_ms, warm)
        cameras = ", ".join(planner.spec.cameras)
        name = f"engine {engine_dir} of model {planner.spec.name} on {planner.backend_name}"
        self.get_logger().info(f"{name} ready after {took_ms:.0f} ms, cameras {cameras}")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the rig and start planning."""
        refused = self._session.rig.differs
        if refused:
            self.get_logger().error(f"activate refused: {refused}; rig_check is error")
            return FAILURE
        result = super().on_activate(state)
        self._session.start()
        self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop planning and publishing; inputs are still received."""
        self._session.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free engine and topics: another engine may be configured."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, for good."""
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured: another configure may work."""
        self._release()
        return SUCCESS

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            del session
            memory.collect()

    def destroy_node(self) -> None:
        """Also ends the planning thread and frees the engine; may be called twice."""
        self._release()
        super().destroy_node()

    def _on_heartbeat(self) -> None:
        session = self._session
        if session is not None:
            session.heartbeat()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session = self._session
        response.success = session is not None
        response.message = "history, command and plan forgotten" if response.success else "the node is not configured"
        if session is not None:
            session.reset(Reason.RESET, "it was asked for")
        return response

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Wrong values are refused with the reason; what can change live does so at once, the rest only while unconfigured."""
        given = {p.name: p.value for p in changes if not p.name.startswith(parameters.FOREIGN)}
        session = self._session
        try:
            if given:
                values = parameters.changed(self, parameters.PLANNER, given, session is not None)
                if session is not None:
                    session.update(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
