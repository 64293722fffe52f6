"""`a` leads `b`, `c` and others in term 4 with a server that serves; what it is told, and answers.

An `Office` is the election of `a`: time goes by hand, the others answer what they are let answer,
and the server is as the pictures say. After every step its next deadline has to lie ahead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from resuming_kit import DOCUMENT, VOTERS, A, B, C

from metako.election.election import Election
from metako.election.leader import Leader
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.wants import GuardDeadline
from metako.model.document import ClusterDocument, Switchover, SyncMember, SyncSet
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, milliseconds, seconds
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerState
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    StandbySeen,
    SyncSetting,
    sync_setting,
)
from metako.model.timeline import HistoryStep
from metako.wire.messages import DocumentAck, DocumentOffer, Heartbeat, HeartbeatAck, Release

SETTINGS = ElectionSettings()
END = Lsn(1 << 24)
"""Where the WAL of `a` ends in the first picture."""
OF_THREE = replace(
    DOCUMENT,
    primary_data_id=DataId("a"),
    sync=SyncSet((SyncMember(B, DataId("b")), SyncMember(C, DataId("c"))), 1),
)

LISTED = sync_setting(OF_THREE.sync)


def member(node: NodeId, state: MemberState = MemberState.ALIVE, priority: int = 100) -> Member:
    meta = MemberMeta(
        state=ServerState.STREAMING,
        data_id=DataId(node),
        postgres_address=Address("h", 2),
        priority=priority,
    )
    return Member(node, 1, 1, state, Address("h", 1), meta)


def standby(node: NodeId, flush: int = END, *, streaming: bool = True) -> StandbySeen:
    return StandbySeen(node, streaming, Lsn(flush), Lsn(flush), counted=True)


def serving(
    standbys: Sequence[StandbySeen] = (standby(B), standby(C)),
    *,
    lsn: int = END,
    sync: SyncSetting = LISTED,
    checkpointed: str = "",
) -> PostgresObserved:
    """Return the picture of a server that is the primary of term 4."""
    return PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        system_id=1,
        data_id=DataId("a"),
        in_recovery=False,
        timeline=TimelineId(2),
        history=(HistoryStep(TimelineId(2), Lsn(0)),),
        max_tli=TimelineId(2),
        lsn=Lsn(lsn),
        sync_applied=sync,
        sync_barrier=sync,
        admitting=True,
        marker_term=Term(4),
        standbys=tuple(standbys),
        checkpointed=checkpointed,
    )


def switchover(to: NodeId | None = B, order_id: str = "o1", timeout_ms: int = 10_000) -> Order:
    return Order(order_id, OrderKind.SWITCHOVER, to, timeout_ms)


def cancel(order_id: str = "c1") -> Order:
    return Order(order_id, OrderKind.CANCEL_SWITCHOVER, None, 0)


class Office:
    """See the module's docstring."""

    def __init__(
        self,
        document: ClusterDocument = OF_THREE,
        *,
        answering: Collection[NodeId] = VOTERS,
        settings: ElectionSettings = SETTINGS,
        seen: bool = True,
        roster: Callable[[NodeId], Member] = member,
    ) -> None:
        """Take office with everything committed and, unless told otherwise, the server seen."""
        self.ms = 100_000.0
        self.wall_ahead_ms = 0  # of the other clocks
        self.answering = set(answering) - {A}
        self.events: list[Event] = []
        self.answers: list[OrderAnswer] = []
        self.sent: list[tuple[NodeId, object]] = []  # by the last step
        self.released: list[Release] = []
        self.target: PostgresTarget | None = None
        self.picture = serving(sync=sync_setting(document.sync))
        self.election = Election(
            settings=settings,
            cluster=ClusterSettings("t", A, document.voters, acks=document.sync.k),
            hard=HardState(
                *(A, 7, Term(4), A, Term(4), Term(0), 2000, document),
                record_id=document.record_of(A).record_id,
            ),
            rng=random.Random(1),
            now=self.now,
            armed=GuardDeadline(Term(4), self.now.boot_ns + seconds(1.5)),
        )
        self.know(*(roster(node) for node in document.members()))
        if seen:
            self.look()
        self.run(20)

    # ------------------------------------------------------------ what happens

    @property
    def now(self) -> Instant:
        return Instant(
            milliseconds(self.ms), milliseconds(self.ms), int(self.ms + self.wall_ahead_ms)
        )

    @property
    def leader(self) -> Leader:
        assert self.election.leader is not None
        return self.election.leader

    @property
    def document(self) -> ClusterDocument:
        """The newest document that is on a majority."""
        assert self.leader.committed is not None
        return self.leader.committed

    @property
    def wish(self) -> Switchover | None:
        return self.document.switchover

    def know(self, *members: Member) -> None:
        known = {**self.election.core.members, **{each.node: each for each in members}}
        self.election.roster(known, object())

    def give(self, order: Order) -> OrderAnswer | None:
        """Give an order to this node; return the answer, if it comes at once."""
        before = len(self.answers)
        self.election.order(self.now, order)
        self.settle()
        return self.answers[before] if len(self.answers) > before else None

    def receive(self, sender: NodeId, message: object) -> None:
        self.election.receive(self.now, sender, message)  # type: ignore[arg-type]
        self.settle()

    def look(self, picture: PostgresObserved | None = None, **changes: object) -> None:
        """Have the server be as in `picture`, or as it was but for some changes."""
        picture = replace(picture or self.picture, **changes)  # type: ignore[arg-type]
        self.picture = replace(picture, under=self.target)
        self.election.observe(self.now, self.picture)
        self.settle()

    def run(self, ms: float, step_ms: float = 5) -> None:
        """Let time go by, with the server as it is."""
        end = self.ms + ms
        while self.ms < end:
            self.ms = min(end, self.ms + step_ms)
            self.election.tick(self.now)
            self.settle()

    def stop(self) -> None:
        self.election.stop(self.now)
        self.settle()

    def settle(self) -> None:
        """Take the output of the last step, and have the others answer it."""
        self.sent = []
        while True:
            output = self.election.output(self.now)
            self.target = output.target
            self.events += output.events
            self.answers += output.answers
            self.sent += output.outbound
            due = self.election.wakeup()
            assert due > self.now.mono_ns or self.election.stopped, "it would never sleep"
            if not output.outbound:
                return
            for to, message in output.outbound:
                self._answer(to, message)

    def _answer(self, to: NodeId, message: object) -> None:
        if isinstance(message, Release) and message not in self.released:
            self.released.append(message)
        if to not in self.answering:
            return
        newest = self.election.core.document_ref
        if isinstance(message, Heartbeat):
            ack = HeartbeatAck(message.term, message.boot_epoch, message.round, message.committed)
            self.election.receive(self.now, to, ack)
        elif isinstance(message, DocumentOffer) and message.document.ref == newest:
            self.election.receive(self.now, to, DocumentAck(message.term, newest))

    # ------------------------------------------------------------ what is seen

    def told(self, name: EventName) -> list[dict[str, object]]:
        """Return the fields of the events of that name, in order."""
        return [dict(event.fields) for event in self.events if event.name is name]

    def beats(self) -> list[Heartbeat]:
        """Return the heartbeats of the last step."""
        return [message for _, message in self.sent if isinstance(message, Heartbeat)]

    # ------------------------------------------------------------ on the way

    def checkpoint(self, handover: str = "o1", *flushed: NodeId, grown: int = 100) -> None:
        """Have the checkpoint be seen, with more WAL, which some standbys have flushed."""
        lsn = self.picture.lsn + grown
        seen = tuple(
            standby(each.node, lsn if each.node in flushed else each.flush_lsn)
            for each in self.picture.standbys
        )
        self.look(checkpointed=handover, lsn=Lsn(lsn), standbys=seen)

    def gone(self) -> None:
        """Have the server be seen gone."""
        self.look(PostgresObserved(data=DataState.PRESENT, process=ProcessState.STOPPED))
