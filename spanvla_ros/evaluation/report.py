"""A self-contained HTML page about drives: pictures with plan and reasoning, bird's-eye and speed plots, tables."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from spanvla_ros import geometry
from spanvla_ros.evaluation import overlay
from spanvla_ros.evaluation.recording import Drive

STATE_COLORS = {"WAITING": "#9aa0a6", "NOMINAL": "#2da44e", "HOLD": "#d4a72c", "STOPPING": "#e16f24", "STOPPED": "#cf222e"}
PLAN_COLOR, DRIVEN_COLOR, ROUTE_COLOR = "#28a0ff", "#24292f", "#d0d7de"


def page(title: str, lead: str, summary: Mapping[str, Any], drives: Sequence[Drive]) -> str:
    """The whole report. `summary` is that of summary.json; entries that are missing are left out."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p class='lead'>{html.escape(lead)}</p>"]
    parts.append(_table(("scenario", "route completion", "driving score (LB 2.1)", "infractions"), [_scenario_row(s) for s in summary["scenarios"]]))
    parts.append("<div class='columns'>")
    parts += [_latency(summary), _states(summary), _sight(summary)]
    parts.append("</div>")
    parts += [_drive(drive) for drive in drives]
    return _PAGE.format(title=html.escape(title), body="\n".join(part for part in parts if part))


def strip(drives: Sequence[Drive]) -> bytes:
    """PNG with one moment of the first drive of every family, side by side, with its text."""
    firsts = {drive.result["family"]: drive for drive in reversed(drives) if drive.moments}
    pictures = []
    for drive in reversed(firsts.values()):
        moment = drive.moments[len(drive.moments) // 2]
        pictures.append(overlay.caption(cv2.imdecode(np.frombuffer(moment.jpeg, np.uint8), cv2.IMREAD_COLOR), [drive.name, moment.text], min_lines=4))
    height = max((picture.shape[0] for picture in pictures), default=1)
    padded = [np.pad(picture, ((0, height - picture.shape[0]), (0, 8), (0, 0))) for picture in pictures] or [np.zeros((1, 1, 3), np.uint8)]
    return cv2.imencode(".png", np.concatenate(padded, axis=1))[1].tobytes()


def _scenario_row(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    infractions = ", ".join(_infraction(i) for i in scenario["infractions"]) or "none"
    return f"{scenario['family']} {scenario['seed']}", f"{scenario['route_completion']:.0%}", f"{scenario['driving_score_lb21']:.1f}", infractions


def _infraction(entry: Mapping[str, Any]) -> str:
    return f"{entry['type']} at {entry['time_s']:.1f} s"


def _latency(summary: Mapping[str, Any]) -> str:
    rows = [(f"latency {name}", f"{value:.0f} ms") for name, value in (summary.get("plan_latency_ms") or {}).items()]
    rows += [(f"stage {name}, median", f"{value:.1f} ms") for name, value in summary.get("stage_ms", {}).items()]
    for key, label, text in (
        ("plans", "plans", "{}"),
        ("planning_rate_hz", "plans per second of wall time", "{:.1f}"),
        ("real_time_factor", "simulated per wall time", "{:.2f}"),
    ):
        if summary.get(key) is not None:
            rows.append((label, text.format(summary[key])))
    return f"<section><h2>Speed</h2>{_table(('', ''), rows)}</section>" if rows else ""


def _states(summary: Mapping[str, Any]) -> str:
    share = summary.get("state_share") or {}
    if not share:
        return ""
    bar = "".join(f"<i style='width:{100 * v:.2f}%;background:{STATE_COLORS.get(k, '#888')}' title='{k} {v:.1%}'></i>" for k, v in share.items())
    table = _table(("state", "share"), [(k, f"{v:.1%}") for k, v in share.items()])
    return f"<section><h2>Supervisor</h2><div class='bar'>{bar}</div>{table}</section>"


def _sight(summary: Mapping[str, Any]) -> str:
    change = summary.get("black_image_change")
    if not change or not change["n"]:
        return ""
    text = (
        f"The same {change['n']} observations with black images give plans that are {change['mean_m']:.2f} m away on average "
        f"and {change['max_m']:.2f} m at most (mean over the waypoints of a plan). A planner that guessed from its motion alone would not change. "
        f"Planned again from the recorded messages, {change['identical']} of {change['n']} plans equal those of the node to the last digit."
    )
    return f"<section><h2>It looks</h2><p>{text}</p></section>"


def _drive(drive: Drive) -> str:
    figures = "".join(
        f"<figure><img src='data:image/jpeg;base64,{base64.b64encode(m.jpeg).decode()}' alt=''>"
        f"<figcaption><b>{m.time_s:.1f} s</b> {html.escape(m.text)}</figcaption></figure>"
        for m in drive.moments
    )
    plots = f"<img class='plot' src='{_png(_bird(drive))}' alt='from above'><img class='plot' src='{_png(_speed(drive))}' alt='speed'>"
    head = "".join(f"<span>{html.escape(text)}</span>" for text in _scenario_row(drive.result)[1:])
    return f"<article><h2>{html.escape(drive.name)} <small>{head}</small></h2><div class='strip'>{figures}</div>{plots}</article>"


def _bird(drive: Drive) -> Figure:
    """From above, turned so that the route goes from left to right."""
    ends = drive.route if len(drive.route) else drive.poses[:, :2]
    chord = ends[-1] - ends[0]
    origin = np.array([*drive.poses[0, :2], np.arctan2(chord[1], chord[0])])

    def turned(points: np.ndarray) -> np.ndarray:
        return geometry.to_local(origin, np.column_stack([points[:, :2], np.zeros(len(points))]))[:, :2]

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    if len(drive.route):
        axes.plot(*turned(drive.route).T, color=ROUTE_COLOR, lw=9, solid_capstyle="round", label="route")
    for i, plan in enumerate(drive.plans):
        axes.plot(*turned(plan).T, color=PLAN_COLOR, lw=0.8, alpha=0.6, label="plans" if i == 0 else None)
    driven = turned(drive.poses)
    axes.plot(*driven.T, color=DRIVEN_COLOR, lw=1.8, label="driven")
    axes.plot(*driven[0], "o", color=DRIVEN_COLOR, ms=6)
    axes.plot(*driven[-1], "s", color=DRIVEN_COLOR, ms=6)
    axes.set(xlabel="m", ylabel="m")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="best", fontsize=8, frameon=False)
    return figure


def _speed(drive: Drive) -> Figure:
    figure = Figure(figsize=(9, 2.0), layout="constrained")
    axes = figure.subplots()
    ends = [t for t, _ in drive.states[1:]] + [float(drive.times_s[-1])]
    for (start, state), end in zip(drive.states, ends):
        if state != "NOMINAL":
            axes.axvspan(start, end, color=STATE_COLORS.get(state, "#888"), alpha=0.25, lw=0)
    axes.plot(drive.times_s, drive.speeds_mps, color=DRIVEN_COLOR, lw=1.5)
    axes.set(xlabel="s", ylabel="m/s", ylim=(0, max(1.0, 1.1 * float(np.max(drive.speeds_mps)))), xlim=(0, max(1.0, float(drive.times_s[-1]))))
    axes.grid(alpha=0.3)
    return figure


def _png(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #1f2328; background: #f6f8fa; max-width: 1100px; margin: 0 auto; padding: 24px }}
h1 {{ margin: 0 0 4px; }} h2 {{ font-size: 18px; margin: 0 0 8px; }} .lead {{ color: #57606a; margin-top: 0; }}
table {{ border-collapse: collapse; width: 100%; background: #fff; }}
td, th {{ text-align: left; padding: 4px 10px; border-bottom: 1px solid #d8dee4; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 16px; margin: 20px 0; }}
section, article {{ background: #fff; border: 1px solid #d8dee4; border-radius: 8px; padding: 14px; }} article {{ margin: 16px 0; }}
small span {{ font-weight: 400; color: #57606a; margin-left: 14px; }}
.bar {{ display: flex; height: 14px; border-radius: 7px; overflow: hidden; margin-bottom: 8px; }}
.strip {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 10px; }}
figure {{ margin: 0; }} figure img {{ width: 100%; border-radius: 4px; }} figcaption {{ font-size: 12.5px; color: #424a53; }}
.plot {{ width: 100%; margin-top: 8px; }}
</style></head><body>
{body}
</body></html>
"""
