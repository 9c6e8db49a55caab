"""WGS 84 degrees to UTM metres: the maps of nuPlan are stored in degrees, its logs in metres."""

from __future__ import annotations

import re

import numpy as np

from spanvla_ros.contracts import DataError

_A_M, _FLATTENING = 6378137.0, 1 / 298.257223563
_SCALE, _EASTING_M, _NORTHING_M = 0.9996, 500_000.0, 10_000_000.0
# Krueger's series in the third flattening n, to n^6: errors below a micrometre within a zone
_N = _FLATTENING / (2 - _FLATTENING)
_RADIUS_M = _A_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64 + _N**6 / 256)
_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180 - 127 * _N**5 / 288 + 7891 * _N**6 / 37800,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440 + 281 * _N**5 / 630 - 1983433 * _N**6 / 1935360,
    61 * _N**3 / 240 - 103 * _N**4 / 140 + 15061 * _N**5 / 26880 + 167603 * _N**6 / 181440,
    49561 * _N**4 / 161280 - 179 * _N**5 / 168 + 6601661 * _N**6 / 7257600,
    34729 * _N**5 / 80640 - 3418889 * _N**6 / 1995840,
    212378941 * _N**6 / 319334400,
)
_CODE = re.compile(r"(?:epsg:)?32([67])(\d\d)", re.IGNORECASE)


def zone(code: str) -> tuple[int, bool]:
    """Zone and whether it is south of the equator, of a code such as "epsg:32648". DataError for what is not UTM on WGS 84."""
    match = _CODE.fullmatch(code.strip())
    if match is None or not 1 <= int(match[2]) <= 60:
        raise DataError(f"coordinate system '{code}' is not UTM on WGS 84 (epsg:326xx or epsg:327xx)")
    return int(match[2]), match[1] == "7"


def to_utm(degrees: np.ndarray, code: str) -> np.ndarray:
    """(N, 2) of longitude and latitude in degrees to (N, 2) of easting and northing in metres."""
    number, south = zone(code)
    longitude = np.radians(degrees[:, 0] - (6 * number - 183))
    sine = np.sin(np.radians(degrees[:, 1]))
    factor = 2 * np.sqrt(_N) / (1 + _N)
    conformal = np.sinh(np.arctanh(sine) - factor * np.arctanh(factor * sine))
    xi, eta = np.arctan2(conformal, np.cos(longitude)), np.arctanh(np.sin(longitude) / np.hypot(1.0, conformal))
    east, north = eta.copy(), xi.copy()
    for k, alpha in enumerate(_ALPHA, 1):
        east += alpha * np.cos(2 * k * xi) * np.sinh(2 * k * eta)
        north += alpha * np.sin(2 * k * xi) * np.cosh(2 * k * eta)
    return np.column_stack([_EASTING_M + _SCALE * _RADIUS_M * east, _SCALE * _RADIUS_M * north + (_NORTHING_M if south else 0.0)])
