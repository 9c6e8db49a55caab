"""Simulator and planner for a long time with random faults: who listens, who breaks things, and what was seen."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory

from spanvla_ros.planning import validity
from spanvla_ros.ros import conversions, faults, processes, qos
from spanvla_ros.ros.background import Background
from spanvla_ros.share import FASTDDS_PROFILE, share

# done to the processes, beside what is done to the sensors
PROCESS_FAULTS = ("pause", "deactivate", "reload", "reset")
FAULTS = (*faults.SENSOR_FAULTS, *PROCESS_FAULTS)
FAMILIES = ("lane", "red", "stopped", "lead")
START_S, RECOVERY_S, ANSWER_S = 300.0, 90.0, 60.0
# a drive that left the model at a loss ends, and the next one must be planned for
EPISODE_S = 30.0
QUIET_S, FAULT_S = (1.0, 4.0), (0.3, 4.0)
_TICK_S, _SAMPLE_S = 0.05, 1.0


@dataclass(kw_only=True)
class Record:
    """What was seen; times are seconds since the first plan.

    beats: time of every heartbeat and how long planner and listener had waited for a processor until then; states: time, event,
    state and reason of every plan_info; rss_mb: time and resident memory of the planner; silent: times in which it was told to
    be silent; faults: what was broken, from when to when, and when the next plan was there (None: it never was).
    """

    minutes: float
    seed: int
    beats: list[tuple[float, float]] = field(default_factory=list)
    states: list[tuple[float, str, str, str]] = field(default_factory=list)
    rss_mb: list[tuple[float, float]] = field(default_factory=list)
    silent: list[tuple[float, float]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    beyond_limits: list[str] = field(default_factory=list)
    plans: int = 0
    callback_errors: int = 0


def drive(minutes: float, seed: int, engine: Path, out: Path, say: Callable[[str], None]) -> Record:
    """Both nodes for `minutes` from the first plan on, with faults in an order that the seed decides. say: told of every fault."""
    logs = out / "log"
    logs.mkdir(parents=True, exist_ok=True)
    env = _without_shared_memory(processes.environment(processes.domain(), logs / "ros"))
    seeds = 6000 + int(2 * minutes) + 2  # a drive takes 8 s or more
    setting = {"planner": processes.PLANNER, "scenario": f"'{','.join(FAMILIES)}'", "seed": f"'6000:{seeds}'"}
    setting |= {"real_time": "true", "answer_timeout_s": "0.1", "time_limit_s": f"{EPISODE_S}"}
    record = Record(minutes=minutes, seed=seed)
    planner = processes.start_planner(env, logs, engine=engine, lockstep=False)
    simulator = None
    try:
        simulator = processes.start("simulator", ("spanvla_ros.ros.faults",), setting, {}, env, logs / "simulator.log")
        with _Witness(env, planner.process.pid, record) as witness:
            _Breaker(planner, simulator, witness, random.Random(seed), say).run(minutes * 60.0)
    except processes.ProcessFailed as error:
        record.crashes.append(str(error))
    finally:
        for node in filter(None, (simulator, planner)):
            node.process.send_signal(signal.SIGCONT)
            node.stop()
    if planner.process.returncode and not record.crashes:
        record.crashes.append(f"the planner ended with exit code {planner.process.returncode} when it was told to; see {planner.log}")
    said = planner.log.read_text(errors="replace")
    record.callback_errors = said.count("a callback failed") + said.count("Exception in thread")
    return record


def _without_shared_memory(env: Mapping[str, str]) -> dict[str, str]:
    """Settings of nodes that talk over UDP alone. A process that is stopped in the middle of it keeps the lock of the shared memory that it
    writes to or reads from, and the middleware of everybody who wants to write there waits a second for it (docs/vehicle.md)."""
    # with LOCALHOST the middleware adds shared memory, whatever the profile says; this one keeps to the machine by itself
    return {**env, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT", FASTDDS_PROFILE: str(share("config/fastdds_udp.xml"))}


def _rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _waited_s(pid: int) -> float:
    """How long the threads of a process have been ready to run without a processor, since it began."""
    total_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(file.read_text().split()[1])
        except OSError:  # the thread has ended
            continue
    return total_ns / 1e9


class _Witness(Background):
    """Listens to the planner and fills the record; a context manager with a thread of its own."""

    def __init__(self, env: Mapping[str, str], pid: int, record: Record):
        super().__init__("spanvla_soak", env)
        node = self._node
        self.record, self._pid = record, pid
        self._limits = validity.Limits()
        self._began_s: float | None = None
        self._late_s = 0.0
        self.state, self.planned_s = "", 0.0
        node.create_subscription(String, processes.PLAN_INFO, self._on_info, qos.PLAN_INFO)
        node.create_subscription(MultiDOFJointTrajectory, f"{processes.PLANNER}/output/trajectory", self._on_trajectory, qos.OUTPUT)
        self._faults = node.create_publisher(String, faults.TOPIC, qos.COMMAND)
        self._change = node.create_client(ChangeState, f"{processes.PLANNER}/change_state")
        self._reset = node.create_client(Trigger, f"{processes.PLANNER}/reset")
        self._threads.append(threading.Thread(target=self._watch, daemon=True))

    @property
    def now_s(self) -> float:
        """Seconds since the first plan, 0 before."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def inject(self, names: list[str]) -> None:
        """Tell the simulator which faults are on."""
        self._faults.publish(String(data=",".join(names)))

    def change(self, transition: int) -> bool:
        """A transition of the planner's life cycle; False where it was refused."""
        answer = self._ask(self._change, ChangeState.Request(transition=Transition(id=transition)))
        return answer is not None and answer.success

    def reset(self) -> bool:
        answer = self._ask(self._reset, Trigger.Request())
        return answer is not None and answer.success

    def _ask(self, client: Any, request: Any) -> Any:
        future, end_s = client.call_async(request), time.monotonic() + ANSWER_S
        while not future.done() and time.monotonic() < end_s:
            time.sleep(_TICK_S)
        return future.result() if future.done() else None

    def _watch(self) -> None:
        """How late a thread of this process gets its turn, whatever holds the machine up; and the planner's memory."""
        sampled_s = 0.0
        while True:
            before_s = time.monotonic()
            if self._ending.wait(_TICK_S):
                return
            self._late_s += max(0.0, time.monotonic() - before_s - _TICK_S)
            if self._began_s is not None and before_s - sampled_s >= _SAMPLE_S:
                sampled_s = before_s
                try:
                    self.record.rss_mb.append((self.now_s, _rss_mb(self._pid)))
                except OSError:  # it has ended, which is noted elsewhere
                    return

    def _on_info(self, message: String) -> None:
        info = json.loads(message.data)
        if info["event"] == "plan":
            self._began_s = self._began_s or time.monotonic()
            self.planned_s = self.now_s
            self.record.plans += 1
        self.state = info["state"]
        if self._began_s is not None:
            self.record.states.append((self.now_s, info["event"], info["state"], info["reason"]))
            if info["event"] == "heartbeat":
                self.record.beats.append((self.now_s, self._late_s + _waited_s(self._pid) + _waited_s(os.getpid())))

    def _on_trajectory(self, message: MultiDOFJointTrajectory) -> None:
        broken = validity.violations(conversions.from_trajectory(message), self._limits)
        self.record.beyond_limits += [f"{self.now_s:.1f} s: {line}" for line in broken]


class _Breaker:
    """One fault after the other: quiet time, fault, and the wait for the next plan."""

    def __init__(self, planner: processes.Node, simulator: processes.Node, witness: _Witness, rng: random.Random, say: Callable[[str], None]):
        self._planner, self._simulator, self._witness, self._rng, self._say = planner, simulator, witness, rng, say
        self._deck: list[str] = []
        self._doings = {"pause": self._pause, "deactivate": self._deactivate, "reload": self._reload, "reset": self._reset}

    def run(self, seconds: float) -> None:
        if not self._wait(START_S, lambda: self._witness.now_s > 0):
            raise processes.ProcessFailed(f"no plan within {START_S:g} s; see {self._planner.log} and {self._simulator.log}")
        while self._witness.now_s < seconds:
            self._wait(self._rng.uniform(*QUIET_S))
            names = self._draw()
            self._fault(names, self._rng.uniform(*FAULT_S))
        self._wait(max(0.0, seconds - self._witness.now_s))

    def _draw(self) -> list[str]:
        """The next fault, or two at once; every one comes before one comes again."""
        names = []
        for _ in range(self._rng.choice((1, 1, 2))):
            if not self._deck:
                self._deck = self._rng.sample(FAULTS, len(FAULTS))
            names.append(self._deck.pop())
        # one process fault at a time, and only the last name of a pair may be one
        processed = [name for name in names if name in PROCESS_FAULTS]
        return sorted({*names} - {*processed[1:]})

    def _fault(self, names: list[str], duration_s: float) -> None:
        witness = self._witness
        entry: dict[str, Any] = {"names": names, "begin_s": witness.now_s}
        witness.record.faults.append(entry)
        witness.inject([name for name in names if name in faults.SENSOR_FAULTS])
        refused = [name for name in names if name in PROCESS_FAULTS and not self._doings[name](duration_s)]
        if not set(names) & set(PROCESS_FAULTS):
            self._wait(duration_s)
        witness.inject([])
        entry["end_s"] = ended_s = witness.now_s
        recovered = self._wait(RECOVERY_S, lambda: witness.planned_s > ended_s and witness.state == "NOMINAL")
        entry["recovered_s"] = witness.now_s if recovered and not refused else None
        seen = sorted({f"{state} {reason}" for at_s, _, state, reason in list(witness.record.states) if at_s >= entry["begin_s"]} - {"NOMINAL OK"})
        entry["seen"] = seen
        after = "no recovery" if entry["recovered_s"] is None else f"planning {witness.now_s - ended_s:.1f} s after its end"
        self._say(f"{entry['begin_s']:6.0f} s {' + '.join(names)} for {ended_s - entry['begin_s']:.1f} s: {', '.join(seen) or 'NOMINAL'}; {after}")

    def _pause(self, duration_s: float) -> bool:
        self._simulator.process.send_signal(signal.SIGSTOP)
        self._wait(duration_s)
        self._simulator.process.send_signal(signal.SIGCONT)
        return True

    def _reset(self, duration_s: float) -> bool:
        done = self._witness.reset()
        self._wait(duration_s)
        return done

    def _deactivate(self, duration_s: float) -> bool:
        return self._silence(duration_s, (Transition.TRANSITION_DEACTIVATE,), (Transition.TRANSITION_ACTIVATE,))

    def _reload(self, duration_s: float) -> bool:
        return self._silence(
            duration_s,
            (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP),
            (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
        )

    def _silence(self, duration_s: float, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
        begin_s = self._witness.now_s
        done = all([self._witness.change(transition) for transition in before])
        self._wait(duration_s)
        done = all([self._witness.change(transition) for transition in after]) and done
        self._witness.record.silent.append((begin_s, self._witness.now_s))
        return done

    def _wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Whether `until` came true in time; ProcessFailed as soon as a node has ended."""
        end_s = time.monotonic() + seconds
        while not until():
            for node in (self._planner, self._simulator):
                if not node.check():
                    raise processes.ProcessFailed(f"the {node.name} node ended by itself; see {node.log}")
            if time.monotonic() >= end_s:
                return False
            time.sleep(_TICK_S)
        return True
