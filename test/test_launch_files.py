"""Every launch file: what it declares, what it hands on, and docs/launch.md; with the real packages where they are installed."""

import importlib.util
import re
import types

import pytest
import yaml
from launch_stand_ins import CONFIG, LAUNCH, Thing
from launch_stand_ins import load as load_stand_ins

FILES = sorted(path.name for path in LAUNCH.glob("*.launch.py"))
DOCS = (LAUNCH.parent / "docs" / "launch.md").read_text(encoding="utf-8")
needs_launch = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("launch", "launch_ros"))),
    reason="the packages launch and launch_ros are no wheels, only a full ROS 2 has them",
)


@pytest.fixture
def load(monkeypatch):
    return load_stand_ins(monkeypatch)


def documented(name):
    """Argument -> (text, default) in the block of docs/launch.md that shows `--show-args` of a launch file."""
    block = re.search(rf"```\n\$ ros2 launch spanvla_ros {re.escape(name)} --show-args\n(.*?)```", DOCS, re.S)
    assert block, f"docs/launch.md doesn't show {name}"
    found = re.findall(r"^    '(\w+)':\n        (.*)\n(?:        \(default: (.*)\)\n)?", block[1], re.M)
    assert len(found) == len({argument for argument, *_ in found})
    return {argument: (text, default) for argument, text, default in found}


def declared(description):
    return [action for action in description.parts[0] if type(action).__name__ == "DeclareLaunchArgument"]


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_explained_once_and_in_the_documentation(load, name):
    arguments = declared(load(name).generate_launch_description())
    assert len({action.parts[0] for action in arguments}) == len(arguments)
    shown = documented(name)
    for action in arguments:
        text, default = action.options["description"], action.options["default_value"]
        assert text and shown[action.parts[0]][0] == text
        if default is None:
            assert not shown[action.parts[0]][1]
        elif isinstance(default, str):
            assert shown[action.parts[0]][1] == f"'{default}'"
        else:
            assert shown[action.parts[0]][1], "a default that is put together when it is launched is shown too"
    if name != "autoware.launch.py":  # that one also shows what it hands on to planner.launch.py
        assert list(shown) == [action.parts[0] for action in arguments]


@needs_launch
@pytest.mark.parametrize("name", FILES)
def test_the_real_launch_shows_what_the_documentation_shows(name, capsys):
    from launch.launch_description_sources import get_launch_description_from_any_launch_file

    found = get_launch_description_from_any_launch_file(str(LAUNCH / name)).get_launch_arguments()
    assert {argument.name: argument.description for argument in found} == {argument: text for argument, (text, _) in documented(name).items()}


@needs_launch
@pytest.mark.parametrize("name", FILES)
def test_the_real_launch_can_carry_it_out_up_to_its_processes(name, tmp_path, monkeypatch):
    """Every action is visited once, as at launch, with stand-ins for processes alone."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch import LaunchContext
    from launch.actions import ExecuteProcess, IncludeLaunchDescription
    from launch.launch_description_sources import get_launch_description_from_any_launch_file
    from launch.utilities import perform_substitutions
    from launch_ros.ros_adapters import get_ros_adapter

    try:
        get_package_prefix("spanvla_ros")
    except PackageNotFoundError:
        pytest.skip("the package spanvla_ros is not installed, so that launch finds neither its share folder nor its executables")
    started = []
    monkeypatch.setattr(ExecuteProcess, "execute", lambda self, context: started.append([perform_substitutions(context, part) for part in self.cmd]))
    context = LaunchContext()
    context.launch_configurations.update({"bag": str(tmp_path), "bridge": "false"})

    def visit(entity):
        for found in entity.visit(context) or ():
            if not (
                isinstance(found, IncludeLaunchDescription)
                and name == "carla.launch.py"
                and found.condition
                and not found.condition.evaluate(context)
            ):
                visit(found)

    try:
        visit(get_launch_description_from_any_launch_file(str(LAUNCH / name)))
    finally:
        get_ros_adapter(context).shutdown()
    assert any("planner" in " ".join(command) for command in started)


def bag_replay(load, tmp_path, **given):
    launch = load("bag_replay.launch.py")
    (tmp_path / "topics.yaml").write_text(
        "cameras: {front: /front/image/compressed, left: /left/image/compressed}\nodometry: /odom\ncommand: /said\n"
    )
    values = {name: default for name, default, _ in launch.ARGUMENTS} | {
        "bag": "drive",
        "topics": str(tmp_path / "topics.yaml"),
        "params_file": "p.yaml",
    }
    *remaps, include, process = launch.actions(values | given)
    return {r.options["src"]: r.options["dst"] for r in remaps}, dict(include.options["launch_arguments"]), process


def test_a_bag_is_played_in_lock_step_to_a_planner_on_its_topics(load, tmp_path):
    remaps, arguments, process = bag_replay(load, tmp_path, gate="g.yaml", rate="0")
    assert remaps == {"~/input/image/left": "/left/image/compressed", "~/input/camera_info/left": "/left/camera_info"}
    assert {k: arguments[k] for k in ("camera", "camera_info", "odometry", "command", "lockstep", "use_sim_time")} == {
        "camera": "/front/image/compressed", "camera_info": "/front/camera_info", "odometry": "/odom", "command": "/said", "lockstep": "true",
        "use_sim_time": "true",
    }  # fmt: skip
    assert set(arguments) <= {name for name, *_ in load("planner.launch.py").ARGUMENTS}
    words = process.options["cmd"]
    assert words[3:5] == ["bag", "drive"] and words[words.index("--rate") + 1] == "0" and words[-2:] == ["--gate", "g.yaml"]
    # the words are those of the command
    import argparse

    from spanvla_ros.cli import bag

    parser = argparse.ArgumentParser()
    bag.add_parser(parser.add_subparsers())
    assert parser.parse_args(words[3:]).play
    end = process.options["on_exit"]
    assert type(end(types.SimpleNamespace(returncode=0), None)[0]).__name__ == "Shutdown"
    with pytest.raises(RuntimeError, match="exit code 1"):
        end(types.SimpleNamespace(returncode=1), None)


def test_ros2_bag_play_runs_free(load, tmp_path):
    _, arguments, process = bag_replay(load, tmp_path, player="rosbag", rate="0.5")
    assert process.options["cmd"] == ["ros2", "bag", "play", "drive", "--clock", "--rate", "0.5"]
    assert arguments["lockstep"] == "false" and arguments["use_sim_time"] == "true"
    with pytest.raises(RuntimeError, match="player is 'vlc'"):
        bag_replay(load, tmp_path, player="vlc")


def test_autoware_hands_its_topics_on(load):
    launch = load("autoware.launch.py")
    (remap,) = (action for action in launch.generate_launch_description().parts[0] if type(action).__name__ == "SetRemap")
    (include,) = (action for action in launch.generate_launch_description().parts[0] if type(action).__name__ == "IncludeLaunchDescription")
    assert remap.options["src"] == "~/output/autoware_trajectory" and remap.options["dst"].parts == ("trajectory",)
    arguments = dict(include.options["launch_arguments"])
    planner = load("planner.launch.py")
    assert set(arguments) <= {name for name, *_ in planner.ARGUMENTS} and arguments["publish_autoware"] == "true"
    assert all(isinstance(value, Thing) for name, value in arguments.items() if name != "publish_autoware")
    parameters = yaml.safe_load((CONFIG / "planner.param.yaml").read_text())["/**"]["ros__parameters"]
    assert set(planner.OVERRIDES) - {"use_sim_time"} <= set(parameters)
