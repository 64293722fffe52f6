"""Keep a promise: let go of the upstream for good, and find where the WAL on disk ends.

What makes a position count is its order: the empty `primary_conninfo` is durable and loaded, as a
fresh backend shows; then no WAL receiver exists; then the position is found; then there still is no
receiver. A receiver exists if SQL lists one, or if a child of the postmaster is one or has not
shown yet what it is.

One backend is asked all that, forked after the reload: an election waits for every statement.
Does not decide when to detach: see `metako.postgres.plan`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from typing import NamedTuple

import trio

from metako.model.ids import Term, TimelineId
from metako.model.lsn import Lsn, parse_lsn
from metako.model.postgres import SyncSetting
from metako.postgres import sql
from metako.postgres.children import UNDECIDED_FOR_S, Receivers, receiver_processes
from metako.postgres.execute import POLL_S, Executor, StepError
from metako.postgres.facts import Facts
from metako.postgres.position import WalReader
from metako.postgres.process import Guard
from metako.postgres.steps import detached_config

RECEIVER_TERM_AFTER_S = 0.1
RECEIVER_GIVE_UP_S = 1.0

# Not of pg_stat_activity, for whose names of roles and databases a fresh backend has to read more
# catalogs; and as text, because the driver would look up what an array of numbers is.
_RECEIVERS = "select pid::text from pg_stat_get_activity(null) where backend_type = 'walreceiver'"
_LOOK = f"""
select current_setting('metako.settings', true), array({_RECEIVERS}), pg_is_in_recovery(),
       coalesce(pg_last_wal_replay_lsn(), '0/0')::text, c.redo_lsn::text, c.timeline_id,
       coalesce(pg_last_wal_receive_lsn(), '0/0')::text,
       pg_size_bytes(current_setting('wal_segment_size'))  -- pg_settings takes milliseconds
from pg_control_checkpoint() c
"""  # noqa: S608 - nothing in it is from outside


class _Place(NamedTuple):
    """Up to where the WAL on disk is known to be valid, by a standby that has replayed it."""

    in_recovery: bool
    replayed: Lsn
    redo: Lsn  # of the last restartpoint
    tli: TimelineId  # of that restartpoint
    received: Lsn  # and flushed, since the start of the server; it may end amid a record
    segment_size: int


class Detacher:
    """See the module's docstring. Not for use by two tasks at a time."""

    def __init__(
        self, *, executor: Executor, guard: Guard, reader: WalReader, facts: Facts
    ) -> None:
        self._executor = executor
        self._guard = guard
        self._reader = reader
        self._facts = facts

    async def measure(self, promise: Term) -> None:
        """Find the position of a server of which nothing runs."""
        facts = self._facts
        if not self._guard.status.gone:
            raise StepError("the server is not gone")
        facts.forget_position()
        control = facts.control_of_now or await self._reader.control()
        position = await self._reader.measure_stopped(control)
        if not self._guard.status.gone:
            raise StepError("the server was started meanwhile")
        facts.read_control(control)
        facts.found_position(position, promise, received=Lsn(0))

    async def detach(self, promise: Term, prepared: SyncSetting | None = None) -> None:
        """Stop the WAL receiver, verify that it is gone, find the position, verify again.

        A server that does not let go within about a second is stopped; the position is then found
        from its disk by the next step.

        Args:
            promise: for which it is.
            prepared: the synchronous standbys to be promoted with; None to write nothing for that.
        """
        facts = self._facts
        config = detached_config(facts.written, prepared)
        facts.forget_position()
        if config != facts.written or not facts.verified:
            await self._executor.write_settings(config)
            await self._guard.signal(signal.SIGHUP)
        done = False
        if facts.was_up:
            with contextlib.suppress(sql.SqlError):
                done = await self._let_go(promise)
        if not done:
            await self._executor.stop(fast=False)

    async def _let_go(self, promise: Term) -> bool:
        """Return whether the promise is kept; False if the receiver does not end in time."""
        begun = trio.current_time()
        with trio.CancelScope(deadline=begun + RECEIVER_GIVE_UP_S) as waiting:
            while True:
                async with self._executor.sessions.fresh(RECEIVER_GIVE_UP_S) as fresh:
                    place = await self._wait_receiver_gone(fresh, begun)
                    if place is not None:
                        waiting.deadline = math.inf
                        await self._find_position(fresh, promise, place)
                        return True
                await trio.sleep(POLL_S)
        return False

    async def _wait_receiver_gone(self, fresh: sql.Session, begun: float) -> _Place | None:
        """Wait until no receiver exists, ending it if it stays, and return what was replayed.

        None if the backend does not show the settings: it was forked before they were loaded, and
        what it shows later would say less.
        """
        while True:
            shown, listed, recovering, replayed, redo, tli, received, size = await fresh.row(_LOOK)
            if shown != self._facts.written_digest:
                return None
            assert isinstance(listed, list)
            found = self._receivers()
            if not (listed or found.certain or found.undecided):
                return _Place(
                    bool(recovering),
                    parse_lsn(str(replayed)),
                    parse_lsn(str(redo)),
                    TimelineId(int(str(tli))),
                    parse_lsn(str(received)),
                    int(str(size)),
                )
            if trio.current_time() - begun > RECEIVER_TERM_AFTER_S:
                # The startup process may be paused or in a conflict and not react.
                for pid in {int(pid) for pid in listed} & set(found.certain):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
            await trio.sleep(POLL_S)

    async def _find_position(self, fresh: sql.Session, promise: Term, place: _Place) -> None:
        if not place.in_recovery:
            raise sql.SqlError("the server is not in recovery")
        self._facts.verified = True
        position = await self._reader.measure_running(
            place.replayed, redo=place.redo, tli=place.tli, segment_size=place.segment_size
        )
        if await fresh.rows(_RECEIVERS) or not await self._no_receiver():
            raise sql.SqlError("the WAL receiver came back")
        self._facts.found_position(position, promise, received=place.received)

    def _receivers(self) -> Receivers:
        postmaster = self._guard.status.postmaster_pid
        return receiver_processes(postmaster) if postmaster is not None else Receivers((), ())

    async def _no_receiver(self) -> bool:
        """Return whether there is none, once every new child has shown what it is."""
        with trio.move_on_after(2 * UNDECIDED_FOR_S):
            while True:
                found = self._receivers()
                if found.certain:
                    return False
                if not found.undecided:
                    return True
                await trio.sleep(POLL_S)
        return False
