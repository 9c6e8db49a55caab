import math

import numpy as np
import pytest

from spanvla_ros.contracts import InputError, SpanVLAError, Trajectory
from spanvla_ros.planning.inputs import Grid

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from spanvla_ros.sim.pictures.camera import FRONT
from spanvla_ros.sim.scenarios import scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource


@pytest.fixture
def make():
    made = []

    def build(family: str, seed: int, **options) -> Simulation:
        made.append(Simulation(scenario.build(family, seed), **{"render": False, **options}))
        made[-1].reset()
        return made[-1]

    yield build
    for simulation in made:
        simulation.close()


@pytest.fixture
def pictures():
    from spanvla_ros.sim.pictures.renderer import Renderer

    try:
        return Renderer.shared()
    except SpanVLAError as error:
        pytest.skip(str(error))


def run(simulation: Simulation, seconds: float, look: bool = False) -> list:
    decisions = []
    for k in range(round(seconds / 0.1)):
        decisions.append(simulation.expert.plan())
        if look and k % 5 == 0:
            simulation.jpeg()
        simulation.advance(decisions[-1].trajectory, 0.1)
    return decisions


def glide(simulation: Simulation, speed: float, seconds: float) -> None:
    """Along the path at one speed, whatever is there."""
    for _ in range(round(seconds / 0.1)):
        times = np.arange(51) * 0.1
        poses = simulation.route.path.pose(simulation.route_s + speed * times)
        still = np.zeros(51)
        simulation.advance(
            Trajectory(stamp_ns=simulation.stamp_ns, times_s=times, poses_odom=poses, speeds_mps=still + speed, accelerations_mps2=still, yaw_rates_rps=still)
        )


def test_same_seed_same_states_with_and_without_pictures(make, pictures):
    blind = make("left_turn", 6000)
    run(blind, 6.0)
    digest = blind.state_hash
    seeing = make("left_turn", 6000, render=True)
    run(seeing, 6.0, look=True)
    assert seeing.state_hash == digest
    other = make("left_turn", 6001)
    run(other, 6.0)
    assert other.state_hash != digest


def test_kick_moves_the_ego_and_the_expert_leads_it_back(make):
    simulation = make("lane", 6002)
    run(simulation, 4.0)
    before = simulation.expert.plan().fields["lateral_offset_m"]
    simulation.kick(1.2, 0.15, -1.0)
    decision = simulation.expert.plan()
    assert decision.fields["lateral_offset_m"] == pytest.approx(before + 1.2, abs=0.05)
    assert decision.waypoints_base.shape == (10, 3)
    run(simulation, 6.0)
    assert abs(simulation.expert.plan().fields["lateral_offset_m"]) < 0.4


def test_a_bad_start_is_where_the_scenario_says(make):
    simulation = make("recovery", 6001)
    built = simulation.scenario
    _, lateral, heading = built.route.path.project(simulation.ego.pose, built.route.start_s)
    assert lateral == pytest.approx(built.start_lateral_m, abs=0.05) and heading == pytest.approx(built.start_yaw_rad, abs=0.03)
    assert simulation.ego.speed_mps == built.start_speed_mps and abs(built.start_lateral_m) > 0.1


def test_blocker_stands_while_we_wait_then_drives_off(make):
    simulation = make("stopped", 6002)
    speeds = []
    while not simulation.finished and simulation.time_s < 60:
        run(simulation, 0.5)
        speeds += [actor.speed_mps for actor in simulation.actors if actor.name == "route0_0"]
    assert speeds[0] == 0.0 and max(speeds) > 2.0 and simulation.finished


def test_light_turns_red_in_time_and_green_again(make):
    simulation = make("red", 6000)
    built = simulation.scenario
    signal = built.route.path.next_stop(built.route.start_s).signal
    shown = []
    for _ in range(500):
        simulation.advance(simulation.expert.plan().trajectory, 0.1)
        shown.append(simulation.signals.state(signal))
    assert "red" in shown and shown[-1] == "green"
    first = shown.index("red")
    assert shown.index("green", first) - first >= 10 * (built.lights.green_after_s - 4.0)


def test_standstill_ends_a_blocked_road_and_driving_through_does_not(make):
    simulation = make("blocked", 6000)
    glide(simulation, 8.0, 8.0)
    run(simulation, 2.0)
    assert not simulation.finished
    again = make("blocked", 6000)
    while not again.finished and again.time_s < 40:
        run(again, 0.5)
    assert again.finished and again.truth().held_s >= 3.0 and again.truth().goal == "standstill"


def test_traffic_brakes_for_the_ego_and_for_the_cast(make):
    """Somebody behind a standing ego must not drive into it."""
    simulation = make("stopped", 6000)
    for _ in range(400):
        simulation.advance(None, 0.1)
        own = simulation.truth()
        assert not any(np.hypot(*(t.corners.mean(axis=0) - own.footprint.mean(axis=0))) < 3.0 for t in own.things.values())


def test_truth_names_kinds_lines_and_lamps(make):
    simulation = make("cones", 6000)
    glide(simulation, 7.0, 8.0)
    truth = simulation.truth()
    assert {"static"} <= {thing.kind for thing in truth.things.values()}
    red = make("red", 6001)
    truth = red.truth()
    assert truth.line and truth.control == "signal" and truth.lamp in ("red", "green", "yellow") and truth.front_to_line_m > 0
    assert not truth.off_lane and not truth.off_road


def test_source_gives_observations_in_step_and_rides_out_dead_cameras(make):
    """While the camera drops frames there is nothing to plan on; afterwards the observations go on at their stamps."""
    built = next(s for s in (scenario.build("sensor_fault", seed) for seed in range(6000, 6060)) if s.faults[0].kind == "drop")
    simulation = Simulation(built, render=False)
    try:
        grid = Grid(cameras=("front",), frame_offsets_s=(-0.5, 0.0), history_offsets_s=(-1.5, -1.0, -0.5, 0.0))
        source = SimulationSource(simulation, grid, pictures=False)
        observation, stamps = source.reset(), []
        assert observation.images["front"][0].rgb.shape == (FRONT.height, FRONT.width, 3)
        while observation is not None and observation.t0_ns < (built.faults[0].until_s + 2.0) * 1e9:
            stamps.append(observation.t0_ns / 1e9)
            observation = source.step(None)
    finally:
        simulation.close()
    fault = built.faults[0]
    assert not [t for t in stamps if fault.at_s <= t < fault.until_s]
    assert [t for t in stamps if t < fault.at_s] and [t for t in stamps if t > fault.until_s + 0.6]


def test_black_pictures_and_wrong_cameras(make):
    dark = make("lane", 6000, black=True)
    import cv2

    assert cv2.imdecode(np.frombuffer(dark.jpeg("front_left"), np.uint8), 1).max() == 0
    with pytest.raises(InputError, match="no camera 'rear', only front, front_left, front_right"):
        dark.jpeg("rear")
    with pytest.raises(InputError, match="render=False"):
        make("lane", 6000).jpeg()


def test_speed_and_yaw_rate_of_the_ego_agree_with_its_way(make):
    simulation = make("curve", 6001)
    run(simulation, 3.0)
    before = simulation.ego
    simulation.advance(simulation.expert.plan().trajectory, 0.05)
    after = simulation.ego
    moved = math.hypot(after.x - before.x, after.y - before.y)
    assert moved == pytest.approx(0.05 * (before.speed_mps + after.speed_mps) / 2, rel=1e-3)
