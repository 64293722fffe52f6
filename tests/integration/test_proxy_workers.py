"""Two workers of a real node: what the clients of one notice when the other is killed."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
import yaml
from drivers_kit import Proxies, proxies_of
from own_cluster import own_cluster

from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER
from metako.demo.processes import Kind, node_by_kind

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKERS = 2
CONNECTIONS_MAX = 100  # until each worker has one: the kernel spreads them by a hash
TIMEOUT_S = 20.0
LOCK = 4711


class TwoWorkers(LocalCluster):
    """A cluster whose proxies have two workers each."""

    def write_files(self) -> None:
        super().write_files()
        for node in self.nodes:
            raw = yaml.safe_load(node.config_path.read_text())
            raw["proxy"] |= {"workers": WORKERS, "admin_users": [APP_USER]}
            node.config_path.write_text(json.dumps(raw))


def worker_pids(cluster: LocalCluster) -> set[int]:
    return {process.pid for process in node_by_kind(cluster.nodes[0]).get(Kind.WORKER, ())}


def worker_of(connection: psycopg.Connection, workers: set[int]) -> int:
    """Return which worker has the other end of a connection."""
    name = os.readlink(f"/proc/self/fd/{connection.fileno()}")
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (own,) = [row for row in table if f"socket:[{row[9]}]" == name]
    (inode,) = [row[9] for row in table if (row[1], row[2]) == (own[2], own[1])]
    for pid in workers:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(link) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue  # closed meanwhile
    raise AssertionError(f"no worker has {own}")


@contextmanager
def one_of_each(proxies: Proxies, workers: set[int]) -> Iterator[dict[int, psycopg.Connection]]:
    """Give one client of each worker."""
    with ExitStack() as stack:
        found: dict[int, psycopg.Connection] = {}
        for _ in range(CONNECTIONS_MAX):
            connection = psycopg.connect(proxies.dsn(), autocommit=True)
            worker = worker_of(connection, workers)
            if worker in found:
                connection.close()
            else:
                found[worker] = connection
                stack.callback(connection.close)
            if len(found) == len(workers):
                break
        assert set(found) == workers
        yield found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.02)


async def test_a_killed_worker_takes_only_its_own_clients_with_it(
    test_bindir: str | None, keep_directories: bool
) -> None:
    options = {"nodes": 1, "keep": keep_directories, "make": TwoWorkers}
    async with own_cluster(test_bindir, **options) as cluster:
        await trio.to_thread.run_sync(kill_one_worker, cluster)


def kill_one_worker(cluster: LocalCluster) -> None:
    proxies = proxies_of(cluster)
    workers = worker_pids(cluster)
    assert len(workers) == WORKERS
    with one_of_each(proxies, workers) as clients:
        killed, other = sorted(workers)
        theirs, ours = clients[killed], clients[other]
        ours.execute("create table log (id int); set timezone to 'Asia/Tokyo'")
        theirs.execute(f"select pg_advisory_lock({LOCK})".encode())
        theirs.execute("begin; insert into log values (1)")
        with ours.transaction():
            ours.execute("insert into log values (2)")
            kill_and_wait(killed)
            # At once, while one worker is gone: the other takes everybody.
            for _ in range(10):
                with psycopg.connect(proxies.dsn(), autocommit=True) as another:
                    assert another.execute("select 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError):
                theirs.execute("select 1")
            assert theirs.closed
        # Nobody is left on the server in the name of a client that is gone.
        asked = f"select pg_try_advisory_lock({LOCK})".encode()
        wait_until(lambda: ours.execute(asked).fetchone() == (True,), "its lock is free")
        assert ours.execute("table log").fetchall() == [(2,)]
        assert ours.execute("show timezone").fetchone() == ("Asia/Tokyo",)
        wait_until(lambda: len(worker_pids(cluster)) == WORKERS, "a new worker")
        replaced = worker_pids(cluster)
        assert killed not in replaced
        assert other in replaced
        assert worker_of(ours, replaced) == other
        wait_until(lambda: listeners(proxies.ports[0]) == WORKERS, "the new worker listens")
        with one_of_each(proxies, replaced) as newer:
            assert all(one.execute("select 1").fetchone() == (1,) for one in newer.values())
            for client in (ours, *newer.values()):
                assert_cancelled_by_any_worker(client)


def kill_and_wait(pid: int) -> None:
    """Return when the process holds no socket any more.

    The signal alone is not enough: until the kernel has closed the process's files, its listener
    is offered clients, and those are its own.
    """
    process = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        readable, _, _ = select.select([process], [], [], TIMEOUT_S)
        assert readable, f"process {pid} outlived SIGKILL"
    finally:
        os.close(process)


def listeners(port: int) -> int:
    """Return how many sockets listen on a port of loopback."""
    address = re.compile(rf" 0100007F:{port:04X} 00000000:0000 0A ")
    return len(address.findall(Path("/proc/net/tcp").read_text()))


def assert_cancelled_by_any_worker(client: psycopg.Connection) -> None:
    """Cancel so often that the requests have surely come to both workers."""
    for _ in range(8):
        timer = threading.Timer(0.05, client.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("select pg_sleep(10)")
        timer.join()
