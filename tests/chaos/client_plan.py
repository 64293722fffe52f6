"""What the two clients share: their options, what they ask, and what an answer proves.

An operation is *ok* only when the server acknowledged the commit and sent no WARNING with it. The
one that matters says that the wait for the standbys was cancelled; its text is translated and its
SQLSTATE says nothing, so any WARNING puts the operation in doubt. It is *failed* only when it
certainly was not executed:

- the statement that decides (the insert, the COMMIT, the read) never left this process, or
- the server answered it with a plain ERROR: that aborts the transaction, and the server turns an
  error after the commit record was written into a PANIC. A FATAL proves nothing: the same message
  ends a session that is idle and one that waits for standbys after its commit. Nor do the classes
  in `_DOUBTFUL`, even as ERROR: a proxy or a library speaks so of a server that it lost.

Everything else is *unknown*. A transaction whose COMMIT was never sent has failed, whatever became
of its inserts; if something commits it nevertheless, the checker finds a value too many.

Needs of the user: INSERT and SELECT on the table. The functions used are open to everybody.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.history import Kind, Operation, Outcome, Writer

READ_LIMIT = 50
TXN_VALUES = (2, 4)
BACKOFF_S = (0.05, 0.1, 0.2, 0.3)  # after the first, second … failure in a row; the last stays
GRACE_S = 1.0  # for the operation under way when SIGTERM comes
BACKLOG_S_MAX = 0.5  # operations that are later than this are dropped, not made up for
OPERATIONS_MAX = 10_000_000
TEXT_CHARS_MAX = 300
PR_SET_PDEATHSIG = 1

# The file that WAL is inserted into belongs to the timeline of the running primary from the moment
# of its promotion on; what pg_control_checkpoint() tells is old until the next checkpoint.
_TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
_AT_US = "(extract(epoch from {}) * 1000000)::bigint"


def insert_sql(key: str, value: str) -> str:
    """Return the insert with the library's placeholders; it answers server, timeline, at_us."""
    return (
        f"insert into chaos (key, value) values ({key}, {value})"
        f" returning host(inet_server_addr()), {_TIMELINE}, {_AT_US.format('at')}"
    )


def read_sql(key: str) -> str:
    """Return the read: in recovery?, server, timeline, values (oldest first), since_us.

    Rows of a primary are never deleted or changed, so "the newest by `at`" is a property of the
    rows alone: a row that is newer than the oldest one listed must be listed, whatever the clocks
    of the servers were. `since_us` is 0 when everything is listed. CASE keeps the timeline from
    being asked of a standby, where pg_walfile_name is an error.
    """
    return (
        f"with listed as (select value, at from chaos where key = {key}"
        f" order by at desc, value limit {READ_LIMIT})"
        " select pg_is_in_recovery(), host(inet_server_addr()),"
        f" case when pg_is_in_recovery() then 0 else {_TIMELINE} end,"
        " coalesce((select array_agg(value order by at, value) from listed), '{}'),"
        f" (select case when count(*) < {READ_LIMIT} then 0 else {_AT_US.format('min(at)')} end"
        " from listed)"
    )


_DOUBTFUL = ("08", "57P", "40003")
"""Beginnings of SQLSTATEs: connection exceptions, operator interventions that end sessions (57P01
admin_shutdown to 57P05), and completion unknown. 57014, a cancelled query, is a plain error."""


def outcome_of_error(severity: str, sqlstate: str) -> Outcome:
    """Return what an error from the server says about the statement that it answers.

    Args:
        severity: as the server's untranslated field has it; empty when there was none.
        sqlstate: five characters; empty when there was none.
    """
    if severity != "ERROR" or len(sqlstate) != 5 or sqlstate.startswith(_DOUBTFUL):
        return Outcome.UNKNOWN
    return Outcome.FAILED


@dataclass(frozen=True, slots=True)
class Options:
    name: str
    host: str
    port: int
    via: str
    start_mono: float
    out: Path
    rate: float  # operations a second
    keys: int
    seed: int
    mix: Mapping[Kind, float]
    first: int  # number of the first value
    count: int  # operations after which the client ends by itself
    user: str
    database: str
    password: str
    dsn: str  # empty when user, database and password are given
    parent: int  # process that this one must not outlive; 0: whichever started it
    connect_timeout_s: float
    statement_timeout_s: float


def _parse_mix(text: str) -> Mapping[Kind, float]:
    mix: dict[Kind, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        mix[Kind(name.strip())] = float(weight)
    if min(mix.values()) < 0 or sum(mix.values()) <= 0:
        raise ValueError(text)
    return mix


def parse_options(arguments: Sequence[str] | None, program: str) -> Options:
    """Return the options of the command line; a wrong one ends the process with 2."""
    parser = argparse.ArgumentParser(prog=f"python -m chaos.{program}")
    parser.add_argument("--name", required=True, help="of the client; its values begin with it")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--via", required=True, help="proxy:<node> or direct:<node>")
    parser.add_argument("--start-mono", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, help="history to append to")
    parser.add_argument("--rate", type=float, default=20.0, help="operations a second")
    parser.add_argument("--keys", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", type=_parse_mix, default="append=0.7,read=0.2,txn=0.1")
    parser.add_argument("--read-only", action="store_true", help="the same as --mix read=1")
    parser.add_argument("--first", type=int, default=1, help="number of the first value")
    parser.add_argument("--count", type=int, default=OPERATIONS_MAX)
    parser.add_argument("--user", default="app")
    parser.add_argument("--database", default="app")
    parser.add_argument("--connect-timeout", type=float, default=3.0)
    parser.add_argument("--statement-timeout", type=float, default=8.0)
    parser.add_argument("--parent", type=int, default=0, help="end if this is not the parent")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--password-file", type=Path)
    secret.add_argument("--dsn-file", type=Path, help="postgresql:// URI; --host and --port hold")
    found = parser.parse_args(arguments)
    if found.rate <= 0 or found.keys < 1 or found.count > OPERATIONS_MAX:
        parser.error("--rate and --keys must be positive, --count bounded")
    secret_file: Path = found.password_file or found.dsn_file
    try:
        text = secret_file.read_text().strip()
    except OSError as error:
        parser.error(f"{secret_file}: {error.strerror}")
    return Options(
        name=found.name,
        host=found.host,
        port=found.port,
        via=found.via,
        start_mono=found.start_mono,
        out=found.out,
        rate=found.rate,
        keys=found.keys,
        seed=found.seed,
        mix={Kind.READ: 1.0} if found.read_only else found.mix,
        first=found.first,
        count=found.count,
        user=found.user,
        database=found.database,
        password="" if found.dsn_file else text,
        dsn=text if found.dsn_file else "",
        parent=found.parent,
        connect_timeout_s=found.connect_timeout,
        statement_timeout_s=found.statement_timeout,
    )


@dataclass(frozen=True, slots=True)
class Planned:
    kind: Kind
    keys: tuple[int, ...]
    values: tuple[str, ...]  # empty for a read, else parallel to `keys`


class Planner:
    """Draws one operation after the other; a value is never given twice."""

    def __init__(self, options: Options) -> None:
        self._name = options.name
        self._keys = range(options.keys)
        self._kinds = list(options.mix)
        self._weights = list(options.mix.values())
        self._random = random.Random(options.seed)
        self._numbers = itertools.count(options.first)

    def next_operation(self) -> Planned:
        kind = self._random.choices(self._kinds, self._weights)[0]
        size = self._random.randint(*TXN_VALUES) if kind is Kind.TXN else 1
        if size <= len(self._keys):
            keys = tuple(self._random.sample(self._keys, size))
        else:
            keys = tuple(self._random.choices(self._keys, k=size))
        if kind is Kind.READ:
            return Planned(kind, keys, ())
        return Planned(kind, keys, tuple(f"{self._name}-{next(self._numbers)}" for _ in keys))


class Pace:
    """Steady times to begin at, whatever the operations take, without an unbounded backlog."""

    def __init__(self, rate: float, now: float) -> None:
        self._interval_s = 1.0 / rate
        self._due = now

    def next_due(self, now: float) -> float:
        self._due = max(self._due + self._interval_s, now - BACKLOG_S_MAX)
        return self._due


@dataclass(slots=True)
class Attempt:
    """One operation while it is under way, and what is known of it so far."""

    planned: Planned
    begin: float  # CLOCK_MONOTONIC
    sent: bool = False  # the statement that decides may have left this process
    outcome: Outcome | None = None  # None: nothing was answered that decides
    error: str = ""
    server: str = ""
    timeline: int = 0
    at_us: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # that came while it was under way
    seen: tuple[str, ...] = ()
    role: str = ""
    since_us: int = 0

    def note_row(self, row: Sequence[object]) -> None:
        """Note what an insert answered."""
        server, timeline, at_us = row
        assert server is None or isinstance(server, str), row
        assert isinstance(timeline, int), row
        assert isinstance(at_us, int), row
        self.server, self.timeline = server or "", timeline
        self.at_us.append(at_us)

    def note_read(self, row: Sequence[object]) -> None:
        """Note what a read answered."""
        in_recovery, server, timeline, seen, since_us = row
        assert isinstance(in_recovery, bool), row
        assert isinstance(timeline, int), row
        assert server is None or isinstance(server, str), row
        assert isinstance(seen, list), row
        assert all(isinstance(value, str) for value in seen), row
        assert isinstance(since_us, int), row
        self.role = "standby" if in_recovery else "primary"
        self.server, self.timeline = server or "", timeline
        self.seen, self.since_us = tuple(seen), since_us

    def acknowledge(self, tag: str, wanted: str) -> None:
        """The server answered the statement that decides with the command tag `tag`."""
        if tag == wanted:
            self.outcome = Outcome.OK
        elif tag == "ROLLBACK":  # the answer to a COMMIT of a transaction that had failed
            self.outcome, self.error = Outcome.FAILED, "COMMIT was answered with ROLLBACK"
        else:
            self.outcome, self.error = Outcome.UNKNOWN, f"unexpected answer {tag!r}"

    def refuse(self, severity: str, sqlstate: str, text: str) -> None:
        """The server answered with an error."""
        self.error = f"{sqlstate} {text}".strip()
        self.outcome = outcome_of_error(severity, sqlstate) if self.sent else Outcome.FAILED

    def lose(self, text: str) -> None:
        """Something else than an answer ended the operation."""
        if self.outcome is None:
            self.error = text
            self.outcome = Outcome.UNKNOWN if self.sent else Outcome.FAILED

    def to_record(self, options: Options, now: float) -> Operation:
        """Return the record; what was never decided counts as lost."""
        self.lose("abandoned")
        outcome = self.outcome
        assert outcome is not None
        writes = self.planned.kind is not Kind.READ
        if writes and outcome is Outcome.OK and self.warnings:
            outcome = Outcome.UNKNOWN
        end = round(now - options.start_mono, 6)
        return Operation(
            t=end,
            client=options.name,
            via=options.via,
            kind=self.planned.kind,
            keys=self.planned.keys,
            values=self.planned.values,
            begin=round(self.begin - options.start_mono, 6),
            end=end,
            outcome=outcome,
            error=" ".join(self.error.split())[:TEXT_CHARS_MAX],
            server=self.server,
            timeline=self.timeline,
            warning=" ".join("; ".join(self.warnings).split())[:TEXT_CHARS_MAX],
            seen=self.seen,
            role=self.role,
            at_us=tuple(self.at_us) if len(self.at_us) == len(self.planned.keys) else (),
            since_us=self.since_us,
        )


class Recorder:
    """Writes every attempt and tells how long to wait before the next connection."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._writer = Writer(options.out)
        self._failures = 0  # to connect or of a connection, in a row

    def record(self, attempt: Attempt) -> float:
        """Write the attempt down; return the pause before the next one, in seconds."""
        record = attempt.to_record(self._options, time.monotonic())
        self._writer.write(record)
        if record.outcome is Outcome.OK or record.warning:
            self._failures = 0
            return 0.0
        self._failures += 1
        return BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1]

    def close(self) -> None:
        self._writer.close()


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, also when that is killed.

    The kernel sends the signal when the *thread* that forked us ends. A rig may start us from a
    thread of a pool, so the handler looks whether the parent itself is gone.

    Args:
        parent: its process id. With 0 we cannot see that it died while our modules were loaded.
    """
    parent = parent or os.getppid()

    def look(_number: int, _frame: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR1, look)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGUSR1), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "prctl")
    look(signal.SIGUSR1, None)
