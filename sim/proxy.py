"""The proxy of one node: production's rules about routes, over hops through the network.

In: routing tables of the agent, operations of clients. Out: operations at a server, or a refusal.
A session belongs to the route that it took and ends when the rules say so; an operation that finds
no primary waits for the next table, for a bounded time.

Does not know what an operation is, nor what the agent believes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from metako.model.routing import RoutingTable
from metako.proxy.routes import Route, Routes
from sim.heap import NS_PER_S

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World

QUEUE_TIMEOUT_NS = 5 * NS_PER_S
WAITING_MAX = 256
HELD_MAX = 1024


class Session:
    """One client's way through a proxy; `route` is None while it has no server."""

    __slots__ = ("on_cut", "route")

    def __init__(self, on_cut: Callable[[], None]) -> None:
        self.route: Route | None = None
        self.on_cut = on_cut


class SimProxy:
    """The worker processes of one node, as one."""

    def __init__(self, world: World, node: Processes) -> None:
        self.alive = True
        self.frozen = False  # by `freeze` and `thaw`
        self.cut = 0  # sessions ended by a table
        self.table: RoutingTable | None = None
        self._world = world
        self._node = node
        self._routes = Routes()
        self._sessions: dict[int, Session] = {}
        self._held: deque[Callable[[], None]] = deque(maxlen=HELD_MAX)  # came while it stood still
        self._waiting: list[tuple[int, Callable[[Route | None], None]]] = []  # until, then

    def _boot_ns(self) -> int:
        return self._node.clock.instant(self._world.heap.now_ns).boot_ns

    # ------------------------------------------------------------ tables

    def receive(self, table: RoutingTable) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._held.append(partial(self.receive, table))
            return
        if not self._routes.receive(table, self._boot_ns()):
            return
        self.table = table
        for key, session in list(self._sessions.items()):
            if session.route is not None and not self._routes.keeps(session.route):
                del self._sessions[key]
                self.cut += 1
                session.on_cut()
        if self._waiting and self._routes.current(self._boot_ns()) is not None:
            waiting, self._waiting = self._waiting, []
            for _, then in waiting:
                self._take(then)

    def agent_came(self) -> None:
        if self.frozen:
            self._held.append(self.agent_came)
            return
        self._routes.agent_came()

    def agent_went(self) -> None:
        if self.frozen:
            self._held.append(self.agent_went)
            return
        self._routes.agent_went(self._boot_ns())

    # ------------------------------------------------------------ clients

    def replicas(self) -> tuple[NodeId, ...]:
        """Return the servers that reads may go to."""
        return tuple(replica.node for replica in self._routes.replicas)

    def primary(self) -> NodeId | None:
        """Return whom a new session would be led to now."""
        route = self._routes.current(self._boot_ns())
        return route.node if route is not None else None

    def route(self, then: Callable[[Route | None], None]) -> None:
        """Call `then` with a route once there is one, or with None after a bounded time."""
        if not self.alive or self.frozen:
            return
        if self._routes.current(self._boot_ns()) is not None:
            self._take(then)
        elif self._routes.refuses(self._boot_ns()):
            self._world.watch.session_refused(self._node)
            then(None)
        elif len(self._waiting) >= WAITING_MAX:
            then(None)
        else:
            until = self._world.heap.now_ns + QUEUE_TIMEOUT_NS
            entry = (until, then)
            self._waiting.append(entry)
            self._world.heap.at(until, self._give_up, entry)

    def _take(self, then: Callable[[Route | None], None]) -> None:
        route = self._routes.current(self._boot_ns())
        if route is not None:
            self._world.watch.route_taken(self._node, route)
        then(route)

    def _give_up(self, entry: tuple[int, Callable[[Route | None], None]]) -> None:
        if entry in self._waiting:
            self._waiting.remove(entry)
            if self.alive and not self.frozen:
                entry[1](None)

    def attach(self, key: int, session: Session, route: Route) -> bool:
        """Count a session in on its route; False if the route does not hold any more."""
        if not self.alive or not self._routes.keeps(route):
            return False
        session.route = route
        self._sessions[key] = session
        return True

    def detach(self, key: int) -> None:
        self._sessions.pop(key, None)

    # ------------------------------------------------------------ faults

    def freeze(self) -> bool:
        """Stand still; what arrives waits in the sockets. Return whether it ran."""
        if not self.alive or self.frozen:
            return False
        self.frozen = True
        return True

    def thaw(self) -> None:
        """Go on with what has arrived meanwhile, in its order."""
        self.frozen = False
        held, self._held = self._held, deque(maxlen=HELD_MAX)
        for take in held:
            take()

    def kill(self) -> None:
        """End at once; clients find their connections closed."""
        self.alive = False
        sessions, self._sessions = self._sessions, {}
        self._waiting = []
        for session in sessions.values():
            session.on_cut()
