"""Standing for election: when to stand, the pre-vote, and collecting votes with their promises.

A candidacy goes WAITING → PRE_VOTE → VOTE and ends by winning, by handing over to a better
candidate, by losing, or by its timeout. The pre-vote changes nothing anywhere: a node that cannot
win does not raise anybody's term. Delays are staggered by rank so that the best candidate usually
stands alone; the rank comes from gossip and is only a matter of speed, never of safety.

Source: Raft's pre-vote (Ongaro's thesis §9.6); ranks as in Redis Cluster's replica election.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from metako.election.catchup import CatchUp
from metako.election.core import Core
from metako.election.errand import LOST_TERMS, NO_ERRAND
from metako.election.lossy import excused
from metako.election.pausing import barred
from metako.election.quorum import Promise, Verdict, judge, voices
from metako.model.document import DocumentRef, Phase
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.wire.messages import (
    Candidacy,
    PreVoteReply,
    PreVoteRequest,
    Refusal,
    VoteReply,
    VoteRequest,
)

TERM_MAX = 2**53
"""No election gets anywhere near; a term beyond it in a message is nonsense."""

SPLIT_VOTE_PATIENCE = 3
"""Repeats that a candidacy waits for the remaining voters once somebody's vote was given away."""

SELDOM_AFTER, SELDOM = 5, 4
"""After so many candidacies in vain pre-votes are asked for so many times less often: whoever waits
for others to come back may wait for days, and they get all of it at once if they only stood still.
"""


class Stage(enum.StrEnum):
    IDLE = "idle"
    WAITING = "waiting"  # stands at `stand_at_ns`
    PRE_VOTE = "pre_vote"
    VOTE = "vote"


class Candidate:
    """One node's candidacy, or the absence of one."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.stage = Stage.IDLE
        self.term = Term(0)  # stood in, or asked about in the pre-vote
        self.incumbent = False  # a leader that stands again without stopping its server
        self.errand = NO_ERRAND  # an operator's order to stand that is in force
        self.alone = False  # its own vote is enough, by the pair's rule
        self.stand_at_ns = 0  # CLOCK_MONOTONIC; valid while WAITING
        self.verdict: Verdict | None = None  # newest; None before the first in this candidacy
        self.refusals: dict[NodeId, Refusal] = {}
        self.catch_up: CatchUp | None = None  # newest one; of this candidacy if its term says so
        self.give_up_ns = self._retry_at_ns = 0  # CLOCK_MONOTONIC, as all others
        self._nonce = 0
        self._granted: set[NodeId] = set()  # pre-votes
        self._promises: dict[NodeId, Promise] = {}
        self._documents: dict[NodeId, DocumentRef] = {}  # held by the voters after their promise
        self._failures = 0  # candidacies lost in a row; lengthens the next delay
        self._released = False  # the leader has given its lease up: holds for it are ending

    # ------------------------------------------------------------ when

    def schedule(self, now: Instant, delay_ms: float) -> None:
        """Stand after `delay_ms`, unless a candidacy is already on its way earlier."""
        at = now.mono_ns + milliseconds(delay_ms)
        if self.stage is Stage.WAITING:
            self.stand_at_ns = min(self.stand_at_ns, at)
        elif self.stage is Stage.IDLE:
            self.stage, self.stand_at_ns = Stage.WAITING, at

    def lease_was_released(self) -> None:
        """Take note that everybody hears, about now, that nobody leads any more."""
        self._released = True

    def delay_ms(self, *, primary_crashed: bool) -> float:
        """Return how long this node waits before standing, by its rank."""
        core = self.core
        back_off = min(self._failures, 5) * core.settings.stagger_ms
        jitter = core.rng.uniform(0, core.settings.jitter_ms * (1 + self._failures))
        return self._rank(primary_crashed) * core.settings.stagger_ms + back_off + jitter

    def wakeup(self) -> int | None:
        if self.stage is Stage.IDLE:
            return None
        return self.stand_at_ns if self.stage is Stage.WAITING else self._retry_at_ns

    def _rank(self, primary_crashed: bool) -> int:
        core = self.core
        document = core.document
        if document is None:
            return 0

        def key(node: NodeId) -> tuple[bool, int, int, bool, str]:
            meta = core.members[node].meta if node in core.members else None
            lsn = core.observed.lsn if node == core.node else (meta.lsn if meta else 0)
            priority = core.cluster.priority if node == core.node else 0
            if node != core.node and meta is not None:
                priority = meta.priority
            # A primary whose server has just crashed has to recover first: it stands last,
            # except where nobody else can have its commits.
            late = primary_crashed and node == document.primary and bool(document.sync.members)
            return (late, -lsn, -priority, core.is_elsewhere(node, document.primary), node)

        able = [
            node
            for node in document.voters
            if node not in document.witnesses and (node == core.node or core.is_alive(node))
        ]
        return sum(1 for node in able if key(node) < key(core.node))

    # ------------------------------------------------------------ acting

    def may_stand(self) -> bool:
        """Return whether standing makes sense: a voter with a server that could be promoted."""
        core = self.core
        document = core.document
        if document is None or not core.voting or core.node not in document.voters:
            return False
        if core.unwatched:
            return False
        if document.phase is Phase.INITIALIZING:
            return document.primary == core.node
        return (
            not core.is_witness
            and core.cluster.priority > 0
            and core.observed.in_recovery is True
            and core.advisory_position() is not None
        )

    def next_term(self) -> Term:
        hard, ahead = self.core.hard, LOST_TERMS if self.errand.lost else 1
        return Term(max(hard.term, hard.promised_term, hard.document_ref.term, self.term) + ahead)

    def begin_pre_vote(self, now: Instant) -> None:
        core = self.core
        self._begin(now, Stage.PRE_VOTE)
        self.term = Term(self.next_term())
        self._nonce = core.rng.getrandbits(63)
        self._granted = {core.node}
        core.emit(EventName.PRE_VOTE_STARTED, f"asks for term {self.term}", term=self.term)
        self._ask(now)

    def begin_vote(self, now: Instant, term: Term, *, incumbent: bool = False) -> None:
        """Vote for ourselves, durably, and ask the others."""
        core = self.core
        self._begin(now, Stage.VOTE)
        self.term, self.incumbent = term, incumbent
        self._promises = {}
        core.course.stands(now)
        core.promise(term, voted_for=core.node)
        core.emit(
            EventName.CANDIDACY_STARTED,
            f"stands in term {term}" + (" as the incumbent" if incumbent else ""),
            term=term,
            position=str(core.advisory_position()),
        )
        self._ask(now)

    def stand_at_once(self, now: Instant) -> bool:
        """Stand without a pre-vote, sent by somebody who should know; False if we cannot."""
        if not self.may_stand():
            return False
        self.stop()
        self.begin_vote(now, self.next_term())
        return True

    def stand_again(self, now: Instant, promised: Term) -> None:
        """Stand above a term that somebody has promised, as the leader that we are."""
        self.term = max(self.term, promised)
        self.begin_vote(now, self.next_term(), incumbent=True)

    def tick(self, now: Instant) -> None:
        """Repeat unanswered requests; give up at the timeout."""
        if self.stage not in (Stage.PRE_VOTE, Stage.VOTE):
            return
        if now.mono_ns >= self.give_up_ns:
            self.lose(self._why_not())
        elif now.mono_ns >= self._retry_at_ns:
            self._ask(now)

    def lose(self, why: str) -> None:
        """End the candidacy without a leader. The durable promise stays."""
        if self.stage in (Stage.PRE_VOTE, Stage.VOTE):
            self._failures += 1
            self.core.emit(
                EventName.CANDIDACY_LOST,
                f"candidacy in term {self.term} ended: {why}",
                Severity.WARNING,
                term=self.term,
                reason=why,
            )
        self.stage, self.incumbent, self._released = Stage.IDLE, False, False

    @property
    def barred(self) -> bool:
        """Whether the cluster is paused, and no operator has this node stand."""
        return self.errand is NO_ERRAND and barred(self.core.document, self.core.node)

    def stop(self) -> None:
        """Forget any candidacy: somebody leads."""
        self.stage, self.incumbent, self._released = Stage.IDLE, False, False
        self._failures = 0

    def hand_over(self, to: NodeId) -> None:
        core = self.core
        core.send(to, Candidacy(self.term))
        core.emit(
            EventName.CANDIDACY_HANDED_OVER,
            f"{to} has more WAL and stands instead",
            term=self.term,
            to=to,
        )
        self._failures += 1
        self.stage, self.incumbent = Stage.IDLE, False

    # ------------------------------------------------------------ answers

    def heard_pre_vote_reply(self, now: Instant, sender: NodeId, reply: PreVoteReply) -> bool:
        """Return whether a majority would vote for us."""
        core = self.core
        if self.stage is not Stage.PRE_VOTE or reply.nonce != self._nonce:
            return False
        if reply.granted:
            self._granted.add(sender)
            return self._pre_vote_won()
        if reply.promised > core.hard.promised_term:
            core.sole.withdraw()
        self.refusals[sender] = reply.refusal or Refusal.TERM
        core.emit(
            EventName.PRE_VOTE_REFUSED,
            f"{sender} would not vote for us: {reply.refusal}",
            Severity.DEBUG,
            voter=sender,
            reason=str(reply.refusal),
        )
        if reply.refusal is Refusal.TERM and self.term <= reply.promised < TERM_MAX:
            # Only our idea of the term was old. Ask again with a newer one.
            self.term = Term(reply.promised + 1)
            self._nonce = core.rng.getrandbits(63)
            self._granted = {core.node}
            self._ask(now)
        elif reply.refusal is Refusal.HOLD:
            self.schedule_after_hold(now, reply.hold_remaining_ms)
        return False

    def schedule_after_hold(self, now: Instant, remaining_ms: int) -> None:
        """Somebody still holds for a leader: come back when that hold has ended.

        After a release it ends any moment, when the release is there: then the request is repeated
        instead, and not put off for a whole hold.
        """
        if self._released:
            return
        document = self.core.document
        refused = sum(1 for r in self.refusals.values() if r is Refusal.HOLD)
        if document is not None and refused > len(document.voters) - document.majority:
            self.stage = Stage.IDLE
            self.schedule(now, max(remaining_ms, 1) + self.delay_ms(primary_crashed=False))

    def heard_vote_reply(self, now: Instant, sender: NodeId, reply: VoteReply) -> None:
        if self.stage is not Stage.VOTE or reply.term != self.term:
            return
        if not reply.granted:
            self.refusals[sender] = reply.refusal or Refusal.TERM
            if reply.promised > self.term:
                self.core.sole.withdraw()
                self.lose(f"{sender} promised term {reply.promised}")
            elif reply.refusal is Refusal.TERM:
                # The vote was split: do not sit out the whole timeout, somebody may be dead.
                patience = milliseconds(SPLIT_VOTE_PATIENCE * self.core.settings.retry_ms)
                self.give_up_ns = min(self.give_up_ns, now.mono_ns + patience)
            return
        self.refusals.pop(sender, None)
        self._promises[sender] = Promise(
            node=sender,
            detached=reply.detached,
            data_id=reply.data_id,
            position=reply.position,
            can_lead=reply.can_lead,
            priority=reply.priority,
            max_tli=reply.max_tli,
        )
        self._documents[sender] = reply.document_ref
        document = self.core.document
        if document is not None and reply.document_ref < document.ref:
            # Its promise counts once it has judged itself by this one.
            self.core.copy(sender, document, reply.document_ref)

    def heard_rejected(self, rejected: Term, promised: Term) -> None:
        """Give up a candidacy in a term that is too low by now."""
        if self.stage is Stage.VOTE and rejected == self.term:
            self.lose(f"term {promised} was promised elsewhere")
            self.term = max(self.term, promised)

    def evaluate(self) -> Verdict | None:
        """Judge the candidacy as it stands; None when there is none."""
        core = self.core
        document = core.document
        if self.stage is not Stage.VOTE or document is None:
            return None
        if document.term >= self.term:
            self.lose(f"document {document.ref} is of a later term")
            return None
        if any(ref > core.document_ref for ref in self._documents.values()):
            # Somebody holds a newer document: its copy is on the way, and counts.
            return Verdict(control=False, data=False, better=None, missing="newer document")
        promises = self.promises()
        if self.incumbent or document.phase is Phase.INITIALIZING:
            # The server that is primary has every commit; nothing was ever acknowledged before
            # the first database exists. Only the votes are needed.
            control = document.has_majority(promises)
            own = document.primary == core.node
            self.verdict = Verdict(control, data=own, better=None, missing="votes")
        else:
            if self.barred:
                self.lose("the cluster is paused")
                return None
            if self.errand.lost:
                document = document.without(self.errand.lost)
            least = core.cluster.min_votes
            verdict = judge(document, core.node, promises, min_votes=least, alone=self.alone)
            self.verdict = excused(core, document, verdict, promises, forced=self.errand.forced)
        return self.verdict

    def promises(self) -> dict[NodeId, Promise]:
        """Return the votes; of those that were judged by another document than ours nothing else.

        Where the WAL of a node ends among others depends on the timelines that its document knows:
        by an older one it may seem to be behind, and by a newer one it is not for us to say.
        """
        count = voices(self.core.document, self._documents, self._promises)
        counted = {node: self._comparable(node) for node in count}
        return {**counted, self.core.node: self.core.own_promise(self.term)}

    def _comparable(self, node: NodeId) -> Promise:
        promise = self._promises[node]
        if self._documents[node] == self.core.document_ref:
            return promise
        return replace(promise, detached=False, position=None)

    # ------------------------------------------------------------ helpers

    def _begin(self, now: Instant, stage: Stage) -> None:
        self.stage = stage
        self.give_up_ns = now.mono_ns + milliseconds(self.core.settings.candidacy_timeout_ms)
        self._documents, self.refusals, self.verdict = {}, {}, None
        self.incumbent = False

    def _pre_vote_won(self) -> bool:
        document = self.core.document
        return document is not None and (self.alone or document.has_majority(self._granted))

    def pre_vote_won(self) -> bool:
        return self.stage is Stage.PRE_VOTE and self._pre_vote_won()

    def _ask(self, now: Instant) -> None:
        core = self.core
        asks_first = self.stage is Stage.PRE_VOTE
        seldom = asks_first and self._failures >= SELDOM_AFTER
        repeats = SELDOM if seldom else 1
        self._retry_at_ns = now.mono_ns + repeats * milliseconds(core.settings.retry_ms)
        if asks_first:
            request = PreVoteRequest(
                self.term, self._nonce, core.document_ref, core.advisory_position()
            )
            core.broadcast((n for n in core.others() if n not in self._granted), request)
        else:
            vote = VoteRequest(self.term, core.document_ref)
            waiting = (
                n
                for n in core.others()
                if n not in self._promises or not self._comparable(n).detached
            )
            core.broadcast(waiting, vote)

    def _why_not(self) -> str:
        if self.verdict is not None and self.verdict.missing:
            return self.verdict.missing
        refused = ", ".join(f"{node}: {why}" for node, why in sorted(self.refusals.items()))
        return refused or "nobody answered"
