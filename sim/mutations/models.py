"""Bugs in the steps that touch PostgreSQL: planted in the models that stand for them.

The rules here were measured on real servers, and are kept by the executor, which the simulator
models step for step; taking one away there shows whether the checkers would notice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import ProcessState, ReceiverState
from metako.model.timeline import owner_of
from metako.postgres import plan as planner
from sim.mutations.base import Mutation, Patch
from sim.postgres.data import Data
from sim.postgres.leading import Replies
from sim.postgres.observe import Observer
from sim.postgres.rebuild import Rebuilder
from sim.postgres.server import SimServer
from sim.postgres.steps import Executor
from sim.postgres.task import StepError

LAGS_RECORDS = 2


def _detach_unverified(patch: Patch) -> None:
    """Reload the empty setting and take the receiver for gone."""
    honest = Observer._receiver

    def assumed(self: Observer) -> ReceiverState:
        written = self._facts.written
        if written is not None and written.upstream is None:
            return ReceiverState.GONE
        return honest(self)

    def nothing(_: Executor) -> Any:
        return
        yield

    def hasty(self: Executor, promise: Any) -> Any:
        facts, data = self.facts, self.server.data
        yield from self.sleep(1)
        if data is not None:
            facts.verified = True
            facts.position, facts.detached_for = data.position, promise

    patch.set(Executor, "_receiver_gone", nothing)
    patch.set(Executor, "_find_position", hasty)
    patch.set(Observer, "_receiver", assumed)


def _replay_position(patch: Patch) -> None:
    """Take what was replayed for the end of the WAL on disk."""

    def replayed(self: Data) -> WalPosition:
        count = max(1, len(self.wal) - LAGS_RECORDS)
        return WalPosition(self.wal[count - 1].tli, self.lsn_at(count))

    patch.set(Data, "position", property(replayed))


def _old_primary_starts_writable(patch: Patch) -> None:
    """Start a server that was a primary without standby.signal: it comes up as one."""
    start, came_up = SimServer.start, SimServer.came_up
    primaries: set[int] = set()  # by identity: the servers whose last stop was as a primary

    def noting(self: SimServer, config: Any) -> None:
        data = self.data
        primaries.discard(id(self))
        if data is not None and not data.control.min_recovery_tli and len(data.history) > 1:
            primaries.add(id(self))
        start(self, config)

    def writable(self: SimServer) -> None:
        came_up(self)
        if id(self) in primaries and self.is_up:
            self.promote(lambda: None)

    patch.set(SimServer, "start", noting)
    patch.set(SimServer, "came_up", writable)


def _commits_not_seen_to_wait(patch: Patch) -> None:
    """Trust the setting that a fresh backend shows."""

    def nothing(_: Executor, __: Any) -> Any:
        return
        yield

    patch.set(Executor, "_make_commits_wait", nothing)


def _barrier_without_replies(patch: Patch) -> None:
    """Pass the barrier before any sender has loaded the new setting."""
    patch.set(Replies, "enough", lambda *_: True)


def _repointed_blindly(patch: Patch) -> None:
    """Give a standby another upstream although the end of its WAL is not known."""
    honest = planner._following

    def hasty(observed: Any, local: Any, upstream: Any) -> Any:
        if observed.process is not ProcessState.STOPPED and observed.position is None:
            owner = owner_of(observed.history, Lsn(observed.lsn or 1))
            known = WalPosition(owner, observed.lsn)
            observed = replace(observed, position=known, max_tli=owner)
        return honest(observed, local, upstream)

    patch.set(planner, "_following", hasty)


def _failed_rewind_is_success(patch: Patch) -> None:
    """Take the mark off the directory that a failed rewind leaves: half of it is the source's."""
    honest = Rebuilder.rewind

    def careless(self: Rebuilder, upstream: Any) -> Any:
        try:
            yield from honest(self, upstream)
        except StepError:
            if self._server.data is None:
                raise
            self._server.data.tainted = False
            self._facts.rewind_failed = False

    patch.set(Rebuilder, "rewind", careless)


def _promotes_unarmed(patch: Patch) -> None:
    """Promote although the guard is not armed for the term, or has fenced it."""
    patch.set(Executor, "_check_armed", lambda *_: None)


MODELS = (
    Mutation("detach_unverified", "§4.3.3", "the WAL receiver is taken for gone after the reload",
             _detach_unverified, measured=True),
    Mutation("replay_position", "§4.3.3", "the position is what was replayed, not the end of WAL",
             _replay_position, measured=True),
    Mutation("old_primary_starts_writable", "§5.2", "a former primary comes up writable",
             _old_primary_starts_writable, measured=True),
    Mutation("commits_not_seen_to_wait", "§4.5", "the first standby is relied upon although no "
             "commit waits yet", _commits_not_seen_to_wait, measured=True),
    Mutation("barrier_without_replies", "§4.5", "a change counts before any WAL sender knows it",
             _barrier_without_replies, measured=True),
    Mutation("repointed_blindly", "§5.4", "a standby is re-pointed with its end of WAL unknown",
             _repointed_blindly, measured=True),
    Mutation("failed_rewind_is_success", "§5.4", "a failed rewind is taken for a success",
             _failed_rewind_is_success),
    Mutation("promotes_unarmed", "§5.3", "a promotion does not ask whether the guard is armed",
             _promotes_unarmed),
)  # fmt: skip
