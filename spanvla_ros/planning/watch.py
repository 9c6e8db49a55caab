"""What arrives: the newest stamp of every input, how old it is, and what was wrong with the stamps so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.planning.inputs import InputLimits
from spanvla_ros.planning.supervisor import Reason


class Fault(NamedTuple):
    """Why nothing can be planned, and one line with the number in it."""

    reason: Reason
    detail: str


@dataclass(kw_only=True)
class Stream:
    """Counts of one input. A duplicate has the stamp of the newest message; out of order is older; a gap is a step longer than the
    model can do without; ahead of the clock is dropped, for it would make everything else look old."""

    newest_ns: int | None = None
    received: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    gaps: int = 0
    ahead: int = 0

    def take(self, stamp_ns: int, gap_s: float) -> None:
        self.received += 1
        if self.newest_ns is not None and stamp_ns <= self.newest_ns:
            self.duplicates += stamp_ns == self.newest_ns
            self.out_of_order += stamp_ns < self.newest_ns
            return
        self.gaps += self.newest_ns is not None and stamp_ns - self.newest_ns > gap_s * NS_PER_S
        self.newest_ns = stamp_ns

    def __str__(self) -> str:
        return (
            f"{self.received} received, {self.duplicates} duplicates, {self.out_of_order} out of order, {self.gaps} gaps, "
            f"{self.ahead} ahead of the clock"
        )


class InputWatch:
    """Newest stamp of every input in ROS time, and what is wrong with them. Not thread-safe."""

    def __init__(self, cameras: tuple[str, ...], max_age_s: float, limits: InputLimits | None = None):
        self.max_age_s = max_age_s
        self.limits = limits or InputLimits()
        self._images = {camera: Stream() for camera in cameras}
        self._odometry = Stream()
        self._invalid = ""

    def image(self, camera: str, stamp_ns: int) -> None:
        # a frame that the model wants lies within the tolerance of any instant as long as frames are this close
        self._images[camera].take(stamp_ns, 2 * self.limits.frame_tolerance_s)

    def odometry(self, stamp_ns: int) -> None:
        self._odometry.take(stamp_ns, self.limits.odometry_gap_s)
        self._invalid = ""

    def invalid_odometry(self, detail: str) -> None:
        """The newest odometry can't be used; a good one ends this."""
        self._invalid = detail

    def ahead(self, name: str, stamp_ns: int, ros_ns: int) -> str:
        """One line where a stamp is so far ahead of the clock that the message must not be used, and a count of it; else empty.

        name: `odometry` or `image/<camera>`.
        """
        ahead_s = (stamp_ns - ros_ns) / NS_PER_S
        if ahead_s <= self.max_age_s:
            return ""
        stream = self._odometry if name == "odometry" else self._images[name.partition("/")[2]]
        stream.ahead += 1
        return f"{name} has a stamp that is {ahead_s:.3f} s ahead of the clock, allowed are {self.max_age_s:g} s; synchronise the clocks"

    def streams(self) -> dict[str, Stream]:
        """Input -> its counts."""
        return {f"image/{camera}": stream for camera, stream in self._images.items()} | {"odometry": self._odometry}

    def ages_s(self, ros_ns: int) -> dict[str, float | None]:
        """Input -> seconds since its newest stamp, None when nothing came yet."""
        return {name: None if s.newest_ns is None else (ros_ns - s.newest_ns) / NS_PER_S for name, s in self.streams().items()}

    def fault(self, ros_ns: int) -> Fault | None:
        """The worst of what is wrong now, None when all inputs are there and fresh."""
        ages = self.ages_s(ros_ns)
        odometry = ages.pop("odometry")
        if self._invalid:
            return Fault(Reason.ODOMETRY_INVALID, self._invalid)
        if odometry is None:
            return Fault(Reason.ODOMETRY_MISSING, "no odometry yet")
        missing = [name for name, age in ages.items() if age is None]
        if missing:
            return Fault(Reason.IMAGE_MISSING, f"nothing on {', '.join(missing)} yet")
        # a stamp far in the future is no fresher than one far in the past: the clocks differ
        if abs(odometry) > self.max_age_s:
            return Fault(Reason.ODOMETRY_STALE, f"odometry is {odometry:.3f} s old, allowed are {self.max_age_s:g} s")
        name = max(ages, key=lambda name: abs(ages[name]))
        if abs(ages[name]) > self.max_age_s:
            return Fault(Reason.IMAGE_STALE, f"{name} is {ages[name]:.3f} s old, allowed are {self.max_age_s:g} s")
        return None
