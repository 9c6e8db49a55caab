"""Drive scenarios in closed loop and judge the drives; or compare two such runs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.evaluation import benchmark, results
from spanvla_ros.share import DEMO_ENGINE, share

if TYPE_CHECKING:
    from spanvla_ros.sim.planners import DrivingPlanner
    from spanvla_ros.sim.scenarios.scenario import Scenario
    from spanvla_ros.sim.simulation import Simulation

EXAMPLE = """examples:
  spanvla sim --planner expert --suite all --seeds 6000:6004 --out out/expert
  spanvla sim --planner spanvla --suite lane,stopped,red --seeds 6000:6002 --out out/demo
  spanvla sim --planner spanvla --suite lane --seeds 6000:6002 --out out/ros --ros
  spanvla sim --compare out/expert out/demo

OUT/summary.json   figures overall and per family, every episode
OUT/report.html    one file: tables, drives from above, clips of what failed
OUT/episodes.jsonl grows by one line per episode; OUT/episodes/ holds its pictures
"""
PLANNERS = ("expert", "constant_velocity", "ego_mlp", "spanvla")


class WorkerFailed(SpanVLAError):
    """A process that drove episodes died."""


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
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that drive at the same time (default: %(default)s)")
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
    if args.engine and args.planner != "spanvla":
        raise ConfigError(f"--engine is for --planner spanvla, not for {args.planner}")
    args.render = args.render or ("gl" if args.planner == "spanvla" else "none")
    if args.planner == "spanvla" and args.render == "none" and not args.black:
        raise ConfigError("--planner spanvla needs pictures, --render none makes none; use --black for black pictures")
    if args.ros and args.planner == "expert":
        raise ConfigError("--ros --planner expert: the expert drives by the truth, which never leaves the simulator by a topic; leave out --ros")
    if (args.ros or args.carla) and args.workers > 1:
        raise ConfigError(f"--workers is {args.workers}, but --ros and --carla drive one episode after the other")
    if args.carla and (args.ros or args.black):
        raise ConfigError(f"--carla can't be combined with {'--ros' if args.ros else '--black'}")
    scenarios = [building.build(family, seed) for family in families for seed in seeds]
    if args.render == "gl" and not args.black and not args.carla:
        from spanvla_ros.sim.pictures.renderer import Renderer

        Renderer.shared()  # a machine that can't draw says so before the first drive
    return scenarios


def _drives(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Result and pictures of every episode, in order."""
    if args.ros:
        yield from _over_ros(args, scenarios)
    elif args.workers > 1:
        yield from _parallel(args, scenarios)
    else:
        worker = _Worker(args.planner, args.engine, args.render == "gl", args.black, args.carla)
        try:
            yield from map(worker.drive, scenarios)
        finally:
            worker.planner.close()


class _Worker:
    """Drives one scenario after the other: the traffic simulation allows one world per process."""

    def __init__(self, planner: str, engine: Path | None, render: bool, black: bool, carla: str | None = None):
        if carla:
            from spanvla_ros.sim.carla.source import connect

            self._server = connect(carla)
        self.planner, self._render, self._black, self._carla = make_planner(planner, engine), render, black, carla

    def drive(self, scenario: Scenario) -> tuple[dict[str, Any], dict[str, bytes]]:
        from spanvla_ros.sim.trial import drive

        return drive(self._simulation(scenario), self.planner)

    def _simulation(self, scenario: Scenario) -> Simulation:
        if self._carla:
            from spanvla_ros.sim.carla.source import CarlaSimulation

            return CarlaSimulation(*self._server, scenario, tuple(self.planner.spec.cameras) if self._render else ())
        from spanvla_ros.sim.simulation import Simulation

        return Simulation(scenario, render=self._render, black=self._black)


_worker: _Worker | None = None  # of this process


def _begin(*arguments: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends the others
    _worker = _Worker(*arguments)


def _drive(family: str, seed: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    from spanvla_ros.sim.scenarios.scenario import build

    return _worker.drive(build(family, seed))


def _parallel(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # libraries that start as many threads as there are cores would fight over them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    make_planner(args.planner, args.engine).close()  # a broken engine is one clear line, not a pool of dead processes
    setting = (args.planner, args.engine, args.render == "gl", args.black)
    pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), _begin, setting)
    try:
        yield from pool.map(_drive, [s.family for s in scenarios], [s.seed for s in scenarios])
    except BrokenProcessPool:
        raise WorkerFailed("a process that drove episodes died (out of memory?); try fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _over_ros(args: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Simulator node and planner node, each in a process of its own; what the simulator node wrote is read from its folder."""
    from spanvla_ros.ros import processes

    make_planner(args.planner, args.engine).close()  # a broken engine is one clear line, not the log of a node
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


def make_planner(name: str, engine: Path | None) -> DrivingPlanner:
    """The planner of that name in this process."""
    from spanvla_ros.sim.planners import SIMPLE_PLANNERS, EnginePlanner

    if name in SIMPLE_PLANNERS:
        return SIMPLE_PLANNERS[name]()
    from spanvla_ros.engine.load import load_planner

    return EnginePlanner(load_planner(engine or share(DEMO_ENGINE)))


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
        **benchmark.summarize(episodes),
        "plan_latency_ms": benchmark.latency(times_ms),
        "wall_s": round(wall_s, 2),
        "scenarios": episodes,
    }


def progress(row: dict[str, Any], index: int, count: int) -> str:
    """One line about an episode."""
    wrong = (
        ", ".join(f"{entry['type']} at {entry['time_s']:.1f} s" for entry in row["infractions"] if entry["type"] != "min_speed") or "no infraction"
    )
    return (
        f"[{index}/{count}] {row['family']:13} {row['seed']}  completion {row['route_completion']:.2f}  DS {row['driving_score_lb21']:5.1f}  "
        f"{wrong}; {row['ended']} after {row['duration_s']:.1f} s ({row['wall_s']:.1f} s of wall time)"
    )


def table(summary: dict[str, Any]) -> list[str]:
    """Lines of the final table: a row per family."""
    lines = [
        f"{benchmark.LABEL}; not comparable with CARLA tables",
        f"{'':14}{'n':>4}{'DS LB2.1':>10}{'LB2.0':>7}{'compl.':>8}{'success':>9}{'fault':>7}{'infr/km':>9}"
        f"{'smooth':>8}{'effic.':>8}{'NCAP':>6}{'EPDMS':>7}",
    ]
    for name, row in [*summary["families"].items(), ("all", summary)]:
        lines.append(
            f"{name:14}{row['episodes']:4d}{row['driving_score_lb21']:10.1f}{row['driving_score_lb20']:7.1f}{row['route_completion']:8.3f}{row['success_rate']:9.2f}"
            f"{row['at_fault_collisions']:7d}{row['infractions_per_km']:9.2f}{_cell(row['smoothness'], 8, 2)}{_cell(row['efficiency'], 8, 0)}"
            f"{_cell(row['neuroncap_score'], 6, 2)}{_cell((row['pdm'] or {}).get('epdms'), 7, 3)}"
        )
    said = summary["reasoning"]
    if said:
        lines.append(
            f"reasoning of {said['plans']} plans: agrees with the plan {_cell(said['agrees'], 0, 2)}, "
            f"contradicts it {_cell(said['contradicts'], 0, 3)}; slow thinking in complex scenes {_cell(said['slow_in_complex'], 0, 2)}, on free road {_cell(said['slow_in_free'], 0, 2)}"
        )
    delay = summary["plan_latency_ms"]
    if delay:
        lines.append(f"plan latency: mean {delay['mean']:.1f} ms, p50 {delay['p50']:.1f} ms, p95 {delay['p95']:.1f} ms")
    return lines


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def comparison(found: dict[str, Any], first: str, second: str) -> list[str]:
    """Lines about two results."""
    lines = [
        f"A = {first}",
        f"B = {second}",
        f"{found['common']} scenarios in both; only in A {found['only_first']}, only in B {found['only_second']}",
    ]
    lines += [f"identical drives (state hash): {found['identical']}", ""]
    lines.append(f"{benchmark.LABEL:20}{'A':>8}{'B':>8}{'B - A':>8}  95 % interval     compl. A/B     success A/B    infr/km A/B")
    rows = [(name, found["first"]["families"][name], found["second"]["families"][name], found["families"][name]) for name in found["families"]]
    for name, one, two, gain in [*rows, ("all", found["first"], found["second"], found["difference"])]:
        lines.append(
            f"{name:20}{one['driving_score_lb21']:8.1f}{two['driving_score_lb21']:8.1f}{gain['mean']:+8.1f}"
            f"  [{gain['low']:+6.1f}, {gain['high']:+6.1f}]"
            f"{one['route_completion']:9.2f} /{two['route_completion']:5.2f}{one['success_rate']:9.2f} /{two['success_rate']:5.2f}"
            f"{one['infractions_per_km']:9.2f} /{two['infractions_per_km']:6.2f}"
        )
    low, high = found["difference"]["low"], found["difference"]["high"]
    lines += ["", "B is better" if low > 0 else "B is worse" if high < 0 else "no difference that these scenarios can show"]
    lines += [f"  {row['family']} {row['seed']}: {row['gain']:+.1f}" for row in found["changed"][:10]]
    return lines
