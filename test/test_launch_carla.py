"""launch/carla.launch.py, read with stand-ins for the packages `launch` and `launch_ros`, which are no wheels."""

import json
import types

import pytest
import yaml
from launch_stand_ins import CONFIG, LAUNCH, Thing
from launch_stand_ins import load as load_stand_ins


@pytest.fixture
def load(monkeypatch):
    return load_stand_ins(monkeypatch)


def planner_arguments(launch, **given):
    values = {name: default for name, default, _ in launch.ARGUMENTS} | given
    (include,) = launch.planner(values)
    assert include.parts[0].parts[0].parts[0][1:] == ["launch", "planner.launch.py"]
    return dict(include.options["launch_arguments"])


def test_the_planner_listens_to_the_bridge(load):
    arguments = planner_arguments(load("carla.launch.py"))
    assert {name: arguments[name] for name in ("camera", "camera_info", "odometry", "route")} == {
        "camera": "/carla/hero/front/image",
        "camera_info": "/carla/hero/front/camera_info",
        "odometry": "/carla/hero/odometry",
        "route": "/carla/hero/waypoints",
    }
    assert (arguments["image_transport"], arguments["base_frame"], arguments["use_sim_time"]) == ("raw", "hero", "true")


def test_another_role_name_reaches_every_topic_and_the_frame(load):
    arguments = planner_arguments(load("carla.launch.py"), role_name="ego_vehicle")
    topics = [value for value in arguments.values() if isinstance(value, str) and value.startswith("/carla/")]
    assert len(topics) == 4 and all(topic.startswith("/carla/ego_vehicle/") for topic in topics)
    assert arguments["base_frame"] == "ego_vehicle"


def test_the_planners_launch_file_knows_every_argument_it_is_given(load):
    known = {name for name, *_ in load("planner.launch.py").ARGUMENTS}
    assert set(planner_arguments(load("carla.launch.py"))) <= known
    parameters = yaml.safe_load((CONFIG / "planner.param.yaml").read_text())["/**"]["ros__parameters"]
    assert set(load("planner.launch.py").OVERRIDES) - {"use_sim_time"} <= set(parameters)


def test_the_launch_description_has_what_was_promised(load):
    launch = load("carla.launch.py")
    description = launch.generate_launch_description()
    actions = description.parts[0]
    declared = [action.parts[0] for action in actions if type(action).__name__ == "DeclareLaunchArgument"]
    assert {"host", "port", "role_name", "engine_dir", "rviz"} <= set(declared)
    bridge, ego = (action for action in actions if type(action).__name__ == "IncludeLaunchDescription")
    assert {name: value.parts[0] for name, value in bridge.options["launch_arguments"] if isinstance(value, Thing)} == {
        "host": "host",
        "port": "port",
        "town": "town",
        "ego_vehicle_role_name": "role_name",
    }
    assert dict(ego.options["launch_arguments"])["objects_definition_file"].parts == ("objects_file",)
    assert all(action.options["condition"].parts[0].parts == ("bridge",) for action in (bridge, ego))


def test_the_ego_carries_the_camera_of_the_training():
    rig = yaml.safe_load((CONFIG / "rigs" / "demo.yaml").read_text())["cameras"]["front"]
    objects = json.loads((CONFIG / "carla" / "objects.json").read_text())["objects"]
    (ego,) = (thing for thing in objects if thing["type"].startswith("vehicle."))
    assert ego["id"] == "hero"
    sensors = {sensor["id"]: sensor for sensor in ego["sensors"]}
    camera = sensors["front"]
    assert (camera["image_size_x"], camera["image_size_y"], camera["fov"]) == (rig["width"], rig["height"], rig["hfov_deg"])
    assert camera["spawn_point"] == {"x": rig["x_m"], "y": rig["y_m"], "z": rig["z_m"], "roll": 0.0, "pitch": rig["pitch_deg"], "yaw": rig["yaw_deg"]}
    assert sensors["odometry"]["type"] == "sensor.pseudo.odom"


def test_build_only_builds_the_engine_of_the_parameter_file_and_starts_no_node(load, tmp_path):
    launch = load("planner.launch.py")
    values = {name: default for name, default, _ in launch.ARGUMENTS}
    values |= {"build_only": "True", "params_file": str(CONFIG / "planner.param.yaml")}
    for given, file_says, built in (("", "", LAUNCH.parent / "engines" / "demo"), ("", "/opt/e", "/opt/e"), ("/opt/f", "/opt/e", "/opt/f")):
        if file_says:
            (tmp_path / "p.yaml").write_text(f"/**:\n  ros__parameters:\n    engine_dir: {file_says}\n")
            values["params_file"] = str(tmp_path / "p.yaml")
        (action,) = launch.planner(values | {"engine_dir": given})
        assert type(action).__name__ == "ExecuteProcess"
        assert action.options["cmd"][1:] == ["-m", "spanvla_ros.cli.main", "build", str(built)]
    end = action.options["on_exit"]
    assert type(end(types.SimpleNamespace(returncode=0), None)[0]).__name__ == "Shutdown"
    with pytest.raises(RuntimeError, match="exit code 2"):
        end(types.SimpleNamespace(returncode=2), None)
    (node,) = launch.planner(values | {"build_only": "false"})
    assert type(node).__name__ == "LifecycleNode"
