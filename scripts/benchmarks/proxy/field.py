"""Start everybody who takes part in front of one server, and end them again.

A peer that is not installed is left out and told. One that is, but does not start or does not let
both roles in, is a failure of the run: its figures would be missing without a good reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from benchmarks.proxy.configs import Setting
from benchmarks.proxy.contestants import (
    CONTESTANTS,
    PEERS,
    Contestant,
    Peer,
    find_program,
    version_of,
)
from benchmarks.proxy.results import Encryption, Result, is_direct, speaks_tls
from benchmarks.proxy.server import TRUSTED_USER, BenchCluster, Size
from benchmarks.proxy.targets import is_metako
from benchmarks.proxy.tls import TlsClient
from metako.demo.client import ClientError, ServerError
from metako.demo.layout import APP_USER, DATABASE, PORT_PICK_LAST, is_port_free
from metako.demo.processes import Kind
from metako.model.errors import MetakoError, PortInUseError

LOGIN_TIMEOUT_S = 15.0
PORTS_TRIED_MAX = 200
WITHOUT_TLS = (
    "this PostgreSQL was built without TLS, and so was its pgbench; choose another --bindir"
)


def left_out(names: Sequence[str]) -> dict[str, str]:
    """Return those that are not installed, and how they would be."""
    return {
        name: f"{PEERS[name].program} is not installed; apt-get install {PEERS[name].package}"
        for name in names
        if name in PEERS and find_program(PEERS[name]) is None
    }


@asynccontextmanager
async def everybody(
    cluster: BenchCluster,
    names: Sequence[str],
    *,
    size: Size,
    result: Result,
    say: Callable[[str], None],
) -> AsyncIterator[list[Contestant]]:
    """Give those of `names` that let clients in; their peers end with the block, whatever happens.

    Versions, and what is broken or cannot be measured, are noted in `result`. Those that it has as
    left out are not tried.
    """
    node = cluster.one
    if any(map(speaks_tls, names)) and not await cluster.knows_tls():
        for name in filter(speaks_tls, names):
            result.left_out[name] = WITHOUT_TLS
            say(f"left out: {name}: {WITHOUT_TLS}")
    present = [name for name in names if name not in result.left_out]
    await _note_server(cluster, result)
    verifier = await cluster.verifier()
    peers: list[Peer] = []
    found: list[Contestant] = []
    try:
        for name in present:
            try:
                if is_direct(name):
                    one = Contestant(name, node.postgres_port, tuple)
                elif is_metako(name):
                    one = Contestant(name, node.proxy_port, lambda: cluster.pids(Kind.WORKER))
                else:
                    one = await _peer(name, cluster, verifier, size, peers, result)
                result.encryption[name] = await _try(cluster, one)
            except (MetakoError, ClientError, ServerError, OSError) as error:
                result.broken[name] = str(error)
                say(f"{name}: {error}")
            else:
                say(f"{name}: {CONTESTANTS[name]}, port {one.port}")
                found.append(one)
        yield found
    finally:
        for peer in peers:
            peer.stop()


async def _peer(
    name: str,
    cluster: BenchCluster,
    verifier: str,
    size: Size,
    peers: list[Peer],
    result: Result,
) -> Contestant:
    kind = PEERS[name]
    program = find_program(kind)
    assert program is not None, "looked for before"
    version = version_of(kind, program)
    result.versions[kind.program] = version
    layout, node = cluster.layout, cluster.one
    port = _free_port(max((peer.port for peer in peers), default=max(node.ports())) + 2)
    setting = Setting(
        directory=layout.directory / name,
        port=port,
        second_port=_free_port(port + 1),
        server_port=node.postgres_port,
        database=DATABASE,
        user=APP_USER,
        password=layout.app_password,
        verifier=verifier,
        trusted_user=TRUSTED_USER,
        clients_max=size.processes_max if kind.process_per_client else size.clients_max,
        connections_max=size.connections_max,
        version=version,
        certificate=cluster.tls.papers.certificate if cluster.tls is not None else "",
        key=cluster.tls.papers.key if cluster.tls is not None else "",
    )
    peer = Peer(kind, program, setting, os_user=layout.os_user)
    peers.append(peer)
    await peer.wait_ready()
    clients_max = setting.clients_max if kind.process_per_client else None
    return Contestant(name, port, peer.roots, kind.prepares(version), clients_max)


def _free_port(first: int) -> int:
    """Return the first free port from `first` on. Raises `PortInUseError`."""
    for port in range(first, first + PORTS_TRIED_MAX):
        if is_port_free(port):
            return port
    raise PortInUseError(f"no free port from {first} on (ports to {PORT_PICK_LAST} are tried)")


async def _try(cluster: BenchCluster, one: Contestant) -> Encryption:
    """Log in as both roles; return what is encrypted. Raises what the client raises."""
    sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    for user in (APP_USER, TRUSTED_USER):
        client = await cluster.connect(one.port, user=user, timeout_s=LOGIN_TIMEOUT_S, tls=one.tls)
        with client:
            answer = await client.query(sql, timeout_s=LOGIN_TIMEOUT_S)
            clients = client.cipher if isinstance(client, TlsClient) else ""
    await trio.lowlevel.checkpoint()
    return Encryption(clients, answer.rows[0][0] == "t")


async def _note_server(cluster: BenchCluster, result: Result) -> None:
    client = await cluster.connect(cluster.one.postgres_port, timeout_s=LOGIN_TIMEOUT_S)
    with client:
        answer = await client.query("show server_version", timeout_s=LOGIN_TIMEOUT_S)
    result.versions["PostgreSQL"] = str(answer.rows[0][0])
    text = await cluster.run([str(cluster.program("pgbench")), "--version"])
    result.versions["pgbench"] = text.split("(PostgreSQL)")[-1].strip().split()[0]
