"""The proxy workers of a real node are replaced while clients are at work: nobody notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import trio
from drivers_kit import proxies_of
from own_cluster import own_cluster
from test_proxy_workers import (
    LOCK,
    TwoWorkers,
    assert_cancelled_by_any_worker,
    one_of_each,
    wait_until,
    worker_of,
    worker_pids,
)

from metako.api.client import LocalAgent
from metako.config import load
from metako.demo.cluster import LocalCluster
from metako.demo.layout import DATABASE
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user
from metako.runtime.paths import agent_socket

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKERS = 2
RESTART_TIMEOUT_S = 30.0
LOAD_S = 6
CLIENTS = 8


async def test_clients_stay_when_the_workers_are_replaced(
    test_bindir: str | None, keep_directories: bool
) -> None:
    options = {"nodes": 1, "keep": keep_directories, "make": TwoWorkers}
    async with own_cluster(test_bindir, **options) as cluster:
        for check in (sessions_go_on, what_is_open_ends_first, a_load_goes_on, by_the_command_line):
            await trio.to_thread.run_sync(check, cluster)


def replace_workers(cluster: LocalCluster) -> set[int]:
    """Return the new workers. Those before may still have clients."""
    before = worker_pids(cluster)
    path = agent_socket(load(cluster.nodes[0].config_path))
    assert LocalAgent(path).restart_proxy(RESTART_TIMEOUT_S) == (WORKERS, [])
    return worker_pids(cluster) - before


def console(cluster: LocalCluster, command: str) -> list[str]:
    """Return the lines that psql prints."""
    node = cluster.nodes[0]
    user = resolve_os_user(cluster.layout.os_user)
    psql = find_installation(cluster.layout.bindir, user, node.directory).program("psql")
    where = cluster.layout.dsn(node).removesuffix(DATABASE) + "metako"
    done = subprocess.run(
        [psql, "-X", "-At", "-c", command, where], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def backend(client: psycopg.Connection) -> int:
    row = client.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def sessions_go_on(cluster: LocalCluster) -> None:
    proxies = proxies_of(cluster)
    before = worker_pids(cluster)
    with one_of_each(proxies, before) as found:
        clients = list(found.values())
        for number, client in enumerate(clients):
            client.execute("set timezone to 'Asia/Tokyo'; create temp table mine (id int)")
            client.execute("insert into mine values (%s)", (number,), prepare=True)
            client.execute(f"listen told; select pg_advisory_lock({LOCK + number})".encode())
        backends = [backend(client) for client in clients]

        after = replace_workers(cluster)
        assert len(after) == WORKERS

        wait_until(lambda: worker_pids(cluster) == after, "the workers of before are gone")
        assert {worker_of(client, after) for client in clients} == after
        assert [backend(client) for client in clients] == backends
        for number, client in enumerate(clients):
            assert client.execute("show timezone").fetchone() == ("Asia/Tokyo",)
            client.execute("insert into mine values (%s)", (number,), prepare=True)
            assert client.execute("table mine").fetchall() == [(number,)] * 2
            assert_cancelled_by_any_worker(client)
        clients[0].execute("notify told, 'hello'")
        for client in clients:
            told = next(iter(client.notifies(timeout=10, stop_after=1)))
            assert told.payload == "hello"


def what_is_open_ends_first(cluster: LocalCluster) -> None:
    proxies = proxies_of(cluster)
    before = worker_pids(cluster)
    with one_of_each(proxies, before) as found:
        first, second = found.values()
        first.execute("create table open (id int)")
        with first.transaction():
            first.execute("insert into open values (1)")
            after = replace_workers(cluster)
            there = worker_pids(cluster)
            assert worker_of(first, there) in before
            # Who is at rest has left.
            assert worker_of(second, there) in after
            shown = [row.split("|")[:2] for row in console(cluster, "show clients")]
            ids = [client for _, client in shown]
            assert len(set(ids)) == len(ids) >= 2, "a client can be named"
            # The request comes to the new worker, and the session is at the one before.
            assert_cancelled_in_transaction(first)
        wait_until(lambda: worker_pids(cluster) == after, "the workers of before are gone")
        assert worker_of(first, after) in after
        assert second.execute("table open").fetchall() == [(1,)]
        second.execute("drop table open")


def assert_cancelled_in_transaction(client: psycopg.Connection) -> None:
    timer = threading.Timer(0.1, client.cancel_safe)
    with client.transaction():
        client.execute("savepoint before")
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("select pg_sleep(10)")
        client.execute("rollback to before")
    timer.join()


def a_load_goes_on(cluster: LocalCluster) -> None:
    proxies = proxies_of(cluster)
    node = cluster.nodes[0]
    user = resolve_os_user(cluster.layout.os_user)
    pgbench = find_installation(cluster.layout.bindir, user, node.directory).program("pgbench")
    environment = {**os.environ, **proxies.environment()}
    run = [str(pgbench), "-n", "-c", str(CLIENTS), "-T", str(LOAD_S), "-M"]
    subprocess.run([str(pgbench), "-i", "-q"], env=environment, check=True, capture_output=True)
    loads = [
        subprocess.Popen(
            [*run, mode, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for mode, *more in (["prepared", "-S"], ["simple"], ["extended", "-S", "-C"])
    ]
    ended = time.monotonic() + LOAD_S - 2
    times = 0
    while time.monotonic() < ended:
        time.sleep(0.5)
        replace_workers(cluster)
        times += 1
    assert times >= 2
    for load_ in loads:
        out, _ = load_.communicate(timeout=LOAD_S + 30)
        text = out.decode()
        assert load_.returncode == 0, text
        assert "number of failed transactions: 0 (0.000%)" in text, text
    wait_until(lambda: len(worker_pids(cluster)) == WORKERS, "the workers of before are gone")


def by_the_command_line(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    command = [sys.executable, "-m", "metako", "restart", "--proxy"]
    run = [*command, "-c", str(node.config_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 workers were replaced; clients stay connected\n"
    done = subprocess.run([*run, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": True, "reason": None, "replaced": WORKERS}
    log = Path(node.log_path).read_text()
    assert '"level": "ERROR"' not in log
