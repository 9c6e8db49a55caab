"""Fixtures that are dear enough to be shared, and an environment of its own for every run."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path

import pytest

# parallel runs on one machine must not hear each other; 0-101 are safe on every platform
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(20, 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what a demo or another test runner set up must not decide what a test sees
for name in ("RMW_IMPLEMENTATION", "ROS_NAMESPACE"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def ros_logs(tmp_path_factory):
    """Logs of nodes stay in the folder of the test run."""
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory) -> Path:
    """Engine folder of the random tiny model: real graphs, real manifest, no meaning in its plans.

    Its residuals are small, so that its plans pass the validity checks and a car can follow them.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import tiny

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("engines") / "tiny"
    spec = dataclasses.replace(tiny.build().spec, action_scale=tuple((0.02 * k, 0.01 * k, 0.001) for k in range(1, 11)))
    export(tiny.build(spec=spec), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_engines(tmp_path_factory, tiny_engine) -> dict[str, Path]:
    """Engine folders of the random tiny model in the forms that `spanvla export` knows; 17 has a single Euler step too."""
    pytest.importorskip("torch")
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import tiny

    folder = tmp_path_factory.mktemp("engines")
    export(tiny.build(), folder / "17", opset=17, expert_step=True)
    export(tiny.build(), folder / "24", opset=24)
    # this exporter is the quickest one
    export(tiny.build(), folder / "int8", opset=17, precision="int8")
    return {"20": tiny_engine, **{name: folder / name for name in ("17", "24", "int8")}}
