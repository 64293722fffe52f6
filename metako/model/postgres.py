"""What is seen of a PostgreSQL server, and what is wanted of it.

`PostgresObserved` is a whole picture, replaced at each observation. `PostgresTarget` is
level-triggered: the latest one wins and says how things should be, not what to do. The pure
planner (`metako.postgres.plan`) turns a pair of them into the next step.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from operator import attrgetter

from metako.model.document import SyncSet
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.timeline import HistoryStep, TimelineEntry
from metako.model.values import value
from metako.model.watchdog import NO_WATCHDOG, WatchdogSeen


class DataState(enum.StrEnum):
    """What the data directory holds."""

    UNKNOWN = "unknown"  # not looked at yet
    EMPTY = "empty"  # missing or empty: may be created
    PRESENT = "present"
    TAINTED = "tainted"  # a rewind was begun and not finished: only a clone helps
    NONE = "none"  # this node holds no data (witness)


class ProcessState(enum.StrEnum):
    """State of the postmaster, as its parent knows it."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"  # the postmaster *and every process it started* are verified gone
    DYING = "dying"  # the postmaster is gone, some of its processes are not yet
    STARTING = "starting"  # runs, takes no connections yet
    RUNNING = "running"
    STOPPING = "stopping"


class ReceiverState(enum.StrEnum):
    """State of a standby's WAL receiver."""

    UNKNOWN = "unknown"
    GONE = "gone"  # verified: there is no such process
    PRESENT = "present"
    STREAMING = "streaming"


@value
class SyncSetting:
    """PostgreSQL's `synchronous_standby_names` in terms of nodes: `ANY k (nodes)`."""

    nodes: tuple[NodeId, ...] = ()  # sorted
    k: int = 0


def sync_setting(sync: SyncSet) -> SyncSetting:
    """Return the PostgreSQL setting that a document's sync set stands for."""
    return SyncSetting(tuple(sorted(sync.nodes())), sync.k)


@value
class StandbySeen:
    """One row of `pg_stat_replication` on the primary that belongs to a member."""

    node: NodeId
    streaming: bool  # state is 'streaming': it has caught up and follows
    flush_lsn: Lsn
    replay_lsn: Lsn
    counted: bool  # sync_state is 'quorum' or 'sync'
    behind: bool = False  # the primary has WAL on its disk that this standby has yet to flush


@value
class PostgresObserved:
    """Everything that is known about the local server at one moment."""

    data: DataState = DataState.UNKNOWN
    process: ProcessState = ProcessState.UNKNOWN
    system_id: int = 0  # 0 while there is no data
    data_id: DataId = DataId("")
    server_version: int = 0
    in_recovery: bool | None = None  # None unless RUNNING
    timeline: TimelineId = TimelineId(0)  # of the newest history that the server is on
    history: tuple[HistoryStep, ...] = ()  # own chain, oldest first, ends in `timeline`
    max_tli: TimelineId = TimelineId(0)  # greatest number in any WAL or history file on disk
    lsn: Lsn = Lsn(0)  # insert position on a primary, received (else replayed) on a standby
    replay_lsn: Lsn = Lsn(0)
    lag_ms: int = -1
    receiver: ReceiverState = ReceiverState.UNKNOWN
    upstream: NodeId | None = None  # what the settings in force name; None when detached
    # The end of the last valid record on disk. Set only while nothing can append to it: the
    # receiver verified gone before and after, or no process at all.
    position: WalPosition | None = None
    detached_for: Term = Term(0)  # the promise under which `position` was found
    # Nothing was received beyond `position`, not even a part of a record that a WAL sender of this
    # server could send on. False also where that is not known.
    whole: bool = False
    # Settings of a primary, as a fresh backend reports them (None: not verified).
    sync_applied: SyncSetting | None = None
    sync_barrier: SyncSetting | None = None  # `sync_applied`, once its barrier has passed
    admitting: bool = False  # pg_hba lets applications in
    standbys: tuple[StandbySeen, ...] = ()
    marker_term: Term = Term(0)  # highest term whose WAL message k standbys acknowledged
    rewind_failed: bool = False  # pg_rewind was tried in vain since the last clone or start
    commit_blocked: bool = False  # the last commit probe did not return in time
    checkpointed: str = ""  # the handover for which a checkpoint was written last
    restarted: str = ""  # the order by which the server was stopped, to be started again, last
    stop_asked: bool = False  # its agent has begun to stop it, or has; until it is started again
    silent: bool = False  # it runs, and said nothing when it was asked
    watchdog: WatchdogSeen = NO_WATCHDOG  # what resets this machine if the guard fails
    # What was wanted of the server when this was seen; None: nothing yet. A picture taken under an
    # older target says little about now: whoever follows the target may have acted since.
    under: PostgresTarget | None = None


_MOVES = frozenset({"lsn", "replay_lsn", "lag_ms"})
_still = attrgetter(*(f.name for f in fields(PostgresObserved) if f.name not in _MOVES))


def only_moved(before: PostgresObserved, after: PostgresObserved) -> bool:
    """Return whether a server with WAL did nothing in between but receive and replay more."""
    return bool(before.lsn and after.lsn and _still(before) == _still(after))


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server to follow, and the history that it stands for."""

    node: NodeId
    address: Address
    term: Term
    timelines: tuple[TimelineEntry, ...]  # the document's
    tip: TimelineId
    system_id: int


@dataclass(frozen=True, slots=True)
class Untouched:
    """Leave the server as it is."""


@dataclass(frozen=True, slots=True)
class Initialize:
    """Create the first database of the cluster and start it as a standby without upstream."""


@dataclass(frozen=True, slots=True)
class Detached:
    """Run as a standby without upstream, WAL receiver verified gone and position known.

    `promise` is the term of the promise that asked for it; `position` counts only if it was
    found under this or a later promise. Without `run` a server that is stopped stays so.

    With `prepared` its settings are those that it is to be promoted with, and applications are shut
    out: one reload serves the promise and the promotion.
    """

    promise: Term
    run: bool = True
    prepared: SyncSetting | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """Run as a standby of `upstream`; rewind or clone first if that is what it takes."""

    upstream: Upstream
    restart: str = ""  # the order by which the server is to be restarted; "" for none


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """Run as a standby that gets WAL from a detached one, under a name that counts for nobody.

    Only a standby that is up gets there, from `Detached`: it is not started, rewound or cloned.
    `promise` is the one that is kept again as soon as it has left.
    """

    promise: Term
    source: Upstream  # its `tip` is the timeline that the WAL there ends on


@value
class Leading:
    """Be the primary of `term` on the reserved timeline `tli`."""

    term: Term
    tli: TimelineId
    sync: SyncSetting
    admit: bool  # let applications in
    checkpoint: str = ""  # write one for this handover, so that the shutdown is short


@dataclass(frozen=True, slots=True)
class Stopped:
    """Do not run. `fast` lets the server write its shutdown checkpoint, else it is killed.

    A fast shutdown waits for every standby that is connected; after a moment only for `successor`.
    """

    fast: bool
    successor: NodeId | None = None


PostgresTarget = Untouched | Initialize | Detached | Following | CatchingUp | Leading | Stopped
