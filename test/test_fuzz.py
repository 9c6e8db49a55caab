"""Damaged pictures, messages, YAML and JSON through every public way in: an answer or a SpanVLAError, nothing else.

A case is decided by its target and its number alone, so that a failure can be repeated: `TARGETS[name](Random(f"{name}/{number}"))`.
"""

from __future__ import annotations

import contextlib
import json
import re
import traceback
import warnings
from functools import cache, partial
from pathlib import Path
from random import Random
from types import SimpleNamespace as Box

import numpy as np
import pytest
import yaml
from helpers import S, demo_spec
from mutations import COUNTS, NUMBERS, VALUES, WORDS, damaged_bytes, damaged_text, damaged_tree, document, number, odometry, path, pictures, raw_image

from spanvla_ros import config
from spanvla_ros.contracts import Command, ModelSpec, SpanVLAError
from spanvla_ros.data import topics as drive_topics
from spanvla_ros.engine import manifest, seal
from spanvla_ros.evaluation import gate
from spanvla_ros.planning import images, messages, preprocess, rig
from spanvla_ros.planning.inputs import InputBuffer
from spanvla_ros.ros import topics

ROOT = Path(__file__).resolve().parent.parent
CASES, ALL_CASES = 4000, 100_000
SPEC = demo_spec(prompt_tokens=256)


@cache
def whole_pictures() -> list[bytes]:
    return pictures(Random(0))


def any_picture(rng: Random) -> bytes:
    data = rng.choice(whole_pictures())
    return damaged_bytes(rng, data) if rng.random() < 0.7 else data


def decoded(rng: Random) -> None:
    """What a camera sends is decoded and brought to the model's size."""
    rgb = images.decode_jpeg(messages.image(Box(format="jpeg", data=any_picture(rng))))
    assert rgb.dtype == np.uint8 and rgb.ndim == 3
    assert images.fit(rgb, SPEC.image_size).shape == (*SPEC.image_size, 3)


def raw(rng: Random) -> None:
    rgb = messages.image(raw_image(rng))
    assert rgb.dtype == np.uint8 and rgb.shape[2] == 3
    assert images.fit(rgb, SPEC.image_size).shape == (*SPEC.image_size, 3)


def odometries(rng: Random) -> None:
    sample = messages.odometry(odometry(rng))
    assert np.isfinite([*sample.pose_odom, sample.speed_mps, sample.yaw_rate_rps]).all()


def routes(rng: Random) -> None:
    points = messages.path(path(rng))
    pose = np.array([number(rng, 3.0), number(rng, 0.5), number(rng, 0.1)])
    found, distance = messages.route_command(points, pose if np.isfinite(pose).all() else np.zeros(3), rng.choice((1.0, 30.0, 500.0)))
    assert isinstance(found, Command) and np.isfinite(distance)


def commands(rng: Random) -> None:
    torn = damaged_bytes(rng, rng.choice(("left", "straight")).encode()).decode("utf-8", "replace")
    messages.command(rng.choice((*WORDS, torn, torn, torn)))


def budgets(rng: Random) -> None:
    line = json.dumps({"event": "plan", "t0_ns": 12, "budget_tokens": 24, "cut_tokens": None})
    messages.recorded_budget(Box(data=document(rng, line)))


@cache
def steady_history() -> list[tuple[int, np.ndarray, float, float]]:
    return [(10 * S + k * S // 20, np.array([0.4 * k, 0.0, 0.0]), 8.0, 0.0) for k in range(41)]


def buffers(rng: Random) -> None:
    """A drive with some messages damaged, then the arrays of the model from it."""
    buffer = InputBuffer(SPEC)
    for index, sample in enumerate(steady_history()):
        with contextlib.suppress(SpanVLAError):  # the node reports it and goes on
            if rng.random() < 0.1:
                sample = messages.odometry(odometry(rng, 10 + index // 20, index % 20 * S // 20))
            buffer.add_odometry(*sample)
    for stamp_ns in (10 * S + S, 10 * S + 3 * S // 2, 12 * S):
        stamp_ns += 0 if rng.random() < 0.8 else rng.choice((1, -1, S // 20, -S, 10**12, -(2**31) * S, 2**31 * S))
        with contextlib.suppress(SpanVLAError):
            payload = messages.image(raw_image(rng)) if rng.random() < 0.2 else any_picture(rng)
            buffer.add_image(rng.choice(("front",) * 9 + ("rear",)), stamp_ns, payload)
    observation = buffer.observe(rng.choice((12 * S,) * 6 + (10 * S, 0, 2**31 * S)), rng.choice(list(Command)))
    assert np.isfinite(preprocess.model_frames(observation, SPEC)).all()
    assert np.isfinite(observation.history.poses_base).all()


def read(rng: Random, folder: Path, name: str, files: list[Path], reader) -> None:
    """A damaged copy of one of `files`, read by `reader`."""
    text = rng.choice(files).read_text(encoding="utf-8")
    text = damaged_text(rng, text) if rng.random() < 0.4 else yaml.safe_dump(damaged_tree(rng, yaml.safe_load(text)))
    target = folder / name
    target.write_bytes(damaged_bytes(rng, text.encode("utf-8", "replace")) if rng.random() < 0.1 else text.encode("utf-8", "replace"))
    reader(target)


def overrides(rng: Random) -> None:
    """`key=value` on the command line."""
    from spanvla_ros.sim.scenarios.family import Family

    keys = ("cameras.front.width", "cameras", "odometry", "name", "", "a.b.c", "engagement.field", "engagement.automatic", "cameras.", ".", "layouts")
    given = [f"{rng.choice(keys)}{rng.choice(('=', '=', '=', ''))}{rng.choice(WORDS)}" for _ in range(rng.choice((1, 2)))]
    kinds = {"rigs/demo": rig.Rig, "topics/drive": drive_topics.DriveTopics, "topics/minisim": topics.Topics, "scenarios/lane": Family}
    name = rng.choice(list(kinds))
    config.load(kinds[name], ROOT / "config" / f"{name}.yaml", given)


def specs(rng: Random) -> None:
    """Plain values -> ModelSpec, and what is computed from it."""
    spec = ModelSpec.from_dict(damaged_tree(rng, SPEC.to_dict()))
    assert spec.vision_tokens >= 0 and len(spec.sha256) == 64 and spec.cache_tokens is not None
    assert ModelSpec.from_dict(spec.to_dict()).sha256 == spec.sha256


def manifests(rng: Random, folder: Path) -> None:
    """manifest.json torn, or with wrong values, or with the hash made to fit after an edit of the spec."""
    text = (ROOT / "engines" / "demo" / manifest.NAME).read_text(encoding="utf-8")
    if rng.random() < 0.5:
        data = {"parity": {}, **json.loads(text)}
        part = rng.choice(("spec", "files", "graphs", "parity"))
        data[part] = damaged_tree(rng, data[part])
        with contextlib.suppress(SpanVLAError):
            data["spec_sha256"] = ModelSpec.from_dict(data["spec"]).sha256
        text = json.dumps(data)
    else:
        text = document(rng, text)
    (folder / manifest.NAME).write_bytes(text.encode("utf-8", "replace"))
    (folder / seal.NAME).write_bytes(damaged_bytes(rng, f"{seal.digest(folder / manifest.NAME)}  {manifest.NAME}\n".encode()))
    with contextlib.suppress(SpanVLAError):  # the files that it names are not there
        manifest.verify(folder)
    assert len(manifest.read(folder).sha256) == 64


def parameters(rng: Random) -> None:
    rclpy_parameters = pytest.importorskip("spanvla_ros.ros.parameters", reason="ROS 2 (rclpy) is not installed")
    row = rng.choice((*rclpy_parameters.PLANNER, *rclpy_parameters.SIMULATOR))
    given = [v for v in (*VALUES, *WORDS, *NUMBERS, *COUNTS) if not isinstance(v, int) or abs(v) < 2**63]  # as large as they get in ROS
    value = row.check(rng.choice(given))
    assert type(value) is type(row.default)


def families(file: Path) -> None:
    from spanvla_ros.sim.scenarios.family import Family

    config.load(Family, file)


READERS = {
    "rig": ("rigs/*.yaml", rig.load_rig),
    "topics": ("topics/[cm]*.yaml", lambda file: config.load(topics.Topics, file)),
    "drive": ("topics/drive.yaml", drive_topics.load),
    "gate": ("gates/*.yaml", gate.load),
    "scenario": ("scenarios/*.yaml", families),
    "yaml": ("**/*.yaml", config.read),
}
TARGETS = {f.__name__: f for f in (decoded, raw, odometries, routes, commands, budgets, buffers, overrides, specs, parameters)}
IN_A_FOLDER = {"manifests": manifests}
for name, (pattern, reader) in READERS.items():
    IN_A_FOLDER[name] = partial(read, name=f"{name}.yaml", files=sorted((ROOT / "config").glob(pattern)), reader=reader)
# targets that take most of the time get fewer cases
WEIGHTS = {"yaml": 0.3, "scenario": 0.5, "manifests": 0.5, "buffers": 0.7, "drive": 0.5, "overrides": 0.5}


def cases(total: int) -> dict[str, int]:
    names = [*TARGETS, *IN_A_FOLDER]
    unit = total / sum(WEIGHTS.get(name, 1.0) for name in names)
    return {name: int(np.ceil(unit * WEIGHTS.get(name, 1.0))) for name in names}


def run(name: str, count: int, folder: Path) -> None:
    refused, failed = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's overflows end as values that are checked
        for index in range(count):
            rng = Random(f"{name}/{index}")
            try:
                TARGETS[name](rng) if name in TARGETS else IN_A_FOLDER[name](rng, folder)
            except SpanVLAError as error:
                refused += 1
                if not str(error):
                    failed.append(f"{name}/{index}: an error without a word")
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                line = traceback.extract_tb(error.__traceback__)[-1]
                failed.append(f"{name}/{index}: {type(error).__name__} at {Path(line.filename).name}:{line.lineno}: {str(error)[:300]}")
    kinds = {re.sub(r"[0-9]+", "", line): line for line in reversed(failed)}
    assert not failed, f"{len(failed)} of {count}:\n" + "\n".join(list(kinds.values())[:20])
    assert 0.05 < refused / count < 1, f"{refused} of {count} were refused: the damage is no test"


@pytest.mark.parametrize(("name", "count"), cases(CASES).items())
def test_damaged_input_is_used_or_refused(name, count, tmp_path):
    run(name, count, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "count"), cases(ALL_CASES).items())
def test_a_hundred_thousand_damaged_inputs(name, count, tmp_path):
    run(name, count, tmp_path)
