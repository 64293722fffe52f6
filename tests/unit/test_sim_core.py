"""Who counts when a core is chosen that has to become whole by itself."""

from dataclasses import replace

from metako.model.ids import NodeId
from sim.core import qualifies, vouching
from sim.settled import document, settled

ALL = ("a", "b", "c")


def test_a_listed_standby_vouches_for_what_was_acknowledged():
    world = settled()
    assert sorted(vouching(world, document(world), ALL)) == ["b", "c"]


def test_one_whose_promotion_is_under_way_leaves_the_history_yet():
    world = settled()
    server = world.nodes[NodeId("b")].server
    server.promote_hangs = True
    server.promote(lambda: None)
    assert vouching(world, document(world), ALL) == ("c",)


def test_one_that_was_half_rewound_vouches_for_nothing():
    world = settled()
    world.nodes[NodeId("c")].server.data.tainted = True
    assert vouching(world, document(world), ALL) == ("b",)


def test_a_core_stays_one_when_what_is_under_way_is_done():
    """A leader removes a member, or gives a vote, before it notices who was lost just now."""
    world = settled("abcde")
    core = ("a", "b", "c")
    assert qualifies(world, core)
    leaving = replace(document(world), version=99, leaving=(NodeId("c"),))
    for name in core:
        node = world.nodes[NodeId(name)]
        node.hard = replace(node.hard, document=leaving)
    assert not qualifies(world, core), "without c two of four are left"
    joining = replace(leaving, version=100, leaving=(), voters=leaving.voters[:3])
    joining = replace(joining, learners=("d",), joining=("d",))
    for name in core:
        node = world.nodes[NodeId(name)]
        node.hard = replace(node.hard, document=joining)
    assert qualifies(world, core)
    assert not qualifies(world, ("a", "b")), "with d two of four are left"


def test_a_document_counts_that_may_be_on_the_disk():
    world = settled("abc")
    assert qualifies(world, ("a", "b"))
    node = world.nodes[NodeId("b")]
    more = replace(document(world), version=99, voters=("a", "b", "c", "d"))
    node.unsure = replace(node.hard, document=more)
    assert not qualifies(world, ("a", "b")), "it may start by a document of four voters"
