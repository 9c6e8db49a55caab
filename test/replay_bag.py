"""Makes test/golden/replay: ten seconds of a simulator drive as a small bag, and what the tiny engine plans over it.

    PYTHONPATH=.:test python test/replay_bag.py          both, where pictures can be rendered (libegl1, libgl1-mesa-dri)
    PYTHONPATH=.:test python test/replay_bag.py plans    the plans alone, after a change that is meant to alter them
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import bags
import cv2
import numpy as np
from bags import STORE
from helpers import export_tiny

from spanvla_ros.cli.main import main

FOLDER = Path(__file__).resolve().parent / "golden" / "replay"
BAG, PLANS = FOLDER / "drive.mcap", FOLDER / "plans.json"
SIZE, QUALITY, SECONDS = (224, 126), 70, 10.0


def record() -> None:
    """The expert drives; odometry at 20 Hz, small pictures at 10 Hz."""
    from recorded_drive import odometry
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    from spanvla_ros.sim.scenarios import scenario
    from spanvla_ros.sim.simulation import Simulation

    simulation = Simulation(scenario.build("cut_in", 6000))
    simulation.reset()
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "drive", version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for step in range(round(SECONDS * 20)):
                stamp = bags.START_NS + simulation.stamp_ns
                sent = [(bags.ODOMETRY, odometry(stamp, simulation.ego))]
                if step % 2 == 0:
                    picture = cv2.imdecode(np.frombuffer(simulation.jpeg(), np.uint8), cv2.IMREAD_COLOR)
                    small = cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)
                    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
                    sent.append((bags.IMAGE, bags.compressed(stamp, jpeg)))
                for topic, message in sent:
                    if topic not in connections:
                        connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
                    writer.write(connections[topic], stamp, STORE.serialize_cdr(message, message.__msgtype__))
                simulation.advance(simulation.expert.plan().trajectory, 0.05)
        FOLDER.mkdir(parents=True, exist_ok=True)
        shutil.copy(next((Path(folder) / "drive").glob("*.mcap")), BAG)
    simulation.close()


def replay(engine: Path, out: Path) -> list[dict]:
    """Lines of plans.jsonl over the bag, without what depends on the clock."""
    words = ["bag", str(BAG), "--camera", f"front={bags.IMAGE}", "--odometry", bags.ODOMETRY, "--engine", str(engine), "--out", str(out)]
    assert main(words) == 0
    return read(out)


def read(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "plans.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timings_ms"} for line in lines]


if __name__ == "__main__":
    if sys.argv[1:] != ["plans"]:
        record()
    with tempfile.TemporaryDirectory() as scratch:
        found = replay(export_tiny(Path(scratch) / "engine"), Path(scratch) / "out")
    rows = [{"t0_ns": line["t0_ns"], "waypoints_base": np.round(line["waypoints_base"], 5).tolist()} for line in found]
    PLANS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{len(rows)} plans")
