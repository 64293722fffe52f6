"""What can be done to a cluster of three servers, and what is seen of it; pure values.

The servers are `a`, `b` and `c`. A sequence begins with `a` as the primary on timeline 2, `b` and
`c` streaming from it, and an empty `synchronous_standby_names`. Every command is followed by a wait
until nothing changes any more, so that a command has one possible outcome.

A value is written once in a sequence and therefore names its commit.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields

NAMES = ("a", "b", "c")
SLOTS = ("s1", "s2")
SlotView = tuple[str, bool, str, str]
LEVELS = ("off", "local", "remote_write", "on", "remote_apply")


@dataclass(frozen=True, slots=True)
class Commit:
    """Append `value` to `key` under a level of synchronous_commit; it may go on waiting."""

    server: str
    key: str
    value: str
    level: str = "on"


@dataclass(frozen=True, slots=True)
class CancelCommit:
    """Cancel the statement of a commit that waits, or terminate its backend."""

    value: str
    how: str = "cancel"  # or: terminate


@dataclass(frozen=True, slots=True)
class SetSync:
    """Set `synchronous_standby_names` to `ANY k (names)`, or to nothing with k = 0, and reload."""

    server: str
    names: tuple[str, ...]
    k: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a server: `fast`, `immediate`, or `kill` (SIGKILL to every process of it).

    A fast one that a frozen standby blocks is followed by an immediate one.
    """

    server: str
    how: str = "fast"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a stopped server as a standby of `upstream`, or of nobody if that is ""."""

    server: str
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class PauseReplay:
    server: str


@dataclass(frozen=True, slots=True)
class ResumeReplay:
    server: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Empty `primary_conninfo` and reload."""

    server: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Point `primary_conninfo` of a running standby at `upstream` and reload."""

    server: str
    upstream: str


@dataclass(frozen=True, slots=True)
class KillReceiver:
    """SIGTERM to the WAL receiver; a standby with an upstream starts another one."""

    server: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Promote, on the next timeline (tli = 0) or, with placeholder histories, on timeline `tli`."""

    server: str
    tli: int = 0


@dataclass(frozen=True, slots=True)
class Rewind:
    """pg_rewind a stopped server, after a single-user recovery if it was not shut down cleanly."""

    server: str
    source: str


@dataclass(frozen=True, slots=True)
class Clone:
    """Replace the data of a stopped server by a base backup of `source`."""

    server: str
    source: str


@dataclass(frozen=True, slots=True)
class Freeze:
    """SIGSTOP to the `receiver` of a standby or to every process of the `server`."""

    server: str
    what: str = "server"


@dataclass(frozen=True, slots=True)
class Thaw:
    server: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    server: str


@dataclass(frozen=True, slots=True)
class RemoveWal:
    """Have a primary remove all WAL that it does not need itself."""

    server: str


@dataclass(frozen=True, slots=True)
class SwitchWal:
    """Have a primary go on in the next segment of WAL."""

    server: str


@dataclass(frozen=True, slots=True)
class CreateSlot:
    """Create a physical slot that keeps WAL at once, or from its first use on."""

    server: str
    name: str
    reserve: bool = True


@dataclass(frozen=True, slots=True)
class DropSlot:
    server: str
    name: str


@dataclass(frozen=True, slots=True)
class UseSlot:
    """Set `primary_slot_name` of a running standby, "" for none, and reload."""

    server: str
    name: str


@dataclass(frozen=True, slots=True)
class LimitSlots:
    """Let slots keep so many segments, and every checkpoint remove what is not kept.

    In force until the server is stopped.
    """

    server: str
    segments: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Nothing but a long wait: more than one status interval of the standbys."""


@dataclass(frozen=True, slots=True)
class Read:
    server: str
    key: str


Command = (
    Commit
    | CancelCommit
    | SetSync
    | Stop
    | Start
    | PauseReplay
    | ResumeReplay
    | Detach
    | Attach
    | KillReceiver
    | Promote
    | Rewind
    | Clone
    | Freeze
    | Thaw
    | Checkpoint
    | RemoveWal
    | SwitchWal
    | CreateSlot
    | DropSlot
    | UseSlot
    | LimitSlots
    | Settle
    | Read
)
_CLASSES = {cls.__name__: cls for cls in Command.__args__}


@dataclass(frozen=True, slots=True)
class ServerView:
    """What is seen of one server. Numbers of LSNs are never part of it but for their segments.

    A slot is its name, whether a standby streams with it, where it keeps WAL from, and its status.
    Where: null; `end`, if the standby that uses it has everything; else the segment, counted from
    the one in which the sequence began.
    """

    state: str  # stopped, starting (does not answer), primary, standby, frozen
    timeline: int = 0  # of a primary, or of a standby that streams; else 0
    streams_from: str = ""  # whose WAL sender serves this standby
    received: str = ""  # of a standby: null, segment (it is the start of one), position
    sync: tuple[tuple[str, str], ...] = ()  # standby → sync_state, of the standbys that stream
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()  # key → its values, both sorted
    slots: tuple[SlotView, ...] = ()  # sorted


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see after a command."""

    outcome: str  # of the command itself
    commits: tuple[tuple[str, str], ...]  # value → ok, warned, waiting, refused, lost
    servers: tuple[tuple[str, ServerView], ...] = field(default=())


def flat(seen: Seen) -> dict[str, object]:
    """Return the observables one by one, under names that a person can read."""
    result: dict[str, object] = {"outcome": seen.outcome}
    result.update({f"commit {value}": outcome for value, outcome in seen.commits})
    for name, view in seen.servers:
        for each in fields(view):
            result[f"{name}.{each.name}"] = getattr(view, each.name)
    return result


def render(commands: tuple[Command, ...] | list[Command]) -> str:
    """Return the sequence as text, a command a line; `parse` reads it."""
    return "\n".join(map(repr, commands))


def parse(text: str) -> tuple[Command, ...]:
    """Return the sequence that `render` wrote; empty lines and comments are skipped.

    Raises:
        ValueError: a line is not a command.
    """
    return tuple(
        _parse_line(line.strip())
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    )


def _parse_line(line: str) -> Command:
    call = ast.parse(line, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"not a command: {line}")
    if call.func.id not in _CLASSES:
        raise ValueError(f"no such command: {call.func.id}")
    positional = [ast.literal_eval(argument) for argument in call.args]
    named = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    return _CLASSES[call.func.id](*positional, **named)
