"""Which rumour overrides what is known: one pure function.

In: an entry and an update about the same name. Out: a verdict. Nothing is changed here.
Invariant: within one life the incarnation never falls, and only the member itself raises it.
Deliberately unaware of timers, of who says it, and of this node's own entry.

A *life* is (name, boot epoch). A newer life replaces the older one outright, so a restart never
has to refute what was said about the life before. Within a life (SWIM §4.2):

    Alive(i)    beats Alive(j), Suspect(j) and Dead(j) if i > j
    Suspect(i)  beats Alive(j) if i >= j, Suspect(j) and Dead(j) if i > j
    Dead(i)     beats Suspect(j) if i >= j - but see below
    Left        beats everything and is final for its life

Dead never skips suspicion: a member that we hold alive becomes a suspect first. Its accuser may
be the one that is cut off, and everybody the accused can reach deserves the chance to hear its
refutation. When suspicion was gossiped as usual this costs nothing, because it came long before.
"""

from __future__ import annotations

import enum

from metako.membership.roster import Entry
from metako.model.member import MemberState
from metako.wire.messages import MemberUpdate


class Verdict(enum.Enum):
    """What an update means for an entry."""

    STALE = enum.auto()  # known already, or overridden
    FILL = enum.auto()  # the current incarnation, with details that we may lack
    RENEW = enum.auto()  # first word of a life: alive
    REFRESH = enum.auto()  # a newer incarnation: alive
    SUSPECT = enum.auto()  # a suspicion begins
    CONFIRM = enum.auto()  # a further accuser of a running suspicion
    CONDEMN = enum.auto()  # somebody has waited in full for a suspect of ours
    RAISE = enum.auto()  # dead, of a newer incarnation than we knew
    LEAVE = enum.auto()  # it said goodbye
    CONFLICT = enum.auto()  # one life, two addresses: two processes use the name


def judge(entry: Entry, update: MemberUpdate) -> Verdict:
    """Return what `update` means for `entry`."""
    assert entry.node == update.node
    if update.boot_epoch < entry.boot_epoch:
        return Verdict.STALE
    if update.boot_epoch > entry.boot_epoch:
        return _FIRST_WORD[update.state]
    if entry.state is MemberState.LEFT:
        return Verdict.STALE
    if _contradicts(entry, update):
        return Verdict.CONFLICT
    if update.state is MemberState.LEFT:
        return Verdict.LEAVE
    if update.incarnation < entry.incarnation:
        return Verdict.STALE
    if update.state is MemberState.ALIVE and entry.state is MemberState.ALIVE:
        # Nearly all that is ever told, so it is not looked up: the tables say the same.
        newer = update.incarnation > entry.incarnation
        return Verdict.REFRESH if newer else Verdict.FILL
    if update.incarnation > entry.incarnation:
        return _NEWER[(entry.state is MemberState.DEAD, update.state)]
    return _SAME.get((entry.state, update.state), Verdict.STALE)


def _contradicts(entry: Entry, update: MemberUpdate) -> bool:
    """Return whether the update gives the same life another address.

    A process reads its address once, at start. One life with two of them is two processes.
    """
    return (
        update.state is MemberState.ALIVE
        and entry.address_learned
        and update.address is not None
        and update.address is not entry.address
        and update.address != entry.address
    )


_FIRST_WORD = {
    MemberState.EXPECTED: Verdict.STALE,
    MemberState.ALIVE: Verdict.RENEW,
    MemberState.SUSPECT: Verdict.SUSPECT,
    MemberState.DEAD: Verdict.SUSPECT,
    MemberState.LEFT: Verdict.LEAVE,
}

# (we hold it dead, the rumour's state) -> verdict, for a newer incarnation than ours.
_NEWER = {
    (False, MemberState.EXPECTED): Verdict.STALE,
    (True, MemberState.EXPECTED): Verdict.STALE,
    (False, MemberState.ALIVE): Verdict.REFRESH,
    (True, MemberState.ALIVE): Verdict.REFRESH,
    (False, MemberState.SUSPECT): Verdict.SUSPECT,
    (True, MemberState.SUSPECT): Verdict.SUSPECT,
    (False, MemberState.DEAD): Verdict.SUSPECT,
    (True, MemberState.DEAD): Verdict.RAISE,
}

# (our state, the rumour's state) -> verdict, for the same incarnation; all others are stale.
_SAME = {
    (MemberState.ALIVE, MemberState.ALIVE): Verdict.FILL,
    (MemberState.ALIVE, MemberState.SUSPECT): Verdict.SUSPECT,
    (MemberState.ALIVE, MemberState.DEAD): Verdict.SUSPECT,
    (MemberState.SUSPECT, MemberState.ALIVE): Verdict.FILL,
    (MemberState.SUSPECT, MemberState.SUSPECT): Verdict.CONFIRM,
    (MemberState.SUSPECT, MemberState.DEAD): Verdict.CONDEMN,
    (MemberState.DEAD, MemberState.ALIVE): Verdict.FILL,
}
