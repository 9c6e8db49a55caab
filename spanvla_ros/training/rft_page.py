"""A page of samples of reinforcement fine-tuning: what the policy said and planned, and what it earned for it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.evaluation.stylesheet import PAGE
from spanvla_ros.training.groups import Group
from spanvla_ros.training.runs import write_text

SHOWN = 6  # roll-outs of a group: the best, the worst, and some between
_SIDE, _METRES, _BEHIND = 360, 60.0, 8.0
_COLOURS = {"pos": "#3cbe50", "neg": "#e63232", "rec": "#2896e6"}


def write(folder: Path, step: int, groups: Sequence[Group]) -> Path:
    """folder/step-XXXXXX.html for the groups of an update. Errors: DataError when the disk is full."""
    body = "\n".join([f"<header><h1>Update {step}</h1></header>", *(_section(group) for group in groups if group.rewards is not None)])
    path = folder / f"step-{step:06d}.html"
    try:
        folder.mkdir(exist_ok=True)
        write_text(path, PAGE.format(title=f"Update {step}", body=body))
    except OSError as error:
        raise DataError(f"{path} can't be written ({error}); make room and run the same command again") from None
    return path


def _section(group: Group) -> str:
    sample, earned = group.sample, group.rewards
    order = np.argsort(-earned.total, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
    texts = [text for part in group.parts for text in part.texts]
    plans = np.concatenate([part.plans for part in group.parts])
    head = ["", "reward", "driving", "log", "reasoning", "advantage", "score", "text"]
    rows = []
    for rank, k in enumerate(shown, 1):
        near = earned.negative[k] + earned.recovery[k]
        values = (earned.total[k], earned.driving[k], near, earned.reasoning[k], group.advantages[k], earned.score[k])
        mark = ' class="bad"' if earned.contradicts[k] else ""
        cells = "".join(f"<td>{value:.2f}</td>" for value in values)
        rows.append(f'<tr><th>{rank}</th>{cells}<td{mark} style="text-align:left;white-space:normal">{html.escape(texts[k])}</td></tr>')
    table = f"<table class=numbers><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}</table>"
    title = f"{html.escape(sample.id)} <small>{sample.label}, {html.escape(sample.family)}</small>"
    says = f'<p class=note>The sample says: {html.escape(sample.reasoning)} Mean reward {earned.total.mean():.2f} of {len(order)} roll-outs.</p>'
    pictures = f'<div style="display:flex;gap:12px;flex-wrap:wrap">{_picture(group)}{_above(group, plans, shown)}</div>'
    return f"<h3>{title}</h3>{says}{pictures}<div class=wide>{table}</div>"


def _picture(group: Group) -> str:
    """The newest picture of the first camera."""
    rgb = next(iter(group.sample.observation.images.values()))[-1].rgb
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f'<img alt="camera" height="{_SIDE * 3 // 4}" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _above(group: Group, plans: np.ndarray, shown: np.ndarray) -> str:
    """All plans from above, those of the table by number, and the log."""
    scale = _SIDE / _METRES
    width = round(_SIDE * 0.75)

    def path(points: np.ndarray, style: str) -> str:
        xy = np.concatenate([np.zeros((1, 2)), points[:, :2]])
        drawn = " ".join(f"{width / 2 - y * scale:.1f},{_SIDE - (x + _BEHIND) * scale:.1f}" for x, y in xy)
        return f'<polyline points="{drawn}" fill="none" {style}/>'

    lines = [path(plan, 'stroke="#afb8c1" stroke-width="1" opacity=".5"') for plan in plans]
    log = np.asarray(group.sample.future)
    lines.append(path(log, f'stroke="{_COLOURS[group.sample.label]}" stroke-width="4" opacity=".6"'))
    for rank, k in enumerate(shown, 1):
        lines.append(path(plans[k], 'stroke="#1f2328" stroke-width="1.2"'))
        x, y = plans[k, -1, :2]
        lines.append(f'<text x="{width / 2 - y * scale + 3:.1f}" y="{_SIDE - (x + _BEHIND) * scale:.1f}">{rank}</text>')
    size = f'width="{width}" height="{_SIDE}" viewBox="0 0 {width} {_SIDE}"'
    return f'<svg {size} style="width:{width}px;background:#fff;border:1px solid #d8dee4">{"".join(lines)}</svg>'
