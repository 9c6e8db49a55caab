"""What a model is judged by: the constant-turn roll-out, a network that sees no picture, and one that is told the scene."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from spanvla_ros.training import targets
from spanvla_ros.training.cache import Cache

HORIZONS_S = (1, 2, 3, 5)
SCALE_FLOOR = (0.05, 0.05, 0.01)  # m, m, rad


def ade(waypoints: np.ndarray, future: np.ndarray, interval_s: float) -> dict[str, float]:
    """Mean distance in metres over the waypoints (n, T, 3) up to 1, 2, 3 and 5 s, and the final distance."""
    distance = np.linalg.norm(np.asarray(waypoints)[..., :2] - np.asarray(future)[..., :2], axis=-1)
    found = {f"ade_{s}s": round(float(distance[:, : round(s / interval_s)].mean()), 4) for s in HORIZONS_S if s <= distance.shape[1] * interval_s}
    return found | {"fde": round(float(distance[:, -1].mean()), 4)}


def scene(ego: np.ndarray, data: Cache) -> np.ndarray:
    """Input (n, E+26) of the network that is told the scene: ego history, scene fields and which of them are known, lamp one-hot."""
    fields = data["regression"]
    known = np.isfinite(fields)
    lamp = data["lamp"][:, None] == np.arange(targets.LAMPS)
    return np.concatenate([ego, np.where(known, fields, 0.0), known, lamp], axis=1).astype(np.float32)


def regress(
    train: Mapping[str, np.ndarray], inputs: np.ndarray, asked: np.ndarray, base: np.ndarray, *, seconds: float, seed: int
) -> np.ndarray:
    """Waypoints (m, T, 3) for inputs `asked` (m, I) with roll-outs `base`, of a network trained for `seconds` on `inputs` (n, I) and `train`'s base
    and future. With the ego history as inputs it is blind; with `scene` it is the ceiling of what pictures can tell."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    scale = np.array(targets.action_scale(train["future"], train["base"], SCALE_FLOOR))
    given = torch.from_numpy(inputs)
    wanted = torch.from_numpy(targets.residuals(train["future"], train["base"]) / scale.astype(np.float32)).flatten(1)
    mean, std = given.mean(0), given.std(0) + 1e-3
    net = nn.Sequential(nn.Linear(given.shape[1], 256), nn.SiLU(), nn.Dropout(0.1), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, wanted.shape[1]))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.02)
    began = time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - share)
        rows = torch.randint(len(given), (512,), generator=generator)
        loss = F.smooth_l1_loss(net((given[rows] - mean) / std), wanted[rows], beta=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        said = net.eval()((torch.from_numpy(asked) - mean) / std).numpy().reshape(base.shape)
    return base + said * scale
