"""Marks: interesting states by name, counted when a run reaches them.

A swarm that never reaches a mark has proved nothing about it. In: what the watchers are told. Out:
`Marks.counts`, and a call of the watchers for each mark, on which scenarios wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from metako.model.document import ClusterDocument, Phase
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, TimelineId
from metako.model.orders import OrderAnswer
from metako.wire.messages import Outbound, Refusal, VoteReply
from sim.network import Fate
from sim.standing import record_named
from sim.watch import Watcher

if TYPE_CHECKING:
    from sim.client import Operation, SimClient
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

MARKS = {
    # elections
    "hold_expired": "a voter heard nothing for a whole hold",
    "pre_vote_refused": "a pre-vote was refused",
    "vote_granted": "a vote was given",
    "vote_refused_hold": "a vote was refused because a hold was running",
    "vote_refused_term": "a vote was refused because the term was old or the vote spent",
    "vote_split": "two candidates stood in one term",
    "promise_kept": "a server was detached for a promise",
    "candidacy_lost": "a candidacy ended without a leader",
    "candidacy_handed_over": "a candidate gave way to one with more WAL",
    "catch_up_started": "a candidate began to stream from who is ahead and cannot lead",
    "caught_up": "a candidate got all that it lacked",
    "election_won": "an election was won",
    "beyond_repair": "a node without its record would have been needed, and an operator",
    "exam_passed": "after the peace the primary was lost once more, and all went well",
    "incumbent_elected": "the holder of the lease won a higher term without stopping its server",
    "leadership_resumed": "a restarted agent went on with the lease that its guard kept",
    "lease_lost": "a leader's lease ended without a majority",
    "lease_released": "a leader gave its lease up, its server gone",
    "stepped_down": "a leader stepped down",
    "record_missing_voter": "a voter without its record refused to vote",
    # planned changes
    "order_refused": "an operator's order was refused",
    "switchover_accepted": "an operator's switchover was accepted",
    "switchover_begun": "a primary was stopped for a switchover",
    "switchover_completed": "a switchover led to the primary that was asked for",
    "switchover_failed": "a switchover was given up, or became a failover",
    "switchover_scheduled": "a switchover was asked for by the clock",
    "paused": "an operator had nobody take over",
    "resumed": "an operator ended a pause",
    "restart_accepted": "an operator's restart of servers was accepted",
    "restarted": "a server was restarted as ordered",
    "restart_failed": "a restart was given up before all servers had their turn",
    "stop_ended_sender": "a shutdown went on without a standby that confirmed nothing",
    # changes of who is a member
    "members_changing": "an order about a member was taken",
    "member_added": "a node was taken in",
    "vote_given": "a learner got a vote",
    "vote_taken": "a voter became a learner, or left",
    "readmitted": "a member that had lost its record was taken in by its new one",
    "member_removed": "a node is no member any more",
    "removal_learned": "a node learned that it is no member",
    "commits_may_be_lost": "a node won that is not known to have every commit",
    "commits_lost": "acknowledged commits were given up, where that is allowed",
    # promotion and timelines
    "promoted": "a server was promoted",
    "primary_active": "a primary admitted applications",
    "promotion_cut_short": "a reserved timeline was never confirmed",
    "timeline_skipped": "a promotion went past timeline numbers that were reserved in vain",
    "same_leader_again": "a node succeeded itself",
    # sync set
    "sync_set_emptied": "commits wait for nobody",
    "sync_set_from_empty": "the first standby was listed",
    "sync_set_shrunk": "a standby was taken out of the set",
    "k_raised": "commits wait for one more",
    "k_lowered": "commits wait for one less",
    "commits_blocked": "commits did not return",
    "late_acknowledgement": "a server told late of a commit that the next line had already",
    # fencing and processes
    "fenced_by_guard": "a guard ended its server at the end of the lease",
    "old_primary_fenced": "a guard ended a server that was a primary",
    "guard_refused": "a guard refused a deadline",
    "silent_guard_ended": "an agent ended a guard that did not answer",
    "orphan_stopped": "a guard stopped a server that no agent came back for",
    "postgres_crashed": "PostgreSQL ended unasked",
    "two_writable_excused": "two servers were writable through a pause that nobody could see",
    # record and disk
    "older_slot_used": "the newest slot of a record was torn, the older one was used",
    "record_corrupt": "no slot of a record was whole",
    "record_unwritable": "a record could not be written, so the node fenced itself",
    "agent_refused_to_start": "an agent could not write its record at the start",
    # PostgreSQL
    "rewind_used": "a server was rewound",
    "rewind_failed": "a rewind failed",
    "rewind_not_required": "pg_rewind saw no difference where there was one",
    "clone_used": "a server was cloned",
    "clone_broken": "a clone broke off",
    "wal_lost": "WAL that a standby needs was removed",
    "cascaded": "a standby streamed from a standby",
    "slot_kept_wal": "a checkpoint kept WAL that only a replication slot needs",
    "slot_invalidated": "WAL that a replication slot kept was removed all the same",
    "commit_cancelled_visible": "a cancelled wait made a commit visible and unreplicated",
    "waiters_visible_after_restart": "a restart made waiting commits visible",
    "empty_setting_woke_waiters": "an empty setting acknowledged every waiter",
    "same_timeline_other_branch": "a standby attached to other rows under the same number",
    "receiver_terminated": "a WAL receiver had to be terminated by a signal",
    "detach_stopped_server": "a server that did not let go was stopped",
    "stop_blocked_by_standby": "a standby held up a fast shutdown",
    "promote_refused": "a promotion was refused",
    "host_crash_cut_wal": "a host crash cut WAL that was not flushed",
    "start_failed": "a server ended while it was starting",
    "server_panicked": "a server ended itself",
    "wal_beyond_fork_dropped": "a standby went over to a newer timeline and dropped WAL",
    "wal_beyond_fork_replayed": "a standby restarted beyond a fork and kept rows from there",
    "foreign_upstream": "a standby was refused because it belongs to another system",
    "diverged_standby_attached": "a standby with WAL beyond the fork was attached for a moment",
    "route_by_late_heartbeat": "a route named a server too long, because of a late heartbeat",
    # clients
    "client_saw_unknown": "a client does not know what became of a write",
    "client_saw_failed": "a write was refused",
    "session_cut": "a proxy cut a session",
    "read_from_standby": "a standby answered a read",
}
"""Every mark by name, and what it says."""

PREVENTED = frozenset({"wal_beyond_fork_dropped", "foreign_upstream"})
"""Marks of what PostgreSQL does if it is asked to, and the planner never asks of it: tests of the
model reach them, and no run should."""

BY_EVENT = {
    EventName.HOLD_EXPIRED: "hold_expired",
    EventName.PRE_VOTE_REFUSED: "pre_vote_refused",
    EventName.VOTE_GRANTED: "vote_granted",
    EventName.PROMISE_KEPT: "promise_kept",
    EventName.CANDIDACY_LOST: "candidacy_lost",
    EventName.CANDIDACY_HANDED_OVER: "candidacy_handed_over",
    EventName.CATCH_UP_STARTED: "catch_up_started",
    EventName.CAUGHT_UP: "caught_up",
    EventName.ELECTION_WON: "election_won",
    EventName.COMMITS_MAY_BE_LOST: "commits_may_be_lost",
    EventName.LEASE_LOST: "lease_lost",
    EventName.LEASE_RELEASED: "lease_released",
    EventName.STEPPED_DOWN: "stepped_down",
    EventName.PROMOTED: "promoted",
    EventName.PRIMARY_ACTIVE: "primary_active",
    EventName.POSTGRES_CRASHED: "postgres_crashed",
    EventName.SWITCHOVER_SCHEDULED: "switchover_scheduled",
    EventName.PAUSED: "paused",
    EventName.RESUMED: "resumed",
    EventName.RESTART_ACCEPTED: "restart_accepted",
    EventName.RESTARTED: "restarted",
    EventName.RESTART_FAILED: "restart_failed",
    EventName.SWITCHOVER_ACCEPTED: "switchover_accepted",
    EventName.SWITCHOVER_BEGUN: "switchover_begun",
    EventName.SWITCHOVER_COMPLETED: "switchover_completed",
    EventName.SWITCHOVER_FAILED: "switchover_failed",
    EventName.MEMBERS_CHANGING: "members_changing",
    EventName.NOT_A_MEMBER: "removal_learned",
}
"""Marks that are events of the engine, whoever reports them."""


class Marks(Watcher):
    """Counts marks, and tells the other watchers of each."""

    name = "marks"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset({VoteReply})

    def __init__(self, world: World) -> None:
        self.counts: Counter[str] = Counter()
        self._world = world
        self._stood: dict[int, NodeId] = {}  # term → who stood in it
        self._sync: tuple[int, int] | None = None  # |S| and k of the newest document
        self._highest: int = 0  # timeline promoted to
        self._primary: NodeId | None = None

    def reached(self, mark: str, node: NodeId) -> None:
        """Count a mark and tell whoever waits for it."""
        self.counts[mark] += 1
        self._world.watch.marked(node, mark)

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        self.reached(mark, node)
        if mark == "fenced_by_guard" and self._world.nodes[node].server.in_recovery is False:
            self.reached("old_primary_fenced", node)

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            mark = BY_EVENT.get(event.name)
            if mark is not None:
                self.reached(mark, node.name)
            match event.name:
                case EventName.CANDIDACY_STARTED:
                    self._stands(node, event)
                case EventName.ELECTION_WON:
                    self._won(node, event)
                case EventName.PRIMARY_ACTIVE:
                    if self._primary == node.name:
                        self.reached("same_leader_again", node.name)
                    self._primary = node.name
                case EventName.VOTE_REFUSED:
                    self.reached("record_missing_voter", node.name)
                case EventName.COMMITS_BLOCKED if dict(event.fields).get("blocked"):
                    self.reached("commits_blocked", node.name)
                case _:
                    pass

    def answered(self, node: Processes, answers: Sequence[OrderAnswer]) -> None:
        for answer in answers:
            if not answer.accepted:
                self.reached("order_refused", node.name)

    def _stands(self, node: Processes, event: Event) -> None:
        term = dict(event.fields)["term"]
        assert isinstance(term, int)
        if self._stood.setdefault(term, node.name) != node.name:
            self.reached("vote_split", node.name)

    def _won(self, node: Processes, event: Event) -> None:
        if node.server.in_recovery is False:
            self.reached("incumbent_elected", node.name)
        hard = node.hard
        if hard is not None and hard.document is not None:
            before = hard.document.timelines[-2:-1]
            if before and not before[0].confirmed:
                self.reached("promotion_cut_short", node.name)

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message = outbound.message
        if type(message) is VoteReply and not message.granted:
            if message.refusal is Refusal.HOLD:
                self.reached("vote_refused_hold", node.name)
            elif message.refusal is Refusal.TERM:
                self.reached("vote_refused_term", node.name)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        document = hard.document
        if document is None or document.primary != node.name or document.phase is not Phase.ACTIVE:
            return
        if before is not None and before.document is not None:
            self._members(before.document, document)
        size, k = len(document.sync.members), document.sync.k
        old = self._sync
        self._sync = (size, k)
        if old is None or old == self._sync:
            return
        changes = {
            "sync_set_emptied": size == 0,
            "sync_set_from_empty": old[0] == 0,
            "sync_set_shrunk": 0 < size < old[0],
            "k_raised": k > old[1] > 0,
            "k_lowered": 0 < k < old[1],
        }
        for mark, reached in changes.items():
            if reached:
                self.reached(mark, node.name)

    def _members(self, before: ClusterDocument, now: ClusterDocument) -> None:
        if now.records == before.records and now.voters == before.voters:
            return
        was, members = set(before.members()), set(now.members())
        again = [
            name
            for name in was & members
            if record_named(before, name) not in ("", record_named(now, name))
        ]
        reached = {
            "member_added": members - was,
            "vote_given": set(now.voters) - set(before.voters),
            "vote_taken": set(before.voters) - set(now.voters),
            "readmitted": set(again),
            "member_removed": was - members,
        }
        for mark, names in reached.items():
            for name in sorted(names):
                self.reached(mark, name)

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        if self._highest and tli > self._highest + 1:
            self.reached("timeline_skipped", server.node)
        self._highest = max(self._highest, tli)

    def operated(self, client: SimClient, operation: Operation, result: str, why: str) -> None:
        node = operation.node or NodeId("")
        if result != "ok" and operation.kind != "read":
            self.reached(f"client_saw_{result}", node)
        if why == "the session was cut":
            self.reached("session_cut", node)

    def read(
        self, client: SimClient, operation: Operation, server: NodeId, seen: Sequence[str] | None
    ) -> None:
        if seen is not None and self._world.nodes[server].server.in_recovery:
            self.reached("read_from_standby", server)
