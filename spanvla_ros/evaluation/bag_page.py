"""The report of `spanvla bag`: one self-contained HTML file with verdict, figures, timeline and the moments worth a look."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.evaluation import gate
from spanvla_ros.evaluation.judgement import FIGURES, text_of
from spanvla_ros.evaluation.stylesheet import PAGE
from spanvla_ros.evaluation.timeline import AUTOMATIC, PERSON, STATE_COLORS, takeovers

MOMENTS = 6
_MISSING = "–"
_BEFORE_NS = NS_PER_S
_VERDICTS = {gate.PASS: "#2da44e", gate.FAIL: "#cf222e", gate.SKIPPED: "#8c959f"}


def moments(rows: Sequence[Mapping[str, Any]], engagement: Sequence[tuple[int, bool]], horizon: str) -> dict[int, str]:
    """t0 of the plans that are worth a look -> why: one second before a take-over, contradictions, broken limits, the largest errors."""
    found: dict[int, str] = {}

    def add(row: Mapping[str, Any], why: str) -> None:
        near = any(abs(row["t0_ns"] - t0_ns) < _BEFORE_NS // 2 for t0_ns in found)
        if not near and len(found) < MOMENTS:
            found[row["t0_ns"]] = why

    for stamp in takeovers(engagement):
        before = [row for row in rows if stamp - 2 * _BEFORE_NS <= row["t0_ns"] <= stamp - _BEFORE_NS]
        if before:
            add(before[-1], "a second before a take-over")
    for row in rows:
        if row["verdict"] == "contradicts":
            add(row, "text and plan contradict each other")
        if row["broken"]:
            add(row, row["broken"][0])
    for row in sorted((row for row in rows if horizon in row["ade_m"]), key=lambda row: -row["ade_m"][horizon][0]):
        add(row, f"largest error: ADE {row['ade_m'][horizon][0]:.2f} m within {horizon} s")
    return dict(sorted(found.items()))


def page(summary: Mapping[str, Any], timeline: str, looks: Mapping[int, str], pictures: Mapping[int, bytes]) -> str:
    """The whole report. summary: of summary.json; timeline: SVG; looks: of `moments`; pictures: t0 -> JPEG."""
    parts = [_head(summary), _checks(summary), _tiles(summary), _timeline(summary, timeline), _errors(summary)]
    parts += [_looks(summary, looks, pictures), _figures(summary)]
    return PAGE.format(title=html.escape(f"bag: {summary['bag']}"), body="\n".join(part for part in parts if part))


def _head(summary: Mapping[str, Any]) -> str:
    figures, judged = summary["figures"], summary["gate"]
    said = [f"{figures['plans']} plans over {summary['duration_s']:.1f} s", f"cameras {', '.join(summary['cameras'])}", summary["planner"]]
    if summary["engine_hash"]:
        said.append(f"engine {summary['engine_hash'][:12]}")
    verdict = ""
    if judged:
        failed = sum(check["verdict"] == gate.FAIL for check in judged["checks"])
        text = f"fails: {failed} of {len(judged['checks'])} limits are broken" if failed else f"passes all {len(judged['checks'])} limits"
        verdict = f"<p class='verdict' style='background:{_VERDICTS[gate.FAIL if failed else gate.PASS]}'>{text} of {html.escape(judged['file'])}</p>"
    return f"<header><h1>{html.escape(summary['bag'])}</h1><p>{html.escape(' · '.join(said))}</p></header>{verdict}"


def _checks(summary: Mapping[str, Any]) -> str:
    if not summary["gate"]:
        return ""
    rows = []
    for check in summary["gate"]["checks"]:
        name, word = check["name"], check["verdict"]
        cells = (
            f"<td>{text_of(name, check['value'])}</td><td>{html.escape(check['limit'])}</td><td style='color:{_VERDICTS[word]}'><b>{word}</b></td>"
        )
        rows.append(f"<tr><th>{name}</th>{cells}<td class='text'>{html.escape(FIGURES[name][0])}</td></tr>")
    head = "<tr><th>figure</th><th>value</th><th>limit</th><th>verdict</th><th></th></tr>"
    return f"<h2>Gate</h2><section class='wide'><table class='numbers'>{head}{''.join(rows)}</table></section>"


def _tiles(summary: Mapping[str, Any]) -> str:
    def told(name: str) -> str:
        return text_of(name, summary["figures"][name])

    states = summary["states"]
    tiles = [
        (f"ADE {summary['horizon']} s", told(f"ade_{summary['horizon']}s_m"), "distance to what was driven"),
        ("plans with comfort", told("comfort_share"), "PDMS C, nuPlan's bounds"),
        ("plans beyond a limit", told("invalid_share"), "speed, acceleration, yaw rate"),
        ("text contradicts plan", told("contradiction_share"), f"agrees {told('agreement_share')}"),
        ("time for a plan", told("latency_p50_ms"), f"95th percentile {told('latency_p95_ms')}"),
        ("heartbeats in NOMINAL", told("nominal_share"), states["source"]),
        ("deadline missed", told("deadline_miss_share"), f"{states['deadline_misses']} plans"),
        ("take-overs", _MISSING if summary["takeovers"] is None else str(summary["takeovers"]), "a person took the wheel"),
    ]
    cells = "".join(f"<div><span>{html.escape(n)}</span><b>{html.escape(v)}</b><small>{html.escape(t)}</small></div>" for n, v, t in tiles)
    return f"<h2>At a glance</h2><section class='tiles'>{cells}</section>"


def _timeline(summary: Mapping[str, Any], drawing: str) -> str:
    colors = {state: color for state, color in STATE_COLORS.items() if state in summary["states"]["share"] or state == "WAITING"}
    if summary["takeovers"] is not None:
        colors |= {"automation drives": AUTOMATIC, "person drives": PERSON}
    key = "".join(f"<span><i style='background:{color}'></i>{name}</span>" for name, color in colors.items())
    simulated = "of the supervisor over this bag, with the time that plans took here"
    how = "as the planner told them in the car" if summary["states"]["source"] == "recorded" else simulated
    text = (
        f"States {how}. The grey line is the error of a car that keeps its speed; the dashed line is the deadline. Red marks below the states: "
        "images that gave no plan; at the bottom: plans that break a limit or contradict their text (hold the pointer over them)."
    )
    return f"<h2>Over time</h2><p class='key'>{key}</p><section class='wide'>{drawing}</section><p class='note'>{text}</p>"


def _errors(summary: Mapping[str, Any]) -> str:
    rows = []
    for horizon in summary["ade_m"]:
        cells = []
        for kind in ("ade_m", "fde_m"):
            entry = summary[kind][horizon]
            cells += [f"{entry[who]:.2f}" if entry else _MISSING for who in ("model", "constant_velocity")]
        count = summary["ade_m"][horizon]["n"] if summary["ade_m"][horizon] else 0
        rows.append(f"<tr><th>{horizon} s</th>{''.join(f'<td>{cell}</td>' for cell in cells)}<td>{count}</td></tr>")
    head = "<tr><th>horizon</th><th>ADE, m</th><th>constant velocity</th><th>FDE, m</th><th>constant velocity</th><th>plans</th></tr>"
    return f"<h2>Errors against what was driven</h2><section class='wide'><table class='numbers'>{head}{''.join(rows)}</table></section>"


def _looks(summary: Mapping[str, Any], looks: Mapping[int, str], pictures: Mapping[int, bytes]) -> str:
    cards, texts = [], {row["t0_ns"]: row["reasoning"] for row in summary["rows"]}
    for t0_ns, why in looks.items():
        if t0_ns in pictures:
            data = base64.b64encode(pictures[t0_ns]).decode()
            text = f"{(t0_ns - summary['start_ns']) / NS_PER_S:.1f} s <b>{html.escape(why)}</b> {html.escape(texts[t0_ns])}"
            cards.append(f"<figure><img src='data:image/jpeg;base64,{data}' alt='' loading='lazy'><figcaption>{text}</figcaption></figure>")
    if not cards:
        return ""
    text = "Blue: the plan; orange: what was driven. A take-over is preceded by what the planner wanted a second before."
    return f"<h2>Worth a look</h2><p class='note'>{text}</p><section class='clips'>{''.join(cards)}</section>"


def _figures(summary: Mapping[str, Any]) -> str:
    told = [(name, text_of(name, summary["figures"][name]), html.escape(text)) for name, (text, _) in FIGURES.items()]
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td><td class='text'>{text}</td></tr>" for name, value, text in told)
    skipped = ", ".join(f"{count} {code}" for code, count in summary["skipped"].items()) or "nothing"
    return (
        f"<h2>All figures</h2><section class='wide'><table class='numbers'>{rows}</table></section>"
        f"<p class='note'>Skipped: {html.escape(skipped)}. Each figure can be limited in a file like config/gates/default.yaml.</p>"
    )
