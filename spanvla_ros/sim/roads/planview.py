"""Smooth curves through lane centre lines, and their pieces as OpenDRIVE plan-view geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np

_STEP_M = 0.25
_SMOOTH_M = tuple(np.arange(0.95, 0.3, -0.05))
_MOST_M = 0.09
_TOLERANCE_M = 0.005
_SPANS = (256, 128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A centre line: xy (N, 2) about every 0.25 m, along (N,) arc length, tangent (N, 2) of unit length."""

    xy: np.ndarray
    along: np.ndarray
    tangent: np.ndarray

    @classmethod
    def smooth(cls, points: np.ndarray) -> Curve:
        """Through the polyline (M, 2), with its corners rounded; the ends stay in place.

        SUMO's lanes are polylines. A vehicle (and CARLA, which reads headings off the curve) needs continuous ones; a
        Gaussian of sigma moves a curve of radius R by sigma^2 / 2R to the inside, so sharp turns get a narrower one.
        """
        xy = resample(points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.02]])
        for sigma in _SMOOTH_M:
            rounded = _gaussian(xy, sigma)
            if np.hypot(*(rounded - xy).T).max() <= _MOST_M:
                break
        return cls.through(rounded)

    @classmethod
    def through(cls, xy: np.ndarray) -> Curve:
        """The curve of points (N, 2) that are dense and smooth already."""
        along = np.r_[0, np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]
        tangent = np.gradient(xy, along, axis=0, edge_order=2 if len(xy) > 2 else 1)
        return cls(xy=xy, along=along, tangent=tangent / np.hypot(*tangent.T)[:, None])

    @property
    def length_m(self) -> float:
        return float(self.along[-1])

    def parallel(self, left_m: float) -> Curve:
        """The curve `left_m` to the left of this one."""
        xy = self.xy + left_m * np.column_stack([-self.tangent[:, 1], self.tangent[:, 0]])
        return Curve(xy=xy, along=np.r_[0, np.cumsum(np.hypot(*np.diff(xy, axis=0).T))], tangent=self.tangent)

    def between(self, start: np.ndarray, end: np.ndarray, directions: tuple[np.ndarray, np.ndarray]) -> Curve:
        """The stretch nearest to `start` and `end` (2,), moved so that it begins and ends exactly there and in `directions`."""
        first = int(np.argmin(np.hypot(*(self.xy - start).T)))
        last = first + int(np.argmin(np.hypot(*(self.xy[first:] - end).T)))
        xy = resample(np.vstack([start, self.xy[first + 1 : last], end]) if last > first + 1 else np.vstack([start, end]))
        cut = Curve.through(xy)
        tangent = cut.tangent.copy()
        tangent[0], tangent[-1] = directions
        return Curve(xy=cut.xy, along=cut.along, tangent=tangent)

    def geometry(self, plan_view: ET.Element) -> float:
        """Append `geometry` elements (lines and cubics, 5 mm from the curve at most) and return their total length."""
        s, i = 0.0, 0
        while i < len(self.xy) - 1:
            for span in _SPANS:
                j = min(i + span, len(self.xy) - 1)
                cubic, deviation = self._cubic(i, j)
                if deviation <= _TOLERANCE_M or j == i + 1:
                    break
            s += _piece(plan_view, s, self.xy[i], self.tangent[i], cubic)
            i = j
        return s

    def _cubic(self, i: int, j: int) -> tuple[np.ndarray, float]:
        """Coefficients (4, 2) of the Hermite cubic from point i to j over 0..1 in the frame of point i; its deviation."""
        cos, sin = self.tangent[i]
        turn = np.array([[cos, -sin], [sin, cos]])
        span = self.along[j] - self.along[i]
        local = (self.xy[i : j + 1] - self.xy[i]) @ turn
        end, out = local[-1], span * self.tangent[j] @ turn
        into = np.array([span, 0.0])
        cubic = np.array([[0.0, 0.0], into, 3 * end - 2 * into - out, into + out - 2 * end])
        u = (self.along[i : j + 1] - self.along[i]) / span
        return cubic, float(np.abs(u[:, None] ** np.arange(4) @ cubic - local).max())


def resample(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) at equal distances of about 0.25 m on the polyline (M, 2), both ends included."""
    distance = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    at = np.linspace(0, distance[-1], max(round(distance[-1] / _STEP_M), 1) + 1)
    return np.stack([np.interp(at, distance, points[:, k]) for k in (0, 1)], axis=-1)


def _gaussian(xy: np.ndarray, sigma_m: float) -> np.ndarray:
    """Gaussian filter of points (N, 2) that keeps the ends in place (odd reflection)."""
    radius = min(math.ceil(3 * sigma_m / _STEP_M), len(xy) - 1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) * _STEP_M / sigma_m) ** 2)
    padded = np.concatenate([2 * xy[0] - xy[radius:0:-1], xy, 2 * xy[-1] - xy[-2 : -radius - 2 : -1]])
    return np.stack([np.convolve(padded[:, k], kernel / kernel.sum(), mode="valid") for k in (0, 1)], axis=-1)


def _piece(plan_view: ET.Element, s: float, start: np.ndarray, tangent: np.ndarray, cubic: np.ndarray) -> float:
    """One geometry element; returns its length."""
    u = np.linspace(0, 1, 65)[:, None] ** np.arange(4)
    length = float(np.hypot(*np.diff(u @ cubic, axis=0).T).sum())
    place = {"s": s, "x": start[0], "y": start[1], "hdg": math.atan2(tangent[1], tangent[0]), "length": length}
    element = ET.SubElement(plan_view, "geometry", {name: f"{value:.8f}" for name, value in place.items()})
    if np.abs(cubic[2:, 1]).max() < 1e-4:
        ET.SubElement(element, "line")
        return length
    numbers = {f"{letter}{axis}": f"{cubic[k, column]:.8f}" for column, axis in enumerate("UV") for k, letter in enumerate("abcd")}
    ET.SubElement(element, "paramPoly3", {"pRange": "normalized", **numbers})
    return length
