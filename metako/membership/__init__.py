"""Gossip membership: who is probably alive, where they are, and what they say of themselves.

Pure: synchronous functions of the time and of verified messages. See `membership` for the whole.
"""

from metako.membership.config import MembershipConfig
from metako.membership.counters import MembershipCounters
from metako.membership.membership import Membership
from metako.membership.outbox import MembershipOutput

__all__ = ["Membership", "MembershipConfig", "MembershipCounters", "MembershipOutput"]
