"""Plans over a bag: made by an engine in this process, or by a running planner node that the bag is played to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.contracts import Command, ConfigError, InputError, Observation, Plan, SpanVLAError

if TYPE_CHECKING:
    from spanvla_ros.data.bag import Bag
    from spanvla_ros.data.replay import Track
    from spanvla_ros.data.topics import DriveTopics

PLANNER = "/spanvla_planner"
_TELL_EVERY = 50
_SILENCES = 3  # unanswered images after which it is asked whether anybody is there
# a plan and what plans.jsonl says about its inputs
Write = Callable[[Plan, Mapping[str, Any]], None]


class NoAnswer(SpanVLAError):
    """The planner node no longer answers."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Plans in the order of their stamps, what the drive was like, the cameras (the first one asks), and who planned."""

    plans: list[Plan]
    track: Track
    topics: DriveTopics
    planner: str


def by_engine(bag: Bag, topics: DriveTopics, engine: Path, rig: Path, command: Command | None, budgets: Mapping[int, int], write: Write) -> Planned:
    """rig: file of the cameras of the training; budgets: t0 in ns -> most tokens of the text of that plan."""
    from spanvla_ros.data.replay import Replay
    from spanvla_ros.engine.load import load_planner
    from spanvla_ros.planning.rig import load_rig
    from spanvla_ros.planning.supervisor import Reason
    from spanvla_ros.ros.worker import warm_up

    planner = load_planner(engine)
    try:
        warm_up(planner)  # as the node does before its first plan
        replay = Replay(bag, planner.spec, topics, command, load_rig(rig))
        progress = _Progress()
        plans = []
        for observation in replay.observations():
            try:
                plan = planner.plan(observation, max_tokens=budgets.get(observation.t0_ns))
            except InputError as error:
                replay.track.skip(Reason.PLAN_INVALID.value, error)
                replay.track.refused.append((observation.t0_ns, Reason.PLAN_INVALID.value))
                continue
            plans.append(plan)
            write(plan, inputs(observation))
            progress.tell(len(plans))
    finally:
        planner.close()
    return Planned(plans=plans, track=replay.track, topics=replay.topics, planner=f"engine {engine.name}")


def by_node(bag: Bag, topics: DriveTopics, rate: float, write: Write) -> Planned:
    """The bag on its own topics to a planner node in lock-step, at most `rate` times as fast as it was recorded (0: as fast as it goes)."""
    from spanvla_ros.data.cues import cues, require
    from spanvla_ros.data.replay import Track
    from spanvla_ros.ros.player import Player

    require(bag, topics)
    track, progress = Track(topics), _Progress()
    infos = [name for name in map(bag.camera_info_topic, topics.cameras.values()) if name]
    also = [*infos, *(["/tf_static"] if "/tf_static" in bag.topics else [])]
    names = [*topics.cameras.values(), topics.odometry, *([topics.command] if topics.command in bag.topics else []), *also]
    plans, silences = [], 0
    with Player(PLANNER, {name: bag.topics[name] for name in names}, (*topics.cameras.values(), topics.odometry), rate) as player:
        player.wait()
        for cue in cues(bag, topics, also):
            track.take(cue)
            if not cue.asks:
                player.send(cue.topic, cue.stamp_ns, cue.raw)
                continue
            answer = player.ask(cue.topic, cue.stamp_ns, cue.raw)
            silences = 0 if answer else silences + 1
            if answer is None:
                track.skip("NO_ANSWER", f"{PLANNER} doesn't answer to the image at {cue.stamp_ns} ns")
                if silences >= _SILENCES and not player.alive:
                    raise NoAnswer(f"{PLANNER} answered to none of {silences} images; {len(plans)} plans were made before")
            elif answer.plan is None:
                track.skip(answer.reason, answer.detail)
                track.refused.append((cue.stamp_ns, answer.reason))
            else:
                plans.append(answer.plan)
                write(answer.plan, answer.inputs)
                progress.tell(len(plans))
    return Planned(plans=plans, track=track, topics=topics, planner=f"node {PLANNER}")


def inputs(observation: Observation) -> dict[str, Any]:
    """What plans.jsonl says about the inputs of a plan."""
    return {
        "image_stamps_ns": {camera: [image.stamp_ns for image in images] for camera, images in observation.images.items()},
        "image_ages_s": {camera: list(ages) for camera, ages in observation.image_ages_s.items()},
        "skew_s": observation.skew_s,
        "command": observation.command.value,
    }


def drive_topics(bag: Bag, file: Path | None, cameras: Mapping[str, str], odometry: str | None) -> DriveTopics:
    """Topics of the options, or of a file like config/topics/drive.yaml, of which only the cameras that the bag has count."""
    from spanvla_ros.data.topics import DriveTopics, load

    if file is None:
        if not cameras or not odometry:
            raise ConfigError("give --camera and --odometry, or --topics with a file like config/topics/drive.yaml")
        return DriveTopics(cameras=dict(cameras), odometry=odometry)
    if cameras or odometry:
        raise ConfigError("--topics names cameras and odometry, leave out --camera and --odometry")
    topics = load(file)
    return topics.only([name for name, topic in topics.cameras.items() if topic in bag.topics] or list(topics.cameras))


class _Progress:
    """A line on the error output now and then."""

    def __init__(self):
        self._began_s = time.monotonic()

    def tell(self, plans: int) -> None:
        if plans % _TELL_EVERY == 0:
            print(f"{plans} plans, {plans / (time.monotonic() - self._began_s):.1f} per second", file=sys.stderr)
