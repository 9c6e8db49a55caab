"""A recorded drive over time as one SVG: who drove, the planner's state, speed, error and latency of every plan, one below the other."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.evaluation.judgement import NO_FAILURE

WIDTH, LEFT, RIGHT = 1000, 52, 12
STATE_COLORS = {"WAITING": "#afb8c1", "NOMINAL": "#2da44e", "HOLD": "#d4a72c", "STOPPING": "#e16f24", "STOPPED": "#cf222e"}
AUTOMATIC, PERSON, TAKEOVER = "#8250df", "#d8dee4", "#cf222e"
_BAND, _PLOT, _GAP = 16, 74, 14
_LINE, _BASE_LINE, _LIMIT = "#0a58ca", "#8c959f", "#cf222e"
_POINTS = 1000  # more than that the drawing has no room for


def takeovers(engagement: Sequence[tuple[int, bool]]) -> list[int]:
    """Stamps at which the automation, having driven, drives no more."""
    return [stamp for (_, before), (stamp, now) in zip(engagement, engagement[1:]) if before and not now]


def draw(
    rows: Sequence[Mapping[str, Any]],
    states: Sequence[tuple[int, str, str]],
    engagement: Sequence[tuple[int, bool]],
    refused: Sequence[tuple[int, str]],
    motion: tuple[np.ndarray, np.ndarray],
    deadline_s: float,
    horizon: str,
) -> str:
    """rows: of `judgement.judge`; states: changes (stamp, state, reason); motion: stamps (N,) and speeds (N,) in m/s; horizon: of the errors."""
    start, end = int(motion[0][0]), int(motion[0][-1])
    scale = (WIDTH - LEFT - RIGHT) / max((end - start) / NS_PER_S, 1e-3)

    def x(stamp_ns: int) -> float:
        return LEFT + scale * (min(max(stamp_ns, start), end) - start) / NS_PER_S

    parts: list[str] = []
    y = 20.0
    marks = takeovers(engagement)
    if engagement:
        parts += _band("drives", y, [(x(s), AUTOMATIC if on else PERSON, "automation" if on else "person") for s, on in engagement], x(end))
        y += _BAND + 6
    parts += _band("state", y, [(x(s), STATE_COLORS.get(state, _BASE_LINE), f"{state}: {why}") for s, state, why in states], x(end))
    parts += [_tick(x(stamp), y + _BAND, _LIMIT, f"no plan: {code}") for stamp, code in refused if code not in NO_FAILURE]
    y += _BAND + _GAP
    plots: list[tuple[str, Sequence[tuple[float, float]], float | None]] = []
    step = max(1, len(motion[0]) // _POINTS)
    plots.append(("speed, m/s", [(x(int(s)), v) for s, v in zip(motion[0][::step], motion[1][::step])], None))
    known = [(row["t0_ns"], row["ade_m"][horizon]) for row in rows if horizon in row["ade_m"]]
    if known:
        plots.append((f"ADE {horizon} s, m", [(x(t), pair[0]) for t, pair in known], None))
    times = [(x(row["t0_ns"]), row["latency_ms"]) for row in rows if row["latency_ms"] is not None]
    if times:
        plots.append(("latency, ms", times, 1e3 * deadline_s))
    for label, points, limit in plots:
        base = [(x(t), pair[1]) for t, pair in known] if label.startswith("ADE") else ()
        parts += _plot(label, points, base, limit, y)
        y += _PLOT + _GAP
    for row in rows:
        if row["broken"] or row["verdict"] == "contradicts":
            parts.append(_tick(x(row["t0_ns"]), y - _GAP + 5, _LIMIT, "; ".join(row["broken"]) or row["said"]))
    parts += _axis(x, start, end, y)
    for stamp in marks:
        at, color = f"{x(stamp):.1f}", TAKEOVER
        parts.append(
            f"<g><title>take-over at {(stamp - start) / NS_PER_S:.1f} s</title><path d='M{at} 14V{y - 4:.0f}' stroke='{color}' stroke-width='1.4' "
            f"stroke-dasharray='5 3'/><text x='{at}' y='10' text-anchor='middle' style='fill:{color}'>take-over</text></g>"
        )
    return f"<svg viewBox='0 0 {WIDTH} {y + 18:.0f}' xmlns='http://www.w3.org/2000/svg' role='img'>{''.join(parts)}</svg>"


def _band(label: str, y: float, spans: Sequence[tuple[float, str, str]], end: float) -> list[str]:
    """Coloured stretches; each lasts until the next begins."""
    parts = [f"<text x='{LEFT - 6}' y='{y + 12:.0f}' text-anchor='end'>{label}</text>"]
    for (left, color, text), right in zip(spans, [span[0] for span in spans[1:]] + [end]):
        box = f"x='{left:.1f}' y='{y:.0f}' width='{max(right - left, 0.6):.1f}' height='{_BAND}'"
        parts.append(f"<rect {box} fill='{color}'><title>{html.escape(text)}</title></rect>")
    return parts


def _tick(x: float, y: float, color: str, text: str) -> str:
    return f"<path d='M{x:.1f} {y:.0f}l-3 6h6z' fill='{color}'><title>{html.escape(text)}</title></path>"


def _plot(label: str, points: Sequence[tuple[float, float]], beside: Sequence[tuple[float, float]], limit: float | None, y: float) -> list[str]:
    """A line over time, a grey one beside it, and a dashed limit where it is in sight."""
    top = 1.2 * max(max(value for _, value in [*points, *beside]), 1e-3)
    floor = min(0.0, 1.1 * min(value for _, value in points))
    bottom = y + _PLOT

    def height(value: float) -> float:
        return bottom - _PLOT * (value - floor) / (top - floor)

    parts = []
    for value in _round_steps(floor, top):
        parts.append(
            f"<path d='M{LEFT} {height(value):.1f}H{WIDTH - RIGHT}' stroke='#eaeef2'/>"
            f"<text x='{LEFT - 6}' y='{height(value) + 3.5:.1f}' text-anchor='end' style='fill:#8c959f'>{value:g}</text>"
        )
    if limit is not None and floor < limit < top:
        parts.append(f"<path d='M{LEFT} {height(limit):.1f}H{WIDTH - RIGHT}' stroke='{_LIMIT}' stroke-dasharray='4 3'/>")
    for line, color in ((beside, _BASE_LINE), (points, _LINE)):
        if line:
            path = "L".join(f"{at:.1f} {height(value):.1f}" for at, value in line)
            parts.append(f"<path d='M{path}' fill='none' stroke='{color}' stroke-width='1.4' stroke-linejoin='round'/>")
    parts.append(f"<text x='{LEFT + 5}' y='{y + 9:.0f}'>{html.escape(label)}</text>")
    return parts


def _round_steps(low: float, high: float) -> list[float]:
    """Two or three round numbers."""
    raw = (high - low) / 2
    step = next(s for s in (m * 10.0 ** np.floor(np.log10(raw)) for m in (1, 2, 5, 10)) if s >= 0.75 * raw)
    return [float(v) for v in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def _axis(x: Callable[[int], float], start: int, end: int, y: float) -> list[str]:
    seconds = (end - start) / NS_PER_S
    step = next((s for s in (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800) if seconds / s <= 14), 3600)
    at = np.arange(0, seconds + 1e-6, step)
    return [f"<text x='{x(start + round(t * NS_PER_S)):.1f}' y='{y + 12:.0f}' text-anchor='middle'>{t:g}{' s' if not t else ''}</text>" for t in at]
