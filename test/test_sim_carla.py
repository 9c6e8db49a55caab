"""The CARLA source against a stand-in for the server: frames, a whole judged episode, the same tensors as our own simulator, faults."""

import math
import sys
from types import SimpleNamespace

import carla_fake
import numpy as np
import pytest
from helpers import demo_spec

from spanvla_ros.contracts import VEHICLE, ConfigError, SpanVLAError
from spanvla_ros.evaluation.driving import Judge
from spanvla_ros.planning import preprocess, prompt, tokenizer
from spanvla_ros.sim.actor import SIZES
from spanvla_ros.sim.carla import source as carla_room
from spanvla_ros.sim.carla import stage as carla_stage
from spanvla_ros.sim.carla.frame import Body, Pedals, pose, transform
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.pictures.camera import CAMERAS, FRONT
from spanvla_ros.sim.planners import SIMPLE_PLANNERS
from spanvla_ros.sim.scenarios import scenario as scenarios
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource

pytest.importorskip("libsumo")
try:
    import carla as wheel
except ImportError:
    wheel = None

TYPES = {"simple": carla_fake.simple_types(), **({"wheel": wheel} if wheel else {})}


@pytest.fixture(params=TYPES)
def types(request):
    return TYPES[request.param]


def marks(scenario) -> np.ndarray:
    """Points (N, 3) along the route, in our frame: what the cameras see."""
    stations = np.arange(scenario.route.start_s, scenario.route.end_s + 60, 4.0)
    at = scenario.route.path.pose(stations)
    left = np.column_stack([-np.sin(at[:, 2]), np.cos(at[:, 2])])
    return np.vstack([np.column_stack([at[:, :2] + side * left, np.full(len(at), height)]) for side, height in ((-3, 0.0), (3, 0.0), (2, 2.5))])


def flipped(points: np.ndarray) -> np.ndarray:
    return points * [1.0, -1.0, 1.0]


class Drive:
    """An episode on the stand-in, and all that was seen in it."""

    def __init__(self, types, family="red", seed=6000, planner="expert", spec=None):
        self.scenario = scenarios.build(family, seed)
        self.client = carla_fake.Client(types, flipped(marks(self.scenario)))
        self.planner = SIMPLE_PLANNERS[planner]()
        self.spec = spec or demo_spec()
        self.truths, self.states, self.observations = [], [], []
        self.source = carla_room.CarlaSource(types, self.client, self.scenario, self.spec, on_step=self.watch)
        self.judge = Judge(family, seed, self.scenario.time_limit_s)

    def watch(self):
        self.truths.append(self.source.simulation.truth())
        self.states.append(self.source.simulation.ego)
        self.judge.watch(self.truths[-1])

    def start(self):
        self.observations.append(self.source.reset())
        self.begin = self.source.simulation.stamp_ns
        self.planner.watch(self.source.simulation)
        return self.observations[-1]

    def run(self, most=10_000):
        observation = self.start()
        while observation is not None and self.judge.ended is None and len(self.observations) < most:
            observation = self.source.step(self.planner.plan(observation))
            if observation is not None:
                self.observations.append(observation)
        return self.judge.result()


@pytest.fixture
def drives():
    made = []

    def make(*args, **options):
        made.append(Drive(*args, **options))
        return made[-1]

    yield make
    for drive in made:
        drive.source.simulation.close()


def test_poses_survive_the_way_to_carla_and_back(types):
    for x, y, yaw in ((3.0, -7.0, 0.4), (-120.0, 55.0, -3.1), (0.0, 0.0, math.pi / 2)):
        there = transform(types, np.array([x, y, yaw]), 0.3)
        assert (there.location.y, there.rotation.yaw) == (pytest.approx(-y, abs=1e-5), pytest.approx(-math.degrees(yaw), abs=1e-4))
        np.testing.assert_allclose(pose(there), [x, y, yaw], atol=1e-5)


def test_a_vehicle_is_measured_from_its_wheels(types):
    world = carla_fake.World(types, "<OpenDRIVE/>")
    blueprint = carla_fake.Blueprint("vehicle.x")
    blueprint.set_attribute("role_name", "hero")
    actor = world.spawn_actor(blueprint, transform(types, np.array([40.0, 9.0, 2.0]), 0.0))
    body = Body.measure(actor)
    length, width, _, ahead = carla_fake.EGO_BOX
    assert body.axle_m == pytest.approx(carla_fake.AXLE_M, abs=1e-3)
    assert body.size.wheel_base_m == pytest.approx(carla_fake.WHEEL_BASE_M, abs=1e-3)
    assert body.size.front_m == pytest.approx(ahead + length / 2 - carla_fake.AXLE_M, abs=1e-3)
    assert (body.size.length_m, body.size.width_m) == (pytest.approx(length, abs=1e-3), pytest.approx(width, abs=1e-3))
    np.testing.assert_allclose(body.origin(body.rear_axle(actor)), [40.0, 9.0, 2.0], atol=1e-4)


def test_a_vehicle_without_sensible_wheels_is_divided_like_navsims(types):
    box = SimpleNamespace(location=types.Location(x=0.1, y=0.0, z=0.8), extent=types.Vector3D(VEHICLE.length_m / 2, 1.0, 0.8))
    actor = SimpleNamespace(
        bounding_box=box,
        get_transform=lambda: transform(types, np.zeros(3), 0.0),
        get_physics_control=lambda: SimpleNamespace(wheels=[], steering_curve=[]),
    )
    body = Body.measure(actor)
    assert (body.size.front_m, body.size.rear_m) == (pytest.approx(VEHICLE.front_m, abs=1e-5), pytest.approx(VEHICLE.rear_m, abs=1e-5))


def test_steering_turns_the_car_as_much_as_ours():
    body = Body(size=VEHICLE, axle_m=-1.5, lock_rad=math.radians(70), curve=((0.0, 1.0), (20.0, 0.5)))
    assert body.wheel(0.2, 0.0) == pytest.approx(-0.2 / math.radians(70))  # to the left is negative
    assert body.wheel(0.2, 20 / 3.6) == pytest.approx(2 * body.wheel(0.2, 0.0))
    assert body.wheel(1.2, 30.0) == -1.0


def test_pedals_coast_brake_and_make_up_for_drag():
    state = EgoState(x=0, y=0, yaw=0, speed_mps=8.0, acceleration_mps2=-0.5)
    pedals = Pedals()
    first = pedals.press(0.0, state)[0]
    for _ in range(20):
        throttle, brake = pedals.press(0.0, state)
    assert throttle > first and brake == 0.0
    assert Pedals().press(-4.0, state)[1] > 0.3 and Pedals().press(-0.15, EgoState(x=0, y=0, yaw=0, speed_mps=8.0)) == (0.0, 0.0)
    assert Pedals().press(-1.5, EgoState(x=0, y=0, yaw=0, speed_mps=0.0))[1] > 0.1


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_a_mounted_camera_sees_what_ours_sees(types, camera):
    import dataclasses

    camera = dataclasses.replace(camera, pitch_rad=0.03)
    body = Body(size=VEHICLE, axle_m=-1.49, lock_rad=1.0, curve=())
    at = np.array([12.0, -30.0, 0.9])
    points = np.random.default_rng(0).uniform([-40, -90, 0], [60, 30, 5], (200, 3))
    vehicle = carla_fake.matrix(transform(types, body.origin(at), 0.02))
    mount = carla_fake.matrix(body.mount(types, camera, 0.02))
    pixels, depth = carla_fake.project(vehicle @ mount, camera.width, camera.height, math.degrees(camera.hfov_rad), flipped(points))
    u, v, ours = camera.project(at, points)
    seen = ours > 2.0
    assert seen.sum() > 20
    np.testing.assert_allclose(depth[seen], ours[seen], atol=1e-3)
    np.testing.assert_allclose(pixels[seen], np.column_stack([u, v])[seen], atol=0.02)


@pytest.mark.skipif(wheel is None, reason="the carla wheel is not installed")
def test_the_stand_in_has_the_wheels_conventions():
    there = wheel.Transform(wheel.Location(1.0, 2.0, 3.0), wheel.Rotation(pitch=4.0, yaw=50.0, roll=6.0))
    np.testing.assert_allclose(carla_fake.matrix(there), there.get_matrix(), atol=1e-5)
    needed = {
        "Client": "generate_opendrive_world get_server_version get_client_version set_timeout",
        "World": "get_blueprint_library get_settings apply_settings freeze_all_traffic_lights get_actors spawn_actor try_spawn_actor tick",
        "Vehicle": "apply_control set_target_velocity get_velocity get_angular_velocity get_physics_control set_transform bounding_box destroy id",
        "TrafficLight": "get_opendrive_id set_state get_state",
        "Sensor": "listen stop destroy",
        "Image": "frame raw_data width height",
        "BlueprintLibrary": "filter find",
        "ActorBlueprint": "has_attribute set_attribute",
        "ActorList": "filter",
        "WheelPhysicsControl": "position max_steer_angle",
        "VehiclePhysicsControl": "wheels steering_curve",
        "BoundingBox": "location extent",
        "WorldSettings": "synchronous_mode fixed_delta_seconds",
    }
    for name, members in needed.items():
        assert set(members.split()) <= set(dir(getattr(wheel, name))), name
    assert str(wheel.TrafficLightState.Red) == "Red"
    with pytest.raises(RuntimeError):
        client = wheel.Client("127.0.0.1", 1)
        client.set_timeout(0.2)
        client.get_server_version()


def test_the_expert_completes_a_judged_episode(drives):
    drive = drives(TYPES.get("wheel", TYPES["simple"]))
    result = drive.run()
    assert result["ended"] == "completed" and result["route_completion"] == 1.0
    assert result["infractions"] == [] and result["driving_score_lb21"] == pytest.approx(100, abs=1)
    assert min(truth.speed_mps for truth in drive.truths) < 0.1 and "red" in {truth.lamp for truth in drive.truths}  # it waited at the light
    # the judge sees the vehicle that CARLA has
    corners = drive.truths[-1].footprint
    assert np.hypot(*(corners[0] - corners[1])) == pytest.approx(carla_fake.EGO_BOX[0], abs=0.01)
    assert any(truth.things for truth in drive.truths)
    assert all(name in drive.client.world.NAMES for name in {actor.type_id for actor in drive.client.world.living} - {"traffic.traffic_light"})


def test_driving_on_regardless_is_judged(drives):
    """The stand-in shows the traffic and the lights of the scenario: constant velocity meets one of them, or the kerb."""
    result = drives(TYPES["simple"], planner="constant_velocity").run()
    assert result["infractions"] and result["driving_score_lb21"] < 90


class Replay(Simulation):
    """Our simulator with the ego in recorded places and pictures of the same marks."""

    def __init__(self, scenario, states):
        super().__init__(scenario, render=False)
        self._states, self._marks = states, marks(scenario)

    def reset(self):
        self._step = 0
        super().reset()
        self.ego = self._states[0]

    def advance(self, trajectory, seconds=0.1):
        for _ in range(round(seconds / 0.05)):
            self._step += 1
            self.ego = self._states[self._step]
            self.stamp_ns += 50_000_000
            self._record()

    def jpeg(self, camera="front"):
        from spanvla_ros.sim.pictures.renderer import encode

        view = self._camera(camera)
        u, v, depth = view.project(self.ego.pose, self._marks)
        return encode(carla_fake.draw(np.column_stack([u, v]), depth, view.width, view.height), self.scenario.jpeg_quality)


def test_observations_and_tensors_are_those_of_our_simulator(drives, types):
    spec = demo_spec(cameras=("front", "front_left"), prompt_tokens=128)
    drive = drives(types, family="lane", spec=spec)
    states = []
    reset = drive.source.simulation.reset
    drive.source.simulation.reset = lambda: (reset(), states.append(drive.source.simulation.ego))
    drive.run(most=25)
    states += drive.states
    drive.source.simulation.close()
    replay = Replay(drive.scenario, states)
    ours = SimulationSource(replay, spec)
    words = tokenizer.train([prompt.render(spec, drive.observations[0].history, drive.observations[0].command)], 400)
    try:
        expected = ours.reset()
        for k, theirs in enumerate(drive.observations):
            expected = ours.step(None) if k else expected
            assert (theirs.t0_ns, theirs.command) == (expected.t0_ns, expected.command)
            np.testing.assert_allclose(theirs.history.poses_base, expected.history.poses_base, atol=1e-6)
            a, b = (preprocess.preprocess(observation, spec, words) for observation in (theirs, expected))
            assert a.keys() == b.keys()
            for name in a.keys() - {"patches"}:
                np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=name)
            # a mark may round to the next pixel
            assert np.mean(np.abs(a["patches"] - b["patches"]) > 0.05) < 0.01
    finally:
        replay.close()


def test_everything_is_left_as_it_was_found(drives):
    drive = drives(TYPES["simple"], family="lane")
    drive.run(most=3)
    world = drive.client.world
    drive.source.simulation.close()
    assert world.settings == {"synchronous_mode": False, "fixed_delta_seconds": None}
    assert {actor.type_id for actor in world.living} == {"traffic.traffic_light"} or not world.living


def test_faults_of_the_connection_are_one_clear_line(drives, monkeypatch):
    for address in ("somewhere", "host:", ":2000", "host:port", "host:70000"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            carla_room.connect(address)
    monkeypatch.setitem(sys.modules, "carla", None)
    with pytest.raises(SpanVLAError, match=r"pip install 'spanvla_ros\[carla\]'"):
        carla_room.connect("localhost:2000")
    points = np.zeros((0, 3))
    with pytest.raises(SpanVLAError, match="is 0.9.15, the wheel is 0.9.16; .*install carla==0.9.15"):
        carla_room.check_version(carla_fake.Client(TYPES["simple"], points, server="0.9.15"), "h:1")
    with pytest.raises(SpanVLAError, match="no CARLA server answers at h:1"):
        carla_room.check_version(carla_fake.Client(TYPES["simple"], points, server=""), "h:1")


def test_faults_of_the_server_are_one_clear_line(drives, monkeypatch):
    drive = drives(TYPES["simple"], family="lane")
    monkeypatch.setattr("spanvla_ros.sim.carla.stage._PICTURE_WAIT_S", 0.05)
    monkeypatch.setattr(carla_fake.Camera, "broken", True)
    with pytest.raises(SpanVLAError, match="camera 'front' sent no picture"):
        drive.start()
    monkeypatch.setattr(carla_fake.World, "tick", lambda self: (_ for _ in ()).throw(RuntimeError("time-out of\n20000ms")))
    with pytest.raises(SpanVLAError, match="^the CARLA server failed while .*: time-out of 20000ms$"):
        drive.source.simulation.advance(None)
    monkeypatch.undo()
    monkeypatch.setattr(carla_fake.World, "NAMES", ("sensor.camera.rgb",))
    bare = drives(TYPES["simple"], family="lane")
    with pytest.raises(SpanVLAError, match="no blueprint"):
        bare.start()


def test_a_world_without_our_lights_is_refused(monkeypatch):
    scenario = scenarios.build("red", 6000)
    client = carla_fake.Client(TYPES["simple"], np.zeros((0, 3)))
    generate = client.generate_opendrive_world
    client.generate_opendrive_world = lambda xodr, shape: generate("<OpenDRIVE/>", shape)
    with pytest.raises(SpanVLAError, match="has no light 'light."):
        carla_room.CarlaSource(TYPES["simple"], client, scenario, demo_spec())


def test_every_kind_of_actor_has_a_model():
    assert set(carla_stage._MODELS) == set(SIZES)
    library = carla_fake.Library(carla_fake.World.NAMES)
    assert all(any(library.filter(name) for name in models) for models in carla_stage._MODELS.values())


def test_the_front_camera_is_asked_for_in_its_size(drives):
    drive = drives(TYPES["simple"], family="lane")
    drive.start()
    (camera,) = [actor for actor in drive.client.world.living if isinstance(actor, carla_fake.Camera)]
    assert (camera.attributes["image_size_x"], camera.attributes["image_size_y"]) == (str(FRONT.width), str(FRONT.height))
    view = drive.scenario.cameras["front"]
    assert float(camera.attributes["fov"]) == pytest.approx(math.degrees(view.hfov_rad))
    assert drive.observations[0].images["front"][-1].rgb.shape == (FRONT.height, FRONT.width, 3)
