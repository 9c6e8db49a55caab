"""Measures how fast parts of the stack are on this machine."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.cli import _node_bench, _plan_bench

EXAMPLE = """example:
  spanvla bench score --json score.json
  spanvla bench sim --suite lane,red --seeds 6000:6002
  spanvla bench plan --preset demo --json plan.json
  spanvla bench plan --preset spanvla-3b --random-weights --backend torch-cuda
  spanvla bench node --seconds 60 --json node.json
"""
GROUPS = (1, 16, 64)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla bench`."""
    parser = subparsers.add_parser("bench", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    about = "PDM score: trajectories per second and core, for groups of 1, 16 and 64"
    score = kinds.add_parser("score", help=about, description=about, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    score.add_argument("--scene", type=Path, metavar="FILE", help="scenes/NAME.json of a fixture folder (default: a made-up crossroads)")
    score.add_argument("--seconds", type=float, default=2.0, help="time per group and version (default: %(default)s)")
    score.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    about = "simulator with expert and judge: simulated seconds per second of CPU, without pictures and with one camera at 10 Hz"
    sim = kinds.add_parser("sim", help=about, description=about, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    sim.add_argument("--suite", default="lane,red,left_turn,truck", help="comma-separated scenario families, or all (default: %(default)s)")
    sim.add_argument("--seeds", default="6000:6002", help="half-open range A:B (default: %(default)s)")
    sim.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    _plan_bench.add_parser(kinds, EXAMPLE)
    _node_bench.add_parser(kinds, EXAMPLE)


def run(args: argparse.Namespace) -> int:
    """Measure; prints a table."""
    kinds = {"sim": lambda: _simulator(args.suite, args.seeds), "score": lambda: _score(args)}
    kinds |= {"plan": lambda: _plan_bench.run(args), "node": lambda: _node_bench.run(args)}
    figures = kinds[args.kind]()
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _simulator(suite: str, seeds: str) -> dict[str, Any]:
    """Resets, which load the map, are not counted."""
    from spanvla_ros.evaluation.driving import Judge
    from spanvla_ros.sim.scenarios import scenario as scenarios
    from spanvla_ros.sim.simulation import Simulation

    built = [scenarios.build(family, seed) for family in scenarios.parse_families(suite) for seed in scenarios.parse_seeds(seeds)]
    figures = []
    for label, pictures in (("no pictures", False), ("one camera, 448x252, 4x MSAA, 10 Hz", True)):
        driven = cpu = 0.0
        for scenario in built:
            simulation, judge = Simulation(scenario, render=pictures), Judge(scenario.family, scenario.seed, scenario.time_limit_s)
            simulation.reset()
            if pictures:
                simulation.jpeg("front")  # the first picture uploads the map
            begun = time.process_time()
            while not simulation.finished and judge.ended is None:
                if pictures:
                    simulation.jpeg("front")
                trajectory = simulation.expert.plan().trajectory
                for _ in range(2):
                    simulation.advance(trajectory, 0.05)
                    judge.watch(simulation.truth())
            cpu += time.process_time() - begun
            driven += simulation.time_s
            simulation.close()
        figures.append({"what": label, "simulated_s": round(driven, 1), "cpu_s": round(cpu, 2), "times_real_time": round(driven / cpu, 2)})
        print(f"{label:36} {driven:7.1f} s simulated in {cpu:6.1f} s of CPU: {driven / cpu:5.1f} x real time", flush=True)
    return {"suite": suite, "seeds": seeds, "figures": figures}


def _score(args: argparse.Namespace) -> dict[str, Any]:
    from spanvla_ros.evaluation.pdm.fixtures import read_scene
    from spanvla_ros.evaluation.pdm.made_up import crossroads, plans
    from spanvla_ros.evaluation.pdm.scorer import score

    scene = read_scene(args.scene) if args.scene else crossroads()
    figures = []
    for version in ("v1", "v2"):
        single_ms = 0.0
        for group in GROUPS:
            batch = plans(group, speed_mps=float(scene.ego[3]))
            score(scene, batch, version)  # prepares geometry and reference, once per scene
            spans, cpu = [], time.process_time()
            while sum(spans) < args.seconds:
                begun = time.perf_counter()
                score(scene, batch, version)
                spans.append(time.perf_counter() - begun)
            cpu = time.process_time() - cpu
            call_ms = 1e3 * float(np.median(spans))
            single_ms = single_ms or call_ms
            rate = group * len(spans) / cpu
            times = call_ms / single_ms
            figures.append({"version": version, "group": group, "call_ms": call_ms, "per_second_and_core": rate, "times_group_of_1": times})
            print(f"{version}  group {group:2}  {call_ms:7.2f} ms per call  {rate:6.0f} trajectories/s and core  {times:5.2f} x a group of 1")
    return {"scene": scene.name, "figures": figures}
