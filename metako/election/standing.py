"""How a candidacy goes on: one step of WAITING → PRE_VOTE → VOTE, and the verdict at its end."""

from __future__ import annotations

from metako.election import catchup
from metako.election.candidate import Candidate, Stage
from metako.election.core import Core
from metako.election.errand import NO_ERRAND
from metako.election.lease import Hold
from metako.model.document import Phase
from metako.model.instant import Instant, milliseconds
from metako.wire.messages import PreVoteRequest

WAIT_REPEATS = 4
"""A node that cannot stand yet looks again after so many `retry_ms`."""


def advance(candidate: Candidate, now: Instant, hold: Hold) -> bool:
    """Do what is due for a candidacy; return whether it has won and can lead.

    Args:
        candidate: changed in place.
        now: the time of this step.
        hold: of the same node's voter. While it lasts the node does not begin to stand.
    """
    core, holding = candidate.core, hold.active(now)
    candidate.alone = core.sole.held(core.document) and _waited(core, now, hold)
    if candidate.errand is not NO_ERRAND and now.mono_ns >= candidate.errand.until_ns:
        candidate.errand = NO_ERRAND
    if candidate.stage is Stage.WAITING and now.mono_ns >= candidate.stand_at_ns:
        candidate.stage = Stage.IDLE
        if holding:
            return False
        if candidate.may_stand() and candidate.errand is not NO_ERRAND:
            candidate.begin_vote(now, candidate.next_term())
        elif candidate.may_stand() and not candidate.barred:
            candidate.begin_pre_vote(now)
        else:
            _ask_for_document(candidate)
            candidate.schedule(now, WAIT_REPEATS * core.settings.retry_ms)
    if candidate.stage in (Stage.PRE_VOTE, Stage.VOTE) and not core.voting:
        # It has just learned so: its own vote, by a record that counts no more, is one of them.
        candidate.lose("it is no member by the record that it has")
    if candidate.stage is Stage.PRE_VOTE and candidate.pre_vote_won():
        if candidate.term > core.hard.promised_term:
            candidate.begin_vote(now, candidate.term)
        else:  # somebody has won a higher term meanwhile
            candidate.lose(f"promised term {core.hard.promised_term}")
    if candidate.stage is Stage.VOTE and _judge(candidate, now):
        return True
    candidate.tick(now)
    return False


def _ask_for_document(candidate: Candidate) -> None:
    """Ask for a newer document, if by the own one the WAL here is on no known history.

    PostgreSQL follows a promotion by itself, also while the agent that would be told of it is away.
    If then everybody who could stand is such a node, somebody else has to tell it; a pre-vote does,
    and changes nothing anywhere.
    """
    core = candidate.core
    recovering = core.observed.in_recovery is True
    if recovering and core.document is not None and core.advisory_position() is None:
        nonce = core.rng.getrandbits(63)
        request = PreVoteRequest(candidate.next_term(), nonce, core.document_ref, None)
        core.broadcast(core.others(), request)


def _waited(core: Core, now: Instant, hold: Hold) -> bool:
    """Return whether the one that decides in a pair has waited long enough for the other one.

    A standby waits for longer than its hold, as configured: a primary that is only slow to come
    back keeps its data, and its applications their sessions.
    """
    if core.document is None or core.document.primary == core.node:
        return True
    return now.mono_ns >= hold.until_ns + milliseconds(core.cluster.takeover_wait_ms)


def _judge(candidate: Candidate, now: Instant) -> bool:
    if (catching_up := catchup.under_way(candidate)) is not None:
        # What is known of the own position is from before: nothing is won by it.
        catchup.go_on(candidate, catching_up, now)
        return False
    verdict = candidate.evaluate()
    document = candidate.core.document
    if verdict is None or document is None:
        return False
    if verdict.better is not None:
        candidate.hand_over(verdict.better)
        return False
    special = candidate.incumbent or document.phase is Phase.INITIALIZING
    if not verdict.won and verdict.source is not None:
        catchup.begin(candidate, now, candidate.promises()[verdict.source])
    return verdict.won and (special or candidate.core.can_lead(candidate.term))
