"""Bugs by a third reader of the design and the production code, who had seen nothing else.

Each is a slip that a tired engineer could commit, and needs a fault at a particular moment.
"""

from __future__ import annotations

from metako.cluster.routing import Router
from metako.election import office, quorum, upstream, wants
from metako.election.election import Election
from metako.election.leader import Leader
from metako.election.lease import Lease
from metako.election.syncchange import SyncSetKeeper
from metako.election.voter import Voter
from metako.membership.view import View
from metako.postgres import plan
from sim.mutations.base import Mutation, edited

BLIND = (
    Mutation("lease_from_newest_round", "§4.4", "the lease counts from the newest round that was "
             "sent, and not from the one that a majority has answered",
             edited(Lease, "renew", ("self._sent[self._counted]", "self._sent[self.round]"))),
    Mutation("no_retry_without_heartbeat", "§4.3", "who has heard nobody lead does not stand again",
             edited(Election, "_election_due",
                    ("and self.core.voting\n",
                     "and self.core.voting\n        and self.voter.heartbeat is not None\n"))),
    Mutation("restart_hold_on_other_clock", "§4.4", "the hold after a restart is counted on the "
             "clock that goes on in a suspend",
             edited(Voter, "__init__",
                    ("now.mono_ns + milliseconds(core.hard.max_hold_ms)",
                     "now.boot_ns + milliseconds(core.hard.max_hold_ms)"))),
    Mutation("no_grace_if_any_is_dead", "§4.5", "with one standby dead, the others are not awaited",
             edited(SyncSetKeeper, "_standbys", ("if all(self._gone", "if any(self._gone"))),
    Mutation("promoting_primary_left_out", "§4.3.4", "the next sync set leaves out a primary that "
             "was not active yet",
             edited(quorum, "successor_sync_set",
                    ("if document.primary != winner:",
                     "if document.primary != winner and document.phase == 'active':"),
                    ("SyncSet(kept, document.sync.k)",
                     "SyncSet(kept, min(document.sync.k, len(kept)))"), also=(office, wants))),
    Mutation("upstream_of_former_term", "§5.4", "whom to follow is remembered by name and address",
             edited(upstream, "following",
                    ("known[0] is document and known[1].upstream.address == address",
                     "(known[1].upstream.node, known[1].upstream.address)"
                     " == (document.primary, address)"), also=(wants,))),
    Mutation("resumed_server_need_not_run", "§4.4", "a restarted agent leads on without a server",
             edited(Leader, "resume", ("    self._server_ran = True", "    pass"))),
    Mutation("older_promise_is_kept", "§4.3.3d", "a position of an earlier promise will do",
             edited(plan, "_detached", ("        and observed.detached_for >= promise\n", ""))),
    Mutation("clone_only_if_hopeless_too", "§5.4", "a standby whose WAL is lost is not cloned",
             edited(plan, "_follow_from_stopped",
                    ("local.wal_lost or local.start_hopeless",
                     "local.wal_lost and local.start_hopeless"))),
    Mutation("address_of_former_life", "§6", "the address of a member's earlier life is kept",
             edited(View, "_begin_life", ("    entry.address_learned = False\n", ""))),
    Mutation("table_keeps_old_primary", "§7", "a change of the primary alone makes no new routes",
             edited(Router, "table", ("        or made_from[0] != primary\n", ""))),
)  # fmt: skip
