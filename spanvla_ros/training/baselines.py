"""What a model must beat: the constant-turn roll-out, and a network that sees no picture."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from spanvla_ros.training import targets

HORIZONS_S = (1, 2, 3, 5)


def ade(waypoints: np.ndarray, future: np.ndarray, interval_s: float) -> dict[str, float]:
    """Mean distance in metres over the waypoints (n, T, 3) up to 1, 2, 3 and 5 s, and the final distance."""
    distance = np.linalg.norm(np.asarray(waypoints)[..., :2] - np.asarray(future)[..., :2], axis=-1)
    found = {f"ade_{s}s": round(float(distance[:, : round(s / interval_s)].mean()), 4) for s in HORIZONS_S if s <= distance.shape[1] * interval_s}
    return found | {"fde": round(float(distance[:, -1].mean()), 4)}


def blind(train: dict[str, np.ndarray], ego: np.ndarray, base: np.ndarray, scale: np.ndarray, *, seconds: float, seed: int) -> np.ndarray:
    """Waypoints (m, T, 3) of a network that sees ego history and command only, trained for `seconds` on `train`'s ego, base, future."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    inputs = torch.from_numpy(train["ego"])
    wanted = torch.from_numpy(targets.residuals(train["future"], train["base"]) / scale.astype(np.float32)).flatten(1)
    mean, std = inputs.mean(0), inputs.std(0) + 1e-3
    net = nn.Sequential(nn.Linear(inputs.shape[1], 256), nn.SiLU(), nn.Dropout(0.1), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, wanted.shape[1]))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.02)
    began = time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - share)
        rows = torch.randint(len(inputs), (512,), generator=generator)
        loss = F.smooth_l1_loss(net((inputs[rows] - mean) / std), wanted[rows], beta=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        said = net.eval()((torch.from_numpy(ego) - mean) / std).numpy().reshape(base.shape)
    return base + said * scale
