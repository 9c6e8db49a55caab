"""Observation -> Plan through a Backend."""

from __future__ import annotations

import time

import numpy as np

from spanvla_ros.contracts import Backend, InputError, ModelSpec, Observation, Plan
from spanvla_ros.planning.preprocess import preprocess
from spanvla_ros.planning.tokenizer import ACTION_START


class Planner:
    """Owns a backend and turns one observation at a time into a plan. Not thread-safe.

    The same observation gives the same plan: decoding is greedy and the noise is drawn from the stamp.
    """

    def __init__(self, spec: ModelSpec, tokenizer, backend: Backend, engine_hash: str):
        self.spec = spec
        self.tokenizer = tokenizer
        self.backend = backend
        self.engine_hash = engine_hash
        self._stop = tokenizer.token_to_id(ACTION_START)

    def plan(self, observation: Observation) -> Plan:
        """Reason and plan. Raises InputError where the observation doesn't fit the model or the result is not finite."""
        spec, marks = self.spec, [time.perf_counter()]
        tensors = preprocess(observation, spec, self.tokenizer)
        marks.append(time.perf_counter())
        self.backend.prefill(tensors)
        marks.append(time.perf_counter())
        ids = list(self.backend.decode(spec.max_reasoning_tokens))
        marks.append(time.perf_counter())
        seed = observation.t0_ns
        noise = np.random.default_rng(seed).standard_normal((1, spec.waypoints, 3)).astype(np.float32) * np.float32(spec.inference_noise)
        waypoints = np.asarray(self.backend.flow({k: tensors[k] for k in ("ego", "base", "age") if k in tensors}, noise), np.float64).reshape(-1, 3)
        marks.append(time.perf_counter())
        if not np.isfinite(waypoints).all():
            raise InputError(f"the model planned a waypoint that is not finite: {waypoints[~np.isfinite(waypoints).all(1)][0].tolist()}")
        stages = ("preprocess", "prefill", "reasoning", "trajectory")
        timings = {stage: 1e3 * (b - a) for stage, a, b in zip(stages, marks, marks[1:])}
        return Plan(
            t0_ns=observation.t0_ns,
            waypoints_base=waypoints,
            waypoint_interval_s=spec.waypoint_interval_s,
            pose_odom=observation.pose_odom,
            speed_mps=float(observation.history.speeds_mps[-1]),
            reasoning=self.tokenizer.decode([i for i in ids if i != self._stop]).strip(),
            tokens=len(ids),
            seed=seed,
            engine_hash=self.engine_hash,
            timings_ms={**timings, "total": 1e3 * (marks[-1] - marks[0])},
        )

    def close(self) -> None:
        self.backend.close()
