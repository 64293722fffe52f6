"""Everybody who watches a run: checkers, marks, trace. They are told ground truth as it happens.

In: calls of the world at the event. Out: calls of those watchers that want them; a checker raises
`ViolationError` at the exact event. Invariant: a watcher changes nothing in the world, so a run is
the same whoever watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from metako.cluster.ready import Input
from metako.model.durable import HardState
from metako.model.events import Event
from metako.model.ids import NodeId, TimelineId
from metako.model.orders import Order, OrderAnswer
from metako.model.routing import RoutingTable
from metako.proxy.routes import Route
from metako.wire.messages import Outbound, Received

if TYPE_CHECKING:
    from sim.client import Operation, SimClient
    from sim.faults import Fault
    from sim.network import Fate
    from sim.node import SimNode
    from sim.postgres.commits import Commit
    from sim.postgres.server import SimServer
    from sim.processes import Processes

__all__ = ["Input", "ViolationError", "Watch", "Watcher"]


class ViolationError(AssertionError):
    """A promise was broken.

    Says which check found it, what happened, who had a part in it, and of what values it is.
    """

    def __init__(
        self, check: str, text: str, nodes: Iterable[str] = (), about: Iterable[str] = ()
    ) -> None:
        super().__init__(f"{check}: {text}")
        self.about = tuple(about)
        self.check = check
        self.text = text
        self.nodes = tuple(nodes)


class Watcher:
    """Hears what it overrides. `now` of every call is `world.heap.now_ns`."""

    name = "watcher"
    sent_kinds: ClassVar[frozenset[type] | None] = (
        None  # of messages that `sent` is for; None: of all
    )

    def node_changed(self, node: Processes) -> None:
        """A process of a node, or its host, came, went, was paused or resumed."""

    def booted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        """An agent starts with `hard`; `before` is what was durable when the last one ended."""

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        """A record is durable."""

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        """A message left an agent; `fate` is None where no host has the address."""

    def came_late(self, node: Processes, received: Received, sent_ns: int) -> None:
        """A message reaches an agent long after it was sent."""

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        """What the engine reported."""

    def ordered(self, node: Processes, order: Order) -> None:
        """An operator gave an order to an agent."""

    def answered(self, node: Processes, answers: Sequence[OrderAnswer]) -> None:
        """An engine answered orders that were given to its node."""

    def stepped(self, node: Processes) -> None:
        """A step of an engine was carried out."""

    def routed(self, node: Processes, table: RoutingTable) -> None:
        """An agent published a table."""

    def route_taken(self, node: Processes, route: Route) -> None:
        """A proxy leads a session to a server."""

    def session_refused(self, node: Processes) -> None:
        """A proxy does not let a session wait, because its agent seems to be gone."""

    def step_ended(
        self, node: Processes, step: object, begin_ns: int, ok: bool, error: str
    ) -> None:
        """A step of the supervisor ended."""

    def engine_failed(self, node: Processes, error: Exception) -> None:
        """An engine raised."""

    def server_changed(self, server: SimServer) -> None:
        """State, settings or data of a server changed."""

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        """A server left recovery on a new branch."""

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        """COMMIT returns success at the server."""

    def operated(self, client: SimClient, operation: Operation, result: str, why: str) -> None:
        """An operation of a client ended."""

    def read(
        self, client: SimClient, operation: Operation, server: NodeId, seen: Sequence[str] | None
    ) -> None:
        """A read was executed at a server."""

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        """An interesting state was reached."""

    def marked(self, node: NodeId, mark: str) -> None:
        """A mark was counted."""

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None:
        """A fault was applied."""

    def fault_ended(self, number: int) -> None:
        """A fault was undone."""

    def phase(self, name: str) -> None:
        """The run enters another phase: faults, liveness, end."""

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        """A tenth of a second has passed."""


_HOOKS = tuple(
    name for name, member in vars(Watcher).items() if callable(member) and not name.startswith("_")
)


class Watch(Watcher):
    """Tells every watcher what it overrides, in the order in which they were given."""

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []
        self.add()

    def add(self, *watchers: Watcher) -> None:
        self.watchers.extend(watchers)
        for hook in _HOOKS:
            setattr(self, hook, _teller([getattr(w, hook) for w in self._wanting(hook)]))
        setattr(self, "sent", _teller_of_sent(self._wanting("sent")))  # noqa: B010 - a hook

    def _wanting(self, hook: str) -> list[Watcher]:
        own = getattr(Watcher, hook)
        return [w for w in self.watchers if getattr(type(w), hook) is not own]


def _teller(wanted: Sequence[Callable[..., None]]) -> Callable[..., None]:
    match wanted:
        case []:
            return _nobody
        case [only]:
            return only
    calls = tuple(wanted)

    def tell(*arguments: object) -> None:
        for call in calls:
            call(*arguments)

    return tell


def _teller_of_sent(watchers: Sequence[Watcher]) -> Callable[..., None]:
    """Return what tells of a message those who want its kind: most are for one or two of them."""
    wanted: dict[type, tuple[Callable[..., None], ...]] = {}

    def tell(node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        kind = type(outbound.message)
        calls = wanted.get(kind)
        if calls is None:
            takers = [w for w in watchers if w.sent_kinds is None or kind in w.sent_kinds]
            calls = wanted[kind] = tuple(w.sent for w in takers)
        for call in calls:
            call(node, outbound, fate)

    return tell


def _nobody(*_: object) -> None:
    """Nobody listens."""
