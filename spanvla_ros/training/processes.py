"""Several processes that train one model: on few cores, two of one thread are faster than one of two threads."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from spanvla_ros.contracts import SpanVLAError

# the others wait while rank 0 preprocesses the data set or evaluates
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @property
    def device(self) -> torch.device:
        """The GPU of this process where there are GPUs, one for each; else the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block first, the others after it."""
        if self.rank:
            self.barrier()
        yield
        if not self.rank:
            self.barrier()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()


def launch(count: int, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run `target(processes, *arguments)` in `count` processes; under torchrun, in this one as a member of its group."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(_backend(), timeout=PATIENCE)
        try:
            target(_here(Processes(rank=dist.get_rank(), world=dist.get_world_size())), *arguments)
        finally:
            dist.destroy_process_group()
    elif count <= 1:
        target(_here(Processes()), *arguments)
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        errors = mp.get_context("spawn").SimpleQueue()
        try:
            mp.spawn(_member, (count, port, target, arguments, errors), nprocs=count, join=True)
        except mp.ProcessExitedException:
            if errors.empty():
                raise
            raise SpanVLAError(errors.get()) from None


def _backend() -> str:
    """Tensors in memory travel by gloo, those on a GPU by NCCL."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _here(processes: Processes) -> Processes:
    if processes.device.type == "cuda":
        if processes.device.index >= torch.cuda.device_count():
            raise SpanVLAError(f"process {processes.rank} has no GPU of its own, there are {torch.cuda.device_count()}; start fewer processes")
        torch.cuda.set_device(processes.device)
    return processes


def _member(rank: int, count: int, port: int, target: Callable[..., Any], arguments: tuple[Any, ...], errors: Any) -> None:
    dist.init_process_group(_backend(), init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count, timeout=PATIENCE)
    try:
        target(_here(Processes(rank=rank, world=count)), *arguments)
    except SpanVLAError as error:
        # an exception loses its type on the way to the parent, the message is all it needs
        errors.put(str(error))
        sys.exit(2)
    finally:
        dist.destroy_process_group()
