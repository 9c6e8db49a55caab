"""A recorded drive in the order in which a planner is to be shown it: an image that asks for a plan comes when all that it needs is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.data.bag import IMAGE_TYPES, ODOMETRY_TYPES, Bag
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.planning import messages

COMMAND_TYPES = ("std_msgs/msg/String",)
# how long an image of the anchor camera waits for the other cameras' frames of the same moment
PATIENCE_NS = NS_PER_S // 3


@dataclass(frozen=True, kw_only=True)
class Cue:
    """One message. topic is that of the bag; raw its CDR bytes; camera its name, "" for what is no image; asks: an image of the first
    camera, for which a plan is wanted now. A message without a header has the stamp of the odometry that came last."""

    topic: str
    stamp_ns: int
    message: Any
    raw: bytes
    camera: str = ""
    asks: bool = False


def require(bag: Bag, topics: DriveTopics) -> None:
    """InputError unless cameras and odometry, and what else is named and in the bag, have messages of the right type."""
    for name, topic in topics.cameras.items():
        bag.require(topic, IMAGE_TYPES, f"camera '{name}'")
    bag.require(topics.odometry, ODOMETRY_TYPES, "odometry")
    if topics.command in bag.topics:
        bag.require(topics.command, COMMAND_TYPES, "command")


def cues(bag: Bag, topics: DriveTopics, also: Sequence[str] = ()) -> Iterator[Cue]:
    """The messages of cameras, odometry, command and engagement, and those of the topics `also`, in the order of recording; but an image of
    the first camera is held back until there is odometry at or after it, and the other cameras' frames or no patience left."""
    cameras = {topic: name for name, topic in topics.cameras.items()}
    anchor = next(iter(topics.cameras))
    newest = dict.fromkeys(topics.cameras, 0)
    odometry_ns = 0
    held: list[Cue] = []
    wanted = {*cameras, topics.odometry, topics.command, *([topics.engagement.topic] if topics.engagement else []), *also} & set(bag.topics)
    for topic, message, raw in bag.records(sorted(wanted)):
        camera = cameras.get(topic, "")
        stamp_ns = messages.stamp_ns(message.header.stamp) if hasattr(message, "header") else odometry_ns
        cue = Cue(topic=topic, stamp_ns=stamp_ns, message=message, raw=raw, camera=camera, asks=camera == anchor)
        if topic == topics.odometry:
            odometry_ns = max(odometry_ns, stamp_ns)
        if camera:
            newest[camera] = max(newest[camera], stamp_ns)
        if cue.asks:
            held.append(cue)
        else:
            yield cue
        while held and odometry_ns >= held[0].stamp_ns and (min(newest.values()) >= held[0].stamp_ns or odometry_ns > held[0].stamp_ns + PATIENCE_NS):
            yield held.pop(0)
    yield from held
