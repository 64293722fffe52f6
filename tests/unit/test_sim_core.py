"""Who counts when a core is chosen that has to become whole by itself."""

from metako.model.ids import NodeId
from sim.core import vouching
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
