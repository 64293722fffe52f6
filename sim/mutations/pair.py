"""Bugs in the rule of two voters: who of a pair decides, and who is elected alone (§4.6)."""

from __future__ import annotations

from metako.election import leader, members, office, pair, quorum, standing, wants
from metako.election.core import Core
from metako.election.members import MemberChanges
from metako.election.pair import SoleRight
from metako.election.voter import Voter
from metako.model.document import ClusterDocument
from sim.mutations.base import Mutation, Patch, edited


def _right_outlives_the_agent(patch: Patch) -> None:
    def held(self: SoleRight, document: ClusterDocument | None) -> bool:
        return document is not None and document.decider == self._node

    patch.set(SoleRight, "held", held)


def _right_outlives_a_vote(patch: Patch) -> None:
    patch.set(SoleRight, "withdraw", lambda _: None)


PAIR = (
    Mutation("right_outlives_the_agent", "§4.6", "who decides may be elected alone also when its "
             "agent has just started", _right_outlives_the_agent),
    Mutation("right_outlives_a_vote", "§4.6", "who decides may be elected alone also when it has "
             "voted for the other one", _right_outlives_a_vote),
    Mutation("right_by_an_offer", "§4.6", "the standby may take over by a document that nobody has "
             "called committed", edited(Core, "adopt",
             ("self.sole.adopted(document)", "self.sole.committed(document)"))),
    Mutation("primary_renews_alone", "§4.6", "a primary goes on without the standby that may take "
             "over", edited(ClusterDocument, "grants",
             ("self.primary in nodes and decider in nodes", "self.primary in nodes"))),
    Mutation("takeover_keeps_the_lost", "§4.6", "who takes over waits for the one that it took "
             "over from", edited(quorum, "successor_sync_set",
             ("document.sync.k == 0 or document.pair is PairMode.TAKEOVER", "document.sync.k == 0"),
             also=(office, wants))),
    Mutation("resumed_alone", "§4.6", "a restarted agent goes on by its newest version alone",
             edited(pair, "electorate",
             ("replace(newest, pair=None) if resumed and takes_over else newest", "newest"),
             also=(leader,))),
    Mutation("takes_over_at_once", "§4.6", "the standby does not wait as configured",
             edited(standing, "_waited", ("core.cluster.takeover_wait_ms", "0"))),
    Mutation("third_vote_while_one_decides", "§4.6", "a third voter comes while one of two decides",
             edited(MemberChanges, "_give_vote",
             ("if document.decider is not None:", "if False:"))),
    Mutation("pair_rule_never", "§4.6", "two voters have no rule, and stop when either is lost",
             edited(pair, "pair_due", ("wanted if document.is_pair else None", "None"),
             also=(members,))),
    Mutation("right_by_any_heartbeat", "§4.6", "a heartbeat that does not call the document "
             "committed gives the right to take over", edited(Voter, "heard_heartbeat",
             ("beat.committed == core.document_ref", "True"))),
)  # fmt: skip
