"""Animated WebP out of single pictures: a film that every browser plays and that fits into one HTML file.

OpenCV writes still WebP in every version; the container of an animation (WebP Container Specification, RIFF chunks VP8X,
ANIM, ANMF) is put around its frames here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cv2
import numpy as np

from spanvla_ros.contracts import InputError

_ANIMATED = 0x02
_PICTURE_CHUNKS = (b"VP8 ", b"VP8L")


def encode(frames: Sequence[np.ndarray], frame_ms: int, quality: int = 55) -> bytes:
    """Bytes of an endless animation of rgb frames (H, W, 3) uint8, all of one size, each shown for `frame_ms`."""
    if not frames:
        raise InputError("an animation needs at least one frame")
    height, width = frames[0].shape[:2]
    body = _chunk(b"VP8X", struct.pack("<B3x", _ANIMATED) + _u24(width - 1) + _u24(height - 1))
    body += _chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, 0))
    for frame in frames:
        if frame.shape[:2] != (height, width):
            raise InputError(f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels in an animation of {width}x{height}")
        still = cv2.imencode(".webp", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        # at (0, 0), without blending: every frame covers the last one
        head = _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1) + _u24(frame_ms) + b"\x02"
        body += _chunk(b"ANMF", head + _picture(still))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _picture(still: bytes) -> bytes:
    """The chunk of a still WebP file that holds the picture."""
    at = 12
    while at < len(still):
        name, size = still[at : at + 4], struct.unpack_from("<I", still, at + 4)[0]
        if name in _PICTURE_CHUNKS:
            return _chunk(name, still[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    raise InputError("the encoder made a WebP file without a picture")


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
