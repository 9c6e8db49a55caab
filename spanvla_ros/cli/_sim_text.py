"""What `spanvla sim` prints: a line per episode, the final table, and two results beside each other."""

from __future__ import annotations

from typing import Any

from spanvla_ros.evaluation import benchmark


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
            f"contradicts it {_cell(said['contradicts'], 0, 3)}; slow thinking in complex scenes {_cell(said['slow_in_complex'], 0, 2)}, "
            f"on free road {_cell(said['slow_in_free'], 0, 2)}"
        )
    delay = summary["plan_latency_ms"]
    if delay:
        lines.append(f"plan latency: mean {delay['mean']:.1f} ms, p50 {delay['p50']:.1f} ms, p95 {delay['p95']:.1f} ms")
    if summary["reactions"]:
        lines.append(f"reaction to somebody who comes into the lane: mean {summary['reaction_s']:.2f} s in {summary['reactions']} drives")
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
    if found["reactions"]["drives"]:
        both = found["reactions"]
        lines += ["", f"reaction to somebody who comes into the lane, A / B: {both['first']:.2f} / {both['second']:.2f} s in {both['drives']} drives"]
    lines += ["", "B is better" if low > 0 else "B is worse" if high < 0 else "no difference that these scenarios can show"]
    lines += [f"  {row['family']} {row['seed']}: {row['gain']:+.1f}" for row in found["changed"][:10]]
    return lines
