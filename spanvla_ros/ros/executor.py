"""What the nodes spin on."""

from __future__ import annotations

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor


def make_executor(context: rclpy.Context | None = None) -> Executor:
    """One thread for all callbacks: none of them waits, inference and driving have threads of their own.

    Where rclpy has it (from Kilted on, and late Jazzy) the events executor: the others build their wait set anew in Python
    for every message, which costs more than the model does.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)
