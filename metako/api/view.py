"""The JSON of `GET /status` and `GET /cluster`, made from one immutable `NodeStatus`.

In: `model.status.NodeStatus`. Out: plain dicts, lists, strings, numbers, booleans and None, ready
for `json.dumps`. docs/api.md describes every key; keys are added, never renamed or removed.

Invariant: what is not known is null, never 0, -1 or "". 64-bit identifiers are strings, because
JSON numbers lose bits above 2^53 in many readers; LSNs are strings as PostgreSQL prints them.

Deliberately unaware of HTTP, of the terminal, and of whether any of this is healthy (`health`).
"""

from __future__ import annotations

from metako import __version__
from metako.model.document import ClusterDocument, DocumentRef, Restart, Scheduled, Switchover
from metako.model.ids import Address, NodeId
from metako.model.lsn import format_lsn
from metako.model.member import Member, MemberState, ServerRole, ServerState
from metako.model.moment import format_moment
from metako.model.postgres import PostgresObserved, ProcessState, ReceiverState, SyncSetting
from metako.model.status import NodeStatus
from metako.model.watchdog import WatchdogSeen

JsonObject = dict[str, object]


def status_view(status: NodeStatus) -> JsonObject:
    """Return everything that the node knows, as the body of `GET /status`."""
    return {
        "node": status.node,
        "cluster": status.cluster_name,
        "agent_version": __version__,
        "boot_epoch": status.boot_epoch,
        "term": status.term,
        "promised_term": status.promised_term,
        "role": status.election_role,
        "leader": status.leader,
        "primary": status.primary,
        "primary_silent_ms": status.primary_silent_ms,
        "can_lead_alone": status.can_lead_alone,
        "hold_remaining_ms": status.hold_remaining_ms,
        "lease_remaining_ms": status.lease_remaining_ms,
        "blocked": status.blocked or None,
        "document": _document(status.document, status.committed) if status.document else None,
        "members": [_member(member, status) for member in status.members],
        "postgres": _postgres(status.postgres),
        "watchdog": _watchdog(status.postgres.watchdog),
    }


def cluster_view(status: NodeStatus) -> JsonObject:
    """Return the short listing of members, as the body of `GET /cluster`."""
    rows: list[JsonObject] = []
    for member in status.members:
        meta = member.meta
        address = meta.postgres_address if meta else None
        rows.append(
            {
                "name": member.node,
                "role": member_role(member, status),
                "state": (meta.state if meta else ServerState.ABSENT).value,
                "gossip_state": member.state.value,
                "host": address.host if address else None,
                "port": address.port if address else None,
                "api_url": f"http://{meta.api_address}" if meta and meta.api_address else None,
                "timeline": (meta.timeline or None) if meta else None,
                "lag": lag_bytes(member, status),
            }
        )
    return {"scope": status.cluster_name, "primary": status.primary, "members": rows}


def member_role(member: Member, status: NodeStatus) -> str:
    """Return primary, standby, witness, none or unknown: what the member says it is.

    A member that gossip holds for dead or gone is unknown, whatever it last said: its row must
    not look like a second primary beside the new one.
    """
    document = status.document
    if (member.meta and member.meta.witness) or (document and member.node in document.witnesses):
        return "witness"
    if member.meta is None or member.state in (MemberState.DEAD, MemberState.LEFT):
        return ServerRole.UNKNOWN.value
    return member.meta.role.value


def lag_bytes(member: Member, status: NodeStatus) -> int | None:
    """Return how many bytes of WAL `member` has yet to replay; None when it cannot be said.

    The reference is the newest position heard of the primary, or of the document's primary while
    there is none. Positions on different timelines are not compared: the number would mean nothing.
    """
    source = status.primary or (status.document.primary if status.document else None)
    leading = next((m.meta for m in status.members if m.node == source), None)
    meta = member.meta
    if leading is None or meta is None or not leading.lsn or meta.role is not ServerRole.STANDBY:
        return None
    if meta.timeline != leading.timeline or not meta.replay_lsn:
        return None
    return max(0, leading.lsn - meta.replay_lsn)


def membership(document: ClusterDocument | None, node: NodeId) -> str | None:
    """Return voter, witness or learner: what a node is by the document; None for no member."""
    if document is None:
        return None
    if node in document.voters:
        return "witness" if node in document.witnesses else "voter"
    return "learner" if node in document.learners else None


def record_verdict(document: ClusterDocument | None, member: Member) -> str | None:
    """Return ok or lost: whether a member has the durable record by which it counts.

    None for who is no member, and while one of the two records is not known.
    """
    if document is None or member.meta is None or member.node not in document.members():
        return None
    if document.admits(member.node, member.meta.record_id):
        return "ok"
    # A learner of the first configuration that was not heard of when the cluster was created: the
    # leader takes its record in, whichever it is.
    first = document.records and not document.record_of(member.node).record_id
    return None if first and member.node in document.learners else "lost"


def local_role(observed: PostgresObserved) -> ServerRole:
    """Return what the node's own server is, as last observed."""
    if observed.process is ProcessState.UNKNOWN:
        return ServerRole.UNKNOWN
    if observed.process is not ProcessState.RUNNING:
        return ServerRole.NONE
    match observed.in_recovery:
        case None:
            return ServerRole.UNKNOWN
        case True:
            return ServerRole.STANDBY
        case False:
            return ServerRole.PRIMARY


def is_streaming(observed: PostgresObserved) -> bool:
    """Return whether the node's own server is a standby that receives WAL now."""
    return (
        local_role(observed) is ServerRole.STANDBY and observed.receiver is ReceiverState.STREAMING
    )


def _document(document: ClusterDocument, committed: DocumentRef) -> JsonObject:
    return {
        "cluster_id": document.cluster_id,
        "system_id": str(document.system_id) if document.system_id else None,
        "ref": str(document.ref),
        "term": document.term,
        "version": document.version,
        "committed": committed >= document.ref,
        "primary": document.primary,
        "primary_data_id": document.primary_data_id or None,
        "phase": document.phase.value,
        "durability": document.durability.value,
        "sync": {
            "k": document.sync.k,
            "nodes": [member.node for member in document.sync.members],
            "members": [
                {"node": member.node, "data_id": member.data_id} for member in document.sync.members
            ],
        },
        "voters": list(document.voters),
        "learners": list(document.learners),
        "witnesses": list(document.witnesses),
        "joining": list(document.joining),
        "leaving": list(document.leaving),
        "hold_ms": document.hold_ms,
        "paused": document.paused,
        "pair_mode": document.pair.value if document.pair else None,
        "decider": document.decider,
        "switchover": _switchover(document.switchover) if document.switchover else None,
        "scheduled": _scheduled(document.scheduled) if document.scheduled else None,
        "restarts": [_restart(restart) for restart in document.restarts],
        "timeline": document.tip or None,
        "timelines": [
            {
                "term": entry.term,
                "timeline": entry.tli,
                "parent": entry.parent_tli or None,
                "begin_lsn": format_lsn(entry.begin_lsn),
                "node": entry.node,
                "reason": entry.reason,
                "confirmed": entry.confirmed,
            }
            for entry in document.timelines
        ],
    }


def _switchover(switchover: Switchover) -> JsonObject:
    return {
        "to": switchover.target,
        "order": switchover.order_id,
        "timeout_s": switchover.timeout_ms / 1000,
    }


def _scheduled(scheduled: Scheduled) -> JsonObject:
    return {
        "to": scheduled.target,
        "order": scheduled.order_id,
        "timeout_s": scheduled.timeout_ms / 1000,
        "at": format_moment(scheduled.at_ms),
    }


def _restart(restart: Restart) -> JsonObject:
    return {
        "node": restart.node,
        "order": restart.order_id,
        "timeout_s": restart.timeout_ms / 1000,
    }


def _member(member: Member, status: NodeStatus) -> JsonObject:
    document = status.document
    row: JsonObject = {
        "node": member.node,
        "self": member.node == status.node,
        "state": member.state.value,
        "role": member_role(member, status),
        "membership": membership(document, member.node),
        "joining": document is not None and member.node in document.joining,
        "leaving": document is not None and member.node in document.leaving,
        "record": record_verdict(document, member),
        "waits_for": dict(status.waiting).get(member.node),
        "voter": document is not None and member.node in document.voters,
        "sync": document is not None and member.node in document.sync.nodes(),
        "address": str(member.address),
        "boot_epoch": member.boot_epoch,
        "incarnation": member.incarnation,
    }
    meta = member.meta
    # Every row has every key, so that a reader needs no second shape for a silent member.
    return row | {
        "server_state": meta.state.value if meta else None,
        "timeline": (meta.timeline or None) if meta else None,
        "lsn": _lsn(meta.lsn) if meta else None,
        "replay_lsn": _lsn(meta.replay_lsn) if meta else None,
        "lag_ms": meta.lag_ms if meta and meta.lag_ms >= 0 else None,
        "lag_bytes": lag_bytes(member, status),
        "restarted": (meta.restarted or None) if meta else None,
        "priority": meta.priority if meta else None,
        "zone": (meta.zone or None) if meta else None,
        "document_ref": str(meta.document_ref) if meta else None,
        "data_id": (meta.data_id or None) if meta else None,
        "postgres_address": _address(meta.postgres_address) if meta else None,
        "api_address": _address(meta.api_address) if meta else None,
        "proxy_address": _address(meta.proxy_address) if meta else None,
        "proxy_sessions": meta.proxy_sessions if meta else None,
        "server_version": (meta.server_version or None) if meta else None,
        "agent_version": (meta.agent_version or None) if meta else None,
    }


def _postgres(observed: PostgresObserved) -> JsonObject:
    return {
        "data": observed.data.value,
        "process": observed.process.value,
        "role": local_role(observed).value,
        "streaming": is_streaming(observed),
        "receiver": observed.receiver.value,
        "upstream": observed.upstream,
        "system_id": str(observed.system_id) if observed.system_id else None,
        "data_id": observed.data_id or None,
        "server_version": observed.server_version or None,
        "timeline": observed.timeline or None,
        "lsn": _lsn(observed.lsn),
        "replay_lsn": _lsn(observed.replay_lsn),
        "lag_ms": observed.lag_ms if observed.lag_ms >= 0 else None,
        "position": str(observed.position) if observed.position else None,
        "detached_for": observed.detached_for or None,
        "sync_applied": _sync(observed.sync_applied),
        "sync_barrier": _sync(observed.sync_barrier),
        "marker_term": observed.marker_term or None,
        "admitting": observed.admitting,
        "commit_blocked": observed.commit_blocked,
        "rewind_failed": observed.rewind_failed,
        "standbys": [
            {
                "node": standby.node,
                "streaming": standby.streaming,
                "flush_lsn": _lsn(standby.flush_lsn),
                "replay_lsn": _lsn(standby.replay_lsn),
                "counted": standby.counted,
            }
            for standby in observed.standbys
        ],
    }


def _watchdog(watchdog: WatchdogSeen) -> JsonObject:
    return {
        "state": watchdog.state.value,
        "why": watchdog.why or None,
        "timeout_s": watchdog.timeout_s or None,
        "identity": watchdog.identity or None,
    }


def _lsn(lsn: int) -> str | None:
    return format_lsn(lsn) if lsn else None


def _address(address: Address | None) -> str | None:
    return str(address) if address else None


def _sync(setting: SyncSetting | None) -> JsonObject | None:
    return {"k": setting.k, "nodes": list(setting.nodes)} if setting is not None else None
