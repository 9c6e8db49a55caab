"""Does a back-end compute what the checkpoint computes? Both plan from the same inputs, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, EgoHistory, EngineError, Image, ModelSpec, Observation
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.engine.load import load_backend
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning.preprocess import preprocess

TOLERANCE = 1e-4  # float32 on both sides: measured differences are some 1e-6
ADE_TOLERANCE = 0.03  # of an engine with less precision: so much of its open-loop error may be new


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest absolute differences over all prompts; features and logits in their own units, waypoints in m and rad."""

    prompts: int
    features: float
    logits: float
    waypoints: float
    tokens_equal: bool

    @property
    def ok(self) -> bool:
        return self.tokens_equal and max(self.features, self.logits, self.waypoints) <= TOLERANCE

    def to_dict(self) -> dict[str, float | int | bool]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Mean distance of plans in metres over all samples and waypoints: to what was driven, of the checkpoint in float32 and of the
    engine; and between the plans of the two. The judgement of an engine with less precision, where tensors must differ."""

    samples: int
    checkpoint_m: float
    engine_m: float
    between_m: float

    @property
    def change(self) -> float:
        """Growth of the error, as a share of the checkpoint's."""
        return self.engine_m / self.checkpoint_m - 1

    @property
    def ok(self) -> bool:
        return self.change <= ADE_TOLERANCE

    def to_dict(self) -> dict[str, float | int]:
        return {**dataclasses.asdict(self), "change": self.change}


def observations(spec: ModelSpec, count: int, seed: int = 0) -> Iterator[Observation]:
    """Made-up observations: coloured blotches, and cars that turn at constant speed."""
    generator = np.random.default_rng(seed)
    height, width = spec.image_size
    t0_ns = 100 * NS_PER_S
    for _ in range(count):
        speed, turn = generator.uniform(0, 15), generator.uniform(-0.3, 0.3)
        offsets = np.array(spec.history_offsets_s)
        images = {}
        for camera in spec.cameras:
            blotches = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
            rgb = blotches.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
            frames = [np.roll(rgb, k, axis=1) for k in range(len(spec.frame_offsets_s))]
            images[camera] = tuple(Image(stamp_ns=t0_ns + round(o * NS_PER_S), rgb=f) for o, f in zip(spec.frame_offsets_s, frames))
        yield Observation(
            t0_ns=t0_ns,
            images=images,
            history=EgoHistory(
                stamps_ns=tuple(t0_ns + round(o * NS_PER_S) for o in offsets),
                poses_base=constant_turn(speed, turn, offsets),
                speeds_mps=np.full(len(offsets), speed),
                yaw_rates_rps=np.full(len(offsets), turn),
                acceleration_mps2=float(generator.uniform(-2, 2)),
            ),
            pose_odom=np.zeros(3),
            command=list(Command)[generator.integers(len(Command))],
        )


def compare(spec: ModelSpec, reference: Session, backend: Session, prompts: Iterable[Mapping[str, np.ndarray]], seed: int = 0) -> Parity:
    """Run both on arrays of `planning.preprocess`."""
    generator = np.random.default_rng(seed)
    worst, equal, count = np.zeros(3), True, 0
    for prompt in prompts:
        noise = generator.standard_normal((1, spec.waypoints, 3)).astype(np.float32)
        seen = []
        for session in (reference, backend):
            session.prefill(prompt)
            tokens = list(session.decode(spec.max_reasoning_tokens + 1))
            seen.append((session.features, session.logits, session.flow(prompt, noise), tokens))
        equal &= seen[0][3] == seen[1][3]
        worst = np.maximum(worst, [np.abs(a - b).max() for a, b in zip(seen[0][:3], seen[1][:3])])
        count += 1
    features, logits, waypoints = (float(w) for w in worst)
    return Parity(prompts=count, features=features, logits=logits, waypoints=waypoints, tokens_equal=bool(equal))


def check(engine_dir: Path | str, backend: str = "auto", count: int = 4) -> Parity:
    """Hold a back-end of an engine folder against its own checkpoint in torch."""
    spec, tokenizer, tested = load_backend(engine_dir, backend)
    _, _, reference = load_backend(engine_dir, "torch")
    try:
        return compare(spec, reference, tested, (preprocess(o, spec, tokenizer) for o in observations(spec, count)))
    finally:
        tested.close()
        reference.close()


def open_loop(spec: ModelSpec, reference: Session, backend: Session, samples: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]]) -> OpenLoop:
    """Plans without noise on samples: arrays of `planning.preprocess`, and the driven waypoints (T, 3) in base_link."""
    plans: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    driven = []
    for prompt, future in samples:
        for session, found in zip((reference, backend), plans):
            session.prefill(prompt)
            for _ in session.decode(spec.max_reasoning_tokens + 1):
                pass
            found.append(session.flow(prompt, np.zeros((1, spec.waypoints, 3), np.float32)))
        driven.append(future)
    if not driven:
        raise EngineError("the open-loop error needs samples, there are none")

    def distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        return float(np.linalg.norm((np.array(first) - np.array(second))[..., :2], axis=-1).mean())

    return OpenLoop(
        samples=len(driven), checkpoint_m=distance(plans[0], driven), engine_m=distance(plans[1], driven), between_m=distance(*plans)
    )
