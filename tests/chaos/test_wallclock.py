"""Wall clocks that jump, seen by real programs under libfaketime."""

import json
import os
import subprocess
import sys
import time

import pytest

from chaos.wallclock import LOOKED_AT_EVERY_S, WallClock, library, remove_leftovers

SHOW = """
import json, sys, time
for line in sys.stdin:
    time.sleep(0.001)
    clocks = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
    print(json.dumps([time.clock_gettime(clock) for clock in clocks]), flush=True)
"""
NEAR_S = 0.5
TIMEOUT_S = 30


@pytest.fixture
def wall(tmp_path):
    made = WallClock(tmp_path / "n1.clock", library())
    made.make()
    return made


@pytest.fixture
def shown(wall):
    """A function that asks a running program for its clocks, as differences from the machine's."""
    environment = {**os.environ, **wall.python_environment("")}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as program:

        def ask():
            program.stdin.write("\n")
            program.stdin.flush()
            seen = json.loads(program.stdout.readline())
            clocks = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
            now = [time.clock_gettime(clock) for clock in clocks]
            return [a - b for a, b in zip(seen, now, strict=True)]

        yield ask
        program.stdin.close()


def ask_until_near(shown, wanted_s):
    """Ask until the wall clock is where it should be; return what the three clocks show then."""
    end = time.monotonic() + LOOKED_AT_EVERY_S + 5
    while True:
        seen = shown()
        if abs(seen[0] - wanted_s) < NEAR_S:
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.02)


def test_a_running_program_sees_every_jump_and_no_other_clock_moves(wall, shown):
    for by, ahead in ((3600.0, 3600.0), (-5000.0, -1400.0)):
        wall.jump(by)
        seen = ask_until_near(shown, ahead)
        assert seen[1] == pytest.approx(0, abs=NEAR_S)
        assert seen[2] == pytest.approx(0, abs=NEAR_S)
    wall.set_right()
    ask_until_near(shown, 0)


def test_threads_that_wait_for_each_other_do_not_spin(wall):
    """The library's own idea of a monotonic wait lets every such wait return at once."""
    script = (
        "import threading, time\n"
        "lock = threading.Lock(); lock.acquire()\n"
        "began, used = time.monotonic(), time.process_time()\n"
        "lock.acquire(timeout=0.5)\n"
        "print(time.monotonic() - began, time.process_time() - used)"
    )
    environment = {**os.environ, **wall.python_environment("")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    waited_s, used_s = map(float, done.stdout.split())
    assert waited_s >= 0.5
    assert used_s < 0.25


def test_only_shared_memory_of_the_dead_that_is_new_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait(TIMEOUT_S)
    names = [f"faketime_shm_{dead.pid}", f"sem.faketime_sem_{dead.pid}"]
    others = [f"faketime_shm_{os.getpid()}", "PostgreSQL.1"]
    for name in names + others:
        (tmp_path / name).touch()
    remove_leftovers(time.time() + 60, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(time.time() - 60, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_time_that_was_read_late_is_of_the_clock_as_it_was_then(tmp_path):
    wall = WallClock(tmp_path / "n1.clock", tmp_path / "any")
    wall.make()
    wall.jump(600)
    wall.jump(-30)
    assert wall.true_s(1570.0, now_s=1000.1) == 1000.0
    assert wall.true_s(1599.9, now_s=1000.1) == pytest.approx(999.9)
    assert wall.true_s(999.5, now_s=1000.1) == 999.5


def test_without_the_library_programs_keep_their_environment_and_no_clock_jumps(tmp_path):
    wall = WallClock(tmp_path / "n1.clock", None)
    wall.make()
    assert wall.python_environment("x") == {}
    wall.set_right()
    with pytest.raises(RuntimeError, match="libfaketime is not installed"):
        wall.jump(1)
