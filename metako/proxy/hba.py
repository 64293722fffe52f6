"""What pg_hba.conf asks of a client, as far as that can be told without a server.

In: the lines of the file, and a client. Out: the method of the first line that matches, that no
line does, or that it cannot be judged here.

Some lines say nothing without a catalogue, a resolver or the server's own interfaces: members of a
role (`+role`, `samerole`), host names, `samehost` and `samenet`, files (`@file`), the regular
expressions of PostgreSQL 16, and all that is written in a way that is not known here. Such a line
may match or not; a client that gets to one before any line matches for certain is not judged.
Nothing is ever guessed: a wrong "trust" would let in somebody whom the server would have asked.

Invariant: where there is a verdict, a server with the same lines comes to the same one, for a
client of the same address that has no GSSAPI encryption.

Source: src/backend/libpq/hba.c of PostgreSQL 15 (next_token, parse_hba_line, check_db, check_role,
check_hba), documentation 21.1.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

NAME_BYTES_MAX = 63  # a server cuts longer names off; who sends one is not judged
TOKEN_BYTES_MAX = 200  # PostgreSQL 15 takes 254, later ones any number

_CLIENT_CERTIFICATE = "clientcert="
_CLIENT_ANY = (f"{_CLIENT_CERTIFICATE}verify-ca",)
_CLIENT_OWN = (f"{_CLIENT_CERTIFICATE}verify-full",)
_BLANKS = " \t\r"
_KINDS = frozenset({"host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"})
_METHODS = frozenset(
    {
        *("trust", "reject", "md5", "password", "scram-sha-256", "gss", "sspi", "ident", "pam"),
        *("bsd", "ldap", "radius", "cert", "oauth"),
    }
)


@dataclass(frozen=True, slots=True)
class Client:
    """Who wants to log in."""

    user: str
    database: str
    address: str  # as numbers; a scope of IPv6 does not matter
    tls: bool
    replication: bool = False  # physical; with `replication=database` it is a client like others


@dataclass(frozen=True, slots=True)
class Asks:
    """The first line that matches has this method, and these options (`name=value`)."""

    method: str
    options: tuple[str, ...] = ()


class Certificate(enum.Enum):
    """What a line asks of the client's certificate."""

    NONE = enum.auto()
    ANY = enum.auto()  # that was verified
    OWN = enum.auto()  # whose common name is the user's, too


@dataclass(frozen=True, slots=True)
class NoLine:
    """No line matches: the client is refused."""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A line might match, or not, and only the server can tell."""

    reason: str  # for people; names the line by its number and no client


Verdict = Asks | NoLine | Unjudged


class _Match(enum.Enum):
    NO = enum.auto()
    YES = enum.auto()
    MAYBE = enum.auto()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    quoted: bool  # begins with a quote: then it is no keyword

    def is_word(self, *words: str) -> bool:
        return not self.quoted and self.text in words


@dataclass(frozen=True, slots=True)
class _Network:
    version: int
    address: int
    mask: int


class _Where(enum.Enum):
    """What stands in the column of the address, where it is no network."""

    ALL = enum.auto()
    UNTOLD = enum.auto()


@dataclass(frozen=True, slots=True)
class Rule:
    kind: str
    databases: tuple[_Token, ...]
    users: tuple[_Token, ...]
    where: _Network | _Where
    asks: Asks


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that nobody here understands: it may match anybody."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The lines for TCP clients of one file, in its order, with their numbers."""

    lines: tuple[tuple[int, Rule | Unreadable], ...]


# -- reading ----------------------------------------------------------------------------------


def parse_hba(lines: Sequence[str]) -> Rules:
    """Return the rules of a pg_hba.conf. Never raises: what cannot be read is never judged by."""
    found: list[tuple[int, Rule | Unreadable]] = []
    for number, line in enumerate("\n".join(lines).split("\n"), start=1):
        fields = list(_fields(line))
        if line.rstrip("\r").endswith("\\"):
            # It goes on in the next line, or does not, by the version of the server.
            found.append((number, Unreadable("is continued")))
        elif fields and [token.text for token in fields[0]] != ["local"]:
            found.append((number, _parse_line(fields)))
    return Rules(tuple(found))


def _fields(line: str) -> Iterator[tuple[_Token, ...]]:
    """Split a line into fields, and each field at its commas."""
    at = 0
    field: list[_Token] = []
    while True:
        token, at, goes_on = _next_token(line, at)
        if token is not None:
            field.append(token)
        if token is None or not goes_on:
            if field:
                yield tuple(field)
                field = []
            if token is None:
                return


def _next_token(line: str, at: int) -> tuple[_Token | None, int, bool]:
    """Return the token at `at`, where the rest begins, and whether a comma ended it."""
    while at < len(line) and line[at] in _BLANKS + ",":
        at += 1
    begin, text, inside, literal, saw_quote, quoted = at, "", False, False, False, False
    while at < len(line) and (inside or line[at] not in _BLANKS):
        char = line[at]
        if char == "#" and not inside:
            at = len(line)
            break
        if char == "," and not inside:
            return _Token(text, quoted), at + 1, True
        if char != '"' or literal:
            text += char
        literal = not literal if inside and char == '"' else False
        if char == '"':
            inside, saw_quote = not inside, True
            quoted = quoted or at == begin
        at += 1
    token = _Token(text, quoted) if text or saw_quote else None
    return token, at, False


def _octets(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _parse_line(fields: list[tuple[_Token, ...]]) -> Rule | Unreadable:
    if any(_octets(token.text) > TOKEN_BYTES_MAX for field in fields for token in field):
        return Unreadable("has a word that is too long")
    if len(fields) < 5:
        return Unreadable("is too short")
    kinds, databases, users, (first, *others), *rest = fields
    kind = kinds[0].text
    if len(kinds) > 1 or kind not in _KINDS or others:
        return Unreadable("has an unknown type of connection, or more than one address")
    where = _parse_where(first)
    if where is None:  # an address whose mask is the next word
        where = _parse_masked(first.text, rest.pop(0))
    if isinstance(where, Unreadable):
        return where
    if not rest:
        return Unreadable("has no method")
    method = rest[0][0].text
    if len(rest[0]) > 1 or method not in _METHODS or (method == "cert" and kind != "hostssl"):
        return Unreadable("has an unknown method")
    options = tuple(token.text for option in rest[1:] for token in option)
    if any("=" not in option for option in options):
        return Unreadable("has an option without a value")
    if kind != "hostssl" and any(option.startswith(_CLIENT_CERTIFICATE) for option in options):
        return Unreadable("asks for a certificate without TLS")
    return Rule(kind, databases, users, where, Asks(method, options))


def _parse_where(token: _Token) -> _Network | _Where | Unreadable | None:
    """Return what an address is, or None if it is one without a mask."""
    if token.is_word("all"):
        return _Where.ALL
    if token.is_word("samehost", "samenet"):
        return _Where.UNTOLD
    host, slash, bits = token.text.partition("/")
    address = _address(host)
    if not slash:
        # A host name, or a way to write an address that is not known here; or one without a mask.
        return _Where.UNTOLD if address is None else None
    width = 0 if address is None else address.max_prefixlen
    if address is None or not (bits.isascii() and bits.isdigit()) or int(bits) > width:
        return Unreadable("has an address with a mask that cannot be read")
    mask = ((1 << width) - 1) ^ ((1 << (width - int(bits))) - 1)
    return _Network(address.version, int(address), mask)


def _parse_masked(address_text: str, mask_field: tuple[_Token, ...]) -> _Network | Unreadable:
    address, mask = _address(address_text), _address(mask_field[0].text)
    if len(mask_field) > 1 or address is None or mask is None or address.version != mask.version:
        return Unreadable("has an address without a mask")
    return _Network(address.version, int(address), int(mask))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


# -- judging ----------------------------------------------------------------------------------


def certificate_wanted(asks: Asks) -> Certificate | None:
    """Return what is asked of the certificate, None if there is an option that is not known here.

    The method `cert` asks for the client's own, and PostgreSQL takes no line that asks for less.
    """
    if asks.method == "cert":
        return Certificate.OWN if asks.options in ((), _CLIENT_OWN) else None
    wanted = {(): Certificate.NONE, _CLIENT_ANY: Certificate.ANY, _CLIENT_OWN: Certificate.OWN}
    return wanted.get(asks.options)


def judge(rules: Rules, client: Client) -> Verdict:
    """Return what the first line that matches asks of `client`; see the module's docstring."""
    address = _client_address(client.address)
    if address is None:
        return Unjudged("the client has no address of IP")
    for name in (client.user, client.database):
        if "\0" in name or _octets(name) > NAME_BYTES_MAX:
            return Unjudged("a name is too long")
    for number, rule in rules.lines:
        if isinstance(rule, Unreadable):
            return Unjudged(f"line {number} {rule.reason}")
        match _matches(rule, client, address):
            case _Match.YES:
                return rule.asks
            case _Match.MAYBE:
                return Unjudged(f"line {number} depends on what only the server knows")
            case _Match.NO:
                pass
            case unknown:
                assert_never(unknown)
    return NoLine()


def _client_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    address = _address(text.partition("%")[0])
    # One that arrived at a socket for both families; PostgreSQL has a socket for each.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _matches(
    rule: Rule, client: Client, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> _Match:
    """Return whether all columns match; one that does not outweighs any that cannot be told."""
    found = _Match.YES
    for column in _columns(rule, client, address):  # each is looked at only if it has to be
        if column is _Match.NO:
            return _Match.NO
        if column is _Match.MAYBE:
            found = _Match.MAYBE
    return found


def _columns(
    rule: Rule, client: Client, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Iterator[_Match]:
    yield _where_matches(rule.where, address)
    yield _kind_matches(rule.kind, tls=client.tls)
    yield _any_of(_user_matches(token, client.user) for token in rule.users)
    yield _any_of(_database_matches(token, client) for token in rule.databases)


def _sure(answer: bool) -> _Match:
    return _Match.YES if answer else _Match.NO


def _any_of(matches: Iterator[_Match]) -> _Match:
    found = set(matches)
    if _Match.YES in found:
        return _Match.YES
    return _Match.MAYBE if _Match.MAYBE in found else _Match.NO


def _kind_matches(kind: str, *, tls: bool) -> _Match:
    if kind == "hostgssenc":
        return _Match.NO
    return _sure(not (kind == "hostssl" and not tls) and not (kind == "hostnossl" and tls))


def _where_matches(
    where: _Network | _Where, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> _Match:
    match where:
        case _Where.ALL:
            return _Match.YES
        case _Where.UNTOLD:
            return _Match.MAYBE
        case _Network():
            alike = where.version == address.version
            return _sure(alike and (int(address) ^ where.address) & where.mask == 0)
        case unknown:
            assert_never(unknown)


def _database_matches(token: _Token, client: Client) -> _Match:
    if client.replication:  # belongs to no database
        return _unless_file(token, _sure(token.is_word("replication")))
    if token.is_word("all"):
        return _Match.YES
    if token.is_word("sameuser"):
        return _sure(client.database == client.user)
    if token.is_word("samerole", "samegroup"):
        return _Match.MAYBE
    if token.is_word("replication"):
        return _Match.NO
    return _named(token, client.database)


def _user_matches(token: _Token, user: str) -> _Match:
    if not token.quoted and token.text.startswith("+"):
        return _Match.MAYBE
    return _Match.YES if token.is_word("all") else _named(token, user)


def _named(token: _Token, name: str) -> _Match:
    if token.text.startswith("/"):
        return _Match.MAYBE
    return _unless_file(token, _sure(token.text == name))


def _unless_file(token: _Token, match: _Match) -> _Match:
    is_file = not token.quoted and len(token.text) > 1 and token.text.startswith("@")
    return _Match.MAYBE if is_file else match
