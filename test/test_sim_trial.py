"""One judged drive: repeatable, with and without pictures; what is kept of it."""

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("libsumo")

from spanvla_ros.contracts import InputError  # noqa: E402
from spanvla_ros.sim.planners import ConstantVelocity, ExpertPlanner  # noqa: E402
from spanvla_ros.sim.scenarios import scenario  # noqa: E402
from spanvla_ros.sim.simulation import Simulation  # noqa: E402
from spanvla_ros.sim.trial import Trial, drive  # noqa: E402


def test_the_same_seed_drives_the_same_with_and_without_pictures():
    pytest.importorskip("moderngl")
    built = scenario.build("stopped", 6000)
    first, made = drive(Simulation(built, render=False), ConstantVelocity())
    again, _ = drive(Simulation(built, render=False), ConstantVelocity())
    seen, filmed = drive(Simulation(built), ConstantVelocity())
    assert first["state_hash"] == again["state_hash"] == seen["state_hash"]
    timing = ("wall_s", "plan_latency_ms", "plan_times_ms")
    assert {k: v for k, v in first.items() if k not in timing} == {k: v for k, v in seen.items() if k not in timing}
    assert not first["success"] and len(filmed["clip.webp"]) > 1000 and filmed["clip.webp"] != made["clip.webp"]
    for name in ("top.svg", "speed.svg"):
        ElementTree.fromstring(made[name].decode())


def test_a_success_has_scored_plans_and_no_clip():
    result, made = drive(Simulation(scenario.build("lane", 6000), render=False), ExpertPlanner())
    assert result["success"] and "clip.webp" not in made
    # one plan per second, from 2 s on and but for the last 5 s
    assert abs(result["pdm"]["plans"] - (result["duration_s"] - 7)) <= 1.5
    assert {"epdms", "pdms", "nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc"} <= set(result["pdm"])
    assert result["plans"] == len(result["plan_times_ms"]) and result["plan_latency_ms"]["p50"] > 0


def test_texts_are_held_against_plans_and_scenes():
    said = drive(Simulation(scenario.build("cones", 6000), render=False), ExpertPlanner())[0]["reasoning"]
    assert said["agrees"] + said["contradicts"] + said["unknown"] == said["plans"] > 5
    # the expert thinks slowly where it finds the scene complex
    assert said["contradicts"] == 0 < said["slow_in_complex"] and said["slow_in_free"] <= 1 and said["complex"] - said["slow_in_complex"] <= 1
    assert drive(Simulation(scenario.build("cones", 6000), render=False), ConstantVelocity())[0]["reasoning"] is None


def test_plans_that_no_car_can_drive_are_refused():
    class Wild(ConstantVelocity):
        """Every second plan leaps to the side, every third is none."""

        count = 0

        def plan(self, observation):
            self.count += 1
            if self.count % 3 == 0:
                raise InputError("a waypoint that is not finite")
            plan = super().plan(observation)
            leap = np.column_stack([np.zeros(10), 30.0 * np.arange(1, 11), np.zeros(10)])
            return dataclasses.replace(plan, waypoints_base=plan.waypoints_base + leap) if self.count % 3 == 2 else plan

    planner = Wild()
    result, _ = drive(Simulation(scenario.build("stopped", 6001), render=False), planner)
    assert result["plans"] == pytest.approx(planner.count / 3, abs=1) and result["refused"] == planner.count - result["plans"]


def test_a_shorter_time_limit_ends_the_drive():
    trial = Trial(Simulation(scenario.build("lane", 6001), render=False), time_limit_s=1.0)
    try:
        trial.simulation.reset()
        for _ in range(25):
            trial.simulation.advance(None, 0.05)
            trial.stepped()
    finally:
        trial.simulation.close()
    assert trial.judge.ended == "scenario_timeout" and trial.result()["pdm"] is None
