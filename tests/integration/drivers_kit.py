"""What applications are given to reach a cluster: its proxies' ports, and one port for them all.

`Balancer` is what many put before the nodes, such as a service of Kubernetes or HAProxy: it knows
nothing of PostgreSQL, and leads each connection to the next node. So a request to cancel, which is
a connection of its own, comes to another proxy than the session that it is for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE

PROGRAM_TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 16
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True, slots=True)
class Proxies:
    """Where the proxies of a cluster are, and who may log in there with SCRAM."""

    host: str
    ports: tuple[int, ...]  # of the nodes, in order
    password: str
    user: str = APP_USER
    database: str = DATABASE

    def dsn(self, port: int | None = None, scheme: str = "postgresql") -> str:
        port = port or self.ports[0]
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{port}/{self.database}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return what libpq and its programs read."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(port or self.ports[0]),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGCONNECT_TIMEOUT": "10",
        }


def proxies_of(cluster: LocalCluster) -> Proxies:
    ports = tuple(node.proxy_port for node in cluster.nodes)
    return Proxies(cluster.nodes[0].host, ports, cluster.layout.app_password)


def run_program(
    *argv: object, environment: Mapping[str, str], stdin: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program of an application; what it said is in the error if it fails."""
    result = subprocess.run(
        [str(part) for part in argv],
        input=stdin,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        text=True,
        capture_output=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    if check:
        said = f"{argv[0]}: status {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert result.returncode == 0, said
    return result


def run_python(name: str, environment: Mapping[str, str]) -> str:
    """Run one of PROGRAMS with this interpreter, away from the settings of pytest."""
    return run_program(sys.executable, PROGRAMS / name, environment=environment).stdout


class Balancer:
    """Leads the connections to its port to `targets`, one after the other."""

    def __init__(self, host: str, targets: tuple[int, ...]) -> None:
        self.taken: list[int] = []  # the port that each connection was led to
        self._host = host
        self._targets = targets
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]
        self._start(self._accept)

    def _start(self, what: object, *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:  # ends with the listener
                client, _ = self._listener.accept()
                target = self._targets[len(self.taken) % len(self._targets)]
                self.taken.append(target)
                server = socket.create_connection((self._host, target))
                self._sockets += (client, server)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(_copy, client, server)
                self._start(_copy, server, client)

    def close(self) -> None:
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PROGRAM_TIMEOUT_S)
        for one in self._sockets:
            one.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def balanced(proxies: Proxies) -> Iterator[Balancer]:
    """Give one port for all nodes."""
    balancer = Balancer(proxies.host, proxies.ports)
    try:
        yield balancer
    finally:
        balancer.close()
