"""Bugs in what operators order for upkeep: pauses, restarts, switchovers by the clock (§4.7)."""

from __future__ import annotations

from metako.election import candidate, election, office, pausing, standing, upstream, voter, wants
from metako.election.restarts import Restarts
from metako.election.schedule import Schedule
from metako.postgres import plan
from sim.mutations.base import Mutation, Patch, edited


def _pause_ignored(patch: Patch) -> None:
    for module in (pausing, candidate, voter):
        patch.set(module, "barred", lambda *_: False)


def _restart_not_waited_for(patch: Patch) -> None:
    patch.set(Restarts, "_done", lambda *_: True)


def _restart_stops_nothing(patch: Patch) -> None:
    patch.set(plan, "_is_to_restart", lambda *_: False)


UPKEEP = (
    Mutation("pause_ignored", "§4.7", "in a paused cluster everybody stands for election",
             _pause_ignored),
    Mutation("restart_not_waited_for", "§4.7", "the next server is restarted while the one before "
             "is down", _restart_not_waited_for),
    Mutation("restart_by_an_old_picture", "§4.7", "a restarted server is thought to stream by what "
             "was seen before", edited(Restarts, "_done",
             ("member.meta.state is not ServerState.STREAMING", "False"))),
    Mutation("restart_stops_nothing", "§4.7", "a server whose turn it is goes on running",
             _restart_stops_nothing),
    Mutation("restart_of_all_at_once", "§4.7", "every server on the list restarts at once",
             edited(upstream, "following",
             ("document.restarts[0] if document.restarts else None",
              "next((r for r in document.restarts if r.node == core.node), None)"),
             also=(wants,))),
    Mutation("primary_restarted_again", "§4.7", "the former primary stays on the list",
             edited(office, "winners_document",
             ("restarts=left_after(base)", "restarts=base.restarts"))),
    Mutation("begun_before_its_time", "§4.7", "a switchover by the clock is begun at once",
             edited(Schedule, "advance", ("now.wall_ms < wish.at_ms", "False"))),
    Mutation("schedule_outlives_its_leader", "§4.7", "another leader does what was asked of the "
             "one before", edited(office, "winners_document",
             ("base.scheduled if base.primary == core.node else None", "base.scheduled"))),
    Mutation("order_to_resume_needs_a_leader", "§4.7", "a pause in which nobody leads has no end",
             edited(standing, "advance",
             ("candidate.may_stand() and candidate.errand is not NO_ERRAND",
              "candidate.may_stand() and candidate.errand.forced"),
             also=(election,))),
)  # fmt: skip
