"""What strange clients say in a login by SCRAM, said to a real server and to ours.

A script is the messages of a client: whole messages as bytes, and answers to a challenge as
`Answer`, in which %N stands for the nonce of both sides.
"""

from __future__ import annotations

import base64
import os
from typing import NamedTuple

import trio
from login_kit import RealServer, connected, credential_of

from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire.login_server import LoginInputs, LoginRefused, LoginServer
from metako.pgwire.reader import Message, MessageReader
from metako.pgwire.scram import MECHANISM, MECHANISM_PLUS
from metako.pgwire.startup import parse_error_untrusted, startup_packet

ROLE = "anna"
BODY_BYTES_MAX = 1 << 16


class Answer(NamedTuple):
    """client-final-message."""

    data: bytes


Script = list[bytes | Answer]

GOOD = b"n,,n=,r=clientnonce"
BOUND = b"p=tls-server-end-point,,n=,r=clientnonce"
PROOF = base64.b64encode(bytes(32))


def first(data: bytes, mechanism: str = MECHANISM) -> Script:
    return [auth.sasl_initial_response(mechanism, data)]


def final(data: bytes, begin: bytes = GOOD, mechanism: str = MECHANISM) -> Script:
    return [*first(begin, mechanism), Answer(data)]


SCRIPTS: tuple[Script, ...] = (
    [m.query(b"select 1")],
    [m.SYNC],
    [m.TERMINATE],
    [m.message(b"p", MECHANISM.encode() + b"\0" + b"\0\0\0\x63" + b"x")],
    [m.message(b"p", MECHANISM.encode() + b"\0" + b"\0\0\0\1" + b"n,,")],
    first(b"x", "SCRAM-SHA-1"),
    first(b""),
    first(b"n"),
    first(b"n,"),
    first(b"n,,"),
    first(b"z,,n=,r=x"),
    first(b"\x80,,n=,r=x"),
    final(b"c=eSws,r=%N,p=" + PROOF, b"y,,n=,r=x"),  # refused at once where there is TLS
    first(b"nn,,n=,r=x"),
    first(b"n,a=bob,n=,r=x"),
    first(b"n,b=bob,n=,r=x"),
    first(b"n,,m=x,n=,r=x"),
    first(b"n,,r=x,n="),
    first(b"n,,n=,"),
    first(b"n,,n=,r"),
    first(b"n,,n=,r=a\x7f"),
    first(b"n,,n=,r=x\0"),
    first(b"n,,n=,r=x,y"),
    first(b"n,,n=,r=x,1=y"),
    first(GOOD, MECHANISM_PLUS),
    first(b"y,,n=,r=x", MECHANISM_PLUS),
    first(BOUND),
    first(b"p=tls-unique,,n=,r=x", MECHANISM_PLUS),
    first(b"p=\xff" + b"x" * 40 + b",,n=,r=x", MECHANISM_PLUS),
    final(b""),
    final(b"c=biws\0"),
    final(b"c=biws"),
    final(b"r=%N,p=" + PROOF),
    final(b"c=biws,r=other,p=" + PROOF),
    final(b"c=biws,r=%N"),
    final(b"c=biws,r=%N,p=!!!"),
    final(b"c=biws,r=%N,p=" + base64.b64encode(bytes(16))),
    final(b"c=biws,r=%N,p=" + PROOF + b",x=1"),
    final(b"c=eSws,r=%N,p=" + PROOF),
    final(b"c=biws,r=%N,p=" + PROOF),
    final(b"c=biws,r=%N,x=1,p=" + PROOF),
    final(b"c=biws,r=%N,p=" + PROOF, BOUND, MECHANISM_PLUS),
)


async def said_by_server(server: RealServer, script: Script, *, tls: bool) -> dict[str, str]:
    """Return the fields of the error in which the script ends at the real server."""
    async with connected(server.port, tls=tls) as (stream, _):
        reader = MessageReader(body_bytes_max=BODY_BYTES_MAX)
        await stream.send_all(startup_packet({"user": ROLE, "database": "postgres"}))
        answer = await receive_message(stream, reader)
        for said in script:
            await stream.send_all(whole(said, answer))
            answer = await receive_message(stream, reader)
            if answer.kind == b"E":
                break
    assert answer.kind == b"E", answer
    return parse_error_untrusted(answer.body)


def said_by_ours(server: RealServer, script: Script, *, tls: bool) -> dict[str, str]:
    """Return the fields of the error in which the script ends at ours."""
    inputs = LoginInputs(os.urandom(18), os.urandom(4), b"data" if tls else None)
    login = LoginServer(ROLE, credential_of(server, ROLE), inputs)
    step = login.start()
    for said in script:
        step = login.receive_untrusted(whole(said, only_message(step.send)))
        if step.outcome is not None:
            break
    assert isinstance(step.outcome, LoginRefused)
    return parse_error_untrusted(only_message(step.outcome.error).body)


def whole(said: bytes | Answer, challenge: Message) -> bytes:
    """Return the bytes of a message of a script."""
    if not isinstance(said, Answer):
        return said
    nonce = challenge.body.partition(b"r=")[2].partition(b",")[0]
    return auth.sasl_response(said.data.replace(b"%N", nonce))


def only_message(data: bytes) -> Message:
    reader = MessageReader(body_bytes_max=BODY_BYTES_MAX)
    reader.receive(data)
    found = reader.next_untrusted()
    assert found is not None
    return found


async def receive_message(stream: trio.abc.Stream, reader: MessageReader) -> Message:
    while (found := reader.next_untrusted()) is None:
        data = await stream.receive_some(BODY_BYTES_MAX)
        assert data, "the server closed the connection without a word"
        reader.receive(data)
    return found
