"""Ten seconds of a drive give the same plans, whoever asks and how often. What is stored is made by replay_bag.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")

import bags  # noqa: E402
import replay_bag  # noqa: E402

from spanvla_ros.data.bag import Bag  # noqa: E402
from spanvla_ros.data.replay import Replay  # noqa: E402
from spanvla_ros.data.topics import DriveTopics  # noqa: E402
from spanvla_ros.engine.load import load_planner  # noqa: E402

TOLERANCE_M = 1e-3


@pytest.fixture(scope="module")
def lines(tmp_path_factory, tiny_engine):
    """What `spanvla bag` plans in this process."""
    return replay_bag.replay(tiny_engine, tmp_path_factory.mktemp("first"))


def test_another_process_plans_the_same_to_the_last_bit(tmp_path, tiny_engine, lines):
    call = "import sys, pathlib, replay_bag; replay_bag.replay(*map(pathlib.Path, sys.argv[1:]))"
    # another order of sets and dictionaries' hashes, another address space
    env = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(["test", ".", os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", call, tiny_engine, tmp_path]
    done = subprocess.run(command, env=env, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = replay_bag.read(tmp_path)
    assert len(again) == len(lines) == 85
    assert again == lines


def test_plans_are_those_of_the_day_they_were_stored(lines):
    stored = json.loads(replay_bag.PLANS.read_text())
    assert [line["t0_ns"] for line in lines] == [row["t0_ns"] for row in stored]
    apart = [np.abs(np.subtract(line["waypoints_base"], row["waypoints_base"])).max() for line, row in zip(lines, stored)]
    assert max(apart) < TOLERANCE_M


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_early_plans_and_plans_of_the_expert_alone_change_no_other_plan(tiny_engine, lines, backend):
    """On real graphs: the same text and the same final plan, bit for bit, with everything between them switched on."""
    planner = load_planner(tiny_engine, backend=backend)
    plain = {}
    topics = DriveTopics(cameras={"front": bags.IMAGE}, odometry=bags.ODOMETRY)
    try:
        with Bag(replay_bag.BAG) as bag:
            for observation in list(Replay(bag, planner.spec, topics).observations())[:12]:
                plain[observation.t0_ns] = planner.plan(observation)
                silent = planner.plan(observation, max_tokens=0)
                early = []
                rich = planner.plan(observation, early=early.append)
                alone = planner.replan(observation.history, observation.pose_odom, observation.command)
                final = plain[observation.t0_ns]
                assert (rich.reasoning, rich.tokens, rich.revision) == (final.reasoning, final.tokens, 1)
                assert np.array_equal(rich.waypoints_base, final.waypoints_base)
                assert np.array_equal(early[0].waypoints_base, silent.waypoints_base) and final.tokens > 0
                assert not np.array_equal(early[0].waypoints_base, final.waypoints_base)
                # from the same motion the expert says the same again
                assert alone.revision == 2 and np.array_equal(alone.waypoints_base, final.waypoints_base)
    finally:
        planner.close()
    if backend == "onnxruntime":
        stored = {line["t0_ns"]: line["waypoints_base"] for line in lines}
        assert all(plan.waypoints_base.tolist() == stored[t0_ns] for t0_ns, plan in plain.items())
