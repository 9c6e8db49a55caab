"""Stamped messages -> one observation on the model's own time grid. Frames and poses are chosen by stamp, never by index."""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import NS_PER_S, Command, EgoHistory, Image, InputError, ModelSpec, NotReady, Observation
from spanvla_ros.planning.images import alike, decode_jpeg, is_black

FROZEN_M = 1.0  # a car that has moved this far has not seen the same picture all the way


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """frame_tolerance_s: how far a frame may lie from its grid stamp; odometry_gap_s: longest gap that is interpolated; max_skew_s:
    largest stamp difference between the newest frames of the cameras. refuse_black: black pictures are no observation; refuse_frozen:
    nor is one picture that is sent again and again while the car moves. The simulator shows both on purpose, so both are off here."""

    frame_tolerance_s: float = 0.06
    odometry_gap_s: float = 0.25
    max_skew_s: float = math.inf
    refuse_black: bool = False
    refuse_frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The part of a ModelSpec that says which stamps an observation needs; stands in for one where there is no model. image_size None:
    pictures are wanted as they are."""

    cameras: tuple[str, ...]
    frame_offsets_s: tuple[float, ...]
    history_offsets_s: tuple[float, ...]
    image_size: tuple[int, int] | None = None


class InputBuffer:
    """Recent frames and odometry by stamp. Thread-safe: callbacks add, the inference thread observes.

    A payload is encoded bytes, decoded when it is first used, or an RGB array (H, W, 3) uint8. decoded_s: time that decoding took so far;
    received: messages of every input so far, "odometry" or "image/CAMERA".
    """

    def __init__(self, spec: ModelSpec | Grid, limits: InputLimits | None = None):
        self.spec = spec
        self.limits = limits or InputLimits()
        self._keep_ns = int((1.0 - min(*spec.frame_offsets_s, *spec.history_offsets_s)) * NS_PER_S)
        self._lock = threading.Lock()
        self.decoded_s = 0.0
        self.received = {"odometry": 0, **{f"image/{camera}": 0 for camera in spec.cameras}}
        self._lenses: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self.reset()

    def set_lens(self, camera: str, rectify: Callable[[np.ndarray], np.ndarray] | None) -> None:
        """How the frames of a camera become those of the camera that the model knows (`planning.lens.Lens`); None: they are."""
        with self._lock:
            self._views[camera] = {}
            if rectify is None:
                self._lenses.pop(camera, None)
            else:
                self._lenses[camera] = rectify

    def reset(self) -> None:
        """Forget everything, as after a jump of the clock."""
        with self._lock:
            self._stamps: dict[str, list[int]] = {c: [] for c in self.spec.cameras}
            self._payloads: dict[str, dict[int, bytes | np.ndarray]] = {c: {} for c in self.spec.cameras}
            self._views: dict[str, dict[int, np.ndarray]] = {c: {} for c in self.spec.cameras}  # through the lens
            self._odometry: list[tuple[int, np.ndarray]] = []
            # newest frame of a camera: its stamp, what arrived, and the stamp since when the same arrives
            self._newest: dict[str, tuple[int, bytes | np.ndarray, int]] = {}

    def add_image(self, camera: str, stamp_ns: int, payload: bytes | np.ndarray) -> None:
        """Store a frame; one with a stamp that is already there replaces it."""
        if camera not in self._stamps:
            raise InputError(f"camera '{camera}' is unknown; the model has {list(self.spec.cameras)}")
        with self._lock:
            self.received[f"image/{camera}"] += 1
            stamps, payloads = self._stamps[camera], self._payloads[camera]
            if stamp_ns not in payloads:
                bisect.insort(stamps, stamp_ns)
            payloads[stamp_ns] = payload
            self._views[camera].pop(stamp_ns, None)
            before = self._newest.get(camera)
            if before is None or stamp_ns > before[0]:
                same = self.limits.refuse_frozen and before is not None and alike(payload, before[1])
                self._newest[camera] = stamp_ns, payload, before[2] if same else stamp_ns
            while stamps and stamps[0] < stamps[-1] - self._keep_ns:
                self._views[camera].pop(stamps[0], None)
                del payloads[stamps.pop(0)]

    def add_odometry(self, stamp_ns: int, pose_odom: np.ndarray, speed_mps: float, yaw_rate_rps: float) -> None:
        """Store pose (3,) of base_link in the odometry frame, speed along x and yaw rate in base_link."""
        row = np.array([*pose_odom, speed_mps, yaw_rate_rps], np.float64)
        if not np.isfinite(row).all():
            raise InputError(f"odometry at {stamp_ns} ns holds a value that is not finite: {row.tolist()}")
        with self._lock:
            self.received["odometry"] += 1
            index = bisect.bisect_left(self._odometry, stamp_ns, key=lambda entry: entry[0])
            if index < len(self._odometry) and self._odometry[index][0] == stamp_ns:
                self._odometry[index] = (stamp_ns, row)
            else:
                self._odometry.insert(index, (stamp_ns, row))
            while self._odometry[0][0] < self._odometry[-1][0] - self._keep_ns:
                self._odometry.pop(0)

    @property
    def newest_odometry_ns(self) -> int | None:
        with self._lock:
            return self._odometry[-1][0] if self._odometry else None

    def observe(self, t0_ns: int, command: Command = Command.UNKNOWN) -> Observation:
        """The observation at `t0_ns`, or NotReady with the reason. Needs odometry on both sides of every grid stamp."""
        history, pose_odom = self.motion(t0_ns)
        images, ages = {}, {}
        for camera in self.spec.cameras:
            frames = [self._frame(camera, t0_ns + round(o * NS_PER_S)) for o in self.spec.frame_offsets_s]
            images[camera] = tuple(frame for frame, _ in frames)
            ages[camera] = tuple(age for _, age in frames)
            sizes = [frame.rgb.shape[1::-1] for frame, _ in frames]
            if len({*sizes}) > 1:
                raise NotReady("IMAGE_RESIZED", f"the pictures of camera '{camera}' changed from {sizes[0]} to {sizes[-1]} px")
        newest = [images[c][-1].stamp_ns for c in self.spec.cameras]
        skew_s = (max(newest) - min(newest)) / NS_PER_S
        self._check(t0_ns, images, skew_s)
        return Observation(
            t0_ns=t0_ns,
            images=images,
            history=history,
            pose_odom=pose_odom,
            command=command,
            image_ages_s=ages,
            skew_s=skew_s,
        )

    def _check(self, t0_ns: int, images: dict[str, tuple[Image, ...]], skew_s: float) -> None:
        """NotReady where the cameras are too far apart in time, or one of them shows nothing."""
        if skew_s > self.limits.max_skew_s:
            camera = max(images, key=lambda c: abs(images[c][-1].stamp_ns - t0_ns))
            off_s = (images[camera][-1].stamp_ns - t0_ns) / NS_PER_S
            line = f"the cameras are {skew_s:.3f} s apart, allowed are {self.limits.max_skew_s:g} s; '{camera}' is at t0 {off_s:+.3f} s"
            awaited = self._newest_of(camera)[0] < t0_ns
            # a frame that is nearer to t0 may still come
            raise NotReady("IMAGE_MISSING" if awaited else "CAMERA_SKEW", line)
        if self.limits.refuse_black or self.limits.refuse_frozen:
            for camera, frames in images.items():
                if not is_black(frames[-1].rgb):
                    self._check_frozen(camera, frames[-1].stamp_ns)
                elif self.limits.refuse_black:  # else it is not judged: all black pictures are alike
                    raise NotReady("IMAGE_BLACK", f"camera '{camera}' sends black pictures")

    def _newest_of(self, camera: str) -> tuple[int, bytes | np.ndarray, int]:
        with self._lock:
            newest = self._newest.get(camera)
        if newest is None:  # a reset came while the pictures were decoded
            raise NotReady("IMAGE_MISSING", f"the images of camera '{camera}' were forgotten while they were read")
        return newest

    def _check_frozen(self, camera: str, stamp_ns: int) -> None:
        since_ns = self._newest_of(camera)[2]
        with self._lock:
            entries = list(self._odometry)
        moved_m = _moved(entries, since_ns, stamp_ns) if since_ns < stamp_ns and entries else 0.0
        if moved_m >= FROZEN_M:
            frozen_s = (stamp_ns - since_ns) / NS_PER_S
            line = f"camera '{camera}' has sent the same picture for {frozen_s:.2f} s, in which the car moved {moved_m:.1f} m"
            raise NotReady("IMAGE_FROZEN", line)

    def _frame(self, camera: str, wanted_ns: int) -> tuple[Image, float]:
        with self._lock:
            stamps = self._stamps[camera]
            near = stamps[max(0, bisect.bisect_left(stamps, wanted_ns) - 1) :][:2]
            if not near:
                raise NotReady("IMAGE_MISSING", f"no image of camera '{camera}' yet")
            stamp = min(near, key=lambda s: (abs(s - wanted_ns), s))
            distance_s = (stamp - wanted_ns) / NS_PER_S
            if abs(distance_s) > self.limits.frame_tolerance_s:
                raise NotReady(
                    "IMAGE_MISSING",
                    f"camera '{camera}' has no frame within {self.limits.frame_tolerance_s:g} s of {wanted_ns} ns, "
                    f"the nearest is {distance_s:+.3f} s away",
                )
            payload, lens, view = self._payloads[camera][stamp], self._lenses.get(camera), self._views[camera].get(stamp)
        if view is not None:
            return Image(stamp_ns=stamp, rgb=view), -distance_s
        if isinstance(payload, bytes):
            begun = time.monotonic()
            payload = decode_jpeg(payload, f"camera '{camera}' at {stamp} ns", self.spec.image_size)
            self.decoded_s += time.monotonic() - begun
            with self._lock:
                if stamp in self._payloads[camera]:
                    self._payloads[camera][stamp] = payload
        if lens is not None:
            payload = lens(payload)
            with self._lock:
                if stamp in self._payloads[camera] and self._lenses.get(camera) is lens:
                    self._views[camera][stamp] = payload
        return Image(stamp_ns=stamp, rgb=payload), -distance_s

    def motion(self, t0_ns: int) -> tuple[EgoHistory, np.ndarray]:
        """Ego history up to `t0_ns` and the pose (3,) of base_link then; NotReady as `observe`."""
        grid = [t0_ns + round(o * NS_PER_S) for o in self.spec.history_offsets_s]
        with self._lock:
            entries = list(self._odometry)
        if not entries:
            raise NotReady("ODOMETRY_MISSING", "no odometry yet")
        if entries[-1][0] < t0_ns:
            raise NotReady("ODOMETRY_BEHIND", f"the newest odometry is {(t0_ns - entries[-1][0]) / NS_PER_S:.3f} s older than the image")
        if entries[0][0] > grid[0]:
            reach_s, needed_s = (t0_ns - entries[0][0]) / NS_PER_S, -self.spec.history_offsets_s[0]
            raise NotReady("HISTORY_SHORT", f"odometry reaches back {reach_s:.2f} s, the model needs {needed_s:g} s")
        stamps = np.array([s for s, _ in entries], np.int64)
        for stamp in grid:
            after = int(np.searchsorted(stamps, stamp))
            gap_s = (stamps[after] - stamps[after - 1]) / NS_PER_S if stamps[after] != stamp else 0.0
            if gap_s > self.limits.odometry_gap_s:
                raise NotReady("ODOMETRY_GAP", f"odometry has a gap of {gap_s:.3f} s at {stamp} ns, allowed are {self.limits.odometry_gap_s:g} s")
        rows = np.stack([r for _, r in entries])
        # relative seconds: nanosecond stamps exceed the exact range of float64
        seconds, at = (stamps - t0_ns) / NS_PER_S, (np.array(grid, np.int64) - t0_ns) / NS_PER_S
        poses = geometry.interpolate_poses(seconds, rows[:, :3], at)
        speeds, yaw_rates = np.interp(at, seconds, rows[:, 3]), np.interp(at, seconds, rows[:, 4])
        history = EgoHistory(
            stamps_ns=tuple(grid),
            poses_base=geometry.to_local(poses[-1], poses),
            speeds_mps=speeds,
            yaw_rates_rps=yaw_rates,
            acceleration_mps2=float((speeds[-1] - speeds[-2]) / (at[-1] - at[-2])),
        )
        return history, poses[-1]


def _moved(odometry: list[tuple[int, np.ndarray]], begin_ns: int, end_ns: int) -> float:
    """Distance in metres between the poses at two stamps, each that of the first sample at or after it."""
    stamps = [stamp for stamp, _ in odometry]
    rows = [odometry[min(bisect.bisect_left(stamps, stamp), len(stamps) - 1)][1] for stamp in (begin_ns, end_ns)]
    return float(np.hypot(*(rows[1] - rows[0])[:2]))
