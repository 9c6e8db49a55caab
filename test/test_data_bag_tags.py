"""Scenario tags and words of recorded moments by rules."""

import numpy as np
import pytest

pytest.importorskip("shapely", reason="needs the extra [sim]")
import shapely

from spanvla_ros.data import hindsight, tags
from spanvla_ros.evaluation.pdm.scene import Area
from spanvla_ros.planning.consistency import Verdict, compare
from spanvla_ros.sim.chart import Chart
from spanvla_ros.sim.frame import Frame, Object

T0 = 30


def thing(kind, x, y, vx=0.0, yaw=0.0, name="a"):
    return Object(name=name, type=kind, x=x, y=y, yaw=yaw, length_m=4.5, width_m=1.9, vx=vx, vy=0.0)


def drive(objects, lateral=lambda t: 0.0, speed=8.0):
    """90 frames straight ahead at `speed`; objects(t) are there at t seconds after T0."""
    return [
        Frame(stamp_ns=k * 100_000_000, ego=np.array([speed * t, lateral(t), 0.0, speed, *[0.0] * 7]), objects=tuple(objects(t)), red=())
        for k, t in enumerate((np.arange(90) - T0) / 10)
    ]


def names(*arguments, chart=None, **options):
    return [tag.name for tag in tags.find(drive(*arguments, **options), T0, chart)]


def test_without_boxes_and_map_nothing_is_known():
    assert names(lambda t: []) == []


@pytest.mark.parametrize(
    "objects, wanted",
    [
        # from the left lane before us into ours, and the same car that stays in its lane
        (lambda t: [thing("VEHICLE", 15 + 8 * t, np.clip(1.75 - 1.75 * t, 0.0, 3.5), 8.0)], ["cut_in"]),
        (lambda t: [thing("VEHICLE", 15 + 8 * t, 3.5, 8.0)], []),
        # somebody crosses
        (lambda t: [thing("VEHICLE", 30, 5 * t - 5, 0.0, yaw=1.57)], []),
        (lambda t: [thing("VEHICLE", 25 + 6 * t, 0.0, max(0.0, 6 - 2 * t))], ["lead_braking"]),
        (lambda t: [thing("VEHICLE", 25 + 8 * t, 0.0, 8.0)], []),
        (lambda t: [thing("PEDESTRIAN", 20, 2.5)], ["vru"]),
        (lambda t: [thing("PEDESTRIAN", 20, 6.0)], []),
        (lambda t: [thing("BICYCLE", -5, 1.0)], []),
        (lambda t: [thing("TRAFFIC_CONE", 15 + 5 * k, 2.0, name=f"c{k}") for k in range(3)], ["construction_zone"]),
        (lambda t: [thing("TRAFFIC_CONE", 15, 2.0)], []),
        (lambda t: [thing("STOP_SIGN", 20, -4.0)], ["stop_sign"]),
        (lambda t: [thing("PEDESTRIAN", 20, 2.5), thing("STOP_SIGN", 20, -4.0, name="b")], ["stop_sign", "vru"]),
    ],
)
def test_tags_from_boxes(objects, wanted):
    assert names(objects) == wanted


def chart():
    """Two lanes of one road, 3.5 m wide, centred at y = 0 and 3.5."""
    areas = tuple(
        Area(name=name, layer="LANE", polygon=shapely.box(-100, y - 1.74, 200, y + 1.74), baseline=np.array([[-100.0, y], [200.0, y]]))
        for name, y in (("right", 0.0), ("left", 3.5))
    )
    return Chart(map_id="two", areas=areas, edges={"right": "road", "left": "road"}, controlled=frozenset())


def test_tags_from_a_map():
    assert names(lambda t: [], chart=chart()) == []
    assert names(lambda t: [], lateral=lambda t: 0.9, chart=chart()) == ["lane_bias"]
    assert names(lambda t: [], lateral=lambda t: float(np.clip(t, 0, 3.5)), chart=chart()) == ["ego_lane_change"]


def test_a_standing_car_looks_straight_on():
    assert names(lambda t: [thing("PEDESTRIAN", 10, 1.0)], speed=0.0) == ["vru"]


def future(speeds, yaw_rate=0.0):
    yaw = np.cumsum(np.full(10, yaw_rate * 0.5))
    steps = np.asarray(speeds) * 0.5
    return np.column_stack([np.cumsum(steps * np.cos(yaw)), np.cumsum(steps * np.sin(yaw)), yaw])


@pytest.mark.parametrize(
    "speeds, yaw_rate, decision",
    [
        (np.full(10, 8.0), 0.0, ("set-speed tracking", "keep & centre")),
        (np.linspace(8, 4, 10), 0.0, ("speed adaptation", "keep & centre")),
        (np.maximum(np.linspace(8, -2, 10), 0), 0.0, ("stop for static constraints", "keep & centre")),
        (np.linspace(8, 12, 10), 0.0, ("set-speed tracking", "keep & centre")),
        (np.full(10, 5.0), 0.3, ("set-speed tracking", "turn")),
    ],
)
def test_words_say_what_was_driven(speeds, yaw_rate, decision):
    poses = future(speeds, yaw_rate)
    found, mode, text = hindsight.explain(poses, float(speeds[0]), [], seen=False)
    assert (found["longitudinal"], found["lateral"]) == decision and mode == "slow"
    assert compare(text, poses, 0.5, float(speeds[0])).verdict is Verdict.AGREES


def test_a_cause_comes_first_and_a_clear_road_must_have_been_seen():
    tag = tags.Tag(name="lead_braking", cause="the vehicle ahead brakes")
    slowing = np.linspace(8, 4, 10)
    decision, _, text = hindsight.explain(future(slowing), 8.0, [tag], seen=True)
    assert decision["longitudinal"] == "lead following" and text.endswith("The vehicle ahead brakes, slow down.")
    assert compare(text, future(slowing), 0.5, 8.0).verdict is Verdict.AGREES
    assert hindsight.explain(future(np.full(10, 8.0)), 8.0, [], seen=True)[1] == "fast"
