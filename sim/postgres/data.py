"""One data directory: what is on the disk of a server, and what a crash leaves of it.

The WAL is one list in which three marks advance: what was inserted (all of it), what was handed to
the kernel, and what is flushed. A crash of the processes loses what the kernel never saw; a crash
of the host loses what was not flushed, but for a random part that reached the disk anyway. A disk
that lies about fsync flushes less than it says.

Knows nothing of processes, targets or other nodes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from metako.model.ids import DataId, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.timeline import HistoryStep
from sim.postgres.slots import Slots
from sim.postgres.wal import (
    FIRST_LSN,
    RECORD_BYTES,
    Chain,
    Record,
    RecordKind,
    chain_of,
    count_until,
    find,
    newest_from,
    timeline_at,
)


@dataclass(slots=True)
class Control:
    """What pg_control says. Always durable."""

    checkpoint_tli: TimelineId
    redo_lsn: Lsn  # of the last checkpoint or restartpoint
    min_recovery_tli: TimelineId = TimelineId(0)  # 0: a primary
    min_recovery_lsn: Lsn = Lsn(0)  # recovery is not consistent before
    clean: bool = True  # shut down properly, also in recovery


class Data:
    """See the module's docstring."""

    __slots__ = (
        *("branch", "control", "data_id", "durable", "flushed", "history", "history_files"),
        *("mixed", "slots", "standby_signal", "system_id", "tainted", "wal", "wal_begin"),
        "written",
    )

    def __init__(
        self,
        *,
        system_id: int,
        data_id: DataId,
        wal: list[Record],
        history: Chain,
        history_files: dict[int, Chain],
        control: Control,
        wal_begin: Lsn = FIRST_LSN,
    ) -> None:
        self.system_id = system_id
        self.data_id = data_id
        self.wal = wal  # replaced, never shortened in place: others may still read the old list
        self.written = self.flushed = self.durable = len(wal)  # counts of records
        self.history = history  # the chain that the WAL lies on, as PostgreSQL sees it
        self.history_files = history_files  # in pg_wal, with placeholders
        self.control = control
        self.wal_begin = wal_begin  # older WAL was removed; the list keeps what it did to tables
        self.slots: Slots = {}  # by name; no copy of the directory has them
        self.branch = wal[-1].branch if wal else ""  # on which a primary writes
        self.standby_signal = True
        self.tainted = False  # marked as: a rewind was begun and not finished
        self.mixed = False  # the truth, which no mark shows: pages of two histories

    @property
    def end(self) -> Lsn:
        """Return the end of the last record on disk."""
        return self.wal[-1].end if self.wal else FIRST_LSN

    @property
    def tli(self) -> TimelineId:
        """Return the newest timeline of the own history."""
        return self.history[-1].tli

    @property
    def position(self) -> WalPosition:
        """Return what reading pg_wal to its end finds."""
        owner = self.wal[-1].tli if self.wal else self.history[0].tli
        return WalPosition(owner, self.end)

    @property
    def max_tli(self) -> TimelineId:
        """Return the greatest number in the name of any file of pg_wal."""
        files = self.history_files
        return TimelineId(max(self.history[-1].tli, max(files) if files else 0))

    def lsn_at(self, count: int) -> Lsn:
        """Return the end of the first `count` records."""
        return self.wal[count - 1].end if count else FIRST_LSN

    @property
    def wal_held(self) -> int:
        """Return how many records are in pg_wal."""
        return len(self.wal) - count_until(self.wal, self.wal_begin)

    def holds(self, record: Record) -> bool:
        """Return whether this very record, not only one at its LSN, is here."""
        wal = self.wal
        index = find(wal, record.end)
        return index < len(wal) and wal[index] is record

    def append(
        self,
        kind: RecordKind,
        values: tuple[tuple[str, str], ...] = (),
        commit_id: int = 0,
    ) -> Record:
        """Insert a record behind the last one, on the newest timeline and the current branch."""
        end = Lsn(self.end + RECORD_BYTES)
        record = Record(end, self.history[-1].tli, self.branch, kind, values, commit_id)
        self.wal.append(record)
        return record

    # ------------------------------------------------------------ crashes

    def cut(self, count: int) -> int:
        """Lose all but the first `count` records; return how many those were."""
        lost = len(self.wal) - count
        if lost > 0:
            self.wal = self.wal[:count]
        self.settle()
        return max(lost, 0)

    def settle(self) -> None:
        """Everything that is left is on disk: a start syncs the whole directory."""
        self.written = self.flushed = self.durable = len(self.wal)

    def lose_power(self, rng: random.Random) -> int:
        """Cut to what is durable and a random part of what the kernel had; return the loss."""
        return self.cut(rng.randint(self.durable, max(self.durable, self.written)))

    # ------------------------------------------------------------ histories

    def set_histories_aside(self, beyond: TimelineId) -> None:
        """Remove the history files of later timelines, as production does before a start."""
        for number in [n for n in self.history_files if n > beyond]:
            del self.history_files[number]

    def recovery_chain(self) -> tuple[Chain, str]:
        """Return the history that recovery follows, and why it cannot, "" if it can.

        PostgreSQL goes for the newest timeline that it finds a history file for and refuses to
        start if its last checkpoint or its minimum recovery point is not part of that history.
        """
        control = self.control
        begun = max(control.checkpoint_tli, control.min_recovery_tli)
        target = newest_from(begun, self.history_files)
        chain = chain_of(target, self.history_files)
        redo, least = control.redo_lsn, control.min_recovery_lsn
        if redo and timeline_at(chain, redo - 1) != control.checkpoint_tli:
            return chain, f"requested timeline {target} is not a child of this server's history"
        if least and timeline_at(chain, least - 1) != control.min_recovery_tli:
            return chain, f"requested timeline {target} does not contain minimum recovery point"
        return chain, ""

    def follow(self, chain: Chain) -> int:
        """Go over to a newer history; return how many records were beyond the fork, hence lost.

        WAL of the old timeline beyond the fork stays in segments that nobody reads again.
        """
        lost = 0
        for step in chain:
            if step.tli > self.tli:
                lost = self.cut(min(len(self.wal), count_until(self.wal, step.begin_lsn)))
                break
        self.history = chain
        return lost


def first_data(system_id: int, data_id: DataId, branch: str) -> Data:
    """Return the directory that initdb and the making of the first roles leave."""
    tli = TimelineId(1)
    end = Lsn(FIRST_LSN + RECORD_BYTES)
    record = Record(end, tli, branch, RecordKind.CHECKPOINT)
    return Data(
        system_id=system_id,
        data_id=data_id,
        wal=[record],
        history=(HistoryStep(tli, Lsn(0)),),
        history_files={},
        control=Control(tli, end),
    )
