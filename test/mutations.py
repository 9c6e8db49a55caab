"""Seeded damage: pictures, messages, texts and trees as a broken driver, a torn file or a slip of the hand leaves them.

Values stay within the types of ROS messages, which the middleware guarantees; everything else may happen to them.
"""

from __future__ import annotations

import copy
import json
from random import Random
from types import SimpleNamespace as Box
from typing import Any

import cv2
import numpy as np

NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e-9, 3.2e4, 1e9, -1e18, 1e300, -1.7e308, float("nan"), float("inf"), float("-inf"))
COUNTS = (0, 1, 2, 3, 7, 224, 672, 65535, 65536, 2**31 - 1, 2**32 - 1)
SECONDS = (0, 1, -1, 10, 11, 2**31 - 1, -(2**31))
WORDS = (
    "", " ", "left", "Right ", "straight", "unknown", "null", "~", "NaN", ".nan", ".inf", "-.inf", "1e999", "-1", "0", "1_0", "0o17", "0x", "1e-3",
    "yes", "[]", "{}", "[[]]",
    "{a: 1}", "- a", "? [a]", "!!python/object:os.system", "!!binary x", "!!timestamp 2001-13-45",
    "2001-99-99", "12:99:99", "&a [*a]", "*a", "<<: {}", "%", "@", "`", "\x00", "\t",
    "\ud7ff", "é" * 300, "9" * 400, "9" * 5000, "[" * 400,
    "front", "{camera}", "/a/b", "true", "#", "'", '"', "|", ">", ":", "a: b: c", "\u2028", "\ufeff", "---\n---",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 10**30, 10**400, -5, 0.0, 1.5, float("nan"), float("inf"), -1e308, "", "front",
    "x" * 300, [], [1], [[1.0], "a"], {}, {"a": 1}, [None], (), "1e-3", {1: 2},
    {None: 1},
)  # fmt: skip


def damaged_bytes(rng: Random, data: bytes) -> bytes:
    """The same with bits flipped, a part cut out, doubled, overwritten or torn off."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(made) + 1)
        part = rng.choice((1, 2, 16, 200))
        kind = rng.randrange(7)
        if kind == 0:
            del made[at:]
        elif kind == 1:
            del made[at : at + part]
        elif kind == 2:
            made[at:at] = made[at : at + part]
        elif kind == 3:
            made[at : at + part] = rng.randbytes(part)
        elif kind == 4:
            made[at : at + part] = bytes([rng.choice((0, 255))]) * part
        elif made:
            # headers decide how the rest is read
            made[min(at, len(made) - 1) if kind == 5 else rng.randrange(min(len(made), 200))] ^= 1 << rng.randrange(8)
    return bytes(made)


def damaged_text(rng: Random, text: str) -> str:
    """YAML or JSON after a slip: lines lost, doubled, moved, indented; values replaced; bytes damaged."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines[at] = rng.choice(("", " ", "  ", "\t")) + lines[at].lstrip()
        elif kind == 3:
            head, sign, _ = lines[at].partition(":")
            lines[at] = f"{head}{sign or ':'} {rng.choice(WORDS)}"
        elif kind == 4:
            lines[at] = rng.choice(WORDS)
        elif kind == 5:
            lines.insert(at, f"{rng.choice(('', '  '))}{rng.choice(WORDS)}: {rng.choice(WORDS)}")
        text = "\n".join(lines) or " "
        if kind == 6:
            text = text[: rng.randrange(len(text) + 1)] or " "
        elif kind == 7:
            text = damaged_bytes(rng, text.encode()).decode("utf-8", "replace") or " "
    return text


def damaged_tree(rng: Random, tree: Any) -> Any:
    """Plain values with some of them, at any depth, replaced, lost or added."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(WORDS)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 3 and isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300:
            holder[key] = rng.choice((-holder[key], holder[key] * 1000, holder[key] + 1, float(holder[key]), str(holder[key])))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _places(tree: Any) -> Any:
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(value)


def document(rng: Random, text: str) -> str:
    """JSON after a slip, or valid JSON with wrong values."""
    if rng.random() < 0.4:
        return damaged_text(rng, text)
    return json.dumps(damaged_tree(rng, json.loads(text)))


def number(rng: Random, usual: float) -> float:
    return usual if rng.random() < 0.7 else rng.choice((*NUMBERS, usual * rng.uniform(-3, 3)))


def header(rng: Random, sec: int = 10, nanosec: int = 0) -> Box:
    if rng.random() < 0.2:
        sec = rng.choice(SECONDS)
    return Box(stamp=Box(sec=sec, nanosec=nanosec if rng.random() < 0.8 else rng.choice(COUNTS)), frame_id=rng.choice(("odom", "map", "", "é")))


def odometry(rng: Random, sec: int = 10, nanosec: int = 0) -> Box:
    """nav_msgs/Odometry with any float64 anywhere."""
    position = Box(x=number(rng, 4.0), y=number(rng, -2.0), z=number(rng, 0.0))
    turn = Box(x=number(rng, 0.0), y=number(rng, 0.0), z=number(rng, 0.6), w=number(rng, 0.8))
    twist = Box(linear=Box(x=number(rng, 5.0), y=0.0, z=0.0), angular=Box(x=0.0, y=0.0, z=number(rng, 0.1)))
    pose = Box(pose=Box(position=position, orientation=turn))
    return Box(header=header(rng, sec, nanosec), pose=pose, twist=Box(twist=twist), child_frame_id="base_link")


def raw_image(rng: Random) -> Box:
    """sensor_msgs/Image whose numbers may contradict each other and its data."""
    encoding = rng.choice(("rgb8", "bgr8", "bgra8", "rgba8", "mono8", "yuv422", "yuv422_yuy2", "16UC1", "bayer_rggb8", "", "RGB8", "é"))
    height, width = rng.choice(((3, 5), (4, 6), (1, 1), (1, 900), (900, 1), (0, 5), (30, 40)))
    step = width * rng.choice((1, 2, 3, 4))
    data = rng.randbytes(max(0, height * step + rng.choice((0, 0, 0, 0, -1, 1, -5, 7))))
    height, width, step = (value if rng.random() < 0.9 else rng.choice(COUNTS) for value in (height, width, step))
    kind = rng.choice((bytes, bytearray, lambda b: np.frombuffer(b, np.uint8), memoryview))
    return Box(header=header(rng), encoding=encoding, height=height, width=width, step=step, is_bigendian=rng.choice((0, 1, 255)), data=kind(data))


def path(rng: Random) -> Box:
    """nav_msgs/Path: short, doubled, far, not finite."""
    points = [[float(k), 0.1 * k * k] for k in range(rng.choice((0, 1, 2, 3, 12)))]
    for point in points:
        for axis in (0, 1):
            point[axis] = number(rng, point[axis]) if rng.random() < 0.3 else point[axis]
    if points and rng.random() < 0.3:
        points[rng.randrange(len(points)) :] = [points[-1]] * rng.choice((1, 2, 5))
    poses = [Box(pose=Box(position=Box(x=x, y=y, z=0.0), orientation=Box(x=0.0, y=0.0, z=0.0, w=1.0)), header=header(rng)) for x, y in points]
    return Box(header=header(rng), poses=poses)


def pictures(rng: Random) -> list[bytes]:
    """JPEG and PNG of several sizes and kinds, whole ones."""
    noise = np.random.default_rng(rng.randrange(2**31))
    found = []
    for shape in ((126, 224, 3), (20, 24, 3), (16, 16), (1, 1, 3), (3, 700, 3), (700, 2, 3)):
        pixels = cv2.resize(noise.integers(0, 255, (8, 8, 3) if len(shape) == 3 else (8, 8), dtype=np.uint8), (shape[1], shape[0]))
        found += [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".jpg", ".png")]
    found.append(cv2.imencode(".jpg", noise.integers(0, 255, (40, 40, 3), dtype=np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    return found
