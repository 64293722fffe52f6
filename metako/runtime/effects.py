"""What a `Ready` is carried out with on a real machine: disk, network, PostgreSQL, guard, log.

In: the engine's wishes, from its driver. Out: effects. Nothing here decides anything; all but
`persist` return at once.
"""

from __future__ import annotations

from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.errors import FencedError, StateError
from metako.model.events import Event, EventName
from metako.model.postgres import PostgresTarget
from metako.model.routing import RoutingTable
from metako.observability.logs import log_event
from metako.observability.metrics import EventCounter
from metako.ports import PostgresPort
from metako.proxy.control import RoutingFeed
from metako.runtime.fence import FenceKeeper
from metako.runtime.history import HistoryBook
from metako.runtime.store import HardStateStore
from metako.runtime.transport import Transport
from metako.wire.messages import Outbound


class NodeEffects:
    """Implements `driver.Effects` for one node."""

    def __init__(
        self,
        *,
        store: HardStateStore,
        transport: Transport,
        postgres: PostgresPort,
        fence: FenceKeeper | None,
        feed: RoutingFeed,
        counter: EventCounter,
        history: HistoryBook,
    ) -> None:
        self._store = store
        self._transport = transport
        self._postgres = postgres
        self._fence = fence  # None on a witness: there is nothing to fence
        self._feed = feed
        self._counter = counter
        self._history = history

    async def persist(self, hard: HardState) -> None:
        """Make the record durable. If cancelled, it is durable before this returns.

        Raises:
            FencedError: it cannot be written, so this node can keep no promise any more. Nothing
                of the step has left; whoever catches it has PostgreSQL killed.
        """
        try:
            await self._store.persist(hard)
        except (OSError, StateError) as error:
            raise FencedError(
                f"the durable record cannot be written, so PostgreSQL was stopped: {error}"
            ) from error
        document = hard.document
        if document is not None:
            self._postgres.set_members(document.data_members())

    def send(self, outbound: Outbound) -> None:
        self._transport.send(outbound)

    def set_target(self, target: PostgresTarget) -> None:
        self._postgres.set_target(target)

    def publish(self, table: RoutingTable) -> None:
        self._feed.publish(table)

    def set_deadline(self, deadline: GuardDeadline) -> None:
        if self._fence is not None:
            self._fence.set_deadline(deadline)

    def report(self, event: Event) -> None:
        self._counter.count(event)
        if event.name is EventName.HISTORY:
            self._history.add(event)
        log_event(event)
