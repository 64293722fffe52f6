"""A new agent gets processor time before others, and what it had before once it has begun."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metako.runtime import priority
from metako.runtime.priority import NICE_GAIN, VARIABLE, raise_priority, restore_priority


@dataclass
class Machine:
    """Nice values of threads and of the session; 0 is the thread that asks."""

    session: Path
    allowed: bool = True
    nice: dict[int, int] = field(default_factory=lambda: {0: 3})

    def set(self, which: int, thread: int, nice: int) -> None:
        assert which == os.PRIO_PROCESS
        if not self.allowed:
            raise PermissionError
        self.nice[thread] = nice


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "autogroup")
    machine.session.write_text("/autogroup-7 nice -2\n")
    monkeypatch.setattr(priority, "AUTOGROUP", machine.session)
    monkeypatch.setattr(os, "getpriority", lambda _which, thread: machine.nice[thread])
    monkeypatch.setattr(os, "setpriority", machine.set)
    monkeypatch.setenv(VARIABLE, "")  # so that what is set here does not stay
    return machine


def test_priorities_are_raised_and_restored_for_every_thread_and_the_session(
    machine: Machine,
) -> None:
    raise_priority()
    assert machine.nice == {0: 3 - NICE_GAIN}
    assert machine.session.read_text() == str(-2 - NICE_GAIN)
    restore_priority()
    threads = {int(name) for name in os.listdir("/proc/self/task")}
    assert {thread: machine.nice[thread] for thread in threads} == dict.fromkeys(threads, 3)
    assert machine.session.read_text() == "-2"
    machine.nice, before = {}, machine.session.stat().st_mtime_ns
    restore_priority()  # once only
    assert (machine.nice, machine.session.stat().st_mtime_ns) == ({}, before)


def test_a_kernel_that_does_not_weigh_sessions_is_no_obstacle(machine: Machine) -> None:
    machine.session.unlink()
    raise_priority()
    assert machine.nice == {0: 3 - NICE_GAIN}
    restore_priority()
    assert machine.nice[os.getpid()] == 3
    assert not machine.session.exists()


def test_nothing_changes_where_it_is_not_allowed(machine: Machine) -> None:
    machine.allowed = False
    raise_priority()
    assert machine.session.read_text() == "/autogroup-7 nice -2\n"
    machine.allowed = True
    restore_priority()
    assert machine.nice == {0: 3}


@pytest.mark.parametrize("told", ["", "x", "- ", "1", "1 x"])
def test_only_what_was_noted_is_restored(
    told: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, told)
    restore_priority()
    assert machine.nice == {0: 3}
    assert VARIABLE not in os.environ
