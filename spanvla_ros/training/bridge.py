"""What stage two may change about the bridge of a stage-one model: taps, horizon, source, head (method sections 3 and 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.model.expert import Interval, tapped_layers
from spanvla_ros.training import targets

HORIZON_S = 5.0
FIXED_SCALE = (50.0, 20.0, math.pi)  # m, m, rad


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Changes to the ModelSpec of stage one; what is not given stays as it is there.

    taps names layers (0-based), tap_interval selects them: every 1st, 2nd, 4th from tap_offset, or the last one. waypoints:
    10 at 2 Hz or 50 at 10 Hz. normalisation: spread of the data per waypoint, or fixed units of 50 m, 20 m, pi.
    """

    taps: tuple[int, ...] | None = None
    tap_interval: Interval | None = None
    tap_offset: int = 0
    source: Literal["cv+mlp", "mlp", "cv", "gaussian"] | None = None
    head: Literal["flow", "l1"] | None = None
    sigma: float | None = None  # of the noise on the source, in normalised units; none: stage one's, 1 for gaussian
    flow_steps: int | None = None
    inference_noise: float | None = None  # of a single plan, in sigmas; none: stage one's, 1 for gaussian
    waypoints: Literal[10, 50] | None = None
    waypoints_per_token: int | None = None
    kv_age: bool | None = None  # train on KV that is up to 0.5 s old, and tell the expert
    normalisation: Literal["spread", "fixed"] | None = None
    scale_floor: tuple[float, float, float] = (0.05, 0.05, 0.01)  # m, m, rad

    def __post_init__(self):
        if self.taps is not None and self.tap_interval is not None:
            raise ConfigError(f"give taps {self.taps} or tap_interval {self.tap_interval}, not both")
        if self.taps is not None and not self.taps:
            raise ConfigError("taps is empty; the expert needs at least one layer")
        for name in ("sigma", "inference_noise"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, is {getattr(self, name)}")
        if self.flow_steps is not None and self.flow_steps < 1:
            raise ConfigError(f"flow_steps must be at least 1, is {self.flow_steps}")

    def draft(self, before: ModelSpec, layers: int) -> ModelSpec:
        """The spec of stage one with these changes, all but the scale."""
        changes: dict[str, Any] = {
            "source": self.source,
            "head": self.head,
            "source_sigma": self.sigma,
            "flow_steps": self.flow_steps,
            "inference_noise": self.inference_noise,
            "waypoints_per_token": self.waypoints_per_token,
            "kv_age": self.kv_age,
            "taps": self.taps if self.tap_interval is None else tapped_layers(layers, self.tap_interval, self.tap_offset),
        }
        if self.source == "gaussian":
            changes |= {name: 1.0 for name in ("source_sigma", "inference_noise") if changes[name] is None}
        if self.waypoints is not None and self.waypoints != before.waypoints:
            changes |= {"waypoints": self.waypoints, "waypoint_interval_s": HORIZON_S / self.waypoints}
            changes["action_scale"] = ((1.0, 1.0, 1.0),) * self.waypoints
        return replace(before, **{name: value for name, value in changes.items() if value is not None})

    def scaled(self, before: ModelSpec, draft: ModelSpec, future: np.ndarray, base: np.ndarray) -> ModelSpec:
        """The draft with its unit per waypoint: that of stage one where it means the same, else from future and base (n, T, 3)."""
        if self.normalisation == "fixed":
            return replace(draft, action_scale=(FIXED_SCALE,) * draft.waypoints)
        if self.normalisation is None and (draft.waypoints, draft.rolls_out) == (before.waypoints, before.rolls_out):
            return draft
        return replace(draft, action_scale=targets.action_scale(future, base if draft.rolls_out else np.zeros_like(base), self.scale_floor))
