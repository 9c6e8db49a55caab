"""The expert on a hand-made road: what it decides, what it says, and that both agree with what it drives."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

pytest.importorskip("shapely")
from expert_road import CROSS_X, CRUISE, LINE_X, Lamps, at, drive, make_expert, make_road, thing  # noqa: E402

from spanvla_ros.contracts import VEHICLE, ConfigError  # noqa: E402
from spanvla_ros.sim.driver.decision import Lateral, Longitudinal  # noqa: E402
from spanvla_ros.sim.driver.style import Style  # noqa: E402


def test_a_free_road_is_driven_at_cruise_speed_in_fast_mode():
    states, decisions = drive(make_expert(make_road(control="priority")), at(10, 5.0), (), seconds=8)
    assert states[-1].speed_mps == pytest.approx(CRUISE, abs=0.1)
    assert max(abs(s.y) for s in states) < 0.1
    last = decisions[-1]
    assert (last.topic, last.mode, last.trace) == ("free", "fast", None)
    assert last.waypoints_base.shape == (10, 3)
    assert last.trajectory.poses_odom.shape == (51, 3)
    assert last.waypoints_base[-1, 0] == pytest.approx(5 * CRUISE, rel=0.03)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("lateral", "heading", "steer"), [(0.0, math.pi, 0.0), (-14.0, 0.0, 0.0), (13.1, 0.85, -0.6)])
def test_a_car_that_is_lost_is_not_followed_for_ever(lateral, heading, steer):
    # another planner may drive there, and is judged by what the expert would do: circles, on grass, get no further along the road
    corridor = make_expert(make_road())._corridor
    sweep = corridor.drift(100.0, lateral, heading, 0.8, steer, corridor.line(100.0, 50.0, (), 0.0, 0.0), 50.0)
    assert len(sweep.rear_s) <= 250 and np.isfinite(sweep.front_m).all()


def test_the_plan_depends_on_the_state_and_not_on_the_past():
    road = make_road()
    van = thing("van", 60, 0.0, speed=4.0)
    used = make_expert(road)
    drive(used, at(10, 7.0), (van,), seconds=3)
    fresh = make_expert(road)
    state = at(30, 6.0, y=0.3, yaw=0.02)
    first, second = (expert.plan(state, (van,), Lamps("red"), 0) for expert in (used, fresh))
    np.testing.assert_allclose(first.trajectory.poses_odom, second.trajectory.poses_odom)


def test_a_red_light_is_stopped_at_and_left_when_it_turns_green():
    lamps = Lamps("red")
    expert = make_expert(make_road())
    states, decisions = drive(expert, at(80, 7.5), (), lamps, seconds=14)
    gap = LINE_X - states[-1].x - VEHICLE.front_m
    assert 0.3 < gap < 3.0 and states[-1].speed_mps < 0.05
    assert decisions[-1].topic == "red_wait"
    assert decisions[-1].longitudinal is Longitudinal.STOP_FOR_STATIC_CONSTRAINTS
    assert decisions[-1].components[0]["type"] == "traffic light" and decisions[-1].components[0]["behavior"] == "red"
    assert min(s.acceleration_mps2 for s in states) > -3.0
    lamps.colour = "green"
    states, _ = drive(expert, states[-1], (), lamps, seconds=6)
    assert states[-1].x > LINE_X


@pytest.mark.parametrize(("distance", "stops"), [(9.0, False), (30.0, True)])
def test_yellow_is_stopped_for_where_that_is_comfortable(distance, stops):
    state = at(LINE_X - VEHICLE.front_m - distance, 7.8)
    decision = make_expert(make_road()).plan(state, (), Lamps("yellow"), 0)
    assert (decision.trajectory.poses_odom[-1, 0] + VEHICLE.front_m < LINE_X) == stops


@pytest.mark.parametrize(("speed", "seconds"), [(0.0, 13), (4.0, 20)])
def test_leads_are_followed_at_a_distance(speed, seconds):
    lead = thing("car", 70, 0.0, speed=speed)
    states, decisions = drive(make_expert(make_road(control="priority")), at(20, 7.5), (lead,), seconds=seconds)
    gap = lead.x + speed * seconds - lead.length_m / 2 - states[-1].x - VEHICLE.front_m
    assert states[-1].speed_mps == pytest.approx(speed, abs=0.4)
    assert 3.0 < gap < 12.0
    expected = Longitudinal.LEAD_FOLLOWING if speed else Longitudinal.STOP_FOR_STATIC_CONSTRAINTS
    assert decisions[-1].longitudinal is expected
    assert min(s.acceleration_mps2 for s in states) > -4.05


def test_a_lead_that_brakes_hard_is_not_hit():
    def scene(t):
        pace = max(7.5 - 6.0 * max(t - 1.0, 0.0), 0.0)
        travelled = 7.5 * min(t, 1.0) + (7.5**2 - pace**2) / 12.0
        return (thing("car", 42 + travelled, 0.0, speed=pace, braking=t > 1.0 and pace > 0, name="lead"),)

    states, _ = drive(make_expert(make_road(control="priority")), at(20, 7.5), scene, seconds=8)
    assert states[-1].speed_mps < 0.1


@pytest.mark.parametrize("side", [1, -1])
def test_cones_at_the_kerb_are_passed_with_a_nudge_to_the_middle(side):
    cones = tuple(thing("cone", 60 + 4 * k, side * -1.35) for k in range(5))
    states, decisions = drive(make_expert(make_road(control="priority", side=side)), at(20, 7.0), cones, seconds=9)
    nearest = max(side * s.y for s in states)
    assert 0.15 < nearest < 0.75
    said = [d for d in decisions if d.lateral is Lateral.IN_LANE_NUDGE]
    assert len(said) > 10
    way = "left" if side > 0 else "right"
    assert any(way in (d.trace or "") for d in said)
    assert states[-1].x > 75


def test_a_parked_car_is_passed_over_the_free_oncoming_lane():
    car = thing("car", 70, -0.9)
    states, decisions = drive(make_expert(make_road(control="priority")), at(20, 7.0), (car,), seconds=14)
    assert states[-1].x > 85 and abs(states[-1].y) < 0.3
    assert max(s.y for s in states) > 1.0
    assert Lateral.OUT_OF_LANE_NUDGE in {d.lateral for d in decisions}


def test_a_parked_car_is_waited_behind_while_somebody_comes():
    car = thing("car", 70, -0.9)
    oncoming = tuple(thing("car", 105 + 22 * k, 3.5, speed=7.0, yaw=math.pi, name=f"on{k}") for k in range(3))
    states, decisions = drive(make_expert(make_road(control="priority")), at(20, 7.0), (car, *oncoming), seconds=24)
    assert min(s.speed_mps for s in states) < 3.0
    assert any(d.topic.startswith("wait_to_pass") and d.longitudinal is Longitudinal.YIELD for d in decisions)
    assert states[-1].x > 85


def test_a_closed_road_is_stopped_before():
    wall = tuple(thing("barrier", 70, y, yaw=math.pi / 2) for y in (-0.8, 1.6, 4.0))
    states, decisions = drive(make_expert(make_road(control="priority")), at(20, 7.0), wall, seconds=16)
    assert states[-1].speed_mps < 0.05
    assert 3.0 < 70 - 0.225 - states[-1].x - VEHICLE.front_m < 9.0
    assert decisions[-1].topic == "blocked_wait"


def test_a_slow_truck_is_overtaken_on_the_inner_lane_and_left_behind():
    road = make_road(control="priority", lanes=2)
    truck = thing("truck", 50, 0.0, speed=2.5)
    states, decisions = drive(make_expert(road), at(10, 7.0), (truck,), seconds=22)
    assert states[-1].x > 50 + 2.5 * 22 + 8
    assert 2.8 < max(s.y for s in states) < 4.0
    assert {Longitudinal.ACCELERATION_FOR_PASSING} <= {d.longitudinal for d in decisions}
    assert Lateral.LANE_CHANGE in {d.lateral for d in decisions}


def test_somebody_cutting_in_is_let_in():
    def scene(t):
        share = min(max((t - 1.0) / 2.5, 0.0), 1.0)
        y = 3.5 * (1 - share * share * (3 - 2 * share))
        yaw = -math.atan2(3.5 / 2.5 * 6 * share * (1 - share), 6.0)
        return (thing("car", 26 + 6.0 * t, y, speed=6.0, yaw=yaw, indicator="right" if 0 < share < 1 else "", name="van"),)

    states, decisions = drive(make_expert(make_road(control="priority", lanes=2)), at(10, 7.6), scene, seconds=8)
    assert any(d.topic == "cut_in" for d in decisions)
    assert min(s.acceleration_mps2 for s in states) > -4.05


def test_somebody_with_right_of_way_goes_first_at_a_yield_line():
    foe = thing("car", CROSS_X, -60, speed=8.0, yaw=math.pi / 2)
    states, decisions = drive(make_expert(make_road(control="yield")), at(95, 7.0), (foe,), seconds=14)
    assert any(d.topic.startswith("give_way") for d in decisions)
    assert states[-1].x > CROSS_X
    pushy = make_expert(make_road(control="yield"), Style(ignores_priority=True)).plan(at(110, 7.0), (foe,), Lamps(), 0)
    assert pushy.trajectory.speeds_mps.min() > 6.0


def test_a_stop_sign_means_a_full_stop():
    states, _ = drive(make_expert(make_road(control="stop")), at(95, 7.0), (), seconds=16)
    slowest = min(states, key=lambda s: s.speed_mps)
    assert slowest.speed_mps < 0.3 and 0.0 < LINE_X - slowest.x - VEHICLE.front_m < 3.5
    assert states[-1].x > CROSS_X


def test_who_has_to_yield_to_us_is_trusted_until_he_can_no_longer_stop():
    road = make_road(control="signal")
    calm = thing("car", CROSS_X, -45, speed=8.0, yaw=math.pi / 2)
    wild = thing("car", CROSS_X, -20, speed=9.0, yaw=math.pi / 2)

    class Split(Lamps):
        def state(self, signal) -> str:
            return "green" if signal[1] == 0 else "red"

    near = at(CROSS_X - 24, 7.8)
    assert make_expert(road).plan(near, (calm,), Split(), 0).topic in ("free", "green")
    decision = make_expert(road).plan(near, (wild,), Split(), 0)
    assert decision.topic == "runner" and decision.longitudinal is Longitudinal.YIELD
    assert decision.trajectory.speeds_mps[15] < 5.0


@pytest.mark.parametrize(("x", "start"), [(60.0, -5.0), (75.0, 9.0)])
def test_people_who_walk_into_the_way_are_let_pass(x, start):
    walker = thing("pedestrian", x, start, speed=1.4, yaw=math.copysign(math.pi / 2, -start), name="walker")
    states, decisions = drive(make_expert(make_road(control="priority")), at(32, 7.5), (walker,), seconds=16)
    assert any(d.topic.startswith("pedestrian") for d in decisions)
    assert states[-1].x > x + 5


def test_a_bad_start_is_steered_out_of():
    states, decisions = drive(make_expert(make_road(control="priority")), at(20, 8.5, y=1.2, yaw=0.2), (), seconds=8)
    assert decisions[0].topic == "recover"
    assert abs(states[-1].y) < 0.15 and abs(states[-1].yaw) < 0.03
    assert max(abs(s.y) for s in states) < 2.3


@pytest.mark.parametrize(
    ("style", "worse"),
    [
        (Style(ignores_lamp=True), lambda d: d.trajectory.speeds_mps[-1] > 6.0),
        (Style(late_braking_mps2=4.5), lambda d: d.trajectory.speeds_mps[30] > 7.0),
        (Style(hesitates=0.4), lambda d: d.fields["target_speed_mps"] < 6.5),
        (Style(lateral_bias_m=0.5), lambda d: d.trajectory.poses_odom[-1, 1] > 0.3),
    ],
)
def test_styles_change_the_driving(style, worse):
    state, road = at(LINE_X - 40, 7.8), make_road()
    assert worse(make_expert(road, style).plan(state, (), Lamps("red"), 0))
    assert not worse(make_expert(road).plan(state, (), Lamps("red"), 0))


def test_a_nonsense_style_is_refused():
    with pytest.raises(ConfigError, match="headway_s"):
        Style(headway_s=0.0)
    with pytest.raises(ConfigError, match="hesitates"):
        Style(hesitates=1.5)


def test_planning_is_quick():
    expert = make_expert(make_road())
    crowd = tuple(thing("car", 40 + 15 * k, 3.5, speed=7.0, yaw=math.pi) for k in range(12)) + (thing("car", 70, 0, speed=5.0),)
    state = at(30, 7.0)
    expert.plan(state, crowd, Lamps(), 0)
    spent = time.process_time()
    for k in range(40):
        expert.plan(state, crowd, Lamps(), k)
    # 2 ms on an idle core; generous for busy ones
    assert (time.process_time() - spent) / 40 < 0.02
