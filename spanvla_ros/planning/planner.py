"""Observation -> Plan through a Backend."""

from __future__ import annotations

import time

import numpy as np

from spanvla_ros.contracts import Backend, ConfigError, InputError, ModelSpec, Observation, Plan
from spanvla_ros.planning.preprocess import preprocess
from spanvla_ros.planning.tokenizer import ACTION_START


class Planner:
    """Owns a backend and turns one observation at a time into a plan. Not thread-safe.

    The same observation gives the same plan: decoding is greedy, the noise is drawn from the stamp, and the text ends at
    <action_start> or after `max_reasoning_tokens` (None: as many as the model has room for). A deadline alone can end it
    earlier; the plan then says after how many tokens, and the same number given as `max_tokens` makes the same plan again.
    backend_name and passed_over tell people what runs: see `engine.backends.session`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer,
        backend: Backend,
        engine_hash: str,
        *,
        max_reasoning_tokens: int | None = None,
        backend_name: str = "",
        passed_over: tuple[str, ...] = (),
    ):
        room = spec.max_reasoning_tokens
        if max_reasoning_tokens is not None and not 0 <= max_reasoning_tokens <= room:
            raise ConfigError(f"max_reasoning_tokens is {max_reasoning_tokens}, the model {spec.name} has room for 0 to {room}")
        self.spec = spec
        self.tokenizer = tokenizer
        self.backend = backend
        self.engine_hash = engine_hash
        self.backend_name, self.passed_over = backend_name, passed_over
        self.max_reasoning_tokens = room if max_reasoning_tokens is None else max_reasoning_tokens
        self._stop = tokenizer.token_to_id(ACTION_START)
        # of the newest plan: what one token and the trajectory take
        self._token_s = self._trajectory_s = 0.0

    def plan(self, observation: Observation, *, deadline_s: float | None = None, max_tokens: int | None = None) -> Plan:
        """Reason and plan. Raises InputError where the observation doesn't fit the model or the result is not finite.

        deadline_s: instant of time.monotonic() at which the plan is wanted; the text is cut where it would be missed otherwise.
        max_tokens: another budget for this plan alone, to repeat a recorded one.
        """
        spec, marks = self.spec, [time.monotonic()]
        tensors = preprocess(observation, spec, self.tokenizer)
        marks.append(time.monotonic())
        self.backend.prefill(tensors)
        marks.append(time.monotonic())
        budget = self.max_reasoning_tokens if max_tokens is None else max_tokens
        ids, cut = self._reason(budget, deadline_s)
        marks.append(time.monotonic())
        seed = observation.t0_ns
        noise = np.random.default_rng(seed).standard_normal((1, spec.waypoints, 3)).astype(np.float32) * np.float32(spec.inference_noise)
        waypoints = np.asarray(self.backend.flow({k: tensors[k] for k in ("ego", "base", "age") if k in tensors}, noise), np.float64).reshape(-1, 3)
        marks.append(time.monotonic())
        if not np.isfinite(waypoints).all():
            raise InputError(f"the model planned a waypoint that is not finite: {waypoints[~np.isfinite(waypoints).all(1)][0].tolist()}")
        stages = ("preprocess", "prefill", "reasoning", "trajectory")
        timings = {stage: 1e3 * (b - a) for stage, a, b in zip(stages, marks, marks[1:])}
        self._trajectory_s = marks[4] - marks[3]
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
            budget_tokens=budget,
            cut_tokens=cut,
        )

    def _reason(self, budget: int, deadline_s: float | None) -> tuple[list[int], int | None]:
        """Token ids, and their number where the deadline ended the text."""
        ids: list[int] = []
        tokens = self.backend.decode(budget)
        begun = time.monotonic()
        try:
            while len(ids) < budget and (not ids or ids[-1] != self._stop):
                # one more token, the closing one and the trajectory must fit
                if deadline_s is not None and time.monotonic() + 2 * self._token_s + self._trajectory_s > deadline_s:
                    return ids, len(ids)
                token = next(tokens, None)
                if token is None:
                    break
                ids.append(token)
        finally:
            # from here on the cache ends with what has been thought so far
            if hasattr(tokens, "close"):
                tokens.close()
            if ids:
                self._token_s = (time.monotonic() - begun) / (len(ids) + 1)
        return ids, None

    def close(self) -> None:
        self.backend.close()
