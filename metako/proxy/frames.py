"""What agent and proxy worker say to each other: JSON objects, one a line.

Agent → worker: `{"table": {...}}` replaces the routing table, `{"drain": true}` asks the worker to
take no new connections and to exit after the last one. Worker → agent: `{"hello": {...}}` first,
then `{"stats": {...}}` and `{"event": {...}}`. How clients may log in is asked and told by the
frames of `loginframes`, and what concerns consoles by those of `consoleframes`.

In: bytes of one line. Out: frozen values. Invariant: a decoder raises `FrameError` and nothing
else. Unknown keys are ignored, so that agent and worker of neighbouring versions understand each
other while an upgrade is under way.

Deliberately unknown here: sockets, and what anybody does with a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from metako.model.ids import Address, NodeId, Term
from metako.model.lsn import Lsn
from metako.model.routing import Peer, RouteTarget, RoutingTable
from metako.proxy import consoleframes, loginframes
from metako.proxy.consoleframes import ConsoleAsked, ConsoleTold, PartTold, PartWanted
from metako.proxy.jsonline import (
    FrameError,
    from_line_untrusted,
    integer,
    mapping,
    string,
    to_line,
)
from metako.proxy.limits import Tuning
from metako.proxy.loginframes import Verifier, VerifierWanted, Welcome

REPLICAS_MAX = 256
PEERS_MAX = 256
EVENT_FIELDS_MAX = 16


@dataclass(frozen=True, slots=True)
class Hello:
    """Who the worker is; the first frame of every connection."""

    pid: int
    index: int  # 1..n
    node: NodeId
    host: str
    port: int  # the one that is listened on, also when 0 was asked for
    asks: bool = False  # about roles, and may be sent the frames of `loginframes`
    console: bool = False  # may be sent the frames of `consoleframes`


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one worker since its start; `sessions` and `waiting` are gauges."""

    sessions: int = 0  # clients past their startup packet, waiting ones included
    waiting: int = 0  # of these, without a server at the moment
    total: int = 0  # connections accepted
    refused: int = 0  # no primary in time, or too many connections
    malformed: int = 0  # no legal startup packet, in time and in size
    cut: int = 0  # ended because the primary changed or the proxy stopped
    moved: int = 0  # times that a session went on with another server
    waits: int = 0  # times that a client has begun to wait for a server
    timed_out: int = 0  # statements that were cancelled, and idle clients that were ended
    statements: int = 0  # requests that were answered: one for each ReadyForQuery
    reads: int = 0  # statements that servers told to be done, by the tags that `tally` goes by
    writes: int = 0
    failed: int = 0  # errors that clients were told, but for those whose login was passed on
    bytes_up: int = 0  # client → server
    bytes_down: int = 0  # server → client


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """Something that a person should read in the agent's log."""

    level: str  # as in model.events.Severity
    message: str
    fields: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new connections; exit after the last one."""


FromAgent = RoutingTable | Drain | Welcome | Verifier | Tuning | ConsoleTold | PartWanted
FromWorker = Hello | Stats | WorkerEvent | VerifierWanted | ConsoleAsked | PartTold


def encode(frame: FromAgent | FromWorker) -> bytes:
    """Return the line of `frame`, newline included."""
    body: dict[str, object]
    match frame:
        case RoutingTable():
            body = {"table": _table_to_json(frame)}
        case Drain():
            body = {"drain": True}
        case Hello():
            body = {"hello": asdict(frame)}
        case Stats():
            body = {"stats": asdict(frame)}
        case WorkerEvent():
            event = {"level": frame.level, "message": frame.message, "fields": dict(frame.fields)}
            body = {"event": event}
        case Welcome():
            body = {"welcome": loginframes.welcome_to_json(frame)}
        case VerifierWanted():
            body = {"verifier_wanted": loginframes.wanted_to_json(frame)}
        case Verifier():
            body = {"verifier": loginframes.verifier_to_json(frame)}
        case Tuning():
            body = {"tuning": consoleframes.tuning_to_json(frame)}
        case ConsoleAsked():
            command = consoleframes.command_to_json(frame.command)
            body = {"console_asked": {"id": frame.id, "command": command}}
        case PartWanted():
            command = consoleframes.command_to_json(frame.command)
            body = {"part_wanted": {"id": frame.id, "command": command, "room": frame.room}}
        case PartTold():
            body = {"part": {"id": frame.id, **consoleframes.part_to_json(frame.part)}}
        case ConsoleTold():
            body = {"console_told": {"id": frame.id, **consoleframes.part_to_json(frame.part)}}
    return to_line(body)


def decode_from_agent(line: bytes) -> FromAgent:
    """Return the frame of an agent. Raises `FrameError`."""
    body = from_line_untrusted(line)
    if "table" in body:
        return _table_from_json(mapping(body["table"]))
    if body.get("drain") is True:
        return Drain()
    if "welcome" in body:
        return loginframes.welcome_from_json(mapping(body["welcome"]))
    if "verifier" in body:
        return loginframes.verifier_from_json(mapping(body["verifier"]))
    if "tuning" in body:
        return consoleframes.tuning_from_json(mapping(body["tuning"]))
    if "part_wanted" in body:
        part = mapping(body["part_wanted"])
        command = consoleframes.command_from_json(mapping(part.get("command")))
        return PartWanted(integer(part.get("id")), command, integer(part.get("room")))
    if "console_told" in body:
        told = mapping(body["console_told"])
        return ConsoleTold(integer(told.get("id")), consoleframes.part_from_json(told))
    raise FrameError("unknown frame of an agent")


def decode_from_worker(line: bytes) -> FromWorker:
    """Return the frame of a worker. Raises `FrameError`."""
    body = from_line_untrusted(line)
    if "hello" in body:
        hello = mapping(body["hello"])
        return Hello(
            pid=integer(hello.get("pid")),
            index=integer(hello.get("index")),
            node=NodeId(string(hello.get("node"))),
            host=string(hello.get("host")),
            port=integer(hello.get("port")),
            asks=hello.get("asks") is True,
            console=hello.get("console") is True,
        )
    if "stats" in body:
        stats = mapping(body["stats"])
        return Stats(**{field.name: integer(stats.get(field.name, 0)) for field in fields(Stats)})
    if "event" in body:
        event = mapping(body["event"])
        found = tuple(mapping(event.get("fields", {})).items())[:EVENT_FIELDS_MAX]
        return WorkerEvent(string(event.get("level")), string(event.get("message")), found)
    if "verifier_wanted" in body:
        return loginframes.wanted_from_json(mapping(body["verifier_wanted"]))
    if "console_asked" in body:
        asked = mapping(body["console_asked"])
        command = consoleframes.command_from_json(mapping(asked.get("command")))
        return ConsoleAsked(integer(asked.get("id")), command)
    if "part" in body:
        part = mapping(body["part"])
        return PartTold(integer(part.get("id")), consoleframes.part_from_json(part))
    raise FrameError("unknown frame of a worker")


def _table_to_json(table: RoutingTable) -> dict[str, object]:
    return {
        "term": table.term,
        "primary": None if table.primary is None else _target_to_json(table.primary),
        "replicas": [_target_to_json(replica) for replica in table.replicas[:REPLICAS_MAX]],
        "valid_until_boot_ns": table.valid_until_boot_ns,
        "peers": [
            {"node": peer.node, "host": peer.address.host, "port": peer.address.port}
            for peer in table.peers[:PEERS_MAX]
        ],
        "hold": table.hold,
    }


def _table_from_json(body: Mapping[str, object]) -> RoutingTable:
    primary = body.get("primary")
    replicas, peers = body.get("replicas", []), body.get("peers", [])
    if not isinstance(replicas, list) or len(replicas) > REPLICAS_MAX:
        raise FrameError("replicas are not a short list")
    if not isinstance(peers, list) or len(peers) > PEERS_MAX:
        raise FrameError("peers are not a short list")
    return RoutingTable(
        term=Term(integer(body.get("term"))),
        primary=None if primary is None else _target_from_json(mapping(primary)),
        replicas=tuple(_target_from_json(mapping(replica)) for replica in replicas),
        valid_until_boot_ns=integer(body.get("valid_until_boot_ns")),
        peers=tuple(_peer_from_json(mapping(peer)) for peer in peers),
        hold=string(body.get("hold", "")),
    )


def _peer_from_json(body: Mapping[str, object]) -> Peer:
    address = Address(string(body.get("host")), integer(body.get("port")))
    return Peer(NodeId(string(body.get("node"))), address)


def _target_to_json(target: RouteTarget) -> dict[str, object]:
    return {
        "node": target.node,
        "host": target.address.host,
        "port": target.address.port,
        "lsn": int(target.lsn),
        "local": target.local,
    }


def _target_from_json(body: Mapping[str, object]) -> RouteTarget:
    return RouteTarget(
        node=NodeId(string(body.get("node"))),
        address=Address(string(body.get("host")), integer(body.get("port"))),
        lsn=Lsn(integer(body.get("lsn", 0))),
        local=body.get("local") is True,
    )
