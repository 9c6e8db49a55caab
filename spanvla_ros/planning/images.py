"""Pictures: JPEG bytes -> RGB -> model size -> normalised patch rows, the only image path of the whole package."""

from __future__ import annotations

import weakref

import cv2
import numpy as np

from spanvla_ros.contracts import InputError, ModelSpec


def decode_jpeg(data: bytes, name: str = "image") -> np.ndarray:
    """JPEG or PNG bytes -> RGB (H, W, 3) uint8. A truncated picture is an error, not half a picture."""
    if len(data) >= 2 and data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-64:]:
        raise InputError(f"{name}: JPEG of {len(data)} bytes is truncated (no end marker); check the camera driver or the bag")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if decoded is None:
        raise InputError(f"{name}: {len(data)} bytes are no readable JPEG or PNG")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def fit(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut to the aspect of `size` (height, width) and resize: too tall loses sky at the top, too wide loses both sides."""
    height, width = rgb.shape[:2]
    if height * size[1] > width * size[0]:
        rgb = rgb[height - round(width * size[0] / size[1]) :]
    else:
        keep = round(height * size[1] / size[0])
        left = (width - keep) // 2
        rgb = rgb[:, left : left + keep]
    return cv2.resize(rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA)


class Fitter:
    """`fit` that remembers: a picture is resized once, however many observations show it. Pictures are told apart by identity, so their
    arrays must not be written to."""

    def __init__(self):
        self._known: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}

    def __call__(self, rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        picture, small = self._known.get(id(rgb), (None, None))
        if picture is None or picture() is not rgb or small.shape[:2] != size:
            small = fit(rgb, size)
            self._known = {key: entry for key, entry in self._known.items() if entry[0]() is not None}
            self._known[id(rgb)] = weakref.ref(rgb), small
        return small


def patchify(frames: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Frames (..., F, H, W, 3) uint8 at model size -> patch rows (..., F/temporal, N, 3*temporal*patch*patch) float32.

    Row order and layout are those of Qwen2VLImageProcessor: merge blocks first, then channel, time, y, x.
    """
    lead, (count, height, width, _) = frames.shape[:-4], frames.shape[-4:]
    p, m, t = spec.patch, spec.merge, spec.temporal_patch
    mean, std = np.float32(spec.image_mean), np.float32(spec.image_std)
    # a byte has 256 values: they are normalised once, and the large array is put in order while it is still bytes
    levels = ((np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std).T
    rows, columns = height // (p * m), width // (p * m)
    blocks = frames.reshape(-1, count // t, t, rows, m, p, columns, m, p, 3)
    # channel; then batch, group, row, column, merge y, merge x, time, y, x
    ordered = np.ascontiguousarray(blocks.transpose(9, 0, 1, 3, 6, 4, 7, 2, 5, 8))
    patches = np.empty((*ordered.shape[1:7], 3, *ordered.shape[7:]), np.float32)
    for channel in range(3):
        patches[..., channel, :, :, :] = levels[channel][ordered[channel]]
    return patches.reshape(*lead, count // t, rows * columns * m * m, 3 * t * p * p)
