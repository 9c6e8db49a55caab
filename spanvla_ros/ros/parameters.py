"""Parameters of both nodes: one table each that declares, checks and documents them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from spanvla_ros.contracts import ConfigError
from spanvla_ros.engine.load import BACKENDS
from spanvla_ros.planning import supervisor, validity
from spanvla_ros.planning.inputs import InputLimits
from spanvla_ros.planning.planner import Rate
from spanvla_ros.ros import topics

# declared by rclpy itself
FOREIGN = ("use_sim_time", "qos_overrides.", "start_type_description_service")
_KINDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false", list: "a list of text"}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One row: a number with a closed range, a word of `choices`, free text, a flag, or a list of text."""

    name: str
    default: Any
    text: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # may change while the node is configured

    def check(self, value: Any) -> Any:
        """The value as the type of the default; ConfigError names parameter, value and what is allowed."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # `-p seed:=6000`
        if kind is list:
            value = [str(v) for v in value] if isinstance(value, (list, tuple)) or hasattr(value, "tolist") else value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"parameter {self.name} is {value!r}, it must be {_KINDS[kind]}")
        if self.low is not None and not self.low <= value <= self.high:
            raise ConfigError(f"parameter {self.name} is {value:g}, allowed is {self.range}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"parameter {self.name} is {value!r}, allowed is {self.range}")
        return value

    @property
    def range(self) -> str:
        if self.choices:
            return " | ".join(self.choices)
        return f"{self.low:g} to {self.high:g} {self.unit}".strip() if self.low is not None else ""

    def descriptor(self) -> ParameterDescriptor:
        described = ParameterDescriptor(description=self.text, additional_constraints=self.range)
        if self.low is not None and isinstance(self.default, float):
            described.floating_point_range = [FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)]
        elif self.low is not None:
            described.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return described


def _group(prefix: str, cls: type, rows: Mapping[str, tuple[str, str, float, float]]) -> list[Parameter]:
    """Rows for the fields of a dataclass, with its defaults: name -> (text, unit, low, high). All of them may change live."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return [
        Parameter(name=prefix + name, default=defaults[name], text=text, unit=unit, low=low, high=high, live=True)
        for name, (text, unit, low, high) in rows.items()
    ]


SUPERVISOR_ROWS = {
    "deadline_s": ("anchor image received until its plan is there; later is HOLD (counted only in lock-step)", "s", 0.05, 10.0),
    "hold_s": ("how long the previous plan is followed without a new one before the car is stopped", "s", 0.1, 5.0),
    "max_input_age_s": ("oldest age of the newest image and odometry, by stamp", "s", 0.05, 5.0),
    "clock_stall_s": ("a ROS clock that stands still this long is a fault", "s", 0.2, 60.0),
    "stop_decel_mps2": ("deceleration of STOPPING", "m/s2", 0.5, 8.0),
    "stop_jerk_mps3": ("jerk of STOPPING", "m/s3", 0.5, 50.0),
}
INPUT_ROWS = {
    "frame_tolerance_s": ("how far a frame may lie from the stamp the model wants", "s", 0.001, 0.5),
    "odometry_gap_s": ("longest gap in the odometry that is interpolated", "s", 0.01, 1.0),
}
VALIDITY_ROWS = {
    "speed_mps": ("largest speed a plan may ask for", "m/s", 0.1, 100.0),
    "reverse_mps": ("largest speed backwards", "m/s", 0.0, 20.0),
    "acceleration_mps2": ("largest acceleration", "m/s2", 0.1, 50.0),
    "deceleration_mps2": ("largest deceleration", "m/s2", 0.1, 50.0),
    "lateral_acceleration_mps2": ("largest lateral acceleration", "m/s2", 0.1, 50.0),
    "yaw_rate_rps": ("largest yaw rate", "rad/s", 0.01, 10.0),
}

RATE_ROWS = {
    "replan_s": ("time after which the expert plans anew from odometry, on the same pictures; 0 = never; for models with kv_age", "s", 0.0, 1.0),
    "max_kv_age_s": ("oldest pictures that it does so on", "s", 0.05, 2.0),
}

PLANNER = (
    Parameter(name="autostart", default=True, text="configure and activate without being told to"),
    Parameter(name="engine_dir", default="", text="engine folder; empty = engines/demo of this package"),
    Parameter(name="backend", default="auto", text="how the engine is run; auto = the first that this machine can run", choices=("auto", *BACKENDS)),
    Parameter(name="allow_fallback", default=False, text="where the backend fails to load, take the next one and say so in diagnostics"),
    Parameter(
        name="max_reasoning_tokens",
        default=-1,
        text="most tokens of a reasoning; -1 = what the model has room for; `spanvla bench plan` proposes a number",
        low=-1,
        high=1024,
    ),
    Parameter(name="plan_early", default=False, text="also plan from the pictures alone, before the text; not in lock-step", live=True),
    *_group("", Rate, RATE_ROWS),
    Parameter(name="anchor_camera", default="", text="camera whose newest image starts a plan; empty = first camera of the model"),
    Parameter(name="image_transport", default="compressed", text="CompressedImage or Image", choices=("compressed", "raw")),
    Parameter(name="base_frame", default="base_link", text="child frame of the odometry, at the rear axle"),
    Parameter(name="lockstep", default=False, text="a simulator waits for the plan: count missed deadlines, don't enforce them"),
    Parameter(name="rig_file", default="", text="cameras the model was trained with; empty = config/rigs/demo.yaml of this package"),
    Parameter(name="rig_check", default="warn", text="what a camera_info that differs from the rig does", choices=("off", "warn", "error")),
    Parameter(
        name="rectify",
        default=True,
        text="turn pictures into those of the trained lens where camera_info or /tf differ and all of it is seen; not with rig_check off",
    ),
    Parameter(
        name="max_skew_s",
        default=0.05,
        text="largest stamp difference between the cameras of one plan; at 10 Hz the nearest frame is never further than 0.05 s",
        unit="s",
        low=0.001,
        high=1.0,
        live=True,
    ),
    Parameter(name="refuse_black", default=True, text="no plan from a black picture; false to see what the planner does blind", live=True),
    Parameter(name="refuse_frozen", default=True, text="no plan from a picture that stays the same while the car moves 1 m", live=True),
    Parameter(
        name="route_horizon_m",
        default=30.0,
        text="a turn of the route within this distance becomes the command",
        unit="m",
        low=1.0,
        high=500.0,
        live=True,
    ),
    Parameter(name="marker_lifetime_s", default=0.5, text="markers vanish after this time", unit="s", low=0.05, high=10.0, live=True),
    Parameter(name="publish_autoware", default=False, text="also publish autoware_planning_msgs/Trajectory where that package is installed"),
    *_group("", supervisor.Limits, SUPERVISOR_ROWS),
    *_group("", InputLimits, INPUT_ROWS),
    *_group("limits.", validity.Limits, VALIDITY_ROWS),
)

SIMULATOR = (
    Parameter(name="scenario", default="lane,stopped,red", text="scenario families to drive, comma-separated, or all"),
    Parameter(name="seed", default="6000:6002", text="seed of each family, or FIRST:END or FIRST:END:STEP (END excluded)"),
    Parameter(name="cameras", default=["front"], text="cameras that are rendered; the frames of the first one ask for plans"),
    Parameter(name="rate", default=10.0, text="pictures per second; must divide 20", unit="Hz", low=1.0, high=20.0),
    Parameter(name="preset", default="minisim", text="names and types of the topics: config/topics/", choices=topics.PRESETS),
    Parameter(name="black", default=False, text="send black images, to see what the planner does blind"),
    Parameter(name="planner", default="/spanvla_planner", text="name of the planner node that drives"),
    Parameter(name="output_dir", default="", text="folder for episodes.jsonl (one result per line) and the pictures of the drives; empty = none"),
    Parameter(name="answer_timeout_s", default=5.0, text="longest wait for the plan of an image", unit="s", low=0.1, high=120.0),
    Parameter(name="planner_timeout_s", default=60.0, text="longest wait for the planner node to become active", unit="s", low=1.0, high=3600.0),
    Parameter(name="listeners", default=1, text="wait until this many nodes hear images and odometry: the planner, a recorder", low=1, high=100),
    Parameter(name="real_time", default=False, text="never run faster than real time"),
    Parameter(name="time_limit_s", default=600.0, text="longest duration of an episode in simulated time", unit="s", low=1.0, high=3600.0),
)


def read(node: Node, table: Sequence[Parameter]) -> dict[str, Any]:
    """Name -> checked value of every row, declared with its descriptor. ConfigError names parameter, value and range.

    The node must have been made with automatically_declare_parameters_from_overrides: that way a wrong value from a file
    is still there to be named, instead of ending the constructor.
    """
    rows = {row.name: row for row in table}
    given = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
    unknown = sorted(name for name in given if name not in rows and not name.startswith(FOREIGN))
    if unknown:
        raise ConfigError(f"parameter {unknown[0]} is unknown; known are {', '.join(rows)}")
    values = {name: row.check(given.get(name, row.default)) for name, row in rows.items()}
    for name, value in values.items():
        if name in given:  # declared by the override, without descriptor and perhaps as 1 for 1.0
            node.undeclare_parameter(name)
        node.declare_parameter(name, value, rows[name].descriptor(), ignore_override=True)
    return values


def limits(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of a dataclass of limits from the parameters that are named like its fields."""
    return cls(**{field.name: values[prefix + field.name] for field in dataclasses.fields(cls) if prefix + field.name in values})


def changed(node: Node, table: Sequence[Parameter], given: Mapping[str, Any], configured: bool) -> dict[str, Any]:
    """The checked values once `given` is set: of all rows where the node is configured, else of those alone. ConfigError names what
    is wrong, or that it can't change now.

    configured: the node holds an engine and topics; then only the rows that are `live` may change.
    """
    rows = {row.name: row for row in table}
    for name in given:
        if name not in rows:
            raise ConfigError(f"parameter {name} is unknown; known are {', '.join(rows)}")
        if configured and not rows[name].live:
            live = ", ".join(row.name for row in table if row.live)
            raise ConfigError(f"parameter {name} takes effect at configure: deactivate and clean up first; now can change {live}")
    kept = {name: node.get_parameter(name).value for name in rows} if configured else {}
    return {name: rows[name].check(value) for name, value in (kept | dict(given)).items()}
