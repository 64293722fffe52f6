"""SQL to the local server: asyncpg over its Unix socket, through trio-asyncio.

The only asyncio-flavoured file. Input: statements that are one row or no row; output: plain
values. Every call has a deadline, because a hung server answers nothing for ever; whatever fails
or is cancelled closes the connection at once, so a connection is either idle or gone.

Does not know what the statements mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import asyncpg
import trio
import trio_asyncio  # type: ignore[import-untyped]  # it ships no types

T = TypeVar("T")
Row = Sequence[object]

_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection broke while the driver changed its state
    OSError,
    EOFError,
)

CONNECT_TIMEOUT_S = 2.0
QUERY_TIMEOUT_S = 2.0
STATEMENTS_KEPT = 32
"""Prepared, in each session: most looks at a server ask what the one before has asked."""


class SqlError(Exception):
    """The statement failed or was not answered in time. The connection is closed."""

    def __init__(self, text: str, *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered  # the server itself said so: it is there, and refuses


@asynccontextmanager
async def open_sql_loop() -> AsyncIterator[None]:
    """Make SQL possible inside this context: the asyncio loop lives and dies here."""
    async with trio_asyncio.open_loop():
        yield


async def _bounded(
    call: Callable[[], Coroutine[object, object, T]], timeout_s: float, what: str
) -> T:
    try:
        with trio.fail_after(timeout_s):
            result: T = await trio_asyncio.aio_as_trio(call)()
            return result
    except trio.TooSlowError:
        raise SqlError(f"{what}: not answered within {timeout_s:g} s") from None
    except (*_FAILURES, asyncio.CancelledError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        answered = isinstance(error, asyncpg.PostgresError)
        raise SqlError(f"{what}: {text}", answered=answered) from error


class Session:
    """One connection. Not for use by two tasks at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._warnings: list[str] = []
        connection.add_log_listener(self._note)

    def _note(self, _connection: object, message: object) -> None:
        if getattr(message, "severity_en", None) == "WARNING" and len(self._warnings) < 100:
            self._warnings.append(str(getattr(message, "message", "")))

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    async def rows(
        self, query: str, *arguments: object, timeout_s: float = QUERY_TIMEOUT_S
    ) -> list[Row]:
        """Run one statement and return its rows.

        Raises:
            SqlError: it failed; the connection is closed.

        If cancelled, the connection is closed; the server may still carry the statement out.
        """
        try:
            records = await _bounded(
                lambda: self._connection.fetch(query, *arguments), timeout_s, _verb(query)
            )
        except BaseException:
            self.terminate()
            raise
        return [tuple(record.values()) for record in records]

    async def row(self, query: str, *arguments: object, timeout_s: float = QUERY_TIMEOUT_S) -> Row:
        """Return the first row; see `rows`."""
        found = await self.rows(query, *arguments, timeout_s=timeout_s)
        if not found:
            raise SqlError(f"{_verb(query)}: no row")
        return found[0]

    async def run(self, script: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """Run statements that return nothing; see `rows`."""
        try:
            await _bounded(lambda: self._connection.execute(script), timeout_s, _verb(script))
        except BaseException:
            self.terminate()
            raise

    async def warnings(self) -> tuple[str, ...]:
        """Return every warning that the statements so far were answered with."""
        # Listeners are told by callbacks of the loop, which run in the order in which they were
        # asked for: those for what came before the answer run before what is asked for now.
        await _bounded(lambda: asyncio.sleep(0), QUERY_TIMEOUT_S, "warnings")
        return tuple(self._warnings)

    def backend_pid(self) -> int:
        return int(self._connection.get_server_pid())

    def terminate(self) -> None:
        """Close the socket without a word; never waits."""
        with contextlib.suppress(Exception):
            self._connection.remove_log_listener(self._note)
        with contextlib.suppress(Exception):
            self._connection.terminate()


def _verb(query: str) -> str:
    return " ".join(query.split())[:60]


async def connect(
    *, socket_dir: Path, port: int, user: str, database: str, timeout_s: float = CONNECT_TIMEOUT_S
) -> Session:
    """Open a connection over the Unix socket in `socket_dir`.

    Raises:
        SqlError: there is no server, or it takes no connections yet.
    """

    async def call() -> asyncpg.Connection:
        return await asyncpg.connect(
            host=str(socket_dir),
            port=port,
            user=user,
            database=database,
            password="",
            passfile="/dev/null",
            ssl=False,
            timeout=timeout_s,
            statement_cache_size=STATEMENTS_KEPT,
            max_cached_statement_lifetime=0,  # for as long as the session
            server_settings={
                "application_name": "metako agent",
                "client_min_messages": "warning",
                "statement_timeout": "0",
                "lock_timeout": "0",
                "search_path": "pg_catalog",
            },
        )

    return Session(await _bounded(call, timeout_s + 0.5, "connect"))
