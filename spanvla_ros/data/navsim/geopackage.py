"""Layers of a GeoPackage (OGC 12-128r17) by sqlite3 alone: rows with their columns and geometries in metres."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim.projection import to_utm

_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
_DEGREES = 4326


@dataclass(frozen=True, kw_only=True)
class Row:
    """One feature: fid, its other columns by name, and its geometry."""

    fid: str
    columns: Mapping[str, Any]
    geometry: shapely.Geometry

    def key(self, name: str) -> str | None:
        """A column that names another feature, None where it is empty. DataError where the layer lacks it."""
        if name not in self.columns:
            raise DataError(f"feature {self.fid} has no column {name}, only {sorted(self.columns)}")
        value = self.columns[name]
        return None if value is None or value == "" else str(int(value))


class GeoPackage:
    """A map file open for reading; a context manager. The table `meta` names its UTM zone, as in nuPlan's maps."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise DataError(f"map {path} doesn't exist")
        # read only, and a table or view of a hostile file can't call functions
        self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self._database.execute("PRAGMA trusted_schema = OFF")
        self._code = self._meta().get("projectedCoordSystem", "")

    def __enter__(self) -> GeoPackage:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def rows(self, layer: str) -> list[Row]:
        """The features of a layer in the order of their fids. DataError where layer, geometry or coordinate system is not usable."""
        found = self._query("SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", layer)
        if not found:
            raise DataError(f"map {self.path} has no layer {layer}")
        column, system = found[0]
        info = self._query(f"PRAGMA table_info({_quoted(layer)})")
        names = [entry[1] for entry in info]
        key = next((entry[1] for entry in info if entry[5]), None)
        if key is None:
            raise DataError(f"map {self.path}: layer {layer} has no primary key")
        values = self._query(f"SELECT * FROM {_quoted(layer)} ORDER BY {_quoted(key)}")
        kept = [value for value in values if value[names.index(column)] is not None]
        shapes = np.array([self._shape(layer, value[names.index(column)]) for value in kept], dtype=object)
        if len(shapes):
            shapes = self._metres(layer, shapes, system)
        rest = [(k, name) for k, name in enumerate(names) if name not in (key, column)]
        return [
            Row(fid=str(value[names.index(key)]), columns={name: value[k] for k, name in rest}, geometry=shape) for value, shape in zip(kept, shapes)
        ]

    def _metres(self, layer: str, shapes: np.ndarray, system: int) -> np.ndarray:
        if system == _DEGREES:
            return shapely.transform(shapes, lambda xy: to_utm(xy, self._code))
        codes = self._query("SELECT organization_coordsys_id FROM gpkg_spatial_ref_sys WHERE srs_id = ?", system)
        if codes and self._code.lower().removeprefix("epsg:") == str(codes[0][0]):
            return shapes
        raise DataError(f"map {self.path}: layer {layer} is in coordinate system {system}, expected {_DEGREES} or '{self._code}' of its table meta")

    def _shape(self, layer: str, blob: Any) -> shapely.Geometry:
        """GeoPackageBinary: "GP", version, flags, srs_id, envelope, then WKB."""
        try:
            if blob[:2] != b"GP" or blob[3] & 0x20:
                raise ValueError("it is no standard GeoPackage geometry")
            start = 8 + _ENVELOPE_BYTES[blob[3] >> 1 & 7]
            return shapely.force_2d(shapely.from_wkb(bytes(blob[start:])))
        except (shapely.errors.ShapelyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"map {self.path}: a geometry of layer {layer} is damaged: {error}") from None

    def _meta(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._query("SELECT key, value FROM meta")}

    def _query(self, text: str, *values: Any) -> list[tuple]:
        try:
            return self._database.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"map {self.path} can't be read: {error}") from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
