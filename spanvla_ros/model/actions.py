"""Action codebook: K short motions of the car, one token each, and the way from a trajectory to tokens and back.

Method section 2.4. A trajectory becomes tokens one interval after the other, each time by the motion that brings the box of
the car closest to where it should be, seen from where the earlier tokens have brought it: errors don't add up.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spanvla_ros.contracts import VEHICLE, ConfigError, DataError
from spanvla_ros.geometry import to_global, to_local

SCHEMA = "spanvla-codebook/1"
ROWS = 128  # trajectories tokenised at once: bounds the memory of the distance table


@dataclass(frozen=True, kw_only=True)
class Box:
    """Outline that distances are measured with; centre_m is its centre ahead of the pose (rear axle). Sizes of the predecessor's."""

    length_m: float = 4.8
    width_m: float = 2.0
    centre_m: float = VEHICLE.center_m

    def corners(self, poses: np.ndarray) -> np.ndarray:
        """Corners (..., 4, 2) float32 of poses (..., 3): front left, front right, rear right, rear left."""
        cos, sin = np.cos(poses[..., None, 2]), np.sin(poses[..., None, 2])
        ahead = self.centre_m + self.length_m / 2 * np.array([1, 1, -1, -1])
        left = self.width_m / 2 * np.array([1, -1, -1, 1])
        x = poses[..., None, 0] + cos * ahead - sin * left
        y = poses[..., None, 1] + sin * ahead + cos * left
        return np.stack([x, y], axis=-1).astype(np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distance of corresponding corners (..., 4, 2), broadcast."""
    dx, dy = a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]
    return np.sqrt(dx * dx + dy * dy).mean(axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """segments (K, 3) float32: pose at the end of each motion in the frame of its start; the first is standstill.

    interval_s: duration of a motion; radius_m: of the disks that it was built with; data_sha256: of the data set behind it.
    """

    segments: np.ndarray
    interval_s: float
    box: Box
    radius_m: float
    data_sha256: str

    def __post_init__(self):
        if self.segments.ndim != 2 or self.segments.shape[1] != 3 or not len(self.segments) or not np.isfinite(self.segments).all():
            raise ConfigError(f"a codebook needs finite segments (K, 3), these have shape {self.segments.shape}")

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def sha256(self) -> str:
        """Identity: what tokens mean."""
        return hashlib.sha256(np.ascontiguousarray(self.segments, np.float32).tobytes() + f"{self.interval_s:g}".encode()).hexdigest()

    def tokenise(self, waypoints: np.ndarray) -> np.ndarray:
        """Indices (..., T) int64 of trajectories (..., T, 3) in base_link, one waypoint per interval."""
        flat = np.asarray(waypoints, np.float64).reshape(-1, *waypoints.shape[-2:])
        known = self.box.corners(self.segments)[None]
        tokens = np.zeros(flat.shape[:2], np.int64)
        for rows in (slice(i, i + ROWS) for i in range(0, len(flat), ROWS)):
            pose = np.zeros((len(flat[rows]), 3))
            for step in range(flat.shape[1]):
                wanted = self.box.corners(to_local(pose, flat[rows, step]))[:, None]
                tokens[rows, step] = distance(wanted, known).argmin(axis=1)
                pose = to_global(pose, self.segments[tokens[rows, step]])
        return tokens.reshape(waypoints.shape[:-1])

    def detokenise(self, tokens: np.ndarray) -> np.ndarray:
        """Trajectories (..., T, 3) float64 in base_link of indices (..., T). Raises DataError for an index that the codebook doesn't have."""
        tokens = np.asarray(tokens)
        wrong = tokens[(tokens < 0) | (tokens >= len(self))]
        if wrong.size:
            raise DataError(f"action token {int(wrong[0])} is not in a codebook of {len(self)}")
        pose = np.zeros((*tokens.shape[:-1], 3))
        poses = []
        for step in range(tokens.shape[-1]):
            pose = to_global(pose, self.segments[tokens[..., step]])
            poses.append(pose)
        return np.stack(poses, axis=-2)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file: tensor `segments`, everything else as metadata. Raises DataError where that fails."""
        path = Path(path)
        meta = {"schema": SCHEMA, "size": len(self), "interval_s": self.interval_s, "box": asdict(self.box)}
        meta |= {"radius_m": self.radius_m, "data_sha256": self.data_sha256, "sha256": self.sha256}
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # sorted into one entry: the header keeps no order, and the file shall be the same every time
            save_file({"segments": np.ascontiguousarray(self.segments, np.float32)}, str(part), {"codebook": json.dumps(meta, sort_keys=True)})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise DataError(f"{path} can't be written: {error}") from None


def load(path: Path | str, size: int | None = None) -> Codebook:
    """Read a codebook. Raises ConfigError where the file is none, was changed, or holds another number of motions than `size`."""
    try:
        with safe_open(str(path), framework="np") as file:
            meta = json.loads((file.metadata() or {}).get("codebook", "{}"))
            if meta.get("schema") != SCHEMA:
                found = meta.get("schema")
                raise ConfigError(f"{path} is no action codebook (schema {found!r}, expected {SCHEMA!r}); make one with `spanvla train codebook`")
            codebook = Codebook(
                segments=file.get_tensor("segments"),
                interval_s=meta["interval_s"],
                box=Box(**meta["box"]),
                radius_m=meta["radius_m"],
                data_sha256=meta["data_sha256"],
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} can't be read as an action codebook: {error}") from None
    if meta["size"] != len(codebook) or meta["sha256"] != codebook.sha256:
        raise ConfigError(f"{path} was changed: its header speaks of {meta['size']} motions with hash {meta['sha256'][:12]}; make it again")
    if size is not None and len(codebook) != size:
        raise ConfigError(f"{path} has {len(codebook)} motions, the model speaks {size} action tokens; use the codebook that it was trained with")
    return codebook

