"""What is known of a node's watchdog: the device that resets the machine at the end of a lease."""

from __future__ import annotations

import enum

from metako.model.values import value


class WatchdogState(enum.StrEnum):
    """State of the watchdog, as its guard says it."""

    OFF = "off"  # the node's configuration asks for none
    IDLE = "idle"  # held and stopped: this node has no lease that it would guard
    ARMED = "armed"  # it counts: the machine is reset if the lease ends and PostgreSQL does not
    FAILED = "failed"  # asked for, and not armed when it should be, or not to be had at all


@value
class WatchdogSeen:
    """The watchdog at one moment."""

    state: WatchdogState = WatchdogState.OFF
    why: str = ""  # why it is not armed; "" unless FAILED
    timeout_s: int = 0  # 0 while it is not known
    identity: str = ""  # what its driver calls itself; "" while it is not known

    @property
    def usable(self) -> bool:
        """Return whether a lease of this node is, or would be, guarded by it."""
        return self.state in (WatchdogState.IDLE, WatchdogState.ARMED)


NO_WATCHDOG = WatchdogSeen()
