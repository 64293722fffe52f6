"""The memory of a contestant's idle clients, as many as this machine can hold.

A proxy that pools by session, or does not pool, has a session on PostgreSQL for each client, and
that is a process of a megabyte or two. What it takes is seen from the first clients; the others log
in as long as all of it fits into a part of the memory that was available before. The machine is not
ours alone: whatever the estimate says, logging in ends when that part is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from benchmarks.proxy import procfs
from benchmarks.proxy.contestants import Contestant
from benchmarks.proxy.results import Idle
from benchmarks.proxy.server import BenchCluster
from metako.demo.client import ClientError, PgClient, ServerError

IDLE_PROCESSES_MAX = 200
"""Idle clients of a contestant that starts a process for each of them before the first comes."""
PROBE_CLIENTS = 20
STEP_CLIENTS = 500  # between two looks at the memory, and two lines of progress
MEMORY_SHARE = 0.5  # of what was available, for everything that comes with the clients
LOGINS_AT_ONCE = 16
LOGIN_TIMEOUT_S = 30.0
SETTLE_S = 1.0
GIB = 1 << 30


async def measure(
    cluster: BenchCluster, one: Contestant, idle: Idle, say: Callable[[str], None]
) -> None:
    """Log clients in, and note in `idle` what they take. They are gone when this returns.

    Raises:
        ClientError, ServerError: a client was not let in.
    """
    begun_s = time.monotonic()
    free = procfs.available_bytes()
    idle.before = procfs.memory(one.roots())
    held: list[PgClient] = []
    observer = await cluster.connect(cluster.one.postgres_port, timeout_s=LOGIN_TIMEOUT_S)
    try:
        with observer:
            count = await _probe(cluster, one, idle, held, free)
            while len(held) < count:
                await _log_in(cluster, one, min(STEP_CLIENTS, count - len(held)), held)
                left, passed_s = procfs.available_bytes(), time.monotonic() - begun_s
                say(
                    f"{one.name}: {len(held)} of {count} clients after {passed_s:.0f} s, "
                    f"{left / GIB:.1f} GiB of memory available"
                )
                if left < free * (1 - MEMORY_SHARE) and len(held) < count:
                    share = f"{1 - MEMORY_SHARE:.0%} {_of_available(free)}"
                    idle.fewer_because = f"then less than {share} was left"
                    break
            await trio.sleep(SETTLE_S)
            idle.after = procfs.memory(one.roots())
            idle.clients, idle.servers = len(held), await _sessions(observer)
    finally:
        for client in held:
            client.close()


async def _probe(
    cluster: BenchCluster, one: Contestant, idle: Idle, held: list[PgClient], free: int
) -> int:
    """Log the first clients in; return how many there can be in all, and note why not more."""
    root = cluster.postmaster()
    old = procfs.tree([root], procfs.process_stats())
    most = idle.asked
    if one.clients_max is not None and one.clients_max < most:
        most = one.clients_max
        idle.fewer_because = f"it starts a process for each of them beforehand, {most} at most"
    await _log_in(cluster, one, min(PROBE_CLIENTS, most), held)
    new = procfs.tree([root], procfs.process_stats()) - old
    idle.session_bytes = procfs.own_bytes(new) / len(held)
    assert idle.before is not None, "looked at before the first client"
    grown = procfs.memory(one.roots()).pss - idle.before.pss
    fit = clients_that_fit(idle.session_bytes + max(grown, 0) / len(held), free)
    if fit >= most:
        return most
    idle.fewer_because = (
        f"each takes {idle.session_bytes / (1 << 20):.1f} MiB of PostgreSQL, and no more fit "
        f"into {MEMORY_SHARE:.0%} {_of_available(free)}"
    )
    return max(fit, len(held))


def clients_that_fit(client_bytes: float, free: int) -> int:
    """Return how many clients may be there if each takes so much of so much free memory."""
    return int(free * MEMORY_SHARE / max(client_bytes, 1))


def _of_available(free: int) -> str:
    return f"of the {free / GIB:.1f} GiB that were available"


async def _sessions(observer: PgClient) -> int:
    """Return how many sessions of the application PostgreSQL has besides this one."""
    sql = (
        "select count(*) from pg_stat_activity "
        "where usename = current_user and pid <> pg_backend_pid()"
    )
    answer = await observer.query(sql, timeout_s=LOGIN_TIMEOUT_S)
    return int(answer.rows[0][0] or 0)


async def _log_in(cluster: BenchCluster, one: Contestant, count: int, held: list[PgClient]) -> None:
    """Add `count` clients to `held`. Raises what the first that fails raises."""
    failures: list[ClientError | ServerError] = []
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            try:
                client = await cluster.connect(one.port, timeout_s=LOGIN_TIMEOUT_S, tls=one.tls)
                held.append(client)
                # Some give a client a session on PostgreSQL only when it asks for something.
                await client.query("select 1", timeout_s=LOGIN_TIMEOUT_S)
            except (ClientError, ServerError) as error:
                failures.append(error)
            if failures:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(LOGINS_AT_ONCE):
            nursery.start_soon(some)
    if failures:
        raise failures[0]
