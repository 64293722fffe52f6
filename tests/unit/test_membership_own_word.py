"""A member of a small cluster that can be reached knows soon what this node has last said."""

from __future__ import annotations

from dataclasses import replace

from membership_solo import ADDRESSES, ME, META, A, B, C, alive, joined, messages

from metako.membership.dissemination import updates_of
from metako.membership.outbox import SMALL_MAX
from metako.model.ids import Address, NodeId
from metako.model.member import ServerRole
from metako.wire.messages import Ack, Gossip, Message, Ping


def own_word(message: Message) -> bool:
    return any(update.node == ME for update in updates_of(message))


def test_own_word_rides_along_until_it_is_confirmed() -> None:
    """Its tellings may all go to members that cannot be reached; whoever can must not wait."""
    solo = joined(A, B, C)
    solo.advance(20)  # nobody answers: every rumour has been told as often as it may
    solo.core.set_meta(solo.now, replace(META, role=ServerRole.STANDBY))
    solo.advance(20)
    solo.hear(A, Gossip((alive(A, incarnation=9),)))
    for sequence in range(20, 40):  # more often than a rumour is told
        (ack,) = messages([solo.hear(A, Ping(sequence, ()))], A)
        assert own_word(ack)
    # Once an own ping to it was answered, it knows. A node whose probes fail sends few of them.
    for _ in range(600):
        asked = [m for m in messages(solo.advance(0.1), A) if isinstance(m, Ping)]
        if asked:
            solo.hear(A, Ack(asked[-1].sequence, ()))
            break
    (ack,) = messages([solo.hear(A, Ping(72, ()))], A)
    assert not own_word(ack)


def test_in_a_large_cluster_it_does_not() -> None:
    many = tuple(NodeId(f"m{number}") for number in range(SMALL_MAX))
    for number, node in enumerate(many):
        ADDRESSES[node] = Address(f"10.0.1.{number}", 7946)
    solo = joined(*many)
    solo.advance(60)
    (ack,) = messages([solo.hear(many[0], Ping(70, ()))], many[0])
    assert not own_word(ack)
