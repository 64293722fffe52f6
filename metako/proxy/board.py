"""What all sessions of one worker share: the routes, the limits, the counters.

The board is where a routing table meets the connections. Handing it a table is synchronous: when
`receive_table` returns, nobody has a socket to a server that the table deposes, whatever its tasks
were about to do.

Deliberately unknown here: how tables arrive, and what anybody does with a socket.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

import trio

from metako.model.routing import Peer, RoutingTable
from metako.proxy.cancels import Cancels
from metako.proxy.credentials import CredentialSource
from metako.proxy.descriptors import Descriptors
from metako.proxy.encryption import Encryption
from metako.proxy.frames import Stats, WorkerEvent
from metako.proxy.holding import Holding
from metako.proxy.legs import Legs
from metako.proxy.limits import NO_TIMEOUTS, Limits, Timeouts, Tuning
from metako.proxy.loginframes import Welcome
from metako.proxy.reactor import Reactor
from metako.proxy.routes import Route, Routes
from metako.proxy.transport import LinkContext
from metako.proxy.who import Who

if TYPE_CHECKING:
    from metako.proxy.estate import Will
    from metako.proxy.office import Access
    from metako.proxy.relay import Relay

# Servers are asked for at most so many new connections at once: after a failover every client
# comes back in the same instant, and forking backends is slow.
CONNECTING_MAX = 128
# For a client to say who it is.
HANDSHAKE_TIMEOUT_S = 10.0
# Connections that have not yet sent a startup packet. One more pushes the oldest out, so that
# clients which say nothing cannot keep out those which speak at once.
HANDSHAKES_MAX = 256


# Sessions whose client is idle are moved to a new primary by so many logins at once. Those whose
# client waits for an answer do not count: they go first.
MOVES_UNASKED_MAX = 8


class Holder(Protocol):
    """What has a socket to a server, or is about to have one."""

    @property
    def route(self) -> Route:
        """The server that it is connected or being connected to."""

    def cut(self) -> None:
        """Close the socket at once."""


class Attached(Protocol):
    """What the board needs of a session."""

    @property
    def at_rest(self) -> bool:
        """Whether it is between two transactions, so that an end loses nothing."""

    @property
    def answers(self) -> int:
        """How many of its requests were answered so far."""

    @property
    def relay(self) -> Relay | None:
        """What joins its client to servers; None before the login is over."""

    @property
    def who(self) -> Who | None:
        """Who its client is; None before that has said it."""

    def end(self, message: str) -> None:
        """Take the server away at once, and tell the client why if it can be told."""

    def evict(self) -> None:
        """Close the client's connection without a word."""

    def hold(self) -> None:
        """Begin no other transaction for now."""

    def abandon(self) -> None:
        """Close its connections, unless a task does that."""

    @property
    def silent(self) -> bool:
        """Whether it has no task yet, which would see to it that it says who it is."""


class Board:
    """See the module's docstring. All methods but the `wait_` ones are synchronous."""

    def __init__(
        self,
        *,
        boot_ns: Callable[[], int],
        queue_timeout_s: float,
        sessions_max: int,
        report: Callable[[WorkerEvent], None],
        cancels: Cancels,
        limits: Limits,
        timeouts: Timeouts = NO_TIMEOUTS,
        admins: Collection[str] = (),
        credentials: CredentialSource | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        self.routes = Routes()
        self.credentials = credentials  # None: every login is passed on to the server
        self.encryption = encryption or Encryption()
        self.queue_timeout_s = queue_timeout_s
        self.sessions_max = sessions_max
        self.timeouts = timeouts
        self.handshake_timeout_s = HANDSHAKE_TIMEOUT_S
        self.admins = frozenset(admins)  # who may use the console
        self.console: Access | None = None  # None until the worker has one
        self.connecting = trio.Semaphore(CONNECTING_MAX)
        self.moving_unasked = trio.Semaphore(MOVES_UNASKED_MAX)
        self.links = LinkContext(Reactor(self._report_failure))
        self.legs = Legs(self, limits, boot_ns)
        self.informed = trio.Event()  # set with the first routing table
        self.departing = False  # all sessions leave for the worker that takes our place
        self.heir: Descriptors | None = None  # that worker; None if there is none, or no more
        self.holding = Holding()
        self.cancels = cancels
        self.peers: tuple[Peer, ...] = ()  # the proxies of other nodes, as last heard
        self.waiting = 0
        self.waits = 0  # times that a client has begun to wait
        self.total = 0
        self.refused = 0
        self.malformed = 0
        self.cut = 0
        self.kept = 0  # times that a client lost its server and kept its session
        self.moved = 0
        self.departed = 0  # sessions that have left for another process
        self.timed_out = 0  # statements that were cancelled, and idle clients that were ended
        self.report = report
        self._boot_ns = boot_ns
        self._holders: dict[Holder, None] = {}
        self._sessions: dict[Attached, None] = {}
        self._handshakes: OrderedDict[Attached, float] = OrderedDict()  # and since when
        self._changed = trio.Event()  # replaced whenever it is set
        self._answers = 0  # of the sessions that have left
        self._named = 0  # sessions that were given a number

    # -- routes -----------------------------------------------------------------------------

    def receive_table(self, table: RoutingTable) -> None:
        """Replace the routing table, end the sessions it deposes, wake those that wait."""
        named, known = self.current(), self.routes.last()
        self.peers = table.peers
        self.informed.set()
        if not self.routes.receive(table, self._boot_ns()):
            ignored = (("term", table.term), ("latest_term", self.routes.term))
            self.report(WorkerEvent("WARNING", "a table of a lower term was ignored", ignored))
            return
        cut, kept = self._cut_deposed()
        primary = self.routes.last()
        self.legs.pool.receive_route(primary)
        if primary != known:
            node = None if primary is None else primary.node
            counts = (("sessions_cut", cut), ("sessions_kept", kept))
            change = (("term", table.term), ("primary", node), *counts)
            self.report(WorkerEvent("INFO", "the primary of the proxy changed", change))
        self._hold(table, moved=primary != known)
        # A mere renewal wakes nobody: those who pause after a failure would try again at once.
        if self.current() != named:
            self._changed.set()
            self._changed = trio.Event()

    def _hold(self, table: RoutingTable, *, moved: bool) -> None:
        """Hold transactions while the primary is about to hand over."""
        if table.primary is None:
            return  # it is being shut down: whoever is held would go on at the old server
        if not table.hold or moved:
            self.holding.end()
        elif self.holding.begin(table.hold):
            self.report(WorkerEvent("INFO", "transactions are held for a switchover"))
            self.hold_sessions()

    def depart(self, heir: Descriptors) -> None:
        """Have all sessions leave for another process, each as soon as it is at rest."""
        self.departing, self.heir = True, heir
        self.legs.pool.close_idle()
        self.hold_sessions()

    def heir_went(self) -> None:
        """Note that nobody is left to leave for: those that are here stay."""
        self.departing, self.heir = False, None

    def hold_sessions(self) -> None:
        """Hold all who may begin no transaction, once they are between two."""
        for session in list(self._sessions):
            session.hold()

    def _cut_deposed(self) -> tuple[int, int]:
        """Return how many sessions ended, and how many lost their server and were kept."""
        cut, kept = self.cut, self.kept
        for holder in list(self._holders):
            if not self.routes.keeps(holder.route):
                try:
                    holder.cut()
                except Exception as error:  # noqa: BLE001 - all others have to be cut all the same
                    self._report_failure(error)
        return self.cut - cut, self.kept - kept

    def hold(self, holder: Holder) -> None:
        """Let `holder` be cut when its route is deposed. Its route must be `current` now."""
        self._holders[holder] = None

    def release(self, holder: Holder) -> None:
        """Note that `holder` has no socket any more; harmless if it never was held."""
        self._holders.pop(holder, None)

    def receive_welcome(self, welcome: Welcome) -> None:
        """Note what the agent has told besides its tables."""
        self.cancels.receive_secret(welcome.cancel_secret)

    def agent_came(self) -> None:
        self.routes.agent_came()

    def agent_went(self) -> None:
        self.routes.agent_went(self._boot_ns())

    def current(self) -> Route | None:
        return self.routes.current(self._boot_ns())

    def refuses(self) -> bool:
        return self.routes.refuses(self._boot_ns())

    async def wait_change(self) -> None:
        """Return when a table names another route than before. The caller sets the deadline."""
        await self._changed.wait()

    # -- sessions ---------------------------------------------------------------------------

    def handshake_began(self, session: Attached) -> None:
        self._handshakes[session] = trio.current_time()
        if len(self._handshakes) > HANDSHAKES_MAX:
            oldest, _ = self._handshakes.popitem(last=False)
            self.malformed += 1
            oldest.evict()

    def handshake_ended(self, session: Attached) -> None:
        self._handshakes.pop(session, None)

    def evict_silent(self) -> None:
        """Close connections that have said nothing for too long, and that no task sees to."""
        since = trio.current_time() - self.handshake_timeout_s
        for session, began in list(self._handshakes.items()):
            if began > since:
                return
            if session.silent:
                self.malformed += 1
                session.evict()

    @property
    def has_room(self) -> bool:
        """Whether one more can be counted in."""
        return len(self._sessions) < self.sessions_max

    def admit(self, session: Attached, *, beyond: int = 0) -> bool:
        """Count `session` in, or return False if there are as many as may be, and `beyond`."""
        if len(self._sessions) >= self.sessions_max + beyond:
            return False
        self._sessions[session] = None
        return True

    def leave(self, session: Attached) -> None:
        """Count `session` out; harmless if it never was in."""
        if session in self._sessions:
            del self._sessions[session]
            self._answers += session.answers

    def clients(self) -> list[Attached]:
        """Return all that are counted in."""
        return list(self._sessions)

    def holders(self) -> list[Holder]:
        """Return all that have a socket to a server, or are about to have one."""
        return list(self._holders)

    def numbers_end(self) -> int:
        """Return a number above all that sessions have, or will be given without being accepted."""
        return self._named + HANDSHAKES_MAX + len(self._sessions)

    def begin_with(self, will: Will) -> None:
        """Go on where another worker has been, before any session has come."""
        self._named = will.number
        self.cancels.begin_at(will.cancel_number)
        for database in will.paused:
            self.holding.pause(None if database == "*" else database)

    def next_number(self) -> int:
        """Return the number of one more session. None comes twice."""
        self._named += 1
        return self._named

    def tune(self, tuning: Tuning) -> None:
        """Go by other limits from now on. Who is there already stays."""
        self.sessions_max = tuning.sessions_max
        self.queue_timeout_s = tuning.queue_timeout_s
        self.timeouts = tuning.timeouts
        self.admins = frozenset(tuning.admins)
        self.legs.pool.set_limits(tuning.limits)

    @property
    def idle(self) -> bool:
        return not self._sessions and not self._handshakes

    def abandon(self) -> None:
        """Close all connections that no task closes, at the end of the worker."""
        for session in [*self._handshakes, *self._sessions]:
            session.abandon()

    def cut_sessions(self, message: str, *, only_at_rest: bool) -> None:
        """End sessions because the worker stops."""
        for session in list(self._sessions):
            if session.at_rest or not only_at_rest:
                session.end(message)

    def stats(self) -> Stats:
        return Stats(
            sessions=len(self._sessions),
            waiting=self.waiting,
            total=self.total,
            refused=self.refused,
            malformed=self.malformed,
            cut=self.cut,
            moved=self.moved,
            waits=self.waits,
            timed_out=self.timed_out,
            statements=self._answers + sum(session.answers for session in self._sessions),
            reads=self.links.tally.reads,
            writes=self.links.tally.writes,
            failed=self.links.failed.count,
            bytes_up=self.links.up.count,
            bytes_down=self.links.down.count,
        )

    def _report_failure(self, error: Exception) -> None:
        self.report(session_failure(error))


def session_failure(error: Exception) -> WorkerEvent:
    """Return what is reported when a session's code is wrong; only that session ends."""
    detail = (("error", f"{type(error).__name__}: {error}"[:500]),)
    return WorkerEvent("ERROR", "a session failed unexpectedly", detail)
