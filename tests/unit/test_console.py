"""The proxy's console: what it understands, and what a client sees."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import message

from metako.pgwire.messages import query
from metako.pgwire.reader import MessageReader
from metako.pgwire.rows import Table, data_row, result, row_description
from metako.pgwire.startup import PgWireError, parse_error_untrusted
from metako.proxy.console import (
    COMMANDS_MAX,
    Command,
    Console,
    Done,
    Failed,
    Shown,
    Verb,
    parse_untrusted,
)

POOLS = Command(Verb.SHOW, shown=Shown.POOLS)


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("", []),
        (" ; ;; ", []),
        ("-- only a comment", []),
        ("SHOW POOLS", [POOLS]),
        ("show\n  pools ;", [POOLS]),
        ("show pools -- really\n;show help", [POOLS, Command(Verb.SHOW, shown=Shown.HELP)]),
        ("PAUSE", [Command(Verb.PAUSE)]),
        ("pause App", [Command(Verb.PAUSE, database="app")]),
        ('pause "App one"', [Command(Verb.PAUSE, database="App one")]),
        ("resume app; reload", [Command(Verb.RESUME, database="app"), Command(Verb.RELOAD)]),
        ("kill app", [Command(Verb.KILL, database="app")]),
        ("kill client 1.27", [Command(Verb.KILL, client="1.27")]),
    ],
)
def test_commands_are_understood_in_any_case(text, commands) -> None:
    assert parse_untrusted(text) == commands


@pytest.mark.parametrize(
    "text",
    [
        "SHOW",
        "SHOW POOLS now",
        "SHOW TABLES",
        "SELECT 1",
        "PAUSE a b",
        "RELOAD app",
        "KILL",
        "KILL CLIENT 1 2",
        'PAUSE "app',
        "SHOW POOLS; nonsense",
        ";".join(["SHOW HELP"] * (COMMANDS_MAX + 1)),
    ],
)
def test_anything_else_is_a_syntax_error_and_does_nothing(text) -> None:
    console = Console()
    said = kinds(console.receive_untrusted(query(text.encode())))
    assert [kind for kind, _ in said] == [b"E", b"Z"]
    assert parse_error_untrusted(said[0][1])["C"] == "42601"
    assert parse_error_untrusted(said[0][1])["S"] == "ERROR"
    assert not console.pending


@given(st.text())
def test_no_text_is_worse_than_an_error(text) -> None:
    commands: list[Command] = []
    with contextlib.suppress(PgWireError):
        commands = parse_untrusted(text)
    assert all(command.verb in Verb for command in commands)


def kinds(said: bytes) -> list[tuple[bytes, bytes]]:
    """Return the messages of what was said."""
    reader = MessageReader(body_bytes_max=1 << 20)
    reader.receive(said)
    found = []
    while (one := reader.next_untrusted()) is not None:
        found.append((one.kind, one.body))
    assert not reader.take_rest()
    return found


def letters(said: bytes) -> bytes:
    return b"".join(kind for kind, _ in kinds(said))


def test_each_command_is_answered_and_then_the_next_query_has_its_turn() -> None:
    console = Console()
    assert console.receive_untrusted(query(b"show pools; pause") + query(b"resume")) == b""
    assert list(console.pending) == [POOLS, Command(Verb.PAUSE)]
    assert letters(console.answer(Table(("a", "b"), ((1, "x"), (2, None))))) == b"TDDC"
    assert letters(console.answer(Done())) == b"CZ"
    assert list(console.pending) == [Command(Verb.RESUME)]
    assert letters(console.answer(Done())) == b"CZ"


def test_what_comes_behind_a_failure_is_not_done() -> None:
    console = Console()
    console.receive_untrusted(query(b"pause nowhere; resume"))
    (error, ready) = kinds(console.answer(Failed("no such database", "3D000", "Try another.")))
    assert not console.pending
    fields = parse_error_untrusted(error[1])
    assert (fields["C"], fields["S"], fields["H"]) == ("3D000", "ERROR", "Try another.")
    assert ready == (b"Z", b"I")


def test_the_extended_protocol_is_refused_up_to_its_sync() -> None:
    console = Console()
    parse = message("P", b"\0show pools\0\0\0")
    rest = message("B", b"\0\0\0\0\0\0\0\0") + message("E", b"\0\0\0\0\0") + message("S")
    assert letters(console.receive_untrusted(parse + rest)) == b"EZ"
    assert letters(console.receive_untrusted(parse + message("S"))) == b"EZ"
    assert letters(console.receive_untrusted(query(b""))) == b"IZ"


def test_a_goodbye_ends_it_and_nothing_behind_is_read() -> None:
    console = Console()
    assert console.receive_untrusted(message("X") + query(b"pause")) == b""
    assert console.ended
    assert not console.pending


@pytest.mark.parametrize("said", [b"?\0\0\0\4", b"Q\0\0\0\0", b"Q\0\0\0\7abc", b"Q\0\1\0\0"])
def test_what_is_no_protocol_ends_the_connection(said) -> None:
    console = Console()
    try:
        answer = console.receive_untrusted(said)
    except PgWireError:
        return
    assert letters(answer) == b"EZ"  # a query without its end


@given(st.lists(st.binary(max_size=8), max_size=12))
def test_no_bytes_are_worse_than_a_protocol_error(parts) -> None:
    console = Console()
    try:
        for part in parts:
            console.receive_untrusted(part)
            while console.pending:
                console.answer(Done())
    except PgWireError:
        pass


def test_columns_are_numbers_only_if_all_values_are() -> None:
    table = Table(("n", "t", "mixed", "none"), ((1, "x", 1, None), (2, "y", "z", None)))
    described = row_description(table)
    types = [
        int.from_bytes(described[at + 6 : at + 10], "big")
        for at in (described.index(name + b"\0") + len(name) + 1 for name in (b"n", b"mixed"))
    ]
    assert types == [20, 25]
    assert data_row((12, None, "ü")) == message(
        "D", b"\0\3" + b"\0\0\0\x02" + b"12" + b"\xff" * 4 + b"\0\0\0\x02" + "ü".encode()
    )
    assert result(Table(("a",)), "SHOW").count(b"D") == 0
