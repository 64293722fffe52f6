"""What is found out and checked before a node starts, so that a mistake touches nothing.

In: the configuration. Out: what the node is built from, or an error with one line for an operator.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import trio

from metako.cluster.engine import blank_hard_state, next_boot
from metako.config import NodeConfig
from metako.model.durable import HardState
from metako.model.errors import (
    ClockMismatchError,
    ClusterMismatchError,
    KeyMismatchError,
    StateError,
)
from metako.model.events import Severity
from metako.model.ids import RecordId
from metako.observability.logs import log
from metako.postgres.install import Installation, find_installation
from metako.postgres.osuser import OsUser, ensure_traversable, make_dir, resolve_os_user
from metako.runtime.hello import HelloMismatch
from metako.runtime.paths import run_dir, socket_dir
from metako.runtime.preflight import (
    check_data_directory,
    check_log_file,
    check_not_running,
    check_ports,
    check_programs,
)
from metako.runtime.transport import Transport, wall_clock_ms
from metako.wire.answer import AnswerReason
from metako.wire.slots import CorruptRecord

HELLO_TIMEOUT_S = 1.0
HELLO_IN_A_HURRY_S = 0.25
"""A peer that does not answer is thought to be off. One that is must not cost a primary whose
agent is being replaced the rest of its lease."""
RECORD_ID_BYTES = 8
NAME_RETRY_S = 3.0
"""How long a peer may still take us for the agent that was stopped just before; longer than
`transport.HEARD_RECENTLY_S`."""
NAME_RETRY_STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found before anything was started."""

    config: NodeConfig
    user: OsUser
    installation: Installation | None  # None on a witness


def prepare(config: NodeConfig) -> Prepared:
    """Check what can be checked while nothing runs, and make the directories.

    Raises:
        MetakoError: a subclass for each thing that can be wrong.
    """
    user = resolve_os_user(config.postgresql.os_user)
    state_dir = config.node.state_dir
    check_not_running(config)
    installation: Installation | None = None
    if not config.node.witness:
        ensure_traversable(state_dir, user)
        ensure_traversable(config.postgresql.data_dir, user)
        installation = find_installation(config.postgresql.bindir, user, state_dir / "postgresql")
        check_programs(installation)
        check_data_directory(config, user, installation)
    check_ports(config, user)
    check_log_file(config)
    make_dir(state_dir, user, mode=0o755)
    make_dir(run_dir(config), user, mode=0o700)
    if installation is not None:
        make_dir(socket_dir(config), user, mode=0o700)
    return Prepared(config, user, installation)


async def greet(transport: Transport, config: NodeConfig, *, in_a_hurry: bool = False) -> None:
    """Ask every configured peer that answers whether we fit together.

    Args:
        transport: running.
        config: of this node.
        in_a_hurry: what an earlier agent of this node left still runs, and this one takes it over.

    Raises:
        KeyMismatchError, ClockMismatchError, ClusterMismatchError: we do not. Nothing was changed.
        StateError: a node of our name runs elsewhere, or has been started more often than we know.
    """
    timeout_s = HELLO_IN_A_HURRY_S if in_a_hurry else HELLO_TIMEOUT_S
    deadline_s = trio.current_time() + NAME_RETRY_S
    while True:
        found = await _mismatches(transport, config, timeout_s=timeout_s)
        if not any(mismatch.reason is AnswerReason.NAME for mismatch in found):
            break
        if trio.current_time() > deadline_s:
            break
        await trio.sleep(NAME_RETRY_STEP_S)
    for mismatch in found:
        match mismatch.reason:
            case AnswerReason.KEY:
                raise KeyMismatchError(mismatch.detail)
            case AnswerReason.CLOCK:
                raise ClockMismatchError(mismatch.detail)
            case AnswerReason.NAME | AnswerReason.EPOCH | AnswerReason.REPLAY:
                raise StateError(mismatch.detail)
            case _:
                raise ClusterMismatchError(mismatch.detail)


async def _mismatches(
    transport: Transport, config: NodeConfig, *, timeout_s: float
) -> list[HelloMismatch]:
    """Return what the peers that answer have against us."""
    found: list[HelloMismatch] = []

    async def ask(name: str, index: int) -> None:
        member = config.cluster.members[index]
        result = await transport.hello(member.gossip, member.name, timeout_s=timeout_s)
        if isinstance(result, HelloMismatch):
            found.append(result)

    async with trio.open_nursery() as nursery:
        for index, member in enumerate(config.cluster.members):
            if member.name != config.node.name:
                nursery.start_soon(ask, member.name, index)
    return found


def begin_record(record: HardState | CorruptRecord | None, config: NodeConfig) -> HardState:
    """Return the record that this start of the agent begins with.

    The first boot epoch is the wall clock's: a node whose record was lost must not come back with
    an epoch that its peers take for an old one.
    """
    match record:
        case None:
            identity = RecordId(secrets.token_hex(RECORD_ID_BYTES))
            return blank_hard_state(config.node.name, wall_clock_ms() // 1000, identity)
        case CorruptRecord():
            log(Severity.ERROR, str(record.error()))
            raise record.error()
        case HardState():
            document = record.document
            if document is not None and document.cluster_name != config.cluster.name:
                raise ClusterMismatchError(
                    f"{config.node.state_dir} belongs to cluster {document.cluster_name!r}, the "
                    f"configuration says {config.cluster.name!r}: give this node a state "
                    "directory of its own"
                )
            return next_boot(record)
