"""What the planner node tells about itself: plan_info and the diagnostic tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.node import Node

from spanvla_ros.contracts import NS_PER_S, ModelSpec, Plan, Trajectory
from spanvla_ros.planning import consistency
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.supervisor import Limits, Output, Reason, State
from spanvla_ros.planning.watch import Fault, InputWatch
from spanvla_ros.ros import conversions
from spanvla_ros.ros.diagnostics import ERROR, OK, WARN
from spanvla_ros.ros.worker import Attempt

_LEVELS = {State.WAITING: WARN, State.NOMINAL: OK, State.HOLD: WARN, State.STOPPING: ERROR, State.STOPPED: ERROR}
_STARTING = (Reason.HISTORY_SHORT, Reason.IMAGE_MISSING, Reason.ODOMETRY_MISSING)
_COMPARED_S = np.arange(0.0, 2.01, 0.5)
_JUMP_M = 1.0


class Report:
    """Counts, the newest plan, and the sentences about them. Guarded by the node's lock."""

    def __init__(self, node: Node, spec: ModelSpec, limits: Limits):
        self._node, self._diagnostics = node, node.diagnostics
        self._spec, self.limits = spec, limits
        self.plans = self.rejections = self.cuts = self.alarms = self.beats = 0
        self._state = State.WAITING
        self.reset()

    def reset(self) -> None:
        self.reasoning = self.detail = ""
        self._bad: dict[str, str] = {}
        self._plan: dict[str, Any] = {}
        self._trajectory: Trajectory | None = None

    def engine(self, engine_dir: str, planner: Planner, took_ms: float, warm: Plan) -> None:
        """What runs, and which back-ends should have run instead."""
        values = {"engine_dir": engine_dir, "engine_hash": planner.engine_hash, "cameras": ", ".join(self._spec.cameras), "load_ms": took_ms}
        values |= {"backend": planner.backend_name, "max_reasoning_tokens": planner.max_reasoning_tokens}
        values |= {f"warm_{stage}_ms": value for stage, value in warm.timings_ms.items()}
        if planner.passed_over:
            line = f"model {self._spec.name} runs on the fallback {planner.backend_name}: {'; '.join(planner.passed_over)}"
            self._node.get_logger().warning(line)
            self._diagnostics.set("model", WARN, line, values)
        else:
            self._diagnostics.set("model", OK, f"model {self._spec.name} loaded", values)
        for task in ("inputs", "latency", "plan", "consistency"):
            self._diagnostics.set(task, OK, "no plan yet")

    def bad_input(self, name: str, line: str) -> None:
        """An input that can't be used: one log line when it begins, diagnostics as long as it lasts."""
        if name not in self._bad:
            self._node.get_logger().warning(line)
        self._bad[name] = line
        self.detail = line

    def planned(self, found: Attempt, output: Output, misses: int, now_ns: int) -> None:
        plan, observation = found.plan, found.observation
        self.plans += 1
        self.cuts += plan.revision == 0 and plan.cut_tokens is not None
        self.reasoning, self.detail = plan.reasoning or self.reasoning, ""
        self._bad.clear()
        latency_ms = (now_ns - plan.t0_ns) / 1e6
        alarm = consistency.alarm(plan) if plan.cut_tokens is None else ""  # half a sentence says nothing yet
        self.alarms += bool(alarm)
        self._plan = conversions.plan_dict(plan) | {
            "image_ages_s": {camera: list(ages) for camera, ages in observation.image_ages_s.items()},
            "skew_s": observation.skew_s,
            "received": dict(found.received),
            "command": observation.command.value,
            "capture_to_plan_ms": round(latency_ms, 3),
            "alarm": alarm,
        }
        if plan.revision != 2:
            values = {f"{stage}_ms": value for stage, value in plan.timings_ms.items()} | {"capture_to_plan_ms": latency_ms}
            values |= {"deadline_misses": misses, "tokens": plan.tokens, "cut_texts": self.cuts}
            late = plan.timings_ms.get("total", 0.0) > 1e3 * self.limits.deadline_s
            self._diagnostics.set("latency", WARN if late else OK, "over the deadline" if late else "in time", values)
        self._consistency(output, alarm)

    def _consistency(self, output: Output, alarm: str) -> None:
        """Does the plan do what the text says, and does it go on from where the car and the previous plan are?"""
        values: dict[str, Any] = {"alarms": self.alarms}
        trajectory, previous, self._trajectory = output.trajectory, self._trajectory, output.trajectory
        lines = [alarm, output.jump]
        if previous is not None:
            # how far the new plan has the car from where the previous one had it, at the same instants
            offset_s = (trajectory.stamp_ns - previous.stamp_ns) / NS_PER_S
            now, before = (
                np.stack([np.interp(_COMPARED_S + shift_s, plan.times_s, plan.poses_odom[:, axis]) for axis in (0, 1)])
                for plan, shift_s in ((trajectory, 0.0), (previous, offset_s))
            )
            values["shift_within_2s_m"] = moved = float(np.hypot(*(now - before)).max())
            lines.append(f"the plan jumps by {moved:.1f} m within 2 s" if moved > _JUMP_M else "")
        found = "; ".join(line for line in lines if line)
        self._diagnostics.set("consistency", WARN if found else OK, found or "text, plan and previous plan agree", values)

    def rejected(self, reason: Reason, detail: str) -> None:
        self.rejections += 1
        # what is normal while the inputs begin is told by diagnostics alone
        if detail != self.detail and reason not in _STARTING:
            self._node.get_logger().warning(f"no plan: {reason.value}: {detail}", throttle_duration_sec=1.0)
        self.detail = detail

    def beat(self, output: Output, watch: InputWatch, fault: Fault | None, now_ns: int, misses: int) -> None:
        """One heartbeat: what the inputs, the plan and the state are like."""
        self.beats += 1
        values: dict[str, Any] = {f"age/{name}_s": "never" if age is None else age for name, age in watch.ages_s(now_ns).items()}
        values |= {f"count/{name}": stream for name, stream in watch.streams().items()}
        values["skew_s"] = self._plan.get("skew_s", 0.0)
        if self._bad:
            self._diagnostics.set("inputs", ERROR, "; ".join(self._bad.values()), values)
        elif output.reason in (Reason.OK, Reason.DEADLINE_MISSED, Reason.PLAN_INVALID, Reason.BACKEND_ERROR):
            self._diagnostics.set("inputs", OK, "fresh", values)
        else:
            values["detail"] = fault.detail if fault is not None else self.detail
            self._diagnostics.set("inputs", WARN if output.state is State.WAITING else ERROR, output.reason.value, values)
        if output.state is not self._state:
            self._state = output.state
            line = f"{output.state.value}: {output.reason.value}{f': {fault.detail}' if fault is not None else ''}"
            if output.state is State.NOMINAL:
                self._node.get_logger().info(line)
            else:
                self._node.get_logger().warning(line)
        counts = {"plans": self.plans, "rejections": self.rejections, "deadline_misses": misses}
        counts |= {"detail": self.detail, "plan_id": self._plan.get("plan_id", "")}
        text = output.state.value if output.reason is Reason.OK else f"{output.state.value}: {output.reason.value}"
        self._diagnostics.set("plan", _LEVELS[output.state], text, counts)

    def info(self, event: str, output: Output, anchor_ns: int | None, detail: str) -> dict[str, Any]:
        """The JSON of plan_info. Event `plan` carries the whole plan, the others only its id."""
        head = {
            "event": event,
            "state": output.state.value,
            "reason": output.reason.value,
            "detail": detail,
            "anchor_ns": anchor_ns,
            "stamp_ns": output.trajectory.stamp_ns if output.trajectory is not None else None,
            "plans": self.plans,
            "rejections": self.rejections,
            "beat": self.beats,
        }
        return head | (self._plan if event == "plan" else {"plan_id": self._plan.get("plan_id")})
