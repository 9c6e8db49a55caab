"""A small NAVSIM on disk as the devkit has it: pickled logs, JPEGs, a GeoPackage map. Roads are straight; all numbers are made up."""

from __future__ import annotations

import hashlib
import json
import pickle
import sqlite3
import struct
from pathlib import Path

import cv2
import numpy as np
import shapely

CITY = "us-ma-boston"
ORIGIN = np.array([331000.0, 4690000.0])
CODE, ZONE = "epsg:32619", 19
LANE_M, LIMIT = 3.6, 13.4
START_US = 1_620_000_000_000_000
HEIGHT, WIDTH = 108, 192
SUBSYSTEMS = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")


def lane(x0: float, x1: float, y: float) -> shapely.Polygon:
    return shapely.box(x0, y - LANE_M / 2, x1, y + LANE_M / 2)


def line(x0: float, x1: float, y: float) -> shapely.LineString:
    xs = np.arange(x0, x1 + 0.5)
    return shapely.LineString(np.column_stack([xs, np.full(len(xs), y)]))


def shifted(shape):
    return shapely.transform(shape, lambda xy: xy + ORIGIN)


# two lanes (0, 1) eastwards in three blocks A, J, B; A and B are roads, J is an intersection
LANES = {1: (0, 200, 0.0, 11), 2: (0, 200, LANE_M, 11), 3: (230, 500, 0.0, 12), 4: (230, 500, LANE_M, 12)}
CONNECTORS = {21: (1, 3, 0.0), 22: (2, 4, LANE_M)}
BLOCKS = {11: (0, 200), 12: (230, 500)}


def write_map(root: Path, degrees: bool = True) -> Path:
    """maps/nuplan-maps-v1.0.json and maps/us-ma-boston/9.12.1817/map.gpkg; degrees False: stored in UTM."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "nuplan-maps-v1.0.json").write_text(json.dumps({CITY: {"version": "9.12.1817", "layers": {}}}))
    path = root / CITY / "9.12.1817" / "map.gpkg"
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    columns = "srs_name TEXT, srs_id INTEGER PRIMARY KEY, organization TEXT, organization_coordsys_id INTEGER"
    database.execute(f"CREATE TABLE gpkg_spatial_ref_sys ({columns})")
    database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, 'EPSG', ?)", [("WGS 84", 4326, 4326), ("UTM", 32619, 32619)])
    database.execute("CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT, geometry_type_name TEXT, srs_id INTEGER)")
    database.execute("CREATE TABLE meta (id INTEGER PRIMARY KEY, key TEXT, value TEXT)")
    database.execute("INSERT INTO meta (key, value) VALUES ('projectedCoordSystem', ?)", (CODE,))

    def layer(name: str, columns: dict[str, str], rows: list[tuple]) -> None:
        """rows: fid, geometry in local metres, values of the columns."""
        listed = "".join(f', "{column}" {kind}' for column, kind in columns.items())
        database.execute(f'CREATE TABLE {name} (fid INTEGER PRIMARY KEY, geom BLOB{listed})')
        system = 4326 if degrees else 32619
        database.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'GEOMETRY', ?)", (name, system))
        for fid, shape, *values in rows:
            shape = shifted(shape)
            shape = shapely.transform(shape, to_degrees) if degrees else shape
            blob = b"GP\x00\x01" + struct.pack("<i", system) + shapely.to_wkb(shape)
            database.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * (2 + len(values)))})", (fid, blob, *values))

    layer(
        "lanes_polygons",
        {"lane_fid": "INTEGER", "lane_group_fid": "INTEGER", "speed_limit_mps": "REAL"},
        [(fid, lane(a, b, y), fid, block, LIMIT) for fid, (a, b, y, block) in LANES.items()],
    )
    layer(
        "lane_connectors",
        {
            "exit_lane_fid": "INTEGER", "entry_lane_fid": "INTEGER", "lane_group_connector_fid": "INTEGER", "speed_limit_mps": "REAL",
            "traffic_light_stop_line_fids": "TEXT",
        },
        [(fid, line(200, 230, y), start, end, 15, None, "7") for fid, (start, end, y) in CONNECTORS.items()],
    )
    layer(
        "gen_lane_connectors_scaled_width_polygons",
        {"lane_connector_fid": "INTEGER"},
        [(100 + fid, lane(200, 230, y), fid) for fid, (_, _, y) in CONNECTORS.items()],
    )
    layer(
        "baseline_paths",
        {"lane_fid": "INTEGER", "lane_connector_fid": "INTEGER"},
        [(200 + fid, line(a, b, y), fid, None) for fid, (a, b, y, _) in LANES.items()]
        + [(300 + fid, line(200, 230, y), None, fid) for fid, (_, _, y) in CONNECTORS.items()],
    )
    road = {fid: shapely.box(a, -LANE_M / 2, b, 1.5 * LANE_M) for fid, (a, b) in BLOCKS.items()}
    layer("lane_groups_polygons", {}, [(fid, shape) for fid, shape in road.items()])
    crossing = shapely.box(200, -LANE_M / 2, 230, 1.5 * LANE_M)
    layer("lane_group_connectors", {"from_lane_group_fid": "INTEGER", "to_lane_group_fid": "INTEGER"}, [(15, crossing, 11, 12)])
    layer("intersections", {}, [(31, shapely.box(195, -6, 235, 10))])
    layer("carpark_areas", {}, [(41, shapely.box(60, 6, 80, 20))])
    database.commit()
    database.close()
    return root


def to_degrees(xy: np.ndarray) -> np.ndarray:
    """Inverse of `to_utm` by Newton's method."""
    from spanvla_ros.data.navsim.projection import to_utm

    degrees = np.tile([-71.05, 42.345], (len(xy), 1))
    for _ in range(6):
        here = to_utm(degrees, CODE)
        slopes = [(to_utm(degrees + step, CODE) - here) / 1e-6 for step in ([1e-6, 0.0], [0.0, 1e-6])]
        jacobian = np.stack(slopes, axis=-1)
        degrees = degrees + np.linalg.solve(jacobian, (xy - here)[..., None])[..., 0]
    return degrees


def quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def frames(log: str, count: int = 24, x0: float = 120.0, speed: float = 8.0) -> list[dict]:
    """A drive along lane 1 with a slower car ahead, one in the other lane, a cone, a pedestrian that is seen once, and a red light."""
    found = []
    begin_us = START_US + int(hash_of(log), 16) * 1_000  # a car drives one log at a time
    for k in range(count):
        t = 0.5 * k
        x, yaw = x0 + speed * t, 0.0
        others = {
            "aa01": ("vehicle", x0 + 25 + 6.0 * t, 0.0, 4.6, 1.9, (6.0, 0.0)),
            "bb02": ("vehicle", x0 - 10 + 9.0 * t, LANE_M, 4.8, 2.0, (9.0, 0.0)),
            "cc03": ("traffic_cone", x0 + 40.0, -4.0, 0.4, 0.4, (0.0, 0.0)),
        }
        if k == 9:
            others["dd04"] = ("pedestrian", x0 + 60.0, 9.0, 0.7, 0.7, (0.0, -1.0))
        found.append(
            {
                "token": f"{hash_of(log)}{k:08d}",
                "timestamp": begin_us + 500_000 * k + (k % 3) * 300,
                "log_name": log,
                "log_token": "00",
                "scene_name": "made up",
                "scene_token": "00",
                "map_location": CITY,
                "roadblock_ids": ["11", "15", "12"],
                "traffic_lights": [("21", k < 6), ("22", False)],
                "driving_command": np.array([0, 1, 0, 0]),
                "ego2global_translation": np.array([*(ORIGIN + [x, 0.0]), 0.0]),
                "ego2global_rotation": quaternion(yaw),
                "ego_dynamic_state": [speed, 0.0, 0.0, 0.0],
                "lidar2ego_rotation": quaternion(0.0),
                "lidar2ego_translation": [1.5, 0.0, 1.8],
                "lidar_path": f"{log}/MergedPointCloud/{k:04d}.pcd",
                "can_bus": np.zeros(18),
                "anns": {
                    "gt_boxes": np.array([[ox - x, oy, 0.8, length, width, 1.6, 0.0] for _, ox, oy, length, width, _ in others.values()], np.float32),
                    "gt_names": np.array([entry[0] for entry in others.values()]),
                    "gt_velocity_3d": np.array([[*entry[5], 0.0] for entry in others.values()], np.float32),
                    "instance_tokens": [f"{name}-{k}" for name in others],
                    "track_tokens": list(others),
                },
                "cams": {camera: camera_entry(log, camera, k) for camera in SUBSYSTEMS},
            }
        )
    return found


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def camera_entry(log: str, camera: str, k: int) -> dict:
    side = {"F": 0.0, "L": 0.9, "R": -0.9, "B": np.pi}[camera[4]]
    cos, sin = np.cos(side), np.sin(side)
    # columns: right, down and ahead of the picture
    rotation = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
    return {
        "data_path": f"{log}/{camera}/{k:04d}.jpg",
        "sensor2lidar_rotation": rotation,
        "sensor2lidar_translation": np.array([0.2, 0.0, -0.3]),
        "cam_intrinsic": np.array([[154.0, 0, WIDTH / 2], [0, 154.0, HEIGHT / 2], [0, 0, 1]]),
        "distortion": np.zeros(5),
    }


def write_log(root: Path, log: str, split: str = "trainval", **changes) -> Path:
    """navsim_logs/<split>/<log>.pkl and sensor_blobs/<split>/<log>/CAM_*/NNNN.jpg below `root`."""
    entries = frames(log, **changes)
    path = root / "navsim_logs" / split / f"{log}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entries))
    for entry in entries:
        for number, camera in enumerate(SUBSYSTEMS):
            if camera in ("CAM_F0", "CAM_L0", "CAM_R0", "CAM_L1"):
                picture(root / "sensor_blobs" / split / entry["cams"][camera]["data_path"], number)
    return path


def picture(path: Path, number: int) -> None:
    """A road under a sky that differs by camera and frame."""
    frame = int(path.stem)
    rgb = np.full((HEIGHT, WIDTH, 3), (200 - 10 * number, 180, 120 + 3 * frame), np.uint8)
    rgb[HEIGHT // 2 :] = 90
    cv2.line(rgb, (WIDTH // 2, HEIGHT // 2), ((7 * frame) % WIDTH, HEIGHT), (255, 255, 255), 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes())


def name_of(split: str, start: int = 0) -> str:
    """The name of a log that falls into the split, train or validation."""
    from spanvla_ros.data.navsim.splits import split_of

    names = (f"2021.06.01.00.00.{k % 60:02d}_veh-{k:02d}_00000_00100" for k in range(start, 10_000))
    return next(name for name in names if split_of(name) == split)
