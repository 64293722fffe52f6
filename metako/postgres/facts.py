"""What the driver remembers about its server between observations.

One mutable record, owned by the supervisor's tasks (which never run at the same instant). Each
field says who sets it and when it is forgotten: a fact that outlives its cause is the most
dangerous thing that this part of the system can produce.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import StandbySeen, SyncSetting
from metako.postgres.steps import ServerConfig
from metako.postgres.wal import ControlData


@dataclass(slots=True)
class Facts:
    """See the module's docstring."""

    members: dict[str, NodeId] = field(default_factory=dict)  # by application name
    # None: to be read by the next look. What changes in it is as of when it was read.
    control: ControlData | None = None
    control_is_old: bool = False  # a server has run since: who starts one reads it again
    floors: tuple[tuple[str, int], ...] | None = None  # of the last start; see `render`
    # What metako.conf on disk says. A running server may not have loaded it yet.
    written: ServerConfig | None = None
    written_digest: str = ""
    verified: bool = False  # a fresh backend has shown `written_digest` since the last writing
    # The end of WAL on disk; None as soon as anything may append to it.
    position: WalPosition | None = None
    detached_for: Term = Term(0)  # the promise under which `position` was found
    whole: bool = False  # nothing was received beyond `position`, not even a part of a record
    timeline: TimelineId = TimelineId(0)  # the newest that this server was seen on
    barrier: SyncSetting | None = None  # the setting whose barrier has passed since the start
    marker_term: Term = Term(0)  # acknowledged since the promotion of this server
    # When the driver began to wait for the marker, by its own clock; None before and afterwards.
    marker_since: float | None = None
    rewind_failed: bool = False  # until a clone or a start
    wal_lost: bool = False  # the upstream has removed what we need; until a clone or re-pointing
    commit_blocked: bool = False  # the marker, or the last probe, does not return in time
    standbys: tuple[StandbySeen, ...] = ()  # in the last answer of a primary
    senders: dict[NodeId, int] = field(default_factory=dict)  # pids, in that answer
    checkpointed: str = ""  # the handover for which this server wrote a checkpoint
    wal_end: Lsn = Lsn(0)  # of the primary, after that checkpoint
    restarted: str = ""  # the order by which it was stopped last, to be started again
    stop_asked: bool = False  # we have begun to stop the server, or have; until the next start
    was_up: bool = False  # the running server has answered SQL
    last_in_recovery: bool | None = None  # the last answer of the running server
    failed_starts: int = 0  # in a row, without ever being up, though nobody stopped it
    log_offset: int = 0  # of the server's log at the last start or re-pointing
    delete_superseded: bool = False  # a clone is in place whose predecessor is still there

    def senders_of_others(self, pids: Collection[int], node: NodeId) -> set[int]:
        """Return those WAL senders that do not send to a node.

        Each ends when its standby has everything. Where that of the node is not among them, it may
        have done so, or the node has connected again since the last answer and any of those that
        are not known may be its own.
        """
        own = self.senders.get(node)
        known = {pid for other, pid in self.senders.items() if other != node}
        return set(pids) - {own} if own in pids else set(pids) & known

    def stopping(self) -> None:
        """Note that the server, which runs, is stopped by us: its end is no crash."""
        if not self.stop_asked and not self.was_up and self.failed_starts:
            self.failed_starts -= 1  # it might have come up
        self.stop_asked = True

    def promoting(self) -> None:
        """Forget what only held before this promotion."""
        self.forget_position()
        self.barrier = None
        self.marker_term, self.marker_since = Term(0), None

    @property
    def control_of_now(self) -> ControlData | None:
        """Return pg_control if no server has run since it was read; else it has to be read."""
        return None if self.control_is_old else self.control

    def read_control(self, control: ControlData) -> None:
        """Take what pg_control says now."""
        self.control, self.control_is_old = control, False

    def found_position(self, position: WalPosition, promise: Term, *, received: Lsn) -> None:
        """Note where the WAL ends, of which it is proven that nothing appends to it.

        Args:
            position: the end of the last whole record.
            promise: for which it was found.
            received: how far a WAL sender of this server would send; 0 if it asks for the position.
        """
        self.position, self.detached_for = position, promise
        self.whole = received <= position.lsn
        self.timeline = TimelineId(max(self.timeline, position.timeline))

    def forget_position(self) -> None:
        self.position = None
        self.detached_for = Term(0)
        self.whole = False

    def server_stopped(self) -> None:
        """Forget what only held for the server that ran."""
        self.control_is_old = True
        self.verified = False
        self.barrier = None
        self.marker_term, self.marker_since = Term(0), None
        self.commit_blocked = False
        self.standbys, self.senders = (), {}
        self.checkpointed, self.wal_end = "", Lsn(0)
        self.was_up = False
        self.last_in_recovery = None

    def data_replaced(self) -> None:
        """Forget what held for the data that was in the directory."""
        self.server_stopped()
        self.control = None
        self.floors = None
        self.forget_position()
        self.timeline = TimelineId(0)
        self.wal_lost = False
        self.failed_starts = 0
