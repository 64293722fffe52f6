"""What only a primary does: its marker, the barrier of a sync change, the probe, and the roles.

A commit counts as acknowledged when the statement returned and PostgreSQL gave no warning: a
cancelled wait for synchronous replication returns success *with* one. Statements that must not
wait for standbys say so themselves (`synchronous_commit = local`).

If cancelled or out of time, the backend is ended, since one that waits for standbys does not notice
that its client is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import trio

from metako.model.ids import Term
from metako.model.lsn import Lsn, parse_lsn
from metako.model.postgres import SyncSetting
from metako.postgres import sql
from metako.postgres.execute import Executor, StepError
from metako.postgres.settings import (
    REPLICATION_ROLE,
    ServerSettings,
    replication_role_sql,
    role_mark,
    sql_literal,
)
from metako.postgres.steps import NOBODY, ServerConfig
from metako.postgres.syncnames import application_name, render_sync

MARKER_TIMEOUT_S = 10.0
BARRIER_TIMEOUT_S = 60.0
BARRIER_POLL_S = 0.01
BARRIER_PUSH_S = 0.1
REPLIES_NEEDED = 2
CLEAN_UP_TIMEOUT_S = 1.0
FLAG_TIMEOUT_S = 5.0
SENDERS_MAX = 1000

Open = Callable[[], AbstractAsyncContextManager[sql.Session]]


@asynccontextmanager
async def _ended_afterwards(open_session: Open) -> AsyncIterator[sql.Session]:
    """Open a session whose backend is ended if the block does not complete."""
    async with open_session() as session:
        pid = session.backend_pid()
        try:
            yield session
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(CLEAN_UP_TIMEOUT_S):
                session.terminate()
                with contextlib.suppress(sql.SqlError):
                    async with open_session() as other:
                        await other.rows("select pg_terminate_backend($1)", pid)
            raise


async def commit_message(open_session: Open, text: str, timeout_s: float) -> None:
    """Commit a WAL message and return once it is acknowledged like any commit.

    Raises:
        StepError: it was not acknowledged in time, or its wait was cancelled.
    """
    try:
        async with _ended_afterwards(open_session) as session:
            # One transaction in one exchange; its commit waits by what was set in it.
            message = f"pg_logical_emit_message(true, 'metako', {sql_literal(text)})"
            await session.run(f"set synchronous_commit = on; select {message}", timeout_s=timeout_s)
            if warnings := await session.warnings():
                raise StepError(f"the commit was not acknowledged: {warnings[0]}")
    except sql.SqlError as error:
        raise StepError(f"the commit was not acknowledged: {error}") from None


async def emit_marker(open_session: Open, settings: ServerSettings, term: Term) -> None:
    """Make sure of the roles, then commit the message that proves that this term can commit."""
    try:
        await ensure_roles(open_session, settings)
    except sql.SqlError as error:
        raise StepError(f"the replication role could not be made: {error}") from None
    await commit_message(open_session, f"term {term}", MARKER_TIMEOUT_S)


async def ensure_roles(open_session: Open, settings: ServerSettings) -> None:
    """Make the replication role if the database was not made by metako, or the secret changed."""
    async with open_session() as session:
        rows = await session.rows(
            "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = $1",
            REPLICATION_ROLE,
        )
        if rows and rows[0][0] == role_mark(settings):
            return
        # Before the role exists no standby can attach, so nothing could acknowledge it.
        await session.run("set synchronous_commit = local")
        statements = replication_role_sql(settings, exists=bool(rows))
        await session.run("; ".join(["begin", *statements, "commit"]))


async def make_commits_wait(executor: Executor, before: ServerConfig) -> None:
    """Take a primary from no synchronous standby to a placeholder, and prove that commits wait.

    Whether commits wait at all is one flag in shared memory, which the checkpointer keeps; that the
    setting shows in a fresh backend proves nothing about it. While the checkpointer is busy commits
    go on returning at once, and no standby may be relied upon. So a commit of our own has to be
    seen in its wait first; the names that follow then only change whom it waits for.

    Raises:
        StepError: no commit was seen to wait in time. The settings `before` are in force again.
    """
    await executor.apply_settings(replace(before, sync=NOBODY))
    try:
        await _see_commit_wait(executor.sessions.fresh)
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(CLEAN_UP_TIMEOUT_S):
            await executor.apply_settings(before)
        raise


async def _see_commit_wait(open_session: Open) -> None:
    try:
        with trio.fail_after(FLAG_TIMEOUT_S):
            while True:
                async with _ended_afterwards(open_session) as waiter, open_session() as watcher:
                    if await _waits(waiter, watcher):
                        return
    except (sql.SqlError, trio.TooSlowError):
        raise StepError("no commit was seen to wait for the synchronous standbys") from None


async def _waits(waiter: sql.Session, watcher: sql.Session) -> bool:
    """Return whether a commit of `waiter` is seen waiting; False if it returned."""
    await waiter.run("set synchronous_commit = on")
    pid = waiter.backend_pid()
    seen = False
    async with trio.open_nursery() as nursery:

        async def commit() -> None:
            with contextlib.suppress(sql.SqlError):
                text = "select pg_logical_emit_message(true, 'metako', 'wait')::text"
                await waiter.rows(text, timeout_s=FLAG_TIMEOUT_S)
            nursery.cancel_scope.cancel()

        nursery.start_soon(commit)
        while not seen:
            row = await watcher.rows("select wait_event from pg_stat_activity where pid = $1", pid)
            seen = bool(row) and row[0][0] == "SyncRep"
            await trio.sleep(BARRIER_POLL_S)
        nursery.cancel_scope.cancel()
    return seen


async def pass_barrier(open_session: Open, settings: ServerSettings, setting: SyncSetting) -> None:
    """Return once only `setting` can release commits, and k of its members have all WAL so far.

    Each WAL sender releases commits by its own copy of the setting, which it renews before it
    looks at the next reply. Two replies after the change therefore prove the renewal; that the
    setting shows in a fresh backend proves nothing about them. Only then is it asked how far the
    WAL goes: what a sender released by its old copy lies before that.

    Raises:
        StepError: the setting is not in force, or the standbys did not answer in time.
    """
    expected = render_sync(settings.secret, setting)
    names = [application_name(settings.secret, node) for node in setting.nodes]
    try:
        async with open_session() as session:
            row = await session.row("select current_setting('synchronous_standby_names')")
            if row[0] != expected:
                raise StepError("the new synchronous_standby_names are not in force")
            await session.run("set synchronous_commit = local")
            with trio.move_on_after(BARRIER_TIMEOUT_S):
                await _wait_for_replies(session, names, setting.k)
                return
    except sql.SqlError as error:
        raise StepError(f"the barrier was not passed: {error}") from None
    raise StepError(f"the barrier was not passed within {BARRIER_TIMEOUT_S:g} s")


async def _wait_for_replies(session: sql.Session, names: list[str], k: int) -> None:
    target: Lsn | None = None  # the end of the WAL once every sender had renewed its copy
    seen: dict[int, tuple[object, int]] = {}  # by sender: its last reply, replies since we began
    pushed = -BARRIER_PUSH_S
    while True:
        now = trio.current_time()
        rows = await session.rows(
            "select pid, application_name, coalesce(flush_lsn, '0/0')::text, reply_time::text "
            "from pg_stat_replication where application_name = any($1::text[]) limit $2",
            names,
            SENDERS_MAX,
        )
        flushed = set()
        settled = True
        for pid, name, flush, reply in rows:
            last, count = seen.get(int(str(pid)), (reply, 0))
            count += last != reply
            seen[int(str(pid))] = (reply, count)
            settled = settled and count >= REPLIES_NEEDED
            if target is not None and parse_lsn(str(flush)) >= target and count >= REPLIES_NEEDED:
                flushed.add(name)
        if settled and len(flushed) >= k:
            return
        if settled and target is None:
            end = await session.row("select pg_current_wal_insert_lsn()::text")
            target = parse_lsn(str(end[0]))
        if now - pushed >= BARRIER_PUSH_S:
            # Standbys reply when they have flushed something.
            await session.rows("select pg_logical_emit_message(true, 'metako', 'barrier')::text")
            pushed = now
        await trio.sleep(BARRIER_POLL_S)
