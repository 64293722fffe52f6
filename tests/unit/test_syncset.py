"""The order of changes of the sync set, and what would be lost if it were otherwise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from metako.election.syncset import Order, SyncChange, next_change
from metako.model.document import Durability, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId


def member(node: str) -> SyncMember:
    return SyncMember(NodeId(node), DataId(f"data-{node}"))


def sync(nodes: str, k: int | None = None) -> SyncSet:
    chosen = tuple(member(n) for n in nodes)
    return SyncSet(chosen, (1 if nodes else 0) if k is None else k)


def change(
    current: SyncSet,
    streaming: str | list[SyncMember],
    *,
    awaited: str = "",
    k: int = 1,
    durability: Durability = Durability.QUORUM,
) -> SyncChange | None:
    here = [member(n) if isinstance(n, str) else n for n in streaming]
    wanted = [*here, *(member(n) for n in awaited)]
    return next_change(current, wanted, streaming=here, k=k, durability=durability)


def test_adding_a_standby_changes_the_document_first() -> None:
    result = change(sync("a"), "ab")
    assert result is not None
    assert (result.new, result.order) == (sync("ab"), Order.DOCUMENT_FIRST)


def test_all_standbys_that_are_new_are_added_by_one_change() -> None:
    result = change(sync("bd", 2), "abcde", k=2)
    assert result is not None
    assert (result.new, result.order) == (sync("abcde", 2), Order.DOCUMENT_FIRST)


def test_removing_a_standby_changes_postgresql_first() -> None:
    result = change(sync("ab"), "a")
    assert result is not None
    assert (result.new, result.order) == (sync("a"), Order.POSTGRES_FIRST)


def test_growing_from_empty_changes_postgresql_first() -> None:
    result = change(sync(""), "ab")
    assert result is not None
    assert (result.new, result.order) == (sync("a"), Order.POSTGRES_FIRST)


def test_shrinking_to_empty_changes_the_document_first() -> None:
    result = change(sync("ab"), "")
    assert result is not None
    assert (result.new, result.order) == (sync(""), Order.DOCUMENT_FIRST)


def test_strict_never_falls_below_its_acknowledgements() -> None:
    assert change(sync("a"), "", durability=Durability.STRICT) is None
    assert change(sync("ab", 2), "a", k=2, durability=Durability.STRICT) is None


def test_async_empties_the_set() -> None:
    result = change(sync("ab"), "ab", durability=Durability.ASYNC)
    assert result is not None
    assert result.new == sync("")


def test_a_replaced_data_directory_leaves_before_it_returns() -> None:
    old = SyncSet((SyncMember(NodeId("a"), DataId("old")), member("b")), 1)
    first = change(old, "ab")
    assert first is not None
    assert first.new == sync("b")
    assert first.order is Order.POSTGRES_FIRST


@dataclass(frozen=True)
class Side:
    nodes: frozenset[str]
    k: int


def violated(document: Side, postgres: Side) -> bool:
    """Return whether a commit covered by PostgreSQL's side could escape the document's quorum.

    The commit is on the primary and on k_p of S_p. The elector reads R_d = |S_d| − k_d + 1 of S_d
    (or the primary). It escapes if some k_p-subset of S_p misses some R_d-subset of S_d.
    """
    if not document.nodes:
        return False  # only the primary itself may be asked
    r = len(document.nodes) - document.k + 1
    for holders in itertools.combinations(sorted(postgres.nodes), postgres.k):
        for readers in itertools.combinations(sorted(document.nodes), r):
            if not set(holders) & set(readers):
                return True
    return False


def side(sync_set: SyncSet) -> Side:
    return Side(frozenset(str(n) for n in sync_set.nodes()), sync_set.k)


@pytest.mark.parametrize("durability", [Durability.QUORUM, Durability.STRICT])
def test_no_step_of_any_change_lets_a_commit_escape_the_next_election(
    durability: Durability,
) -> None:
    """Every start, every goal, |S| ≤ 5, k ≤ 3: the quorums meet before, between and after."""
    names = "abcde"
    subsets = ["".join(c) for n in range(len(names) + 1) for c in itertools.combinations(names, n)]
    steps = 0
    for start in subsets:
        for k_start in range(1 if start else 0, min(3, len(start)) + 1):
            for goal in subsets:
                for k_goal in (1, 2, 3):
                    current = sync(start, k_start)
                    for _ in range(20):
                        step = change(current, goal, k=k_goal, durability=durability)
                        if step is None:
                            break
                        steps += 1
                        old, new = side(current), side(step.new)
                        between = (new, old) if step.order is Order.DOCUMENT_FIRST else (old, new)
                        assert not violated(old, old)
                        assert not violated(*between), (current, step)
                        assert not violated(new, new)
                        current = step.new
                    else:
                        pytest.fail(f"never settles: {start} {k_start} → {goal} {k_goal}")
    assert steps > 10_000


def test_the_wrong_order_would_be_caught() -> None:
    removed_first_in_document = (side(sync("a")), side(sync("ab")))
    assert violated(*removed_first_in_document)
    emptied_in_postgres_first = (side(sync("a")), side(sync("")))
    assert violated(*emptied_in_postgres_first)


def test_acknowledgements_are_lowered_before_the_first_of_several_lost_is_removed() -> None:
    """The barrier of the removal would wait for one that is lost as well."""
    result = change(sync("abc", 2), "c", k=2)
    assert result is not None
    assert (result.new, result.order) == (sync("abc", 1), Order.DOCUMENT_FIRST)
    # With enough of them left it is removed at once.
    assert change(sync("abc", 2), "bc", k=2) == SyncChange(
        sync("bc", 2), Order.POSTGRES_FIRST, "remove a"
    )


def test_replaced_standby_leaves_after_those_that_are_lost() -> None:
    """Every change waits for k of those that stay, and only its server is there to answer."""
    current, replaced = sync("abc", 2), SyncMember(NodeId("a"), DataId("other"))
    order = []
    while (step := change(current, [replaced], k=2)) is not None:
        order.append(step.why)
        current = step.new
    assert order == [
        "lower k to 1", "remove b", "remove c", "a was the last", "first standby a",
    ]  # fmt: skip
    assert current == SyncSet((replaced,), 1)


def test_standby_that_is_new_is_added_before_one_that_was_replaced_leaves() -> None:
    replaced = SyncMember(NodeId("a"), DataId("other"))
    step = change(sync("ab"), [replaced, member("c")])
    assert step is not None
    assert step.why == "add c"


def test_strict_keeps_the_entry_of_a_replaced_standby_until_another_has_come() -> None:
    replaced = SyncMember(NodeId("a"), DataId("other"))
    strict = Durability.STRICT
    assert change(sync("a"), [replaced], k=1, durability=strict) is None
    assert change(sync("ab", 2), [replaced, member("b")], k=2, durability=strict) is None
    step = change(sync("ac"), [replaced, member("c")], k=1, durability=strict)
    assert step is not None
    assert step.new == sync("c")


def test_acknowledgements_are_raised_only_to_as_many_as_stream() -> None:
    """An awaited standby stays listed, but no commit is made to wait for it."""
    assert change(sync("ab"), "a", awaited="b", k=2) is None
    step = change(sync("ab"), "ab", k=2)
    assert step is not None
    assert (step.new, step.order) == (sync("ab", 2), Order.POSTGRES_FIRST)
    step = change(sync("abc"), "ab", awaited="c", k=3)
    assert step is not None
    assert step.new == sync("abc", 2)
