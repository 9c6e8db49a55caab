"""The pictures of samples from a bag: read in one pass by stamp, refused where they can't be read or are blurred."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from spanvla_ros.contracts import InputError, Observation
from spanvla_ros.data.bag import Bag
from spanvla_ros.planning import messages
from spanvla_ros.planning.images import decode_jpeg

# an observation, and camera -> (stamp, JPEG) of its frames
Moment = tuple[Observation, dict[str, list[tuple[int, bytes]]]]

_JPEG_QUALITY = 95  # of pictures that were recorded raw
_JUDGED_PX, _RECENT, _FEWEST = 480, 40, 6  # width for the sharpness; frames of a camera that it is compared with


def with_pictures(
    bag: Bag,
    moments: Sequence[Observation],
    topics: Mapping[str, str],
    cameras: Mapping[str, Mapping[str, Any]],
    *,
    blur: float,
    skipped: Counter[str],
) -> Iterator[Moment]:
    """Moments whose pictures are all readable and sharp, with them, in order. Holds the pictures of a few moments at a time.

    topics: camera -> image topic; cameras: camera -> its calibration; blur: share of a camera's usual sharpness below which a frame is
    blurred, 0 keeps all; skipped: counts those without their pictures, by reason code. InputError for pictures of another size than calibrated.
    """
    names = {topic: name for name, topic in topics.items()}
    needed = {(camera, frame.stamp_ns) for o in moments for camera, frames in o.images.items() for frame in frames}
    judges = {camera: _Sharpness(blur) for camera in cameras}
    found: dict[tuple[str, int], bytes | str] = {}  # a frame, or the reason code why there is none
    waiting = deque(moments)

    def due(everything: bool) -> Iterator[Moment]:
        while waiting:
            keys = {camera: [(camera, frame.stamp_ns) for frame in frames] for camera, frames in waiting[0].images.items()}
            flat = [key for row in keys.values() for key in row]
            if not everything and any(key not in found for key in flat):
                return
            observation = waiting.popleft()
            reasons = [found.get(key, "IMAGE_MISSING") for key in flat]
            bad = next((reason for reason in reasons if isinstance(reason, str)), None)
            if bad is None:
                yield observation, {camera: [(stamp, found[camera, stamp]) for _, stamp in row] for camera, row in keys.items()}
            else:
                skipped[bad] += 1
            oldest = min((f.stamp_ns for frames in waiting[0].images.values() for f in frames), default=0) if waiting else 0
            for key in [key for key in found if key[1] < oldest]:
                del found[key]

    for topic, message in bag.messages(list(names)):
        key = names[topic], messages.stamp_ns(message.header.stamp)
        if key not in needed:
            continue
        try:
            payload, rgb = _picture(message, f"camera '{key[0]}' at {key[1]} ns")
        except InputError:
            found[key] = "IMAGE_UNREADABLE"
        else:
            size = cameras[key[0]]["height"], cameras[key[0]]["width"]
            if rgb.shape[:2] != size:
                shown = f"pictures of {rgb.shape[1]}x{rgb.shape[0]}, its calibration is for {size[1]}x{size[0]}"
                raise InputError(f"camera '{key[0]}' of {bag.path} has {shown}; give the right one with --rig FILE")
            found[key] = "IMAGE_BLURRED" if judges[key[0]].blurred(rgb) else payload
        yield from due(False)
    yield from due(True)


def _picture(message: Any, name: str) -> tuple[bytes, np.ndarray]:
    """A frame as it is stored and as pixels."""
    payload = messages.image(message)
    if isinstance(payload, bytes):
        return payload, decode_jpeg(payload, name)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(payload, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return encoded.tobytes(), payload


class _Sharpness:
    """Compares a camera's frames with its own recent ones: what is sharp depends on lens, light and scene."""

    def __init__(self, ratio: float):
        self._ratio = ratio
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def blurred(self, rgb: np.ndarray) -> bool:
        if not self._ratio:
            return False
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if grey.shape[1] > _JUDGED_PX:
            grey = cv2.resize(grey, (_JUDGED_PX, round(grey.shape[0] * _JUDGED_PX / grey.shape[1])), interpolation=cv2.INTER_AREA)
        value = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        usual = float(np.median(self._recent)) if len(self._recent) >= _FEWEST else 0.0
        self._recent.append(value)
        return value < self._ratio * usual
