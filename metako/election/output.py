"""What a step of agreement produces, and what role a node plays in it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from metako.election.candidate import Stage
from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.events import Event
from metako.model.ids import NodeId
from metako.model.orders import OrderAnswer
from metako.model.postgres import PostgresTarget
from metako.wire.messages import AgreementMessage


class Role(enum.StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
    STOPPING = "stopping"
    STOPPED = "stopped"


ROLES = {Stage.VOTE: Role.CANDIDATE, Stage.PRE_VOTE: Role.PRE_CANDIDATE}
"""Of a node that neither leads nor stops; any other stage is a follower's."""


class ElectionOutput(NamedTuple):
    """What one step produced; `persist` is made durable before `outbound` leaves."""

    persist: HardState | None
    outbound: tuple[tuple[NodeId, AgreementMessage], ...]
    target: PostgresTarget
    guard: GuardDeadline | None  # None: nothing to say
    events: tuple[Event, ...]
    answers: tuple[OrderAnswer, ...]
