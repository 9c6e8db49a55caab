"""The real planner node with a fake Backend: it reasons a fixed sentence and goes on as the car goes.

Run as a process: ros_fake_planner.py --ros-args ...; SPANVLA_TEST_SLOW_S delays every plan.
"""

from __future__ import annotations

import os
import sys
import time

from helpers import demo_spec

from spanvla_ros.planning import tokenizer as tokens
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.prompt import FAST_TEXT, answer
from spanvla_ros.ros.main import spin
from spanvla_ros.ros.planner_node import PlannerNode


class FakeBackend:
    def __init__(self, ids):
        self._ids = ids

    def prefill(self, prompt):
        time.sleep(float(os.environ.get("SPANVLA_TEST_SLOW_S", "0")))

    def decode(self, max_tokens):
        yield from self._ids[:max_tokens]

    def flow(self, motion, noise):
        return motion["base"]

    def close(self):
        pass


def load(values):
    texts = ["system user assistant turn left go straight right follow the road ; acceleration speed path 0 1 2 3 4 5 . -", FAST_TEXT]
    tokenizer = tokens.train(texts * 20, 400)
    return Planner(demo_spec(prompt_tokens=256), tokenizer, FakeBackend(tokenizer.encode(answer(FAST_TEXT)).ids), "fake", backend_name="fake")


if __name__ == "__main__":
    sys.exit(spin(lambda: PlannerNode(load)))
