"""Carrying out changes of the sync set while leading: who should be listed, and one step at a time.

`syncset.next_change` says what the next single change is and in which order; this class waits for
the server's side of it (setting verified in a fresh backend, barrier passed) and hands the
document's side to the leader. It also decides who should be listed: a standby that has streamed
for a while and whose data is known; one that has been away for longer than the grace leaves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from metako.election.core import Core
from metako.election.syncset import Order, SyncChange, next_change
from metako.model.document import ClusterDocument, PairMode, SyncMember, SyncSet
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberState
from metako.model.postgres import SyncSetting, sync_setting

_Seen = tuple[tuple[NodeId, ...], tuple[Lsn, ...], SyncSetting | None, SyncSetting | None, bool]


@dataclass(slots=True)
class _Stream:
    since_ns: int | None = None  # streaming without a break since; None while it is not
    last_ns: int = 0  # when it was found to stream no more; 0 while it never did
    flush_lsn: Lsn = Lsn(0)
    behind: bool = False  # there was more to flush when it was last looked at
    moved_ns: int = 0  # when `flush_lsn` last changed, or it began to be behind


class SyncSetKeeper:
    """Keeps the sync set of one leadership in step with the standbys that really stream."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._streams: dict[NodeId, _Stream] = {}
        self._began_ns = 0  # when our server became primary: absent members count from here
        self._change: SyncChange | None = None  # PostgreSQL-first change under way
        self._change_until_ns = 0  # it is given up then
        self._now_ns = 0
        # Of those that have streamed: dead by gossip, or stuck, or awaited by commits that block.
        self._looked_after: set[NodeId] = set()
        self._setting: tuple[SyncSet, SyncSetting] | None = None  # newest one made, and from what
        # What the newest decision was made from, and when time alone may call for another one;
        # it is asked for at every step and depends on nothing else.
        self._decided: tuple[_Seen, object, ClusterDocument] | None = None
        self._compared: object = None  # the newest picture of the server that was no news
        self._due_ns: int | None = None
        # What `wakeup` said last, and of which document; None: it has to be computed anew.
        self._wakeup: tuple[ClusterDocument | None, int | None] | None = None

    def adopt(self, other: SyncSetKeeper) -> None:
        """Take over what an earlier leadership of this node knew and was at.

        A change that PostgreSQL has made already may be in the newest document, uncommitted, and
        is then in the first one of the new term: commits must not wait for less meanwhile.
        """
        self._streams = other._streams
        self._began_ns = other._began_ns
        self._change, self._change_until_ns = other._change, other._change_until_ns
        self._wakeup = None

    def begin(self, now: Instant) -> None:
        self._began_ns = now.mono_ns
        self._wakeup = None

    def setting(self, document: ClusterDocument) -> SyncSetting:
        """Return what PostgreSQL's setting should be now."""
        sync = self._change.new if self._change else document.sync
        if self._setting is None or self._setting[0] is not sync:
            self._setting = (sync, sync_setting(sync))
        return self._setting[1]

    def wakeup(self) -> int | None:
        """Return when the passing of time alone may call for a change."""
        document, known = self._core.document, self._wakeup
        if known is None or known[0] is not document:
            known = self._wakeup = (document, self._next_wakeup(document))
        return known[1]

    def _next_wakeup(self, document: ClusterDocument | None) -> int | None:
        core = self._core
        if not self._began_ns or document is None:
            return None
        settle = milliseconds(core.settings.standby_settle_ms)
        grace = milliseconds(core.settings.standby_grace_ms)
        due = [
            stream.since_ns + settle
            for stream in self._streams.values()
            if stream.since_ns is not None
        ] + [
            self._last_seen(member.node) + grace
            for member in document.sync.members
            if self._away(member.node) or self._core.observed.commit_blocked
        ]
        if self._change is not None:
            due.append(self._change_until_ns)
        later = [at for at in due if at > self._now_ns]
        return min(later) + 1 if later else None

    def committed(self, document: ClusterDocument) -> None:
        """A document is on a majority: its change, if it carried one, is done."""
        if self._change is not None and document.sync == self._change.new:
            self._change = self._wakeup = None
            self._announce(document.sync)

    def due(self, now: Instant, document: ClusterDocument) -> bool:
        """Return whether anything that a decision depends on has changed since the last one."""
        decided = self._decided
        if (
            decided is None
            or decided[1] is not self._core.standing
            or decided[2] is not document
            or (self._compared is not self._core.observed and decided[0] != self._seen())
        ):
            return True
        self._compared = self._core.observed
        return self._due_ns is not None and now.mono_ns >= self._due_ns

    def _seen(self) -> _Seen:
        """Return what a decision depends on of the server, where positions grow all the time.

        Only those of standbys that may have fallen silent tell anything.
        """
        observed, watched = self._core.observed, self._looked_after
        streaming = tuple([seen.node for seen in observed.standbys if seen.streaming])
        silent: tuple[Lsn, ...] = ()
        if watched:
            flushed = [seen.flush_lsn for seen in observed.standbys if seen.node in watched]
            silent = (observed.lsn, *flushed)
        blocked = observed.commit_blocked
        return streaming, silent, observed.sync_applied, observed.sync_barrier, blocked

    def next_document(self, now: Instant, document: ClusterDocument) -> SyncSet | None:
        """Return the sync set that the document should have next; None for no change now."""
        wanted = self._next_document(now, document)
        self._decided = (self._seen(), self._core.standing, document)
        self._wakeup = None
        due_ns = self.wakeup()
        self._due_ns = due_ns - 1 if due_ns is not None else None  # when it becomes true
        return wanted

    def _next_document(self, now: Instant, document: ClusterDocument) -> SyncSet | None:
        self._now_ns = now.mono_ns
        self._watch(now)
        observed = self._core.observed
        self._looked_after = {
            node
            for node in self._streams
            if observed.commit_blocked or self._gone(node) or self._stuck(node)
        }
        if self._change is not None:
            return self._finish(now, document)
        if observed.sync_applied != sync_setting(document.sync):
            return None  # the last change has not reached PostgreSQL yet
        streaming, awaited = self._standbys(now, document)
        change = next_change(
            document.sync,
            streaming + awaited,
            streaming=streaming,
            k=self._core.cluster.acks,
            durability=document.durability,
        )
        if change is None or not _can_pass(change, streaming):
            return None
        self._core.emit(
            EventName.SYNC_SET_CHANGING,
            f"changing the synchronous standbys: {change.why}",
            why=change.why,
            standbys=", ".join(sorted(change.new.nodes())),
            k=change.new.k,
        )
        if change.order is Order.DOCUMENT_FIRST:
            self._announce(change.new)
            return change.new
        self._change = change
        timeout = milliseconds(self._core.settings.sync_change_timeout_ms)
        self._change_until_ns = now.mono_ns + timeout
        return None

    def _finish(self, now: Instant, document: ClusterDocument) -> SyncSet | None:
        assert self._change is not None
        if self._core.observed.sync_barrier == sync_setting(self._change.new):
            return self._change.new
        streaming, awaited = self._standbys(now, document)
        wanted = {*streaming, *awaited}
        new, old = self._change.new, document.sync
        added = set(new.members) - set(old.members)
        removed = set(old.members) - set(new.members)
        pointless = not added <= wanted or bool(removed & wanted)
        if new.k > old.k and len(set(streaming) & set(new.members)) < new.k:
            pointless = True  # commits wait for one that is gone
        pointless = pointless or not _can_pass(self._change, streaming)
        if pointless or now.mono_ns >= self._change_until_ns:
            # The standby came back, or another one left: PostgreSQL goes back to the document's
            # set, which contains what it has now (or, from empty, asks for nothing).
            self._change = None
        return None

    def _watch(self, now: Instant) -> None:
        observed = self._core.observed
        streaming = {s.node: s for s in observed.standbys if s.streaming}
        # A server that does not answer shows what it showed last, and that proves nothing.
        answers = bool(observed.lsn)
        for node, seen in streaming.items():
            stream = self._streams.setdefault(node, _Stream())
            if stream.since_ns is None:
                stream.since_ns = now.mono_ns
            behind = seen.behind and answers
            if seen.flush_lsn != stream.flush_lsn or not (behind and stream.behind):
                stream.moved_ns = now.mono_ns
            stream.flush_lsn, stream.behind = seen.flush_lsn, behind
        for node, stream in self._streams.items():
            if node not in streaming and stream.since_ns is not None:
                # Until this picture of the server it was seen.
                stream.since_ns, stream.last_ns = None, now.mono_ns

    def _away(self, node: NodeId) -> bool:
        stream = self._streams.get(node)
        unseen = stream is None or stream.since_ns is None
        return unseen or self._last_seen(node) < self._now_ns

    def _gone(self, node: NodeId) -> bool:
        """Return whether a node, by gossip, does not live."""
        member = self._core.members.get(node)
        return member is not None and member.state in (MemberState.DEAD, MemberState.LEFT)

    def _stuck(self, node: NodeId) -> bool:
        """Return whether a standby that streams has long had WAL to flush, and flushed none."""
        stream = self._streams[node]
        grace = milliseconds(self._core.settings.standby_grace_ms)
        silent = stream.since_ns is not None and stream.behind
        return silent and self._now_ns - stream.moved_ns >= grace

    def _last_seen(self, node: NodeId) -> int:
        """Return when a standby last streamed; for one that does, that is now.

        The sender of a host that is gone without a word, or that a firewall has cut off, shows as
        streaming until its time-out, for as long as ten seconds. Gossip alone takes nobody out, and
        slow acknowledgements alone do not. Who has stopped acknowledging is away if it is dead by
        gossip, or if commits do not return: they would wait for it until that time-out.
        """
        stream = self._streams.get(node)
        if stream is None:
            return self._began_ns
        if stream.since_ns is None:
            return max(self._began_ns, stream.last_ns)
        counts = self._gone(node) or self._core.observed.commit_blocked
        return stream.moved_ns if counts else self._now_ns

    def _standbys(
        self, now: Instant, document: ClusterDocument
    ) -> tuple[list[SyncMember], list[SyncMember]]:
        """Return the standbys that should be listed: those that stream, those that are awaited."""
        core = self._core
        settle = milliseconds(core.settings.standby_settle_ms)
        grace = milliseconds(core.settings.standby_grace_ms)
        # Where the standby decides alone, no other one may have commits that it lacks.
        alone = document.pair is PairMode.TAKEOVER
        able = document.voters if alone else document.data_members()
        others = [node for node in able if node != core.node]
        if all(self._gone(node) and self._away(node) for node in others):
            grace = 0  # nobody is left who could acknowledge: waiting would only block commits
        streaming, awaited = [], []
        for node in others:
            member = core.members.get(node)
            if node in document.leaving or _unadmitted(document, member):
                continue  # also while it streams: its promise binds nobody, or soon will not
            listed = document.sync.data_id_of(node)
            current = member.meta.data_id if member and member.meta else None
            stream = self._streams.get(node)
            settled = (
                stream is not None
                and stream.since_ns is not None
                and now.mono_ns - stream.since_ns >= settle
                and not self._away(node)
                and not self._stuck(node)
            )
            if settled and current:
                streaming.append(SyncMember(node, current))
            elif listed is not None and now.mono_ns - self._last_seen(node) < grace:
                awaited.append(SyncMember(node, listed))
        return streaming, awaited

    def _announce(self, sync: SyncSet) -> None:
        self._core.emit(
            EventName.SYNC_SET_CHANGED,
            f"commits wait for {sync.k} of {len(sync.members)} standbys",
            standbys=", ".join(sorted(sync.nodes())),
            k=sync.k,
        )


def _unadmitted(document: ClusterDocument, member: Member | None) -> bool:
    """Return whether a node says that it has another durable record than it is a member by."""
    if member is None or member.meta is None:
        return False
    return not document.admits(member.node, member.meta.record_id)


def _can_pass(change: SyncChange, streaming: Collection[SyncMember]) -> bool:
    """Return whether the barrier of a change can be acknowledged by those that stream.

    One that cannot would hold up every other change until its time-out, and with more hosts lost
    at once than one, it is the others that let commits return. PostgreSQL counts names: one that
    comes with other data than it is listed with acknowledges like any other.
    """
    if change.order is Order.DOCUMENT_FIRST:
        return True
    nodes = {member.node for member in streaming}
    return len(nodes & change.new.nodes()) >= change.new.k
