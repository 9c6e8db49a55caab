from __future__ import annotations

import numpy as np
import pytest

from spanvla_ros.contracts import Plan
from spanvla_ros.planning import consistency
from spanvla_ros.planning.consistency import Verdict, compare, plan_intent
from spanvla_ros.planning.intents import Longitudinal, Manoeuvre, text_intent
from spanvla_ros.planning.prompt import FAST_TEXT, reasoning_text


def plan(speeds: tuple[float, float] = (8.0, 8.0), lateral_m: float = 0.0, curvature: float = 0.0) -> tuple[np.ndarray, float, float]:
    """Waypoints, interval and start speed: a speed that changes linearly within 3 s, an offset within the same time, a constant bend."""
    times = 0.5 * np.arange(1, 11)
    speed = np.interp(times, [0, 3], speeds)
    s = np.cumsum(speed) * 0.5
    share = np.clip(times / 3, 0, 1)
    offset = lateral_m * share * share * (3 - 2 * share)
    angle = curvature * s
    safe = curvature or 1.0
    x, y = (np.sin(angle) / safe, (1 - np.cos(angle)) / safe) if curvature else (s, np.zeros(10))
    return np.column_stack([x, y + offset, angle]), 0.5, speeds[0]


STOPS, ACCELERATES, BRAKES = plan((8.0, 0.0)), plan((4.0, 9.0)), plan((9.0, 4.0))
STANDS, CRUISES, STARTS = plan((0.0, 0.0)), plan(), plan((0.0, 6.0))
LEFT_TURN, RIGHT_TURN = plan((5.0, 5.0), curvature=0.08), plan((5.0, 5.0), curvature=-0.08)
# stands for two seconds, then sets off
LATER = (np.column_stack([[0.0, 0.0, 0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.1, 2.9], np.zeros((10, 2))]), 0.5, 0.0)
TO_LEFT, TO_RIGHT = plan(lateral_m=3.2), plan(lateral_m=-3.2)


@pytest.mark.parametrize(
    ("text", "longitudinal"),
    [
        ("Red light in 20 m, slow down and stop.", "stop"),
        ("Stop line with a stop sign in 5 m, brake to a halt.", "stop"),
        ("The bus in front still stands, keep waiting.", "stop"),
        ("A stopped truck blocks our lane in 25 m, brake.", "slow down"),
        ("The van ahead brakes, brake too and keep the gap.", "slow down"),
        ("A car from the left does not stop, brake.", "slow down"),
        ("Yellow and far enough to stop, brake for the line in 30 m.", "slow down"),
        ("A cyclist cuts in from the right, ease off and let it in.", "yield"),
        ("Green light ahead, drive on.", "drive on"),
        (FAST_TEXT, "drive on"),
        ("A car drives 20 m ahead, keep the gap.", "follow"),
        ("Follow the van ahead in 25 m.", "follow"),
        ("The van 10 m ahead is slower, adapt to it.", "follow"),
        ("The light is green, go and turn left.", "drive on"),
        ("A cyclist comes from the right, let him go.", "yield"),
        ("A pedestrian waits at the roadside, be ready to brake.", None),
        ("The lead vehicle is decelerating, so I decelerate as well.", "slow down"),
        ("There is no need to stop; I accelerate to merge.", "accelerate"),
        ("Speed up to pass the slow truck.", "accelerate"),
        ("I yield to the oncoming vehicle.", "yield"),
        ("Maintain speed and stay in the lane.", "drive on"),
        ("Slow down first, then accelerate out of the curve.", None),
        ("", None),
        ("A blue house.", None),
    ],
)
def test_longitudinal_words(text, longitudinal):
    found = text_intent(text).longitudinal
    assert (found and found.value) == longitudinal


@pytest.mark.parametrize(
    ("text", "lateral"),
    [
        ("Green light, turn left at the junction.", "turn left"),
        ("Green, take the right turn slowly.", "turn right"),
        ("The road bends to the left, slow down.", "turn left"),
        ("Merge right onto the main road.", "lane change right"),
        ("A truck closes our lane, change to the left lane.", "lane change left"),
        ("A slow van ahead and the right lane is free, change and pass.", "lane change right"),
        ("Overtake the slow car on the left.", "lane change left"),
        ("Past it, return to our lane on the right.", "lane change right"),
        ("A car on the left, keep a bit right in the lane.", "nudge right"),
        ("An oncoming bus is in our lane, brake and swerve right.", "nudge right"),
        ("A car cuts in from the left, slow down for it.", None),
        ("A car with right of way comes from the left, give way.", None),
        ("Too far left in the lane, steer back to its centre.", None),
        ("Go straight and keep the lane.", "keep the lane"),
        ("Change lanes to the left because the right lane is closed.", "lane change left"),
        ("Turn left here, not right; then turn right.", None),
    ],
)
def test_lateral_words(text, lateral):
    found = text_intent(text).lateral
    assert (found and str(found)) == lateral


@pytest.mark.parametrize(
    ("given", "longitudinal", "lateral"),
    [
        (STOPS, Longitudinal.STOP, "keep the lane"),
        (STANDS, Longitudinal.STOP, "keep the lane"),
        (BRAKES, Longitudinal.SLOW, "keep the lane"),
        (CRUISES, Longitudinal.KEEP, "keep the lane"),
        (ACCELERATES, Longitudinal.ACCELERATE, "keep the lane"),
        (LEFT_TURN, Longitudinal.KEEP, "turn left"),
        (TO_RIGHT, Longitudinal.KEEP, "lane change right"),
        (plan((8.0, 8.79)), Longitudinal.KEEP, "keep the lane"),
        (plan((8.0, 7.1), lateral_m=1.9), Longitudinal.SLOW, "keep the lane"),
        (plan(lateral_m=4.2), Longitudinal.KEEP, "turn left"),
    ],
)
def test_waypoints(given, longitudinal, lateral):
    found = plan_intent(*given)
    assert found.longitudinal is longitudinal and str(found.lateral) == lateral


def test_a_plan_that_does_both_is_not_sure():
    speeds = np.concatenate([np.linspace(8, 3, 5), np.linspace(3, 8, 5)])
    waypoints = np.column_stack([np.cumsum(speeds) * 0.5, 3 * np.sin(np.linspace(0.6, 6.0, 10)), np.zeros(10)])
    found = plan_intent(waypoints, 0.5, 8.0)
    assert found.longitudinal is None and found.lateral is None
    # far ahead only: words are about now
    later = np.column_stack([np.arange(1, 11) * 4.0, np.where(np.arange(10) > 6, 3.0, 0.0), np.zeros(10)])
    assert plan_intent(later, 0.5, 8.0).lateral is None


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("Red light ahead, stop at the line in 10 m.", ACCELERATES),
        ("The light is red, wait at the line.", STARTS),
        ("Somebody walks onto the road in 15 m, yield.", ACCELERATES),
        ("The van ahead brakes, brake too and keep the gap.", ACCELERATES),
        ("Speed up and merge before the truck.", STOPS),
        ("I accelerate to the limit.", BRAKES),
        ("Green light, turn left at the junction.", RIGHT_TURN),
        ("The car must turn right at the crossing.", LEFT_TURN),
        ("Change to the left lane to get past the barrier.", TO_RIGHT),
        ("The van on the left is close, nudge right.", TO_LEFT),
        # one axis that agrees doesn't outweigh the other
        ("Slow down and turn left.", plan((9.0, 5.0), curvature=-0.08)),
    ],
)
def test_clear_contradictions(text, given):
    assert compare(reasoning_text(text), *given).verdict is Verdict.CONTRADICTS


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("Red light ahead, stop at the line in 25 m.", STOPS),
        ("Red light ahead, stop at the line in 60 m.", BRAKES),
        ("The light is red, wait at the line.", STANDS),
        ("Green light, turn left at the junction.", LEFT_TURN),
        ("Change to the left lane to get past the barrier.", TO_LEFT),
        ("The van on the left is close, nudge right.", CRUISES),
        ("Green light ahead, drive on.", STARTS),
        ("A van stands right ahead, stay stopped.", LATER),
        ("Oncoming car, yield before turning left.", LATER),
        ("Follow the van ahead in 25 m.", BRAKES),
        ("A car drives 20 m ahead, keep the gap.", CRUISES),
    ],
)
def test_agreement(text, given):
    assert compare(reasoning_text(text), *given).verdict is Verdict.AGREES


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("A blue house.", STOPS),
        ("Red light ahead, stop at the line in 80 m.", ACCELERATES),  # room enough to stop after the plan
        ("Change to the left lane to get past the barrier.", RIGHT_TURN),  # the road bends
        ("The road bends to the left, slow down.", plan((3.0, 6.0))),  # as fast as the bend allows
        ("Turn left at the junction.", CRUISES),  # not yet
        ("Stop.", CRUISES),  # nothing that proves it
        ("Follow the van ahead in 25 m.", ACCELERATES),  # which may pull away
    ],
)
def test_what_can_not_be_known(text, given):
    assert compare(reasoning_text(text), *given).verdict is Verdict.UNKNOWN


def test_a_plan_is_checked_as_it_stands():
    waypoints, interval, speed = ACCELERATES
    made = Plan(
        t0_ns=0, waypoints_base=waypoints, waypoint_interval_s=interval, pose_odom=np.zeros(3), speed_mps=speed,
        reasoning=reasoning_text("Red light, stop."), tokens=1, seed=0, engine_hash="",
    )  # fmt: skip
    found = consistency.check(made)
    assert str(found) == "contradicts: the text says stop, the plan does accelerate, keep the lane"
    assert found.plan.lateral.manoeuvre is Manoeuvre.KEEP


def test_every_sentence_of_the_expert_is_understood():
    """The direction a sentence names is that of its topic, in all wordings."""
    from spanvla_ros.sim.driver.wording import TOPICS

    brakes = {"stop", "yield", "slow down"}
    for name, topic in TOPICS.items():
        for way, other in (("left", "right"), ("right", "left")):
            for text in topic.texts:
                found = text_intent(text.format(d=20, v="car", side=other, way=way))
                if topic.longitudinal.value in ("yield", "stop for static constraints") and found.longitudinal is not None:
                    assert found.longitudinal.value in brakes, text
                if found.lateral is not None and found.lateral.side:
                    side = {"left": 1, "right": -1}[name.partition("green_")[2] or (other if name in ("curve", "turn") else way)]
                    assert found.lateral.side == side, text


def test_the_expert_does_what_it_says():
    pytest.importorskip("libsumo")
    from spanvla_ros.sim.scenarios import scenario
    from spanvla_ros.sim.simulation import Simulation

    verdicts = []
    for family, seed in (("red", 5003), ("cones", 5001)):
        simulation = Simulation(scenario.build(family, seed), render=False)
        simulation.reset()
        try:
            for _ in range(32):
                decision, speed = simulation.expert.plan(), simulation.ego.speed_mps
                verdicts.append(compare(reasoning_text(decision.trace), decision.waypoints_base, 0.5, speed).verdict)
                simulation.advance(decision.trajectory, 0.25)
        finally:
            simulation.close()
    # one false alarm in a hundred plans is what the rule costs
    assert verdicts.count(Verdict.CONTRADICTS) <= 1 and verdicts.count(Verdict.AGREES) > len(verdicts) / 4


@pytest.mark.parametrize(
    ("text", "made", "line"),
    [
        ("Red light, stop at the line.", plan(), "the text says stop, the plan drives on at 8.0 m/s"),
        ("Red light in 90 m, slow down and stop.", plan(), ""),  # there is room to stop later
        ("Red light, stop at the line.", STOPS, ""),
        ("Red light, stop at the line.", ACCELERATES, "the text says stop, the plan does accelerate"),
        ("The bus in front still stands, keep waiting.", STANDS, ""),
        (FAST_TEXT, plan(), ""),
        ("", ACCELERATES, ""),
    ],
)
def test_an_alarm_says_where_text_and_plan_can_not_both_be_right(text, made, line):
    waypoints, interval_s, speed = made
    moving = dict(waypoints_base=waypoints, waypoint_interval_s=interval_s, pose_odom=np.zeros(3), speed_mps=speed)
    found = Plan(t0_ns=1, reasoning=text, tokens=1, seed=1, engine_hash="", **moving)
    assert consistency.alarm(found).startswith(line) and bool(consistency.alarm(found)) == bool(line)
