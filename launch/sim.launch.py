"""Embedded simulator and planner in lock-step: a closed loop without any hardware.

ros2 launch spanvla_ros sim.launch.py scenario:=lane,red seed:=6000:6002 rviz:=true
ros2 launch spanvla_ros sim.launch.py --show-args
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - launch_ros compares value types with typing's

import yaml
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, EmitEvent, IncludeLaunchDescription, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from spanvla_ros.ros import topics

FRONT = "front"
# simulator parameters: argument -> (default, type, text)
PARAMETERS = {
    "scenario": ("lane,stopped,red", str, "scenario families to drive, comma-separated, or all"),
    "seed": ("6000:6002", str, "seed of each family, or FIRST:END or FIRST:END:STEP (END excluded)"),
    "cameras": ("[front]", List[str], "cameras that are rendered; the frames of the first one ask for plans"),
    "rate": ("10.0", float, "pictures per second; must divide 20"),
    "preset": ("minisim", str, f"names and types of the topics: {' or '.join(topics.PRESETS)}"),
    "black": ("false", bool, "send black images"),
    "real_time": ("false", bool, "never run faster than real time"),
    "output_dir": ("", str, "folder for episodes.jsonl and pictures of the drives; empty = none"),
}
ARGUMENTS = (("engine_dir", "", "engine folder of the planner; empty = the demo engine"), ("rviz", "false", "open RViz on the plan"))


def planner(context: LaunchContext) -> list[Action]:
    """The planner, listening to the topics of the preset."""
    names = topics.load(LaunchConfiguration("preset").perform(context))
    wired = names.inputs(tuple(yaml.safe_load(LaunchConfiguration("cameras").perform(context))) + (FRONT,))
    given = {
        "use_sim_time": "true",
        "lockstep": "true",
        "engine_dir": LaunchConfiguration("engine_dir"),
        "rviz": LaunchConfiguration("rviz"),
        "camera": wired.pop(f"image/{FRONT}"),
        "camera_info": wired.pop(f"camera_info/{FRONT}"),
        "odometry": wired.pop("odometry"),
        "command": wired.pop("command"),
        "image_transport": names.transport,
        "base_frame": names.base_frame,
    }
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare("spanvla_ros"), "launch", "planner.launch.py"]))
    # what is left are the cameras that planner.launch.py has no argument for
    others = [SetRemap(src=f"~/input/{name}", dst=topic) for name, topic in wired.items()]
    return [*others, IncludeLaunchDescription(source, launch_arguments=given.items())]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`; ends when the last episode has been driven."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, (default, _, text) in PARAMETERS.items()]
    declared += [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    simulator = Node(
        package="spanvla_ros",
        executable="simulator",
        name="spanvla_simulator",
        output="screen",
        parameters=[{name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, (_, kind, _) in PARAMETERS.items()}],
    )
    finish = RegisterEventHandler(OnProcessExit(target_action=simulator, on_exit=[EmitEvent(event=Shutdown(reason="all episodes driven"))]))
    return LaunchDescription([*declared, OpaqueFunction(function=planner), simulator, finish])
