"""The state of one server: disk, processes, faults, and the truth about it that no node can see.

Faults are plain attributes that are read at the moment of use, except for those whose end has to
set something in motion.

Invariant: what was scheduled for processes that have ended is never carried out; while the
processes are frozen it waits, in order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from metako.model.ids import NodeId
from metako.model.lsn import Lsn
from metako.model.postgres import DataState, ProcessState
from metako.postgres.steps import ServerConfig, UpstreamAddress
from sim.heap import NS_PER_MS
from sim.postgres.slots import SLOTS_MAX, Slot, restart_of
from sim.postgres.wal import RECORD_BYTES

if TYPE_CHECKING:
    from sim.ports import Environment
    from sim.postgres.data import Data
    from sim.postgres.primary import Primary
    from sim.postgres.receiver import Receiver
    from sim.postgres.sender import Sender
    from sim.postgres.startup import Startup

SLOW_ILL = 3.0
FSYNC_ILL_MS = 50.0
PROMOTE_ILL_MS = 1000


class Ending(enum.Enum):
    """A signal that ends a server."""

    FAST = enum.auto()  # SIGINT: with a shutdown checkpoint
    QUIT = enum.auto()  # SIGQUIT


class GuardPort(Protocol):
    """What the server and its supervisor ask of the guard."""

    @property
    def armed_term(self) -> int: ...

    @property
    def answers(self) -> bool: ...  # alive and not frozen

    @property
    def lost(self) -> bool: ...  # the process is gone, as opposed to frozen


class ServerState:
    """See the module's docstring. `SimServer` adds what happens to it."""

    def __init__(self, env: Environment, node: NodeId, guard: GuardPort) -> None:
        self.env = env
        self.node = node
        self.guard = guard
        self.heap = env.heap
        self.truth = env.truth
        self.rng = env.rng(node, "postgres")
        self._fsync_draw = env.rng(node, "postgres/fsync").random
        # On disk.
        self.data: Data | None = None
        self.conf: ServerConfig | None = None  # metako.conf, beside the data directory
        self.superseded: list[Data] = []  # directories that clones have replaced
        # Processes.
        self.process = ProcessState.STOPPED
        self.in_recovery: bool | None = None  # None unless STARTING or RUNNING
        self.config: ServerConfig | None = None  # as the postmaster has loaded it
        self.startup: Startup | None = None
        self.primary: Primary | None = None
        self.sync_defined = False  # the flag in shared memory, kept by the checkpointer
        self.checkpointer_free_ns = 0  # until then it checkpoints, and reads no signal
        self.epoch = 0  # of the processes: what was scheduled for an earlier one is void
        # Both change with what an observation shows: the first with everything but the WAL that a
        # standby gets and replays, the second with that.
        self.version = self.moves = 0
        self.killed_epoch = -1  # of the processes that a SIGKILL is about to end
        self.watcher: Callable[[], None] | None = None  # told of exits, as by a pidfd
        self.removed_seen = 0  # lines in the log about WAL that the upstream has removed
        self.last_receiver_error = ""
        # Faults.
        self.frozen = False
        self.wal_disk_full = False
        self.fsync_lies = False
        self.fsync_ms = 1.0
        self.promote_hangs = False
        self.promote_extra_ms = 0.0
        self.rewind_failures = 0
        self.recovery_failures = 0
        self.clone_failures = 0
        self.start_failures = 0
        self.slow = 1.0
        self.checkpointer_stall_ms = 0.0  # a busy checkpointer reads its signals so much later
        self.wal_limit = 0  # records that the disk of pg_wal has space for; 0: for all of them
        self._wal_room = 0  # what the limit was made from
        self._hung = self._replay_paused = self._receive_stalled = False
        self._held: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._pending: Ending | None = None  # a signal that ends it waits until it can act
        self._commits = 0
        self.primary_slot = ""  # `primary_slot_name`, beside the conninfo; "": none
        # Settings that metako leaves alone.
        self.wal_keep = 64  # `wal_keep_size`: records that a checkpoint leaves
        self.wal_grain = RECORD_BYTES  # bytes of WAL that are removed as one: a segment, in small
        self.wal_size_max = 1 << 30  # `max_wal_size`, in bytes
        self.wal_removed = False  # every checkpoint removes WAL; else only `remove_wal` does
        self.slot_keep: int | None = None  # `max_slot_wal_keep_size`, in grains; None: no limit

    # ------------------------------------------------------------ time

    def later(self, delay_ns: int, action: Callable[..., None], *args: object) -> None:
        """Call for the processes that run now; held while they are frozen."""
        self.heap.after(delay_ns, self._fire, self.epoch, action, args)

    def _fire(self, epoch: int, action: Callable[..., None], args: tuple[object, ...]) -> None:
        if epoch == self.epoch:
            if self.frozen:
                self._held.append((action, args))
            else:
                action(*args)

    def after_fsync(self, action: Callable[..., None], *args: object) -> None:
        """Call when a flush of WAL that begins now is done."""
        heap = self.heap
        delay = int(self.fsync_ms * NS_PER_MS * (0.7 + 0.6 * self._fsync_draw()))
        heap.at(heap.now_ns + delay, self._fire, self.epoch, action, args)

    def hold(self, action: Callable[..., None], *args: object) -> None:
        """Keep what has arrived for frozen processes until they run on."""
        self._held.append((action, args))

    def draw_ns(self, most_ns: int) -> int:
        """Return a random delay of at most so much."""
        return int(self.rng.random() * most_ns)

    def delay_ns(self, typical_ms: float) -> int:
        """Return how long something takes that typically takes so long."""
        return int(typical_ms * NS_PER_MS * (0.7 + 0.6 * self.rng.random()) * self.slow)

    def note(self, mark: str, text: str = "") -> None:
        self.truth.note(self.node, mark, text)

    def next_commit_id(self) -> int:
        self._commits += 1
        return self._commits

    def changed(self) -> None:
        """Something that the ground truth is told of has changed."""
        raise NotImplementedError

    def kill(self) -> None:
        """End every process."""
        raise NotImplementedError

    def stop(self, fast: bool) -> None:
        """SIGINT (fast) or SIGQUIT to the postmaster."""
        raise NotImplementedError

    def _take_pending(self) -> None:
        pending = self._pending
        if pending is not None and not self.silent:
            self._pending = None
            self.stop(fast=pending is Ending.FAST)

    # ------------------------------------------------------------ ground truth

    @property
    def being_killed(self) -> bool:
        """Return whether SIGKILL was sent to every process, and they are about to end."""
        return self.killed_epoch == self.epoch

    @property
    def is_up(self) -> bool:
        return self.process is ProcessState.RUNNING

    @property
    def writable(self) -> bool:
        """Return whether a session could write now."""
        return self.primary is not None and self.is_up and not self.frozen

    @property
    def admitting(self) -> bool:
        """Return whether applications are let in, where they are let in at all."""
        return self.is_up and self.config is not None and self.config.admit

    @property
    def branch(self) -> str:
        """Return the branch that this server writes on, or whose WAL it stores."""
        data = self.data
        if data is None:
            return ""
        return data.branch if self.primary is not None or not data.wal else data.wal[-1].branch

    @property
    def listens(self) -> bool:
        """Return whether a postmaster accepts connections; also one that is frozen."""
        return self.process in (ProcessState.STARTING, ProcessState.RUNNING)

    @property
    def receiver(self) -> Receiver | None:
        return self.startup.receiver if self.startup is not None else None

    @property
    def receiving(self) -> bool:
        """Return whether a WAL receiver exists, connected or not."""
        return self.receiver is not None

    @property
    def received(self) -> Lsn:
        """Return the end of what a standby has on disk, if only in part."""
        assert self.data is not None
        partial = self.startup.partial if self.startup is not None else 0
        return Lsn(self.data.end + partial)

    @property
    def upstream_read(self) -> tuple[UpstreamAddress | None, str]:
        """Return whom the settings in force name, and the slot there; who catches up has none."""
        assert self.config is not None
        upstream = self.config.upstream
        catching_up = upstream is not None and not upstream.counts
        return upstream, "" if catching_up else self.primary_slot

    @property
    def data_state(self) -> DataState:
        if self.data is None:
            return DataState.EMPTY
        return DataState.TAINTED if self.data.tainted else DataState.PRESENT

    @property
    def senders(self) -> dict[NodeId, Sender]:
        """Return the newest WAL sender of each standby; empty on a standby."""
        return self.primary.newest() if self.primary is not None else {}

    @property
    def silent(self) -> bool:
        """Return whether statements are accepted and not answered."""
        return self.frozen or self._hung

    @property
    def ill(self) -> bool:
        """Return whether any fault is on that hurts it."""
        return bool(
            self.wal_full
            or self.fsync_lies
            or self._receive_stalled
            or self._replay_paused
            or self.promote_hangs
            or self.promote_extra_ms > PROMOTE_ILL_MS
            or self.rewind_failures
            or self.recovery_failures
            or self.clone_failures
            or self.start_failures
            or self.fsync_ms > FSYNC_ILL_MS
            or self.slow > SLOW_ILL
            or self.checkpointer_stall_ms
        )

    def could_acknowledge(self) -> bool:
        """Return whether a commit written now would be acknowledged by what is attached now."""
        primary = self.primary
        return (
            primary is not None
            and self.is_up
            and not self.silent
            and not self.wal_full
            and primary.could_acknowledge()
        )

    # ------------------------------------------------------------ slots and space for WAL

    def create_slot(self, name: str, *, reserve: bool = True) -> bool:
        """Create a physical slot, which is on disk when this returns; False if it is refused.

        Args:
            name: of the slot.
            reserve: keep WAL from the last checkpoint on; else the first reply of a standby does.
        """
        data = self.data
        if data is None or not self.is_up or self.silent:
            return False
        if name in data.slots or len(data.slots) >= SLOTS_MAX:
            return False
        primary = self.primary
        redo = primary.redo_lsn if primary is not None else restart_of(data)
        data.slots[name] = Slot(name, redo if reserve else Lsn(0))
        self.version += 1
        return True

    def drop_slot(self, name: str) -> bool:
        """Drop a slot; False if it is refused: there is none, or it is in use.

        Of a server that does not answer it is the file that somebody removes.
        """
        data = self.data
        if data is None or name not in data.slots or data.slots[name].sender is not None:
            return False
        del data.slots[name]
        self.version += 1
        return True

    @property
    def removes_wal(self) -> bool:
        """Return whether a checkpoint removes the WAL that nothing needs, without being told."""
        return self.wal_removed or self.wal_limit > 0

    @property
    def wal_full(self) -> bool:
        """Return whether no space is left for WAL."""
        limit = self.wal_limit
        if not limit:
            return self.wal_disk_full
        return self.wal_disk_full or (self.data is not None and self.data.wal_held >= limit)

    @property
    def wal_room(self) -> int:
        """How many more records than it holds now pg_wal may hold; 0: as many as there are."""
        return self._wal_room

    @wal_room.setter
    def wal_room(self, records: int) -> None:
        self._wal_room = records
        held = self.data.wal_held if self.data is not None else 0
        self.wal_limit = held + records if records else 0
        self.version += 1

    # ------------------------------------------------------------ faults with an end

    @property
    def hung(self) -> bool:
        return self._hung

    @hung.setter
    def hung(self, value: bool) -> None:
        self._hung = value
        self.changed()
        self._take_pending()

    @property
    def replay_paused(self) -> bool:
        return self._replay_paused

    @replay_paused.setter
    def replay_paused(self, value: bool) -> None:
        self._replay_paused = value
        if not value and self.startup is not None:
            self.later(0, self._unpause)

    def _unpause(self) -> None:
        if self.startup is not None and not self._replay_paused:
            self.startup.unpause()

    @property
    def receive_stalled(self) -> bool:
        return self._receive_stalled

    @receive_stalled.setter
    def receive_stalled(self, value: bool) -> None:
        self._receive_stalled = value
        if not value and self.receiver is not None:
            self.later(0, self.receiver.read_on)

    def freeze(self) -> None:
        """SIGSTOP of every process."""
        if self.process is not ProcessState.STOPPED and not self.frozen:
            self.frozen = True
            self.changed()

    def thaw(self) -> None:
        """SIGCONT: a signal that came meanwhile is taken first, then everything that has waited."""
        if not self.frozen:
            return
        self.frozen = False
        if self._pending is Ending.QUIT:
            self.kill()
            return
        self._take_pending()
        held, self._held = self._held, []
        epoch = self.epoch
        self.changed()
        for action, args in held:
            if self.epoch != epoch:
                return
            if self.frozen:
                self._held.append((action, args))
            else:
                action(*args)
