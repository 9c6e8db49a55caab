"""Many small plots in one picture: bars of counts, stacked bars of counts by group, histograms of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLOURS = {"pos": "#3cbe50", "neg": "#e63232", "rec": "#2896e6"}
_COLUMNS = 3


def draw(panels: Mapping[str, Any], path: Path) -> None:
    """Write a PNG. A panel is a mapping name -> count, name -> (group -> count), or a sequence of values."""
    shown = {title: panel for title, panel in panels.items() if len(panel)}
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(6.2 * _COLUMNS, 4.2 * rows), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(rows, _COLUMNS, squeeze=False).flat, shown.items()):
        axes.set_title(title, fontsize=11)
        axes.tick_params(labelsize=8)
        if isinstance(panel, Mapping):
            _bars(axes, panel)
        else:
            _histogram(axes, panel)
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=80)


def _bars(axes: Any, panel: Mapping[str, Any]) -> None:
    names = list(panel)[::-1]
    if isinstance(panel[names[0]], Mapping):
        groups = sorted({group for counts in panel.values() for group in counts})
        left = np.zeros(len(names))
        for group in groups:
            width = np.array([panel[name].get(group, 0) for name in names], float)
            axes.barh(names, width, left=left, label=group, color=_COLOURS.get(group))
            left += width
        axes.legend(fontsize=8)
    else:
        bars = axes.barh(names, [panel[name] for name in names], color=[_COLOURS.get(name, "#6e7781") for name in names])
        axes.bar_label(bars, fontsize=7, padding=2)


def _histogram(axes: Any, values: Sequence[float]) -> None:
    axes.hist(values, bins=40, color="#6e7781")
    axes.set_yscale("log")
    axes.set_ylabel("samples", fontsize=8)
