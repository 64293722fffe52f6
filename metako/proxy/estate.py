"""What one worker says to the next that takes its place: JSON objects, one a message.

    heir ──ask──▶ elder      who it is and where it listens
    heir ◀──will── elder     with the listening sockets, if they are the same
    heir ──ready──▶ elder    it takes connections, and sessions
    heir ◀──estates── elder  one for each session, with the client's socket and the server's

In: bytes of one message. Out: frozen values. Invariant: a decoder raises `FrameError` and nothing
else, and its text says nothing of what it was given: an estate has the keys by which its client
logs in. A `format` that is not ours is not read: the two may be of different versions.

Deliberately unknown here: sockets, and what a session is when it lives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

from metako.model.ids import Address, NodeId, Term
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.messages import BackendKey, Parse
from metako.proxy.changes import Tie
from metako.proxy.jsonline import FrameError, integer, mapping, string
from metako.proxy.layers import Scope
from metako.proxy.outside import HEIR_FORMAT
from metako.proxy.prepared import Prepared
from metako.proxy.routes import Route
from metako.proxy.serverlogin import LogIn
from metako.proxy.snapshot import Snapshot
from metako.proxy.who import Who


@dataclass(frozen=True, slots=True)
class Ask:
    """An heir's first word."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Will:
    """The elder's answer."""

    listeners: int  # sockets that come with it; 0: the heir listens by itself
    number: int  # above all that the elder has given to sessions, or will
    cancel_number: int  # where the heir's cancel keys are to begin
    paused: tuple[str, ...] = ()  # databases in which nobody may begin a transaction; "*": in all


@dataclass(frozen=True, slots=True)
class Server:
    """The connection to a server that comes with an estate."""

    route: Route
    cancel_key: BackendKey | None = field(repr=False)
    pooled: bool  # counts within the limits of the pool, and may be given back to it
    opened_ns: int  # CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True)
class Estate:
    """One session at rest, with its client's socket."""

    who: Who  # `since` is relative: the age in seconds, negative
    movable: bool  # its login can be repeated
    long_keys: bool  # its client speaks protocol 3.2
    login: LogIn | None = field(repr=False)  # None: its login was passed on
    issued: tuple[int, BackendKey] | None = field(repr=False)  # the cancel key that the client has
    snapshot: Snapshot | None = field(repr=False)  # None: it is not followed
    server: Server | None = None  # None: the session has to be rebuilt at a server


@dataclass(frozen=True, slots=True)
class Ready:
    """The heir's second word."""


def encode(said: Ask | Will | Ready | Estate) -> bytes:
    """Return the message."""
    body: dict[str, object] = {"format": HEIR_FORMAT}
    match said:
        case Ask():
            body["ask"] = asdict(said)
        case Will():
            body["will"] = asdict(said)
        case Ready():
            body["ready"] = True
        case Estate():
            body["estate"] = _estate_to_json(said)
    return json.dumps(body, separators=(",", ":")).encode()


def decode(message: bytes) -> Ask | Will | Ready | Estate:
    """Return what a message says. Raises `FrameError`."""
    try:
        body = mapping(json.loads(message))
        if body.get("format") != HEIR_FORMAT:
            raise FrameError("of another version")
        if "ask" in body:
            ask = mapping(body["ask"])
            return Ask(string(ask["host"]), integer(ask["port"]))
        if "will" in body:
            will = mapping(body["will"])
            return Will(
                integer(will["listeners"]),
                integer(will["number"]),
                integer(will["cancel_number"]),
                tuple(string(name) for name in _row(will["paused"])),
            )
        if body.get("ready") is True:
            return Ready()
        return _estate_from_json(mapping(body["estate"]))
    except (KeyError, IndexError, ValueError, TypeError, RecursionError):
        raise FrameError("not what workers say to each other") from None


# -- JSON -------------------------------------------------------------------------------------


def _estate_to_json(estate: Estate) -> dict[str, object]:
    return {
        "who": asdict(estate.who),
        "movable": estate.movable,
        "long_keys": estate.long_keys,
        "login": None if estate.login is None else _login_to_json(estate.login),
        "issued": None if estate.issued is None else [estate.issued[0], *_key(estate.issued[1])],
        "snapshot": None if estate.snapshot is None else _snapshot_to_json(estate.snapshot),
        "server": None if estate.server is None else _server_to_json(estate.server),
    }


def _estate_from_json(body: Mapping[str, object]) -> Estate:
    who, login, issued = mapping(body["who"]), body["login"], body["issued"]
    snapshot, server = body["snapshot"], body["server"]
    return Estate(
        who=Who(
            number=integer(who["number"]),
            user=string(who["user"]),
            database=string(who["database"]),
            application=string(who["application"]),
            address=string(who["address"]),
            port=integer(who["port"]),
            tls=_flag(who["tls"]),
            since=_number(who["since"]),
        ),
        movable=_flag(body["movable"]),
        long_keys=_flag(body["long_keys"]),
        login=None if login is None else _login_from_json(mapping(login)),
        issued=None if issued is None else (integer(_row(issued)[0]), _read_key(_row(issued)[1:])),
        snapshot=None if snapshot is None else _snapshot_from_json(mapping(snapshot)),
        server=None if server is None else _server_from_json(mapping(server)),
    )


def _login_to_json(login: LogIn) -> dict[str, object]:
    keys: dict[str, object] = {}
    match login.keys:
        case ScramKeys(client_key, server_key):
            keys = {"client_key": _text(client_key.reveal()), "server_key": _text(server_key)}
        case Md5Hash():
            keys = {"md5": _text(login.keys.reveal())}
        case None:
            pass
    return {"parameters": login.parameters, "minor": login.minor, "keys": keys}


def _login_from_json(body: Mapping[str, object]) -> LogIn:
    said = mapping(body["keys"])
    keys: ScramKeys | Md5Hash | None = None
    if "md5" in said:
        keys = Md5Hash(_octets(said["md5"]))
    elif said:
        keys = ScramKeys(ClientKey(_octets(said["client_key"])), _octets(said["server_key"]))
    pairs = [_row(pair) for pair in _row(body["parameters"])]
    parameters = tuple((string(name), string(value)) for name, value in pairs)
    return LogIn(parameters, integer(body["minor"]), keys)


def _snapshot_to_json(snapshot: Snapshot) -> dict[str, object]:
    scope = snapshot.scope
    return {
        "settings": [[_text(name), _texts(sql)] for name, sql in scope.settings.items()],
        "channels": _texts(scope.channels),
        "holds": _texts(scope.holds),
        "scope_ties": [tie.name for tie in scope.ties],
        "statements": [
            [_text(name), *_prepared_to_json(one)] for name, one in snapshot.statements.items()
        ],
        "overflown": snapshot.overflown,
        "ties": [tie.name for tie in snapshot.ties],
        "dirty": snapshot.dirty,
        "reported": dict(snapshot.reported),
        "doubtful": snapshot.doubtful,
    }


def _snapshot_from_json(body: Mapping[str, object]) -> Snapshot:
    settings = {_octets(name): _all(sql) for name, sql in map(_row, _row(body["settings"]))}
    return Snapshot(
        scope=Scope(
            settings=MappingProxyType(settings),
            channels=frozenset(_all(body["channels"])),
            holds=frozenset(_all(body["holds"])),
            ties=frozenset(Tie[string(name)] for name in _row(body["scope_ties"])),
        ),
        statements={
            _octets(row[0]): _prepared_from_json(row) for row in map(_row, _row(body["statements"]))
        },
        overflown=_flag(body["overflown"]),
        ties=tuple(Tie[string(name)] for name in _row(body["ties"])),
        dirty=_flag(body["dirty"]),
        reported={name: string(value) for name, value in mapping(body["reported"]).items()},
        doubtful=_flag(body["doubtful"]),
    )


def _prepared_to_json(one: Prepared) -> list[object]:
    parse = None if one.parse is None else [_text(one.parse.query), one.parse.type_oids]
    return [parse, _text(one.sql), _texts(one.path), one.local]


def _prepared_from_json(row: list[object]) -> Prepared:
    name, parse, sql, path, local = row
    found = None
    if parse is not None:
        text, oids = _row(parse)
        found = Parse(_octets(name), _octets(text), tuple(integer(oid) for oid in _row(oids)))
    return Prepared(found, _octets(sql), _all(path), _flag(local))


def _server_to_json(server: Server) -> dict[str, object]:
    route = server.route
    return {
        "term": route.term,
        "node": route.node,
        "address": [route.address.host, route.address.port],
        "cancel_key": None if server.cancel_key is None else _key(server.cancel_key),
        "pooled": server.pooled,
        "opened_ns": server.opened_ns,
    }


def _server_from_json(body: Mapping[str, object]) -> Server:
    host, port = _row(body["address"])
    address = Address(string(host), integer(port))
    route = Route(Term(integer(body["term"])), NodeId(string(body["node"])), address)
    key = body["cancel_key"]
    return Server(
        route=route,
        cancel_key=None if key is None else _read_key(_row(key)),
        pooled=_flag(body["pooled"]),
        opened_ns=integer(body["opened_ns"]),
    )


def _key(key: BackendKey) -> list[object]:
    return [key.process_id, _text(key.secret_key)]


def _read_key(row: list[object]) -> BackendKey:
    process_id, secret = row
    return BackendKey(integer(process_id), _octets(secret))


def _text(octets: bytes) -> str:
    return octets.decode("latin-1")  # a character for each byte


def _octets(value: object) -> bytes:
    return string(value).encode("latin-1")


def _texts(several: frozenset[bytes] | tuple[bytes, ...]) -> list[str]:
    return [_text(one) for one in several]


def _all(value: object) -> tuple[bytes, ...]:
    return tuple(_octets(one) for one in _row(value))


def _row(value: object) -> list[object]:
    if not isinstance(value, list):
        raise FrameError("not a list")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise FrameError("neither true nor false")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FrameError("not a number")
    return float(value)
