"""A client that writes numbered rows without pause and remembers what became of each.

Each row is one transaction. Its outcome is *acknowledged* (the server said so, without a warning
that the wait for the standbys was cut short), *failed* (the server refused it, or it was never
sent) or *unknown* (the answer did not come). A failed row is sent again under the same number; an
unknown one never is. The table has no unique index, so that a row that was executed twice shows.

Several lanes write side by side, each beginning at another node's proxy and moving to the next
proxy after an error, as an application's pool would; or, as an application without a pool, with a
new connection for each row. Every wait has a deadline.
"""

from __future__ import annotations

import enum
import itertools
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from metako.demo.client import ClientError, PgClient, ServerError
from metako.demo.layout import APP_USER, DATABASE, Layout, NodeLayout

LOGIN_TIMEOUT_S = 2.0  # as short as that of any client that knows several hosts
STATEMENT_TIMEOUT_S = 5.0
RETRY_PAUSE_S = 0.05
ROWS_MAX = 1_000_000
ERRORS_KEPT_MAX = 200
DEFAULT_TABLE = "metako_demo"
_TABLE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}")

_UNKNOWN_SQLSTATES = frozenset({"40003", "57P01", "57P02", "57P05"})
"""Completion unknown, and ends of the session that can hit a commit in flight."""


class Outcome(enum.StrEnum):
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"  # certainly not executed
    UNKNOWN = "unknown"  # executed or not


def outcome_of_error(error: ServerError) -> Outcome:
    """Return what an error says about the statement that it answers.

    Only a plain ERROR rolls back for certain. A FATAL ends the session, and a proxy that cuts one
    in the middle of a commit uses the same codes as a server that never began it.
    """
    if error.fatal or error.sqlstate in _UNKNOWN_SQLSTATES or error.sqlstate.startswith("08"):
        return Outcome.UNKNOWN
    return Outcome.FAILED


@dataclass(frozen=True, slots=True)
class Comparison:
    """Table against memory. A run is right when `lost`, `duplicated` and `surplus` are empty."""

    lost: tuple[int, ...]  # acknowledged and not there
    duplicated: tuple[int, ...]  # there more than once
    surplus: tuple[int, ...]  # there although neither acknowledged nor in doubt

    @property
    def right(self) -> bool:
        return not (self.lost or self.duplicated or self.surplus)


def compare(
    found: Iterable[int], acknowledged: Collection[int], unknown: Collection[int]
) -> Comparison:
    """Return how the rows found differ from what the writer was told."""
    counts = Counter(found)
    allowed = set(acknowledged) | set(unknown)
    return Comparison(
        lost=tuple(sorted(row for row in set(acknowledged) if row not in counts)),
        duplicated=tuple(sorted(row for row, count in counts.items() if count > 1)),
        surplus=tuple(sorted(row for row in counts if row not in allowed)),
    )


def longest_gap(times_s: Sequence[float], fault_s: float) -> tuple[float, float] | None:
    """Return the longest stretch without an acknowledgement that ends after the fault.

    None when nothing was acknowledged after the fault, or nothing before that.
    """
    ordered = sorted(times_s)
    gaps = [(a, b) for a, b in itertools.pairwise(ordered) if b >= fault_s]
    return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


@dataclass(slots=True)
class Record:
    """Everything that the writer was told. Times are CLOCK_MONOTONIC in seconds."""

    acknowledged: dict[int, float] = field(default_factory=dict)  # row → when, in that order
    begun: dict[int, float] = field(default_factory=dict)  # row → when it was sent the last time
    unknown: dict[int, float] = field(default_factory=dict)
    errors: int = 0  # attempts that certainly failed
    last_errors: list[str] = field(default_factory=list)  # the newest, at most ERRORS_KEPT_MAX

    def note_error(self, text: str) -> None:
        self.last_errors.append(text)
        del self.last_errors[:-ERRORS_KEPT_MAX]

    def count_after(self, time_s: float) -> int:
        return len(self.times_after(time_s))

    def times_after(self, time_s: float) -> list[float]:
        """Return the acknowledgements after `time_s`, the newest first.

        The record of a long run has hundreds of thousands: only the new ones are looked at.
        """
        newest = reversed(self.acknowledged.values())
        return list(itertools.takewhile(lambda t: t > time_s, newest))


class Writer:
    """Write rows through the proxies of `layout` from `run` until `stop` or cancellation."""

    def __init__(
        self,
        layout: Layout,
        *,
        rows_per_second: float = 50.0,
        table: str = DEFAULT_TABLE,
        keep_connections: bool = True,
    ) -> None:
        # The name goes into the statements as it is.
        assert _TABLE_NAME.fullmatch(table), table
        assert rows_per_second > 0, rows_per_second
        self.record = Record()
        self.table = table
        self._layout = layout
        self._keep_connections = keep_connections  # False: each row through a connection of its own
        self._interval_s = len(layout.nodes) / rows_per_second  # between two rows of one lane
        self._next_row = 1
        self._at: dict[int, int] = {}  # the node that each lane uses, by its index
        self._stopping = False
        self.finished = trio.Event()  # set when `run` has ended

    async def create_table(self, *, timeout_s: float) -> None:
        """Create the table through any proxy that lets us.

        Raises:
            ClientError: it could not be created in time; it may exist all the same.
        """
        sql = (
            f"create table if not exists {self.table} (id bigint not null, via text not null,"
            " written_at timestamptz not null default clock_timestamp())"
        )
        last: Exception | None = None
        with trio.move_on_after(timeout_s):
            for node in itertools.cycle(self._layout.nodes):  # ends at the deadline
                try:
                    with await self._connect(node) as client:
                        await client.query(sql, timeout_s=STATEMENT_TIMEOUT_S)
                        return
                except (ClientError, ServerError) as error:
                    last = error
                await trio.sleep(RETRY_PAUSE_S)
        raise ClientError(f"no proxy accepted a write within {timeout_s} s: {last}")

    async def run(self) -> None:
        """Write until `stop` is called; a row in flight is waited for.

        If cancelled, the rows in flight are recorded as unknown.
        """
        try:
            async with trio.open_nursery() as nursery:
                for index in range(len(self._layout.nodes)):
                    nursery.start_soon(self._lane, index)
        finally:
            self.finished.set()

    def stop(self) -> None:
        """Ask the lanes to end after their present row, or at their next retry."""
        self._stopping = True

    async def _lane(self, index: int) -> None:
        nodes = self._layout.nodes
        self._at[index] = index
        client: PgClient | None = None
        row = 0  # the row to write; 0 when a new number is due
        due_s = time.monotonic()
        try:
            while not self._stopping and self._next_row <= ROWS_MAX:
                if row == 0:
                    due_s = max(due_s + self._interval_s, time.monotonic())
                    await trio.sleep(max(0.0, due_s - time.monotonic()))
                    row, self._next_row = self._next_row, self._next_row + 1
                if client is None or client.closed:
                    client = await self._try_connect(nodes[self._at[index]])
                if client is not None:
                    outcome = await self._write(client, row, nodes[self._at[index]].name)
                    if outcome is not Outcome.FAILED:
                        row = 0
                    if outcome is Outcome.ACKNOWLEDGED and not self._keep_connections:
                        client.close()
                        client = None
                        continue
                if client is None or client.closed or row:
                    # This proxy or its server is in trouble: try the next.
                    if client is not None:
                        client.close()
                    client = None
                    self._at[index] = self._next_node(index)
                    await trio.sleep(RETRY_PAUSE_S)
        finally:
            if client is not None:
                client.close()

    def _next_node(self, lane: int) -> int:
        """Return another node for a lane, the one that the fewest lanes use."""
        count = len(self._layout.nodes)
        here = self._at[lane]
        others = [(here + step) % count for step in range(1, count)] or [here]
        used = list(self._at.values())
        return min(others, key=used.count)

    async def _try_connect(self, node: NodeLayout) -> PgClient | None:
        try:
            return await self._connect(node)
        except (ClientError, ServerError) as error:
            self.record.errors += 1
            self.record.note_error(f"{node.name}: {error}")
            return None

    async def _connect(self, node: NodeLayout) -> PgClient:
        return await PgClient.connect(
            node.host,
            node.proxy_port,
            user=APP_USER,
            password=self._layout.app_password,
            database=DATABASE,
            timeout_s=LOGIN_TIMEOUT_S,
        )

    async def _write(self, client: PgClient, row: int, via: str) -> Outcome:
        sql = f"insert into {self.table} (id, via) values ({row}, '{via}')"  # noqa: S608 - ours
        outcome = Outcome.UNKNOWN
        detail = "cancelled"
        self.record.begun[row] = time.monotonic()
        try:
            result = await client.query(sql, timeout_s=STATEMENT_TIMEOUT_S)
            if result.tag == "INSERT 0 1" and not result.warnings:
                outcome = Outcome.ACKNOWLEDGED
            else:
                detail = f"{result.tag} {result.warnings}"
        except ServerError as error:
            outcome, detail = outcome_of_error(error), str(error)
        except ClientError as error:
            detail = str(error)
        finally:
            self._note(outcome, row, f"{via}: row {row} {outcome}: {detail}")
        return outcome

    def _note(self, outcome: Outcome, row: int, text: str) -> None:
        now = time.monotonic()
        match outcome:
            case Outcome.ACKNOWLEDGED:
                self.record.acknowledged[row] = now
            case Outcome.UNKNOWN:
                self.record.unknown[row] = now
                self.record.note_error(text)
            case Outcome.FAILED:
                self.record.errors += 1
                self.record.note_error(text)


async def rows_on(layout: Layout, node: NodeLayout, table: str, *, timeout_s: float) -> list[int]:
    """Return the numbers of all rows, asked of this node's PostgreSQL itself, not of a proxy.

    Raises:
        ClientError, ServerError: it did not answer, or refused.
    """
    client = await PgClient.connect(
        node.host,
        node.postgres_port,
        user=APP_USER,
        password=layout.app_password,
        database=DATABASE,
        timeout_s=timeout_s,
    )
    with client:
        sql = f"select id from {table}"  # noqa: S608 - the name was checked by the writer
        result = await client.query(sql, timeout_s=timeout_s)
    return [int(row[0]) for row in result.rows if row[0] is not None]
