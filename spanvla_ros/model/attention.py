"""Attention and rotary embedding shared by the decoder and the expert."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# how a graph that is being exported writes attention: in plain operators, or as one
Form = Literal["plain", "operator"]
_form: Form | None = None

MASKED = -1e4  # additive and finite: exp() underflows to exactly 0 in float32, and it survives float16 engines


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (..., D) by cos and sin (..., D), halves convention of Qwen2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


@contextlib.contextmanager
def written(form: Form) -> Iterator[None]:
    """Attention takes this form within, whatever would compute faster here."""
    global _form
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


def _plain(device: torch.device) -> bool:
    if _form is not None:
        return _form == "plain"
    # on a CPU the backward of the fused kernel costs several times that of the plain operators at our sequence lengths
    return torch.compiler.is_compiling() or (torch.is_grad_enabled() and device.type == "cpu")


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: query (B, H, Q, D), key and value (B, Hkv, K, D), additive mask (B or 1, 1, Q or 1, K) -> (B, Q, H*D)."""
    batch, heads, count, size = query.shape
    if _plain(query.device):
        out = _attend_folded(query, key, value, mask)
    else:
        if mask is not None and _form == "operator":
            mask = mask.expand(-1, -1, count, -1)  # the ONNX operator repeats a mask over batch and heads only
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=heads != key.shape[1])
    return out.transpose(1, 2).reshape(batch, count, heads * size)


def _attend_folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same in plain operators for graphs; the group is folded into the query rows, so keys and values are never copied."""
    batch, heads, count, size = query.shape
    kv_heads, slots = key.shape[1], key.shape[2]
    group = heads // kv_heads
    folded = query.reshape(batch, kv_heads, group * count, size) * size**-0.5
    scores = torch.matmul(folded, key.transpose(-1, -2))
    if mask is not None:
        scores = (scores.reshape(batch, kv_heads, group, count, slots) + mask[:, :, None]).reshape(batch, kv_heads, group * count, slots)
    return torch.matmul(torch.softmax(scores, dim=-1), value).reshape(batch, heads, count, size)


def additive(allowed: Tensor) -> Tensor:
    """Additive mask of a boolean one: 0 where allowed, MASKED elsewhere."""
    return (1.0 - allowed.to(torch.float32)) * MASKED


@torch.library.custom_op("spanvla::write_columns", mutates_args=())
def write_columns(cache: Tensor, columns: Tensor, index: Tensor) -> Tensor:
    """Cache (1, Hkv, K, D) with columns (1, Hkv, S, D) from slot index (1,) on; ONNX knows it as TensorScatter of opset 24."""
    return cache.index_copy(2, index + torch.arange(columns.shape[2], device=index.device), columns)


write_columns.register_fake(lambda cache, columns, index: torch.empty_like(cache))
