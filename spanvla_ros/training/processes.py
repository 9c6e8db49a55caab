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
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            target(Processes(rank=dist.get_rank(), world=dist.get_world_size()), *arguments)
        finally:
            dist.destroy_process_group()
    elif count <= 1:
        target(Processes(), *arguments)
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


def _member(rank: int, count: int, port: int, target: Callable[..., Any], arguments: tuple[Any, ...], errors: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count, timeout=PATIENCE)
    try:
        target(Processes(rank=rank, world=count), *arguments)
    except SpanVLAError as error:
        # an exception loses its type on the way to the parent, the message is all it needs
        errors.put(str(error))
        sys.exit(2)
    finally:
        dist.destroy_process_group()
