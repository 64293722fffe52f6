"""Words that show only what is known already: that their sender lives.

Nearly every message of agreement is one. Nothing follows from it but the time at which its sender
was heard, so `Membership` need not ask every part of itself when it is due next.
"""

from __future__ import annotations

from typing import TypeGuard

from metako.membership.probe import Probe
from metako.membership.roster import Entry
from metako.model.member import MemberState


def shows_only_life(
    entry: Entry | None, boot_epoch: int, *, own: Entry, probe: Probe | None
) -> TypeGuard[Entry]:
    """Return whether a message without rumours says nothing new of its sender.

    Args:
        entry: of the sender; None if it is unknown.
        boot_epoch: of the sender, as its seal says.
        own: this node's entry. A message in our own name is somebody else's.
        probe: the running probe, which a word of its target ends.
    """
    return (
        entry is not None
        and entry.state is MemberState.ALIVE
        and entry.boot_epoch == boot_epoch
        and entry is not own
        and (probe is None or probe.target != entry.node)
    )
