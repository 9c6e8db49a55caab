"""Labels of a sample as arrays: what the losses compare with, in units near 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError, ModelSpec
from spanvla_ros.geometry import wrap

# dense labels per merged vision token, bits of `Sample.cells`
DENSE = ("road", "corridor", "vehicle", "red_lamp", "green_lamp", "cone", "pedestrian")
DENSE_STEPS = 240  # shares are stored as n/240: exact for blocks of 2, 3, 4, 5, 6 cells, and 255 stays free
DENSE_UNKNOWN = 255
SHARED = 2  # the first classes are areas (mean over the token), the others objects (any cell counts)

FAR_M = 60.0  # "no stop line" and "no lead" are this far away
# field, unit, number of values
REGRESSION = (
    ("lateral_offset_m", 0.5, 1),
    ("heading_error_rad", 0.1, 1),
    ("curvature_1pm", 1 / 30, 5),
    ("stop_distance_m", 20.0, 1),
    ("lead_gap_m", 20.0, 1),
    ("lead_speed_mps", 5.0, 1),
    ("target_speed_mps", 5.0, 1),
)
REGRESSION_SIZE = sum(size for _, _, size in REGRESSION)
LAMPS = 4  # none, green, yellow, red as numbered by the data set


def dense(cells: np.ndarray | None, spec: ModelSpec) -> np.ndarray:
    """Bit mask (rows, columns) uint8 over the full picture -> (tokens of the newest frame, 7) uint8, n/240 per class.

    The picture is cut as in `planning.images.fit`: what is too tall loses rows at the top. No mask: all unknown.
    """
    rows, columns = spec.grid
    if cells is None:
        return np.full((rows * columns, len(DENSE)), DENSE_UNKNOWN, np.uint8)
    height = cells.shape[1] * spec.image_size[0] // spec.image_size[1]
    if height > cells.shape[0] or height % rows or cells.shape[1] % columns:
        raise DataError(f"a label mask of {cells.shape} cells doesn't divide into {rows} x {columns} vision tokens of a {spec.image_size} picture")
    bits = np.unpackbits(cells[cells.shape[0] - height :, :, None], axis=2, bitorder="little")[..., : len(DENSE)]
    blocks = bits.reshape(rows, height // rows, columns, cells.shape[1] // columns, len(DENSE)).astype(np.float32)
    share = np.where(np.arange(len(DENSE)) < SHARED, blocks.mean(axis=(1, 3)), blocks.max(axis=(1, 3)))
    return np.rint(share * DENSE_STEPS).astype(np.uint8).reshape(rows * columns, len(DENSE))


def regression(fields: Mapping[str, Any]) -> np.ndarray:
    """Scene fields (11,) float32 in their units, NaN where the data set knows nothing."""
    values: list[float] = []
    for name, unit, size in REGRESSION:
        value = fields.get(name)
        row = np.full(size, np.nan) if value is None else np.asarray(value, np.float64).reshape(-1)[:size]
        if len(row) != size:
            raise DataError(f"field {name} must have {size} values, is {value!r}")
        if name in ("stop_distance_m", "lead_gap_m"):
            row = np.where(np.isnan(row), FAR_M, np.clip(row, -FAR_M, FAR_M))
        elif name == "lead_speed_mps" and not (fields.get("lead_gap_m") or FAR_M) < FAR_M:
            row = np.full(size, np.nan)  # nobody there
        values.extend(np.where(np.isfinite(row), row / unit, np.nan))
    return np.array(values, np.float32)


def lamp(fields: Mapping[str, Any]) -> int:
    """Lamp class 0-3, -1 where unknown."""
    value = fields.get("lamp")
    if value is None:
        return -1
    if not 0 <= int(value) < LAMPS:
        raise DataError(f"field lamp must be 0-{LAMPS - 1}, is {value!r}")
    return int(value)


def action_scale(future: np.ndarray, base: np.ndarray, floor: tuple[float, float, float]) -> tuple[tuple[float, float, float], ...]:
    """Unit of the flow per waypoint: spread of future (n, T, 3) around base (n, T, 3), at least `floor` (m, m, rad)."""
    residual = residuals(future, base)
    scale = np.maximum(np.sqrt(np.mean(residual.astype(np.float64) ** 2, axis=0)), floor)
    return tuple(tuple(float(f"{v:.6g}") for v in row) for row in scale)


def residuals(future: np.ndarray, base: np.ndarray) -> np.ndarray:
    """future - base (..., T, 3) with the yaw difference wrapped."""
    delta = np.asarray(future, np.float64) - base
    delta[..., 2] = wrap(delta[..., 2])
    return delta.astype(np.float32)
