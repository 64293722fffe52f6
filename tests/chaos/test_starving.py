"""Processes that keep the cores busy: as many as are wanted, and gone when nobody wants them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.kit import wait_gone
from chaos.starving import Starving
from metako.demo.processes import read_process

CORES = os.cpu_count() or 1


@pytest.fixture
def starving():
    found = Starving()
    yield found
    found.end()


def test_the_greediest_says_how_many_burn(starving):
    starving("n1", 1)
    assert len(starving.pids) == CORES
    starving("n2", 2)
    assert len(starving.pids) == 2 * CORES
    starving("n2", 0)
    assert len(starving.pids) == CORES


def test_nobody_burns_when_nobody_wants_it(starving):
    starving("n1", 1)
    starving("n2", 1)
    pids = starving.pids
    starving("n1", 0)
    assert starving.pids == pids
    starving("n2", 0)
    assert starving.pids == ()
    assert [pid for pid in pids if read_process(pid) is not None] == []


def test_what_was_never_wanted_can_be_given_up(starving):
    starving("n1", 0)
    assert starving.pids == ()


def test_they_burn_at_the_priority_of_everybody(starving):
    starving("n1", 1)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in starving.pids} == {
        os.getpriority(os.PRIO_PROCESS, 0)
    }


def test_they_end_with_a_rig_that_is_killed():
    program = (
        "import sys,time\nfrom chaos.starving import Starving\n"
        "starving=Starving()\nstarving('n1',1)\nprint(*starving.pids,flush=True)\ntime.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join((str(root / "tests"), str(root)))
    rig = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    pids = [int(word) for word in rig.stdout.readline().split()]
    assert len(pids) == CORES
    time.sleep(0.2)  # until each has asked the kernel to be told
    rig.send_signal(signal.SIGKILL)
    rig.communicate(timeout=5)
    assert all(wait_gone(pid) for pid in pids)
