"""The planning thread without ROS: what is planned beside the one plan per picture."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from helpers import S, demo_spec

from spanvla_ros.contracts import Command
from spanvla_ros.planning import tokenizer as tokens
from spanvla_ros.planning.inputs import InputBuffer
from spanvla_ros.planning.planner import Planner, Rate
from spanvla_ros.planning.supervisor import Reason
from spanvla_ros.planning.validity import Limits
from spanvla_ros.ros.worker import PlanningThread

TEXT = " one two three four"
WORDS = tokens.train([TEXT, "user front assistant follow the road ; acceleration speed path 0 1 2 3 4 5 6 7 8 9 . -"] * 20, 400)


class Backend:
    """Goes on as the car goes; `thinking` holds the text up until it is told to go on."""

    def __init__(self):
        self.go_on, self.thinking, self.fails, self.leaps = threading.Event(), threading.Event(), False, 0.0
        self.go_on.set()
        self.threads = set()

    def prefill(self, prompt):
        self.threads.add(threading.current_thread().name)

    def decode(self, max_tokens):
        self.thinking.set()
        assert self.go_on.wait(10)
        yield from [*WORDS.encode(TEXT).ids, WORDS.token_to_id(tokens.ACTION_START)]

    def flow(self, motion, noise):
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise RuntimeError("out of memory")
        return motion["base"] + self.leaps * np.arange(1, 11)[:, None]

    def close(self):
        pass


class Drive:
    """A buffer with a car at 8 m/s, and the thread that plans for it."""

    def __init__(self, rate):
        self.backend, self.found, self.came = Backend(), [], threading.Condition()
        spec = demo_spec(prompt_tokens=256)
        self.buffer = InputBuffer(spec)
        planner = Planner(spec, WORDS, self.backend, "fake")
        self.thread = PlanningThread(planner, self.buffer, Limits(), lambda: Command.STRAIGHT, self._report, rate=rate)
        for k in range(-40, 1):
            self.buffer.add_odometry(10 * S + k * S // 20, np.array([0.4 * k, 0, 0]), 8.0, 0.0)
        for k in range(-5, 1):
            self.buffer.add_image("front", 10 * S + k * S // 10, np.full((112, 224, 3), 100, np.uint8))

    def _report(self, attempt):
        with self.came:
            self.found.append(attempt)
            self.came.notify()

    def image(self):
        assert self.thread.image(10 * S, time.monotonic())

    def odometry(self, ms):
        self.buffer.add_odometry(10 * S + ms * 10**6, np.array([0.008 * ms, 0, 0]), 8.0, 0.0)
        self.thread.input()

    def wait(self, count):
        with self.came:
            assert self.came.wait_for(lambda: len(self.found) >= count, 10), self.found
        return self.found


@pytest.fixture
def start():
    made = []

    def make(**rate):
        made.append(Drive(Rate(**rate)))
        return made[-1]

    yield make
    for drive in made:
        drive.backend.go_on.set()
        drive.thread.stop()


def settled(drive, count):
    """No more than `count` attempts, also after a while."""
    drive.wait(count)
    time.sleep(0.2)
    assert len(drive.found) == count
    return drive.found


def test_one_plan_per_picture_unless_told_otherwise(start):
    drive = start()
    drive.image()
    drive.wait(1)
    drive.odometry(50)
    (found,) = settled(drive, 1)
    assert (found.reason, found.plan.revision, found.plan.reasoning) == (Reason.OK, 1, TEXT.strip())
    assert {"decode", "observe", "check"} <= set(found.plan.timings_ms)


def test_a_plan_is_told_while_the_text_is_thought(start):
    drive = start(plan_early=True)
    drive.backend.go_on.clear()
    drive.image()
    (early,) = drive.wait(1)
    assert drive.backend.thinking.wait(10) and len(drive.found) == 1
    drive.backend.go_on.set()
    _, whole = settled(drive, 2)
    assert [a.plan.revision for a in (early, whole)] == [0, 1] and early.anchor_ns == whole.anchor_ns == 10 * S
    assert early.trajectory is not None and early.observation is whole.observation


def test_between_pictures_the_expert_follows_the_odometry(start):
    drive = start(replan_s=0.1, max_kv_age_s=0.3)
    drive.image()
    drive.wait(1)
    for count, ms in ((1, 50), (2, 100), (2, 150), (3, 200), (3, 290), (4, 300), (4, 310), (4, 400)):
        drive.odometry(ms)
        settled(drive, count)
    assert [a.plan.revision for a in drive.found] == [1, 2, 2, 2]
    assert [round(a.plan.kv_age_s, 3) for a in drive.found] == [0, 0.1, 0.2, 0.3]
    assert drive.found[-1].trajectory.stamp_ns == 10 * S + 300_000_000 and drive.found[-1].trajectory.poses_odom[0, 0] == pytest.approx(2.4)
    assert drive.backend.threads == {"planning"}


def test_after_a_reset_nothing_is_planned_on_old_pictures(start):
    drive = start(replan_s=0.1)
    drive.image()
    drive.wait(1)
    drive.thread.reset()
    drive.odometry(100)
    settled(drive, 1)


def test_an_expert_that_leaps_is_not_followed_and_one_that_fails_is_told_once(start):
    drive = start(replan_s=0.1)
    drive.image()
    drive.wait(1)
    drive.backend.leaps = 40.0
    drive.odometry(100)
    settled(drive, 1)
    drive.backend.leaps, drive.backend.fails = 0.0, True
    drive.odometry(200)
    assert settled(drive, 2)[1].reason is Reason.BACKEND_ERROR
    drive.odometry(300)
    settled(drive, 2)


def test_a_defect_is_told_and_does_not_end_the_thread(start, monkeypatch, caplog):
    drive = start()
    observe = drive.buffer.observe

    def once(*args):
        monkeypatch.setattr(drive.buffer, "observe", observe)
        raise KeyError("front")

    monkeypatch.setattr(drive.buffer, "observe", once)
    drive.image()
    assert drive.wait(1)[0].reason is Reason.BACKEND_ERROR and "KeyError" in caplog.text
    drive.buffer.add_image("front", 10 * S + S // 10, np.full((112, 224, 3), 100, np.uint8))
    drive.odometry(100)
    assert drive.thread.image(10 * S + S // 10, time.monotonic())
    assert drive.wait(2)[1].reason is Reason.OK
