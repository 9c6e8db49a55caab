import gzip
from pathlib import Path

import numpy as np
import pytest

from spanvla_ros.contracts import Command, ConfigError
from spanvla_ros.sim import maps, road, scenario
from spanvla_ros.sim.camera import CAMERAS

shapely = pytest.importorskip("shapely")


def test_seed_ranges_share_no_map():
    train = {maps.map_seed(seed) for seed in range(0, 5000)}
    validation = {maps.map_seed(seed) for seed in range(5000, 6000)}
    test = {maps.map_seed(seed) for seed in [*range(6000, 7000), 9000, 9001, 12345]}
    assert not train & validation and not (train | validation) & test
    assert test == set(maps.EVALUATION_MAPS)
    with pytest.raises(ConfigError, match="seed 7500"):
        maps.map_seed(7500)


def test_evaluation_maps_need_no_generator(monkeypatch):
    monkeypatch.setattr(maps, "_netconvert", lambda: pytest.fail("netconvert was called"))
    for map_id in maps.EVALUATION_MAPS:
        assert maps.net_file(map_id).stat().st_size < 64_000


def test_generated_map_is_reproducible_and_anonymous(tmp_path):
    pytest.importorskip("sumo")
    first, second = tmp_path / "a.net.xml.gz", tmp_path / "b.net.xml.gz"
    maps.generate(30, first)
    maps.generate(30, second)
    assert first.read_bytes() == second.read_bytes()
    assert b"<!--" not in gzip.decompress(first.read_bytes())


@pytest.mark.parametrize("map_id", maps.EVALUATION_MAPS)
def test_paths_stay_on_their_lanes(map_id):
    loaded = road.load(map_id)
    assert {path.turn for path in loaded.paths} == {Command.LEFT, Command.STRAIGHT, Command.RIGHT}
    for path in loaded.paths:
        area = loaded.route_area(path)
        inside = shapely.contains_xy(area, path.xy[2:-2, 0], path.xy[2:-2, 1])
        assert inside.all()
        assert np.abs(path.curvature).max() < 0.16
        turned = path.yaw[int(2 * path.exit_s)] - path.yaw[int(2 * path.stop_s)]
        side = {Command.LEFT: turned > 0.8, Command.RIGHT: turned < -0.8, Command.STRAIGHT: abs(turned) < 0.6}
        assert side[path.turn], (path.turn, turned)


def test_camera_is_the_one_of_the_demo_rig():
    yaml = pytest.importorskip("yaml")
    rig = yaml.safe_load((Path(__file__).parents[1] / "config" / "rigs" / "demo.yaml").read_text())["cameras"]
    assert set(rig) == set(CAMERAS)
    for name, values in rig.items():
        camera = CAMERAS[name]
        assert (camera.width, camera.height, camera.x_m, camera.y_m, camera.z_m) == tuple(values[k] for k in ("width", "height", "x_m", "y_m", "z_m"))
        assert np.degrees(camera.hfov_rad) == pytest.approx(values["hfov_deg"]) and values["pitch_deg"] == 0
        # a point on the optical axis 20 m ahead is the middle of the picture
        u, v, depth = camera.project(np.zeros(3), np.array([[camera.x_m + 20.0, camera.y_m, camera.z_m]]))
        assert (u[0], v[0], depth[0]) == pytest.approx((camera.width / 2, camera.height / 2, 20.0))


def test_projection_inverts_pose():
    path = road.load(6001).paths[0]
    for s, lateral, heading in ((50.0, 1.2, 0.1), (path.stop_s + 8.0, -0.6, -0.2), (300.25, 0.0, 0.0)):
        x, y, yaw = path.pose(s)
        pose = np.array([x - lateral * np.sin(yaw), y + lateral * np.cos(yaw), yaw + heading])
        found = path.project(pose, near_s=s + 4.0)
        np.testing.assert_allclose(found, (s, lateral, heading), atol=0.06)


def test_scenarios_are_seeded_and_long_enough():
    for family in scenario.FAMILIES:
        for seed in (*range(6000, 6012), 9000, 9001):
            built = scenario.build(family, seed)
            again = scenario.build(family, seed)
            assert (built.route.start_s, built.route.end_s, built.blocker_s) == (again.route.start_s, again.route.end_s, again.blocker_s)
            assert built.route.length_m >= 150
            assert built.route.crosses or family != "red"
            # a route starts or ends in front of the junction, never inside
            assert not built.route.path.stop_s < built.route.start_s < built.route.path.exit_s
    with pytest.raises(ConfigError, match="nosuch"):
        scenario.build("nosuch", 6000)
