import math

import numpy as np
import pytest

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads import road
from spanvla_ros.sim.scenarios.cast import Cast, Phase, Role, Track

LINE = np.array([(0.0, 0.0), (300.0, 0.0)])


@pytest.fixture(scope="module")
def path():
    world = road.load("town-6000")
    return world.path(world.walks(world.rows[world.entries[0]][0], 200.0, 1)[0])


def phase(**values):
    nothing = dict.fromkeys(("ego_gap_m", "ego_eta_s", "after_s", "speed_mps", "lateral_m"))
    return Phase(**{**nothing, "acceleration_mps2": 3.0, "over_s": 2.0, **values})


def role(**values):
    return Role(**{"name": "a", "kind": "car", "track": Track.of(LINE), "s": 50.0, "lateral_m": 0.0, "speed_mps": 0.0, "meet_s": 50.0, **values})


def far(speed=7.0):
    return EgoState(x=-500.0, y=300.0, yaw=0.0, speed_mps=speed)


def test_phases_begin_after_their_time_and_reach_their_speed(path):
    cast = Cast([role(phases=(phase(after_s=2.0, speed_mps=6.0), phase(after_s=4.0, speed_mps=0.0, acceleration_mps2=6.0)))])
    speeds = []
    for _ in range(200):
        cast.step(0.05, far(), path, 30.0, ())
        speeds.append(cast.actors[0].speed_mps)
    assert speeds[38] == 0.0 and speeds[39 + 41] == pytest.approx(6.0) and speeds[-1] == 0.0
    assert cast.actors[0].braking
    assert max(np.diff(speeds)) == pytest.approx(3.0 * 0.05) and min(np.diff(speeds)) == pytest.approx(-6.0 * 0.05)


def test_arrival_of_the_ego_starts_a_walker(path):
    """He steps off when the ego, as fast as it is, is three seconds away."""
    cast = Cast([role(kind="pedestrian", meet_s=80.0, phases=(phase(ego_eta_s=3.0, speed_mps=1.5),))])
    for route_s in np.arange(40.0, 70.0, 0.5):
        cast.step(0.05, far(speed=8.0), path, route_s, ())
        away_s = (80.0 - route_s - VEHICLE.front_m) / 8.0
        assert (cast.actors[0].speed_mps > 0) == (away_s <= 3.0)
    assert cast.actors[0].gait_m > 0


def test_a_slide_goes_smoothly_to_the_other_lane_and_shows_it(path):
    cast = Cast([role(speed_mps=8.0, lateral_m=3.5, phases=(phase(after_s=0.0, lateral_m=0.0, over_s=3.0),))])
    ys, indicators = [], set()
    for _ in range(80):
        cast.step(0.05, far(), path, 30.0, ())
        ys.append(cast.actors[0].y)
        indicators.add(cast.actors[0].indicator)
    assert ys[0] == pytest.approx(3.5, abs=0.05) and ys[-1] == pytest.approx(0.0) and (np.diff(ys) <= 1e-9).all()
    assert max(abs(np.diff(ys))) / 0.05 < 2.0 and indicators == {"", "right"}


@pytest.mark.parametrize("careful", [True, False])
def test_only_the_careful_brake_for_what_is_ahead(path, careful):
    wall = role(name="wall", kind="barrier", s=120.0)
    cast = Cast([role(s=60.0, speed_mps=9.0, careful=careful), wall])
    for _ in range(300):
        cast.step(0.05, far(), path, 30.0, ())
    car = next(actor for actor in cast.actors if actor.name == "a")
    assert (car.x < 120.0 - 2.5) == careful and (car.speed_mps < 0.1) == careful


def test_the_ego_counts_as_something_ahead(path):
    ego = EgoState(x=110.0, y=0.0, yaw=0.0, speed_mps=0.0)
    cast = Cast([role(s=60.0, speed_mps=9.0)])
    for _ in range(300):
        cast.step(0.05, ego, path, 30.0, ())
    assert cast.actors[0].x + 2.25 < ego.x - VEHICLE.rear_m and cast.actors[0].speed_mps < 0.3


def test_track_goes_straight_on_beyond_its_ends():
    track = Track.of(np.array([(0.0, 0.0), (10.0, 10.0)]))
    x, y, yaw = track.pose(track.length_m + 5.0, 1.0)
    assert yaw == pytest.approx(math.pi / 4)
    along, left = track.project(x, y)
    assert along == pytest.approx(track.length_m + 5.0) and left == pytest.approx(1.0)
