"""Plans that take simulated time, and how long a car takes to brake for somebody who cuts in."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import S, history

from spanvla_ros.contracts import Command, ConfigError, InputError, Observation, Plan
from spanvla_ros.planning.planner import Rate
from spanvla_ros.sim.latency import Latency, Thinker

MS = 10**6
TAKES = Latency(prefill_s=0.13, token_s=0.02, flow_s=0.02)  # of 5 tokens: 250 ms


def observation(t0_ns: int) -> Observation:
    return Observation(t0_ns=t0_ns, images={}, history=history(t0_ns=t0_ns), pose_odom=np.zeros(3), command=Command.STRAIGHT)


def plan(t0_ns: int, **changes) -> Plan:
    straight = np.column_stack([4.0 * np.arange(1, 11), np.zeros(10), np.zeros(10)])
    values = dict(t0_ns=t0_ns, waypoints_base=straight, waypoint_interval_s=0.5, pose_odom=np.zeros(3), speed_mps=8.0, reasoning="so")
    return Plan(**values | dict(tokens=5, seed=0, engine_hash="") | changes)


class Planner:
    """Says at once what takes so long; `wild` plans can't be driven."""

    wild = fails = False

    def plan(self, seen, early=None):
        if self.fails:
            raise InputError("a waypoint that is not finite")
        if early is not None:
            early(plan(seen.t0_ns, revision=0))
        made = plan(seen.t0_ns)
        return dataclasses.replace(made, waypoints_base=made.waypoints_base * [1, 0, 0] + [0, 30, 0]) if self.wild else made

    def replan(self, past, pose_odom, command):
        return plan(past.stamps_ns[-1], revision=2)


class Clock:
    """A source whose time is moved by hand, 50 ms at a time; a picture every 100 ms, after the odometry of that instant."""

    def __init__(self, **rate):
        self.simulation, self.followed, self.told, self.refused = SimpleNamespace(stamp_ns=10 * S, command=Command.LEFT), [], [], 0
        self.planner = Planner()
        self.thinker = Thinker(self.planner, self, TAKES, Rate(**rate), lambda p, ms: self.told.append((p.revision, ms)), self._refuse)

    def _refuse(self):
        self.refused += 1

    def follow(self, made):
        ms = (self.simulation.stamp_ns - 10 * S) // MS
        self.followed.append((ms, made.revision, (made.t0_ns - 10 * S) // MS))

    def motion(self):
        return history(t0_ns=self.simulation.stamp_ns), np.zeros(3)

    def drive(self, ms, pictures=None):
        for now in range(0, ms + 1, 50):
            self.simulation.stamp_ns = 10 * S + now * MS
            if now:
                self.thinker.stepped()
            if now % 100 == 0 and (pictures is None or now in pictures):
                self.thinker.see(observation(self.simulation.stamp_ns))
        return self.followed


def test_one_inference_in_flight_and_the_newest_picture_next():
    """250 ms each: the next begins with the picture of 200 ms, at the very instant at which the first is through."""
    clock = Clock()
    assert clock.drive(800) == [(250, 1, 0), (500, 1, 200), (750, 1, 400)]
    assert clock.told == [(1, 250.0), (1, 300.0), (1, 350.0)]


def test_an_early_plan_comes_before_the_text_and_costs_what_it_costs():
    """170 ms to the early plan, followed from the next step on; 120 ms more to the whole one."""
    clock = Clock(plan_early=True)
    assert clock.drive(500) == [(200, 0, 0), (300, 1, 0), (500, 0, 200)]
    assert clock.told[:2] == [(0, 170.0), (1, 290.0)]


def test_between_pictures_the_expert_alone_plans_until_they_are_too_old():
    clock = Clock(replan_s=0.1, max_kv_age_s=0.4)
    assert clock.drive(700, pictures=[0]) == [(250, 1, 0), (300, 2, 250), (400, 2, 350)]
    # a picture has precedence
    clock = Clock(replan_s=0.05)
    assert [row for row in clock.drive(600) if row[1] == 2] == []


def test_what_can_not_be_driven_is_refused_when_it_would_have_been_there():
    clock = Clock(replan_s=0.1)
    clock.planner.fails = True
    assert clock.drive(300, pictures=[0]) == [] and clock.refused == 1
    clock = Clock(plan_early=True)
    clock.planner.wild = True
    assert clock.drive(300, pictures=[0]) == [(200, 0, 0)] and clock.refused == 1


@pytest.mark.parametrize(
    "text, named", [("0.1", "'0.1' is not of the form"), ("a,b,c", "'a,b,c'"), ("0.1,-1,0", "token_s is -1 s"), ("99,0,0", "prefill_s is 99")]
)
def test_bad_latency_is_named(text, named):
    with pytest.raises(ConfigError, match=named):
        Latency.parse(text)
    assert Latency.parse("0.13,0.02,0.02") == TAKES


@pytest.fixture(scope="module")
def cut_in():
    """Drives of one cut-in by the expert, who is said to think 250 ms, by rate."""
    pytest.importorskip("libsumo")
    from spanvla_ros.sim.planners import ExpertPlanner
    from spanvla_ros.sim.scenarios import scenario
    from spanvla_ros.sim.simulation import Simulation
    from spanvla_ros.sim.trial import drive

    class Slow(ExpertPlanner):
        def plan(self, seen, early=None):
            made = dataclasses.replace(super().plan(seen), tokens=20)
            if early is not None:
                early(dataclasses.replace(made, revision=0))
            return made

    slow = Latency(prefill_s=0.2, token_s=0.04, flow_s=0.02)
    built = scenario.build("cut_in", 6000)
    cases = {"free": (None, None), "whole": (slow, Rate()), "again": (slow, Rate()), "early": (slow, Rate(plan_early=True))}
    return {name: drive(Simulation(built, render=False), Slow(), *case)[0] for name, case in cases.items()}


def test_latency_is_charged_and_repeatable(cut_in):
    assert cut_in["whole"]["state_hash"] == cut_in["again"]["state_hash"] != cut_in["free"]["state_hash"]
    assert cut_in["whole"]["plan_latency_ms"]["p50"] >= 1020 and cut_in["whole"]["plans"] < cut_in["free"]["plans"] / 8
    assert cut_in["early"]["plans"] > 1.5 * cut_in["whole"]["plans"]


def test_who_plans_early_brakes_early(cut_in):
    reactions = {name: result["reaction_s"] for name, result in cut_in.items()}
    assert -2 <= reactions["free"] < reactions["early"] < reactions["whole"] <= 5
