"""The planner on the topics of Autoware, with its trajectory as autoware_planning_msgs/Trajectory beside the standard one.

ros2 launch spanvla_ros autoware.launch.py engine_dir:=/opt/engines/mine
ros2 launch spanvla_ros autoware.launch.py trajectory:=/planning/scenario_planning/velocity_smoother/trajectory
ros2 launch spanvla_ros autoware.launch.py --show-args
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

SENSOR = "/sensing/camera/camera0"
ARGUMENTS = (
    ("camera", f"{SENSOR}/image_rect_color/compressed", "topic of the front camera"),
    ("camera_info", f"{SENSOR}/camera_info", "its calibration, compared with the rig of the training"),
    ("odometry", "/localization/kinematic_state", "nav_msgs/Odometry: map -> base_link"),
    ("command", "/planning/command", "std_msgs/String: left, straight, right, unknown; Autoware has no such topic"),
    ("route", "/planning/spanvla/route", "nav_msgs/Path, wins over the command; Autoware's own LaneletRoute is not understood"),
    (
        "trajectory",
        "/planning/spanvla/trajectory",
        "for autoware_planning_msgs/Trajectory; the planning validator hears /planning/scenario_planning/velocity_smoother/trajectory",
    ),
)
# what planner.launch.py has arguments for
PASSED = ("camera", "camera_info", "odometry", "command", "route")


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`; the arguments of planner.launch.py that are not set here work as there."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    given = {name: LaunchConfiguration(name) for name in PASSED} | {"publish_autoware": "true"}
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare("spanvla_ros"), "launch", "planner.launch.py"]))
    output = SetRemap(src="~/output/autoware_trajectory", dst=LaunchConfiguration("trajectory"))
    return LaunchDescription([*declared, output, IncludeLaunchDescription(source, launch_arguments=given.items())])
