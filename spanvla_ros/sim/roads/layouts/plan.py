"""What a layout hands to netconvert."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Elements of SUMO's plain XML, and the options of netconvert that this map needs on top of the common ones."""

    nodes: str
    edges: str
    connections: str = ""
    options: tuple[str, ...] = ()
