"""What an endpoint is asked: the four steps in words, what the car knows of itself, and the pictures."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.data.annotation import reply
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.planning import consistency

VERSION = "annotate/1"  # of all words here; replies to other words are not taken from a cache

# the predefined list of step 1 (the paper doesn't publish its own)
_TYPES = {
    "Vehicle": ("car, van, truck, bus, motorcycle", "driving ahead, stopped, braking hard, cutting in, merging, oncoming, crossing, parked"),
    "VRU": ("pedestrian, cyclist, scooter, road worker", "waiting at the kerb, walking into our way, crossing, riding along"),
    "Lane": ("our lane, lane beside, curve, junction, merge, lane end, crossing", "free, blocked, narrow, ends, bends to the left"),
    "Traffic Sign": ("traffic light, stop sign, yield sign, speed limit, arrow", "red, yellow, green, full stop at the line, in force"),
    "Ego states": ("speed, lane position, route", "standing, too fast, off centre to the left, must turn left soon"),
    "Road Events": ("cone, barrier, construction zone, accident, object on the road, rain", "closes the road, narrows our lane, beside our lane"),
}  # fmt: skip


@functools.cache
def system() -> str:
    """The task, the same for all samples."""
    lines = [f"   - {name}: {types} (states like: {states})" for name, (types, states) in _TYPES.items()]
    return "\n".join(
        [
            "You annotate driving scenes for the training of a car's planner. You see pictures from the car's cameras and numbers of its",
            "own motion. Go through four steps and answer with one JSON object, its keys in the order of the steps.",
            "",
            f'1. "elements": what there is in the scene, at most {reply.MOST_ELEMENTS}, each with an id (e1, e2, ...), class, type,',
            '   location as seen from our car ("25 m ahead, right") and state. Classes and usual types:',
            *lines,
            f'2. "critical": only the elements that change what our car must do in the next 5 s, weightiest first, at most {reply.MOST_CRITICAL};',
            '   none on a free road. kind "behavior": text says what it does; kind "impact": text says what it means for us.',
            '3. "decision": what our car should do now.',
            f"   longitudinal, one of: {'; '.join(reply.closed('longitudinal'))}",
            f"   lateral, one of: {'; '.join(reply.closed('lateral'))}",
            '4. "trace": one or two short sentences, first the cause, then the action, as the driver would think it, e.g. "Pedestrian',
            f'   steps onto the road in 15 m, stop and let her pass." At most {reply.MOST_TRACE} characters, no numbers that nobody could see.',
            "   Empty where nothing is critical.",
            "",
            "Say only what the pictures and numbers show. Left and right are those of our car.",
        ]
    )


def choose(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Pictures (camera, index of the frame) that are sent: of the front camera the oldest and the newest, of the others the newest."""
    images = record["images"]
    front = "front" if "front" in images else next(iter(images))
    newest = [(camera, len(frames) - 1) for camera, frames in images.items()]
    return [(front, 0), *newest] if len(images[front]) > 1 else newest


def messages(record: Mapping[str, Any], jpegs: Mapping[str, Sequence[bytes]], hint: bool) -> list[dict[str, Any]]:
    """Chat messages for one sample, the JPEG bytes inline as they are stored."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": _facts(record, hint)}]
    for camera, k in choose(record):
        age = (record["t0_ns"] - record["images"][camera][k]["stamp_ns"]) / NS_PER_S
        parts.append({"type": "text", "text": f"Camera {camera}, {f'{age:.1f} s ago' if age > 0.05 else 'now'}:"})
        data = base64.b64encode(jpegs[camera][k]).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    return [{"role": "system", "content": system()}, {"role": "user", "content": parts}]


def _facts(record: Mapping[str, Any], hint: bool) -> str:
    history = record["history"]
    turn = np.degrees(history["yaw_rates_rps"][-1])
    lines = [
        f"Route: {record.get('instruction') or record['command']}",
        f"Our speed over the last 1.5 s, oldest first: {', '.join(f'{v:.1f}' for v in history['speeds_mps'])} m/s;"
        f" acceleration {history['acceleration_mps2']:.1f} m/s2; turning {abs(turn):.0f} deg/s {'left' if turn > 0 else 'right'}.",
    ]
    return "\n".join([*lines, *(_hints(record) if hint else ())])


def _hints(record: Mapping[str, Any]) -> list[str]:
    """What was decided and driven. A negative was driven badly: its motion is what should not have been done."""
    future, speed = np.array(record["future"], float), record["history"]["speeds_mps"][-1]
    steps = np.diff(np.concatenate([np.zeros((1, 2)), future[:, :2]]), axis=0)
    speeds = np.hypot(*steps.T) / FUTURE_INTERVAL_S
    x, y, yaw = future[-1]
    each = speeds[1::2]  # every full second
    moved = (
        f"it was at {', '.join(f'{v:.1f}' for v in each)} m/s after {', '.join(map(str, range(1, len(each) + 1)))} s, and in the end "
        f"{x:.0f} m ahead and {abs(y):.1f} m to the {'left' if y > 0 else 'right'}, turned by {abs(np.degrees(yaw)):.0f} deg "
        f"({consistency.plan_intent(future, FUTURE_INTERVAL_S, speed)})."
    )
    if record["label"] == "neg":
        lines = [f"Hint, this was bad driving and must NOT be explained as right: {moved} Say what should have been done instead."]
    else:
        lines = [f"Hint, this is what our car then did, and it was good driving: {moved}"]
    decision = record.get("decision")
    return [*lines, f"Hint, recorded decision: {decision['longitudinal']} | {decision['lateral']}."] if decision else lines
