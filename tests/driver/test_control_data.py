"""pg_control of a server that ended: nobody waits for it who only wants to know that it is gone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import trio
from server_kit import SETTINGS

from metako.model.ids import DataId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import DataState, ProcessState
from metako.model.watchdog import WatchdogSeen
from metako.postgres.detach import Detacher
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.files import DiskView, ServerFiles
from metako.postgres.install import Installation
from metako.postgres.observe import Observer
from metako.postgres.position import WalReader
from metako.postgres.process import Guard
from metako.postgres.settings import Rendered
from metako.postgres.steps import ServerConfig
from metako.postgres.wal import ControlData

OLD = ControlData(
    system_id=99,
    state="in production",
    checkpoint_tli=TimelineId(1),
    redo_lsn=Lsn(40),
    min_recovery_lsn=Lsn(0),
    min_recovery_tli=TimelineId(0),
    segment_size=1 << 24,
    checksums=True,
    wal_log_hints=True,
    floors=(("max_connections", 100),),
)
NEW = replace(OLD, checkpoint_tli=TimelineId(3), floors=(("max_connections", 200),))


@dataclass
class Status:
    gone: bool = True
    postmaster_pid: int | None = None


@dataclass
class Stopped:
    """A data directory of which nothing runs: its guard, its files and what reads them."""

    status: Status = field(default_factory=Status)
    lost: bool = False
    watchdog: WatchdogSeen = field(default_factory=WatchdogSeen)
    read: int = 0
    started: bool = False
    settings: str = ""

    async def control(self) -> ControlData:
        await trio.lowlevel.checkpoint()
        self.read += 1
        return NEW

    async def measure_stopped(self, control: ControlData) -> WalPosition:
        await trio.lowlevel.checkpoint()
        assert control == NEW
        return WalPosition(TimelineId(3), Lsn(700))

    async def start(self, _argv: object, _env: object, _log: object) -> int:
        await trio.lowlevel.checkpoint()
        self.started = True
        return 70

    def view(self) -> DiskView:
        return DiskView(DataState.PRESENT, DataId("d"), {}, TimelineId(3))

    def read_conf(self) -> str:
        return ""

    def write_settings(self, rendered: Rendered) -> None:
        self.settings = rendered.conf

    def program(self, name: str) -> Path:
        return Path("/bin") / name

    def log_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> object:
        if name in ("data", "conf", "hba", "ident", "log", "socket_dir"):
            return Path("/d") / name
        assert name in ("write", "ensure_data_id", "ensure_standby_signal", "set_histories_aside")
        return lambda *_args: None


@dataclass
class Kit:
    facts: Facts
    disk: Stopped
    observer: Observer
    executor: Executor
    detacher: Detacher


@pytest.fixture
def kit() -> Kit:
    """Return what looks at and starts a server that has just ended, of which OLD was read."""
    facts, disk = Facts(), Stopped()
    facts.read_control(OLD)
    facts.was_up, facts.last_in_recovery = True, False
    guard, files = cast("Guard", disk), cast("ServerFiles", disk)
    reader = cast("WalReader", disk)
    observer = Observer(settings=SETTINGS, files=files, guard=guard, reader=reader, facts=facts)
    executor = Executor(
        settings=SETTINGS,
        files=files,
        installation=cast("Installation", disk),
        guard=guard,
        reader=reader,
        facts=facts,
    )
    detacher = Detacher(executor=executor, guard=guard, reader=reader, facts=facts)
    return Kit(facts, disk, observer, executor, detacher)


async def test_that_a_server_is_gone_is_told_before_anything_is_read(kit: Kit) -> None:
    seen = await kit.observer.observe()
    assert (seen.process, seen.system_id, kit.disk.read) == (ProcessState.STOPPED, 99, 0)


async def test_of_data_that_were_replaced_it_is_read(kit: Kit) -> None:
    kit.facts.data_replaced()
    seen = await kit.observer.observe()
    assert (seen.timeline, kit.disk.read) == (3, 1)


async def test_who_starts_a_server_that_has_run_reads_it_again(kit: Kit) -> None:
    await kit.observer.observe()
    await kit.executor.start(ServerConfig())
    assert kit.disk.started
    assert (kit.disk.read, kit.facts.timeline) == (1, 3)
    assert "max_connections = '200'" in kit.disk.settings


async def test_who_measures_a_position_has_read_it_for_the_start(kit: Kit) -> None:
    await kit.observer.observe()
    await kit.detacher.measure(Term(7))
    assert (kit.facts.position, kit.facts.detached_for) == (WalPosition(TimelineId(3), Lsn(700)), 7)
    await kit.executor.start(ServerConfig())
    assert kit.disk.read == 1
    assert "max_connections = '200'" in kit.disk.settings
