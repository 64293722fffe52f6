"""The frames by which a console reaches all workers of its node. See `frames` for all others.

    worker ──asked──▶ agent ──wanted──▶ every worker
    worker ◀──told─── agent ◀──part──── every worker

Agent → worker: `{"tuning": {...}}` before the first table and when it changes: what a running
worker can be given anew, its share of it. Worker → agent: `{"console_asked": {"id":…,
"command":…}}`, what somebody wants at the worker's console. Agent → workers:
`{"part_wanted": {"id":…, "command":…, "room":…}}`. Worker → agent: `{"part": {"id":…, …}}`.
Agent → worker: `{"console_told": {"id":…, …}}`, all parts in one.

A worker that knows these says so in its hello; only such a one is sent any of them. An agent that
knows them sends a tuning.

Invariant: a part fits into a frame. Rows that do not are left out, and a notice says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from metako.pgwire.rows import Table, Value
from metako.pgwire.startup import SqlState
from metako.proxy.console import Command, Done, Failed, Outcome, Shown, Verb
from metako.proxy.jsonline import FRAME_BYTES_MAX, FrameError, integer, mapping, string
from metako.proxy.limits import Limits, Timeouts, Tuning

ROOM_BYTES = FRAME_BYTES_MAX - 8192  # for rows; the rest is for notices and what is around them
ROWS_MAX = 100_000
NOTICES_MAX = 80  # one for each worker, and a few
NOTICE_CHARS_MAX = 1000  # of one; an error of a configuration file may be longer
NOTICES_BYTES_MAX = 6000  # of all, in JSON
ADMINS_MAX = 100
SECONDS_MAX = 1e9


@dataclass(frozen=True, slots=True)
class Part:
    """What came of a command, in one worker or in all."""

    outcome: Outcome
    notices: tuple[str, ...] = ()
    count: int = 0  # of what was done, such as clients that were ended


@dataclass(frozen=True, slots=True)
class ConsoleAsked:
    """Somebody at a worker's console wants this of all workers."""

    id: int
    command: Command


@dataclass(frozen=True, slots=True)
class ConsoleTold:
    """The answer."""

    id: int
    part: Part


@dataclass(frozen=True, slots=True)
class PartWanted:
    """The agent wants this of one worker."""

    id: int
    command: Command
    room: int  # bytes that its rows may take


@dataclass(frozen=True, slots=True)
class PartTold:
    """The answer."""

    id: int
    part: Part


def fitting(part: Part, room: int) -> Part:
    """Return a part whose rows take no more than `room` bytes in a frame."""
    table = part.outcome
    if not isinstance(table, Table):
        return part
    left = room - len(json.dumps(table.columns))
    for index, row in enumerate(table.rows):
        left -= len(json.dumps(row)) + 1
        if left < 0:
            notice = f"only the first {index} of {len(table.rows)} rows are shown"
            return replace(
                part,
                outcome=Table(table.columns, table.rows[:index]),
                notices=(notice, *part.notices),
            )
    return part


def merged(command: Command, parts: Sequence[tuple[int, Part]], missing: Sequence[int]) -> Part:
    """Return what all workers together have answered, each with its number.

    Two have the same while one takes the place of the other.
    """
    notices = [f"worker {index} did not answer" for index in missing]
    notices += [f"worker {index}: {text}" for index, part in parts for text in part.notices]
    if not parts:
        return Part(Failed("no worker has answered"), tuple(notices))
    for index, part in parts:
        outcome = part.outcome
        if isinstance(outcome, Failed):
            failed = replace(outcome, message=f"worker {index}: {outcome.message}")
            return Part(failed, tuple(notices))
    tables = [(index, part.outcome) for index, part in parts if isinstance(part.outcome, Table)]
    if tables:
        columns = tables[0][1].columns
        rows: list[tuple[Value, ...]] = []
        for index, table in tables:
            if table.columns == columns:
                rows += ((index, *row) for row in table.rows)
            else:
                notices.append(f"worker {index} is of another version")
        return fitting(Part(Table(("worker", *columns), tuple(rows)), tuple(notices)), ROOM_BYTES)
    count = sum(part.count for _, part in parts)
    if command.verb is Verb.KILL:
        if command.client is not None and not count and not missing:
            return Part(no_such_client(command.client), tuple(notices))
        notices.append(f"{count} {'client was' if count == 1 else 'clients were'} ended")
    if command.verb is Verb.RESUME and not count and not missing:
        notices.append("nothing was paused by that name")
    return Part(Done(), tuple(notices), count)


def no_such_client(client: str) -> Failed:
    return Failed(
        f'no client "{client[:50]}"',
        SqlState.UNDEFINED_OBJECT,
        hint="SHOW CLIENTS has them in its column id.",
    )


# -- JSON -------------------------------------------------------------------------------------


def command_to_json(command: Command) -> dict[str, object]:
    return asdict(command)


def command_from_json(body: Mapping[str, object]) -> Command:
    shown, database, client = (body.get(name) for name in ("shown", "database", "client"))
    try:
        return Command(
            Verb(string(body.get("verb"))),
            shown=None if shown is None else Shown(string(shown)),
            database=None if database is None else string(database),
            client=None if client is None else string(client),
        )
    except ValueError:
        raise FrameError("unknown command") from None


def part_to_json(part: Part) -> dict[str, object]:
    body: dict[str, object] = {"notices": _shortened(part.notices), "count": part.count}
    match part.outcome:
        case Table() as table:
            body["columns"], body["rows"] = table.columns, table.rows
        case Failed() as failed:
            body["failed"] = {
                "message": failed.message[:NOTICE_CHARS_MAX],
                "sqlstate": failed.sqlstate,
                "hint": failed.hint[:NOTICE_CHARS_MAX],
            }
        case Done():
            pass
    return body


def part_from_json(body: Mapping[str, object]) -> Part:
    notices = _list(body.get("notices", []), NOTICES_MAX)
    outcome: Outcome = Done()
    if "failed" in body:
        failed = mapping(body["failed"])
        texts = (string(failed.get(name)) for name in ("message", "sqlstate", "hint"))
        message, sqlstate, hint = texts
        outcome = Failed(message, sqlstate, hint)
    elif "columns" in body:
        columns = tuple(string(name) for name in _list(body["columns"], 100))
        rows = tuple(_row(row, len(columns)) for row in _list(body.get("rows"), ROWS_MAX))
        if not columns:
            raise FrameError("a table without columns")
        outcome = Table(columns, rows)
    return Part(outcome, tuple(map(string, notices)), integer(body.get("count", 0)))


def _row(value: object, width: int) -> tuple[Value, ...]:
    cells = _list(value, width)
    if len(cells) != width:
        raise FrameError("a row that is too short")
    return tuple(_cell(cell) for cell in cells)


def _cell(value: object) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise FrameError("neither a text nor a number")


def _list(value: object, length_max: int) -> list[object]:
    if not isinstance(value, list) or len(value) > length_max:
        raise FrameError("not a short list")
    return value


def _shortened(notices: Sequence[str]) -> list[str]:
    kept: list[str] = []
    left = NOTICES_BYTES_MAX
    for notice in notices[:NOTICES_MAX]:
        text = notice[:NOTICE_CHARS_MAX]
        left -= len(json.dumps(text)) + 1
        if left < 0:
            break
        kept.append(text)
    return kept


def tuning_to_json(tuning: Tuning) -> dict[str, object]:
    return asdict(tuning)


def tuning_from_json(body: Mapping[str, object]) -> Tuning:
    limits, timeouts = mapping(body.get("limits")), mapping(body.get("timeouts"))
    return Tuning(
        sessions_max=integer(body.get("sessions_max")),
        queue_timeout_s=_seconds(body.get("queue_timeout_s")),
        limits=Limits(**{one.name: integer(limits.get(one.name)) for one in fields(Limits)}),
        timeouts=Timeouts(
            **{one.name: _seconds(timeouts.get(one.name)) for one in fields(Timeouts)}
        ),
        admins=tuple(string(name) for name in _list(body.get("admins"), ADMINS_MAX)),
    )


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FrameError("not a number of seconds")
    if not 0 <= value <= SECONDS_MAX:
        raise FrameError("not a number of seconds")
    return float(value)
