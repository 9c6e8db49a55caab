"""Fixtures that are dear enough to be shared, and an environment of its own for every run."""

from __future__ import annotations

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
    """Engine folder of the random tiny model: real graphs, real manifest, no meaning in its plans."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from helpers import export_tiny

    torch.set_num_threads(1)
    return export_tiny(tmp_path_factory.mktemp("engines") / "tiny")


class Forms(dict):
    """Engine folders of the random tiny model by the form they are exported in; each is made when it is first asked for."""

    # the exporter of opset 17 is the quickest one, so int8 goes through it
    CHOICES = {"17": {"opset": 17, "expert_step": True}, "24": {"opset": 24}, "int8": {"opset": 17, "precision": "int8"}}

    def __init__(self, folder: Path, default: Path):
        super().__init__({"20": default})
        self._folder = folder

    def __missing__(self, form: str) -> Path:
        from spanvla_ros.engine.export import export
        from spanvla_ros.model import tiny

        self[form] = self._folder / form
        export(tiny.build(), self[form], **self.CHOICES[form])
        return self[form]


@pytest.fixture(scope="session")
def tiny_engines(tmp_path_factory, tiny_engine) -> Forms:
    """Engine folders by form: 17, 20, 24, and int8."""
    return Forms(tmp_path_factory.mktemp("forms"), tiny_engine)
