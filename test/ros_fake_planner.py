"""The real planner node with a fake Backend: it reasons a fixed sentence and goes on as the car goes, a slow one faster.

Run as a process: ros_fake_planner.py --ros-args ...; SPANVLA_TEST_CAMERAS names its cameras, SPANVLA_TEST_FAULT a JSON file that is
read at every plan: {"slow_s": seconds}, {"raise": message}, {"nan": true} or {"text": reasoning}. While it plans, FILE.busy is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from helpers import demo_spec

from spanvla_ros.planning import tokenizer as tokens
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.prompt import FAST_TEXT, answer
from spanvla_ros.ros.main import spin
from spanvla_ros.ros.planner_node import PlannerNode

FAULT = Path(os.environ.get("SPANVLA_TEST_FAULT", os.devnull))
SPEED_MPS = 2.0
CAMERAS = tuple(os.environ.get("SPANVLA_TEST_CAMERAS", "front").split(","))


class FakeBackend:
    def __init__(self, tokenizer):
        self._tokenizer, self._fault = tokenizer, {}

    def prefill(self, prompt):
        self._fault = json.loads(FAULT.read_text() or "{}")
        if "slow_s" in self._fault:
            busy = Path(f"{FAULT}.busy")
            busy.touch()
            time.sleep(self._fault["slow_s"])
            busy.unlink()
        if "raise" in self._fault:
            raise RuntimeError(self._fault["raise"])

    def decode(self, max_tokens):
        yield from self._tokenizer.encode(answer(self._fault.get("text", FAST_TEXT))).ids[:max_tokens]

    def flow(self, motion, noise):
        waypoints, times = np.array(motion["base"], np.float64), 0.5 * np.arange(1, 11)
        speed = waypoints[0, 0, 0] / times[0]
        if speed < SPEED_MPS:  # with 1 m/s2 to SPEED_MPS
            rest = np.maximum(SPEED_MPS - speed - times, 0)
            waypoints[0, :, 0] = SPEED_MPS * times - ((SPEED_MPS - speed) ** 2 - rest**2) / 2
        return waypoints * (np.nan if self._fault.get("nan") else 1.0)

    def close(self):
        pass


def load(values):
    texts = ["system user assistant turn left go straight right follow the road ; acceleration speed path 0 1 2 3 4 5 . -", FAST_TEXT]
    texts += ["Red light, stop at the line."]
    tokenizer = tokens.train(texts * 20, 400)
    return Planner(demo_spec(prompt_tokens=256, cameras=CAMERAS), tokenizer, FakeBackend(tokenizer), "fake", backend_name="fake")


if __name__ == "__main__":
    sys.exit(spin(lambda: PlannerNode(load)))
