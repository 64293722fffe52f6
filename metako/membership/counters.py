"""What membership counts, for the metrics. Numbers only grow; nothing reads them to decide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class MembershipCounters:
    """Totals since this process started."""

    probes: int = 0
    probes_failed: int = 0  # no proof of life within the probe interval
    probes_indirect: int = 0  # probes that needed others, whatever came of it
    suspicions: int = 0  # begun here, by our own probe or by rumour
    deaths: int = 0  # members declared dead here
    refutations: int = 0  # accusations against this node that it refuted
    conflicts: int = 0  # signs of two processes with one name
    stalls: int = 0  # times that this process was found to have been paused
    malformed: int = 0  # updates that no sound member sends
    unknown_sender: int = 0  # messages from a name without an address
    former_life: int = 0  # messages from an older boot epoch of their sender
    roster_full: int = 0  # updates about new names for which there was no room
    relays_full: int = 0  # requests for an indirect probe beyond the limit
    rosters_withheld: int = 0  # push/pull replies beyond the rate limit
