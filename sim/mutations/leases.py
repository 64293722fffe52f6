"""Bugs in holds, leases, releases and the fence."""

from __future__ import annotations

from typing import Any

from metako.election import election, resuming
from metako.election.ends import End
from metako.election.leader import Leader
from metako.election.lease import Hold, Lease
from metako.election.settings import ElectionSettings
from metako.election.voter import Voter
from metako.election.wants import FenceWish, GuardDeadline
from metako.guard.fence import Fence
from metako.model.instant import milliseconds
from sim.mutations.base import Mutation, Patch


def _hold_ignored(patch: Patch) -> None:
    patch.set(Voter, "_holding_for_another", lambda *_: False)


def _hold_forgotten(patch: Patch) -> None:
    honest = Voter.__init__

    def forgetful(self: Voter, *args: Any) -> None:
        honest(self, *args)
        self.hold.until_ns = 0

    patch.set(Voter, "__init__", forgetful)


def _lease_of_unanswered_rounds(patch: Patch) -> None:
    """Count the lease from the newest round sent, if any round was ever answered."""
    honest = Lease.renew

    def hopeful(self: Lease, document: Any, hold_ms: int) -> bool:
        longer = honest(self, document, hold_ms)
        if self.until_boot_ns and self._sent:
            newest = max(self._sent.values()) + milliseconds(self.settings.lease_ms(hold_ms))
            longer = longer or newest > self.until_boot_ns
            self.until_boot_ns = max(self.until_boot_ns, newest)
        return longer

    patch.set(Lease, "renew", hopeful)


def _lease_longer_than_hold(patch: Patch) -> None:
    patch.set(ElectionSettings, "lease_ms", lambda self, hold_ms: int(hold_ms * 1.5))


def _fence_ignored(patch: Patch) -> None:
    patch.set(Fence, "is_due", lambda *_: False)


def _fence_late(patch: Patch) -> None:
    """Have the guard wait for a hold longer than the lease."""
    honest = FenceWish.change

    def late(self: FenceWish, leader: Leader | None, target: Any) -> GuardDeadline | None:
        wish = honest(self, leader, target)
        if wish is None or wish.deadline_boot_ns is None:
            return wish
        return GuardDeadline(wish.term, wish.deadline_boot_ns + milliseconds(1500))

    patch.set(FenceWish, "change", late)


def _released_while_stopping(patch: Patch) -> None:
    honest = Leader.over

    def hasty(self: Leader, now: Any) -> End | None:
        return End.SERVER if self.ending else honest(self, now)

    patch.set(Leader, "over", hasty)


def _stale_release_heard(patch: Patch) -> None:
    """End a hold by any release of its leader, however old."""
    patch.set(Hold, "released_by", lambda self, leader, *_: self.leader == leader)


def _released_leads_again(patch: Patch) -> None:
    """Resume the lease that the guard still has although it was released."""
    honest = resuming.resumed

    def careless(core: Any, now: Any, armed: GuardDeadline | None) -> Leader | None:
        kept = core.hard
        from dataclasses import replace

        core.hard = replace(kept, released_term=type(kept.released_term)(0))
        try:
            return honest(core, now, armed)
        finally:
            core.hard = kept

    patch.set(election, "resumed", careless)


def _resumed_too_long(patch: Patch) -> None:
    """Let a restarted agent begin with a whole lease instead of what the guard has left."""
    honest = Leader.resume

    def generous(self: Leader, now: Any, document: Any, until_boot_ns: int) -> None:
        honest(self, now, document, until_boot_ns + milliseconds(2000))

    patch.set(Leader, "resume", generous)


def _lost_lease_kept(patch: Patch) -> None:
    """Go on leading, and renewing the guard, after the lease has ended."""
    patch.set(Lease, "valid", lambda *_: True)
    honest = Lease.renew

    def stubborn(self: Lease, document: Any, hold_ms: int) -> bool:
        honest(self, document, hold_ms)
        if self.until_boot_ns:
            newest = max(self._sent.values()) + milliseconds(self.settings.lease_ms(hold_ms))
            self.until_boot_ns = max(self.until_boot_ns, newest)
        return True

    patch.set(Lease, "renew", stubborn)


LEASES = (
    Mutation("hold_ignored", "§4.3.3a", "a voter votes while it holds for a leader",
             _hold_ignored),
    Mutation("hold_forgotten", "§4.3.3a", "a voter does not hold after its own restart",
             _hold_forgotten),
    Mutation("lease_of_unanswered_rounds", "§4.4", "the lease counts from rounds that no majority "
             "answered", _lease_of_unanswered_rounds),
    Mutation("lease_longer_than_hold", "§4.4", "a leader counts a longer lease than voters hold",
             _lease_longer_than_hold),
    Mutation("lost_lease_kept", "§4.4", "a leader goes on after its lease has ended",
             _lost_lease_kept),
    Mutation("fence_ignored", "§5.3", "the guard never fires", _fence_ignored),
    Mutation("fence_late", "§5.3", "the guard fires long after the lease", _fence_late),
    Mutation("released_while_stopping", "§4.4", "a lease is released before the server is gone",
             _released_while_stopping),
    Mutation("stale_release_heard", "§4.4", "a release ends the hold of a later round",
             _stale_release_heard),
    Mutation("released_leads_again", "§4.4", "a released term is led again after a restart",
             _released_leads_again),
    Mutation("resumed_too_long", "§4.4", "a restarted agent begins with a whole lease",
             _resumed_too_long),
)  # fmt: skip
