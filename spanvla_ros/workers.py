"""Jobs for several processes. A process that dies (out of memory, a crash in a library) costs time, not results: another one does its job.

The pools of the standard library either wait for ever for what a dead process was at (multiprocessing) or give up what all were at
(concurrent.futures), and neither replaces its processes on Python 3.10 nor can end them in the middle of a job.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from spanvla_ros.contracts import SpanVLAError

ATTEMPTS = 3  # at one job

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerFailed(SpanVLAError):
    """A process ended before its work was done, more than once or for good."""


class _Worker:
    """A process with a pipe of its own: no lock that it could take along when it dies."""

    def __init__(self, function: Callable[[Any], Any], setup: Callable[[], None] | None):
        context = multiprocessing.get_context("spawn")  # not forked: the parent may run threads
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, function, setup), daemon=True)
        self.process.start()
        there.close()
        self.jobs = 0

    def give(self, index: int, job: Any) -> None:
        self.index, self.job, self.jobs = index, job, self.jobs + 1
        try:
            self.connection.send(job)
        except OSError:
            pass  # it has died, which is seen where its answer is read

    def answer(self) -> tuple[Any, tuple[Exception, str] | None]:
        """Result, or error and where it was raised. EOFError where the process has died."""
        try:
            return self.connection.recv()
        except OSError:
            raise EOFError from None

    def died(self) -> str:
        """Clear away what is left of it, and say how it died."""
        self.process.join(timeout=5)
        self.end()
        return f"exit code {self.process.exitcode}"

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def spread(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    *,
    setup: Callable[[], None] | None = None,
    ordered: bool = True,
    jobs_per_process: int | None = None,
) -> Iterator[Result]:
    """What `function` makes of every job, in the order of the jobs, or else as they finish, by `workers` fresh processes.

    setup is called in each of them before its first job. jobs_per_process: after so many a process is replaced, which bounds its memory.
    What a job raises is raised here, and ends the others. Errors: WorkerFailed.
    """
    # libraries that start as many threads as there are cores would fight over them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    waiting, crew = deque(enumerate(jobs)), {}
    done: dict[int, Result] = {}
    deaths: Counter[int] = Counter()
    turn = 0  # whose result comes next, where the order counts
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                worker = _Worker(function, setup)
                crew[worker.connection] = worker
                worker.give(*waiting.popleft())
            for connection in wait(list(crew)):
                worker = crew[connection]
                try:
                    result, error = worker.answer()
                except EOFError:
                    code = worker.died()
                    del crew[connection]
                    deaths[worker.index] += 1
                    if deaths[worker.index] == ATTEMPTS:
                        raise WorkerFailed(f"a process died {ATTEMPTS} times at the same job ({code}; out of memory?); try fewer --workers") from None
                    print(f"\na process died ({code}); another one does its job", file=sys.stderr, flush=True)
                    waiting.appendleft((worker.index, worker.job))
                    continue
                if error is not None:
                    raise error[0] from RuntimeError(f"in another process:\n{error[1]}")
                done[worker.index] = result
                if waiting and worker.jobs != jobs_per_process:
                    worker.give(*waiting.popleft())
                else:
                    del crew[connection]
                    worker.end()
            while turn in done if ordered else done:
                yield done.pop(turn) if ordered else done.popitem()[1]
                turn += 1
    finally:
        for worker in crew.values():
            worker.end()


def _follow() -> None:
    """End with the parent, also in the middle of a job and when the parent is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _serve(connection: Connection, function: Callable[[Any], Any], setup: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the others
    faulthandler.enable()  # a crash in a library says where
    threading.Thread(target=_follow, daemon=True).start()
    ready = False
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            if setup is not None and not ready:
                setup()
            ready = True
            answer = function(job), None
        except Exception as error:
            answer = None, (error, traceback.format_exc())
        try:
            connection.send(answer)
        except OSError:
            return  # nobody waits for it any more
