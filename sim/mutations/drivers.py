"""Bugs in what carries decisions out: the driver, the record, the supervisor's steps, gossip."""

from __future__ import annotations

from typing import Any

from metako.membership.identity import Identity
from metako.postgres import plan as planner
from sim.agent import SimAgent
from sim.disk import SimDisk
from sim.mutations.base import Mutation, Patch
from sim.postgres import supervisor


def _record_not_synced(patch: Patch) -> None:
    """Let a step go on before its record is durable."""
    honest = SimDisk.sync

    def hasty(self: SimDisk, name: str, done: Any) -> None:
        honest(self, name, lambda _: None)
        self._heap.after(0, done, None)

    patch.set(SimDisk, "sync", hasty)


def _messages_before_record(patch: Patch) -> None:
    honest = SimAgent._step

    def hasty(self: SimAgent, event: Any) -> None:
        step = self.engine.step

        def told(now: Any, given: Any) -> Any:
            ready = step(now, given)
            if ready.persist is not None:
                self._host.carry_out(self, ready._replace(persist=None))
                ready = ready._replace(messages=())
            return ready

        vars(self.engine)["step"] = told
        try:
            honest(self, event)
        finally:
            del vars(self.engine)["step"]

    patch.set(SimAgent, "_step", hasty)


def _never_rewinds(patch: Patch) -> None:
    """Start a diverged server as a standby of the new primary."""
    patch.set(planner, "is_diverged", lambda *_: False)


def _suspicion_irrefutable(patch: Patch) -> None:
    patch.set(Identity, "contradict", lambda *_: False)


def _standbys_without_slots(patch: Patch) -> None:
    """Let a standby attach while the sender of its last connection still lingers."""
    patch.set(supervisor, "slot_of", lambda _: "")


DRIVERS = (
    Mutation("record_not_synced", "§3", "a step goes on before its record is durable",
             _record_not_synced),
    Mutation("messages_before_record", "§3", "messages leave before the record is durable",
             _messages_before_record),
    Mutation("never_rewinds", "§5.4", "a diverged server follows without a rewind",
             _never_rewinds, measured=True),
    Mutation("standbys_without_slots", "§5.5", "two senders of one standby count as two standbys",
             _standbys_without_slots),
    Mutation("suspicion_irrefutable", "§6", "a suspicion cannot be refuted",
             _suspicion_irrefutable),
)  # fmt: skip
