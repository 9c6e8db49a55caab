"""What every fault must leave standing: each heartbeat comes, each carries a plan, and no plan asks for more than a car can do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_peer import Peer

from spanvla_ros.planning.validity import Limits, violations
from spanvla_ros.ros import conversions

GAP_S = 0.25
_SETTLED = 7  # plans
_TYPES = {bool: ("bool_value", ParameterType.PARAMETER_BOOL), float: ("double_value", ParameterType.PARAMETER_DOUBLE)}
_TYPES |= {str: ("string_value", ParameterType.PARAMETER_STRING)}


class Faults:
    """Puts faults into a planner and its car one after another, and keeps the longest time between heartbeats of each."""

    def __init__(self, peer: Peer, file: Path):
        self.peer, self._file = peer, file
        self.gaps_s: dict[str, float] = {}
        self.raw_gaps_s: dict[str, float] = {}  # with what a busy machine adds

    def backend(self, **fault: Any) -> None:
        """What the fake backend does from its next plan on: `ros_fake_planner`."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(fault))
        new.replace(self._file)

    def in_flight(self) -> bool:
        """A slow plan is being made."""
        return Path(f"{self._file}.busy").exists()

    def set(self, name: str, value: Any) -> str:
        """Set a parameter of the running node; why it was refused, empty when it was not."""
        field, kind = _TYPES[type(value)]
        request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))])
        result = self.peer.call(SetParameters, "set_parameters", request).results[0]
        return "" if result.successful else result.reason or "refused"

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[Peer]:
        """From NOMINAL through what the block does and back to NOMINAL; then the heartbeats and plans of that time are checked."""
        peer = self.peer
        self.settle()
        infos, plans = len(peer.infos), len(peer.trajectories)
        try:
            yield peer
        finally:
            peer.mend()
            self.backend()
        peer.wait_state("NOMINAL", 60)
        self.check(name, infos, plans)

    def settle(self) -> None:
        """Until nothing is left of the fault before: a second of plans alone, longer than the history that the model sees."""
        self.peer.mend()
        self.backend()
        self.peer.wait(lambda: self._good() >= _SETTLED, 60, "undisturbed driving")

    def _good(self) -> int:
        """How many of the newest plan_infos tell of good plans, without anything else between."""
        infos = [info for _, info in self.peer.infos[-3 * _SETTLED :]]
        bad = [k for k, info in enumerate(infos) if info["state"] != "NOMINAL" or info["event"] == "rejected"]
        return sum(info["event"] == "plan" for info in infos[bad[-1] + 1 if bad else 0 :])

    def check(self, name: str, infos: int, plans: int) -> None:
        """The heartbeats and plans from these indices on."""
        beats = [info for _, info in self.peer.heartbeats(infos)]
        numbers = [info["beat"] for info in beats]
        assert (np.diff(numbers) == 1).all(), f"{name}: heartbeats are missing: {numbers}"
        without = [info for info in beats if info["stamp_ns"] is None and info["state"] != "WAITING"]
        assert not without, f"{name}: heartbeats without a plan: {without[:1]}"
        for _, message in self.peer.trajectories[plans:]:
            assert not violations(conversions.from_trajectory(message), Limits()), name
        self.gaps_s[name] = self.peer.heartbeat_gap(infos)
        self.raw_gaps_s[name] = max((gap for gap, _ in self.peer.heartbeat_gaps(infos)), default=0.0)

    def states(self, begin: int) -> list[tuple[str, str]]:
        """(state, reason) of the heartbeats from plan_info `begin` on, each run of them once."""
        found: list[tuple[str, str]] = []
        for _, info in self.peer.heartbeats(begin):
            if not found or found[-1] != (info["state"], info["reason"]):
                found.append((info["state"], info["reason"]))
        return found
