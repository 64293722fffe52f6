"""How a server goes by its pg_hba.conf: a second implementation, slower, that knows everything.

Written after PostgreSQL's source and not after `metako.proxy.hba`: a line is taken apart by regular
expressions, addresses are read by the C library and compared bit by bit. What only a server knows
(members of roles, hosts and their names, its own interfaces, files, regular expressions) is
answered by a `World`, of which any may be the real one. No column of a line has a "not": a line
that matches in a world matches in all where more holds. So it matches for certain if it does where
nothing holds, and never if it does not where all holds.

Source: next_token, next_field_expand, parse_hba_line, check_db, check_role and check_hba of
src/backend/libpq/hba.c, PostgreSQL 15 to 18.
"""

from __future__ import annotations

import random
import re
import socket
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metako.proxy.hba import NAME_BYTES_MAX, TOKEN_BYTES_MAX, Client

_QUOTED = r'"[^"]*(?:"|\Z)'
_WORD = rf'(?:[^ \t\r,"]|{_QUOTED})+'
_FIELD = re.compile(rf"{_WORD}(?:,[ \t\r,]*{_WORD})*")
_WORDS = re.compile(_WORD)
_BEFORE_REMARK = re.compile(rf'(?:[^"#]|{_QUOTED})*')
_PART = re.compile(r'"([^"]*)(?:"|\Z)|([^"]+)')
_CONTINUED = re.compile(r"\\\r*\Z")
_KINDS = ("host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
_METHODS = (
    *("trust", "reject", "scram-sha-256", "md5", "password", "gss", "sspi", "ident", "ldap"),
    *("radius", "cert", "pam", "bsd", "oauth"),
)


@dataclass(frozen=True, slots=True)
class Word:
    """One of the words of a column."""

    text: str
    quoted: bool  # it begins with a quote


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a server can read."""

    kind: str
    databases: tuple[Word, ...]
    users: tuple[Word, ...]
    where: Word
    network: tuple[bytes, str] | None  # an address, and of its mask each bit; None: see `where`
    method: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class World:
    """What a server knows beside its lines."""

    says: Callable[[str], bool]  # the answer to a question, the same whenever it is asked
    knows_patterns: bool = True  # PostgreSQL 16 and later


NOTHING_HOLDS = World(lambda _: False)
ALL_HOLDS = World(lambda _: True)


def some_world(rng: random.Random) -> World:
    salt = rng.getrandbits(32)

    def says(question: str) -> bool:
        return zlib.crc32(question.encode(errors="surrogatepass"), salt) & 1 << 16 != 0

    return World(says, knows_patterns=rng.random() < 0.7)


# -- reading ----------------------------------------------------------------------------------


Rules = list[tuple[int, Line | None]]  # the lines for TCP clients; None is one that is not readable


def read(lines: Sequence[str]) -> Rules:
    found: Rules = []
    for number, text in enumerate("\n".join(lines).split("\n"), start=1):
        if _CONTINUED.search(text):
            found.append((number, None))
            continue
        columns = split(text)
        if columns and [word.text for word in columns[0]] != ["local"]:
            found.append((number, _read_line(columns)))
    return found


def split(text: str) -> list[tuple[Word, ...]]:
    """Return the columns of a line, and the words of each."""
    match = _BEFORE_REMARK.match(text)
    assert match is not None
    columns = _FIELD.findall(match[0])
    return [tuple(_word(one) for one in _WORDS.findall(column)) for column in columns]


def _word(raw: str) -> Word:
    text, behind_quoted = "", False
    for part in _PART.finditer(raw):
        is_quoted = part[2] is None
        # Two quotes, of which one ends what is quoted and one begins more of it, are one of text.
        text += '"' if is_quoted and behind_quoted else ""
        text += part[1] if is_quoted else part[2]
        behind_quoted = is_quoted
    return Word(text, raw.startswith('"'))


def _read_line(columns: list[tuple[Word, ...]]) -> Line | None:
    for column in columns:
        if any(len(word.text.encode(errors="surrogatepass")) > TOKEN_BYTES_MAX for word in column):
            return None
    kinds, *columns = columns
    if len(kinds) != 1 or kinds[0].text not in _KINDS or len(columns) < 4:
        return None
    databases, users, wheres, *columns = columns
    where = wheres[0]
    if len(wheres) != 1:
        return None
    network = None
    if not _keyword(where, "all", "samehost", "samenet"):
        host, slash, bits = where.text.partition("/")
        address = packed(host)
        if slash:
            if address is None or not re.fullmatch("[0-9]+", bits) or int(bits) > 8 * len(address):
                return None
            network = address, ("1" * int(bits)).ljust(8 * len(address), "0")
        elif address is not None:
            mask_words, *columns = columns
            mask = packed(mask_words[0].text)
            if len(mask_words) != 1 or mask is None or len(mask) != len(address):
                return None
            network = address, bits_of(mask)
    if not columns or len(columns[0]) != 1 or columns[0][0].text not in _METHODS:
        return None
    kind, method = kinds[0].text, columns[0][0].text
    options = tuple(word.text for column in columns[1:] for word in column)
    if not all("=" in option for option in options):
        return None
    asks_certificate = any(option.split("=")[0] == "clientcert" for option in options)
    if kind != "hostssl" and (method == "cert" or asks_certificate):
        return None
    return Line(kind, databases, users, where, network, method, options)


def packed(address: str) -> bytes | None:
    """Return the bytes of an address of either family."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
    return None


def bits_of(octets: bytes) -> str:
    return "".join(f"{octet:08b}" for octet in octets)


def _keyword(word: Word, *texts: str) -> bool:
    return not word.quoted and word.text in texts


# -- matching ---------------------------------------------------------------------------------


def client_address(text: str) -> bytes | None:
    """Return what lines are compared with, None if there is no such thing."""
    address = packed(text.split("%")[0])
    if address is not None and len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff"):
        return address[12:]
    return address


def matches(line: Line, client: Client, world: World) -> bool:
    """Return whether a line is for this client."""
    if line.kind == "hostgssenc" or (line.kind == "hostssl" and not client.tls):
        return False
    if line.kind == "hostnossl" and client.tls:
        return False
    if not _is_there(line, client, world):
        return False
    if not any(_is_database(word, client, world) for word in line.databases):
        return False
    return any(_is_user(word, client.user, world) for word in line.users)


def _is_there(line: Line, client: Client, world: World) -> bool:
    if _keyword(line.where, "all"):
        return True
    if line.network is None:  # samehost, samenet and names of hosts
        return world.says(f"the client is at {line.where}")
    address, mask = line.network
    peer = client_address(client.address)
    if peer is None or len(peer) != len(address):
        return False
    triples = zip(bits_of(peer), bits_of(address), mask, strict=True)
    return all(theirs == ours for theirs, ours, counts in triples if counts == "1")


def _is_database(word: Word, client: Client, world: World) -> bool:
    if word.text.startswith("@") and not word.quoted and word.text != "@":
        return world.says(f"the database is in {word.text}")
    if client.replication:
        return _keyword(word, "replication")
    if _keyword(word, "all"):
        return True
    if _keyword(word, "sameuser"):
        return client.database == client.user
    if _keyword(word, "samerole", "samegroup"):
        return world.says("the user is a member of the database's role")
    if _keyword(word, "replication"):
        return False
    return _fits(word, client.database, world)


def _is_user(word: Word, user: str, world: World) -> bool:
    if word.text.startswith("@") and not word.quoted and word.text != "@":
        return world.says(f"the user is in {word.text}")
    if word.text.startswith("+") and not word.quoted:
        return world.says(f"the user is a member of {word.text[1:]}")
    return _keyword(word, "all") or _fits(word, user, world)


def _fits(word: Word, name: str, world: World) -> bool:
    if word.text.startswith("/") and world.knows_patterns:
        return world.says(f"{name} fits {word.text}")
    return word.text == name


# -- deciding ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unknown:
    """Servers with the same lines may decide differently, because of this one."""

    number: int | None  # None: because of the client


def decides(rules: Rules, client: Client, world: World) -> Line | Unknown | None:
    """Return the first line that matches in a world, None if none does."""
    for number, line in rules:
        if line is None:
            return Unknown(number)
        if matches(line, client, world):
            return line
    return None


def verdict(rules: Rules, client: Client) -> Line | Unknown | None:
    """Return what all worlds decide, or the line at which they differ."""
    names = (client.user, client.database)
    if client_address(client.address) is None or any(
        "\0" in name or len(name.encode(errors="surrogatepass")) > NAME_BYTES_MAX for name in names
    ):
        return Unknown(None)
    for number, line in rules:
        if line is None:
            return Unknown(number)
        at_least, at_most = (matches(line, client, world) for world in (NOTHING_HOLDS, ALL_HOLDS))
        if at_least:
            return line
        if at_most:
            return Unknown(number)
    return None
