"""What a test of the supervisor's parts is told of a server that does not exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import DataState, PostgresObserved, ProcessState, ReceiverState
from metako.postgres.settings import ServerSettings

SETTINGS = ServerSettings(
    node=NodeId("b"),
    data_dir=Path("/d"),
    state_dir=Path("/s"),
    socket_dir=Path("/r"),
    listen="",
    port=1,
    secret=b"x",
)
STANDBY = PostgresObserved(
    data=DataState.PRESENT,
    process=ProcessState.RUNNING,
    in_recovery=True,
    timeline=TimelineId(1),
    lsn=Lsn(690),
    receiver=ReceiverState.STREAMING,
    upstream=NodeId("a"),
    admitting=True,
)
DETACHED = replace(
    STANDBY,
    receiver=ReceiverState.GONE,
    upstream=None,
    position=WalPosition(TimelineId(1), Lsn(700)),
    detached_for=Term(7),
)
