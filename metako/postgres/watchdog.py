"""What the guard's word about its watchdog means for the node that asked for one."""

from __future__ import annotations

from metako.guard.packets import GuardStatus
from metako.guard.watchdog import Wish
from metako.model.watchdog import NO_WATCHDOG, WatchdogSeen, WatchdogState


def watchdog_seen(status: GuardStatus, wish: Wish | None, *, lost: bool) -> WatchdogSeen:
    """Return the state of the watchdog.

    Args:
        status: newest of the guard. One that was taken over keeps what it was started with.
        wish: what this node's configuration asks for.
        lost: the guard is gone; its word counts no more.
    """
    if wish is None:
        return NO_WATCHDOG
    if lost:
        return WatchdogSeen(WatchdogState.FAILED, "the guard is gone")
    try:
        state = WatchdogState(status.watchdog)
    except ValueError:  # of a newer guard
        state = WatchdogState.FAILED
    if state is WatchdogState.OFF:
        why = "the guard that runs was started without it; stop this node, then start it"
        return WatchdogSeen(WatchdogState.FAILED, why)
    why = status.watchdog_why if state is WatchdogState.FAILED else ""
    return WatchdogSeen(state, why, status.watchdog_timeout_s, status.watchdog_identity)
