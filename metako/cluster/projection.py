"""What a node tells the others about itself, from what it sees of its own server."""

from __future__ import annotations

from operator import attrgetter

from metako.model.document import NO_DOCUMENT, ClusterDocument
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, ServerRole, ServerState, only_measures_differ
from metako.model.postgres import (
    CatchingUp,
    DataState,
    Following,
    PostgresObserved,
    ProcessState,
    ReceiverState,
)

_entry = attrgetter("node", "boot_epoch", "state", "address")


def server_role(observed: PostgresObserved) -> ServerRole:
    """Return what the local server is doing, in the words that people and proxies use."""
    if observed.data in (DataState.NONE, DataState.EMPTY):
        return ServerRole.NONE
    if observed.process is not ProcessState.RUNNING or observed.in_recovery is None:
        return ServerRole.UNKNOWN
    return ServerRole.STANDBY if observed.in_recovery else ServerRole.PRIMARY


def _is_attached(observed: PostgresObserved) -> bool:
    """Return whether a standby that gets WAL gets that of a primary."""
    match observed.under:
        case CatchingUp():
            return False
        case Following(upstream=upstream):
            return observed.timeline >= upstream.tip
        case _:
            return True


def server_state(observed: PostgresObserved) -> ServerState:
    """Return the state of the local server in one word.

    Who streams follows the primary, and reads may go there. A candidate that gets WAL from another
    standby follows nobody, nor does who is connected to the next primary before its promotion.
    """
    match observed.process:
        case ProcessState.RUNNING:
            streaming = observed.receiver is ReceiverState.STREAMING and _is_attached(observed)
            return ServerState.STREAMING if streaming else ServerState.RUNNING
        case ProcessState.STARTING:
            return ServerState.STARTING
        case ProcessState.STOPPING | ProcessState.DYING:
            return ServerState.STOPPING
        case ProcessState.STOPPED:
            if observed.data in (DataState.NONE, DataState.EMPTY):
                return ServerState.ABSENT
            return ServerState.STOPPED
        case _:
            return ServerState.ABSENT


def project(
    observed: PostgresObserved,
    base: MemberMeta,
    document: ClusterDocument | None,
    sessions: int,
    *,
    unwatched: bool = False,
) -> MemberMeta:
    """Return the metadata to gossip: `base` holds what never changes while the node runs.

    A node that must not lead, because its watchdog is required and cannot be armed (`unwatched`),
    is one of priority 0 to the others: nobody hands over to it.
    """
    standby = observed.in_recovery is True
    # Field by field: `dataclasses.replace` takes several times as long, and this is done whenever
    # the server's WAL has grown.
    return MemberMeta(
        role=server_role(observed),
        state=server_state(observed),
        timeline=observed.timeline,
        lsn=observed.lsn if observed.lsn else _measured(observed),
        replay_lsn=observed.replay_lsn if standby else Lsn(0),
        lag_ms=observed.lag_ms if standby else -1,
        data_id=observed.data_id,
        system_id=observed.system_id,
        document_ref=document.ref if document is not None else NO_DOCUMENT,
        postgres_address=base.postgres_address,
        api_address=base.api_address,
        proxy_address=base.proxy_address,
        priority=0 if unwatched else base.priority,
        witness=base.witness,
        server_version=observed.server_version,
        agent_version=base.agent_version,
        proxy_sessions=sessions,
        record_id=base.record_id,
        # Told for good: whoever watches a restart from another node may hear of its end, which the
        # leader tells, before it hears of the server that was the last to be restarted.
        restarted=observed.restarted,
    )


def _measured(observed: PostgresObserved) -> Lsn:
    return observed.position.lsn if observed.position else Lsn(0)


def same_standing(before: tuple[Member, ...], now: tuple[Member, ...]) -> bool:
    """Return whether nobody came, went or changed in more than positions.

    Args:
        before: an earlier roster, in order of names.
        now: a later one; a member that has not changed is the same object.
    """
    if len(before) != len(now):
        return False
    # Written out, because this is asked at nearly every message and looks at every member.
    for old, new in zip(before, now, strict=True):
        if old is not new and not _same_member(old, new):
            return False
    return True


def _same_member(old: Member, new: Member) -> bool:
    if _entry(old) != _entry(new):
        return False
    if old.meta is None or new.meta is None:
        return old.meta is new.meta
    return only_measures_differ(old.meta, new.meta)
