"""A client that talks through asyncpg: one connection, one operation at a time, all written down.

`python -m chaos.client_asyncpg --help` tells its options, `client_plan` what the outcomes mean.
SIGTERM or SIGINT ends it with 0 after the operation under way, which gets `GRACE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Sequence

import asyncpg
from asyncpg.exceptions import PostgresLogMessage
from asyncpg.prepared_stmt import PreparedStatement

from chaos.client_plan import (
    GRACE_S,
    Attempt,
    Options,
    Pace,
    Planner,
    Recorder,
    die_with_parent,
    insert_sql,
    parse_options,
    read_sql,
)
from chaos.history import Kind

INSERT = insert_sql("$1", "$2")
READ = read_sql("$1")


class Client:
    """Holds one connection, or none after an error."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._statements: dict[str, PreparedStatement[asyncpg.Record]] = {}  # of the connection
        self._warnings: list[str] = []

    async def perform(self, attempt: Attempt) -> None:
        """Do one operation and put into `attempt` what became of it.

        If cancelled, the connection is dropped and `attempt` is left undecided.
        """
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                connection = await self._connected()
            attempt.begin = time.monotonic()
            self._warnings = attempt.warnings
            async with asyncio.timeout(self._options.statement_timeout_s):
                await self._ask(connection, attempt)
                # Listeners for notices run from the loop: let those run that were scheduled.
                await asyncio.sleep(0)
        except asyncpg.PostgresError as error:
            attempt.refuse(_severity(error), error.sqlstate or "", str(error))
        except TimeoutError:
            attempt.lose("timeout")
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            attempt.lose(f"{type(error).__name__}: {error}")
        finally:
            if attempt.outcome is None or attempt.error:
                self.drop()

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        options = self._options
        by_dsn = bool(options.dsn)
        self._connection = await asyncpg.connect(
            options.dsn or None,
            host=options.host,
            port=options.port,
            user=None if by_dsn else options.user,
            password=None if by_dsn else options.password,
            database=None if by_dsn else options.database,
            timeout=options.connect_timeout_s,
        )
        self._statements = {}
        self._connection.add_log_listener(self._note_notice)
        return self._connection

    def _note_notice(self, _connection: object, message: PostgresLogMessage) -> None:
        if _severity(message) == "WARNING":
            self._warnings.append(f"{message.sqlstate} {message.message}")

    async def _ask(self, connection: asyncpg.Connection[asyncpg.Record], attempt: Attempt) -> None:
        planned = attempt.planned
        if planned.kind is Kind.READ:
            statement = await self._prepared(connection, READ)
            attempt.sent = True
            rows = await statement.fetch(planned.keys[0])
            attempt.note_read(tuple(rows[0].values()))
            attempt.acknowledge(statement.get_statusmsg() or "", "SELECT 1")
            return
        statement = await self._prepared(connection, INSERT)
        if planned.kind is Kind.APPEND:
            attempt.sent = True
            await self._insert(statement, attempt, 0)
            attempt.acknowledge(statement.get_statusmsg() or "", "INSERT 0 1")
            return
        await connection.execute("begin")
        for index in range(len(planned.keys)):
            await self._insert(statement, attempt, index)
        attempt.sent = True
        attempt.acknowledge(await connection.execute("commit"), "COMMIT")

    async def _prepared(
        self, connection: asyncpg.Connection[asyncpg.Record], sql: str
    ) -> PreparedStatement[asyncpg.Record]:
        if sql not in self._statements:
            self._statements[sql] = await connection.prepare(sql)
        return self._statements[sql]

    async def _insert(
        self, statement: PreparedStatement[asyncpg.Record], attempt: Attempt, index: int
    ) -> None:
        # `fetch` reads on to ReadyForQuery. The row and even the command tag of an insert in
        # autocommit come before its commit and prove nothing.
        rows = await statement.fetch(attempt.planned.keys[index], attempt.planned.values[index])
        attempt.note_row(tuple(rows[0].values()))

    def drop(self) -> None:
        """Close the connection without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _severity(found: object) -> str:
    """Return the untranslated severity; the library adds the attribute when the server sent it."""
    return str(getattr(found, "severity_en", None) or getattr(found, "severity", None) or "")


async def run(options: Options) -> None:
    """Do operations until SIGTERM or until `count` of them are done."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    client, planner, recorder = Client(options), Planner(options), Recorder(options)
    pace = Pace(options.rate, time.monotonic())
    pause_s = 0.0
    try:
        for _ in range(options.count):
            due_s = pace.next_due(time.monotonic()) - time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(due_s, pause_s, 0.0))
            if stop.is_set():
                break
            attempt = Attempt(planner.next_operation(), begin=time.monotonic())
            task = asyncio.create_task(client.perform(attempt))
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=GRACE_S)
                task.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            finally:
                pause_s = recorder.record(attempt)
    finally:
        stopped.cancel()
        client.drop()
        recorder.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments, "client_asyncpg")
    die_with_parent(options.parent)
    asyncio.run(run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
