"""Seeded road maps as SUMO nets and as OpenDRIVE, by id such as "town-6000": a kind and a number.

Training and validation maps are generated with netconvert (extra [maps]) into a cache folder; the benchmark's maps are
committed in `nets/`, so that test and acceptance seeds need no generator.
"""

from __future__ import annotations

import gzip
import importlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.share import runs
from spanvla_ros.sim.roads.layouts.plan import Plan

KINDS = ("town", "grid", "ring", "arterial", "roundabout", "left")
SEEDS_PER_MAP = 10
LANE_WIDTH_M = 3.5
_BENCHMARK = {"town": (6000, 6001, 6002)}
_GENERATOR = "v4"  # part of the cache path: raise it whenever the generated roads change
_NETS = Path(__file__).parent / "nets"
_COMMON = ("--default.lanewidth", str(LANE_WIDTH_M), "--no-turnarounds", "true", "--junctions.corner-detail", "8")


def map_id(kind: str, seed: int) -> str:
    """Map of an episode seed: one per ten seeds in 0-4999 (train) and 5000-5999 (validation), a committed one for 6000-6999 and 9000+."""
    if kind not in KINDS:
        raise ConfigError(f"map kind '{kind}' is unknown; there are {', '.join(KINDS)}")
    if 0 <= seed < 6000:
        return f"{kind}-{seed // SEEDS_PER_MAP * SEEDS_PER_MAP}"
    if 6000 <= seed < 7000 or seed >= 9000:
        numbers = _BENCHMARK.get(kind, (6000,))
        return f"{kind}-{numbers[seed % len(numbers)]}"
    raise ConfigError(f"seed {seed} is in no range: 0-4999 train, 5000-5999 validation, 6000-6999 test, 9000+ acceptance")


def committed() -> tuple[str, ...]:
    """Ids of the benchmark's maps."""
    return tuple(f"{kind}-{number}" for kind in KINDS for number in _BENCHMARK.get(kind, (6000,)))


def net_file(name: str) -> Path:
    """Path of the SUMO net (gzip) of a map; generates and caches it where it is not committed."""
    return _file(name, "net.xml.gz")


def xodr_file(name: str) -> Path:
    """Path of the OpenDRIVE file (gzip) of a map, in the coordinates of its net; generated like that."""
    return _file(name, "xodr.gz")


def generate(name: str, folder: Path) -> None:
    """Write `name`.net.xml.gz and `name`.xodr.gz of a map. Same map and same netconvert give the same bytes."""
    kind, number = _parse(name)
    plan: Plan = importlib.import_module(f"spanvla_ros.sim.roads.layouts.{kind}").plan(number)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "map"
        command = [_netconvert(), *_COMMON, *plan.options, "-o", f"{base}.net.xml"]
        for option, suffix, root in (("-n", "nod", "nodes"), ("-e", "edg", "edges"), ("-x", "con", "connections")):
            if elements := getattr(plan, root):
                Path(f"{base}.{suffix}.xml").write_text(f"<{root}>{elements}</{root}>")
                command += [option, f"{base}.{suffix}.xml"]
        _run(command, name)
        # the header comment holds date and paths: without it the file depends on the map alone
        text = re.sub(r"<!--.*?-->\s*", "", Path(f"{base}.net.xml").read_text(), flags=re.DOTALL)
    _pack(text, folder / f"{name}.net.xml.gz")
    # here, because sumolib is an extra and a map's path needs none
    from spanvla_ros.sim.roads import opendrive

    _pack(opendrive.document(folder / f"{name}.net.xml.gz"), folder / f"{name}.xodr.gz")


def _file(name: str, suffix: str) -> Path:
    _parse(name)
    if (_NETS / f"{name}.{suffix}").exists():
        return _NETS / f"{name}.{suffix}"
    folder = runs() / "maps" / _GENERATOR
    if not (folder / f"{name}.{suffix}").exists():
        generate(name, folder)
    return folder / f"{name}.{suffix}"


def _parse(name: str) -> tuple[str, int]:
    kind, _, number = name.partition("-")
    if kind not in KINDS or not number.isdecimal():
        raise ConfigError(f"map '{name}' is unknown; a map is KIND-NUMBER with KIND one of {', '.join(KINDS)}, e.g. town-6000")
    return kind, int(number)


def _pack(text: str, path: Path) -> None:
    # several processes may generate the same map: the rename is atomic, the last one wins with equal bytes
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        packed.write(text.encode())
    os.chmod(partial, 0o644)
    os.replace(partial, path)


def _run(command: list[str], name: str) -> None:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
        raise SpanVLAError(f"netconvert failed on map {name}: {(errors or ['no message'])[0]}")


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
