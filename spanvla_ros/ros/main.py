"""Entry points of the two nodes. Every way to end them (once, twice, by SIGINT or SIGTERM) exits with code 0."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from spanvla_ros.ros import memory
from spanvla_ros.ros.executor import make_executor

_POLL_S = 0.1
# callbacks that still run use the executor; its shutdown doesn't wait for them in every version of rclpy
_DRAIN_S = 0.05


def planner(argv: list[str] | None = None) -> int:
    """Run the planner node. argv: ROS arguments (--ros-args ...), default those of the process."""
    from spanvla_ros.ros.planner_node import PlannerNode

    return spin(PlannerNode, argv)


def simulator(argv: list[str] | None = None) -> int:
    """Run the simulator node until its episodes are driven; exit code 1 when the planner never answered."""
    from spanvla_ros.ros.sim_node import SimulatorNode

    return spin(SimulatorNode, argv)


def spin(make: Callable[[], Node], argv: list[str] | None = None) -> int:
    """Spin the node until a signal, or until its attribute `exit_code` is no longer None."""
    memory.limit()
    ending = threading.Event()
    # Ctrl-C under `ros2 launch` arrives twice, the second time in the middle of the clean-up: our handlers only set a flag, so
    # there is nothing for the second one to break. rclpy's own handlers would shut the context down under running callbacks.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    node, executor = None, make_executor()
    try:
        node = make()
        executor.add_node(node)
        while not ending.is_set() and rclpy.ok() and getattr(node, "exit_code", None) is None:
            _spin_once(executor, node)
    except ExternalShutdownException:
        pass
    finally:
        time.sleep(_DRAIN_S)
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        if ending.is_set():
            # the interpreter gives handlers back to the system while it ends, but leaves ignored signals ignored
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    return getattr(node, "exit_code", None) or 0


def _spin_once(executor: Executor, node: Node) -> None:
    try:
        executor.spin_once(timeout_sec=_POLL_S)
    except ExternalShutdownException:
        raise
    except Exception:  # noqa: BLE001 - a defect in one callback must not take the car's plan away
        node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")


if __name__ == "__main__":
    sys.exit({"planner": planner, "simulator": simulator}[sys.argv[1]](sys.argv[2:]))
