"""A hostile world against one `Membership`: whatever is heard, the invariants hold.

The machine speaks for peers and strangers, lies about everybody including the node itself, lets
time pass on time, late, or not at all, and checks after each step what must always be true.
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metako.membership import Membership, MembershipConfig, MembershipOutput
from metako.membership.dissemination import UPDATES_MAX, update_bytes
from metako.model.events import EventName
from metako.model.ids import Address, NodeId
from metako.model.instant import Instant, milliseconds
from metako.model.member import MemberMeta, MemberState
from metako.wire.messages import (
    Ack,
    Candidacy,
    Gossip,
    MemberUpdate,
    Message,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Received,
)

ME = NodeId("me")
PEERS = [NodeId(f"p{i}") for i in range(3)]
STRANGERS = [NodeId(f"s{i}") for i in range(6)]
EVERYBODY = [ME, *PEERS, *STRANGERS]
ADDRESSES = [Address(f"10.0.0.{i}", 7946) for i in range(4)]
OWN_EPOCH = 3
CONFIG = MembershipConfig(
    max_members=7, max_rumours=5, max_relays=2, dead_reclaim_s=40, awareness_max=4
)
STEPS_MAX = 2000

nodes = st.sampled_from(EVERYBODY)
sequences = st.integers(0, 30)
updates = st.lists(
    st.builds(
        MemberUpdate,
        nodes,
        st.integers(0, 5),
        st.one_of(st.integers(0, 6), st.sampled_from([1 << 62, (1 << 63) - 1])),
        st.sampled_from(MemberState),
        address=st.none() | st.sampled_from(ADDRESSES),
        meta=st.none() | st.builds(MemberMeta, priority=st.integers(0, 3)),
        accuser=st.none() | nodes,
    ),
    max_size=4,
).map(tuple)
messages = st.one_of(
    st.builds(Ping, sequences, updates),
    st.builds(PingRequest, sequences, nodes, updates),
    st.builds(Ack, sequences, updates),
    st.builds(Nack, sequences),
    st.builds(Gossip, updates),
    st.builds(PushPull, st.booleans(), updates),
    st.just(Candidacy(1)),  # type: ignore[arg-type]  # a Term is an int
)


class World(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def start(self, seed: int) -> None:
        self.now = Instant(milliseconds(5000), milliseconds(5000))
        self.core = Membership(
            config=CONFIG,
            node=ME,
            boot_epoch=OWN_EPOCH,
            address=ADDRESSES[0],
            meta=MemberMeta(),
            peers=list(zip(PEERS, ADDRESSES, strict=False)),
            rng=random.Random(seed),
        )
        self.incarnation = 1
        self.lives: dict[NodeId, tuple[int, int]] = {}
        self.left_lives: set[tuple[NodeId, int]] = set()
        self.check(self.core.start(self.now))

    @rule(sender=nodes, epoch=st.integers(0, 5), message=messages)
    def hear(self, sender: NodeId, epoch: int, message: Message) -> None:
        output = self.core.receive(self.now, Received(sender, epoch, message))
        self.check(output)
        # No amplification: one message makes at most one.
        assert len(output.outbound) <= 1

    @rule(duration_ms=st.integers(1, 3000))
    def pass_time(self, duration_ms: int) -> None:
        """Let time pass with every tick on time."""
        end_ns = self.now.mono_ns + milliseconds(duration_ms)
        for _ in range(STEPS_MAX):
            due_ns = self.core.wakeup()
            if due_ns is None or due_ns > end_ns:
                break
            assert due_ns >= self.now.mono_ns
            self.now = self.now.plus(due_ns - self.now.mono_ns)
            self.check(self.core.tick(self.now))
        else:
            raise AssertionError("tick leaves work that is due for ever")
        self.now = self.now.plus(end_ns - self.now.mono_ns)

    @rule(duration_ms=st.integers(1, 100_000))
    def be_late(self, duration_ms: int) -> None:
        """Let the process be paused, then tick once."""
        self.now = self.now.plus(milliseconds(duration_ms))
        stalls = self.core.counters.stalls
        due_ns = self.core.wakeup()
        output = self.core.tick(self.now)
        self.check(output)
        if due_ns is not None and self.now.mono_ns - due_ns > milliseconds(CONFIG.stall_ms):
            assert self.core.counters.stalls == stalls + 1
            # Nobody is accused or buried for a silence that was our own.
            assert not {e.name for e in output.events} & {
                EventName.MEMBER_SUSPECT,
                EventName.MEMBER_DEAD,
            }

    @rule(duration_ms=st.integers(1, 100_000))
    def suspend(self, duration_ms: int) -> None:
        self.now = Instant(self.now.mono_ns, self.now.boot_ns + milliseconds(duration_ms))
        self.check(self.core.tick(self.now))

    @rule(priority=st.integers(0, 3))
    def set_meta(self, priority: int) -> None:
        self.core.set_meta(self.now, MemberMeta(priority=priority))

    @invariant()
    def never_dead_to_itself(self) -> None:
        own = self.own
        assert own.state is MemberState.ALIVE
        assert own.boot_epoch == OWN_EPOCH
        assert own.address == ADDRESSES[0]

    @invariant()
    def own_incarnation_never_falls(self) -> None:
        assert self.own.incarnation >= self.incarnation
        self.incarnation = self.own.incarnation

    @invariant()
    def lives_and_incarnations_never_fall(self) -> None:
        present = {m.node: m for m in self.core.members()}
        self.lives = {node: life for node, life in self.lives.items() if node in present}
        self.left_lives = {life for life in self.left_lives if life[0] in present}
        for node, member in present.items():
            life = (member.boot_epoch, member.incarnation)
            assert life >= self.lives.get(node, (0, 0)), (node, life)
            self.lives[node] = life

    @invariant()
    def left_is_final_for_its_life(self) -> None:
        for member in self.core.members():
            life = (member.node, member.boot_epoch)
            if member.state is MemberState.LEFT:
                self.left_lives.add(life)
            assert life not in self.left_lives or member.state is MemberState.LEFT

    @invariant()
    def everything_is_bounded(self) -> None:
        members = self.core.members()
        assert len(members) <= CONFIG.max_members
        assert [m.node for m in members] == sorted(m.node for m in members)
        assert set(PEERS) <= {m.node for m in members}
        assert 0 <= self.core.health_score < CONFIG.awareness_max
        # White box: the queues have no other window.
        view = self.core._view
        assert len(view.rumours) <= CONFIG.max_rumours
        assert len(self.core._relays) <= CONFIG.max_relays
        suspects = {m.node for m in members if m.state is MemberState.SUSPECT}
        assert set(view.suspicions) == suspects

    @property
    def own(self):
        return next(m for m in self.core.members() if m.node == ME)

    def check(self, output: MembershipOutput) -> None:
        """Check what goes out: to known names only, small enough, never to ourselves."""
        known = {m.node for m in self.core.members()}
        for outbound in output.outbound:
            assert outbound.to != ME
            assert outbound.to in known
            carried = getattr(outbound.message, "updates", ())
            if not outbound.stream:
                assert len(carried) <= UPDATES_MAX
                assert sum(map(update_bytes, carried)) <= CONFIG.datagram_updates_bytes
            for update in carried:
                assert update.state is not MemberState.EXPECTED
                accused = update.state in (MemberState.SUSPECT, MemberState.DEAD)
                assert not (update.node == ME and accused)
        for event in output.events:
            node = dict(event.fields)["node"]
            assert node in known
            assert node != ME or event.name is EventName.MEMBER_CONFLICT


World.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
TestWorld = World.TestCase
