"""Work beside the steps that no target asks for and nothing waits for.

On a primary: a commit once a second, whose failure to return is the only proof that commits are
blocked, and the checkpoint after a promotion, which makes pg_control name the new timeline for
pg_rewind on other nodes. On a standby: deleting the directory that a clone has replaced, once the
clone streams. A failure of any of these is seen in an observation or tried again; none is an error.
"""

from __future__ import annotations

import contextlib
import shutil

import trio

from metako.model.errors import MetakoError
from metako.model.postgres import PostgresObserved, ProcessState
from metako.postgres import commit, sql
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles

PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 2.0
CHECKPOINT_TRIES_MAX = 5
CHECKPOINT_PAUSE_S = 1.0


class Background:
    """See the module's docstring."""

    def __init__(self, *, executor: Executor, files: ServerFiles, facts: Facts) -> None:
        self._executor = executor
        self._files = files
        self._facts = facts
        self._primary = False
        self._streams = trio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_commits)
            nursery.start_soon(self._checkpoint_promoted)
            nursery.start_soon(self._delete_superseded)

    def observed(self, observed: PostgresObserved, *, streams: bool) -> None:
        """Take note of what the server is; `streams`: as the standby it is meant to be."""
        running = observed.process is ProcessState.RUNNING
        # Before its marker a primary may have no standby yet; blocked commits are no news then.
        self._primary = running and observed.in_recovery is False and observed.marker_term > 0
        if streams and self._facts.delete_superseded:
            self._streams.set()

    async def _probe_commits(self) -> None:
        while True:
            await trio.sleep(PROBE_INTERVAL_S)
            if not self._primary:
                self._facts.commit_blocked = False
                continue
            try:
                await commit.commit_message(self._executor.session, "probe", PROBE_TIMEOUT_S)
                self._facts.commit_blocked = False
            except (MetakoError, sql.SqlError):
                self._facts.commit_blocked = self._primary

    async def _checkpoint_promoted(self) -> None:
        while True:
            await self._executor.checkpoint_wanted.wait()
            self._executor.checkpoint_wanted = trio.Event()
            for _ in range(CHECKPOINT_TRIES_MAX):
                try:
                    await self._executor.checkpoint()
                    break
                except sql.SqlError:
                    await trio.sleep(CHECKPOINT_PAUSE_S)

    async def _delete_superseded(self) -> None:
        while True:
            await self._streams.wait()
            self._streams = trio.Event()
            if self._facts.delete_superseded:
                self._facts.delete_superseded = False
                with contextlib.suppress(OSError, shutil.Error):
                    await trio.to_thread.run_sync(self._files.delete_superseded)
