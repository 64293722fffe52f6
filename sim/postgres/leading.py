"""What only a primary's agent does: marker, barrier, probe, as in `metako.postgres.commit`.

Invariant: a commit counts as acknowledged when the statement returned without a warning. Marker and
barrier have no duration of their own; they end when what they wait for is true.
"""

from __future__ import annotations

from collections.abc import Callable

from metako.model.ids import Term
from metako.model.postgres import SyncSetting
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.commits import Outcome, SyncLevel
from sim.postgres.primary import Primary
from sim.postgres.sender import Sender
from sim.postgres.steps import Executor
from sim.postgres.task import SqlError, StepError, Steps

MARKER_TIMEOUT_NS = 10 * NS_PER_S
BARRIER_TIMEOUT_NS = 60 * NS_PER_S
BARRIER_POLL_NS = 10 * NS_PER_MS
BARRIER_PUSH_NS = 100 * NS_PER_MS
REPLIES_NEEDED = 2
PROBE_INTERVAL_NS = NS_PER_S
PROBE_TIMEOUT_NS = 2 * NS_PER_S
ANSWER_POLL_NS = NS_PER_MS
ANSWER_POLL_MAX_NS = 20 * NS_PER_MS
ROLES_MS = 3
CHECKPOINT_MS = 40
CHECKPOINT_TRIES_MAX = 5
CHECKPOINT_PAUSE_NS = NS_PER_S


class Leading:
    """See the module's docstring."""

    def __init__(self, executor: Executor, killed: Callable[[], bool]) -> None:
        self._executor = executor
        self._server = executor.server
        self._heap = executor.heap
        self._killed = killed  # clean-up is a luxury of agents that end in good order

    def commit_message(self, timeout_ns: int) -> Steps:
        """Commit a WAL message and return once it is acknowledged like any commit.

        Raises:
            StepError: it was not acknowledged in time, or its wait was cancelled.
        """
        server, heap = self._server, self._heap
        outcomes: list[Outcome] = []
        try:
            yield from self._executor.session()
        except SqlError as error:
            raise StepError(f"the commit was not acknowledged: {error}") from None
        commit = server.message(SyncLevel.ON, outcomes.append)
        if commit is None:
            raise StepError("the commit was not acknowledged: the server is no primary")
        deadline, pause = heap.now_ns + timeout_ns, ANSWER_POLL_NS
        try:
            while not outcomes and heap.now_ns < deadline:
                yield pause
                pause = min(ANSWER_POLL_MAX_NS, pause + pause // 4)
        finally:
            # A backend that waits for standbys does not notice that its client is gone.
            if not outcomes and not self._killed() and server.primary is not None:
                server.primary.terminate(commit)
        if not outcomes:
            raise StepError("the commit was not acknowledged: not answered in time")
        if outcomes[0] is not Outcome.OK:
            raise StepError(f"the commit was not acknowledged: {outcomes[0].name}")

    def emit_marker(self, term: Term, blocked: Callable[[bool], None]) -> Steps:
        """Commit the message that proves that this term can commit."""
        facts = self._executor.facts
        if facts.marker_since is None:
            since = facts.marker_since = self._heap.now_ns / NS_PER_S
            self._heap.after(
                PROBE_TIMEOUT_NS, lambda: blocked(True) if facts.marker_since == since else None
            )
        try:
            yield from self._executor.session()
            yield from self._executor.sleep(ROLES_MS)
        except SqlError as error:
            raise StepError(f"the replication role could not be made: {error}") from None
        yield from self.commit_message(MARKER_TIMEOUT_NS)
        facts.marker_term, facts.marker_since = term, None
        blocked(False)

    def pass_barrier(self, setting: SyncSetting) -> Steps:
        """Return once only `setting` can release commits, and k of its members have all WAL."""
        try:
            yield from self._executor.session()
            primary, config = self._server.primary, self._server.config
            if primary is None or config is None or config.sync != setting:
                raise StepError("the new synchronous_standby_names are not in force")
            primary.write_replies += 1
            try:
                yield from self._wait_for_replies(primary, setting)
            finally:
                primary.write_replies -= 1
        except SqlError as error:
            raise StepError(f"the barrier was not passed: {error}") from None
        self._executor.facts.barrier = setting

    def _wait_for_replies(self, primary: Primary, setting: SyncSetting) -> Steps:
        server, heap = self._server, self._heap
        deadline = heap.now_ns + BARRIER_TIMEOUT_NS
        replies = Replies(setting)
        pushed = -BARRIER_PUSH_NS
        while heap.now_ns < deadline:
            yield from self._executor.answered()
            if server.primary is not primary:
                raise SqlError("the server is no primary any more")
            if replies.enough(primary.senders, primary.data.end):
                return
            if heap.now_ns - pushed >= BARRIER_PUSH_NS:
                # Standbys reply when they have flushed something.
                server.message(SyncLevel.LOCAL, _ignore)
                pushed = heap.now_ns
            yield BARRIER_POLL_NS
        raise StepError("the barrier was not passed in time")

    # ------------------------------------------------------------ background

    def probe(self, leads: Callable[[], bool], blocked: Callable[[bool], None]) -> Steps:
        """Commit once a second on a primary, for as long as it is one."""
        while True:
            yield PROBE_INTERVAL_NS
            if not leads():
                blocked(False)
                return
            try:
                yield from self.commit_message(PROBE_TIMEOUT_NS)
                blocked(False)
            except (StepError, SqlError):
                blocked(leads())

    def checkpoint_for(self, handover: str) -> Steps:
        """Write a checkpoint, so that the shutdown of a handover is short."""
        yield from self._checkpoint()
        self._executor.facts.checkpointed = handover

    def checkpoint(self) -> Steps:
        """Have pg_control name the new timeline, which pg_rewind on other nodes reads."""
        for _ in range(CHECKPOINT_TRIES_MAX):
            try:
                yield from self._checkpoint()
            except SqlError:
                yield CHECKPOINT_PAUSE_NS
                continue
            return

    def _checkpoint(self) -> Steps:
        yield from self._executor.session()
        busy_ns = self._server.delay_ns(CHECKPOINT_MS)
        self._server.checkpointer_free_ns = self._heap.now_ns + busy_ns
        yield busy_ns
        yield from self._executor.answered()
        if self._server.primary is not None:
            self._server.primary.checkpoint()


class Replies:
    """Counts the replies of each sender since a barrier began, as far as polling sees them."""

    def __init__(self, setting: SyncSetting) -> None:
        self._setting = setting
        self._target: int | None = None  # end of the WAL once every sender had renewed its copy
        self._seen: list[tuple[Sender, int, int]] = []  # sender, its last reply, replies counted

    def enough(self, senders: list[Sender], end: int) -> bool:
        """Return whether every listed sender has renewed its setting, and k have all WAL.

        Args:
            end: of the WAL now.
        """
        known = {sender: (last, count) for sender, last, count in self._seen}
        self._seen = []
        flushed: set[str] = set()
        settled = True
        for sender in senders:
            if sender.node not in self._setting.nodes:
                continue
            last, count = known.get(sender, (sender.reply_ns, 0))
            count += last != sender.reply_ns
            self._seen.append((sender, sender.reply_ns, count))
            settled = settled and count >= REPLIES_NEEDED
            flushed_all = self._target is not None and sender.flush_lsn >= self._target
            if flushed_all and count >= REPLIES_NEEDED:
                flushed.add(sender.node)
        if settled and self._target is None:
            self._target = end
        return settled and len(flushed) >= self._setting.k


def _ignore(_outcome: Outcome) -> None:
    """Nobody waits for it."""
