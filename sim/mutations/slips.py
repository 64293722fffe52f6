"""Slips: what a refactoring or a hurry leaves behind. A line is lost, a comparison is turned.

Each is an edit of the source of one function, found by asking what a competent programmer could get
wrong there, and not by what the checks look for.
"""

from __future__ import annotations

from metako.cluster import engine, routing
from metako.election import office, quorum, syncchange, syncset, voter
from metako.election.candidate import Candidate
from metako.election.core import Core
from metako.election.election import Election
from metako.election.leader import Leader
from metako.election.lease import Lease
from metako.election.patience import Patience
from metako.election.syncchange import SyncSetKeeper
from metako.election.voter import Voter
from metako.election.wants import FenceWish
from metako.guard.fence import Fence
from metako.membership.membership import Membership
from metako.membership.pause import PauseDetector
from metako.membership.roster import Roster
from metako.model.document import ClusterDocument
from metako.postgres import plan
from metako.postgres.slots import SlotPolicy
from metako.proxy.routes import Routes
from metako.wire import short
from sim.mutations.base import Mutation, Patch, edited
from sim.postgres import supervisor

ELECTING = (
    Mutation("promises_of_former_candidacy", "§4.2", "promises of an earlier term count",
             edited(Candidate, "begin_vote", ("    self._promises = {}\n", ""))),
    Mutation("learner_counted", "§4.2", "who has no vote counts in a majority",
             edited(ClusterDocument, "has_majority",
                    (" and len(set(self.voters).intersection(nodes)) >= majority", ""))),
    Mutation("release_names_former_round", "§4.4", "a release ends no hold",
             edited(Election, "_end_if_over",
                    ("leader.lease.round, why", "leader.lease.round - 1, why"))),
    Mutation("hold_end_not_awaited", "§4.4", "nobody wakes when a hold ends",
             edited(Election, "wakeup",
                    ("self.voter.hold.until_ns if self._was_holding else 2**63 - 1", "2**63 - 1"))),
    Mutation("followed_without_promise", "§4.3.3c", "the term of a heartbeat is not promised",
             edited(Voter, "heard_heartbeat", ("    core.promise(beat.term)\n", ""))),
    Mutation("wrong_data_id_in_successor", "§4.3.4", "the old primary is listed with other data",
             edited(office, "winners_document",
                    ("=base.primary_data_id)", "=observed.data_id)"))),
)  # fmt: skip

LISTING = (
    Mutation("change_never_given_up", "§4.5", "a change of the sync set waits for ever",
             edited(SyncSetKeeper, "_finish",
                    ("if pointless or now.mono_ns >= self._change_until_ns:", "if False:"))),
    Mutation("dead_standby_never_leaves", "§4.5", "the grace of an absent standby never ends",
             edited(SyncSetKeeper, "_watch",
                    (" and stream.since_ns is not None:", ":"))),
    Mutation("stale_data_id_kept", "§4.5", "a cloned standby stays listed with its old data",
             edited(SyncSetKeeper, "_standbys",
                    ("SyncMember(node, current))", "SyncMember(node, listed or current))"))),
    Mutation("streams_not_in_cache_key", "§4.5", "a standby that comes or goes is not looked at",
             edited(SyncSetKeeper, "_seen", ("return streaming, silent,", "return (), silent,"))),
    Mutation("strict_lowers_k", "§4.5", "strict durability gives up acknowledgements",
             edited(syncset, "next_change",
                    ("present and len(target) < current.k:", "present and not target:"),
                    also=(syncchange,))),
)  # fmt: skip

DRIVING = (
    Mutation("detach_not_repeated", "§4.3.3d", "a server detached for an older promise will do",
             edited(plan, "_detached", ("        and observed.detached_for >= promise\n", ""))),
    Mutation("wal_lost_ignored_running", "§5.4", "a standby whose WAL is gone upstream runs on",
             edited(plan, "_following", ("or local.wal_lost or", "or"))),
    Mutation("lost_slot_kept", "§5.5", "a replication slot without its WAL is not replaced",
             edited(SlotPolicy, "changes",
                    ("slot.name not in wanted or slot.lost", "slot.name not in wanted"))),
    Mutation("standby_keeps_slots", "§5.5", "the slots of a former primary keep WAL on a standby",
             edited(SlotPolicy, "changes",
                    ("(in_recovery or now_s - since >= RETAIN_FOR_S)",
                     "now_s - since >= RETAIN_FOR_S"))),
    Mutation("rewind_failed_forgotten", "§5.4", "a rewind that failed is tried again for ever",
             edited(plan, "_follow_from_stopped",
                    ("Clone(wanted) if observed.rewind_failed else Rewind(upstream)",
                     "Rewind(upstream)"))),
    Mutation("disarmed_on_stale_picture", "§5.3", "an old look at the server disarms the guard",
             edited(FenceWish, "change",
                    ("(harmless and observed.under in (None, target))", "harmless"))),
    Mutation("fence_without_margin", "§5.3", "the guard waits for the very end of the lease",
             edited(FenceWish, "change",
                    ("leader.lease.until_boot_ns - margin", "leader.lease.until_boot_ns"))),
)  # fmt: skip

TELLING = (
    Mutation("accuses_only_with_nacks", "§6", "a probe that nobody could repeat accuses nobody",
             edited(Membership, "_fail_probe",
                    ("    self._view.accuse(now_ns, probe.target)",
                     "    if probe.nacks:\n        self._view.accuse(now_ns, probe.target)"))),
    Mutation("route_valid_from_now", "§7", "a route holds for a lease from when it is looked up",
             edited(routing, "current_primary",
                    ("until = at.boot_ns + milliseconds", "until = now.boot_ns + milliseconds"),
                    also=(engine,))),
    Mutation("dead_replica_routed", "§7", "reads are led to members that are dead",
             edited(routing, "_serves_reads",
                    ("member.state is MemberState.ALIVE\n        and meta is", "meta is"))),
)  # fmt: skip

LEADING = (
    Mutation("lease_sent_on_monotonic", "§4.4", "rounds are timed by a clock that sleeps",
             edited(Lease, "begin_round", ("= now.boot_ns", "= now.mono_ns"))),
    Mutation("incumbent_without_committed", "§4.3.6", "a leader that stands again has no document",
             edited(Leader, "__init__",
                    ("        self.committed = incumbent.committed\n", ""))),
    Mutation("acks_of_former_boot", "§4.4", "answers to rounds before a restart count",
             edited(Leader, "heard_ack",
                    ("ack.boot_epoch != self._core.hard.boot_epoch", "False"))),
    Mutation("voter_not_brought_up_to_date", "§4.2", "a voter with an older document stays so",
             edited(Candidate, "heard_vote_reply",
                    ("self.core.copy(sender, document, reply.document_ref)", "pass"))),
    Mutation("short_document_unproven", "§4.1", "what a short document leaves out is not compared",
             edited(short, "rebuild",
                    ("if _digest(timelines[: short.left_out]) != short.digest:", "if False:"),
                    also=(voter,))),
    Mutation("short_document_taken_for_all", "§4.1", "a short document that cannot be rebuilt is "
             "taken as it is",
             edited(Voter, "heard_short",
                    ("rebuild(short, core.document)",
                     "rebuild(short, core.document) or short.document"))),
    Mutation("office_without_limit", "§4.3", "a leader that no majority has answered stays",
             edited(Leader, "over",
                    ("return End.LEASE if now.mono_ns > limit else None", "return None"))),
    Mutation("released_on_stale_picture", "§4.4", "an old look at the server releases the lease",
             edited(Core, "server_gone", ("return safe and", "return"))),
    Mutation("setting_of_uncommitted_document", "§4.5", "PostgreSQL follows what no majority has",
             edited(Leader, "target",
                    ("self.sync.setting(document)", "self.sync.setting(self._core.document)"))),
    Mutation("incumbent_forgets_since_when", "§4.5", "no timer of an incumbent's sync set wakes",
             edited(SyncSetKeeper, "adopt", ("    self._began_ns = other._began_ns\n", ""))),
    Mutation("silent_sender_streams", "§4.5", "the WAL sender of a dead host counts as streaming",
             edited(SyncSetKeeper, "_last_seen",
                    ("stream.moved_ns if counts else self._now_ns", "self._now_ns"))),
    Mutation("stray_standby_repointed", "§5.4", "a standby on an aborted timeline is not restarted",
             edited(plan, "_following",
                    ("renamed and _went_astray(observed, upstream)", "False"))),
    Mutation("health_not_regained", "§6", "a node that was sick once stays a slow accuser",
             edited(Membership, "receive",
                    ("if self._prober.heard(sender):", "if self._prober.heard(sender) and 0:"))),
    Mutation("route_before_active", "§7", "a route leads to a server that does not admit yet",
             edited(routing, "current_primary", (" or not beat.active or", " or"),
                    also=(engine,))),
)  # fmt: skip


def _blank_voter_votes(patch: Patch) -> None:
    patch.set(Core, "may_vote", property(lambda self: self.voting))


BEARING = (
    Mutation("hung_server_kept", "§5.6", "a primary that answers nobody is kept",
             edited(Patience, "lost", ("if now.mono_ns >= self.wakeup():", "if False:"))),
)  # fmt: skip

REVIEWED = (
    Mutation("blank_voter_votes", "§4.1", "a voter without record or document votes",
             _blank_voter_votes),
    Mutation("incumbent_without_lease", "§4.3.6", "a leader that stands again loses its lease",
             edited(Leader, "__init__",
                    ("        self.lease.until_boot_ns = incumbent.lease.until_boot_ns\n", ""))),
    Mutation("ahead_is_attached", "§5.4", "a running standby with WAL beyond the fork attaches",
             edited(plan, "_following", (" or _runs_ahead(observed, upstream)", ""))),
    Mutation("any_detach_will_do", "§4.3.3d", "a picture of an earlier promise answers a vote",
             edited(Core, "detached", (" and observed.detached_for >= term", ""))),
    Mutation("foreign_taken_over", "§5.4", "foreign data are rewound or cloned over",
             edited(plan, "_follow_from_stopped",
                    ("    if _is_foreign(observed, upstream):\n        return None\n", ""))),
    Mutation("strict_through_empty", "§4.5", "strict: a cloned standby leaves before it comes",
             edited(syncset, "next_change",
                    ("surplus and durability is Durability.STRICT and len(present) <= current.k",
                     "False"), also=(syncchange,))),
    Mutation("reserved_is_unknown", "§4.3.5", "a reserved timeline is no known history",
             edited(ClusterDocument, "off_history",
                    ("{self.tip, self.timelines[-1].tli}", "{self.tip}"))),
    Mutation("old_primary_ahead", "§4.2", "the old primary's promise counts though it is ahead",
             edited(quorum, "_primary_behind",
                    ("        and position >= primary.position\n", ""))),
    Mutation("learners_left_behind", "§4.1", "learners do not get a document that they missed",
             edited(Leader, "beat",
                    ("[n for n in core.others() if", "[n for n in self.committed.voters if"))),
    Mutation("route_not_remade", "§7", "a change of the primary alone makes no new route",
             edited(routing.Router, "table", ("        or made_from[0] != primary\n", ""))),
    Mutation("reads_from_unattached", "§7", "a standby that does not stream takes reads",
             edited(routing, "_serves_reads",
                    ("meta.state is ServerState.STREAMING",
                     "meta.state in (ServerState.STREAMING, ServerState.RUNNING)"))),
)  # fmt: skip
"""Found by somebody who had read the design and the production code, and nothing else."""

REVIEWED_AGAIN = (
    Mutation("fence_refuses_next_term", "§4.3.6", "a guard that is armed takes no higher term",
             edited(Fence, "arm",
                    ("    self.floor_term = term\n",
                     "    if term > self.floor_term and self.deadline_boot_ns is not None:\n"
                     "        return 'disarm first'\n"
                     "    self.floor_term = term\n"))),
    Mutation("death_not_shown", "§6", "a death alone changes nothing that others look at",
             edited(Roster, "set_state", ("        self._touched.add(entry.node)\n", ""))),
    Mutation("suspend_never_over", "§6", "a machine that was suspended once is late for ever",
             edited(PauseDetector, "notice",
                    ("    before, self._suspended_ns = self._suspended_ns, suspended_ns\n",
                     "    if self._suspended_ns is None:\n"
                     "        self._suspended_ns = suspended_ns\n"
                     "    before = self._suspended_ns\n"))),
    Mutation("lost_agent_never_back", "§7", "a proxy never forgets that its agent was away",
             edited(Routes, "agent_came",
                    ("    self._agent_lost_ns = None",
                     "    if self._table is None:\n        self._agent_lost_ns = None"))),
    Mutation("confirmed_is_unknown", "§4.3.5", "only the newest reserved timeline is known history",
             edited(ClusterDocument, "off_history",
                    ("{self.tip, self.timelines[-1].tli}",
                     "{self.timelines[-1].tli}"))),
    Mutation("marker_not_given_up", "§5.1", "a marker that cannot be acknowledged is waited for",
             edited(plan, "is_pointless",
                    ("    ending = isinstance(step, Stop)",
                     "    if isinstance(step, EmitMarker):\n"
                     "        return not isinstance(target, Leading) or target.term != step.term\n"
                     "    ending = isinstance(step, Stop)"), also=(supervisor,))),
)  # fmt: skip
"""Found by two more, in the same way."""

SLIPS = (*ELECTING, *LISTING, *DRIVING, *TELLING, *LEADING, *BEARING, *REVIEWED, *REVIEWED_AGAIN)
