"""Run folders: where a training writes its record, metrics, curve and checkpoints."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from spanvla_ros.contracts import ConfigError, DataError
from spanvla_ros.model import checkpoint
from spanvla_ros.share import runs

BEST = "best.safetensors"
PANELS = 4  # of the plot beside each other
KEEP = 2  # checkpoints: the newest, and one more in case the newest turns out to be bad


class Run:
    """One training run in its own folder. Opening an existing run with the same configuration continues it.

    record.json: configuration, data hash, commit, environment, command; metrics.jsonl: one JSON object per line, the same
    numbers for TensorBoard in tensorboard/; step-XXXXXXXX/: checkpoints, each complete or absent; best.safetensors: weights of
    the best evaluation, where training stops early. wandb: project at Weights & Biases that gets the numbers too.
    """

    def __init__(self, name: str, config: Mapping[str, Any], data_hash: str, root: Path | None = None, wandb: str | None = None):
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(f"run name {name!r} can't be used as a folder name")
        self.path = (root or runs()) / name
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"config": json.loads(json.dumps(config)), "data_sha256": data_hash}
        known = self.path / "record.json"
        if known.exists():
            before = json.loads(known.read_text(encoding="utf-8"))
            changed = [key for key in record if before.get(key) != record[key]]
            if changed and self.latest() is not None:
                raise ConfigError(
                    f"run {self.path} was started with a different {' and '.join(changed)}{_difference(before, record)}; "
                    "choose another --run name or delete the folder"
                )
        write_text(known, json.dumps(record | environment(), indent=1))
        self._board = SummaryWriter(str(self.path / "tensorboard"))
        self._wandb = _wandb(wandb, self.path, record["config"]) if wandb else None

    @property
    def name(self) -> str:
        return self.path.name

    def log(self, values: Mapping[str, Any]) -> None:
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")
        scalars = {k: v for k, v in values.items() if isinstance(v, (int, float)) and k != "step"}
        for key, value in scalars.items():
            self._board.add_scalar(key, value, values.get("step", 0))
        self._board.flush()
        if self._wandb is not None:
            self._wandb.log(scalars, step=values.get("step", 0))

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def forget_after(self, step: int) -> None:
        """Drop metric lines of steps that were lost with an interrupted run."""
        kept = [m for m in self.metrics() if m.get("step", 0) <= step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))
        self._board.close()
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def checkpoints(self) -> list[Path]:
        return sorted(p for p in self.path.glob("step-*") if p.suffix != ".tmp")

    def latest(self) -> Path | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; it appears under its name only when complete, older ones are removed only after that.

        Raises DataError when the disk is full: the checkpoint before it stays.
        """
        target = self.path / f"step-{step:08d}"
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
            write_text(temporary / "state.json", json.dumps(state))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            last = self.latest()
            kept = f"{last.name} is kept" if last else "there is none yet"
            raise DataError(f"checkpoint {target} can't be written ({error}); {kept}, make room and run the same command again") from None
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
        for old in self.checkpoints()[:-KEEP]:
            shutil.rmtree(old)
        return target

    def restore(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint, None for a run that has none."""
        path = self.latest()
        if path is None:
            return None
        return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text(encoding="utf-8"))

    def save_best(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Remember the weights of the best evaluation so far."""
        temporary = self.path / f"{BEST}.tmp"
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            kept = "the one before it is kept, make room and run the same command again"
            raise DataError(f"{self.path / BEST} can't be written ({error}); {kept}") from None
        os.replace(temporary, self.path / BEST)

    def best(self) -> dict[str, torch.Tensor] | None:
        path = self.path / BEST
        return load_file(path) if path.exists() else None

    def plot(self, groups: Mapping[str, tuple[str, ...]], window: int = 1) -> None:
        """curve.png: one panel per group of metric names, over steps, as means over `window` values, fewer where there are few. Skipped
        where matplotlib is not installed."""
        try:
            import matplotlib
        except ImportError:
            return
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        lines = self.metrics()
        columns = min(len(groups), PANELS)
        rows = -(-len(groups) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.5 * rows), squeeze=False)
        for axis in axes.flat[len(groups) :]:
            axis.remove()
        for axis, (title, names) in zip(axes.flat, groups.items()):
            for name in names:
                points = [(m["step"], m[name]) for m in lines if name in m and m[name] is not None]
                if points:
                    steps, values = np.array(points, dtype=float).T
                    span = max(1, min(window, len(points) // 8))
                    smooth = np.convolve(values, np.full(span, 1 / span), "valid")
                    axis.plot(steps[span - 1 :], smooth, marker="." if len(points) < 50 else "", label=name)
            axis.set_title(title)
            axis.set_xlabel("step")
            if axis.lines:
                axis.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(self.path / "curve.png", dpi=110)
        plt.close(figure)


def _wandb(project: str, path: Path, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError(f"wandb={project} needs the Python package wandb; install it with: pip install wandb") from None
    # the run's name is its identity, so that a resumed run continues its curves
    return wandb.init(project=project, name=path.name, id=path.name, dir=str(path), config=dict(config), resume="allow")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def resolve(name: str | Path) -> Path:
    """A run by name or path."""
    for path in (Path(name).expanduser(), runs() / name):
        if (path / "record.json").exists():
            return path
    raise DataError(f"no run {name!r} (looked for {runs() / name})")


def model_folder(name: str | Path) -> Path:
    """Where the model of a run lies; a model folder, such as that of an engine, may be named itself."""
    path = Path(name).expanduser()
    return path if (path / checkpoint.DESCRIPTION).exists() else resolve(name) / "model"


def environment() -> dict[str, Any]:
    """What is needed to repeat a run: commit, versions, machine, command line."""
    versions = {}
    for package in ("torch", "transformers", "peft", "tokenizers", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": commit(),
        "command": ["spanvla", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def commit() -> str | None:
    """Commit of the source tree, with `+changes` where tracked files differ; None outside git."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if dirty else "")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = before.get("config", {}), now["config"]
    keys = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k)]
    return f" ({', '.join(f'{k}: {old.get(k)!r} -> {new.get(k)!r}' for k in keys[:3])})" if keys else ""
