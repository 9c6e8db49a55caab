import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from spanvla_ros.contracts import ConfigError
from spanvla_ros.workers import WorkerFailed, spread

JOBS = list(range(6))


def square(job):
    return job * job


def late(folder, job):
    """Job 0 ends when all others have."""
    (folder / str(job)).touch()
    deadline = time.monotonic() + 60
    while job == 0 and len(list(folder.iterdir())) < len(JOBS) and time.monotonic() < deadline:
        time.sleep(0.05)
    return job


def named(job):
    return os.getpid()


def dies(folder, times, job):
    tries = len(list(folder.glob(f"{job}-*")))
    (folder / f"{job}-{tries}").touch()
    if job == 3 and tries < times:
        os.kill(os.getpid(), signal.SIGSEGV)
    return job


def refuses(job):
    raise ConfigError(f"job {job} can't be done")


def broken():
    raise ConfigError("engine.onnx is not there")


def writes(folder, job):
    (folder / str(os.getpid())).touch()
    time.sleep(1000.0)


def test_the_order_is_that_of_the_jobs_or_that_in_which_they_finish(tmp_path):
    assert list(spread(square, JOBS, 2)) == [0, 1, 4, 9, 16, 25]
    assert list(spread(square, [], 2)) == []
    finished = list(spread(partial(late, tmp_path), JOBS, 2, ordered=False))
    assert sorted(finished) == JOBS and finished[0] != 0


def test_what_a_process_that_crashed_was_at_is_done_by_another(tmp_path, capfd):
    assert list(spread(partial(dies, tmp_path, 2), JOBS, 2)) == JOBS
    assert len(list(tmp_path.glob("3-*"))) == 3 and all(len(list(tmp_path.glob(f"{job}-*"))) == 1 for job in JOBS if job != 3)
    said = capfd.readouterr().err
    assert said.count("a process died (exit code -11); another one does its job") == 2
    assert "Segmentation fault" in said and "in dies" in said  # where it crashed


def test_a_job_that_always_crashes_ends_in_one_clear_line(tmp_path):
    with pytest.raises(WorkerFailed, match=r"a process died 3 times at the same job \(exit code -11"):
        list(spread(partial(dies, tmp_path, 9), JOBS, 2))


def test_errors_of_jobs_and_of_their_setup_keep_their_type():
    with pytest.raises(ConfigError, match="job [01] can't be done"):
        list(spread(refuses, JOBS, 2))
    with pytest.raises(ConfigError, match="engine.onnx is not there"):
        list(spread(square, JOBS, 2, setup=broken))


def test_a_process_is_replaced_after_its_share_of_jobs():
    assert len(set(spread(named, JOBS, 1, jobs_per_process=2))) == 3


def runs(pid):
    """Whether there is such a process and it hasn't ended; one that nobody waits for stays in the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_goes_on_when_the_one_who_asked_is_gone(tmp_path):
    program = f"import test_workers as t, pathlib, functools; list(t.spread(functools.partial(t.writes, pathlib.Path({str(tmp_path)!r})), range(1000), 2))"
    here = Path(__file__).parent
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=here, env=os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}"})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while any(runs(found.name) for found in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
