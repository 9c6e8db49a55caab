"""Where files are: those that travel beside the package (config/, engines/, launch/), and the folder of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spanvla_ros.contracts import ConfigError

PACKAGE = "spanvla_ros"
DEMO_ENGINE = "engines/demo"
# the variable that names a Fast DDS profile; renamed with Kilted
FASTDDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE" if os.environ.get("ROS_DISTRO") in ("humble", "jazzy") else "FASTDDS_DEFAULT_PROFILES_FILE"


def runs() -> Path:
    """Folder of what commands make on their own (trainings, caches): $SPANVLA_RUNS, else ~/.cache/spanvla/runs."""
    return Path(os.environ.get("SPANVLA_RUNS") or "~/.cache/spanvla/runs").expanduser()


def share(relative: str) -> Path:
    """Path of e.g. `config/rigs/demo.yaml`: of the source tree where there is one, else of the installed share folder.

    The ament index alone won't do: the wheels of ROS 2 set no AMENT_PREFIX_PATH, and bag or training need no ROS at all.
    """
    source = Path(__file__).resolve().parent.parent
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    roots = [source, *(prefix / "share" / PACKAGE for prefix in [*prefixes, Path(sys.prefix)])]
    for root in roots:
        if (root / relative).exists():
            return root / relative
    raise ConfigError(f"{relative} is neither in {source} nor in an installed share/{PACKAGE}; is the package installed completely?")
