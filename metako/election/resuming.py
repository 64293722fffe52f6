"""Going on with a leadership whose agent was killed, while its guard is still armed.

The guard's deadline is the rest of the lease: an earlier agent of this node counted it from a round
that a majority had answered. The new agent may use it up, and renews it only by rounds of its own.
"""

from __future__ import annotations

from metako.election.core import Core
from metako.election.leader import Leader
from metako.election.wants import GuardDeadline
from metako.model.instant import Instant, milliseconds


def resumed(core: Core, now: Instant, armed: GuardDeadline | None) -> Leader | None:
    """Return the leadership that this start of the agent begins with, if there is a legal one.

    Args:
        core: of a start that has had no input yet.
        now: the time of the start.
        armed: what the guard was armed with by an earlier agent; None if it was not.
    """
    hard, document = core.hard, core.document
    if armed is None or armed.deadline_boot_ns is None or document is None:
        return None
    legal = (
        document.primary == core.node
        and document.term == armed.term == hard.promised_term
        and hard.released_term < armed.term
        and now.boot_ns < armed.deadline_boot_ns
    )
    if not legal:
        return None
    leader = Leader(core, now, armed.term)
    until = armed.deadline_boot_ns + milliseconds(core.settings.fence_margin_ms)
    leader.resume(now, document, until)
    return leader
