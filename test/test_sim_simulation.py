import cv2
import numpy as np
import pytest

from spanvla_ros.contracts import InputError, SpanVLAError
from spanvla_ros.planning.inputs import Grid
from spanvla_ros.sim import cells as bits
from spanvla_ros.sim import drive, scenario
from spanvla_ros.sim.camera import FRONT
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource

pytest.importorskip("libsumo")


@pytest.fixture
def make():
    made = []

    def build(family: str, seed: int, **options) -> Simulation:
        made.append(Simulation(scenario.build(family, seed), **options))
        made[-1].reset()
        return made[-1]

    yield build
    for simulation in made:
        simulation.close()


@pytest.fixture
def pictures():
    from spanvla_ros.sim.renderer import Renderer

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


def picture(simulation: Simulation) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(simulation.jpeg(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


@pytest.mark.parametrize("family", scenario.FAMILIES)
def test_expert_drives_without_infraction(family):
    result = drive.drive(scenario.build(family, 6001), drive.ExpertPlanner(), render=False)
    assert result["route_completion"] == pytest.approx(1.0, abs=0.01)
    assert result["infractions"] == [] and result["driving_score_lb21"] == pytest.approx(100, abs=1)


def test_same_seed_same_states_with_and_without_pictures(make, pictures):
    blind = make("lane", 6000, render=False)
    run(blind, 6.0)
    seeing = make("lane", 6000)
    run(seeing, 6.0, look=True)
    assert blind.state_hash == seeing.state_hash
    other = make("lane", 6001, render=False)
    run(other, 6.0)
    assert other.state_hash != blind.state_hash


def test_kick_moves_the_ego_and_the_expert_leads_it_back(make):
    simulation = make("lane", 6002, render=False)
    run(simulation, 4.0)
    before = simulation.expert.plan().fields["lateral_offset_m"]
    simulation.kick(1.5, 0.2, -1.0)
    decision = simulation.expert.plan()
    assert decision.fields["lateral_offset_m"] == pytest.approx(before + 1.5, abs=0.05)
    assert decision.waypoints_base.shape == (10, 3)
    run(simulation, 6.0)
    assert abs(simulation.expert.plan().fields["lateral_offset_m"]) < 0.3


def test_reasons_don_t_flicker(make):
    simulation = make("red", 6002, render=False)
    topics = [decision.topic for decision in run(simulation, 25.0)]
    changes = sum(a != b for a, b in zip(topics, topics[1:]))
    assert {"red", "red_wait", "green"} <= set(topics)
    assert changes <= 12


def test_fast_mode_has_no_trace(make):
    for decision in run(make("lane", 6003, render=False), 15.0):
        assert (decision.trace is None) == (decision.mode == "fast") == (decision.topic == "free")
        assert decision.trace is None or len(decision.trace.split()) <= 14


def test_blocker_stands_then_drives_off(make):
    simulation = make("stopped", 6002, render=False)
    speeds = []
    while not simulation.finished and simulation.time_s < 60:
        run(simulation, 0.5)
        speeds += [actor.speed_mps for actor in simulation.actors if actor.name == "blocker"]
    assert speeds[0] == 0.0 and max(speeds) > 2.0 and simulation.finished


def test_lamp_and_lane_are_in_the_picture(make, pictures):
    simulation = make("red", 6001)
    while simulation.expert.plan().fields["stop_distance_m"] > 12:
        run(simulation, 0.5)
    rgb, cells = picture(simulation), simulation.cells()
    assert rgb.shape == (252, 448, 3) and cells.shape == (18, 32) and cells.dtype == np.uint8
    assert simulation.lamp == "red"
    red = np.argwhere((rgb[..., 0] > 190) & (rgb[..., 1] < 90) & (rgb[..., 2] < 90))
    assert len(red) > 20
    marked = np.argwhere(cells & bits.STOP_LAMP) * bits.CELL_PX + bits.CELL_PX / 2
    assert np.abs(marked[:, None] - red[None]).max(-1).min() < bits.CELL_PX
    # the road right ahead is grey, the corridor lies on it
    assert cells[-1, 15] & bits.ROAD and cells[-1, 15] & bits.CORRIDOR and not cells[0].any()
    ahead = rgb[200:215, 215:235].reshape(-1, 3).mean(0)
    assert np.ptp(ahead) < 25


def test_vehicle_is_where_the_cells_say(make, pictures):
    simulation = make("stopped", 6001)
    while simulation.expert.plan().fields["lead_gap_m"] > 8:
        run(simulation, 0.5)
    cells = simulation.cells()
    assert (cells[9:13, 14:17] & bits.VEHICLE).all()
    stop_lights = picture(simulation)
    assert ((stop_lights[..., 0] > 180) & (stop_lights[..., 1] < 90)).sum() > 15


def test_black_pictures_are_black_and_need_no_opengl(make, monkeypatch):
    from spanvla_ros.sim.renderer import Renderer

    monkeypatch.setattr(Renderer, "shared", lambda: pytest.fail("a renderer was made"))
    assert picture(make("lane", 6000, black=True)).max() == 0
    with pytest.raises(InputError, match="render=False"):
        make("lane", 6000, render=False).jpeg()
    with pytest.raises(InputError, match="rear"):
        make("lane", 6000, black=True).jpeg("rear")


def test_missing_opengl_names_the_packages(monkeypatch):
    moderngl = pytest.importorskip("moderngl")
    from spanvla_ros.sim.renderer import Renderer

    def broken(**_):
        raise Exception("libEGL.so not loaded")

    monkeypatch.setattr(moderngl, "create_context", broken)
    with pytest.raises(SpanVLAError, match="libegl1 libgl1-mesa-dri"):
        Renderer()


def test_source_gives_observations_on_the_grid(make):
    grid = Grid(cameras=("front",), frame_offsets_s=(-0.5, 0.0), history_offsets_s=(-1.5, -1.0, -0.5, 0.0))
    simulation = make("lane", 6000, black=True)
    ticks = []
    source = SimulationSource(simulation, grid, on_step=lambda: ticks.append(simulation.stamp_ns))
    observation = source.reset()
    assert observation.t0_ns == 1_500_000_000
    assert [frame.stamp_ns for frame in observation.images["front"]] == [1_000_000_000, 1_500_000_000]
    assert observation.images["front"][0].rgb.shape == (FRONT.height, FRONT.width, 3)
    planner = drive.ConstantVelocity()
    later = source.step(planner.plan(observation))
    assert later.t0_ns == 1_600_000_000 and ticks[-1] == 1_600_000_000 and len(ticks) == 32
    assert later.pose_odom == pytest.approx(simulation.ego.pose)
    assert source.step(None).t0_ns == 1_700_000_000
