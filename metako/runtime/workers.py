"""The proxy workers of this node, as its agent runs them: their routes, their sessions, their log.

In: the configuration and routing tables. Out: running workers, which are told how clients may log
in, and the number of client sessions whenever a worker reports. Workers outlive the agent on
purpose; see `metako.proxy.control`.

Does not know what a table means.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from metako.config import NodeConfig
from metako.config.node_config import PoolConfig
from metako.model.events import Severity
from metako.model.instant import NS_PER_MS
from metako.observability.logs import log
from metako.proxy.control import RoutingFeed, WorkerReport, serve_control
from metako.proxy.frames import WorkerEvent
from metako.proxy.launcher import ProxyConfig, run_workers
from metako.proxy.limits import Limits
from metako.runtime.paths import proxy_socket
from metako.runtime.rolesecrets import RoleSecrets
from metako.runtime.tlsfiles import tls_options


class ProxyWorkers:
    """What the agent has of its workers. Exists also on a node whose proxy is off."""

    def __init__(
        self,
        config: NodeConfig,
        on_sessions: Callable[[int], None],
        keep_running: Callable[[], bool],
    ) -> None:
        self.feed = RoutingFeed()
        self._config = config
        self._secrets = RoleSecrets(config)
        self._keep_running = keep_running  # for the next agent, when this one ends
        self._on_sessions = on_sessions  # told how many sessions all workers have together
        self._sessions: dict[int, int] = {}  # sessions by worker pid

    async def start(self, nursery: trio.Nursery, guard_pid: int) -> None:
        """Start the workers in `nursery`; return once they listen."""
        self.feed.greet(self._secrets.welcome)
        nursery.start_soon(self._secrets.run)
        await nursery.start(self._serve)
        await nursery.start(self._work, guard_pid)

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        await serve_control(
            proxy_socket(self._config),
            self.feed,
            self._hear,
            on_event=lambda _hello, fact: _log_worker_event(fact),
            answer=self._secrets.answer,
            task_status=task_status,
        )

    async def _work(self, guard_pid: int, *, task_status: trio.TaskStatus[int]) -> None:
        config = self._config
        await run_workers(
            ProxyConfig(
                control=proxy_socket(config),
                host=config.proxy.listen.host,
                port=config.proxy.listen.port,
                node=config.node.name,
                guard_pid=guard_pid,
                workers=config.proxy.workers,
                queue_timeout_s=config.proxy.queue_timeout_ms / 1000,
                connections_max=config.proxy.max_connections,
                limits=_limits(config.proxy.pool),
                tls=tls_options(config),
            ),
            keep_running=self._keep_running,
            on_event=_log_worker_event,
            task_status=task_status,
        )

    def _hear(self, report: WorkerReport) -> None:
        if report.connected:
            self._sessions[report.hello.pid] = report.stats.sessions
        else:
            self._sessions.pop(report.hello.pid, None)
        self._on_sessions(sum(self._sessions.values()))


def _log_worker_event(fact: WorkerEvent) -> None:
    fields = dict(fact.fields)
    fields.pop("error", None)
    log(Severity(fact.level), fact.message, error=None, **fields)


def _limits(pool: PoolConfig) -> Limits:
    return Limits(
        server=pool.per_server,
        user=pool.per_user,
        database=pool.per_database,
        key=pool.size,
        idle_ns=pool.idle_timeout_ms * NS_PER_MS,
        life_ns=pool.lifetime_ms * NS_PER_MS,
    )
