"""A recorded drive played to the real planner node, in lock-step and judged; or by `ros2 bag play`, for the eye alone.

ros2 launch spanvla_ros bag_replay.launch.py bag:=drive/ out:=out rviz:=true
ros2 launch spanvla_ros bag_replay.launch.py bag:=drive/ out:=out gate:=limits.yaml rate:=0    # as fast as the planner; fails where a limit is broken
ros2 launch spanvla_ros bag_replay.launch.py bag:=drive/ player:=rosbag rate:=0.5
ros2 launch spanvla_ros bag_replay.launch.py --show-args
"""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

from spanvla_ros.data import topics

HERE = FindPackageShare("spanvla_ros")
FRONT = "front"
LOCKSTEP, ROSBAG = "lockstep", "rosbag"
ARGUMENTS = (
    ("bag", None, "bag folder, .mcap or .db3"),
    ("topics", PathJoinSubstitution([HERE, "config", "topics", "drive.yaml"]), "topics of cameras, odometry and command in the bag"),
    ("player", LOCKSTEP, "lockstep: the next image waits for the plan of the last, and the plans are judged; rosbag: `ros2 bag play`"),
    ("rate", "1.0", "how many times as fast as recorded; with player:=lockstep at most, and 0 = as fast as the planner"),
    ("out", "out", "folder for report.html, summary.json and plans.jsonl of player:=lockstep"),
    ("gate", "", "limits for the plans, e.g. config/gates/default.yaml of this package; empty = none"),
    ("image_transport", "compressed", "compressed or raw images in the bag"),
    ("base_frame", "base_link", "child frame of the odometry"),
    ("engine_dir", "", "engine folder of the planner; empty = as in its parameter file"),
    ("params_file", PathJoinSubstitution([HERE, "config", "planner.param.yaml"]), "parameters of the planner"),
    ("rviz", "false", "open RViz on the plan"),
)


def actions(context: LaunchContext) -> list[Action]:
    """The planner on the topics of the bag, and what plays it; the end of the bag ends everything."""
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    names = topics.load(Path(given["topics"]))
    wired = {"odometry": names.odometry, "command": names.command}
    for camera, topic in names.cameras.items():
        wired |= {f"image/{camera}": topic, f"camera_info/{camera}": f"{topic.rpartition('/image')[0]}/camera_info"}
    arguments = {name: given[name] for name in ("image_transport", "base_frame", "engine_dir", "params_file", "rviz")}
    arguments |= {"use_sim_time": "true", "lockstep": str(given["player"] == LOCKSTEP).lower()}
    for argument, name in (("camera", f"image/{FRONT}"), ("camera_info", f"camera_info/{FRONT}"), ("odometry", "odometry"), ("command", "command")):
        if wired.get(name):
            arguments[argument] = wired.pop(name)
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([HERE, "launch", "planner.launch.py"]))
    # what is left are the cameras that planner.launch.py has no argument for
    others = [SetRemap(src=f"~/input/{name}", dst=topic) for name, topic in wired.items() if topic]
    return [*others, IncludeLaunchDescription(source, launch_arguments=arguments.items()), player(given)]


def player(given: dict[str, str]) -> Action:
    """The process that plays."""
    if given["player"] == ROSBAG:
        command = ["ros2", "bag", "play", given["bag"], "--clock", "--rate", given["rate"]]
    elif given["player"] == LOCKSTEP:
        command = [sys.executable, "-m", "spanvla_ros.cli.main", "bag", given["bag"], "--topics", given["topics"], "--play"]
        command += ["--rate", given["rate"], "--out", given["out"], *(["--gate", given["gate"]] if given["gate"] else [])]
    else:
        raise RuntimeError(f"player is {given['player']!r}, it must be {LOCKSTEP} or {ROSBAG}")
    return ExecuteProcess(cmd=command, output="screen", on_exit=played)


def played(event: ProcessExited, context: LaunchContext) -> list[Action]:
    """End of the bag; an exception is what makes `ros2 launch` itself end with an error."""
    if event.returncode:
        raise RuntimeError(f"the player ended with exit code {event.returncode}")
    return [Shutdown(reason="the bag is played")]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
