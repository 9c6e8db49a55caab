"""Drive scenarios in closed loop and judge the drives; or compare two such runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.cli._sim_text import comparison, progress, table
from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation import benchmark, results
from spanvla_ros.planning.planner import Rate
from spanvla_ros.share import DEMO_ENGINE, share
from spanvla_ros.workers import WorkerFailed, spread

if TYPE_CHECKING:
    from spanvla_ros.sim.latency import Latency
    from spanvla_ros.sim.planners import DrivingPlanner
    from spanvla_ros.sim.scenarios.scenario import Scenario
    from spanvla_ros.sim.simulation import Simulation

EXAMPLE = """examples:
  spanvla sim --planner expert --suite all --seeds 6000:6004 --out out/expert
  spanvla sim --planner spanvla --suite lane,stopped,red --seeds 6000:6002 --out out/demo
  spanvla sim --planner spanvla --suite lane --seeds 6000:6002 --out out/ros --ros
  spanvla sim --planner spanvla --suite cut_in --latency 0.13,0.02,0.02 --plan-early --replan-s 0.05 --out out/early
  spanvla sim --compare out/expert out/demo

OUT/summary.json   figures overall and per family, every episode
OUT/report.html    one file: tables, drives from above, clips of what failed
OUT/episodes.jsonl grows by one line per episode; OUT/episodes/ holds its pictures
"""
PLANNERS = ("expert", "constant_velocity", "ego_mlp", "spanvla")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla sim`."""
    parser = subparsers.add_parser("sim", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planner", choices=PLANNERS, default="expert", help="who drives (default: %(default)s)")
    parser.add_argument("--suite", default="all", help="comma-separated scenario families, or all (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        default="6000:6002",
        help="half-open range A:B; 0-4999 train, 5000-5999 validation, 6000-8999 test, 9000- acceptance (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are only printed")
    parser.add_argument(
        "--render", choices=("gl", "none"), help="gl: pictures, for the planner or for the clips alone; none: none at all (default: gl for spanvla)"
    )
    parser.add_argument("--black", action="store_true", help="the camera pictures are black")
    parser.add_argument("--engine", type=Path, metavar="DIR", help="engine folder of --planner spanvla (default: the demo engine)")
    parser.add_argument("--spoken", metavar="RUN", help="of --planner spanvla: run or model folder whose VLM plans in action tokens, instead of an engine")
    parser.add_argument(
        "--max-reasoning-tokens", type=int, metavar="N", help="of --planner spanvla, as the node's parameter; 0: without a word (default: room)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that drive at the same time (default: %(default)s)")
    parser.add_argument(
        "--latency",
        metavar="PREFILL,TOKEN,FLOW",
        help="seconds of simulated time that a plan of --planner spanvla takes: picture to keys and values, one token, one trajectory "
        "(default: time stands still while it plans)",
    )
    parser.add_argument("--plan-early", action="store_true", help="with --latency: also plan before the text; as the node's parameter plan_early")
    parser.add_argument("--replan-s", type=float, default=0.0, metavar="S", help="with --latency: as the node's parameter replan_s (default: never)")
    parser.add_argument("--max-kv-age-s", type=float, default=Rate.max_kv_age_s, metavar="S", help="as the node's parameter (default: %(default)s)")
    parser.add_argument("--ros", action="store_true", help="simulator and planner as ROS 2 nodes in processes of their own")
    parser.add_argument("--carla", metavar="HOST:PORT", help="on a CARLA server instead: its physics and pictures, the same scenarios and judge")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OUT1", "OUT2"), help="drive nothing, compare two results")


def run(args: argparse.Namespace) -> int:
    """Drive all episodes, or compare; prints progress and a table."""
    if args.compare:
        found = benchmark.compare(*(results.read_summary(folder) for folder in args.compare))
        print("\n".join(comparison(found, *map(str, args.compare))))
        return 0
    scenarios = _check(args)
    out = results.Results(args.out) if args.out else None
    begun_s, episodes, times_ms = time.perf_counter(), [], []
    print(f"driving {len(scenarios)} episodes, planner {args.planner}", flush=True)
    for result, pictures in _drives(args, scenarios):
        times_ms += result.pop("plan_times_ms")
        episodes.append(result)
        if out is not None:
            out.append(result, pictures)
        print(progress(result, len(episodes), len(scenarios)), flush=True)
    summary = summarize(args, episodes, times_ms, time.perf_counter() - begun_s)
    print("\n".join(["", *table(summary)]))
    if out is not None:
        from spanvla_ros.evaluation import suite

        out.finish(results.SUMMARY, json.dumps(summary, indent=1) + "\n")
        out.finish(results.REPORT, suite.page(summary, out.pictures))
        print(f"written: {args.out / results.SUMMARY}, {results.REPORT}")
    return 0


def _check(args: argparse.Namespace) -> list[Scenario]:
    """All that can be wrong, before anything is driven or written."""
    from spanvla_ros.sim.scenarios import scenario as building

    seeds = building.parse_seeds(args.seeds)
    families = building.parse_families(args.suite)
    if args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, it must be 1 or more")
    for name in ("engine", "spoken", "max_reasoning_tokens"):
        if getattr(args, name) is not None and args.planner != "spanvla":
            raise ConfigError(f"--{name.replace('_', '-')} is for --planner spanvla, not for {args.planner}")
    if args.spoken and (args.engine or args.ros or args.max_reasoning_tokens is not None):
        raise ConfigError("--spoken can't be combined with --engine, --ros or --max-reasoning-tokens: the VLM drives by itself")
    if args.ros and args.max_reasoning_tokens is not None:
        raise ConfigError("--max-reasoning-tokens can't be combined with --ros: it is a parameter of the node")
    args.render = args.render or ("gl" if args.planner == "spanvla" else "none")
    if args.planner == "spanvla" and args.render == "none" and not args.black:
        raise ConfigError("--planner spanvla needs pictures, --render none makes none; use --black for black pictures")
    if args.ros and args.planner == "expert":
        raise ConfigError("--ros --planner expert: the expert drives by the truth, which never leaves the simulator by a topic; leave out --ros")
    if (args.ros or args.carla) and args.workers > 1:
        raise ConfigError(f"--workers is {args.workers}, but --ros and --carla drive one episode after the other")
    if args.carla and (args.ros or args.black):
        raise ConfigError(f"--carla can't be combined with {'--ros' if args.ros else '--black'}")
    args.latency, args.rate = _pace(args)
    scenarios = [building.build(family, seed) for family in families for seed in seeds]
    if args.render == "gl" and not args.black and not args.carla:
        from spanvla_ros.sim.pictures.renderer import Renderer

        Renderer.shared()  # a machine that can't draw says so before the first drive
    return scenarios


def _pace(args: argparse.Namespace) -> tuple[Latency | None, Rate]:
    """What a plan costs in simulated time, and when there are others beside it."""
    from spanvla_ros.sim.latency import Latency

    if args.latency is None and (args.plan_early or args.replan_s):
        raise ConfigError("--plan-early and --replan-s change nothing while time stands still; give --latency PREFILL,TOKEN,FLOW")
    if args.latency is not None and (args.planner != "spanvla" or args.ros):
        raise ConfigError("--latency is for --planner spanvla in this process; over ROS a plan takes the time that it takes")
    if args.replan_s < 0 or args.max_kv_age_s <= 0:
        raise ConfigError(f"--replan-s is {args.replan_s:g} and --max-kv-age-s {args.max_kv_age_s:g}; they must be 0 or more, and above 0")
    latency = None if args.latency is None else Latency.parse(args.latency)
    return latency, Rate(plan_early=args.plan_early, replan_s=args.replan_s, max_kv_age_s=args.max_kv_age_s)


def _drives(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Result and pictures of every episode, in order."""
    if args.ros:
        yield from _over_ros(args, scenarios)
    elif args.carla:
        worker = _Worker(_maker(args), args.render == "gl", args.black, args.latency, args.rate, args.carla)
        try:
            yield from map(worker.drive, scenarios)
        finally:
            worker.planner.close()
    else:
        yield from _apart(args, scenarios)


class _Worker:
    """Drives one scenario after the other: the traffic simulation allows one world per process."""

    def __init__(
        self, make: Callable[[], DrivingPlanner], render: bool, black: bool, latency: Latency | None, rate: Rate, carla: str | None = None
    ):
        if carla:
            from spanvla_ros.sim.carla.source import connect

            self._server = connect(carla)
        self.planner, self._render, self._black, self._carla = make(), render, black, carla
        self._latency, self._rate = latency, rate

    def drive(self, scenario: Scenario) -> tuple[dict[str, Any], dict[str, bytes]]:
        from spanvla_ros.sim.trial import drive

        return drive(self._simulation(scenario), self.planner, self._latency, self._rate)

    def _simulation(self, scenario: Scenario) -> Simulation:
        if self._carla:
            from spanvla_ros.sim.carla.source import CarlaSimulation

            return CarlaSimulation(*self._server, scenario, tuple(self.planner.spec.cameras) if self._render else ())
        from spanvla_ros.sim.simulation import Simulation

        return Simulation(scenario, render=self._render, black=self._black)


_worker: _Worker | None = None  # of this process


def _begin(*arguments: Any) -> None:
    global _worker
    _worker = _Worker(*arguments)


def _drive(place: tuple[str, int]) -> tuple[dict[str, Any], dict[str, bytes]]:
    from spanvla_ros.sim.scenarios.scenario import build

    return _worker.drive(build(*place))


def _apart(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """In processes of their own, also where one drives them all: what crashes there costs no episode."""
    make = _maker(args)
    make().close()  # a broken engine ends this at once
    setup = partial(_begin, make, args.render == "gl", args.black, args.latency, args.rate)
    yield from spread(_drive, [(s.family, s.seed) for s in scenarios], args.workers, setup=setup)


def _over_ros(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Simulator node and planner node, each in a process of its own; what the simulator node wrote is read from its folder."""
    from spanvla_ros.ros import processes

    _maker(args)().close()  # a broken engine is one clear line, not the log of a node
    with tempfile.TemporaryDirectory(prefix="spanvla-") as scratch:
        folder = Path(scratch) / "out"
        logs = args.out / "log" if args.out else Path(scratch)
        logs.mkdir(exist_ok=True)
        env = processes.environment(processes.domain(), logs / "ros")
        engine = {"engine": args.engine or share(DEMO_ENGINE)} if args.planner == "spanvla" else {"baseline": args.planner}
        black = str(args.black or args.render == "none").lower()
        setting = {"scenario": f"'{args.suite}'", "seed": f"'{args.seeds}'", "black": black, "output_dir": f"'{folder}'"}
        read, count = results.Results(folder), 0
        for result in processes.drives(
            lambda: processes.start_planner(env, logs, **engine), lambda: processes.start_simulator(setting, env, logs), folder / results.EPISODES
        ):
            count += 1
            yield result, read.pictures(result)
        if count != len(scenarios):
            raise WorkerFailed(f"the simulator node drove {count} of {len(scenarios)} episodes; see {logs / 'simulator.log'}")


def _maker(args: argparse.Namespace) -> Callable[[], DrivingPlanner]:
    """Makes the planner that was asked for, in whatever process."""
    return partial(_make_planner, args.planner, args.engine, args.spoken, args.max_reasoning_tokens)


def _make_planner(name: str, engine: Path | None, spoken: str | None, max_reasoning_tokens: int | None) -> DrivingPlanner:
    from spanvla_ros.sim.planners import SIMPLE_PLANNERS, EnginePlanner

    if name in SIMPLE_PLANNERS:
        return SIMPLE_PLANNERS[name]()
    if spoken:
        from spanvla_ros.training.rollouts import speaker

        return EnginePlanner(speaker(spoken))
    from spanvla_ros.engine.load import load_planner

    return EnginePlanner(load_planner(engine or share(DEMO_ENGINE), max_reasoning_tokens=max_reasoning_tokens))


def summarize(args: argparse.Namespace, episodes: list[dict[str, Any]], times_ms: list[float], wall_s: float) -> dict[str, Any]:
    """What summary.json holds."""
    engines = {row["engine_hash"] for row in episodes if row.get("engine_hash")}
    return {
        "label": benchmark.LABEL,
        "planner": args.planner,
        "engine_hash": min(engines) if engines else None,
        "suite": args.suite,
        "seeds": args.seeds,
        "render": args.render,
        "black": args.black,
        "ros": args.ros,
        "workers": args.workers,
        "latency": None if args.latency is None else {**dataclasses.asdict(args.latency), **dataclasses.asdict(args.rate)},
        **benchmark.summarize(episodes),
        "plan_latency_ms": benchmark.latency(times_ms),
        "wall_s": round(wall_s, 2),
        "scenarios": episodes,
    }
