"""The checkers: what must never be, seen with the eyes of no node.

They are told ground truth as it happens and raise `ViolationError` at the exact event. They know
nothing of how decisions are made, so a wrong decision cannot talk them out of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.checkers.agreement import Agreement
from sim.checkers.attached import Attached
from sim.checkers.availability import Availability
from sim.checkers.bounds import Bounds
from sim.checkers.changes import Changes
from sim.checkers.departed import Listed, Noticed
from sim.checkers.durability import Durable
from sim.checkers.fenced import Fenced
from sim.checkers.gossip import Gossip
from sim.checkers.handover import Handover
from sim.checkers.holders import Holders
from sim.checkers.kept import Kept
from sim.checkers.members import Members
from sim.checkers.orders import Orders
from sim.checkers.promises import Promises
from sim.checkers.refusals import Refusals
from sim.checkers.routes import Routes
from sim.checkers.single import Single
from sim.checkers.upkeep import Upkeep
from sim.versions import Versions
from sim.watch import Watcher

if TYPE_CHECKING:
    from sim.world import World

CHECKS = {
    "one_acknowledger": "at most one server acknowledges: never two lines of WAL at a time",
    "one_writable": "at most one server is writable while clocks keep within 1 % and guards work",
    "one_timeline": "every timeline number is promoted to once",
    "unguarded": "a server that can write has an armed guard",
    "beyond_lease": "no server can write once no majority holds for its node any more",
    "lease_of_former_voters": "whoever can write is held for by one of every majority that elects",
    "fenced_in_vain": "no guard ends a server while its sound agent renews the lease",
    "guarded_promotion": "no server is promoted without a guard that is armed to end it",
    "standby_first": "no server becomes writable but by a promotion",
    "lost_write": "every acknowledged value is in the next primary's WAL, once",
    "failed_present": "what was reported as failed is not there",
    "one_leader": "at most one node wins the election of a term",
    "one_vote": "a node votes for one candidate a term, across restarts",
    "record_back": "terms, votes, promises and documents never go back",
    "not_durable": "nothing leaves a node that rests on a record which is not durable",
    "promise_broken": "nothing of a lower term than the promised one is accepted",
    "promise_untrue": "a kept promise means: no WAL receiver, and the true end of WAL",
    "by_minority": "an election, and a committed version, rest on most of the records that count",
    "voters_step": "votes change one at a time, each under a lease of the committed voters",
    "unordered_change": "who is a member, and by what record, is as operators have ordered",
    "vote_given_early": "nobody gets a vote before it has caught up",
    "vote_needed": "no vote is taken that the others cannot do without",
    "vote_of_stranger": "who is no member, by the record that it has, says nothing that counts",
    "removed_serves": "a node that knows it was removed does not let its server run",
    "member_stuck": "an accepted order about a member is carried out while all it needs is well",
    "one_document": "a version of the document has one content, and a committed one stays",
    "sync_invariant": "every data quorum of every live document has every acknowledged commit",
    "strict_copies": "in strict durability an acknowledged commit is on k standbys, always",
    "false_failover": "no election is won while the primary was fine",
    "no_recovery": "with a legal candidate and a quorum there is a primary within the bound",
    "writes_stuck": "with a primary and its standbys sound, commits return within the bound",
    "slow_failover": "after the peace, with nothing else wrong, a lost primary is replaced in time",
    "slow_handover": "a lease that is given up is followed by an election at once",
    "slow_switchover": "a planned change of the primary comes to its end soon",
    "switchover_failed": "a planned change leads to its target while all are sound",
    "switchover_rewound": "the old primary of a planned change follows with the data that it has",
    "usurped": "in a paused cluster nobody takes over but by an operator's order",
    "restarted_twice": "a server is restarted once by an order",
    "not_restarted": "a server that is told to have been restarted was",
    "order_twice": "an operator's order is answered once and done once",
    "order_unanswered": "a sound agent answers an operator's order in time",
    "stale_listing": "who is dead, no member, or has other data, leaves the sync set in time",
    "death_unnoticed": "a host that is gone is held dead, and gets no reads, within the bound",
    "slot_kept": "nobody keeps WAL for one that never comes for it: standbys, for former members",
    "flapping": "elections are few once the faults have ended",
    "wrongly_dead": "a sound node that can be reached is held alive",
    "stale_route": "no route names a server whose lease has long ended",
    "refused_in_vain": "no proxy refuses a session as if its agent were gone that is sound",
    "foreign_served": "tainted or foreign data never serve",
    "foreign_replaced": "data of another system are never replaced: they are somebody's",
    "strict_lowered": "in strict durability no document waits for fewer than one before it",
    "unattached_read": "no proxy leads reads to a standby that has followed nobody for long",
    "too_much": "messages, queues and records stay within their bounds",
    "engine": "the engine never raises",
    "exception": "the simulator itself never raises",
    "codec": "a message comes back from its bytes as it was",
    "expected": "a scenario's own expectations hold when it plays alone",
    "not_converged": "after the faults the healed core becomes whole within the bound",
}
"""Every check by the name under which it fails, and what it holds."""


def all_checkers(world: World) -> tuple[Watcher, ...]:
    """Return one of each, for a world."""
    availability = Availability(world)
    monitor = availability.monitor
    versions = Versions()
    return (
        versions,
        Single(world),
        Durable(world),
        Agreement(world),
        Promises(world),
        Holders(world),
        availability,
        Gossip(world, monitor),
        Bounds(world),
        Routes(world),
        Listed(world, monitor),
        Noticed(world, monitor),
        Handover(world, monitor),
        Orders(world, monitor),
        Upkeep(world, versions),
        Fenced(world, monitor, versions),
        Changes(world, versions),
        Members(world, monitor, versions),
        Kept(world, monitor),
        Attached(world, monitor),
        Refusals(world, monitor),
    )
