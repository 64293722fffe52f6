"""Which replication slots a server should have, and which it should drop."""

from __future__ import annotations

from metako.postgres.slots import RETAIN_FOR_S, SlotChanges, SlotPolicy, SlotSeen

A, B, GONE = "metako_0a", "metako_0b", "metako_0c"


def changes(
    *seen: SlotSeen,
    wanted: tuple[str, ...] = (A, B),
    in_recovery: bool = False,
    policy: SlotPolicy | None = None,
    now_s: float = 0.0,
) -> SlotChanges:
    asked = policy or SlotPolicy()
    return asked.changes(seen, wanted, in_recovery=in_recovery, now_s=now_s)


def test_every_member_gets_a_slot_on_primary_and_standby() -> None:
    assert changes() == changes(in_recovery=True) == SlotChanges((), (A, B))
    assert changes(SlotSeen(A, active=True, reserved=True)) == SlotChanges((), (B,))


def test_slots_of_others_are_left_alone() -> None:
    stranger = SlotSeen("backup", active=False, reserved=True, lost=True)
    similar = SlotSeen("metako_backup", active=False, reserved=True)
    assert changes(stranger, similar, wanted=(), in_recovery=True) == SlotChanges()


def test_slot_of_a_former_member_is_dropped_once_nobody_uses_it() -> None:
    assert changes(SlotSeen(GONE, active=True, reserved=True), wanted=()) == SlotChanges()
    idle = SlotSeen(GONE, active=False, reserved=False)
    assert changes(idle, wanted=()) == SlotChanges((GONE,), ())


def test_standby_keeps_no_wal_for_anybody() -> None:
    """A former primary's slots would keep its WAL until the disk is full."""
    kept = SlotSeen(A, active=False, reserved=True)
    empty = SlotSeen(B, active=False, reserved=False)
    assert changes(kept, empty, in_recovery=True) == SlotChanges((A,), (A,))
    assert changes(kept, empty) == SlotChanges()


def test_lost_slot_is_made_anew() -> None:
    lost = SlotSeen(A, active=False, reserved=False, lost=True)
    assert changes(lost, wanted=(A,)) == SlotChanges((A,), (A,))


def test_wal_is_kept_for_a_standby_that_is_away_for_a_stated_time() -> None:
    policy = SlotPolicy()
    away, back = SlotSeen(A, active=False, reserved=True), SlotSeen(A, active=True, reserved=True)

    def at(now_s: float, slot: SlotSeen) -> SlotChanges:
        return changes(slot, wanted=(A,), policy=policy, now_s=now_s)

    assert at(100.0, away) == SlotChanges()
    assert at(99.0 + RETAIN_FOR_S, away) == SlotChanges()
    assert at(99.5 + RETAIN_FOR_S, back) == SlotChanges()  # it counts from the last time
    assert at(100.0 + RETAIN_FOR_S, away) == SlotChanges()
    assert at(100.0 + 2 * RETAIN_FOR_S, away) == SlotChanges((A,), (A,))
