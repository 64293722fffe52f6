"""Connections of the steps to the local server: fresh ones, and one that is kept between steps.

A new backend costs more than most statements, and a failover does a dozen steps: what does not have
to be shown by a fresh backend goes over one that a step before has left behind. At most one is kept
idle, of the server that runs now. Whatever failed, was cancelled or out of time is closed instead,
so a kept session is between two statements and between two transactions.

It keeps nobody waiting: a backend without a transaction ends with any shutdown but a smart one,
which metako never asks for, and it is no application's.

What a session was told with SET stays in force for whoever gets it next: who depends on such a
setting makes it. Does not know what the statements mean, nor when a fresh backend is called for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from metako.postgres import sql
from metako.postgres.files import ServerFiles
from metako.postgres.process import Guard
from metako.postgres.settings import ServerSettings

ROOM_AFTER_S = 0.02
"""For a backend to end whose connection was closed."""


class Sessions:
    """See the module's docstring. A session is used by one task at a time."""

    def __init__(
        self, *, settings: Callable[[], ServerSettings], files: ServerFiles, guard: Guard
    ) -> None:
        self._settings = settings
        self._files = files
        self._guard = guard
        self._kept: sql.Session | None = None
        self._kept_of: int | None = None  # the postmaster's pid

    @asynccontextmanager
    async def fresh(self, timeout_s: float = sql.CONNECT_TIMEOUT_S) -> AsyncIterator[sql.Session]:
        """Open a connection to a backend that is forked now, for the length of the context.

        It is kept afterwards, in the place of an older one, unless the context is left by an
        exception or a cancellation: then it is closed.

        Raises:
            SqlError: there is no server, or it takes no connections.
        """
        postmaster = self._guard.status.postmaster_pid
        try:
            opened = await self._connect(timeout_s)
        except sql.SqlError as refusal:
            if not refusal.answered or self._kept is None:
                raise
            # A server that is full keeps few connections for us: the kept one must not cost one.
            self.close()
            await trio.sleep(ROOM_AFTER_S)
            opened = await self._connect(timeout_s)
        try:
            yield opened
        except BaseException:
            opened.terminate()
            raise
        self._keep(opened, postmaster)

    @asynccontextmanager
    async def any(self) -> AsyncIterator[sql.Session]:
        """Lend the kept session, or a fresh one where there is none; see `fresh`."""
        session, postmaster = self._take(), self._kept_of
        if session is None:
            async with self.fresh() as opened:
                yield opened
            return
        try:
            yield session
        except BaseException:
            session.terminate()
            raise
        self._keep(session, postmaster)

    async def _connect(self, timeout_s: float) -> sql.Session:
        settings = self._settings()
        return await sql.connect(
            socket_dir=self._files.socket_dir,
            port=settings.port,
            user=settings.superuser,
            database="postgres",
            timeout_s=timeout_s,
        )

    def close(self) -> None:
        """Close the kept session; those that are lent are closed by their borrowers."""
        if self._kept is not None:
            self._kept.terminate()
        self._kept = None

    def _take(self) -> sql.Session | None:
        session, self._kept = self._kept, None
        if session is None:
            return None
        if session.closed or self._kept_of != self._guard.status.postmaster_pid:
            session.terminate()
            return None
        return session

    def _keep(self, session: sql.Session, postmaster: int | None) -> None:
        """Keep a session of a server; it is closed if that is not the one that runs now."""
        if session.closed or postmaster is None or postmaster != self._guard.status.postmaster_pid:
            session.terminate()
            return
        self.close()
        self._kept, self._kept_of = session, postmaster
