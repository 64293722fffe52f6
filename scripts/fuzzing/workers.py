"""What a proxy's worker reads: SQL, console commands, and the frames between it and its agent."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from fuzzing.mutation import (
    Broken,
    mutate,
    pieces,
    some_bytes,
    some_name,
    some_text,
    spoil,
    spoil_bodies,
)
from metako.model.ids import Address, NodeId, Term
from metako.model.lsn import Lsn
from metako.model.rolelogin import RoleLogin
from metako.model.routing import Peer, RouteTarget, RoutingTable
from metako.pgwire.messages import TERMINATE, message, query
from metako.pgwire.rows import Table
from metako.pgwire.startup import PgWireError
from metako.proxy import frames, loginframes
from metako.proxy.changes import NOTHING
from metako.proxy.concern import concerns, is_mere_query
from metako.proxy.console import Command, Console, Done, Failed, Shown, Verb
from metako.proxy.consoleframes import ConsoleAsked, ConsoleTold, Part, PartTold, PartWanted
from metako.proxy.jsonline import FrameError
from metako.proxy.limits import Tuning
from metako.proxy.meaning import meaning_of
from metako.proxy.sqltext import Kind, Script, read_script

# -- SQL --------------------------------------------------------------------------------------

_SQL = (
    *("select", "insert into t values", "with a as", "begin", "commit", "rollback to", "savepoint"),
    *(
        "set",
        "set local",
        "reset",
        "show",
        "prepare p as",
        "execute p",
        "deallocate",
        "discard all",
    ),
    *(
        "create temp table t",
        "create function f() returns int begin atomic",
        "case",
        "end",
        "listen",
    ),
    *("declare c cursor with hold for", "close", "copy t from stdin", "set_config", "currval"),
    *(
        "pg_advisory_lock",
        "pg_temp.t",
        "temporary",
        "search_path",
        "to",
        "=",
        "on",
        "true",
        "default",
    ),
    *(
        "(",
        ")",
        ",",
        ";",
        ";",
        "'",
        "''",
        "'a'",
        "E'\\'",
        "e'a\\\\'",
        "U&'",
        '"',
        '"a"',
        'u&"',
        "$$",
    ),
    *("$a$", "$1", "--", "/*", "*/", "\n", "\\", "1", "1.5e3", "ä", "\x00", " ", "::", "|"),
)


def _sql(rng: random.Random) -> bytes:
    parts = [rng.choice(("select", "")), *rng.choices(_SQL, k=rng.randint(1, 14))]
    text = rng.choice((" ", " ", "")).join(parts).encode()
    return mutate(rng, text) if rng.random() < 0.3 else text


def _check_places(text: bytes, script: Script) -> None:
    """The tokens stand in the text in their order, and nothing is in two of them."""
    position = 0
    for statement in script.statements:
        if text.find(statement.text, position) < 0 or not statement.tokens:
            raise Broken(f"{statement} is not in {text!r}")
        for token in statement.tokens:
            if not position <= token.start < token.end <= len(text):
                raise Broken(f"{token} of {text!r} overlaps what is before it")
            if token.kind is Kind.WORD and text[token.start : token.end].lower() != token.value:
                raise Broken(f"{token} does not stand in {text!r}")
            position = token.end


def fuzz_sql(rng: random.Random) -> str:
    """Take one text apart, and ask what it leaves behind."""
    text = _sql(rng)
    script = read_script(text, doubtful=rng.random() < 0.5)
    _check_places(text, script)
    meanings = [meaning_of(statement) for statement in script.statements]
    # What is nobody's concern is not looked at by `meaning`.
    if is_mere_query(text) and script.whole and any(one != NOTHING for one in meanings):
        raise Broken(f"{text!r} is called a mere query, and means {meanings}")
    # The same text as a literal is one string, whatever is in it.
    (literal,) = read_script(b"select '" + text.replace(b"'", b"''") + b"'").statements
    if [(one.kind, one.value) for one in literal.tokens[1:]] != [(Kind.STRING, text)]:
        raise Broken(f"{text!r} as a literal is {literal.tokens}")
    concern = "concerning" if concerns(text) else "harmless"
    return f"sql {concern}, {'whole' if script.whole else 'open'}"


# -- the console --------------------------------------------------------------------------------

_WORDS = (
    *("SHOW", "show", "pause", "RESUME", "kill", "client", "reload", "pools", "clients", "stats"),
    *(
        "config",
        "version",
        "help",
        "databases",
        '"',
        '"a b"',
        '""',
        ";",
        ";",
        "1-7",
        "app",
        "\n",
        "é",
    ),
)


def _play_console(data: list[bytes]) -> tuple[bytes, list[Command], bool, bool]:
    """Return what a console says to all of it, to do what, whether it ended, and how."""
    console, said, done, broken = Console(), b"", list[Command](), False
    try:
        for piece in data:
            said += console.receive_untrusted(piece)
            while console.pending:
                done.append(console.pending[0])
                said += console.answer(Done())
    except PgWireError:
        broken = True
    return said, done, console.ended, broken


def fuzz_console(rng: random.Random) -> str:
    """Play what a client of the console may say, at once and in pieces."""
    stream = b"".join(
        query(" ".join(rng.choices(_WORDS, k=rng.randint(0, 6))).encode())
        if rng.random() < 0.7
        else message(rng.choice((b"P", b"B", b"S", b"X", b"d", b"?")), some_bytes(rng))
        for _ in range(rng.randint(1, 5))
    )
    stream = spoil_bodies(rng, stream) if rng.random() < 0.5 else spoil(rng, stream)
    stream += rng.choice((b"", TERMINATE))
    whole, cut = _play_console([stream]), _play_console(pieces(rng, stream))
    # A broken stream loses what was said in the piece that broke it, but does nothing else.
    if whole[1:] != cut[1:] or (whole[0] != cut[0] and not whole[3]):
        raise Broken(f"{stream!r} is {whole} at once and {cut} in pieces")
    return f"console {'broken' if whole[3] else 'ended' if whole[2] else 'read'}"


# -- frames -------------------------------------------------------------------------------------


def _target(rng: random.Random) -> RouteTarget:
    address = Address(some_name(rng), rng.randrange(65_536))
    return RouteTarget(
        NodeId(some_name(rng)), address, Lsn(rng.getrandbits(63)), rng.random() < 0.5
    )


def _table(rng: random.Random) -> RoutingTable:
    return RoutingTable(
        Term(rng.randrange(100)),
        rng.choice((None, _target(rng))),
        tuple(_target(rng) for _ in range(rng.randrange(3))),
        rng.getrandbits(62),
        tuple(Peer(NodeId(some_name(rng)), Address(some_name(rng), 5)) for _ in range(2)),
        some_text(rng),
    )


def _command(rng: random.Random) -> Command:
    name = rng.choice((None, some_text(rng)))
    return Command(rng.choice(list(Verb)), rng.choice((None, *Shown)), name, name)


def _part(rng: random.Random) -> Part:
    outcome = rng.choice(
        (
            Done(),
            Failed(some_text(rng), "57014", some_text(rng)),
            Table(("a", "b"), tuple((some_text(rng), rng.randrange(9)) for _ in range(3))),
        )
    )
    return Part(outcome, (some_text(rng),), rng.randrange(9))


def _role(rng: random.Random) -> RoleLogin | None:
    return rng.choice((None, RoleLogin(found=True, stored=some_text(rng))))


_FROM_AGENT: tuple[Callable[[random.Random], frames.FromAgent], ...] = (
    _table,
    lambda _: frames.Drain(),
    lambda rng: loginframes.Welcome(rng.randbytes(32), rng.randbytes(32), (some_text(rng),)),
    lambda rng: loginframes.Verifier(rng.randrange(9), _role(rng)),
    lambda rng: Tuning(rng.randrange(9), rng.random(), admins=(some_name(rng),)),
    lambda rng: PartWanted(rng.randrange(9), _command(rng), rng.randrange(9)),
    lambda rng: ConsoleTold(rng.randrange(9), _part(rng)),
)
_FROM_WORKER: tuple[Callable[[random.Random], frames.FromWorker], ...] = (
    lambda rng: frames.Hello(rng.randrange(9), 1, NodeId(some_name(rng)), "::1", 5433, asks=True),
    lambda rng: frames.Stats(rng.randrange(9), bytes_up=rng.getrandbits(60)),
    lambda rng: frames.WorkerEvent("INFO", some_text(rng), (("a", rng.randrange(9)),)),
    lambda rng: loginframes.VerifierWanted(some_name(rng), rng.randrange(9)),
    lambda rng: ConsoleAsked(rng.randrange(9), _command(rng)),
    lambda rng: PartTold(rng.randrange(9), _part(rng)),
)
_STRANGE: tuple[object, ...] = (
    None,
    True,
    False,
    -1,
    1.5,
    10**30,
    "",
    "x",
    [],
    [[]],
    {},
    {"a": 1},
    "\ud800",
)


def _spoil_value(rng: random.Random, value: object) -> object:
    """Return a value of JSON with something in it replaced by what does not belong there."""
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return rng.choice(_STRANGE)
    if isinstance(value, dict):
        at = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: one for name, one in value.items() if name != at}
        return {**value, at: _spoil_value(rng, value[at])}
    place = rng.randrange(len(value))
    return [*value[:place], _spoil_value(rng, value[place]), *value[place + 1 :]]


def fuzz_frame(rng: random.Random) -> str:
    """Change one frame on its way between an agent and its worker."""
    frame: frames.FromAgent | frames.FromWorker
    decode: Callable[[bytes], frames.FromAgent | frames.FromWorker]
    if rng.random() < 0.5:
        frame, decode = rng.choice(_FROM_AGENT)(rng), frames.decode_from_agent
    else:
        frame, decode = rng.choice(_FROM_WORKER)(rng), frames.decode_from_worker
    line = frames.encode(frame)
    if decode(line) != frame:
        raise Broken(f"{frame} arrives as {decode(line)}")
    if rng.random() < 0.7:
        line = json.dumps(_spoil_value(rng, json.loads(line))).encode()
    else:
        line = spoil(rng, line)
    kind = type(frame).__name__
    try:
        found = decode(line)
    except FrameError:
        return f"frame {kind} refused"
    again = frames.encode(found)
    if frames.encode(decode(again)) != again:
        raise Broken(f"{line!r} is read as {found}, which is read as {decode(again)}")
    return f"frame {kind} accepted"
