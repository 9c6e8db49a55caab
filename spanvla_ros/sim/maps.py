"""Seeded road maps: one signalised junction with 3-4 winding arms, as SUMO nets.

Training and validation maps are generated with netconvert (extra [maps]) into a cache folder; the three evaluation
maps are committed in `nets/`, so that test and acceptance seeds need no generator.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.share import runs

LANE_WIDTH_M = 3.5
SPEED_LIMIT_MPS = 8.33
EVALUATION_MAPS = (6000, 6001, 6002)
SEEDS_PER_MAP = 10
_GENERATOR = "v1"  # part of the cache path: raise it whenever the generated roads change
_NETS = Path(__file__).parent / "nets"


def map_seed(seed: int) -> int:
    """Map of an episode seed: 0-4999 train, 5000-5999 validation, 6000-6999 and 9000+ one of the committed maps."""
    if 0 <= seed < 6000:
        return seed // SEEDS_PER_MAP * SEEDS_PER_MAP
    if 6000 <= seed < 7000 or seed >= 9000:
        return EVALUATION_MAPS[seed % len(EVALUATION_MAPS)]
    raise ConfigError(f"seed {seed} is in no range: 0-4999 train, 5000-5999 validation, 6000-6999 test, 9000+ acceptance")


def net_file(map_id: int) -> Path:
    """Path of the SUMO net of a map seed; generates and caches it where it is not committed."""
    committed = _NETS / f"{map_id}.net.xml.gz"
    if committed.exists():
        return committed
    cached = runs() / "maps" / _GENERATOR / f"{map_id}.net.xml.gz"
    if not cached.exists():
        generate(map_id, cached)
    return cached


def generate(map_id: int, path: Path) -> None:
    """Write the net of a map seed as gzip. Same seed and same netconvert give the same bytes."""
    nodes, edges = _plain_xml(map_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "map"
        base.with_suffix(".nod.xml").write_text(nodes)
        base.with_suffix(".edg.xml").write_text(edges)
        net = base.with_suffix(".net.xml")
        command = [
            _netconvert(), "-n", str(base.with_suffix(".nod.xml")), "-e", str(base.with_suffix(".edg.xml")), "-o", str(net),
            "--default.lanewidth", str(LANE_WIDTH_M), "--default.junctions.radius", "11", "--crossings.guess", "true",
            "--junctions.corner-detail", "8", "--junctions.internal-link-detail", "12", "--no-turnarounds", "true",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise SpanVLAError(f"netconvert failed on map {map_id}: {result.stderr.strip().splitlines()[-1:]}")
        # the header comment holds date and paths: without it the file depends on the seed alone
        text = re.sub(r"<!--.*?-->\s*", "", net.read_text(), flags=re.DOTALL)
    # several processes may generate the same map: the rename is atomic, the last one wins with equal bytes
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        packed.write(text.encode())
    os.chmod(partial, 0o644)
    os.replace(partial, path)


def _netconvert() -> str:
    try:
        import sumo
    except ImportError:
        found = shutil.which("netconvert")
    else:
        found = shutil.which("netconvert", path=os.path.join(sumo.SUMO_HOME, "bin"))
    if not found:
        raise SpanVLAError("netconvert is missing; it generates the training maps: pip install 'spanvla_ros[maps]'")
    return found


def _plain_xml(map_id: int) -> tuple[str, str]:
    """SUMO plain XML (nodes, edges): edges i<k> lead to the junction J, edges o<k> away from it."""
    rng = np.random.default_rng([map_id, 77])
    count = 4 if rng.random() < 0.7 else 3
    turn = rng.uniform(0, 2 * math.pi)
    while True:
        headings = [turn + k * math.pi / 2 + rng.uniform(-0.15, 0.15) for k in range(count)]
        arms = [_arm(rng, heading) for heading in headings]
        if _apart(arms):
            break
    nodes = ['<node id="J" x="0" y="0" type="traffic_light"/>']
    edges = []
    for k, arm in enumerate(arms):
        lanes = 1 if rng.random() < 0.6 else 2
        nodes.append(f'<node id="O{k}" x="{arm[-1, 0]:.2f}" y="{arm[-1, 1]:.2f}"/>')
        for name, start, end, shape in ((f"o{k}", "J", f"O{k}", arm), (f"i{k}", f"O{k}", "J", arm[::-1])):
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)
            edges.append(
                f'<edge id="{name}" from="{start}" to="{end}" numLanes="{lanes}" speed="{SPEED_LIMIT_MPS}" '
                f'shape="{points}" sidewalkWidth="2.0"/>'
            )
    return f"<nodes>{''.join(nodes)}</nodes>", f"<edges>{''.join(edges)}</edges>"


def _arm(rng: np.random.Generator, heading: float) -> np.ndarray:
    """Centre line (N, 2) of one arm from the junction outward: straights and arcs that stay within 0.7 rad of the start."""
    points = [(0.0, 0.0)]
    x = y = length = 0.0
    angle = heading

    def extend(distance: float, curvature: float) -> None:
        nonlocal x, y, angle, length
        steps = max(2, int(distance / 3))
        for _ in range(steps):
            middle = angle + curvature * distance / steps / 2
            x += distance / steps * math.cos(middle)
            y += distance / steps * math.sin(middle)
            angle += curvature * distance / steps
            points.append((x, y))
        length += distance

    extend(rng.uniform(42, 65), 0.0)
    total = rng.uniform(235, 275)
    while length < total:
        radius = math.exp(rng.uniform(math.log(25), math.log(110)))
        side = rng.choice([-1.0, 1.0])
        distance = radius * rng.uniform(0.35, 1.0)
        if abs(angle + side * distance / radius - heading) > 0.7:
            side = -side
        if abs(angle + side * distance / radius - heading) < 0.8:
            extend(min(distance, 55.0), side / radius)
        extend(rng.uniform(4, 32), 0.0)
    return np.array(points)


def _apart(arms: list[np.ndarray], clearance_m: float = 30.0) -> bool:
    """True if the arms keep clear of each other once they have left the junction."""
    for k, arm in enumerate(arms):
        for other in arms[k + 1 :]:
            far = arm[np.hypot(*arm.T) > 45][:, None]
            if np.hypot(*(far - other[None]).transpose(2, 0, 1)).min() < clearance_m:
                return False
    return True
