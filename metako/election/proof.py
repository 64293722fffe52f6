"""Commits that do not return: a leader steps down for who has proved that it could lead.

A primary can be heard by everybody and be of no use: no standby reaches its server any more, and in
`strict` none leaves the sync set; or its disk hangs, and its server answers. Its lease goes on.
Whether another one would do better it does not know, so it has one ask, by a pre-vote to which its
own hold is no obstacle. Nothing is changed by that anywhere, and the election that follows the
release proves all of it again, with promises.

Slow standbys depose nobody. A listed one that streams and has something to flush reaches the
primary, and would be as slow under another; so would one that thinks that it streams when the
primary has long given it up, for it hangs.

In: pictures of the server, gossip, heartbeats that name an heir, answers to its sounding. Out: whom
to name, the end of the server, acknowledgements that say "proven". Source: DESIGN §4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.quorum import Promise, data_quorum
from metako.model.document import ClusterDocument, Durability, SyncSet
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId
from metako.model.instant import Instant, seconds
from metako.model.member import ServerRole, ServerState
from metako.wire.messages import Heartbeat, HeartbeatAck, PreVoteReply, PreVoteRequest

if TYPE_CHECKING:
    from metako.election.candidate import Candidate
    from metako.election.leader import Leader

BLOCKED_S = 15.0
"""Commits have to be blocked for so long. PostgreSQL gives a standby up that says nothing for 10 s,
and the sync set shrinks meanwhile where it may: whoever can help itself has done so by then."""
OFFICE_S = 30.0
"""A leader does not step down sooner after it took office, so that a fault that every primary meets
does not send the office round."""
TURN_S = 3.0
"""For so long one node is asked before it is another one's turn."""
ASK_AGAIN_S = 1.0
"""An heir asks anew after so long: what it proves is never older."""
PROVED_S = 5.0
"""A proof has to hold for so long. Standbys that were lost and come back answer a moment before
they stream, and commits return by themselves then."""
ROUNDS_MAX = 4
"""A proof counts for so many rounds of heartbeats after the one that it answers."""


class Blocked:
    """The leader's part, of one leadership."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.heir: NodeId | None = None  # who is to prove that it could lead
        self.proven: NodeId | None = None  # for whom the server was ended
        self.why = ""  # commits do not return and nobody is named; "" while there is no such reason
        self._since_ns: int | None = None  # CLOCK_MONOTONIC; None while commits return
        self._sync: SyncSet | None = None  # by which they have been blocked since then
        self._office_ns: int | None = None  # when this leader began to serve
        self._asked = self._proved = 0  # rounds: the first one that names the heir; its proof's
        self._proved_ns: int | None = None  # since when there has been a proof; None: there is none

    def adopt(self, other: Blocked) -> None:
        """Go on with what an earlier leadership of the same server has seen."""
        self._since_ns, self._sync = other._since_ns, other._sync
        self._office_ns = other._office_ns

    def heard_proof(self, sender: NodeId, ack: HeartbeatAck) -> None:
        """Take an answer that says "proven"; rounds count within the boot epoch of an agent."""
        ours = ack.boot_epoch == self._core.hard.boot_epoch
        if ours and sender == self.heir and ack.round >= self._asked:
            self._proved = max(self._proved, ack.round)

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Name an heir, or step down for the one that has proved that it could lead.

        Args:
            now: the time of this step.
            leader: whose server is a primary that serves, with no change under way.
            document: of its own term, committed.
        """
        observed = self._core.observed
        if self._office_ns is None:
            self._office_ns = now.mono_ns
        if not observed.commit_blocked or observed.silent or document.sync != self._sync:
            self._since_ns = now.mono_ns if observed.commit_blocked else None
            self._sync, self.heir, self.why, self._proved_ns = document.sync, None, "", None
            return
        if self._since_ns is None:
            self._since_ns = now.mono_ns
        blocked_ns = now.mono_ns - self._since_ns
        if blocked_ns < seconds(BLOCKED_S) or now.mono_ns - self._office_ns < seconds(OFFICE_S):
            return
        why, fit = self._judge(document)
        if self.heir not in fit or not self._fresh(leader):
            turn = (blocked_ns - seconds(BLOCKED_S)) // seconds(TURN_S)
            self._name(leader, why, fit[turn % len(fit)] if fit else None)
            self._proved_ns = None
        elif self._proved_ns is None:
            self._proved_ns = now.mono_ns
        elif now.mono_ns - self._proved_ns >= seconds(PROVED_S):
            self.proven = self.heir
            leader.end_server(f"commits do not return, and {self.heir} has proved that it can lead")

    def _fresh(self, leader: Leader) -> bool:
        """Return whether the heir has just proved that it could lead."""
        return self._proved >= max(self._asked, leader.lease.round - ROUNDS_MAX)

    def _name(self, leader: Leader, why: str, heir: NodeId | None) -> None:
        if (heir, why) == (self.heir, self.why):
            return
        self.heir, self.why = heir, why
        self._asked, self._proved = leader.lease.round + 1, 0
        asks = f"{heir} is asked whether it could lead"
        self._core.emit(
            EventName.COMMITS_BLOCKED,
            f"commits have not returned for {BLOCKED_S:g} s and more: {asks if heir else why}",
            Severity.ERROR,
            blocked=True,
            heir=heir,
        )

    def _judge(self, document: ClusterDocument) -> tuple[str, list[NodeId]]:
        """Return why nobody is to be asked, or else who could take over, best first."""
        core, sync = self._core, document.sync
        if document.paused:
            return "the cluster is paused", []
        if document.switchover is not None:
            return "a switchover is under way", []
        if slow := self._slow(sync):
            return f"too slow are the standbys {', '.join(slow)}", []
        found = []
        for node in document.voters:
            member = core.members.get(node)
            meta = member.meta if member is not None else None
            if node == core.node or meta is None or not core.is_alive(node):
                continue
            listed = sync.data_id_of(node) == meta.data_id
            able = meta.role is ServerRole.STANDBY and meta.priority > 0
            if able and listed and node not in document.leaving:
                found.append((-meta.lsn, -meta.priority, node))
        return ("" if found else "no other node could lead"), [node for *_, node in sorted(found)]

    def _slow(self, sync: SyncSet) -> list[NodeId]:
        """Return the listed standbys for which commits would wait under any primary."""
        core = self._core
        streaming = {seen.node: seen for seen in core.observed.standbys if seen.streaming}
        found = []
        for node in sorted(sync.nodes()):
            member, seen = core.members.get(node), streaming.get(node)
            meta = member.meta if member is not None else None
            thinks = meta is not None and meta.state is ServerState.STREAMING
            if seen.behind if seen is not None else thinks and core.is_alive(node):
                found.append(node)
        return found


class Prover:
    """The heir's part."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked_by: tuple[NodeId, Heartbeat] | None = None  # newest heartbeat that names us
        self._nonce = 0
        self._asked_ns = 0  # CLOCK_MONOTONIC; valid with a nonce
        self._answers: dict[NodeId, PreVoteReply] = {}  # of those who would vote for us

    def heard_heartbeat(
        self, now: Instant, leader: NodeId, beat: Heartbeat, candidate: Candidate
    ) -> None:
        """Ask whether we could lead if the leader wants to know, and tell it once it is so."""
        core = self._core
        if beat.heir != core.node or not candidate.may_stand() or candidate.barred:
            self._asked_by, self._nonce, self._answers = None, 0, {}
            return
        self._asked_by = leader, beat
        if not self._nonce or now.mono_ns - self._asked_ns >= seconds(ASK_AGAIN_S):
            self._nonce, self._asked_ns = core.rng.getrandbits(63) | 1, now.mono_ns
            self._answers = {}
            request = PreVoteRequest(
                *(candidate.next_term(), self._nonce, core.document_ref, core.advisory_position()),
                sounding=True,
            )
            core.broadcast((node for node in core.others() if node != leader), request)
        self._tell()

    def heard_reply(self, sender: NodeId, reply: PreVoteReply) -> None:
        """Take an answer to our sounding."""
        if self._asked_by is None or reply.nonce != self._nonce or not reply.granted:
            return
        self._answers[sender] = reply
        self._tell()

    def _tell(self) -> None:
        if self._asked_by is None or not self._proved():
            return
        leader, beat = self._asked_by
        core = self._core
        ack = HeartbeatAck(beat.term, beat.boot_epoch, beat.round, core.document_ref, proven=True)
        core.send(leader, ack)

    def _proved(self) -> bool:
        """Return whether both quorums would be there, of those who have just answered."""
        core, document = self._core, self._core.document
        position = core.advisory_position()
        if document is None or position is None or document.term != core.hard.promised_term:
            return False
        # By another document its WAL, and its vote, may count for something else.
        alike = {n: r for n, r in self._answers.items() if r.document_ref == document.ref}
        if not document.has_majority({core.node, *alike}):
            return False
        own = core.own_promise(core.hard.promised_term)
        believed = {
            node: Promise(node, True, r.data_id, r.position, False, 0, own.max_tli)
            for node, r in alike.items()
            if r.position is not None
        }
        if document.durability is Durability.STRICT and len(believed) < document.sync.k:
            return False
        mine = Promise(core.node, True, core.observed.data_id, position, True, 0, own.max_tli)
        return data_quorum(document, position, {**believed, core.node: mine})
