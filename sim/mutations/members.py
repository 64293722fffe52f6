"""Bugs in who is a member, by which record, and in changing it (§4.1)."""

from __future__ import annotations

from typing import Any

from metako.election import election, office, standing, syncchange, wants
from metako.election.leader import Leader
from metako.election.lease import Lease
from metako.election.members import MemberChanges
from metako.election.syncchange import SyncSetKeeper
from metako.election.voter import Voter
from metako.model.document import ClusterDocument
from sim.mutations.base import Mutation, Patch, edited


def _records_not_compared(patch: Patch) -> None:
    def admits(self: ClusterDocument, node: Any, _: Any) -> bool:
        return node in self.voters or node in self.learners

    patch.set(ClusterDocument, "admits", admits)


def _old_answers_count(patch: Patch) -> None:
    patch.set(ClusterDocument, "counts", lambda *_: True)


def _lease_not_renewed(patch: Patch) -> None:
    patch.set(Lease, "settled", property(lambda _: True))


def _former_voters_renew(patch: Patch) -> None:
    patch.set(Lease, "agreed", lambda *_: None)


def _unadmitted_listed(patch: Patch) -> None:
    patch.set(syncchange, "_unadmitted", lambda *_: False)


def _electorate_uncommitted(patch: Patch) -> None:
    patch.set(Leader, "electorate", property(lambda self: self._core.document))


def _vote_before_caught_up(patch: Patch) -> None:
    patch.set(MemberChanges, "_catching_up", lambda *_: "")


def _needed_vote_taken(patch: Patch) -> None:
    patch.set(MemberChanges, "_needed", lambda *_: "")


MEMBERS = (
    Mutation("records_not_compared", "§4.1", "a member counts by whatever record it has",
             _records_not_compared),
    Mutation("old_answers_count", "§4.1", "answers count that were given by an older document than "
             "the record of their sender is in", _old_answers_count),
    Mutation("lease_not_renewed", "§4.1", "votes change under a lease of the voters before",
             _lease_not_renewed),
    Mutation("former_voters_renew", "§4.1", "rounds that were sent under other voters count",
             _former_voters_renew),
    Mutation("votes_given_together", "§4.1", "two learners get their votes in one version",
             edited(MemberChanges, "_give_vote",
                    ("voters = (*document.voters, node)",
                     "voters = (*document.voters, *document.joining)"),
                    ("_without(document.learners, node)",
                     "tuple(n for n in document.learners if n not in document.joining)"),
                    ("_without(document.joining, node)", "()"))),
    Mutation("committed_by_former_voters", "§4.1", "a version is committed by the voters before it",
             edited(Leader, "_check_committed",
                    ("if not proposal.grants(holders) or not", "if not"))),
    Mutation("electorate_uncommitted", "§4.1", "the voters of a version that is not committed "
             "grant the lease", _electorate_uncommitted),
    Mutation("vote_before_caught_up", "§4.1", "a node gets its vote as soon as it is taken in",
             _vote_before_caught_up),
    Mutation("old_session_streams", "§4.1", "a blank node has caught up by what its old session "
             "shows",
             edited(MemberChanges, "_catching_up",
                    ("if member.meta.state is not ServerState.STREAMING:", "if False:"))),
    Mutation("joining_forgotten", "§4.1", "the next leader forgets who is to get a vote",
             edited(office, "winners_document",
                    ("        switchover=None,", "        joining=(),\n        switchover=None,"))),
    Mutation("leaving_forgotten", "§4.1", "the next leader forgets who is being removed",
             edited(office, "winners_document",
                    ("        switchover=None,", "        leaving=(),\n        switchover=None,"))),
    Mutation("needed_vote_taken", "§4.1", "a vote is taken that the others cannot do without",
             _needed_vote_taken),
    Mutation("removed_while_listed", "§4.1", "a member leaves while commits wait for it",
             edited(MemberChanges, "_let_go",
                    ("    if node in document.sync.nodes():\n            continue\n",
                     "    if False:\n            continue\n"))),
    Mutation("leaving_stays_listed", "§4.1", "commits go on waiting for one that is being removed",
             edited(SyncSetKeeper, "_standbys", ("node in document.leaving or ", ""))),
    Mutation("leaving_takes_over_and_leaves", "§4.1", "a primary goes on being removed",
             edited(MemberChanges, "_let_go",
                    ("if node == self._core.node:", "if False:"))),
    Mutation("removed_streams_on", "§4.1", "the server of a removed node runs on",
             edited(wants, "follower_target",
                    ("    if core.removed:\n        return Stopped(fast=True)\n", ""),
                    also=(election,))),
    Mutation("removed_is_not_told", "§4.1", "nobody tells a node that it was removed",
             edited(MemberChanges, "tell_strangers", ("if node in answered and", "if True or"))),
    Mutation("newcomer_offered_once", "§4.1", "one that was taken in is told so once",
             edited(Leader, "beat",
                    ("self.committed, self.refs)", "self.committed, core.others())"))),
    Mutation("unadmitted_listed", "§4.1", "commits wait for one that is a member by another record",
             _unadmitted_listed),
    Mutation("readmitted_while_listed", "§4.1", "a record is exchanged while commits wait for its "
             "node",
             edited(MemberChanges, "_admit",
                    ("if node in document.sync.nodes():", "if False:"))),
    Mutation("readmitted_with_its_vote", "§4.1", "a node that lost its record keeps its vote",
             edited(MemberChanges, "_admit",
                    ("voters=_without(document.voters, node)", "voters=document.voters"),
                    ("learners=(*_without(document.learners, node), node)",
                     "learners=document.learners if node in document.voters"
                     " else (*_without(document.learners, node), node)"),
                    ("joining=(*joining, node) if voter else joining",
                     "joining=(*joining, node) if voter and node not in document.voters"
                     " else joining"))),
    Mutation("vote_told_by_a_stranger", "§4.1", "a vote is told again by a record that counts no "
             "more",
             edited(Voter, "heard_copy", ("self._voted is not None and core.may_vote",
                                          "self._voted is not None"))),
    Mutation("stranger_stands_on", "§4.1", "a candidate goes on that learns that it is no member",
             edited(standing, "advance", ("and not core.voting:", "and False:"), also=(election,))),
)  # fmt: skip
