"""Launch files read with stand-ins for the packages `launch` and `launch_ros`, which are no wheels."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

LAUNCH = Path(__file__).parent.parent / "launch"
CONFIG = LAUNCH.parent / "config"


class Thing:
    """Any action or substitution: remembers what it was made of. A configuration performs to its value in the context."""

    def __init__(self, *parts, **options):
        self.parts, self.options = parts, options

    def perform(self, context):
        return context[self.parts[0]]


def load(monkeypatch):
    """A function that loads a launch file by its name, with stand-ins for the packages of ROS."""
    names = {
        "launch": ("LaunchContext", "LaunchDescription"),
        "launch.action": ("Action",),
        "launch.actions": (
            *("DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "IncludeLaunchDescription", "OpaqueFunction"),
            *("RegisterEventHandler", "SetEnvironmentVariable", "Shutdown"),
        ),
        "launch.conditions": ("IfCondition",),
        "launch.event_handlers": ("OnProcessExit",),
        "launch.events": ("Shutdown",),
        "launch.events.process": ("ProcessExited",),
        "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
        "launch.substitutions": ("EnvironmentVariable", "LaunchConfiguration", "PathJoinSubstitution"),
        "launch_ros": (),
        "launch_ros.actions": ("LifecycleNode", "Node", "SetRemap"),
        "launch_ros.parameter_descriptions": ("ParameterValue",),
        "launch_ros.substitutions": ("FindPackageShare",),
    }
    for module, members in names.items():
        stand_in = types.ModuleType(module)
        for member in members:
            setattr(stand_in, member, type(member, (Thing,), {}))
        monkeypatch.setitem(sys.modules, module, stand_in)

    def run(name):
        spec = importlib.util.spec_from_file_location(name.replace(".", "_"), LAUNCH / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return run
