"""Random bytes, and changes to bytes that were right."""

from __future__ import annotations

import random

from metako.pgwire import startup as pg
from metako.pgwire.messages import message
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import PgWireError

BODY_BYTES_MAX = 300


class Broken(Exception):
    """A claim does not hold."""


def some_bytes(rng: random.Random, longest: int = 24) -> bytes:
    """Return anything."""
    return rng.randbytes(rng.randrange(longest + 1))


def some_string(rng: random.Random) -> bytes:
    """Return what fits into a string of a message."""
    return some_bytes(rng, 12).replace(b"\0", b"x")


def some_text(rng: random.Random) -> str:
    return pg.decode_text(some_string(rng))


def some_name(rng: random.Random) -> str:
    return "".join(rng.choices("abcXYZ_-.019", k=rng.randint(1, 8)))


NASTY = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\4",
    b",",
    b"=",
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return `data` after one change, or unchanged if there is nothing to change."""
    raw = bytearray(data)
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(6):
        case 0 if at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        case 1:
            del raw[at:]
        case 2:
            raw[at:at] = some_bytes(rng, 6)
        case 3:
            raw += raw[at:]
        case 4:
            nasty = rng.choice(NASTY)
            raw[at : at + len(nasty)] = nasty
        case _:
            del raw[at : at + rng.randint(1, 4)]
    return bytes(raw)


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Return `data`, after none to three changes, or something else altogether."""
    if rng.random() < 0.1:
        return some_bytes(rng, 60)
    for _ in range(rng.randrange(4)):
        data = mutate(rng, data)
    return data


def spoil_bodies(rng: random.Random, stream: bytes) -> bytes:
    """Return a stream of messages with one body changed and all lengths right."""
    reader = MessageReader(body_bytes_max=BODY_BYTES_MAX)
    reader.receive(stream)
    found = []
    try:
        while (one := reader.next_untrusted()) is not None:
            found.append(one)
    except PgWireError:
        return stream
    if not found:
        return stream
    at = rng.randrange(len(found))
    changed = [
        message(kind, mutate(rng, body) if place == at else body)
        for place, (kind, body) in enumerate(found)
    ]
    return b"".join(changed) + reader.take_rest()


def spoil_packet(rng: random.Random, packet: bytes) -> bytes:
    """Return the first packet of a connection, changed behind its length, which is right."""
    body = packet[4:]
    for _ in range(rng.randrange(3)):
        body = mutate(rng, body)
    return (len(body) + 4).to_bytes(4, "big") + body


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Return `data` cut at random places."""
    found = []
    while data:
        size = rng.choice((1, 2, 5, 17, rng.randint(1, len(data)), len(data)))
        found.append(data[:size])
        data = data[size:]
    return found
