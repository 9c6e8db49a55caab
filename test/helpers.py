"""Small builders that several tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import EgoHistory, ModelSpec

S = 1_000_000_000


def demo_spec(**changes) -> ModelSpec:
    values = dict(
        name="demo",
        cameras=("front",),
        frame_offsets_s=(-0.5, 0.0),
        history_offsets_s=(-1.5, -1.0, -0.5, 0.0),
        image_size=(112, 224),
        waypoints=10,
        waypoint_interval_s=0.5,
        prompt_version="compact/1",
        prompt_tokens=80,
        max_reasoning_tokens=24,
        tokenizer_sha256="",
        taps=(1, 3),
        flow_steps=5,
        source_sigma=0.1,
        action_scale=((1.0, 1.0, 1.0),) * 10,
    )
    return ModelSpec(**{**values, **changes})


def history(speed: float = 8.0, yaw_rate: float = 0.05, t0_ns: int = 10 * S) -> EgoHistory:
    times = np.array([-1.5, -1.0, -0.5, 0.0])
    return EgoHistory(
        stamps_ns=tuple(t0_ns + int(t * S) for t in times),
        poses_base=np.column_stack([7.7 * times, [0.4, 0.2, 0.05, 0.0], np.radians([-4, -2, -0.5, 0.0])]),
        speeds_mps=speed + 0.6 * times,
        yaw_rates_rps=np.full(4, yaw_rate),
        acceleration_mps2=0.6,
    )


def export_tiny(folder: Path) -> Path:
    """Engine folder of the random tiny model. Its residuals are small, so that its plans pass the validity checks and a car can follow them."""
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import tiny

    spec = dataclasses.replace(tiny.build().spec, action_scale=tuple((0.02 * k, 0.01 * k, 0.001) for k in range(1, 11)))
    export(tiny.build(spec=spec), folder)
    return folder


def painted(scenario, log, chosen, cameras):
    """Pictures without OpenGL: as big as the real ones, each another grey."""
    from spanvla_ros.sim.pictures.renderer import encode

    stamps = {f.stamp_ns for choice in chosen for f in choice.instant.observation.images["front"]}
    return {
        (name, stamp): encode(np.full((view.height, view.width, 3), 40 + stamp // 250_000_000 % 150, np.uint8), 60)
        for stamp in stamps
        for name, view in scenario.cameras.items()
        if name in cameras
    }
