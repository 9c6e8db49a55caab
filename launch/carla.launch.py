"""Planner on a CARLA server through carla-ros-bridge, which is started with it or runs already (bridge:=false).

The ego and its camera are those of config/carla/objects.json (for another role name give a file with that id); the topics are
the preset config/topics/carla_bridge.yaml, the route is that of carla_waypoint_publisher where one runs. Nobody drives the car:
a controller has to follow ~/output/trajectory and publish /carla/<role_name>/vehicle_control_cmd.
The bridge (last release: for CARLA 0.9.13) gives the odometry of the vehicle's origin, not of its rear axle: the camera is
mounted as if the rear axle were there, so that picture and motion fit together. Not run against a server; the judged
closed loop on CARLA 0.9.16 is `spanvla_ros.sim.carla.source`, which needs no bridge.

ros2 launch spanvla_ros carla.launch.py host:=localhost port:=2000 rviz:=true
ros2 launch spanvla_ros carla.launch.py --show-args
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from spanvla_ros.ros import topics

PRESET, ROLE, CAMERA = "carla_bridge", "hero", "front"
HERE = FindPackageShare("spanvla_ros")

ARGUMENTS = (
    ("host", "localhost", "machine of the CARLA server"),
    ("port", "2000", "its port"),
    ("role_name", ROLE, "role name of the ego"),
    ("bridge", "true", "start carla-ros-bridge and the ego; false: they run already"),
    ("town", "Town10HD", "town to load, or an OpenDRIVE file (.xodr)"),
    ("objects_file", PathJoinSubstitution([HERE, "config", "carla", "objects.json"]), "ego and sensors for carla_spawn_objects"),
    ("engine_dir", "", "engine folder of the planner; empty = the demo engine"),
    ("rviz", "false", "open RViz on the plan"),
)


def bridge(name: str, launch_file: str, arguments: dict[str, object]) -> IncludeLaunchDescription:
    """A launch file of a package of carla-ros-bridge."""
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare(name), launch_file]))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items(), condition=IfCondition(LaunchConfiguration("bridge")))


def planner(context: LaunchContext) -> list[Action]:
    """The planner on the topics of the preset, for the role name that was given."""
    role = LaunchConfiguration("role_name").perform(context)
    names = topics.load(PRESET)
    wired = {name: topic.replace(f"/carla/{ROLE}/", f"/carla/{role}/") for name, topic in names.inputs((CAMERA,)).items()}
    arguments = {
        "camera": wired[f"image/{CAMERA}"],
        "camera_info": wired[f"camera_info/{CAMERA}"],
        "odometry": wired["odometry"],
        "command": wired["command"],
        "route": f"/carla/{role}/waypoints",
        "image_transport": names.transport,
        "base_frame": role if names.base_frame == ROLE else names.base_frame,
        "use_sim_time": "true",
        "engine_dir": LaunchConfiguration("engine_dir"),
        "rviz": LaunchConfiguration("rviz"),
    }
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([HERE, "launch", "planner.launch.py"]))
    return [IncludeLaunchDescription(source, launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    given = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    server = bridge(
        "carla_ros_bridge",
        "carla_ros_bridge.launch.py",
        {
            "host": given["host"],
            "port": given["port"],
            "town": given["town"],
            "timeout": "20",
            "synchronous_mode": "True",
            "fixed_delta_seconds": "0.05",
            "ego_vehicle_role_name": given["role_name"],
        },
    )
    ego = bridge("carla_spawn_objects", "carla_spawn_objects.launch.py", {"objects_definition_file": given["objects_file"]})
    return LaunchDescription([*declared, server, ego, OpaqueFunction(function=planner)])
