"""Observation -> Plan through a Backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Backend, Command, ConfigError, EgoHistory, InputError, ModelSpec, Observation, Plan
from spanvla_ros.geometry import to_local
from spanvla_ros.planning import motion
from spanvla_ros.planning.images import Fitter
from spanvla_ros.planning.preprocess import preprocess
from spanvla_ros.planning.tokenizer import ACTION_START


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Plans beside the one that each picture gets with its text.

    plan_early: one from the pictures alone, before the text; replan_s: the expert alone plans from newer odometry this long after the
    last plan, 0 = never, on pictures and a text that are at most max_kv_age_s old.
    """

    plan_early: bool = False
    replan_s: float = 0.0
    max_kv_age_s: float = 0.5

    def due(self, now_ns: int, planned_ns: int, seen_ns: int) -> bool:
        """Whether the expert is to plan from odometry of now_ns, after a plan for planned_ns, on pictures of seen_ns."""
        waited = now_ns - planned_ns >= self.replan_s * NS_PER_S
        return self.replan_s > 0 and waited and now_ns - seen_ns <= self.max_kv_age_s * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class _Thought:
    """What the KV of the backend holds: the observation of t0 and a text."""

    t0_ns: int
    pose_odom: np.ndarray
    budget_tokens: int
    reasoning: str = ""
    tokens: int = 0
    cut_tokens: int | None = None


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
        self._fit = Fitter()
        self._thought: _Thought | None = None

    def plan(
        self,
        observation: Observation,
        *,
        deadline_s: float | None = None,
        max_tokens: int | None = None,
        early: Callable[[Plan], None] | None = None,
    ) -> Plan:
        """Reason and plan. Raises InputError where the observation doesn't fit the model or the result is not finite.

        deadline_s: instant of time.monotonic() at which the plan is wanted; the text is cut where it would be missed otherwise.
        max_tokens: another budget for this plan alone, to repeat a recorded one. early: is given revision 0, from the pictures alone,
        before the reasoning begins; the plan that is returned is the same with and without it.
        """
        self._thought = None
        marks = {"": time.monotonic()}
        tensors = preprocess(observation, self.spec, self.tokenizer, self._fit)
        marks["preprocess"] = time.monotonic()
        self.backend.prefill(tensors)
        marks["prefill"] = time.monotonic()
        budget = self.max_reasoning_tokens if max_tokens is None else max_tokens
        inputs = {k: tensors[k] for k in ("ego", "base", "age") if k in tensors}
        thought = _Thought(t0_ns=observation.t0_ns, pose_odom=observation.pose_odom, budget_tokens=budget)
        if early is not None and budget:
            waypoints = self._waypoints(inputs, observation.t0_ns)
            early(self._made(thought, waypoints, observation.history, observation.pose_odom, 0, marks | {"trajectory": time.monotonic()}))
            marks["early"] = time.monotonic()
        ids, cut = self._reason(budget, deadline_s)
        marks["reasoning"] = time.monotonic()
        text = self.tokenizer.decode([i for i in ids if i != self._stop]).strip()
        thought = replace(thought, reasoning=text, tokens=len(ids), cut_tokens=cut)
        waypoints = self._waypoints(inputs, observation.t0_ns)
        marks["trajectory"] = time.monotonic()
        self._trajectory_s = marks["trajectory"] - marks["reasoning"]
        self._thought = thought
        return self._made(thought, waypoints, observation.history, observation.pose_odom, int(cut is None), marks)

    def replan(self, history: EgoHistory, pose_odom: np.ndarray, command: Command) -> Plan:
        """Revision 2: the expert alone, from the motion up to now on the pictures and the text of the last plan.

        A model with kv_age is told how old they are and how the car has moved since; another one takes them for those of now.
        Raises InputError where there is no last plan, or the result is not finite.
        """
        thought = self._thought
        if thought is None:
            raise InputError("there is no plan yet whose pictures and text could be used again; plan first")
        marks = {"": time.monotonic()}
        inputs = {"ego": motion.features(history, command)[None], "base": motion.base(history, self.spec)[None]}
        if self.spec.kv_age:
            age_s = (history.stamps_ns[-1] - thought.t0_ns) / NS_PER_S
            inputs["age"] = motion.age_features(age_s, to_local(thought.pose_odom, pose_odom))[None]
        marks["preprocess"] = time.monotonic()
        waypoints = self._waypoints(inputs, history.stamps_ns[-1])
        marks["trajectory"] = time.monotonic()
        return self._made(thought, waypoints, history, pose_odom, 2, marks)

    def _waypoints(self, inputs: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
        spec = self.spec
        noise = np.random.default_rng(seed).standard_normal((1, spec.waypoints, 3)).astype(np.float32) * np.float32(spec.inference_noise)
        waypoints = np.asarray(self.backend.flow(inputs, noise), np.float64).reshape(-1, 3)
        if not np.isfinite(waypoints).all():
            raise InputError(f"the model planned a waypoint that is not finite: {waypoints[~np.isfinite(waypoints).all(1)][0].tolist()}")
        return waypoints

    def _made(
        self, thought: _Thought, waypoints: np.ndarray, history: EgoHistory, pose_odom: np.ndarray, revision: int, marks: Mapping[str, float]
    ) -> Plan:
        """marks: stage -> when it ended; the first one is the beginning."""
        t0_ns, instants = history.stamps_ns[-1], list(marks.values())
        timings = {stage: 1e3 * (b - a) for stage, a, b in zip(list(marks)[1:], instants, instants[1:])}
        return Plan(
            t0_ns=t0_ns,
            waypoints_base=waypoints,
            waypoint_interval_s=self.spec.waypoint_interval_s,
            pose_odom=pose_odom,
            speed_mps=float(history.speeds_mps[-1]),
            reasoning=thought.reasoning,
            tokens=thought.tokens,
            seed=t0_ns,
            engine_hash=self.engine_hash,
            timings_ms={**timings, "total": 1e3 * (instants[-1] - instants[0])},
            budget_tokens=thought.budget_tokens,
            cut_tokens=thought.cut_tokens,
            revision=revision,
            kv_age_s=(t0_ns - thought.t0_ns) / NS_PER_S,
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
