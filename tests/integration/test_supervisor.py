"""The supervisor on real servers: scripted targets, and what the servers then are."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from supervisor_kit import free_port, nodes

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn, format_lsn, parse_lsn
from metako.model.postgres import (
    DataState,
    Detached,
    Following,
    Initialize,
    Leading,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
    Untouched,
    Upstream,
)
from metako.model.timeline import TimelineEntry
from metako.postgres import sql
from metako.postgres.history import is_segment
from metako.postgres.syncnames import application_name

pytestmark = pytest.mark.integration

BINDIR = os.environ.get("METAKO_TEST_BINDIR")
SLOW_MACHINE_MS = 3000  # each takes about a tenth of a second on one that is at rest
NO_SYNC = SyncSetting()


def entry(term, tli, parent, begin=Lsn(0)):
    return TimelineEntry(Term(term), TimelineId(tli), TimelineId(parent), begin, confirmed=True)


FIRST = entry(0, 1, 0)


def following(node, term, entries):
    return Following(
        Upstream(node.name, node.address, Term(term), tuple(entries), entries[-1].tli, 0)
    )


def streaming(observed):
    return observed.receiver is ReceiverState.STREAMING


def settled_detached(promise):
    def check(observed):
        return (
            observed.process is ProcessState.RUNNING
            and observed.receiver is ReceiverState.GONE
            and observed.position is not None
            and observed.detached_for >= promise
            and observed.upstream is None
        )

    return check


async def initialize(node):
    """Make the first primary: term 1, timeline 2, no standby; return the timelines."""
    await node.target(Initialize(), lambda o: o.process is ProcessState.RUNNING)
    assert node.observed.in_recovery
    await lead(node, 1, 2)
    return [FIRST, entry(1, 2, 1, node.observed.history[-1].begin_lsn)]


async def lead(node, term, tli):
    """Let a server be the primary of a term, on a new timeline and without standbys."""
    await node.arm(term)
    await node.target(
        Leading(Term(term), TimelineId(tli), NO_SYNC, admit=True),
        lambda o: o.admitting and o.marker_term == term,
    )


async def crash(node):
    """End a server behind its supervisor's back, which is to leave it at that."""
    node.kill_postmaster()
    await node.until(lambda o: o.process is not ProcessState.RUNNING, "seen dead")
    node.supervisor.set_target(Untouched())


async def attach(node, upstream, term, entries):
    await node.target(following(upstream, term, entries), streaming)
    await upstream.until(
        lambda o: any(s.node == node.name and s.streaming for s in o.standbys), "attached"
    )


async def lead_again(node, term, tli):
    """Stop a primary and promote it to another timeline, without standbys."""
    await node.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
    await node.target(Detached(Term(term)), settled_detached(term))
    await lead(node, term, tli)


def children(postmaster):
    """Return what a postmaster has forked; nothing if it does not run."""
    path = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def title_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def stop_all(node):
    """SIGSTOP the postmaster and everything that it has forked."""
    postmaster = node.guard.status.postmaster_pid
    for pid in (postmaster, *children(postmaster)):
        os.kill(pid, signal.SIGSTOP)


async def current_lsn(node):
    return parse_lsn(await node.psql("select pg_current_wal_insert_lsn()"))


async def test_first_primary_is_closed_until_its_marker_and_then_serves():
    async with nodes("a", bindir=BINDIR) as (a,):
        await a.target(Initialize(), lambda o: o.process is ProcessState.RUNNING)
        await a.until(lambda o: o.position is not None, "position")
        assert len(a.observed.data_id) == 32
        assert a.observed.system_id
        refused = Leading(Term(1), TimelineId(2), NO_SYNC, admit=False)
        a.supervisor.set_target(refused)
        await a.until(lambda _: any("not armed" in f.error for f in a.failures), "refused")
        await a.arm(1)
        await a.until(lambda o: o.marker_term == 1, "promoted")
        assert not await a.can_log_in()
        assert (await a.psql("show synchronous_standby_names")) == ""
        await a.target(replace(refused, admit=True), lambda o: o.admitting)
        assert await a.can_log_in()
        assert a.observed.timeline == 2
        assert (a.settings.data_dir / "standby.signal").exists()
        assert a.observed.sync_barrier == NO_SYNC
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        # An old primary never comes back writable, and its position is its shutdown record's end.
        await a.target(Detached(Term(2)), settled_detached(2))
        assert a.observed.in_recovery
        assert a.observed.position.timeline == 2
        replayed = await a.psql("select pg_last_wal_replay_lsn()")
        assert format_lsn(a.observed.position.lsn) == replayed


async def test_failover_on_a_reserved_timeline_and_rewind_of_the_old_primary():
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await a.psql("create table t(i int); insert into t select generate_series(1,1000)")
        await attach(b, a, 1, entries)
        assert b.observed.data_id not in ("", a.observed.data_id)

        listed = SyncSetting((NodeId("b"),), 1)
        await a.target(
            Leading(Term(1), TimelineId(2), listed, admit=True), lambda o: o.sync_barrier == listed
        )
        await a.psql("insert into t values (0)")
        assert [s.counted for s in a.observed.standbys] == [True]

        # The promise: the receiver is gone and the position is the end of the primary's WAL.
        end = await current_lsn(a)
        while (await b.psql("select pg_last_wal_receive_lsn()")) != format_lsn(end):
            await trio.sleep(0.02)
            end = await current_lsn(a)
        await b.target(Detached(Term(2)), settled_detached(2))
        assert b.observed.position.timeline == 2
        assert b.observed.position.lsn <= await current_lsn(a)
        assert b.observed.position.lsn >= end
        assert b.observed.whole  # others may stream from it before it is promoted
        assert b.duration_ms("Detach") < SLOW_MACHINE_MS

        # Nothing that the old primary writes now can be acknowledged.
        with pytest.raises(AssertionError), trio.fail_after(5):
            await a.psql("set statement_timeout='300ms'; insert into t values (-1); select 1/0")
        await a.until(lambda o: o.commit_blocked, "blocked")

        await crash(a)
        await lead(b, 2, 6)
        assert b.duration_ms("Promote") < SLOW_MACHINE_MS
        assert b.observed.timeline == 6
        steps = [step.tli for step in b.observed.history]
        assert steps == [1, 2, 6]
        assert await b.psql("select count(*) from t") == "1001"

        entries.append(entry(2, 6, 2, b.observed.history[-1].begin_lsn))
        old_id = a.observed.data_id
        await attach(a, b, 2, entries)
        assert "Rewind" in a.steps, a.reports
        assert a.observed.data_id != old_id
        assert not a.observed.rewind_failed
        kept = [path.name for path in (a.settings.state_dir / "diverged").glob("*-wal-*/*")]
        ready = [path.name for path in (a.settings.data_dir / "pg_wal").iterdir()]
        assert 1 <= len([name for name in kept if is_segment(name)]) <= 2, (kept, ready)
        await b.psql("insert into t values (7)")
        # A restart of a standby that has fetched placeholders comes up again.
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        await attach(a, b, 2, entries)
        assert not a.failures, a.failures


async def deposed(a, b, statement):
    """Let `a` crash after a statement that `b` has not got, and `b` lead; return the timelines."""
    entries = await initialize(a)
    await attach(b, a, 1, entries)
    await b.target(Detached(Term(2)), settled_detached(2))
    await a.psql(statement)
    await crash(a)
    await lead(b, 2, 6)
    return [*entries, entry(2, 6, 2, b.observed.history[-1].begin_lsn)]


async def test_a_rewind_asks_for_its_source_before_it_touches_the_data():
    """Else the last copy of a commit would vouch for nothing because some host is gone."""
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await deposed(a, b, "create table only_here()")
        old_id, asked = a.observed.data_id, following(b, 2, entries)
        nobody = replace(asked.upstream, address=replace(b.address, port=free_port()))
        await a.target(replace(asked, upstream=nobody), lambda _: bool(a.failures), "refused")
        assert a.failures[0].step == "Rewind"
        assert "cannot be reached" in a.failures[0].error
        assert a.observed.data is DataState.PRESENT
        assert a.observed.data_id == old_id
        assert not a.observed.rewind_failed

        await attach(a, b, 2, entries)
        assert "Rewind" in a.steps, a.reports


async def stopped_startup(node):
    """SIGSTOP the startup process of a server that is being started, and return its pid."""
    with trio.fail_after(10):
        while True:
            for pid in children(node.guard.status.postmaster_pid or 0):
                with suppress(OSError):
                    if "startup" in title_of(pid):
                        os.kill(pid, signal.SIGSTOP)
                        return pid
            await trio.sleep(0.001)


async def test_an_old_primary_that_is_stopped_amid_its_crash_recovery_is_rewound():
    """It says "shut down in recovery" and has replayed nothing; pg_rewind would see no difference.

    That is no rare moment: a deposed primary is started by its agent before the next document has
    come, and before it replays anything it syncs its data directory, however large that is.
    """
    async with nodes("ab", bindir=BINDIR) as (a, b):
        rows = "create table t(i int); insert into t select generate_series(1,300000)"
        entries = await deposed(a, b, rows)
        before = len(a.log())
        a.supervisor.set_target(Detached(Term(2)))
        startup = await stopped_startup(a)
        a.supervisor.set_target(following(b, 2, entries))
        with trio.fail_after(10):
            while "received fast shutdown request" not in a.log()[before:]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        os.kill(startup, signal.SIGCONT)
        await attach(a, b, 2, entries)
        stopped, *_ = a.log()[before:].split("database system is shut down")
        assert "consistent recovery state" not in stopped
        assert "Rewind" in a.steps, a.reports
        assert "Clone" not in a.steps, a.reports


async def test_detach_succeeds_while_replay_is_paused():
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        await a.psql("create table t(i int)")
        await b.psql("select pg_wal_replay_pause()")
        await a.psql("insert into t select generate_series(1,50000)")
        listed = SyncSetting((NodeId("b"),), 1)
        await a.target(
            Leading(Term(1), TimelineId(2), listed, admit=True), lambda o: o.sync_barrier == listed
        )
        await a.psql("insert into t values (0)")
        acknowledged = parse_lsn(await a.psql("select pg_current_wal_flush_lsn()"))
        await b.target(Detached(Term(2)), settled_detached(2))
        replayed = parse_lsn(await b.psql("select pg_last_wal_replay_lsn()"))
        assert replayed < b.observed.position.lsn
        # The last record of the insert is its commit; whatever followed was not acknowledged.
        assert b.observed.position.lsn >= acknowledged - 1000
        assert b.guard.status.postmaster_pid is not None
        assert "Detach" in b.steps


async def test_a_standby_that_is_detached_amid_a_record_knows_that_it_has_a_part_of_it():
    async with nodes("ab", bindir=BINDIR) as (a, b), trio.open_nursery() as nursery:
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        end = await current_lsn(a)
        long = "select pg_logical_emit_message(false, 'x', repeat('x', 120000000))"
        nursery.start_soon(a.psql, long)
        with trio.fail_after(30):
            received = end
            while received < end + (1 << 20):
                await trio.sleep(0.002)
                received = parse_lsn(await b.psql("select pg_last_wal_receive_lsn()"))
        await b.target(Detached(Term(2)), settled_detached(2))
        received = parse_lsn(await b.psql("select pg_last_wal_receive_lsn()"))
        assert b.observed.position.lsn < end + 1000 < received
        assert not b.observed.whole


async def test_a_frozen_standby_is_stopped_to_keep_a_promise():
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        end = await current_lsn(a)
        for pid in [b.guard.status.postmaster_pid]:
            os.kill(pid, signal.SIGSTOP)
        await b.target(Detached(Term(2)), settled_detached(2), seconds=25)
        assert b.observed.position.lsn >= end - 200
        assert b.observed.data is DataState.PRESENT


async def test_a_look_that_gets_no_answer_does_not_hold_up_a_stop():
    async with nodes("a", bindir=BINDIR) as (a,):
        await initialize(a)
        stop_all(a)
        await trio.sleep(1.0)  # somebody asks it something every half second
        assert not a.observed.silent  # and waits for an answer
        began = trio.current_time()
        a.supervisor.set_target(Stopped(fast=True))
        await a.until(lambda o: o.silent, "silent")
        assert trio.current_time() - began < 1.5
        await a.target(Stopped(fast=False), lambda o: o.process is ProcessState.STOPPED)
        assert trio.current_time() - began < 5


async def test_a_frozen_primary_is_silent_and_can_still_be_ended():
    async with nodes("a", bindir=BINDIR) as (a,):
        await initialize(a)
        assert not a.observed.silent
        stop_all(a)
        await a.until(lambda o: o.silent, "silent")
        assert a.observed.process is ProcessState.RUNNING
        assert a.observed.in_recovery is False
        await a.target(Stopped(fast=False), lambda o: o.process is ProcessState.STOPPED)
        assert not a.observed.silent


async def test_a_refusal_is_an_answer():
    async with nodes("a", bindir=BINDIR) as (a,), sql.open_sql_loop():
        await initialize(a)
        where = {"socket_dir": a.settings.socket_dir, "user": a.settings.superuser}
        with pytest.raises(sql.SqlError) as refused:
            await sql.connect(**where, port=a.port, database="nowhere")
        assert refused.value.answered
        with pytest.raises(sql.SqlError) as nobody:
            await sql.connect(**where, port=a.port + 1, database="postgres")
        assert not nobody.value.answered


async def test_warnings_are_heard_with_the_answer_that_they_came_with():
    """A commit whose wait was cancelled differs from one that was acknowledged by nothing else."""
    async with nodes("a", bindir=BINDIR) as (a,), sql.open_sql_loop():
        await initialize(a)
        session = await sql.connect(
            socket_dir=a.settings.socket_dir,
            port=a.port,
            user=a.settings.superuser,
            database="postgres",
        )
        try:
            for number in range(1, 50):
                await session.run(f"do $$ begin raise warning 'no. {number}'; end $$")
                assert (await session.warnings())[-1:] == (f"no. {number}",)
                await session.rows("select 1 as n")
            assert len(await session.warnings()) == 49
        finally:
            session.terminate()


async def test_no_standby_is_relied_upon_before_a_commit_is_seen_to_wait():
    """A busy checkpointer: the setting shows in every new backend, and commits do not wait."""
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        checkpointer = int(
            await a.psql("select pid from pg_stat_activity where backend_type = 'checkpointer'")
        )
        sync = SyncSetting((b.name,), 1)
        os.kill(checkpointer, signal.SIGSTOP)
        try:
            a.supervisor.set_target(Leading(Term(1), TimelineId(2), sync, admit=True))
            await a.until(lambda _: any("seen to wait" in f.error for f in a.failures), "refused")
            assert a.observed.sync_applied != sync
            assert a.observed.sync_barrier != sync
        finally:
            os.kill(checkpointer, signal.SIGCONT)
        await a.until(lambda o: o.sync_applied == sync == o.sync_barrier, "relied upon")
        await a.psql("select pg_logical_emit_message(true, 'test', 'acknowledged')")


async def slots_of(node):
    """Return (name, active, keeps WAL) of every slot."""
    text = await node.psql(
        "select slot_name, active, restart_lsn is not null from pg_replication_slots order by 1"
    )
    return [tuple(line.split("|")) for line in text.splitlines()]


async def slots_become(node, wanted):
    """Wait until the slots are so: by name, in use and keeping WAL."""
    found = {}
    for _ in range(100):
        found = {name: (active, kept) for name, active, kept in await slots_of(node)}
        if found == wanted:
            return
        await trio.sleep(0.1)
    assert found == wanted


async def test_standby_has_one_sender_at_most_and_its_upstream_a_slot_for_each_member():
    """The sender of a broken connection that lingers would be counted beside the new one."""
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        names = {n: application_name(a.settings.secret, NodeId(n)) for n in "abc"}
        await slots_become(a, {names["b"]: ("t", "t"), names["c"]: ("f", "f")})
        await slots_become(b, {names[n]: ("f", "f") for n in "ac"})
        assert await b.psql("show primary_slot_name") == names["b"]

        old = int(await a.psql("select pid from pg_stat_replication"))
        os.kill(old, signal.SIGSTOP)
        try:
            await b.psql("select pg_terminate_backend(pid) from pg_stat_wal_receiver")
            await b.until(lambda _: "is active for PID" in b.log(), "refused")
            assert await a.psql("select pid from pg_stat_replication") == str(old)
        finally:
            os.kill(old, signal.SIGCONT)
        newest = str(old)
        for _ in range(100):
            newest = await a.psql("select pid from pg_stat_replication")
            if newest not in ("", str(old)):
                break
            await trio.sleep(0.1)
        assert newest not in ("", str(old))

        # A former primary keeps WAL for nobody.
        await b.target(Detached(Term(2)), settled_detached(2))
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        await a.target(Detached(Term(2)), settled_detached(2))
        await slots_become(a, {names[n]: ("f", "f") for n in "bc"})


async def test_slots_that_cannot_be_made_are_told():
    """Without its slot a standby does not attach, and its own log would be all that says why."""
    few = (("max_replication_slots", "1"),)
    async with nodes("a", bindir=BINDIR, parameters=few) as (a,):
        await initialize(a)
        await a.until(lambda _: any(f.step == "KeepSlots" for f in a.failures), "told")
        assert "all replication slots are in use" in a.failures[-1].error


async def test_standby_on_an_old_timeline_follows_a_primary_that_was_cloned():
    """A base backup brings one history file, and the standby asks for each one in between."""
    async with nodes("abc", bindir=BINDIR) as (a, b, c):
        entries = await initialize(a)
        await attach(c, a, 1, entries)
        await c.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        for term, tli in ((2, 3), (3, 4)):
            await lead_again(a, term, tli)
            begin = a.observed.history[-1].begin_lsn
            entries = [*entries, entry(term, tli, tli - 1, begin)]
        await attach(b, a, 3, entries)  # cloned on timeline 4
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        await b.target(Detached(Term(4)), settled_detached(4))
        await lead(b, 4, 5)
        entries = [*entries, entry(4, 5, 4, b.observed.history[-1].begin_lsn)]
        # It follows, or finds that the WAL it needs is gone and is cloned; without the files it
        # would ask for them for ever.
        await attach(c, b, 4, entries)
        assert c.observed.timeline == 5


async def test_history_ahead_of_its_wal_is_left_behind_before_a_promotion():
    """PostgreSQL goes over to a timeline that it has only the history of, and would record it."""
    async with nodes("ab", bindir=BINDIR) as (a, b):
        entries = await initialize(a)
        await attach(b, a, 1, entries)
        await b.target(Detached(Term(2)), settled_detached(2))
        await a.psql("create table t(i int); insert into t select generate_series(1,1000)")
        await lead_again(a, 2, 3)
        fetched = a.settings.data_dir / "pg_wal" / "00000003.history"
        ahead = b.settings.data_dir / "pg_wal" / fetched.name
        shutil.copyfile(fetched, ahead)
        os.chown(ahead, b.user.uid, b.user.gid)
        # It looks for newer timelines every five seconds.
        await b.until(lambda _: "new target timeline is 3" in b.log(), "gone over")
        await lead(b, 3, 4)
        assert any("history of timeline 3" in f.error for f in b.failures), b.reports
        assert [step.tli for step in b.observed.history] == [1, 2, 4]
