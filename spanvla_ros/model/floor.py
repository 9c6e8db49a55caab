"""The time below which no program can plan on a GPU: operations and bytes of a plan over what this GPU does per second."""

from __future__ import annotations

import time

import torch

from spanvla_ros.model.size import HALF, Size

MATRIX, COPIED_BYTES, REPEATS = 8192, 1 << 30, 20


def peaks(device: str = "cuda") -> tuple[float, float]:
    """Operations per second of a bfloat16 product, and bytes per second of a copy (read and written), both measured."""
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s = _seconds(lambda: torch.matmul(left, right))
    copy_s = _seconds(lambda: target.copy_(source))
    return 2 * MATRIX**3 / product_s, 2 * COPIED_BYTES / copy_s


def _seconds(work) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(REPEATS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / REPEATS


def floor_ms(size: Size, length: int, tokens: int, operations_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """Stage -> milliseconds in bfloat16, for a prompt of `length` tokens and a text of `tokens` and the closing one.

    Vision and prefill are bound by the products of their linear layers (attention is left out), reasoning and trajectory by
    the weights and keys and values that every step reads.
    """
    spec, vision, text = size.spec, size.architecture.vision, size.architecture.text
    unit = spec.merge**2
    wide = vision.hidden * unit
    merger = wide * wide + wide * text.hidden  # sees merged tokens only
    operations = {
        "vision": 2 * spec.vision_tokens * (unit * (size.vision - merger) + merger),
        "prefill": 2 * length * size.decoder + 2 * size.embedding,
    }
    kv = size.kv_token * (length + tokens / 2)
    read = {
        "reasoning": (tokens + 1) * ((size.decoder + size.embedding) * HALF + text.layers * kv),
        "trajectory": (1 if spec.head == "l1" else spec.flow_steps) * (size.expert * HALF + len(spec.taps) * kv),
    }
    found = {name: 1e3 * count / operations_per_s for name, count in operations.items()}
    found |= {name: 1e3 * count / bytes_per_s for name, count in read.items()}
    return found | {"total": sum(found.values())}
