"""What a worker believes about the primary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metako.model.ids import Address, NodeId, Term
from metako.model.routing import RouteTarget, RoutingTable
from metako.proxy.routes import AGENT_AWAY_MIN_NS, AGENT_SILENT_NS, Route, Routes


def table(term: int, node: str | None, until: int = 100, port: int = 5432) -> RoutingTable:
    primary = RouteTarget(NodeId(node), Address("h", port)) if node else None
    return RoutingTable(Term(term), primary, (), until)


def route(term: int, node: str) -> Route:
    return Route(Term(term), NodeId(node), Address("h", 5432))


def test_nothing_is_known_before_the_first_table() -> None:
    routes = Routes()
    assert routes.current(0) is None
    assert routes.last() is None
    assert not routes.refuses(10**12)


def test_table_names_the_primary_until_it_expires() -> None:
    routes = Routes()
    assert routes.receive(table(1, "a", until=100), 0)
    assert routes.current(99) == route(1, "a")
    assert routes.current(100) is None


def test_expiry_does_not_end_sessions() -> None:
    routes = Routes()
    routes.receive(table(1, "a", until=100), 0)
    assert routes.keeps(route(1, "a"))
    assert routes.last() == route(1, "a")


def test_lower_term_is_ignored() -> None:
    routes = Routes()
    routes.receive(table(5, "b"), 0)
    assert not routes.receive(table(4, "a"), 0)
    assert routes.current(1) == route(5, "b")


def test_replicas_are_taken_from_a_table_of_a_lower_term() -> None:
    # An agent that lost its record knows no term, but sees that the server follows nobody.
    replica = RouteTarget(NodeId("c"), Address("127.0.0.1", 5432))
    routes = Routes()
    routes.receive(RoutingTable(Term(5), None, (replica,), 0), 0)
    assert routes.replicas == (replica,)
    assert not routes.receive(table(0, None), 0)
    assert routes.replicas == ()


def test_no_primary_in_the_same_term_keeps_sessions_and_admits_none() -> None:
    routes = Routes()
    routes.receive(table(5, "a"), 0)
    routes.receive(table(5, None), 0)
    assert routes.current(1) is None
    assert routes.keeps(route(5, "a"))
    assert routes.last() == route(5, "a")


def test_no_primary_in_a_higher_term_ends_sessions() -> None:
    routes = Routes()
    routes.receive(table(5, "a"), 0)
    routes.receive(table(6, None), 0)
    assert not routes.keeps(route(5, "a"))
    assert routes.last() is None


def test_another_primary_ends_sessions_also_in_the_same_term() -> None:
    routes = Routes()
    routes.receive(table(5, "a"), 0)
    routes.receive(table(5, None), 0)
    routes.receive(table(5, "b"), 0)
    assert not routes.keeps(route(5, "a"))
    assert routes.keeps(route(5, "b"))


def test_same_node_in_a_higher_term_ends_sessions() -> None:
    routes = Routes()
    routes.receive(table(5, "a"), 0)
    routes.receive(table(6, "a"), 0)
    assert not routes.keeps(route(5, "a"))
    assert routes.current(1) == route(6, "a")


S = 10**9  # nanoseconds in a second


def test_new_sessions_are_refused_once_a_table_with_a_primary_is_not_renewed() -> None:
    routes = Routes()
    routes.receive(table(1, "a", until=10 * S), 0)
    assert not routes.refuses(10 * S + AGENT_SILENT_NS)
    assert routes.refuses(10 * S + AGENT_SILENT_NS + 1)
    routes.receive(table(1, None, until=0), 12 * S)
    assert not routes.refuses(12 * S)


def test_agent_has_time_to_restart_after_a_table_without_a_primary() -> None:
    routes = Routes()
    routes.receive(table(1, None, until=0), 0)
    routes.agent_went(0)
    assert not routes.refuses(AGENT_AWAY_MIN_NS)
    assert routes.refuses(AGENT_AWAY_MIN_NS + 1)


def test_connected_agent_that_knows_no_primary_is_waited_for() -> None:
    routes = Routes()
    routes.receive(table(1, None, until=0), 0)
    routes.agent_went(1 * S)
    routes.agent_came()
    assert not routes.refuses(1000 * S)


def test_repeated_loss_of_the_agent_does_not_restart_the_count() -> None:
    routes = Routes()
    routes.receive(table(1, None, until=0), 0)
    routes.agent_went(1 * S)
    routes.agent_went(3 * S)
    assert routes.refuses(4 * S)


STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([None, "a", "b", "c"]), st.integers(0, 300)),
    max_size=30,
)


@given(STEPS)
def test_named_route_is_always_of_the_highest_term_seen(
    steps: list[tuple[int, str | None, int]],
) -> None:
    routes = Routes()
    highest = 0
    for now, (term, node, until) in enumerate(steps):
        routes.receive(table(term, node, until), now)
        highest = max(highest, term)
        current = routes.current(now)
        assert routes.term == highest
        if current is not None:
            assert current.term == highest
            assert routes.keeps(current)
            assert current == routes.last()
