"""The time that reasoning may take: budget, deadline, and the replay of a cut."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import demo_spec, history

from spanvla_ros.contracts import Command, ConfigError, Image, InputError, Observation
from spanvla_ros.planning import motion
from spanvla_ros.planning import planner as room
from spanvla_ros.planning import tokenizer as tokens
from spanvla_ros.planning.planner import Planner, Rate

TEXT = " one two three four five six seven eight"


class Clock:
    """Time that only the backend spends."""

    now = 100.0

    def monotonic(self):
        return self.now


class Thinker:
    """One token takes 10 ms, the trajectory 20 ms; its plan tells how many tokens it was made from."""

    def __init__(self, ids, clock):
        self.ids, self.clock, self.thought = ids, clock, None

    def prefill(self, prompt):
        self.clock.now += 0.05
        self.thought = 0

    def decode(self, max_tokens):
        self.thought = 0
        for token in self.ids[:max_tokens]:
            self.clock.now += 0.01
            self.thought += 1
            yield token

    def flow(self, motion, noise):
        self.clock.now += 0.02
        return motion["base"] + self.thought

    def close(self):
        pass


@pytest.fixture
def planner(monkeypatch):
    words = tokens.train([TEXT, "user front assistant follow the road ; acceleration speed path 0 1 2 3 4 5 6 7 8 9 . -"] * 20, 400)
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    ids = [*words.encode(TEXT).ids, words.token_to_id(tokens.ACTION_START)]
    assert len(ids) > 8
    return Planner(demo_spec(prompt_tokens=256), words, Thinker(ids, clock), "fake")


def observation():
    grey = np.full((112, 224, 3), 128, np.uint8)
    past = history()
    images = {"front": tuple(Image(stamp_ns=past.stamps_ns[-1], rgb=grey) for _ in range(2))}
    return Observation(t0_ns=past.stamps_ns[-1], images=images, history=past, pose_odom=np.zeros(3))


def test_text_ends_by_itself_within_its_time(planner):
    whole = planner.plan(observation())
    assert whole.cut_tokens is None and whole.budget_tokens == 24 and whole.tokens == len(planner.backend.ids)
    late = planner.plan(observation(), deadline_s=planner.backend.clock.now + 10)
    assert late.reasoning == whole.reasoning == TEXT.strip() and np.array_equal(late.waypoints_base, whole.waypoints_base)


def test_a_deadline_cuts_the_text_and_the_same_cut_can_be_made_again(planner):
    planner.plan(observation())  # from the first plan on it knows what its stages take
    begun = planner.backend.clock.now
    cut = planner.plan(observation(), deadline_s=begun + 0.14)
    # 50 ms of prefill, 20 of the trajectory: room for some tokens and the closing one
    assert 3 <= cut.cut_tokens == cut.tokens == planner.backend.thought <= 6
    assert planner.backend.clock.now <= begun + 0.14
    assert TEXT.strip().startswith(cut.reasoning)
    again = planner.plan(observation(), max_tokens=cut.cut_tokens)
    assert np.array_equal(again.waypoints_base, cut.waypoints_base) and again.reasoning == cut.reasoning
    assert not np.array_equal(cut.waypoints_base, planner.plan(observation()).waypoints_base)


def test_what_is_already_late_acts_without_a_text(planner):
    plan = planner.plan(observation(), deadline_s=planner.backend.clock.now - 1)
    assert (plan.cut_tokens, plan.tokens, plan.reasoning) == (0, 0, "")


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_is_no_cut(planner, budget):
    short = Planner(planner.spec, planner.tokenizer, planner.backend, "fake", max_reasoning_tokens=budget)
    plan = short.plan(observation(), deadline_s=planner.backend.clock.now + 10)
    assert (plan.tokens, plan.budget_tokens, plan.cut_tokens) == (budget, budget, None)


@pytest.mark.parametrize("budget", [-1, 25])
def test_a_budget_beyond_the_cache_is_refused(planner, budget):
    with pytest.raises(ConfigError, match=f"max_reasoning_tokens is {budget}, the model demo has room for 0 to 24"):
        Planner(planner.spec, planner.tokenizer, planner.backend, "fake", max_reasoning_tokens=budget)


def test_an_early_plan_needs_no_text_and_changes_nothing(planner):
    alone, silent = planner.plan(observation()), planner.plan(observation(), max_tokens=0)
    found = []
    begun = planner.backend.clock.now
    plan = planner.plan(observation(), early=lambda plan: found.append((plan, planner.backend.clock.now - begun)))
    ((early, after_s),) = found
    assert (early.revision, early.tokens, early.reasoning, early.t0_ns) == (0, 0, "", plan.t0_ns)
    assert np.array_equal(early.waypoints_base, silent.waypoints_base) and after_s == pytest.approx(0.07)
    assert (plan.revision, plan.reasoning, plan.tokens, plan.seed) == (1, alone.reasoning, alone.tokens, alone.seed)
    assert np.array_equal(plan.waypoints_base, alone.waypoints_base) and not np.array_equal(early.waypoints_base, plan.waypoints_base)
    assert list(plan.timings_ms) == ["preprocess", "prefill", "early", "reasoning", "trajectory", "total"]
    assert list(early.timings_ms) == ["preprocess", "prefill", "trajectory", "total"]


def test_a_text_of_no_tokens_has_no_early_plan(planner):
    found = []
    assert planner.plan(observation(), max_tokens=0, early=found.append).revision == 1 and not found


def test_the_expert_alone_plans_from_newer_motion(planner):
    newer = history(speed=6.0, t0_ns=10_300_000_000)
    with pytest.raises(InputError, match="there is no plan yet"):
        planner.replan(newer, np.zeros(3), Command.LEFT)
    before = planner.plan(observation())
    again = planner.replan(newer, np.array([2.4, 0.0, 0.0]), Command.LEFT)
    assert (again.revision, again.t0_ns, again.seed, again.speed_mps) == (2, 10_300_000_000, 10_300_000_000, 6.0)
    assert again.kv_age_s == pytest.approx(0.3) and before.kv_age_s == 0
    assert (again.reasoning, again.tokens, again.pose_odom[0]) == (before.reasoning, before.tokens, 2.4)
    assert np.array_equal(again.waypoints_base, motion.base(newer, planner.spec) + planner.backend.thought)


def test_a_model_made_for_old_keys_is_told_their_age(planner, monkeypatch):
    aged = Planner(demo_spec(prompt_tokens=256, kv_age=True), planner.tokenizer, planner.backend, "fake")
    told = []
    monkeypatch.setattr(planner.backend, "flow", lambda motion, noise: told.append(motion["age"]) or motion["base"])
    aged.plan(observation())
    aged.replan(history(t0_ns=10_250_000_000), np.array([2.0, 0.1, 0.05]), Command.LEFT)
    np.testing.assert_allclose(told, [[[0, 0, 0, 0]], [[0.5, 0.2, 0.05, 0.1]]], atol=1e-6)


def test_a_failed_plan_leaves_nothing_to_plan_from(planner, monkeypatch):
    planner.plan(observation())
    monkeypatch.setattr(planner.backend, "prefill", lambda prompt: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        planner.plan(observation())
    with pytest.raises(InputError, match="there is no plan yet"):
        planner.replan(history(), np.zeros(3), Command.LEFT)


@pytest.mark.parametrize(
    "now_ms, planned_ms, seen_ms, due", [(200, 100, 0, True), (199, 100, 0, False), (500, 400, 0, True), (501, 400, 0, False), (150, 0, 200, True)]
)
def test_when_the_expert_is_due(now_ms, planned_ms, seen_ms, due):
    assert Rate(replan_s=0.1).due(now_ms * 10**6, planned_ms * 10**6, seen_ms * 10**6) is due
    assert not Rate().due(now_ms * 10**6, planned_ms * 10**6, seen_ms * 10**6)
