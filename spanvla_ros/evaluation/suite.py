"""The report of a benchmark run: one self-contained HTML file with a row per family, every episode, and clips of failures."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spanvla_ros.evaluation.benchmark import LABEL
from spanvla_ros.evaluation.driving import BLOCKED_S, DEVIATION_M, HELD_S, PENALTIES, STOP_ZONE_M
from spanvla_ros.evaluation.stylesheet import PAGE

CLIPS_PER_FAMILY = 3
_MISSING = "–"
Pictures = Callable[[Mapping[str, Any]], Mapping[str, bytes]]


def page(summary: Mapping[str, Any], pictures: Pictures) -> str:
    """The whole report. `summary` is that of summary.json; `pictures` gives what `Trial.pictures` made for an episode."""
    rows = summary["scenarios"]
    shown = _with_clip(rows)
    parts = [
        f"<header><h1>Closed loop: {html.escape(summary['planner'])}</h1><p>{html.escape(_lead(summary))}</p></header>",
        _tiles(summary),
        _families(summary),
        _failures([row for row in rows if _key(row) in shown], len([row for row in rows if not row["success"]]), pictures),
        _rates(summary),
        _plans(summary),
        "<h2>Episodes</h2><p class='note'>From above: the route in light blue, the drive in dark blue, the ego and what was around it at the first "
        "thing that went wrong (else at the end), ways of others as thin lines; red numbers are the entries of the list.</p>",
        *(_episodes(family, [row for row in rows if row["family"] == family], pictures) for family in summary["families"]),
        _definitions(),
    ]
    return PAGE.format(title=html.escape(f"{summary['planner']}: {LABEL}"), body="\n".join(part for part in parts if part))


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['family']}-{row['seed']}"


def _with_clip(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The worst failures of every family: all of them would be more than anybody looks at, or a browser likes to load."""
    chosen: set[str] = set()
    for family in {row["family"] for row in rows}:
        failed = sorted((r for r in rows if r["family"] == family and not r["success"]), key=lambda r: (r["driving_score_lb21"], r["seed"]))
        chosen |= {_key(row) for row in failed[:CLIPS_PER_FAMILY]}
    return chosen


def _lead(summary: Mapping[str, Any]) -> str:
    said = [
        f"{summary['episodes']} episodes",
        f"{len(summary['families'])} families",
        f"seeds {summary['seeds']}",
        f"{summary['distance_km']:.1f} km",
    ]
    said.append("planner and simulator as ROS 2 nodes" if summary["ros"] else "planner in the process of the simulator")
    said.append("black pictures" if summary["black"] else f"pictures: {summary['render']}")
    if summary.get("engine_hash"):
        said.append(f"engine {summary['engine_hash'][:12]}")
    return " · ".join(said)


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return _MISSING if value is None else form.format(value)


def _share(value: float | None) -> str:
    return _number(None if value is None else 100 * value, "{:.1f} %")


def _tiles(summary: Mapping[str, Any]) -> str:
    delay = summary.get("plan_latency_ms") or {}
    tiles = [
        (LABEL, _number(summary["driving_score_lb21"]), "0-100, mean over episodes"),
        ("minisim DS (LB2.0)", _number(summary["driving_score_lb20"]), "0-100, mean over episodes"),
        ("route completion", _share(summary["route_completion"]), ""),
        ("success rate", _share(summary["success_rate"]), "completed, nothing wrong but perhaps slow"),
        ("collisions at fault", str(summary["at_fault_collisions"]), f"episodes with any collision: {_share(summary['collision_rate'])}"),
        ("infractions per km", _number(summary["infractions_per_km"], "{:.2f}"), "without min. speed"),
        ("smoothness", _share(summary["smoothness"]), "2-s segments inside comfort bounds"),
        ("efficiency", _number(summary["efficiency"], "{:.0f} %"), "of the traffic's speed"),
        ("NeuroNCAP score", _number(summary["neuroncap_score"], "{:.2f}"), "0-5, family crash"),
        ("EPDMS of the plans", _number((summary["pdm"] or {}).get("epdms"), "{:.3f}"), "0-1, one plan per second, without EC"),
        *_reasoning(summary["reasoning"]),
        ("plan latency", _number(delay.get("mean"), "{:.1f} ms"), f"p50 {_number(delay.get('p50'))}, p95 {_number(delay.get('p95'))} ms"),
    ]
    cells = "".join(f"<div><span>{html.escape(n)}</span><b>{html.escape(v)}</b><small>{html.escape(t)}</small></div>" for n, v, t in tiles)
    return (
        f"<section class='tiles'>{cells}</section><p class='note'>Figures of our own simulator with the formulas of the CARLA Leaderboard: "
        "they compare planners on these scenarios and can't be compared with published CARLA or NAVSIM tables.</p>"
    )


def _reasoning(found: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Tiles about the texts; none where nobody spoke."""
    if found is None:
        return []
    return [
        ("text agrees with plan", _share(found["agrees"]), f"contradicts {_share(found['contradicts'])}, the rest can't be checked"),
        ("slow thinking, complex scenes", _share(found["slow_in_complex"]), f"{_share(found['slow_in_free'])} on free road"),
    ]


def _families(summary: Mapping[str, Any]) -> str:
    head = (
        LABEL,
        "DS (LB2.0)",
        "completion",
        "success",
        "at-fault coll.",
        "red lights",
        "infr./km",
        "smooth",
        "efficiency",
        "NeuroNCAP",
        "EPDMS",
        "n",
    )
    rows = []
    entries = [*summary["families"].items(), ("all", summary)]
    for name, figures in entries:
        found = figures["infractions_per_km_by_type"].get("red_light", 0.0) * figures["distance_km"]
        cells = [
            _bar(figures["driving_score_lb21"]),
            _number(figures["driving_score_lb20"]),
            _share(figures["route_completion"]),
            _share(figures["success_rate"]),
            _count(figures["at_fault_collisions"]),
            _count(round(found)),
            _number(figures["infractions_per_km"], "{:.2f}"),
            _share(figures["smoothness"]),
            _number(figures["efficiency"], "{:.0f} %"),
            _number(figures["neuroncap_score"], "{:.2f}"),
            _number((figures["pdm"] or {}).get("epdms"), "{:.3f}"),
            str(figures["episodes"]),
        ]
        label = f"<a href='#family-{html.escape(name)}'>{html.escape(name)}</a>" if name in summary["families"] else f"<b>{name}</b>"
        rows.append(f"<tr{' class=total' if name == 'all' else ''}><th>{label}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "<th></th>" + "".join(f"<th>{html.escape(text)}</th>" for text in head)
    return f"<h2>Families</h2><section class='wide'><table class='numbers'><tr>{top}</tr>{''.join(rows)}</table></section>"


def _bar(score: float) -> str:
    color = "#2da44e" if score >= 95 else "#d4a72c" if score >= 70 else "#cf222e"
    return f"<span class='bar'><i style='width:{score:.0f}%;background:{color}'></i></span>{score:.1f}"


def _count(value: int) -> str:
    return f"<b class='bad'>{value}</b>" if value else "0"


def _failures(rows: Sequence[Mapping[str, Any]], failed: int, pictures: Pictures) -> str:
    if not failed:
        return "<h2>Failures</h2><p>None: every episode ended as it should, without any infraction.</p>"
    cards = []
    for row in rows:
        film = pictures(row).get("clip.webp")
        if film is None:
            continue
        data = base64.b64encode(film).decode()
        cards.append(
            f"<figure><img src='data:image/webp;base64,{data}' alt='' loading='lazy'><figcaption><a href='#{html.escape(_key(row))}'>"
            f"{html.escape(row['family'])} {row['seed']}</a> <b>{row['driving_score_lb21']:.0f}</b> {html.escape(_story(row))}</figcaption></figure>"
        )
    rest = f" Shown are the {CLIPS_PER_FAMILY} worst of every family; the others lie in episodes/." if failed > len(cards) else ""
    text = f"{failed} episodes did not succeed. The clips show the seconds around the first thing that went wrong.{rest}"
    return f"<h2>Failures</h2><p>{text}</p><section class='clips'>{''.join(cards)}</section>"


def _story(row: Mapping[str, Any]) -> str:
    """What happened, in one line."""
    found = [_event(entry) for entry in row["infractions"] if entry["type"] != "min_speed"]
    if row["ended"] == "stopped":
        found.append("ended elsewhere than it should")
    return "; ".join(found) or row["ended"].replace("_", " ")


def _event(entry: Mapping[str, Any]) -> str:
    text = f"{entry['type'].replace('_', ' ')} at {entry['time_s']:.1f} s"
    if "at_fault" in entry:
        text += f" ({entry['actor']}, impact {entry['impact_mps']:.1f} m/s, {'at fault' if entry['at_fault'] else 'not at fault'})"
    elif "length_m" in entry:
        text += f" ({entry['length_m']:.0f} m)"
    elif "percent" in entry:
        text = f"min speed: {entry['percent']:.0f} % of the traffic's"
    return text


def _rates(summary: Mapping[str, Any]) -> str:
    kinds = summary["infractions_per_km_by_type"]
    if not kinds:
        return ""
    named = [(name, figures["infractions_per_km_by_type"]) for name, figures in summary["families"].items()]
    named = [(name, found) for name, found in named if found] + [("all", kinds)]
    rows = "".join(
        f"<tr{' class=total' if name == 'all' else ''}><th>{html.escape(name)}</th>"
        + "".join(f"<td>{found[kind]:.2f}</td>" if kind in found else f"<td class='none'>{_MISSING}</td>" for kind in kinds)
        + "</tr>"
        for name, found in named
    )
    head = "".join(f"<th>{html.escape(kind.replace('_', ' '))}</th>" for kind in kinds)
    return f"<h2>Infractions per km</h2><section class='wide'><table class='numbers'><tr><th></th>{head}</tr>{rows}</table></section>"


def _plans(summary: Mapping[str, Any]) -> str:
    found = summary["pdm"]
    if not found:
        return ""
    names = [name for name in found if name != "plans"]
    entries = [(name, figures["pdm"]) for name, figures in summary["families"].items() if figures["pdm"]] + [("all", found)]
    rows = "".join(
        f"<tr{' class=total' if name == 'all' else ''}><th>{html.escape(name)}</th>"
        + "".join(f"<td>{values[n]:.3f}</td>" for n in names)
        + f"<td>{values['plans']}</td></tr>"
        for name, values in entries
    )
    head = "".join(f"<th>{html.escape(name.upper())}</th>" for name in names)
    text = (
        "One plan per second of driving, scored as in NAVSIM against the traffic that really came (EPDMS v2 without extended comfort "
        "and without the human filter, PDMS v1). Plans of the last 5 s of a drive have no future to be scored against."
    )
    table = f"<table class='numbers'><tr><th></th>{head}<th>plans</th></tr>{rows}</table>"
    return f"<h2>Scores of the plans</h2><p>{text}</p><section class='wide'>{table}</section>"


def _episodes(family: str, rows: Sequence[Mapping[str, Any]], pictures: Pictures) -> str:
    good = sum(row["success"] for row in rows)
    blocks = "".join(_episode(row, pictures) for row in rows)
    title = f"<h3 id='family-{html.escape(family)}'>{html.escape(family)} <small>{good} of {len(rows)} succeeded</small></h3>"
    return f"{title}<section class='list'>{blocks}</section>"


def _episode(row: Mapping[str, Any], pictures: Pictures) -> str:
    made = pictures(row)
    events = [entry for entry in row["infractions"] if entry["type"] != "min_speed"]
    marks = "".join(f"<li>{html.escape(_event(entry))}</li>" for entry in events)
    slow = [_event(entry) for entry in row["infractions"] if entry["type"] == "min_speed"]
    facts = [
        f"map {row['map_id']}" + (f", {row['variant']}" if row.get("variant") else ""),
        f"{row['distance_m']:.0f} m in {row['duration_s']:.1f} s",
        f"{row['ended'].replace('_', ' ')}" + (" (standstill wanted)" if row["goal"] == "standstill" else ""),
        f"DS (LB2.0) {row['driving_score_lb20']:.1f}",
        f"smooth {_share(row['smoothness'])}",
        f"{row['plans']} plans, {row['refused']} refused",
        *slow,
        f"state {row['state_hash'][:12]}",
    ]
    drawings = "".join(made[name].decode() for name in ("top.svg", "speed.svg") if name in made)
    state = "good" if row["success"] else "failed"
    story = "" if row["success"] else f"<em>{html.escape(_story(row))}</em>"
    return (
        f"<details id='{html.escape(_key(row))}' class='{state}'><summary><span class='seed'>{row['seed']}</span>"
        f"<span class='score'>{_bar(row['driving_score_lb21'])}</span><span>{_share(row['route_completion'])}</span>{story}</summary>"
        f"<p class='facts'>{' · '.join(html.escape(fact) for fact in facts)}</p>{f'<ol>{marks}</ol>' if marks else ''}{drawings}</details>"
    )


def _definitions() -> str:
    rows = "".join(f"<tr><th>{kind.replace('_', ' ')}</th><td>{c:g}</td><td>{f:.2f}</td></tr>" for kind, (c, f) in PENALTIES.items())
    return (
        "<h2>What the figures mean</h2><section class='columns'><div><table class='numbers'><tr><th>infraction</th><th>LB2.1 coefficient c</th>"
        f"<th>LB2.0 factor</th></tr>{rows}</table><p>min speed scales with what is missing of the traffic's speed, measured where nothing hinders "
        "the ego (no lamp, junction, goal or thing ahead, nor in the 4 s before).</p></div><div><p><b>DS (LB2.1)</b> = completion · (1 − q) / (1 + Σc); <b>DS (LB2.0)</b> = "
        "completion · (1 − q) · Π factor; q is the share of the driven distance off the road or off the lanes of the route.</p>"
        f"<p>A drive ends at its goal (the end of the route, or {HELD_S:g} s of standstill where the scenario wants one: completion 100 %), "
        f"more than {DEVIATION_M:g} m off the route, after {BLOCKED_S:g} s of standing, or at its time limit (scenario timeout). A stop sign wants a "
        f"standstill with the bumper within {STOP_ZONE_M:g} m before the line.</p><p>A collision is <b>not at fault</b> when the ego stood or was "
        "struck from behind by something faster; it lowers the score all the same. <b>NeuroNCAP</b>: 5 without collision, else "
        "4 · max(0, 1 − impact / reference); the reference is the relative speed had the ego kept the highest "
        "speed of the 5 s before. <b>Smoothness</b> and <b>efficiency</b> as in Bench2Drive.</p></div></section>"
    )
