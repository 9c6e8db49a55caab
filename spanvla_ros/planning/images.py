"""Pictures: JPEG bytes -> RGB -> model size -> normalised patch rows, the only image path of the whole package."""

from __future__ import annotations

import weakref

import cv2
import numpy as np

from spanvla_ros.contracts import InputError, ModelSpec

# above every camera for cars; one damaged byte in a header can ask for gigabytes
MAX_PIXELS = 50_000_000
FINER = 1.5
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# markers of a JPEG frame header, ITU-T T.81 table B.1: C0 to CF without DHT, JPG and DAC
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_jpeg(data: bytes, name: str = "image", wanted: tuple[int, int] | None = None) -> np.ndarray:
    """JPEG or PNG bytes -> RGB (H, W, 3) uint8. A truncated picture is an error, not half a picture.

    wanted: (height, width) of the model input. A JPEG that is much finer is decoded at a half, a quarter or an eighth of its size, which
    takes a third of the time; never below FINER times what is wanted, so that small pictures are decoded as ever.
    """
    if data[:2] == _JPEG and b"\xff\xd9" not in data[-64:]:
        raise InputError(f"{name}: JPEG of {len(data)} bytes is truncated (no end marker); check the camera driver or the bag")
    size = encoded_size(data)
    if size is None:
        raise InputError(f"{name}: {len(data)} bytes are no readable JPEG or PNG")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{name}: the header says {size[1]}x{size[0]} pixels, more than {MAX_PIXELS // 10**6} million; the picture is damaged")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _scale(size, wanted) if data[:2] == _JPEG else cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{name}: {len(data)} bytes can't be decoded ({error.err})") from None
    if decoded is None:
        raise InputError(f"{name}: {len(data)} bytes are no readable JPEG or PNG")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _scale(size: tuple[int, int], wanted: tuple[int, int] | None) -> int:
    """OpenCV's flag for a JPEG of `size`."""
    finer = 1.0 if wanted is None else min(size[0] / wanted[0], size[1] / wanted[1])
    return next((flag for part, flag in _REDUCED if finer >= part * FINER), cv2.IMREAD_COLOR)


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header of a JPEG or PNG tells, None where it is neither."""
    if data[:8] == _PNG:
        return (int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")) if len(data) >= 24 else None
    at = 2 if data[:2] == _JPEG else len(data)
    largest = None
    # segments: FF, marker, length of two bytes; between them there may be fill
    while at + 9 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
        elif data[at + 1] in _FRAMES:
            found = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            largest = max(largest or found, found, key=lambda size: size[0] * size[1])
            at += 2
        elif data[at + 1] == 0xDA:  # the scan begins
            break
        else:
            at += 2 + (int.from_bytes(data[at + 2 : at + 4], "big") if not 0xD0 <= data[at + 1] <= 0xD8 else 0)
    return largest


BLACK = 16  # the black of video, of 255
_BRIGHT_SHARE = 0.01  # dead pixels


def is_black(rgb: np.ndarray) -> bool:
    """Whether (H, W, 3) uint8 shows nothing at all: a covered lens, a driver that sends empty buffers. Night has lamps."""
    sample = rgb[::8, ::8]
    return np.count_nonzero(sample > BLACK) <= _BRIGHT_SHARE * sample.size


def alike(one: bytes | np.ndarray, other: bytes | np.ndarray) -> bool:
    """Whether two payloads, encoded or (H, W, 3), are the same to the last bit; a live sensor never is, for its noise."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and one == other
    return one.shape == other.shape and np.array_equal(one[::16, ::16], other[::16, ::16]) and np.array_equal(one, other)


def fit(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut to the aspect of `size` (height, width) and resize: too tall loses sky at the top, too wide loses both sides."""
    height, width = rgb.shape[:2]
    if height * size[1] > width * size[0]:
        rgb = rgb[height - max(1, round(width * size[0] / size[1])) :]
    else:
        keep = max(1, round(height * size[1] / size[0]))
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
