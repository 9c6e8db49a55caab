"""Planner node, with RViz on demand; or only the TensorRT plans of its engine, built on this machine.

ros2 launch spanvla_ros planner.launch.py camera:=/camera/front/image/compressed odometry:=/localization/kinematic_state
ros2 launch spanvla_ros planner.launch.py build_only:=true engine_dir:=/opt/engines/mine
ros2 launch spanvla_ros planner.launch.py --show-args
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from spanvla_ros.share import DEMO_ENGINE, FASTDDS_PROFILE, share

CONFIG = PathJoinSubstitution([FindPackageShare("spanvla_ros"), "config"])

ARGUMENTS = (
    ("params_file", PathJoinSubstitution([CONFIG, "planner.param.yaml"]), "parameters of the planner"),
    ("engine_dir", "", "engine folder; empty = as in params_file"),
    ("use_sim_time", "", "true: take the time from /clock (simulator, bag replay); empty = as in params_file"),
    ("lockstep", "", "true: a simulator waits for every plan; empty = as in params_file"),
    ("autostart", "", "false: a lifecycle manager configures and activates the node; empty = as in params_file"),
    ("image_transport", "", "compressed or raw images; empty = as in params_file"),
    ("base_frame", "", "child frame of the odometry; empty = as in params_file"),
    ("publish_autoware", "", "true: also autoware_planning_msgs/Trajectory, where that package is installed; empty = as in params_file"),
    ("namespace", "", "namespace of the node"),
    ("camera", "/sensing/camera/front/image/compressed", "topic of the front camera"),
    ("camera_info", "/sensing/camera/front/camera_info", "its calibration, compared with the rig of the training"),
    ("odometry", "/localization/odometry", "nav_msgs/Odometry of base_link"),
    ("command", "/planning/command", "std_msgs/String: left, straight, right, unknown"),
    ("route", "/planning/route", "nav_msgs/Path, wins over the command"),
    (
        "fastdds_profile",
        EnvironmentVariable(FASTDDS_PROFILE, default_value=PathJoinSubstitution([CONFIG, "fastdds_shm.xml"])),
        "Fast DDS profile; the default has the large shared-memory segment that big images need, and needs 128 MB in /dev/shm",
    ),
    ("build_only", "false", "true: no node; build the TensorRT plans of the engine for this machine (`spanvla build`), then exit"),
    ("rviz", "false", "open RViz on the plan"),
    ("log_level", "info", "debug, info, warn, error"),
)
OVERRIDES = {
    **dict.fromkeys(("engine_dir", "image_transport", "base_frame"), str),
    **dict.fromkeys(("use_sim_time", "lockstep", "autostart", "publish_autoware"), bool),
}
REMAPPED = {"image/front": "camera", "camera_info/front": "camera_info", "odometry": "odometry", "command": "command", "route": "route"}


def planner(context: LaunchContext) -> list[Action]:
    """The node; an argument that was left empty doesn't touch the value of the parameter file."""
    if LaunchConfiguration("build_only").perform(context).lower() == "true":
        return [ExecuteProcess(cmd=[sys.executable, "-m", "spanvla_ros.cli.main", "build", engine(context)], output="screen", on_exit=built)]
    given = {name: LaunchConfiguration(name) for name in OVERRIDES if LaunchConfiguration(name).perform(context)}
    return [
        LifecycleNode(
            package="spanvla_ros",
            executable="planner",
            name="spanvla_planner",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            # the node starts itself (parameter autostart): no event handlers are needed here
            parameters=[LaunchConfiguration("params_file"), {n: ParameterValue(v, value_type=OVERRIDES[n]) for n, v in given.items()}],
            remappings=[(f"~/input/{name}", LaunchConfiguration(argument)) for name, argument in REMAPPED.items()],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        )
    ]


def engine(context: LaunchContext) -> str:
    """Engine folder as the node would find it: argument, parameter file, demo."""
    given = LaunchConfiguration("engine_dir").perform(context)
    if not given:
        blocks = yaml.safe_load(Path(LaunchConfiguration("params_file").perform(context)).read_text(encoding="utf-8")) or {}
        values = [block["ros__parameters"].get("engine_dir") for block in blocks.values()]
        given = next((value for value in reversed(values) if value), "")
    return str(Path(given).expanduser()) if given else str(share(DEMO_ENGINE))


def built(event: ProcessExited, context: LaunchContext) -> list[Action]:
    """End of the build; an exception is what makes `ros2 launch` itself end with an error."""
    if event.returncode:
        raise RuntimeError(f"spanvla build ended with exit code {event.returncode}")
    return [Shutdown(reason="the plans are built")]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", PathJoinSubstitution([CONFIG, "rviz", "planner.rviz"])],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    profile = SetEnvironmentVariable(FASTDDS_PROFILE, LaunchConfiguration("fastdds_profile"))
    return LaunchDescription([*declared, profile, OpaqueFunction(function=planner), rviz])
