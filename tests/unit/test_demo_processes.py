"""Which processes belong to a node: only metako's and PostgreSQL's own, and their children."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metako.demo.keys import Action, action_of_key, action_of_line
from metako.demo.processes import (
    Kind,
    Process,
    is_alive,
    kill_all,
    kind_of,
    node_processes,
    read_process,
    resume_all,
    stop_all,
)


def process(pid: int, *argv: str, program: str, parent: int = 1, cwd: str = "/") -> Process:
    return Process(pid, parent, "S", pid, argv, program, cwd)


TABLE = {
    p.pid: p
    for p in (
        process(10, "python", "-m", "metako", "run", "-c", "/d/n1/node.yaml", program="python3"),
        process(11, "python", "-m", "metako.guard", "/d/n1/state/x", program="python3", parent=10),
        process(12, "postgres", "-D", "/d/n1/pg/data", program="postgres", parent=11),
        process(13, "postgres: writer", program="postgres", parent=12, cwd="/d/n1/pg/data"),
        process(14, "pg_rewind", "-D", "/d/n1/pg/data", program="pg_rewind", parent=10),
        process(15, "python", "-m", "metako.proxy", "--control", "/d/n1/s", program="python3"),
        process(16, "sh", "-c", "archive", program="dash", parent=12),
        # The same of another node, and of a user who looks around.
        process(20, "python", "-m", "metako", "run", "-c", "/d/n10/node.yaml", program="python3"),
        process(21, "tail", "-f", "/d/n1/metako.log", program="tail"),
        process(22, "vim", "/d/n1/node.yaml", program="vim", cwd="/d/n1"),
        process(23, "python", "-m", "metako", "status", "-c", "/d/n2/node.yaml", program="python3"),
        process(24, "ls", "/d/n1/metako", program="ls"),
        process(25, "postgres", "-D", "/var/lib/pg", program="postgres", cwd="/var/lib/pg"),
    )
}


def test_all_processes_of_the_node_and_nobody_elses_are_found():
    found = [p.pid for p in node_processes(Path("/d/n1"), TABLE)]
    assert found == [10, 11, 12, 13, 14, 15, 16]


def test_processes_are_told_apart():
    kinds = {pid: kind_of(TABLE[pid], TABLE) for pid in (10, 11, 12, 13, 14, 15)}
    assert kinds == {
        10: Kind.AGENT,
        11: Kind.GUARD,
        12: Kind.POSTMASTER,
        13: Kind.POSTGRES,
        14: Kind.TOOL,
        15: Kind.WORKER,
    }


def test_own_process_is_readable_and_a_missing_one_is_none():
    own = read_process(os.getpid())
    assert own is not None
    assert own.parent == os.getppid()
    assert is_alive(own)
    assert read_process(2**22 + 1) is None


def test_reused_pid_is_somebody_else():
    own = read_process(os.getpid())
    assert own is not None
    other = Process(own.pid, own.parent, "S", own.start_ticks - 1, own.argv, "", "")
    assert not is_alive(other)


@pytest.fixture
def family(tmp_path: Path):
    """A process that calls itself metako's, with a child that does not mention the node."""
    program = tmp_path / "metako" / "proxy.py"
    program.parent.mkdir()
    program.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    directory = tmp_path / "n1"
    parent = subprocess.Popen(
        [sys.executable, "-S", str(program), str(directory / "x")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    yield directory, parent, child
    for pid in (child, parent.pid):
        found = read_process(pid)
        if found is not None:
            os.kill(pid, signal.SIGKILL)
    parent.stdout.close()
    parent.wait(timeout=5)


@pytest.mark.slow
async def test_kill_all_ends_children_too_and_tells_what_is_left(family):
    directory, parent, child = family
    assert {p.pid for p in node_processes(directory)} == {parent.pid, child}
    assert await kill_all([directory]) == []
    assert parent.wait(timeout=5) == -signal.SIGKILL
    assert read_process(child) is None


@pytest.mark.slow
async def test_stopped_processes_are_stopped_and_resumed(family):
    directory, parent, child = family
    await stop_all(directory)
    for pid in (parent.pid, child):
        found = read_process(pid)
        assert found is not None
        assert found.stopped
    resume_all(directory)
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s and any(p.stopped for p in node_processes(directory)):
        pass
    assert [p.stopped for p in node_processes(directory)] == [False, False]


def test_keys_and_words_mean_the_same():
    assert action_of_key("K") is action_of_line(" kill-primary \n") is Action.KILL_PRIMARY
    assert action_of_line("q") is Action.QUIT
    assert action_of_key("x") is None
    assert action_of_line("") is None
