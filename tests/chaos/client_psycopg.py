"""A client that talks through psycopg 3, and so through libpq: the other common stack.

`python -m chaos.client_psycopg --help` tells its options, `client_plan` what the outcomes mean.
It is synchronous. An alarm interrupts what takes too long, because libpq has no deadline for a
statement of its own. SIGTERM or SIGINT ends it with 0 after the operation under way, which gets
`GRACE_S`.
"""

from __future__ import annotations

import select
import signal
import sys
import time
from collections.abc import Sequence

# psycopg is LGPL-3.0. It is a tool of these tests only: a separate process that nothing of metako
# imports, and no dependency of the package.
import psycopg
from psycopg.errors import Diagnostic

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

INSERT = insert_sql("%s", "%s")
READ = read_sql("%s")
IDLE_READS_MAX = 10
SLEEP_S_MAX = 0.1  # in one piece; SIGTERM is looked for in between


class AlarmError(Exception):
    """The deadline of the operation has come; its connection is in no known state."""


class Client:
    """Holds one connection, or none after an error."""

    def __init__(self, options: Options) -> None:
        self.stopping = False
        self._options = options
        self._connection: psycopg.Connection | None = None
        self._warnings: list[str] = []
        self._armed = False  # an alarm may interrupt
        signal.signal(signal.SIGALRM, self._on_alarm)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_term)

    def _on_alarm(self, _number: int, _frame: object) -> None:
        if self._armed:
            self._armed = False
            raise AlarmError

    def _on_term(self, _number: int, _frame: object) -> None:
        self.stopping = True
        remaining_s, _ = signal.getitimer(signal.ITIMER_REAL)
        if self._armed and remaining_s > GRACE_S:
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def perform(self, attempt: Attempt) -> None:
        """Do one operation and put into `attempt` what became of it."""
        try:
            try:
                self._armed = True
                # psycopg keeps the deadline for connecting; the alarm is for what it misses.
                self._set_alarm(self._options.connect_timeout_s + 0.5)
                connection = self._connected()
                attempt.begin = time.monotonic()
                self._warnings = attempt.warnings
                self._set_alarm(self._options.statement_timeout_s)
                self._ask(connection, attempt)
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0.0)
        except AlarmError:
            attempt.lose("timeout")
        except psycopg.Error as error:
            if error.diag.sqlstate:
                attempt.refuse(_severity(error.diag), error.diag.sqlstate, str(error))
            else:
                attempt.lose(f"{type(error).__name__}: {error}")
        finally:
            if attempt.outcome is None or attempt.error:
                self.drop()

    def _set_alarm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(seconds, GRACE_S) if self.stopping else seconds)

    def _connected(self) -> psycopg.Connection:
        if self._connection is not None and _is_open(self._connection):
            return self._connection
        self.drop()
        options = self._options
        self._connection = psycopg.connect(
            options.dsn,
            host=options.host,
            port=options.port,
            autocommit=True,
            client_encoding="utf8",  # else texts of a database in SQL_ASCII come as bytes
            connect_timeout=max(1, round(options.connect_timeout_s)),
            user=None if options.dsn else options.user,
            password=None if options.dsn else options.password,
            dbname=None if options.dsn else options.database,
        )
        self._connection.add_notice_handler(self._note_notice)
        return self._connection

    def _note_notice(self, notice: Diagnostic) -> None:
        if _severity(notice) == "WARNING":
            self._warnings.append(f"{notice.sqlstate} {notice.message_primary}")

    def _ask(self, connection: psycopg.Connection, attempt: Attempt) -> None:
        planned = attempt.planned
        if planned.kind is Kind.READ:
            attempt.sent = True
            cursor = connection.execute(READ, planned.keys)
            attempt.note_read(_only_row(cursor))
            attempt.acknowledge(cursor.statusmessage or "", "SELECT 1")
        elif planned.kind is Kind.APPEND:
            attempt.sent = True
            tag = self._insert(connection, attempt, 0)
            attempt.acknowledge(tag, "INSERT 0 1")
        else:
            connection.execute("begin")
            for index in range(len(planned.keys)):
                self._insert(connection, attempt, index)
            attempt.sent = True
            attempt.acknowledge(connection.execute("commit").statusmessage or "", "COMMIT")

    def _insert(self, connection: psycopg.Connection, attempt: Attempt, index: int) -> str:
        # `execute` reads on to ReadyForQuery. The row and even the command tag of an insert in
        # autocommit come before its commit and prove nothing.
        planned = attempt.planned
        cursor = connection.execute(INSERT, (planned.keys[index], planned.values[index]))
        attempt.note_row(_only_row(cursor))
        return cursor.statusmessage or ""

    def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _only_row(cursor: psycopg.Cursor) -> tuple[object, ...]:
    row = cursor.fetchone()
    assert row is not None, "a statement that always answers one row answered none"
    return row


def _is_open(connection: psycopg.Connection) -> bool:
    """Say whether an idle connection still is one, after reading what has come.

    libpq notices an end only when it sends, and would then report a FATAL that came long before
    as the answer to the new statement, which so would be in doubt for nothing. What comes to a
    connection that goes on are settings that changed, as at a promotion.
    """
    if connection.closed or connection.broken:
        return False
    try:
        for _ in range(IDLE_READS_MAX):
            if not select.select([connection.fileno()], [], [], 0)[0]:
                return connection.pgconn.status == psycopg.pq.ConnStatus.OK
            connection.pgconn.consume_input()
            connection.pgconn.is_busy()  # reads the messages, and so takes them off the buffer
    except psycopg.Error:
        return False
    return False


def _severity(found: Diagnostic) -> str:
    return found.severity_nonlocalized or found.severity or ""


def _sleep_until(when_s: float, client: Client) -> None:
    while not client.stopping and (left_s := when_s - time.monotonic()) > 0:
        time.sleep(min(left_s, SLEEP_S_MAX))


def run(options: Options) -> None:
    """Do operations until SIGTERM or until `count` of them are done."""
    client, planner, recorder = Client(options), Planner(options), Recorder(options)
    pace = Pace(options.rate, time.monotonic())
    pause_s = 0.0
    try:
        for _ in range(options.count):
            now = time.monotonic()
            _sleep_until(max(pace.next_due(now), now + pause_s), client)
            if client.stopping:
                break
            attempt = Attempt(planner.next_operation(), begin=time.monotonic())
            try:
                client.perform(attempt)
            finally:
                pause_s = recorder.record(attempt)
    finally:
        client.drop()
        recorder.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments, "client_psycopg")
    die_with_parent(options.parent)
    run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
