"""The vocabulary of what can be done to a PostgreSQL server, and of how it went.

A step is an imperative and carries all that its execution needs; the planner makes them, the
supervisor and the simulator carry them out, one at a time. Equal steps mean the same work: the
supervisor goes on with a running step for as long as the newest plan is equal to it.

Pure values; this module does not know how any step is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.ids import Address, NodeId, Term, TimelineId
from metako.model.postgres import SyncSetting, Upstream

NOBODY = SyncSetting(nodes=(), k=1)
"""Commits wait for a standby that does not exist: what every server is set to until it leads.

PostgreSQL asks one flag in shared memory whether commits wait at all, and the flag is kept by the
checkpointer, which may be busy for seconds after a reload. With names in the setting from its start
on, the flag is up long before a promotion, whoever the names then are.
"""

CANCELLABLE = frozenset({"Clone", "Rewind", "EmitMarker", "SyncBarrier", "Checkpoint", "Stop"})
"""Steps that may be abandoned half-way when the newest plan differs; the others are short."""


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Whom a standby streams from, and where."""

    node: NodeId
    address: Address
    counts: bool = True  # False: under a name that no server counts acknowledgements of


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What the generated settings depend on besides the node's own configuration."""

    upstream: UpstreamAddress | None = None  # None: detached
    sync: SyncSetting = NOBODY
    admit: bool = True  # applications may connect; always so on a standby


def detached_config(written: ServerConfig | None, prepared: SyncSetting | None) -> ServerConfig:
    """Return the settings of a standby that lets go of its upstream; those it has if they do."""
    if prepared is not None:
        return ServerConfig(None, prepared, admit=False)
    if written is not None and written.upstream is None:
        return written
    return ServerConfig(None, admit=written.admit if written is not None else True)


@dataclass(frozen=True, slots=True)
class InitDb:
    """Create a database cluster with its roles in an empty directory."""


@dataclass(frozen=True, slots=True)
class Clone:
    """Replace the data directory by a base backup of `upstream`."""

    upstream: UpstreamAddress


@dataclass(frozen=True, slots=True)
class Start:
    """Start PostgreSQL as a standby with `config`."""

    config: ServerConfig


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop PostgreSQL and verify that every one of its processes is gone."""

    fast: bool  # with a shutdown checkpoint; else immediately, and killed if it lingers
    successor: NodeId | None = None  # after a moment only this standby is waited for; None: all
    restart: str = ""  # the order for a restart that is done by it, as it is started again


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Write `config`, reload, and verify in a fresh backend that it is in force."""

    config: ServerConfig


@dataclass(frozen=True, slots=True)
class Detach:
    """Stop the WAL receiver, verify that it is gone, and find the position, under `promise`.

    Applications stay let in or shut out as they are, unless the settings of a primary are prepared.
    """

    promise: Term
    prepared: SyncSetting | None = None


@dataclass(frozen=True, slots=True)
class MeasurePosition:
    """Find the end of the WAL on disk while nothing runs; it counts under `promise`."""

    promise: Term


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the standby the primary of `term` on exactly the timeline `tli`."""

    term: Term
    tli: TimelineId


@dataclass(frozen=True, slots=True)
class EmitMarker:
    """Commit a WAL message with the term, acknowledged by as many standbys as any commit."""

    term: Term


@dataclass(frozen=True, slots=True)
class SyncBarrier:
    """Wait until the new setting, and no older one, decides which commits are acknowledged."""

    setting: SyncSetting


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write out what is dirty, if it is much, while applications are served.

    So the shutdown is short.
    """

    handover: str


@dataclass(frozen=True, slots=True)
class Rewind:
    """Take the data directory back to the fork and on to the history of `upstream`."""

    upstream: Upstream


Step = (
    InitDb
    | Clone
    | Start
    | Stop
    | ApplySettings
    | Detach
    | MeasurePosition
    | Promote
    | EmitMarker
    | SyncBarrier
    | Checkpoint
    | Rewind
)


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step was carried out; the observation that follows shows its effect."""

    step: str  # the class's name
    duration_ms: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step did not succeed. It is tried again after a pause if it is still planned."""

    step: str
    duration_ms: int
    error: str  # one line


def step_name(step: Step) -> str:
    """Return the name under which a step is reported."""
    return type(step).__name__
