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
from metako.model.events import Severity
from metako.observability.logs import log
from metako.observability.metrics import Sample
from metako.proxy.consoledesk import ConsoleDesk, Reloaded
from metako.proxy.control import RoutingFeed, WorkerReport, serve_control
from metako.proxy.frames import WorkerEvent
from metako.proxy.launcher import run_workers
from metako.proxy.renewal import Renewals
from metako.runtime.paths import proxy_socket
from metako.runtime.proxycounters import ProxyCounters
from metako.runtime.proxytuning import proxy_config, reload
from metako.runtime.rolesecrets import RoleSecrets


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
        self._counters = ProxyCounters()
        self._renewals = Renewals()
        self._keep_running = keep_running  # for the next agent, when this one ends
        self._on_sessions = on_sessions  # told how many sessions all workers have together
        self._sessions: dict[int, int] = {}  # sessions by worker pid

    async def start(self, nursery: trio.Nursery, guard_pid: int) -> None:
        """Start the workers in `nursery`; return once they listen."""
        self.feed.greet(self._secrets.welcome)
        self.feed.tune(proxy_config(self._config, guard_pid).share)
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
            desk=ConsoleDesk(self._reload),
            task_status=task_status,
        )

    async def _work(self, guard_pid: int, *, task_status: trio.TaskStatus[int]) -> None:
        await run_workers(
            proxy_config(self._config, guard_pid),
            keep_running=self._keep_running,
            on_event=_log_worker_event,
            renewals=self._renewals,
            task_status=task_status,
        )

    async def renew(self) -> tuple[int, list[str]]:
        """Replace the workers one after the other; see `Renewals.renew`."""
        return await self._renewals.renew()

    async def _reload(self) -> Reloaded:
        found = await reload(self._config)
        if found.tuning is None:
            log(Severity.WARNING, "the configuration was not read anew", problem=found.error)
        else:
            self.feed.tune(found.tuning)
            log(Severity.INFO, "the proxy goes by its configuration as it is now")
        return found

    def samples(self) -> list[Sample]:
        """Return what the workers have counted."""
        return self._counters.samples()

    def _hear(self, report: WorkerReport) -> None:
        self._counters.hear(report)
        if report.connected:
            self._sessions[report.hello.pid] = report.stats.sessions
        else:
            self._sessions.pop(report.hello.pid, None)
        self._on_sessions(sum(self._sessions.values()))


def _log_worker_event(fact: WorkerEvent) -> None:
    fields = dict(fact.fields)
    fields.pop("error", None)
    log(Severity(fact.level), fact.message, error=None, **fields)
