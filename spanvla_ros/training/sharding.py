"""Weights, gradients and optimiser state spread over the processes of a group (FSDP, version 2).

Each decoder layer is gathered when it runs and given back after it; all that is left (embedding, vision tower, heads) is
gathered once per step by the root. The tasks don't call the modules' own `forward`, so the hooks go where they do call:
`run` of each layer, and `within` of the root, in which the whole loss is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(root: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Spread `root` over all processes, in place, each of `layers` (with a method `run`) as a unit of its own."""
    # keys and values are views, and nobody changes them in place
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    for layer in layers:
        fully_shard(layer)
        register_fsdp_forward_method(layer, "run")
    fully_shard(root)
    root.within = MethodType(_call, root)
    register_fsdp_forward_method(root, "within")


def sharded(root: nn.Module) -> bool:
    return isinstance(root, FSDPModule)


def within(root: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` with the weights of `root` at hand."""
    if not sharded(root):
        return function(*arguments)
    result = root.within(function, *arguments)
    if not torch.is_grad_enabled():
        # without a backward pass nothing gives the gathered weights back, and the next step would see them as they are now
        root.reshard()
    return result


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as every process would have them without sharding. To be called in all processes."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}


def like(value: Tensor | None, target: Tensor) -> Tensor:
    """`value` as this process's share of `target`; only the first process has to have the value of a sharded one."""
    if not isinstance(target, DTensor):
        assert value is not None
        return value.to(target.device)
    full = torch.empty(target.shape, dtype=target.dtype) if value is None else value
    return distribute_tensor(full.to(target.device, target.dtype), target.device_mesh, target.placements)


def _call(root: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
