"""Plans for whole splits of NAVSIM without the devkit: a submission file that its scripts read, and our scores beside it."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spanvla_ros.contracts import ConfigError, DataError, InputError
from spanvla_ros.data.navsim import scene as scenes
from spanvla_ros.data.navsim.agent import HORIZON_S, INTERVAL_S, poses_of
from spanvla_ros.data.navsim.logs import Frame, read_log, windows
from spanvla_ros.data.navsim.observation import OFFSETS_S, frame_indices, observe
from spanvla_ros.data.navsim.samples import Source, city_of
from spanvla_ros.data.navsim.splits import FUTURE_FRAMES, HISTORY_FRAMES
from spanvla_ros.evaluation.pdm import scorer
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.planner import Planner

WAYPOINTS = round(HORIZON_S / INTERVAL_S)
FIELDS = ("team_name", "authors", "email", "institution", "country / region")
_TRAJECTORY = ("navsim.common.dataclasses", "Trajectory")
_SAMPLING = ("nuplan.planning.simulation.trajectory.trajectory_sampling", "TrajectorySampling")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One scene: poses (8, 3) in the ego frame at 0.5 .. 4.0 s, the reasoning, and PDMS and EPDMS (unfiltered, without EC) where there is a map."""

    token: str
    poses: np.ndarray
    reasoning: str
    scores: Mapping[str, float]


def answers(source: Source, planner: Planner, score: bool) -> Iterator[tuple[int, int, list[Answer]]]:
    """(logs done, logs, answers) after every log. InputError or DataError where a scene can't be planned: a submission has no gaps."""
    missing = sorted(set(planner.spec.cameras) - set(source.cameras))
    if missing:
        raise ConfigError(f"the model's cameras {missing} have no counterpart in NAVSIM; give them with --camera")
    files = source.files()
    for done, path in enumerate(files, 1):
        frames = read_log(path)
        yield done, len(files), [_answer(source, planner, frames, t0, score) for t0 in windows(frames, source.chosen)]


def _answer(source: Source, planner: Planner, frames: list[Frame], t0: int, score: bool) -> Answer:
    here = frames[t0]
    plan = planner.plan(_observation(source, planner, frames[t0 - HISTORY_FRAMES + 1 : t0 + 1]))
    poses = poses_of(plan, WAYPOINTS, INTERVAL_S)
    values = {}
    if score:
        around = frames[t0 - HISTORY_FRAMES + 1 : t0 + FUTURE_FRAMES + 1]
        scene = scenes.scene(around, scenes.view(city_of(source.maps, here.city), here))
        values = {name: float(scorer.score(scene, poses[None], version).total[0]) for version, name in (("v1", "pdms"), ("v2", "epdms"))}
    return Answer(token=here.token, poses=poses, reasoning=plan.reasoning, scores=values)


def _observation(source: Source, planner: Planner, past: list[Frame]) -> Any:
    spec = planner.spec
    shown = frame_indices(spec.frame_offsets_s)
    return observe(
        spec,
        past[-1].stamp_us * 1000,
        np.stack([frame.pose for frame in past]),
        np.array([frame.velocity[0] for frame in past]),
        {name: [_picture(source, past[k], name, OFFSETS_S[k], spec.image_size) for k in shown] for name in spec.cameras},
        past[-1].command,
    )


def _picture(source: Source, frame: Frame, name: str, offset_s: float, wanted: tuple[int, int]) -> np.ndarray:
    camera = source.cameras[name]
    if camera not in frame.cameras:
        raise DataError(f"log {frame.log}: frame {frame.token} has no camera {camera}")
    path = source.sensors / frame.cameras[camera].path
    try:
        return decode_jpeg(path.read_bytes(), str(path), wanted)
    except OSError as error:
        raise InputError(f"picture {path} ({offset_s:g} s) can't be read: {error.strerror or error}") from None


def encode(plans: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """A submission: token -> poses (8, 3), and what the leaderboard asks about the team (`FIELDS`).

    It has the keys of NAVSIM v1.1 (predictions) and of v2 (first_stage_predictions) at once; each script takes its own.
    """
    with _devkit_types() as (trajectory, sampling):
        shared = _filled(sampling, num_poses=WAYPOINTS, time_horizon=HORIZON_S, interval_length=INTERVAL_S)
        found = {token: _filled(trajectory, poses=poses.astype(np.float32), trajectory_sampling=shared) for token, poses in plans.items()}
        content = {name: about.get(name, "") for name in FIELDS}
        content |= {"predictions": [found], "first_stage_predictions": [found], "second_stage_predictions": [{}]}
        stream = io.BytesIO()
        _Pickler(stream, protocol=4).dump(content)
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Arrays as numpy.asarray(lists): the devkit pins a numpy that can't read the pickles of later ones."""

    def reducer_override(self, value: Any) -> Any:
        return (np.asarray, (value.tolist(), value.dtype.str)) if isinstance(value, np.ndarray) else NotImplemented


def _filled(kind: type, **values: Any) -> Any:
    made = object.__new__(kind)
    made.__dict__.update(values)
    return made


@contextlib.contextmanager
def _devkit_types() -> Iterator[tuple[type, type]]:
    """Empty classes under the devkit's names, for as long as a pickle that names them is written."""
    made, before = [], {}
    try:
        for module, name in (_TRAJECTORY, _SAMPLING):
            parts = module.split(".")
            for k in range(1, len(parts) + 1):
                key = ".".join(parts[:k])
                before.setdefault(key, sys.modules.get(key))
                sys.modules[key] = types.ModuleType(key)
            kind = type(name, (), {"__module__": module})
            setattr(sys.modules[module], name, kind)
            made.append(kind)
        yield made[0], made[1]
    finally:
        for key, module in before.items():
            if module is None:
                del sys.modules[key]
            else:
                sys.modules[key] = module
