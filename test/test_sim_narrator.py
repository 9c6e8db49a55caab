"""What the expert says: wording, stability, and truth against the roll-out."""

from __future__ import annotations

import math
import string

import numpy as np
import pytest

pytest.importorskip("shapely")
from expert_road import LINE_X, Lamps, at, drive, make_expert, make_road, thing  # noqa: E402

from spanvla_ros.sim.driver.decision import Lateral, Longitudinal  # noqa: E402
from spanvla_ros.sim.driver.narrator import Narrator  # noqa: E402
from spanvla_ros.sim.driver.wording import TOPICS  # noqa: E402

CLASSES = {"Vehicle", "VRU", "Lane", "Traffic Sign", "Ego states", "Road Events"}
BRAKES = {Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Longitudinal.YIELD}


@pytest.mark.parametrize("name", [name for name in TOPICS if name != "free"])
def test_every_topic_has_several_short_wordings(name):
    texts = TOPICS[name].texts
    assert len(set(texts)) >= 3
    for text in texts:
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field}
        assert fields <= {"d", "v", "side", "way"}
        said = text.format(d=80, v="pedestrian", side="right", way="straight")
        assert len(said) <= 160 and said[0].isupper() and said.endswith(".")


def test_only_a_free_road_has_no_words():
    assert TOPICS["free"].texts == ()


def test_episodes_differ_in_wording_and_keep_it():
    sentences = set()
    for seed in range(12):
        expert = make_expert(make_road(), seed=seed)
        first = expert.plan(at(LINE_X - 30, 7.0), (), Lamps("red"), 0)
        again = expert.plan(at(LINE_X - 30, 7.0), (), Lamps("red"), 0)
        assert first.trace == again.trace
        sentences.add(first.trace)
    assert len(sentences) == 3


def test_distances_don_t_flicker():
    narrator = Narrator(0)
    assert narrator._rounded(22.0, fresh=True) == 20
    assert [narrator._rounded(d, fresh=False) for d in (22.6, 22.4, 23.0, 22.0)] == [20] * 4
    assert narrator._rounded(23.8, fresh=False) == 25


def scenes():
    cones = tuple(thing("cone", 60 + 4 * k, -1.35) for k in range(5))
    parked = thing("car", 70, -0.9)
    coming = tuple(thing("car", 105 + 22 * k, 3.5, speed=7.0, yaw=math.pi, name=f"on{k}") for k in range(3))
    walker = thing("pedestrian", 60, -5.0, speed=1.4, yaw=math.pi / 2)
    foe = thing("car", 150, -60, speed=8.0, yaw=math.pi / 2)
    return {
        "red": (dict(), at(90, 7.5), (), "red"),
        "lead": (dict(control="priority"), at(20, 7.5), (thing("van", 60, 0, speed=4.0),), "green"),
        "stopped": (dict(control="priority"), at(20, 7.5), (thing("truck", 80, 0),), "green"),
        "cones": (dict(control="priority"), at(20, 7.0), cones, "green"),
        "parked": (dict(control="priority"), at(20, 7.0), (parked, *coming), "green"),
        "walker": (dict(control="priority"), at(32, 7.5), (walker,), "green"),
        "yield": (dict(control="yield"), at(95, 7.0), (foe,), "green"),
        "truck": (dict(control="priority", lanes=2), at(10, 7.0), (thing("truck", 50, 0, speed=2.5),), "green"),
        "left-hand": (dict(control="priority", side=-1), at(20, 7.0), tuple(thing("cone", c.x, -c.y) for c in cones), "green"),
    }


@pytest.mark.parametrize("name", scenes())
def test_what_is_said_is_what_is_driven_and_lasts(name):
    road, start, actors, lamp = scenes()[name]
    _, decisions = drive(make_expert(make_road(**road)), start, actors, Lamps(lamp), seconds=9)
    changes = sum(a.topic != b.topic for a, b in zip(decisions, decisions[1:]))
    assert changes <= 6
    for decision in decisions:
        speeds, poses = decision.trajectory.speeds_mps, decision.trajectory.poses_odom
        if decision.longitudinal in BRAKES:
            assert speeds.min() < speeds[0] - 0.1 or speeds[0] < 0.5, decision.trace
        if decision.longitudinal is Longitudinal.ACCELERATION_FOR_PASSING:
            assert speeds.max() >= speeds[0] - 0.1
        if decision.lateral in (Lateral.IN_LANE_NUDGE, Lateral.OUT_OF_LANE_NUDGE, Lateral.LANE_CHANGE):
            assert np.ptp(poses[:, 1]) > 0.1 or np.abs(poses[:, 1]).max() > 0.2, decision.trace
        if decision.topic in ("nudge", "pass", "overtake"):
            offsets = poses[:, 1][np.argmax(np.abs(poses[:, 1]))]
            assert ("left" if offsets > 0 else "right") in decision.trace
        assert (decision.trace is None) == (decision.mode == "fast") == (decision.topic == "free")
        for component in decision.components:
            assert component["class"] in CLASSES
            assert set(component) in ({"class", "type", "location", "behavior"}, {"class", "type", "location", "impact"})
            assert all(component.values())


def test_components_name_actors_where_they_are():
    decision = make_expert(make_road(control="priority")).plan(at(20, 7.0), (thing("van", 50, 0.0, speed=3.0),), Lamps(), 0)
    (component,) = decision.components
    assert component["class"] == "Vehicle" and component["type"] == "van"
    assert component["location"] == "23 m ahead"
