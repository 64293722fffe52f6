"""What a node that does not lead wants of its server, and the guard's deadline.

Pure functions of what voter and candidate know. A leader's wants are its own (`leader.target`).
"""

from __future__ import annotations

from typing import NamedTuple

from metako.election.candidate import Candidate, Stage
from metako.election.catchup import under_way
from metako.election.core import Core
from metako.election.leader import Leader
from metako.election.quorum import successor_sync_set
from metako.election.upstream import following
from metako.election.voter import Voter
from metako.model.document import ClusterDocument
from metako.model.ids import Term
from metako.model.instant import Instant, milliseconds
from metako.model.member import MemberState
from metako.model.postgres import (
    DataState,
    Detached,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
    Untouched,
    sync_setting,
)


class GuardDeadline(NamedTuple):
    """Until when this node's server may be writable; None withdraws the right."""

    term: Term
    deadline_boot_ns: int | None


def follower_target(core: Core, voter: Voter, candidate: Candidate, now: Instant) -> PostgresTarget:
    """Return how the server of a node that does not lead should be."""
    document = core.document
    if document is None or core.is_witness:
        return Untouched()
    if core.removed:
        return Stopped(fast=True)
    promised = core.hard.promised_term
    if candidate.stage is Stage.VOTE:
        catching_up = under_way(candidate)
        if catching_up is not None:
            return catching_up.target
        return Detached(promised, prepared=_prepared(core, document))
    detached = Detached(promised, run=not core.heir.active(now))
    if promised > document.term:
        return detached
    if core.observed.in_recovery is False or document.primary == core.node:
        # Nothing here may be writable, and it has to be known how far its WAL goes.
        return detached
    led = voter.hold.active(now)
    stopped = core.observed.process is ProcessState.STOPPED
    if not led and stopped and core.observed.data is DataState.PRESENT:
        # Nobody leads: run, so that this node can stand or at least say how far it is. If the data
        # were about to be replaced from the lost leader, then not by that: an election would end it
        # too, and there is none as long as nobody can stand.
        return detached
    if not led and _off_known_history(core):
        return detached
    beat = voter.heartbeat
    if beat is not None and beat.term == document.term:
        if not beat.attachable:
            return detached
        if not beat.active and core.heir.active(now) and _others_acknowledge(core, document):
            return detached
        if led or stopped:
            return following(core, document) or Untouched()
    return Untouched()


def _prepared(core: Core, document: ClusterDocument) -> SyncSetting | None:
    """Return whom the commits of this node will wait for if it is elected, as far as is known."""
    if core.observed.process is not ProcessState.RUNNING:
        return None
    first = successor_sync_set(document, core.node, primary_data_id=document.primary_data_id)
    return sync_setting(first)


def _others_acknowledge(core: Core, document: ClusterDocument) -> bool:
    """Return whether the primary can do without this node until applications are let in.

    The server of the former primary would take from a promotion what the machine has to give.
    """
    living = [
        node
        for node in document.sync.nodes()
        if (member := core.members.get(node)) is not None and member.state is MemberState.ALIVE
    ]
    return len({*living} - {core.node}) >= document.sync.k


def _off_known_history(core: Core) -> bool:
    """Return whether a running standby seems to have gone astray, by what shows from outside.

    Which timeline it is on shows while it streams, and in pg_control some time later. An agent that
    has just been started may see it on the former one, beyond its end. What is on the disk decides.
    """
    observed = core.observed
    return (
        observed.in_recovery is True
        and observed.receiver is not ReceiverState.STREAMING
        and observed.position is None
        and bool(observed.lsn)
        and observed.data is DataState.PRESENT
        and not core.foreign()
        and core.advisory_position() is None
    )


class FenceWish:
    """The deadline that the guard was last asked to keep."""

    def __init__(self, core: Core, found: GuardDeadline | None = None) -> None:
        """Ask for nothing yet; `found` is what an earlier agent left the guard armed with."""
        self._core = core
        self._found = found
        self._sent: GuardDeadline | None = None

    def change(self, leader: Leader | None, target: PostgresTarget) -> GuardDeadline | None:
        """Return the guard's deadline if it changed since the last call.

        Args:
            leader: this node's leadership, if there is one.
            target: what is wanted of the server now. A picture taken under another target does not
                disarm: a promotion may have been begun after it.
        """
        wanted: GuardDeadline | None = None
        if leader is not None and leader.lease.until_boot_ns and leader.committed is not None:
            margin = milliseconds(self._core.settings.fence_margin_ms)
            until = leader.lease.until_boot_ns - margin
            if self._sent == (leader.term, until):
                return None
            wanted = GuardDeadline(leader.term, until)
        elif self._sent is not None and self._sent.deadline_boot_ns is not None:
            # The fence stays armed until there is nothing left that could be writable.
            observed = self._core.observed
            harmless = observed.process is ProcessState.STOPPED or observed.in_recovery is True
            if self._core.server_gone() or (harmless and observed.under in (None, target)):
                wanted = GuardDeadline(self._sent.term, None)
        elif self._sent is None and self._found is not None and self._gone():
            # Left armed, it would end the standby that is started next.
            wanted = GuardDeadline(self._found.term, None)
        if wanted is None or wanted == self._sent:
            return None
        self._sent = wanted
        return wanted

    def _gone(self) -> bool:
        """Return whether there is no server; one that was left may be amid its promotion."""
        return self._core.observed.process is ProcessState.STOPPED
