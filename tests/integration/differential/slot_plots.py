"""Plots about replication slots and the WAL that they keep; a family of sequences of its own.

They are kept apart from the other plots so that the sequence of a seed there stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from differential import vocabulary as do
from differential.vocabulary import NAMES, SLOTS, Command

if TYPE_CHECKING:
    from differential.generate import Writer

Plot = Iterator[Command]
HOWS = ("fast", "immediate", "kill")


def _names(w: Writer) -> tuple[str, str, str]:
    b, c = w.rng.sample(("b", "c"), 2)
    return "a", b, c


def standby_away(w: Writer) -> Plot:
    """A slot keeps WAL for a standby that is away; without one it is gone."""
    a, b, _c = _names(w)
    yield do.CreateSlot(a, "s1", w.rng.choice((True, False)))
    if w.rng.random() < 0.7:
        yield do.UseSlot(b, "s1")
    yield w.commit(a)
    yield w.rng.choice((do.Stop(b, w.rng.choice(HOWS)), do.Detach(b)))
    yield w.commit(a)
    yield do.RemoveWal(a)
    if w.rng.random() < 0.3:
        yield do.DropSlot(a, "s1")
        yield do.RemoveWal(a)
    yield w.rng.choice((do.Start(b, a), do.Attach(b, a)))
    yield do.Start(b, a)
    yield do.Attach(b, a)
    yield w.commit(a)


def forgotten(w: Writer) -> Plot:
    """Nobody reads a slot; it is let down once there is a limit."""
    a, b, _c = _names(w)
    yield do.CreateSlot(a, "s2")
    yield do.SwitchWal(a)
    yield do.RemoveWal(a)
    if w.rng.random() < 0.5:
        yield do.CreateSlot(a, "s1")
    yield do.LimitSlots(a, w.rng.choice((0, 1, 2, 4)))
    yield do.SwitchWal(a)
    yield w.commit(a)
    yield w.rng.choice((do.Checkpoint(a), do.RemoveWal(a)))
    yield do.UseSlot(b, "s2")
    yield do.SwitchWal(a)
    yield w.rng.choice((do.DropSlot(a, "s2"), do.KillReceiver(b), do.Stop(b)))
    yield do.Checkpoint(a)


def too_late(w: Writer) -> Plot:
    """The slot of a standby that is away is let down before it comes back."""
    a, b, _c = _names(w)
    yield do.CreateSlot(a, "s1", w.rng.choice((True, False)))
    yield do.UseSlot(b, "s1")
    yield do.LimitSlots(a, w.rng.choice((0, 1, 2)))
    yield w.rng.choice((do.Detach(b), do.Stop(b, w.rng.choice(HOWS))))
    for _ in range(w.rng.randint(1, 3)):
        yield do.SwitchWal(a)
    yield w.rng.choice((do.Checkpoint(a), do.Checkpoint(a), do.Settle()))
    yield do.Attach(b, a)
    yield do.Start(b, a)
    yield do.Checkpoint(a)
    yield do.Stop(b)
    yield do.Clone(b, a)
    yield do.Start(b, a)
    yield do.Checkpoint(a)


def crashes(w: Writer) -> Plot:
    """What a slot was and what is left of it when its server ends."""
    a, b, c = _names(w)
    yield do.CreateSlot(a, "s1", w.rng.choice((True, False)))
    yield do.UseSlot(b, "s1")
    if w.rng.random() < 0.5:
        yield do.Checkpoint(a)
    yield do.SwitchWal(a)
    yield w.commit(a)
    if w.rng.random() < 0.3:
        yield do.LimitSlots(a, 1)
    yield do.Stop(a, w.rng.choice(HOWS))
    yield do.Detach(c)
    yield do.Detach(b)
    yield do.Start(a, "")
    yield do.Promote(a, w.reserved())
    if w.rng.random() < 0.3:
        yield do.RemoveWal(a)
    yield do.Attach(b, a)
    yield do.SwitchWal(a)


def promoted(w: Writer) -> Plot:
    """Slots on a standby, through its promotion and for those that follow it then."""
    a, b, c = _names(w)
    yield do.CreateSlot(b, "s1", w.rng.choice((True, False)))
    yield do.CreateSlot(a, "s1")
    yield do.UseSlot(c, "s1")
    yield do.SwitchWal(a)
    yield do.Checkpoint(w.rng.choice((a, b)))
    if w.rng.random() < 0.5:
        yield do.Detach(b)
        yield w.commit(a)
    yield do.Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(b)
    yield do.Attach(c, b)
    yield w.rng.choice((do.RemoveWal(b), do.Checkpoint(b), do.SwitchWal(b)))
    yield do.Stop(c)
    yield do.RemoveWal(b)
    yield do.Start(c, b)


def rebuilt(w: Writer) -> Plot:
    """What a rewind and a clone do to the slots of their target, and of their source."""
    a, b, c = _names(w)
    yield do.CreateSlot(a, "s1")
    yield do.CreateSlot(b, "s2", w.rng.choice((True, False)))
    yield do.Detach(b)
    yield w.commit(a, "local")
    yield do.Promote(b, w.reserved())
    yield w.commit(b)
    who = w.rng.choice((a, c))
    yield do.CreateSlot(who, "s2")
    yield do.Stop(who, w.rng.choice(HOWS))
    yield do.Detach(a)
    yield do.Detach(c)
    yield w.rng.choice((do.Rewind(who, b), do.Rewind(who, b), do.Clone(who, b)))
    yield do.Start(who, b)
    yield do.UseSlot(who, "s2")
    yield do.RemoveWal(b)


def contested(w: Writer) -> Plot:
    """Two standbys ask for one slot."""
    a, b, c = _names(w)
    yield do.CreateSlot(a, "s1")
    yield do.UseSlot(b, "s1")
    yield w.commit(a)
    yield do.UseSlot(c, "s1")
    yield do.SwitchWal(a)
    yield w.commit(a)
    yield do.DropSlot(a, "s1")
    yield w.rng.choice((do.Stop(b, w.rng.choice(HOWS)), do.UseSlot(c, ""), do.Stop(c)))
    yield do.RemoveWal(a)
    yield do.UseSlot(b, "s2")
    yield do.CreateSlot(a, "s2", w.rng.choice((True, False)))
    yield w.commit(a)


def frozen(w: Writer) -> Plot:
    """A standby stands still, and its slot with it."""
    a, b, _c = _names(w)
    yield do.CreateSlot(a, "s1", w.rng.choice((True, False)))
    yield do.UseSlot(b, "s1")
    yield do.Freeze(b, w.rng.choice(("receiver", "server")))
    yield w.commit(a)
    yield w.rng.choice((do.DropSlot(a, "s1"), do.Checkpoint(a)))
    yield w.rng.choice((do.Thaw(b), do.Stop(b, "kill"), do.Stop(a, "kill")))
    yield do.Thaw(b)
    yield do.RemoveWal(a)
    yield do.Start(b, a)


SLOT_PLOTS: tuple[Callable[[Writer], Plot], ...] = (
    *(standby_away, forgotten, too_late, crashes, promoted, rebuilt, contested, frozen),
)


def random_slot_command(w: Writer) -> Command:
    rng = w.rng
    name, slot = rng.choice(NAMES), rng.choice(SLOTS)
    writer = rng.choice(w.primaries() or [name])
    kinds: dict[str, tuple[int, Callable[[], Command]]] = {
        "create": (6, lambda: do.CreateSlot(rng.choice((name, writer)), slot, rng.random() < 0.6)),
        "drop": (3, lambda: do.DropSlot(rng.choice((name, writer)), slot)),
        "use": (6, lambda: do.UseSlot(name, rng.choice((slot, slot, "")))),
        "switch": (4, lambda: do.SwitchWal(writer)),
        "remove": (4, lambda: do.RemoveWal(writer)),
        "limit": (2, lambda: do.LimitSlots(writer, rng.choice((0, 1, 3)))),
        "checkpoint": (3, lambda: do.Checkpoint(name)),
    }
    (kind,) = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])
    return kinds[kind][1]()
