"""Making and replacing a data directory, as `metako.postgres.rebuild` does it.

Invariants, as there: nothing runs on the directory meanwhile; a clone replaces it only once it is
complete; a rewind that was begun and not finished leaves the data tainted; whatever is put in place
has a new `data_id`. pg_rewind compares timeline numbers only, so where two branches share one it
keeps rows that its source does not have, or sees no difference at all.
"""

from __future__ import annotations

from metako.model.ids import DataId, NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import ProcessState, Upstream
from metako.postgres.steps import UpstreamAddress
from sim.heap import NS_PER_MS, NS_PER_S
from sim.network import Connection, Traffic
from sim.postgres.data import Control, Data
from sim.postgres.programs import Part, Program
from sim.postgres.server import SimServer
from sim.postgres.steps import FILE_MS, READ_DISK_MS, Executor
from sim.postgres.task import StepError, Steps
from sim.postgres.wal import (
    RecordKind,
    count_until,
    last_checkpoint,
    left_at,
    timeline_at,
)

INITDB_MS = 900
CLONE_MS = 800
SWAP_MS = 10
REWIND_MS = 650
SINGLE_USER_MS = 280
WAL_COPIED_MS_MAX = 100
"""The WAL of the source was copied up to so long before a rewind asks where its WAL ends. What it
writes in between has to be streamed before the rewound server is consistent."""
PROGRAM_POLL_NS = 10 * NS_PER_MS
REACH_NS = 3 * NS_PER_S


class Rebuilder:
    """See the module's docstring. `program` is what dies with the agent."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._server = executor.server
        self._facts = executor.facts
        self.program: Program | None = None

    def _check_nothing_runs(self) -> None:
        if self._server.process is not ProcessState.STOPPED:
            raise StepError("processes still use the data directory")

    # ------------------------------------------------------------ initdb and clone

    def initdb(self) -> Steps:
        """Create the database cluster beside its place, and put it there when it is complete."""
        yield from self._executor.sleep(INITDB_MS)
        yield from self._put_in_place(self._server.new_data())

    def _put_in_place(self, data: Data) -> Steps:
        server = self._server
        self._facts.data_replaced()
        yield from self._executor.sleep(SWAP_MS)
        self._check_nothing_runs()
        if server.data is not None:
            server.superseded.append(server.data)
        server.data = data
        server.changed()
        self._facts.data_replaced()

    def clone(self, upstream: UpstreamAddress) -> Steps:
        """Replace the data directory by a base backup."""
        server, executor = self._server, self._executor
        self._check_nothing_runs()
        copies: list[Data] = []
        new_id = DataId(server.env.new_id("data"))
        try:
            part = (
                server.delay_ns(CLONE_MS),
                lambda source: copies.append(copy_of(source, new_id)),
            )
            yield from self._run(upstream.node, part)
            if server.clone_failures > 0:
                server.clone_failures -= 1
                raise StepError("it was told to fail")
        except StepError as error:
            server.note("clone_broken", str(error))
            raise StepError(f"pg_basebackup failed: {error}") from None
        if server.wal_limit and server.wal_full:
            # The copy is made beside what fills the disk.
            raise StepError("pg_basebackup failed: no space is left for WAL")
        yield from executor.sleep(FILE_MS)
        self._check_nothing_runs()
        yield from self._put_in_place(copies[0])
        server.note("clone_used")
        self._facts.rewind_failed = False
        self._facts.delete_superseded = True

    def _run(self, source: NodeId, *parts: Part) -> Steps:
        """Run a program that reads `source` to its end.

        Raises:
            StepError: it failed.
        """
        program = self.program = Program(self._server, source, parts)
        try:
            while not program.over:
                yield PROGRAM_POLL_NS
        finally:
            program.end()
            self.program = None
        if program.error:
            raise StepError(program.error)

    # ------------------------------------------------------------ rewind

    def rewind(self, upstream: Upstream) -> Steps:
        """Take the data back to the fork and on to the history of `upstream`."""
        self._check_nothing_runs()
        yield from self._check_reachable(upstream.node)
        self._facts.forget_position()  # recovery to a clean shutdown appends a record
        try:
            yield from self._rewind(upstream)
        except StepError as error:
            self._facts.rewind_failed = True
            self._facts.control = None
            self._server.note("rewind_failed", str(error))
            raise

    def _check_reachable(self, source: NodeId) -> Steps:
        """Connect to the source once, before the data are given up for the time of a rewind."""
        server, heap = self._server, self._server.heap
        answers: list[tuple[Connection | None, str]] = []
        dial = server.env.network.connect(
            server.node, source, Traffic.REPLICATION, lambda *answer: answers.append(answer)
        )
        until = heap.now_ns + REACH_NS
        try:
            while not answers and heap.now_ns < until:
                yield PROGRAM_POLL_NS
        finally:
            dial.cancel()
        connection, why = answers[0] if answers else (None, "no answer")
        if connection is None:
            raise StepError(f"{source} cannot be reached: {why}")
        connection.close(server.node)

    def _rewind(self, upstream: Upstream) -> Steps:
        server, executor = self._server, self._executor
        data = server.data
        assert data is not None
        yield from executor.sleep(READ_DISK_MS)
        if not data.control.clean:
            yield from self._recover_alone(data)
        yield from executor.sleep(FILE_MS)
        data.tainted = data.mixed = True
        server.changed()
        copied: list[int] = []
        results: list[Data | str] = []
        duration_ns = server.delay_ns(REWIND_MS)
        rest_ns = min(duration_ns, executor.draw(WAL_COPIED_MS_MAX) * NS_PER_MS)
        yield from self._run(
            upstream.node,
            (duration_ns - rest_ns, lambda source: copied.append(flushed_on(source))),
            (rest_ns, lambda source: results.append(rewound(data, source, copied[0]))),
        )
        if server.rewind_failures > 0:
            server.rewind_failures -= 1
            raise StepError("pg_rewind failed: it was told to fail")
        result = results[0]
        if isinstance(result, str):
            if result == NOT_NEEDED:
                server.note("rewind_not_required")
                raise StepError("pg_rewind saw no difference where the histories differ")
            raise StepError(f"pg_rewind failed: {result}")
        yield from executor.sleep(FILE_MS)
        result.data_id = DataId(server.env.new_id("data"))
        server.data = result
        server.note("rewind_used")
        server.changed()
        self._facts.data_replaced()
        self._facts.rewind_failed = False

    def _recover_alone(self, data: Data) -> Steps:
        """Run crash recovery in single-user mode, which ends in records of its own."""
        server, executor = self._server, self._executor
        yield from executor.sleep(FILE_MS)
        data.standby_signal = False
        yield from executor.sleep(SINGLE_USER_MS)
        if server.wal_full:
            raise StepError("postgres --single failed: no space is left for WAL")
        if server.recovery_failures > 0:
            server.recovery_failures -= 1
            raise StepError("postgres --single failed: it was told to fail")
        data.settle()
        data.branch = server.env.new_id("branch")  # nobody else has what follows
        data.append(RecordKind.CHECKPOINT)
        data.settle()
        data.control = Control(data.tli, data.end)
        server.version += 1
        yield from executor.sleep(FILE_MS)
        data.standby_signal = True


NOT_NEEDED = "no rewind required"


def copy_of(source: SimServer, data_id: DataId) -> Data:
    """Return a base backup that ends now: everything that is flushed, consistent at its end."""
    assert source.data is not None
    return backup_of(source.data, data_id)


def backup_of(held: Data, data_id: DataId) -> Data:
    """Return a base backup of a directory; one of a base backup is the same again."""
    wal = held.wal[: held.flushed]
    end, tli = wal[-1].end, held.tli
    # Of the histories only that of the timeline which is streamed comes along.
    own = {int(tli): held.history_files[tli]} if tli in held.history_files else {}
    redo = held.control.redo_lsn
    copied = Data(
        system_id=held.system_id,
        data_id=data_id,
        wal=wal,
        history=held.history,
        history_files=own,
        control=Control(timeline_at(held.history, redo - 1), redo, tli, end, clean=False),
        wal_begin=max(held.wal_begin, redo),
    )
    copied.tainted, copied.mixed = held.tainted, held.mixed
    return copied


def flushed_on(source: SimServer) -> int:
    """Return how many records there are to copy."""
    return source.data.flushed if source.data is not None else 0


def rewound(target: Data, source: SimServer, copied: int | None = None) -> Data | str:
    """Return what pg_rewind makes of `target`, or why it makes nothing.

    It becomes consistent where the source's WAL ended when everything was copied, WAL first: from
    a source that wrote nothing meanwhile it has all that it needs.

    Args:
        target: the directory.
        source: at the end of the work.
        copied: records that the source had flushed when its WAL was copied; None: all of now.
    """
    held = source.data
    if held is None or source.primary is None:
        return "the source is no primary"
    if held.system_id != target.system_id:
        return "source and target clusters are from different systems"
    if held.control.checkpoint_tli == target_tli(target):
        return NOT_NEEDED
    fork = common_end(target, held)
    if fork is None:
        return "could not find common ancestor of the source and target cluster's timelines"
    if target.end <= fork:
        return NOT_NEEDED
    common = target.wal[: count_until(target.wal, fork)]
    redo = last_checkpoint(common)
    # From there on it reads what the target has changed; the source's WAL it copies unread.
    if redo < target.wal_begin:
        return "could not find previous WAL record"
    if held.wal_begin <= fork:
        wal = common + held.wal[len(common) : held.flushed if copied is None else copied]
    else:
        # In place of what was removed recovery finds what the target has in that segment.
        wal = target.wal[: count_until(target.wal, held.wal_begin - 1)]
    return Data(
        system_id=held.system_id,
        data_id=target.data_id,
        wal=wal,
        history=held.history,
        history_files=dict(held.history_files),
        # The checkpoint is the label's, not that of pg_control.
        control=Control(timeline_at(held.history, redo - 1), redo, held.tli, held.end, clean=False),
        wal_begin=min(held.wal_begin, redo),
    )


def target_tli(data: Data) -> TimelineId:
    """Return the timeline that pg_rewind takes a stopped server to be on."""
    return max(data.control.checkpoint_tli, data.control.min_recovery_tli)


def common_end(target: Data, source: Data) -> Lsn | None:
    """Return where the histories part, by timeline numbers; None if they share none."""
    shared: Lsn | None = None
    for own, other in zip(target.history, source.history, strict=False):
        if own.tli != other.tli or own.begin_lsn != other.begin_lsn:
            break
        ends = [left_at(target.history, own.tli), left_at(source.history, own.tli)]
        known = [end for end in ends if end is not None]
        shared = min(known) if known else target.end
    return shared
