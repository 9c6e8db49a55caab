"""The time that reasoning may take: budget, deadline, and the replay of a cut."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import demo_spec, history

from spanvla_ros.contracts import ConfigError, Image, Observation
from spanvla_ros.planning import planner as room
from spanvla_ros.planning import tokenizer as tokens
from spanvla_ros.planning.planner import Planner

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
