"""Light, weather and wear of an episode."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import ConfigError
from spanvla_ros.sim.pictures.mesh import ASPHALT, GRASS, PAVEMENT, WHITE, YELLOW

LOOKS = ("day", "overcast", "fog", "dusk", "wet")


@dataclass(frozen=True, kw_only=True)
class Look:
    """Light and colours of an episode: unit sun direction, (ambient, direct) strength, tint (8, 3) per material, sky.

    density [1/m2]: fog hides 1 - exp(-density d^2) at distance d; for lamps density is multiplied by `pierce`.
    grain: contrast of the ground's texture. beam: strength of the own headlamps on what stands ahead.
    """

    sun: tuple[float, float, float]
    light: tuple[float, float]
    palette: np.ndarray
    haze: tuple[float, float, float]
    zenith: tuple[float, float, float]
    density: float
    grain: float
    pierce: float = 1.0
    beam: float = 0.0


def draw(name: str, seed: int) -> Look:
    """The look `name` of LOOKS as an episode seed has it."""
    if name not in LOOKS:
        raise ConfigError(f"look '{name}' is unknown; there are {', '.join(LOOKS)}")
    rng = np.random.default_rng([seed, 31])
    day = _day(rng)
    return day if name == "day" else {"overcast": _overcast, "fog": _fog, "dusk": _dusk, "wet": _wet}[name](day, rng)


def _day(rng: np.random.Generator) -> Look:
    height, around = rng.uniform(0.45, 1.2), rng.uniform(0, 2 * math.pi)
    sun = (math.cos(height) * math.cos(around), math.cos(height) * math.sin(around), math.sin(height))
    overcast = rng.random()
    grey = rng.uniform(0.62, 0.84)
    haze = np.array([grey * 0.96, grey, grey * 1.05]) * rng.uniform(0.95, 1.05, 3)
    zenith = (1 - overcast) * np.array([0.30, 0.50, 0.82]) + overcast * haze * 0.9
    palette = np.ones((8, 3))
    palette[0] = rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3)
    palette[ASPHALT] = rng.uniform(0.75, 1.45) * rng.uniform(0.96, 1.04, 3)
    palette[GRASS] = rng.uniform(0.7, 1.25) * rng.uniform(0.85, 1.15, 3)
    palette[PAVEMENT] = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
    palette[WHITE] = rng.uniform(0.78, 1.0)
    palette[YELLOW] = rng.uniform(0.8, 1.0)
    return Look(
        sun=sun,
        light=(0.62 + 0.22 * overcast, 0.55 - 0.40 * overcast),
        palette=palette,
        haze=tuple(np.clip(haze, 0, 1)),
        zenith=tuple(np.clip(zenith, 0, 1)),
        density=1 / rng.uniform(180, 420) ** 2,
        grain=rng.uniform(0.25, 0.5),
    )


def _overcast(day: Look, rng: np.random.Generator) -> Look:
    """No shadows, a grey lid, dull colours."""
    haze = rng.uniform(0.50, 0.66) * np.array([0.97, 1.0, 1.04])
    lid = tuple(haze * rng.uniform(0.72, 0.95))
    return dataclasses.replace(day, light=(rng.uniform(0.70, 0.80), 0.06), haze=tuple(haze), zenith=lid, density=1 / rng.uniform(140, 240) ** 2)


def _fog(day: Look, rng: np.random.Generator) -> Look:
    """Sight of 60 to 110 m; lamps carry further than paint."""
    haze = rng.uniform(0.66, 0.82) * np.array([0.99, 1.0, 1.02])
    density = 1 / rng.uniform(45, 80) ** 2
    return dataclasses.replace(day, light=(0.78, 0.06), haze=tuple(haze), zenith=tuple(haze * 0.97), density=density, pierce=0.35)


def _dusk(day: Look, rng: np.random.Generator) -> Look:
    """Little light, a warm horizon under a dark sky; paint on the road throws the headlamps' light back."""
    dim = rng.uniform(0.34, 0.48)
    haze = dim * np.array([1.15, 0.98, 0.95]) * rng.uniform(0.92, 1.08, 3)
    zenith = dim * np.array([0.45, 0.58, 0.95])
    palette = day.palette.copy()
    palette[WHITE] *= 1.7
    palette[YELLOW] *= 1.6
    low = np.array([*np.array(day.sun[:2]) / np.hypot(*day.sun[:2]) * 0.96, 0.28])
    return dataclasses.replace(
        day, sun=tuple(low), light=(dim, 0.16), palette=palette, haze=tuple(haze), zenith=tuple(zenith),
        density=1 / rng.uniform(160, 320) ** 2, pierce=0.5, beam=0.35,
    )  # fmt: skip


def _wet(day: Look, rng: np.random.Generator) -> Look:
    """After rain: dark road with patches, darker pavement, grey sky, some mist."""
    haze = rng.uniform(0.52, 0.70) * np.array([0.96, 1.0, 1.05])
    palette = day.palette.copy()
    palette[ASPHALT] = rng.uniform(0.48, 0.66) * np.array([0.94, 1.0, 1.10])
    palette[PAVEMENT] *= 0.68
    palette[GRASS] *= 0.85
    palette[WHITE] *= 0.92
    return dataclasses.replace(
        day, light=(0.74, 0.10), palette=palette, haze=tuple(haze), zenith=tuple(haze * 0.85), density=1 / rng.uniform(100, 200) ** 2,
        grain=rng.uniform(0.5, 0.7), pierce=0.5,
    )  # fmt: skip
