"""Embedded simulator and planner in lock-step: a closed loop without any hardware.

ros2 launch spanvla_ros sim.launch.py families:="[lane, red]" seeds:=6000:6002 rviz:=true
ros2 launch spanvla_ros sim.launch.py --show-args
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - launch_ros compares value types with typing's

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("families", "[lane, stopped, red]", "scenario families to drive"),
    ("seeds", "6000:6002", "seeds of each family, FIRST:END or FIRST:END:STEP (END excluded)"),
    ("black", "false", "send black images"),
    ("real_time", "false", "never run faster than real time"),
    ("output_file", "", "JSON lines with one result per episode; empty = none"),
    ("engine_dir", "", "engine folder of the planner; empty = the demo engine"),
    ("rviz", "false", "open RViz on the plan"),
)


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`; ends when the last episode has been driven."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    given = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    planner = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare("spanvla_ros"), "launch", "planner.launch.py"])),
        launch_arguments={"use_sim_time": "true", "lockstep": "true", "engine_dir": given["engine_dir"], "rviz": given["rviz"]}.items(),
    )
    simulator = Node(
        package="spanvla_ros",
        executable="simulator",
        name="spanvla_simulator",
        output="screen",
        parameters=[
            {
                "families": ParameterValue(given["families"], value_type=List[str]),
                "seeds": ParameterValue(given["seeds"], value_type=str),
                "output_file": ParameterValue(given["output_file"], value_type=str),
                "black": ParameterValue(given["black"], value_type=bool),
                "real_time": ParameterValue(given["real_time"], value_type=bool),
            }
        ],
    )
    finish = RegisterEventHandler(OnProcessExit(target_action=simulator, on_exit=[EmitEvent(event=Shutdown(reason="all episodes driven"))]))
    return LaunchDescription([*declared, planner, simulator, finish])
