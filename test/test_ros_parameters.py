"""The table of parameters, its documentation in config/planner.param.yaml, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from spanvla_ros.contracts import ConfigError  # noqa: E402
from spanvla_ros.ros import parameters  # noqa: E402

FILE = Path(__file__).resolve().parent.parent / "config" / "planner.param.yaml"


def flatten(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_file_documents_every_parameter_with_default_and_range():
    text = FILE.read_text()
    values = dict(flatten(yaml.safe_load(text)["/**"]["ros__parameters"]))
    assert values == {row.name: row.default for row in parameters.PLANNER}
    for row in parameters.PLANNER:
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{row.name.rpartition('.')[2]}: "))
        assert row.text in line and row.range in line


def row(name):
    return next(r for r in (*parameters.PLANNER, *parameters.SIMULATOR) if r.name == name)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("hold_s", 9.0, "hold_s is 9, allowed is 0.1 to 5 s"),
        ("hold_s", float("nan"), "hold_s is nan"),
        ("hold_s", "1", "must be a number"),
        ("backend", "magic", "'magic', allowed is auto"),
        ("lockstep", 1, "must be true or false"),
    ],
)
def test_wrong_values_are_named(name, value, named):
    with pytest.raises(ConfigError, match=named):
        row(name).check(value)


def test_whole_numbers_are_numbers():
    assert isinstance(row("hold_s").check(2), float)
