"""The lab: hosts that reach each other and nobody else, and nothing that is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chaos.kit import PATIENCE_S, Datagrams, connection, dial, listener, wait_gone, why_no_lab
from chaos.lab import NAMESPACES, RUN_DIRECTORY, Host, Lab
from chaos.tools import LabError, run, tool

ROOT = Path(__file__).resolve().parents[2]
NODES = ("n1", "n2", "n3")

OWNER = """
import sys, time
from chaos.delay import Delays
from chaos.lab import Lab
lab = Lab(["n1", "n2"])
lab.start()
delays = Delays(lab)
delays.start()
sys.stdout.write(f"{lab.run_id} {delays.pid}\\n")
sys.stdout.flush()
time.sleep(60)
"""


@pytest.fixture(scope="module")
def possible() -> None:
    why = why_no_lab()
    if why is not None:
        pytest.skip(f"no lab can be made: {why}")


@pytest.fixture
def lab(possible: None) -> Iterator[Lab]:
    with Lab(NODES) as made:
        yield made


def exists(namespace: str) -> bool:
    return (NAMESPACES / namespace).exists()


@pytest.mark.chaos
def test_every_host_reaches_every_other_by_datagrams_and_connections(lab: Lab) -> None:
    datagrams = Datagrams(lab, 7400)
    try:
        pairs = [(a, b) for a in lab.addresses for b in lab.addresses if a != b]
        assert len(pairs) == 12
        assert all(datagrams.passes(a, b) for a, b in pairs)
    finally:
        datagrams.close()
    with connection(lab, "c", "n3", 6432) as (near, far):
        near.sendall(b"hello")
        assert far.recv(10) == b"hello"
        assert far.getpeername()[0] == lab.address("c") == "10.77.0.99"


@pytest.mark.chaos
def test_a_program_inside_sees_its_own_network_and_this_file_system(lab: Lab) -> None:
    shown = run(lab.argv("n2", [tool("ip"), "-oneline", "address", "show"]))
    assert "10.77.0.12/24" in shown
    assert "inet6" not in shown
    assert os.readlink("/proc/self/ns/mnt") in run(
        lab.argv("n2", ["/bin/readlink", "/proc/self/ns/mnt"])
    )
    routes = run(lab.argv("n2", [tool("ip"), "route", "show"]))
    assert [line.split()[0] for line in routes.splitlines()] == ["10.77.0.0/24"]


@pytest.mark.chaos
def test_loopback_works_on_every_host(lab: Lab) -> None:
    for host in lab.hosts:
        assert "127.0.0.1/8" in run(lab.argv(host.name, [tool("ip"), "address", "show", "lo"]))
        with listener(lab, host.name, 5432):
            assert dial(lab, host.name, host.name, 5432) == "open"


@pytest.mark.chaos
def test_the_root_namespace_gets_no_device(possible: None) -> None:
    before = [name for _, name in socket.if_nameindex()]
    with Lab(NODES):
        assert [name for _, name in socket.if_nameindex()] == before


@pytest.mark.chaos
@pytest.mark.slow
def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab(NODES) as other:
        assert other.run_id != lab.run_id
        first, second = Datagrams(lab, 7400), Datagrams(other, 7400)
        try:
            first.send("n1", "n2", b"for the first")
            assert second.receive("n2") is None
            assert first.receive("n2") == b"for the first"
        finally:
            first.close()
            second.close()
    assert len(lab.leftovers()) == 5


@pytest.mark.chaos
def test_an_id_that_is_taken_is_refused_and_its_owner_unharmed(lab: Lab) -> None:
    with pytest.raises(LabError, match="is taken"):
        Lab(NODES, run_id=lab.run_id).start()
    assert len(lab.leftovers()) == 5


def wait_inside(lab: Lab, pid: int) -> None:
    """Wait until a child has entered its namespace: before that nobody can know of it."""
    deadline = time.monotonic() + PATIENCE_S
    while pid not in lab.processes():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.chaos
def test_closing_ends_what_runs_inside_and_leaves_nothing(possible: None) -> None:
    lab = Lab(NODES)
    lab.start()
    with subprocess.Popen(lab.argv("n1", ["/bin/sleep", "60"])) as sleeper:
        owner = RUN_DIRECTORY / f"{lab.run_id}.pid"
        assert owner.exists()
        wait_inside(lab, sleeper.pid)
        lab.close()
        assert sleeper.wait(10) == -signal.SIGKILL
        assert lab.leftovers() == []
        assert lab.processes() == {}
        assert not owner.exists()
        lab.close()


@pytest.mark.chaos
def test_a_start_that_fails_halfway_leaves_nothing(
    possible: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def fail(lab: Lab, host: Host) -> None:
        made.extend(lab.leftovers())
        raise LabError(f"no {host.name} today")

    monkeypatch.setattr(Lab, "_configure", fail)
    lab = Lab(NODES)
    with pytest.raises(LabError, match="no n1 today"):
        lab.start()
    assert len(made) == 5
    assert not any(exists(namespace) for namespace in made)
    assert not (RUN_DIRECTORY / f"{lab.run_id}.pid").exists()


@pytest.mark.chaos
@pytest.mark.slow
def test_sweep_removes_what_a_killed_run_left_and_nothing_of_a_living_one(lab: Lab) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        try:
            assert owner.stdout is not None
            run_id, relay = owner.stdout.readline().split()
            names = [f"mk{run_id}-{name}" for name in ("c", "n1", "n2", "sw")]
            assert not set(names) & set(Lab.sweep())
            assert all(map(exists, names))
        finally:
            owner.kill()
        owner.wait(10)
    assert wait_gone(int(relay))
    assert set(names) <= set(Lab.sweep())
    assert not any(map(exists, names))
    assert not (RUN_DIRECTORY / f"{run_id}.pid").exists()
    assert len(lab.leftovers()) == 5


@pytest.mark.chaos
def test_sweep_knows_a_pid_that_is_somebody_elses_by_now(possible: None) -> None:
    lab = Lab(["n1"])
    lab.start()
    owner = RUN_DIRECTORY / f"{lab.run_id}.pid"
    try:
        pid, start_ticks = owner.read_text().split()
        owner.write_text(f"{pid} {int(start_ticks) - 1}\n")
        assert set(Lab.sweep()) >= {lab.namespace("n1"), lab.namespace("sw")}
    finally:
        with suppress(LabError):
            lab.close()
    assert lab.leftovers() == []


@pytest.mark.chaos
def test_sweep_removes_the_files_of_runs_that_died_before_they_made_anything(
    possible: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.lab.RUN_DIRECTORY", tmp_path)
    # Without the real directory no lab has an owner: none must be seen either.
    monkeypatch.setattr("chaos.lab.NAMESPACES", tmp_path / "none")
    beyond_any_pid = 1 << 23
    for name in ("abcd.pid", f"{beyond_any_pid}.draft", f"{os.getpid()}.draft"):
        (tmp_path / name).write_text(f"{beyond_any_pid} 1\n")
    assert Lab.sweep() == []
    assert [path.name for path in tmp_path.iterdir()] == [f"{os.getpid()}.draft"]


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name, path: None)
    with pytest.raises(LabError, match="nft is not installed: apt-get install nftables"):
        tool("nft")


def test_addresses_and_names_follow_from_the_order_of_the_nodes() -> None:
    lab = Lab(NODES, run_id="3fa1")
    assert lab.addresses == {
        "n1": "10.77.0.11",
        "n2": "10.77.0.12",
        "n3": "10.77.0.13",
        "c": "10.77.0.99",
    }
    assert lab.namespace("n1") == "mk3fa1-n1"
    assert lab.namespace("sw") == "mk3fa1-sw"
    assert lab.host("n2").port == "p-n2"
