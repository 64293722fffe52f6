"""Somebody between a client and a server, who reads everything and passes on what it likes."""

from __future__ import annotations

import base64
import random
import re

from fuzzing.mutation import mutate, some_bytes, spoil, spoil_bodies
from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire.login_client import LOGIN_BYTES_MAX
from metako.pgwire.login_server import PASSWORD_BYTES_MAX
from metako.pgwire.reader import HEADER_BYTES, MessageReader
from metako.pgwire.scram import MECHANISM_PLUS, MESSAGE_BYTES_MAX
from metako.pgwire.startup import FIRST_MESSAGE_BYTES_MAX, PgWireError, error_response

ANY_BYTES_MAX = 1 << 31
SIZES = (MESSAGE_BYTES_MAX, FIRST_MESSAGE_BYTES_MAX, PASSWORD_BYTES_MAX, LOGIN_BYTES_MAX)
_ATTRIBUTE = re.compile(rb"(?<![^,])([a-zA-Z])=([^,]*)")
_FINAL = auth.authentication_sasl_final(b"v=" + bytes(44))[: HEADER_BYTES + 4]
_PLUS = MECHANISM_PLUS.encode() + b"\0"


def cut_into_messages(stream: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole messages that a stream begins with, and what is behind them."""
    reader = MessageReader(body_bytes_max=ANY_BYTES_MAX)
    reader.receive(stream)
    found = []
    try:
        while (one := reader.next_untrusted()) is not None:
            found.append(m.message(*one))
    except PgWireError:
        pass
    return found, reader.take_rest()


class Middleman:
    """Changes some of what passes through it; see `pass_on`."""

    def __init__(self, rng: random.Random, *, rate: float) -> None:
        self._rng = rng
        self._rate = rate  # how often it does anything
        self.meddles = rate > 0
        # It pretends that no login can be bound to a certificate: in what this side says.
        self._unbinds: frozenset[bytes] = frozenset()
        if self.meddles:
            self._unbinds = frozenset(rng.choice(((), (), (), (b"R",), (b"R", b"p"))))
        self._replays = self.meddles and rng.random() < 0.1  # who came before, word for word
        self.heard: list[bytes] = []  # messages of this login
        self._before: list[bytes] = []  # of another one
        self.changed = False  # something of what was said did not arrive as it was said

    def remember(self, messages: list[bytes]) -> None:
        """Take messages of an earlier login; they will be played again."""
        self._before += messages

    def pass_on(self, stream: bytes) -> bytes:
        """Return what arrives of what one side says."""
        messages, rest = cut_into_messages(stream)
        self.heard += messages
        passed = stream
        if self._unbinds:
            passed = b"".join(_unbind(one) if one[:1] in self._unbinds else one for one in messages)
            passed += rest
        if self._replays and self._before:
            words = [one for one in self._before if one[:1] == b"p"]
            at = sum(one[:1] == b"p" for one in self.heard) - 1
            passed = words[at] if stream[:1] == b"p" and at < len(words) else passed
        elif self._rng.random() < self._rate:
            passed = self._meddle(passed)
        self.changed = self.changed or passed != stream
        return passed

    def _meddle(self, stream: bytes) -> bytes:
        rng = self._rng
        messages, rest = cut_into_messages(stream)
        at = rng.randrange(len(messages) + 1)
        one = messages[at] if at < len(messages) else b""
        match rng.randrange(12):
            case 0:
                return stream[: rng.randrange(len(stream) + 1)]
            case 1:
                messages[at:at] = [one]
            case 2:
                del messages[at : at + 1]
            case 3:
                rng.shuffle(messages)
            case 4:
                messages.insert(at, self._something(one))
            case 5 if one:
                messages[at] = self._something(one)
            case 6 if one:
                messages[at] = self._stretched(one)
            case 7 if one[:1] != b"p":
                messages = self._pretend()
            case 8:
                return spoil(rng, stream)
            case 9:
                return spoil_bodies(rng, stream)
            case _:
                messages = [self._edit(one) if rng.random() < 0.7 else one for one in messages]
        return b"".join(messages) + rest

    def _something(self, one: bytes) -> bytes:
        """Return a message that was heard, or that anybody can make."""
        rng = self._rng
        heard = rng.choice((self.heard, self._before, self._before)) or [one]
        made = rng.choice(
            (
                auth.AUTHENTICATION_OK,
                auth.AUTHENTICATION_CLEARTEXT,
                auth.authentication_md5(rng.randbytes(4)),
                auth.authentication_sasl(("SCRAM-SHA-256",)),
                auth.authentication_sasl_final(b"v=" + base64.b64encode(rng.randbytes(32))),
                auth.password_message(rng.choice((b"", b"pencil"))),
                error_response("57P03", "not now", severity=rng.choice(("FATAL", "é"))),
                m.notice_response("01000", "psst"),
                m.message(bytes([rng.randrange(256)]), some_bytes(rng)),
            )
        )
        return rng.choice((*heard[-4:], made))

    def _pretend(self) -> list[bytes]:
        """Return the end of a login, as a server says it that has let the client in."""
        finals = [one for one in self._before + self.heard if one.startswith(_FINAL)]
        invented = auth.authentication_sasl_final(b"v=" + base64.b64encode(self._rng.randbytes(32)))
        proof = self._rng.choice((finals[-1:], [invented], []))
        return [*proof, auth.AUTHENTICATION_OK, m.ready_for_query(m.TransactionStatus.IDLE)]

    def _stretched(self, one: bytes) -> bytes:
        """Return a message as long as is allowed, or a bit longer, or one that says that it is."""
        rng = self._rng
        size = rng.choice(SIZES[:1] * 4 + SIZES) + rng.choice((-1, 0, 1))
        if rng.random() < 0.5:
            body = one[HEADER_BYTES:].ljust(size, rng.choice((b"\0", b"a", b",")))
            return m.message(one[:1], body)
        announced = rng.choice((size + 4, 0, 3, 4, ANY_BYTES_MAX - 1, (1 << 32) - 1))
        return one[:1] + announced.to_bytes(4, "big") + one[HEADER_BYTES:]

    def _edit(self, one: bytes) -> bytes:
        """Return a message of SCRAM with one of its attributes changed, and its length right."""
        rng = self._rng
        body = one[HEADER_BYTES:]
        found = list(_ATTRIBUTE.finditer(body))
        if not found:
            return one
        at = rng.choice(found)
        name, value = at[1], at[2]
        match rng.randrange(6):
            case 0:
                return _with(one, body[: at.start()] + body[at.end() + 1 :])
            case 1:
                name = rng.choice((b"a", b"m", b"x", b"c", b"r", b"p", b"n", b"v", b"e"))
            case 2:
                value = _decoded_and_changed(rng, value)
            case 3:
                value += b",x=" + some_bytes(rng, 3)
            case 4:
                value = rng.choice((b"", value[::-1], value + value, value[:-1], b"1"))
            case _:
                value = mutate(rng, value)
        return _with(one, body[: at.start()] + name + b"=" + value + body[at.end() :])


def _decoded_and_changed(rng: random.Random, value: bytes) -> bytes:
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        return value
    return base64.b64encode(mutate(rng, raw))


def _with(one: bytes, body: bytes) -> bytes:
    """Return a message with another body, in which the length of a first answer is right again."""
    name, end, rest = body.partition(b"\0")
    if one[:1] == b"p" and end and name.startswith(b"SCRAM") and len(rest) >= 4:
        body = name + end + (len(rest) - 4).to_bytes(4, "big") + rest[4:]
    return m.message(one[:1], body)


def _unbind(one: bytes) -> bytes:
    """Return a message in which nobody can bind a login, and nobody has said that it can."""
    body = one[HEADER_BYTES:].replace(_PLUS, b"SCRAM-SHA-256\0" if one[:1] == b"p" else b"")
    for flag in (b"y,,", b"p=tls-server-end-point,,"):
        body = body.replace(flag + b"n=", b"n,,n=")
    body = re.sub(rb"\Ac=[^,]*,", b"c=biws,", body)
    return _with(one, body)
