"""Cameras that work or fail: which frames arrive at an instant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.sim.scenarios.scenario import Fault

Picture = TypeVar("Picture")


class Shutter:
    """Frames of all cameras under the faults of an episode. `expose` once per camera and exposure time."""

    def __init__(self, faults: tuple[Fault, ...]):
        self._faults = faults
        self._last: dict[str, object] = {}
        self._late: dict[str, list[tuple[int, object]]] = {}

    def expose(self, camera: str, stamp_ns: int, take: Callable[[], Picture], black: Callable[[], Picture]) -> list[tuple[int, Picture]]:
        """(stamp of exposure, picture) of the frames that arrive now, oldest first; `take` makes the picture of now, `black` a black one."""
        time_s = stamp_ns / NS_PER_S
        kind = next((fault.kind for fault in self._faults if fault.at_s <= time_s < fault.until_s), "")
        arriving = self._late.pop(camera, [])
        if kind == "drop":
            return arriving
        if kind == "freeze" and camera in self._last:
            return [*arriving, (stamp_ns, self._last[camera])]
        picture = black() if kind == "black" else take()
        self._last[camera] = picture
        if kind == "late":
            self._late[camera] = [(stamp_ns, picture)]
            return arriving
        return [*arriving, (stamp_ns, picture)]
