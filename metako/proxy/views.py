"""What a worker's console shows: its clients, servers, pools, counters and limits, as tables.

In: the board and what was seen of its sessions. Out: rows, sorted so that two looks compare.
Nothing here waits or changes anything.

A client that the server waits for, to take a result or to send data, is called active too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from metako import __version__
from metako.model.instant import NS_PER_S
from metako.pgwire.rows import Table, Value
from metako.proxy.board import Attached, Board, Holder
from metako.proxy.console import HELP, Shown
from metako.proxy.legs import Leg
from metako.proxy.sweep import Doing, Seen, doing_of
from metako.proxy.who import Who

_MS = 1000

CLIENTS = (
    *("id", "user", "database", "application_name", "addr", "port", "state"),
    *("connect_time", "request_age_ms", "server", "tls"),
)
SERVERS = ("user", "database", "node", "addr", "state", "age_s", "term", "backend_pid", "client")
POOLS = (
    *("database", "user", "cl_active", "cl_idle", "cl_waiting"),
    *("sv_used", "sv_idle", "maxwait_ms"),
)
STATES = {Doing.OWN_TURN: Doing.ACTIVE.value}


class Views:
    """Makes the tables of one worker.

    Args:
        index: the worker's number.
        seen: what a session was at when it was looked at last; None if it was not.
        wall_clock: the time of day, to date what trio's clock has counted.
        port: that clients connect to.
    """

    def __init__(
        self,
        board: Board,
        index: int,
        *,
        seen: Callable[[Attached], Seen | None],
        now: Callable[[], float],
        now_ns: Callable[[], int],
        wall_clock: Callable[[], datetime],
        port: int,
    ) -> None:
        self._board = board
        self._index = index
        self._seen = seen
        self._now = now
        self._now_ns = now_ns
        self._wall_clock = wall_clock
        self._port = port

    def show(self, shown: Shown) -> Table:
        """Return a table of this worker alone."""
        match shown:
            case Shown.HELP:
                return HELP
            case Shown.VERSION:
                return Table(("version",), ((f"metako {__version__}",),))
            case Shown.POOLS:
                return self._pools()
            case Shown.CLIENTS:
                return Table(CLIENTS, tuple(map(self._client, self._known())))
            case Shown.SERVERS:
                return self._servers()
            case Shown.STATS:
                stats = asdict(self._board.stats())
                return Table(tuple(stats), (tuple(stats.values()),))
            case Shown.CONFIG:
                return Table(("key", "value"), tuple(self._config()))
            case Shown.DATABASES:
                return self._limited("database", self._board.legs.pool.limits.database)
            case Shown.USERS:
                return self._limited("user", self._board.legs.pool.limits.user)

    def _known(self) -> list[tuple[Attached, Who]]:
        """Return the sessions whose clients have said who they are, the first first."""
        found = [(one, one.who) for one in self._board.clients()]
        named = [(one, who) for one, who in found if who is not None]
        return sorted(named, key=lambda pair: pair[1].number)

    def _client(self, session_and_who: tuple[Attached, Who]) -> tuple[Value, ...]:
        session, who = session_and_who
        relay, now = session.relay, self._now()
        doing = doing_of(relay)
        seen = self._seen(session)
        age_ms: Value = None
        if doing[0] in (Doing.ACTIVE, Doing.OWN_TURN):
            # It may have begun since the last look.
            same = seen is not None and (seen.doing, seen.count) == doing
            age_ms = round((now - seen.since) * _MS) if same and seen is not None else 0
        since = self._wall_clock() - timedelta(seconds=now - who.since)
        leg = None if relay is None else relay.leg
        return (
            f"{self._index}.{who.number}",
            *(who.user, who.database, who.application, who.address, who.port),
            self._state(session, doing[0]),
            since.astimezone(UTC).isoformat(sep=" ", timespec="seconds"),
            age_ms,
            None if leg is None else str(leg.route.address),
            "on" if who.tls else "off",
        )

    def _state(self, session: Attached, doing: Doing) -> str:
        if session.relay is None and session.at_rest:
            return "console"
        return STATES.get(doing, doing.value)

    def _pools(self) -> Table:
        counts: dict[tuple[str, str], Counter[str]] = {}
        waits_ms: dict[tuple[str, str], int] = {}
        now = self._now()
        for session, who in self._known():
            relay = session.relay
            if relay is None:
                continue  # who logs in, or is at a console, is in no pool yet
            pair = who.database, who.user
            doing, _ = doing_of(relay)
            column = {Doing.IDLE: "cl_idle", Doing.WAITING: "cl_waiting"}.get(doing, "cl_active")
            row = counts.setdefault(pair, Counter())
            row[column] += 1
            row["sv_used"] += relay.leg is not None
            if relay.waits_since is not None:
                spent_ms = round((now - relay.waits_since) * _MS)
                waits_ms[pair] = max(waits_ms.get(pair, 0), spent_ms)
        for key, _lent, idle, _waiting in self._board.legs.pool.rows():
            counts.setdefault((key.database, key.user), Counter())["sv_idle"] += idle
        rows: list[tuple[Value, ...]] = [
            (*pair, *(row[name] for name in POOLS[2:-1]), waits_ms.get(pair, 0))
            for pair, row in sorted(counts.items())
        ]
        return Table(POOLS, tuple(rows))

    def _servers(self) -> Table:
        users: dict[Leg, Who] = {}
        for session, who in self._known():
            if session.relay is not None and session.relay.leg is not None:
                users[session.relay.leg] = who
        rows = [self._server(holder, users) for holder in self._board.holders()]
        return Table(SERVERS, tuple(sorted(rows, key=lambda row: [str(value) for value in row])))

    def _server(self, holder: Holder, users: dict[Leg, Who]) -> tuple[Value, ...]:
        route = holder.route
        leg = holder if isinstance(holder, Leg) else None
        who = None if leg is None else users.get(leg)
        key = None if leg is None else leg.pool_key
        named = key or who
        state = "connecting" if leg is None else "idle" if leg.parked else "used"
        age_s = None
        if leg is not None and leg.opened_ns:
            age_s = (self._now_ns() - leg.opened_ns) // NS_PER_S
        return (
            None if named is None else named.user,
            None if named is None else named.database,
            route.node,
            str(route.address),
            state,
            age_s,
            route.term,
            None if leg is None or leg.cancel_key is None else leg.cancel_key.process_id,
            None if who is None else f"{self._index}.{who.number}",
        )

    def _limited(self, what: str, limit: int) -> Table:
        clients: Counter[str] = Counter()
        servers: Counter[str] = Counter()
        for session, who in self._known():
            name = who.database if what == "database" else who.user
            clients[name] += session.relay is not None
        for key, lent, idle, _waiting in self._board.legs.pool.rows():
            servers[key.database if what == "database" else key.user] += lent + idle
        rows = (
            (name, clients[name], servers[name], limit) for name in sorted({*clients, *servers})
        )
        return Table((what, "clients", "servers", "servers_max"), tuple(rows))

    def _config(self) -> list[tuple[str, str]]:
        board, limits = self._board, self._board.legs.pool.limits
        timeouts = board.timeouts
        return [
            ("port", str(self._port)),
            ("max_connections", str(board.sessions_max)),
            ("queue_timeout", f"{board.queue_timeout_s:g}s"),
            ("read_timeout", _duration(timeouts.read_s)),
            ("write_timeout", _duration(timeouts.write_s)),
            ("idle_timeout", _duration(timeouts.idle_s)),
            ("idle_in_transaction_timeout", _duration(timeouts.idle_in_transaction_s)),
            ("login_timeout", _duration(timeouts.login_s)),
            ("drain_timeout", _duration(timeouts.drain_s)),
            ("pool.per_server", str(limits.server)),
            ("pool.per_user", str(limits.user)),
            ("pool.per_database", str(limits.database)),
            ("pool.size", str(limits.key)),
            ("pool.idle_timeout", _duration(limits.idle_ns / NS_PER_S)),
            ("pool.lifetime", _duration(limits.life_ns / NS_PER_S)),
            ("admin_users", ", ".join(sorted(board.admins))),
        ]


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds else "none"
