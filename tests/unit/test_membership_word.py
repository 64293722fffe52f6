"""Which messages without rumours show only that their sender lives."""

from __future__ import annotations

import pytest

from metako.membership.probe import Probe
from metako.membership.roster import Entry
from metako.membership.word import shows_only_life
from metako.model.ids import Address, NodeId
from metako.model.member import MemberState

ME, A, B = NodeId("me"), NodeId("a"), NodeId("b")
AT = Address("10.0.0.1", 7946)
OWN = Entry(ME, 3, 1, MemberState.ALIVE, AT)
PROBE_OF_B = Probe(B, 1, timeout_ns=1, deadline_ns=2)


def test_word_of_a_living_member_shows_only_life() -> None:
    entry = Entry(A, 1, 1, MemberState.ALIVE, AT)
    assert shows_only_life(entry, 1, own=OWN, probe=None)
    assert shows_only_life(entry, 1, own=OWN, probe=PROBE_OF_B)


@pytest.mark.parametrize(
    ("entry", "boot_epoch"),
    [
        (None, 1),
        (Entry(A, 1, 1, MemberState.ALIVE, AT), 2),  # a life that is not known yet
        (Entry(A, 2, 1, MemberState.ALIVE, AT), 1),  # a former life
        (Entry(A, 1, 1, MemberState.SUSPECT, AT), 1),
        (Entry(A, 1, 1, MemberState.DEAD, AT), 1),
        (Entry(A, 1, 1, MemberState.LEFT, AT), 1),
        (Entry(B, 1, 1, MemberState.ALIVE, AT), 1),  # the probe of it ends well
        (OWN, 3),  # somebody else uses our name and our key
    ],
)
def test_any_other_word_says_more(entry: Entry | None, boot_epoch: int) -> None:
    assert not shows_only_life(entry, boot_epoch, own=OWN, probe=PROBE_OF_B)
