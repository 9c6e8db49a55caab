"""golden.npz of an engine folder: inputs, and what the checkpoint made of them in float32 where the folder was exported.

Any back-end on any machine is held against these numbers, so a car needs neither torch nor the exporting machine.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.backends.session import Session

NAME = "golden.npz"
COUNT = 2
OUTPUTS = ("features", "logits", "tokens", "waypoints")
EPOCH = (1980, 1, 1, 0, 0, 0)  # equal arrays shall give equal bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """relative: of the L2 norm of the differences of features and logits to that of the goldens; waypoints in m and rad."""

    relative: float
    waypoints: float
    same_tokens: bool = True


# by precision; int8 and int4 are judged by their open-loop error, here they must only be the same network
LIMITS = {
    "fp32": Limits(relative=1e-4, waypoints=1e-4),
    "tf32": Limits(relative=5e-3, waypoints=0.02),
    "fp16": Limits(relative=5e-3, waypoints=0.02),
    "bf16": Limits(relative=2e-2, waypoints=0.05),
    "fp8": Limits(relative=5e-2, waypoints=0.05),
}
QUANTISED = Limits(relative=0.2, waypoints=math.inf, same_tokens=False)


def arithmetic(backend: str, precision: str) -> str:
    """What a back-end computes in, for an engine of this precision."""
    # torch runs the checkpoint, whatever the graphs hold; tensor cores round the factors of float32
    fixed = {"torch": "fp32", "torch-cuda": "bf16"}
    return fixed.get(backend, "tf32" if (backend, precision) == ("tensorrt", "fp32") else precision)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The largest differences to the goldens of one folder, as in Limits; tokens: share of equal reasoning tokens."""

    prompts: int
    features: float
    logits: float
    waypoints: float
    tokens: float
    precision: str

    @property
    def ok(self) -> bool:
        limits = LIMITS.get(self.precision, QUANTISED)
        # a NaN is never within limits
        near = max(self.features, self.logits) <= limits.relative and self.waypoints <= limits.waypoints
        return near and math.isfinite(self.features + self.logits + self.waypoints) and (self.tokens == 1 or not limits.same_tokens)

    def to_dict(self) -> dict[str, float | int | str]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.prompts} goldens, {self.precision}: features {self.features:.1e}, logits {self.logits:.1e} (relative), "
            f"waypoints {self.waypoints:.1e} m, tokens {self.tokens:.0%} equal"
        )


def write(folder: Path, reference: Session, prompts: Iterator[Mapping[str, np.ndarray]], seed: int = 0) -> None:
    """Run the reference on arrays of `planning.preprocess` and keep what went in and what came out."""
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(folder / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, prompt in enumerate(prompts):
            noise = generator.standard_normal((1, reference.spec.waypoints, 3)).astype(np.float32)
            for name, array in {**prompt, "noise": noise, **_run(reference, prompt, noise)}.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{index}/{name}.npy", EPOCH), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def read(folder: Path) -> list[dict[str, np.ndarray]]:
    """One dict per golden: inputs, `noise` and OUTPUTS. Errors: EngineError for a file that can't be read or holds none."""
    path = folder / NAME
    goldens: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for full in archive.files:
                index, _, name = full.partition("/")
                goldens.setdefault(index, {})[name] = archive[full]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EngineError(f"{path} can't be read: {error}; export the checkpoint again") from None
    lacking = [name for golden in goldens.values() for name in ("noise", *OUTPUTS) if name not in golden]
    if lacking or not goldens:
        raise EngineError(f"{path} holds no golden {lacking[0] if lacking else 'at all'}; export the checkpoint again")
    return list(goldens.values())


def check(folder: Path, tested: Session, precision: str = "fp32") -> Agreement:
    """Run a back-end on the goldens of a folder. Errors: as `read`."""
    goldens = read(folder)
    worst, equal, count = np.zeros(3), 0, 0
    for golden in goldens:
        found = _run(tested, {k: v for k, v in golden.items() if k not in ("noise", *OUTPUTS)}, golden["noise"])
        differences = [_relative(found[name], golden[name]) for name in ("features", "logits")]
        worst = np.maximum(worst, [*differences, np.abs(found["waypoints"] - golden["waypoints"]).max()])
        count += max(len(found["tokens"]), len(golden["tokens"]))
        equal += sum(int(a == b) for a, b in zip(found["tokens"], golden["tokens"]))
    features, logits, waypoints = (float(w) for w in worst)
    return Agreement(
        prompts=len(goldens), features=features, logits=logits, waypoints=waypoints, tokens=equal / max(count, 1), precision=precision
    )


def _run(session: Session, prompt: Mapping[str, np.ndarray], noise: np.ndarray) -> dict[str, np.ndarray]:
    session.prefill(prompt)
    # a back-end may overwrite them in the next run
    features, logits = np.array(session.features), np.array(session.logits)
    tokens = np.array(list(session.decode(session.spec.max_reasoning_tokens + 1)), np.int64)
    return {"features": features, "logits": logits, "tokens": tokens, "waypoints": np.array(session.flow(prompt, noise))}


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        raise EngineError(f"the back-end made an array {found.shape} where the goldens hold {wanted.shape}; export the checkpoint again")
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / max(np.linalg.norm(wanted), 1e-12))
