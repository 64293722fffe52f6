"""Timeline histories by table: who is on the document's history, and who has left it."""

from __future__ import annotations

import pytest

from metako.election.reserve import confirm, reserve
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn, RankedPosition, WalPosition
from metako.model.postgres import PostgresObserved
from metako.model.timeline import (
    TIMELINES_IN_FULL_MAX,
    TIMELINES_MAX,
    HistoryStep,
    TimelineEntry,
    chain,
    is_diverged,
    owner_of,
    rank,
    tip_of,
)


def entry(tli: int, parent: int, begin: int, *, confirmed: bool = True) -> TimelineEntry:
    return TimelineEntry(
        Term(tli + 10),
        TimelineId(tli),
        TimelineId(parent),
        Lsn(begin),
        NodeId("a"),
        "test",
        confirmed,
    )


def steps(*pairs: tuple[int, int]) -> tuple[HistoryStep, ...]:
    return tuple(HistoryStep(TimelineId(tli), Lsn(begin)) for tli, begin in pairs)


# 1 ──100── 2 ──200── 4 ; 3 was reserved at 150 and its promotion cut short.
ENTRIES = (
    entry(1, 0, 0),
    entry(2, 1, 100),
    entry(3, 2, 150, confirmed=False),
    entry(4, 2, 200),
)


@pytest.mark.parametrize(
    ("history", "position", "diverged"),
    [
        (((1, 0),), (1, 60), False),  # an old standby, well before the fork
        (((1, 0),), (1, 100), False),  # ends exactly where the next timeline begins
        (((1, 0),), (1, 101), True),  # went on where the others had switched
        (((1, 0), (2, 100)), (2, 180), False),
        (((1, 0), (2, 100)), (2, 200), False),
        (((1, 0), (2, 100)), (2, 201), True),  # the old primary's unacknowledged tail
        (((1, 0), (2, 100), (4, 200)), (4, 500), False),  # the newest timeline has no end
        (((1, 0), (2, 100), (4, 200)), (2, 200), False),  # switched, wrote nothing since
        (((1, 0), (2, 100), (4, 190)), (4, 300), True),  # another promotion, the same number
        # Promoted before its own WAL came to the beginning of 3, whose history it had.
        (((1, 0), (2, 100), (3, 250), (4, 200)), (4, 500), False),
        (((1, 0), (2, 90)), (2, 150), True),
        (((1, 0), (2, 100), (3, 150)), (3, 170), True),  # went on with what was cut short
        (((1, 0), (2, 100), (5, 200)), (5, 300), True),  # promoted by hand
        (((1, 0), (2, 100), (5, 200)), (2, 180), False),  # a history file ahead of its WAL
        ((), (1, 10), False),  # nothing was written here yet
    ],
)
def test_is_diverged(
    history: tuple[tuple[int, int], ...], position: tuple[int, int], diverged: bool
) -> None:
    at = WalPosition(TimelineId(position[0]), Lsn(position[1]))
    assert is_diverged(ENTRIES, TimelineId(4), steps(*history), at) is diverged


@pytest.mark.parametrize(
    ("history", "position", "diverged"),
    [
        (((1, 0), (2, 100), (4, 200)), (4, 500), False),
        (((1, 0), (2, 100)), (2, 180), False),
        (((1, 0), (2, 100)), (2, 201), True),
        (((1, 0), (2, 90)), (2, 150), True),
        (((1, 0),), (1, 60), True),  # nothing is known of it any more: it is cloned
        (((1, 0), (2, 100)), (1, 60), False),  # a restart begins further back than it has been
    ],
)
def test_what_is_older_than_the_record_is_left_out(
    history: tuple[tuple[int, int], ...], position: tuple[int, int], diverged: bool
) -> None:
    at = WalPosition(TimelineId(position[0]), Lsn(position[1]))
    assert is_diverged(ENTRIES[1:], TimelineId(4), steps(*history), at) is diverged


def test_the_record_has_an_end_however_often_a_primary_is_replaced() -> None:
    entries = ENTRIES
    for number in range(3 * TIMELINES_MAX):
        tli, end = entries[-1].tli, 300 + number * 10
        entries = reserve(
            entries,
            highest=tli,
            term=Term(20 + number),
            node=NodeId("b"),
            observed=observed(tli, end),
            reason="election",
        )
        entries = confirm(entries, steps((tli, 0), (entries[-1].tli, end)))
    assert len(entries) == TIMELINES_MAX
    assert len(chain(entries, entries[-1].tli)) == TIMELINES_MAX
    known = steps((1, 0), *((e.tli, e.begin_lsn) for e in entries))
    at = WalPosition(entries[-1].tli, Lsn(10**6))
    assert not is_diverged(entries, entries[-1].tli, known, at)


def test_what_was_reserved_in_vain_goes_first_and_the_newest_confirmed_one_never() -> None:
    vain = [entry(5 + i, 4, 200, confirmed=False) for i in range(TIMELINES_MAX)]
    entries: tuple[TimelineEntry, ...] = (*ENTRIES, *vain[: TIMELINES_MAX - len(ENTRIES)])
    for number in range(3):
        entries = reserve(
            entries,
            highest=1,
            term=Term(5000 + number),
            node=NodeId("b"),
            observed=observed(4, 300),
            reason="election",
        )
        assert len(entries) == TIMELINES_MAX
    assert [e.tli for e in entries if e.confirmed] == [1, 2, 4]
    assert tip_of(entries) == 4
    assert entries[-1].tli == TIMELINES_MAX + 3


def test_everything_is_diverged_from_an_unknown_tip() -> None:
    at = WalPosition(TimelineId(1), Lsn(10))
    assert is_diverged(ENTRIES, TimelineId(9), steps((1, 0)), at)


def test_begin_of_an_unconfirmed_timeline_is_an_estimate_and_no_proof() -> None:
    at = WalPosition(TimelineId(3), Lsn(170))
    moved = steps((1, 0), (2, 100), (3, 155))
    assert not is_diverged(ENTRIES, TimelineId(3), moved, at)


def test_chain_follows_parents_and_skips_what_was_cut_short() -> None:
    assert [e.tli for e in chain(ENTRIES, TimelineId(4))] == [1, 2, 4]
    assert chain(ENTRIES, TimelineId(7)) == ()


def test_chain_of_a_loop_ends() -> None:
    loop = (entry(1, 2, 0), entry(2, 1, 0))
    assert len(chain(loop, TimelineId(1))) <= 3


def test_tip_is_the_newest_confirmed_timeline() -> None:
    assert tip_of(ENTRIES) == 4
    assert tip_of(ENTRIES[:3]) == 2
    assert tip_of(()) == 0


@pytest.mark.parametrize(("lsn", "owner"), [(50, 1), (100, 1), (101, 2), (200, 2), (201, 4)])
def test_record_that_ends_at_a_switch_belongs_to_the_parent(lsn: int, owner: int) -> None:
    assert owner_of(steps((1, 0), (2, 100), (4, 200)), Lsn(lsn)) == owner


def test_position_ranks_by_the_term_of_its_timeline() -> None:
    old = rank(ENTRIES, WalPosition(TimelineId(2), Lsn(900)))
    new = rank(ENTRIES, WalPosition(TimelineId(4), Lsn(300)))
    assert old == RankedPosition(Term(12), Lsn(900))
    assert old is not None
    assert new is not None
    assert new > old
    assert rank(ENTRIES, WalPosition(TimelineId(8), Lsn(1))) is None


def observed(tli: int, lsn: int) -> PostgresObserved:
    return PostgresObserved(
        timeline=TimelineId(tli), position=WalPosition(TimelineId(tli), Lsn(lsn))
    )


@pytest.mark.parametrize(("highest", "expected"), [(2, 5), (4, 5), (9, 10)])
def test_reserved_number_is_above_every_number_ever_seen(highest: int, expected: int) -> None:
    entries = reserve(
        ENTRIES,
        highest=highest,
        term=Term(20),
        node=NodeId("b"),
        observed=observed(4, 300),
        reason="election",
    )
    new = entries[-1]
    assert entries[:-1] == ENTRIES
    assert (new.tli, new.parent_tli, new.begin_lsn) == (expected, 4, 300)
    assert not new.confirmed


def test_confirming_takes_what_the_history_file_says() -> None:
    reserved = (*ENTRIES, entry(5, 4, 300, confirmed=False))
    done = confirm(reserved, steps((1, 0), (2, 100), (4, 200), (5, 308)))
    assert done[-1].confirmed
    assert (done[-1].begin_lsn, done[-1].parent_tli) == (308, 4)
    assert done[:-1] == reserved[:-1]


def test_old_timelines_are_shortened() -> None:
    entries = tuple(entry(i, i - 1, i * 100) for i in range(1, TIMELINES_IN_FULL_MAX + 10))
    grown = reserve(
        entries,
        highest=1,
        term=Term(900),
        node=NodeId("b"),
        observed=observed(len(entries), 10**6),
        reason="election",
    )
    assert [e.tli for e in grown] == list(range(1, len(entries) + 2))
    full = [e for e in grown if e.node is not None]
    assert len(full) == TIMELINES_IN_FULL_MAX
    assert full == list(grown[-TIMELINES_IN_FULL_MAX:])


def test_timeline_without_any_wal_of_its_own_is_no_divergence() -> None:
    """Its promotion was cut short: a server went over to it, and on to the next from there."""
    entries = (*ENTRIES[:2], entry(3, 2, 200, confirmed=False), entry(5, 2, 200, confirmed=False))
    tip = TimelineId(5)
    history = steps((1, 0), (2, 100), (3, 200), (5, 200))
    assert not is_diverged(entries, tip, history, WalPosition(tip, Lsn(250)))
    # With a record on it there is one.
    history = steps((1, 0), (2, 100), (3, 200), (5, 208))
    assert is_diverged(entries, tip, history, WalPosition(tip, Lsn(250)))
