"""The one vocabulary of all rooms: frozen numpy dataclasses, the two seams, the errors.

Frames follow REP-103/105: `base` is base_link at the rear axle (x forward, y left), `odom` the frame of the
odometry. Poses are rows (x_m, y_m, yaw_rad). Stamps are integer nanoseconds of ROS time.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

NS_PER_S = 1_000_000_000
# of a ModelSpec: where the flow starts, and what the expert is
SOURCES = ("cv+mlp", "mlp", "cv", "gaussian")
HEADS = ("flow", "l1")


class SpanVLAError(Exception):
    """Base of every error a user can cause; the message is one line that names the offending value and the cure."""


class ConfigError(SpanVLAError):
    """A file, key or value of a configuration is wrong."""


class InputError(SpanVLAError):
    """A sensor message, bag or sample can't be used."""


class NotReady(InputError):
    """An observation can't be formed yet; `code` is the machine-readable reason (e.g. IMAGE_MISSING)."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class EngineError(SpanVLAError):
    """An engine folder is missing, altered, or not for this machine."""


class DataError(SpanVLAError):
    """A data set breaks its schema."""


class Command(str, enum.Enum):
    """High-level instruction of the route."""

    LEFT = "left"
    STRAIGHT = "straight"
    RIGHT = "right"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """Dimensions of a vehicle in metres, seen from the rear axle. Defaults: NAVSIM's ego (a Chrysler Pacifica)."""

    wheel_base_m: float = 3.089
    front_m: float = 4.049  # rear axle to front bumper
    rear_m: float = 1.127  # rear axle to rear bumper
    width_m: float = 2.297

    @property
    def length_m(self) -> float:
        return self.front_m + self.rear_m

    @property
    def center_m(self) -> float:
        """Rear axle to the centre of the box."""
        return self.length_m / 2 - self.rear_m


VEHICLE = Vehicle()


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class Image:
    """One decoded frame: `rgb` (H, W, 3) uint8 at the camera's own resolution, or an even part of it (`planning.images.decode_jpeg`); the
    stamp is the exposure."""

    stamp_ns: int
    rgb: np.ndarray

    def __post_init__(self):
        _check(
            self.rgb.ndim == 3 and self.rgb.shape[2] == 3 and self.rgb.dtype == np.uint8,
            f"image must be (H, W, 3) uint8, got {self.rgb.shape} {self.rgb.dtype}",
        )


@dataclass(frozen=True, kw_only=True)
class EgoHistory:
    """Motion of the car on the model's history grid, oldest first; the last row is t0.

    poses_base (H, 3) in base_link at t0, so the last row is zero; speeds_mps (H,) signed along x;
    yaw_rates_rps (H,); acceleration_mps2 over the last grid interval.
    """

    stamps_ns: tuple[int, ...]
    poses_base: np.ndarray
    speeds_mps: np.ndarray
    yaw_rates_rps: np.ndarray
    acceleration_mps2: float

    def __post_init__(self):
        count = len(self.stamps_ns)
        for name, shape in (("poses_base", (count, 3)), ("speeds_mps", (count,)), ("yaw_rates_rps", (count,))):
            value = getattr(self, name)
            _check(value.shape == shape, f"history {name} must have shape {shape}, got {value.shape}")
            _check(bool(np.isfinite(value).all()), f"history {name} holds a value that is not finite: {value}")
        _check(bool(np.isfinite(self.acceleration_mps2)), f"history acceleration is {self.acceleration_mps2}")
        _check(all(b > a for a, b in zip(self.stamps_ns, self.stamps_ns[1:])), f"history stamps don't increase: {self.stamps_ns}")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that one plan may be made from: images, ego history and command. No map, no objects, no ground truth.

    images: camera -> frames oldest first, one per `ModelSpec.frame_offsets_s`; pose_odom (3,) of base_link at t0;
    image_ages_s: camera -> distance of each frame from its grid stamp; skew_s: largest stamp difference of the newest
    frames of all cameras.
    """

    t0_ns: int
    images: Mapping[str, tuple[Image, ...]]
    history: EgoHistory
    pose_odom: np.ndarray
    command: Command = Command.UNKNOWN
    image_ages_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    skew_s: float = 0.0

    def __post_init__(self):
        _check(self.pose_odom.shape == (3,) and bool(np.isfinite(self.pose_odom).all()), f"pose_odom is {self.pose_odom}")
        _check(self.history.stamps_ns[-1] == self.t0_ns, f"history ends at {self.history.stamps_ns[-1]} ns, t0 is {self.t0_ns} ns")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the model says for one observation, before supervisor and blending.

    waypoints_base (T, 3): poses in base_link at t0, one per `ModelSpec.waypoint_interval_s`, the first at one interval
    after t0; pose_odom (3,) and speed_mps: measured at t0; timings_ms: stage -> duration. budget_tokens: the most that the text
    could have; cut_tokens: how many it has where the deadline ended it, else None. revision: 0 from the pictures alone or on a text
    that the deadline ended, 1 on the whole text, 2 from newer motion on the text and pictures of kv_age_s before t0.
    """

    t0_ns: int
    waypoints_base: np.ndarray
    waypoint_interval_s: float
    pose_odom: np.ndarray
    speed_mps: float
    reasoning: str
    tokens: int
    seed: int
    engine_hash: str
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    budget_tokens: int | None = None
    cut_tokens: int | None = None
    revision: int = 1
    kv_age_s: float = 0.0

    def __post_init__(self):
        shape = self.waypoints_base.shape
        _check(len(shape) == 2 and shape[1] == 3 and shape[0] > 0, f"waypoints must have shape (T, 3), got {shape}")

    @property
    def plan_id(self) -> str:
        return f"{self.t0_ns}"


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A dense plan in the odometry frame: what a controller follows.

    times_s (N,) from the stamp, first 0; poses_odom (N, 3); speeds_mps (N,) signed along body x;
    accelerations_mps2 (N,) along body x; yaw_rates_rps (N,).
    """

    stamp_ns: int
    times_s: np.ndarray
    poses_odom: np.ndarray
    speeds_mps: np.ndarray
    accelerations_mps2: np.ndarray
    yaw_rates_rps: np.ndarray


def _later(default: Any) -> Any:
    """A field that came after the first engines; its default is what was fixed in them."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What the model fixes. Written into the checkpoint by training, copied into the engine manifest, never a parameter.

    image_size is (height, width) of the model input; frame offsets and history offsets are seconds relative to t0,
    oldest first, ending at 0; action_scale is (waypoints, 3): the unit of the flow's residual space per waypoint;
    taps are 0-based VLM layers whose KV the expert reads. action_tokens: size K of the codebook whose tokens <action_0> ...
    end the vocabulary, 0 for a model that has none; codebook_sha256 names that codebook.

    The bridge (method section 3): source "cv+mlp", "mlp", "cv" or "gaussian" is where the flow starts; with "mlp" and
    "gaussian" waypoints are relative to the car instead of to the constant-turn roll-out. head "flow", or "l1": one pass.
    waypoints_per_token: consecutive waypoints that share one query. kv_age: the expert is told how old the KV is and
    how the car has moved since (`planning.motion.age_features`).
    """

    name: str
    cameras: tuple[str, ...]
    frame_offsets_s: tuple[float, ...]
    history_offsets_s: tuple[float, ...]
    image_size: tuple[int, int]
    waypoints: int
    waypoint_interval_s: float
    prompt_version: str
    prompt_tokens: int
    max_reasoning_tokens: int
    tokenizer_sha256: str
    taps: tuple[int, ...]
    flow_steps: int
    source_sigma: float
    action_scale: tuple[tuple[float, float, float], ...]
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    inference_noise: float = 0.0
    action_tokens: int = _later(0)
    codebook_sha256: str = _later("")
    source: str = _later("cv+mlp")
    head: str = _later("flow")
    waypoints_per_token: int = _later(1)
    kv_age: bool = _later(False)

    def __post_init__(self):
        self._check_ranges()
        height, width = self.image_size
        cell = self.patch * self.merge
        if height % cell or width % cell:
            raise ConfigError(f"image_size {self.image_size} is not a multiple of {cell} px")
        if len(self.frame_offsets_s) % self.temporal_patch:
            raise ConfigError(f"{len(self.frame_offsets_s)} frames don't fill temporal patches of {self.temporal_patch}")
        if self.frame_offsets_s[-1] != 0 or self.history_offsets_s[-1] != 0:
            raise ConfigError("frame and history offsets must end at 0 s")
        if len(self.action_scale) != self.waypoints:
            raise ConfigError(f"action_scale has {len(self.action_scale)} rows for {self.waypoints} waypoints")
        if self.action_tokens < 0 or bool(self.action_tokens) != bool(self.codebook_sha256):
            raise ConfigError(f"action_tokens is {self.action_tokens} with codebook {self.codebook_sha256 or '(none)'}; give both or none")
        for name, known in (("source", SOURCES), ("head", HEADS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}")
        if self.waypoints_per_token < 1 or self.waypoints % self.waypoints_per_token:
            raise ConfigError(f"{self.waypoints} waypoints don't divide into tokens of {self.waypoints_per_token}")

    def _check_ranges(self) -> None:
        """What the rules between fields rely on."""
        for name in ("cameras", "frame_offsets_s", "taps"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty")
        for name in ("patch", "merge", "temporal_patch", "waypoints", "prompt_tokens", "flow_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if min(self.image_size) < 1 or min(self.taps) < 0 or self.max_reasoning_tokens < 0:
            found = f"image_size is {self.image_size}, taps are {self.taps}, max_reasoning_tokens is {self.max_reasoning_tokens}"
            raise ConfigError(f"{found}; sizes begin at 1, layers and tokens at 0")
        if len(self.history_offsets_s) < 2:
            raise ConfigError(f"history_offsets_s is {self.history_offsets_s}; two instants or more are needed")
        numbers = (*self.frame_offsets_s, *self.history_offsets_s, *(v for row in self.action_scale for v in row), *self.image_mean, *self.image_std)
        if not np.isfinite(np.array([*numbers, self.waypoint_interval_s, self.source_sigma, self.inference_noise], np.float64)).all():
            raise ConfigError("a number of the model spec is not finite")
        if self.waypoint_interval_s <= 0 or min(self.image_std) <= 0:
            raise ConfigError(f"waypoint_interval_s is {self.waypoint_interval_s}, image_std {self.image_std}; both must be above 0")
        for name in ("frame_offsets_s", "history_offsets_s"):
            offsets = getattr(self, name)
            if any(later <= earlier for earlier, later in zip(offsets, offsets[1:])):
                raise ConfigError(f"{name} is {offsets}, it must increase")

    @property
    def rolls_out(self) -> bool:
        """Waypoints are residuals to the constant-turn roll-out."""
        return self.source in ("cv+mlp", "cv")

    @property
    def groups(self) -> int:
        """Vision batch: cameras times temporal patches."""
        return len(self.cameras) * len(self.frame_offsets_s) // self.temporal_patch

    @property
    def grid(self) -> tuple[int, int]:
        """Merged vision tokens (rows, columns) of one group."""
        cell = self.patch * self.merge
        return self.image_size[0] // cell, self.image_size[1] // cell

    @property
    def vision_tokens(self) -> int:
        return self.groups * self.grid[0] * self.grid[1]

    @property
    def cache_tokens(self) -> int:
        """KV slots: the padded prompt, the reasoning and its closing <action_start>."""
        return self.prompt_tokens + self.max_reasoning_tokens + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values; fields of `_later` only where they differ from what they were before, so that old hashes hold."""
        kept = [f.name for f in dataclasses.fields(self) if not ("later" in f.metadata and getattr(self, f.name) == f.default)]
        return json.loads(json.dumps({name: getattr(self, name) for name in kept}))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`. ConfigError names the key that is unknown, missing or of the wrong type."""
        from spanvla_ros import config

        if not isinstance(data, Mapping):
            raise ConfigError(f"the model spec must be a mapping of keys, is {data!r}")
        checked, written = config.build(cls, data, "model spec"), {k: _freeze(v) for k, v in data.items()}
        for name, value in written.items():
            if getattr(checked, name) != value:
                raise ConfigError(f"model spec: {name} is {value!r}; numbers must not be written as text")
        # as it was written: 1 must not become 1.0, the hash would change
        return cls(**written)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


class Backend(Protocol):
    """A session that owns vision features and the KV cache of one observation at a time (seam 1).

    Only prompt tensors, token ids and waypoints cross it, as numpy. Not thread-safe: one thread owns it.
    """

    def prefill(self, prompt: Mapping[str, np.ndarray]) -> None:
        """Encode images and prompt; forget the previous KV. Arrays as made by `planning.preprocess`."""

    def decode(self, max_tokens: int) -> Iterator[int]:
        """Greedy token ids, at most `max_tokens`, ending early at <action_start> (which is yielded).

        Whenever the iterator ends or is closed, the KV holds every yielded token and ends with <action_start>.
        """

    def flow(self, motion: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        """Waypoints (T, 3) in base_link from the current KV, closed by <action_start> if it isn't yet; repeatable on the same KV.

        motion: `ego` (1, E) and `base` (1, T, 3) of `planning.preprocess`, `age` (1, 4) where the spec has kv_age; noise
        (1, T, 3) in units of the source sigma.
        """

    def close(self) -> None:
        """Release memory; the backend can't be used afterwards."""


class Source(Protocol):
    """Something that can be driven: simulator, bag, CARLA (seam 2). Ground truth is a separate handle for the judge."""

    def reset(self) -> Observation | None: ...

    def step(self, plan: Plan | None) -> Observation | None:
        """Advance one planning period under `plan`; None when the drive is over."""
