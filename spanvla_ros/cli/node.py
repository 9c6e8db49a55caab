"""Start the planner node (needs ROS 2)."""

from __future__ import annotations

import argparse

EXAMPLE = """example:
  spanvla node --ros-args --params-file config/planner.param.yaml \\
      -r ~/input/image/front:=/camera/front/image/compressed -r ~/input/odometry:=/localization/odometry
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "node",
        help=__doc__,
        description="The same node as `ros2 run spanvla_ros planner`.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], metavar="...", help="remaps and parameters, as for `ros2 run`")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.ros.main import planner

    return planner(["--ros-args", *args.ros_args]) or 0
