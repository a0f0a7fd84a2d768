"""The thread team by itself, and how many processors a process may use."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from afterburner.cpu.engine import engine
from afterburner.runtime.own_threads import own_threads
from afterburner.runtime.team import Team, available_cpus

JOB = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@pytest.fixture
def team():
    made = Team(engine()._team_code)
    yield made
    assert made.stop()


def launch(team: Team, function, workers: int) -> None:
    job = JOB(function)
    team.launch(ctypes.cast(job, ctypes.c_void_p).value, 0, workers)


def test_workers_take_part_and_all_have_left_when_a_launch_returns(team):
    team.grow(3)
    inside: list[int] = []
    all_there = threading.Barrier(3, timeout=30)

    def work(_, worker):
        all_there.wait()
        inside.append(worker)

    for _ in range(50):
        inside.clear()
        launch(team, work, 3)
        assert sorted(inside) == [0, 1, 2]


def test_workers_beyond_the_number_asked_for_stay_out(team):
    team.grow(4)
    seen: set[int] = set()
    for _ in range(50):
        launch(team, lambda _, worker: seen.add(worker), 2)
    assert seen <= {0, 1}


def test_workers_are_counted_as_our_own_threads(team):
    before = own_threads()
    team.grow(3)
    launch(team, lambda *_: None, 3)
    deadline = time.monotonic() + 30
    while own_threads() < before + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_threads() == before + 2
    assert team.stop()
    assert own_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_no_threads_of_ours(team):
    team.grow(2)
    launch(team, lambda *_: None, 2)
    deadline = time.monotonic() + 30
    while not own_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_threads()
    child = os.fork()
    if child == 0:
        os._exit(own_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_parked_workers_wake(team):
    team.grow(2)
    both = threading.Barrier(2, timeout=30)
    for _ in range(5):
        time.sleep(0.05)
        launch(team, lambda *_: both.wait(), 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's affinity calls")
def test_the_caller_keeps_parked_workers_off_its_processor(team):
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("one processor")
    team.grow(2)
    worker, = (t.native_id for t in threading.enumerate() if t.name == "afterburner-1" and t in team._threads)
    try:
        for cpu in sorted(mine)[:2] * 2:
            os.sched_setaffinity(0, {cpu})
            both = threading.Barrier(2, timeout=30)
            launch(team, lambda *_, both=both: both.wait(), 2)
            assert os.sched_getaffinity(worker) == mine - {cpu}
            time.sleep(0.01)  # long enough to park
    finally:
        os.sched_setaffinity(0, mine)


def test_parked_workers_use_no_processor_time(team):
    team.grow(3)
    launch(team, lambda *_: None, 3)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_the_caller_does_not_wait_for_workers_that_cannot_start(team, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    team.grow(4)
    assert team.size == 1
    ran: list[int] = []
    launch(team, lambda _, worker: ran.append(worker), 4)
    assert ran == [0]


def test_the_callers_affinity_is_left_alone(team):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity on this system")
    before = os.sched_getaffinity(0)
    team.grow(3)
    launch(team, lambda *_: None, 3)
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_worker_leaves_the_callers_processor():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    code = f"""
import os, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_team import Team, engine, launch
shared = min(os.sched_getaffinity(0))
team = Team(engine()._team_code)
team.grow(2)
both = threading.Barrier(2, timeout=30)
launch(team, lambda *_: both.wait(), 2)
for thread in (0, team._threads[0].native_id):
    os.sched_setaffinity(thread, {{shared}})
launch(team, lambda *_: both.wait(), 2)
caller, worker = os.sched_getaffinity(0), os.sched_getaffinity(team._threads[0].native_id)
assert caller == {{shared}} and worker and shared not in worker, (caller, worker)
assert team.stop()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_destructor_runs_while_the_interpreter_ends_needs_no_new_worker():
    code = """
from afterburner.cpu.engine import engine
class Late:
    def __init__(self):
        self.team = engine().team
    def __del__(self):
        print("workers:", self.team(3).size)
late = Late()
assert engine().team(3).size == 3
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout == "workers: 1\n"


def read_from(files: dict[str, str]):
    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    return read


@pytest.mark.parametrize(("files", "expected"), [
    ({}, 64),
    ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 64),
    ({"/sys/fs/cgroup/cpu.max": "250000 100000"}, 3),
    ({"/sys/fs/cgroup/cpu.max": "1000 100000"}, 1),
    ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "200000 100000",
      "/sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2),
    ({"/proc/self/cgroup": "4:cpu:/x\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
      "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2),
    ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 64),
    ({"/sys/fs/cgroup/cpu.max": "nonsense"}, 64),
])
def test_the_control_groups_quota_counts(monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cpus(read_from(files)) == expected


def test_affinity_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert available_cpus(read_from({})) == 3
