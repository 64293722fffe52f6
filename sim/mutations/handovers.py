"""Bugs in planned changes of the primary: orders, what is waited for, the shutdown, the heir."""

from __future__ import annotations

from metako.election import awaiting, office
from metako.election import election as elections
from metako.election.decisions import Decisions
from metako.election.handover import Handover
from metako.election.leader import Leader
from metako.election.orderdesk import OrderDesk
from metako.election.proof import Blocked
from metako.election.voter import Voter
from metako.model.ids import NodeId
from sim.mutations.base import Mutation, Patch, edited
from sim.postgres.server import SimServer


def _senders_never_ended(patch: Patch) -> None:
    patch.set(SimServer, "end_senders", lambda *_: None)


def _orders_not_woken(patch: Patch) -> None:
    patch.set(OrderDesk, "wakeup", lambda _: None)


def _another_named(patch: Patch) -> None:
    """Name whoever is the first of the other voters, fit or not, and wait for its standby alone."""

    def successor(self: Handover, leader: Leader) -> NodeId | None:
        document = leader.committed
        others = [n for n in document.voters if n != self._core.node] if document else []
        return next(iter(others), None)

    patch.set(Handover, "successor", successor)


def _nobody_is_slow(patch: Patch) -> None:
    patch.set(Blocked, "_slow", lambda *_: [])


def _proof_presumed(patch: Patch) -> None:
    patch.set(Blocked, "_fresh", lambda self, _: self.heir is not None)


def _hold_opposes_sounding(patch: Patch) -> None:
    patch.set(Voter, "_named", lambda *_: False)


HANDOVERS = (
    Mutation("standbys_let_go_at_planned_end", "§4.7", "standbys are detached before the last WAL "
             "of a primary that is being stopped",
             edited(Leader, "beat", ('self.ending in ("", *PLANNED)', "not self.ending"))),
    Mutation("target_not_confirmed", "§4.7", "a server is stopped for a target that stands still",
             edited(Handover, "_missing", ("    answered = ", "    return ''\n    answered = "))),
    Mutation("target_wal_from_before", "§4.7", "WAL from before an order shows its target alive",
             edited(Handover, "advance",
                    (", lsn=self.heirs.lsn)", ")"),
                    ("_Beginning(wish.order_id, now.mono_ns)",
                     "_Beginning(wish.order_id, now.mono_ns, lsn=self.heirs.lsn)"))),
    Mutation("target_agent_from_before", "§4.7", "an answer from before the checkpoint shows an "
             "agent alive",
             edited(Handover, "_missing", ("answered_since(began.round)", "answered_since(0)"))),
    Mutation("intent_not_dropped", "§4.7", "whoever is elected keeps the intent",
             edited(office, "winners_document",
                    ("        switchover=None,  # this promotion is what came of it\n", ""))),
    Mutation("answers_forgotten", "§4.7", "an order that comes again is judged again",
             edited(Decisions, "answer",
                    ("    if known is not None:\n        return known\n", ""))),
    Mutation("order_given_to_the_next", "§4.7", "an order that may be done goes to the next leader",
             edited(OrderDesk, "_ask", ("if asked is not None and (", "if False and ("))),
    Mutation("order_not_asked_again", "§4.7", "nobody wakes for an order that has no answer",
             _orders_not_woken),
    Mutation("heir_without_head_start", "§4.7", "others do not wait for whoever a release names",
             edited(awaiting, "head_start_ms",
                    ("if successor is not None else 0", "* 0"), also=(elections,))),
    Mutation("another_named", "§4.7", "a release names whoever has a vote", _another_named),
    Mutation("paused_standby_waited_for", "§4.7", "a shutdown waits for every standby",
             _senders_never_ended),
    Mutation("own_lease_held_for", "§4.7", "who was restarted holds for the lease that it released",
             edited(Voter, "released_own",
                    ("min(self.hold.until_ns, now.mono_ns)", "self.hold.until_ns"))),
    Mutation("stepped_down_unproved", "§4.4", "whose commits do not return steps down for somebody "
             "who has proved nothing",
             _proof_presumed),
    Mutation("slow_standbys_depose", "§4.4", "a leader steps down because its standbys are slow",
             _nobody_is_slow),
    Mutation("hold_opposes_sounding", "§4.4", "voters hold against whom their leader has ask",
             _hold_opposes_sounding),
)  # fmt: skip
