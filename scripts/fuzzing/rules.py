"""Lines of pg_hba.conf and clients for them, judged by us and by `hbaserver`."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from fuzzing import hbaserver
from fuzzing.hbaserver import Line, Unknown, Word
from fuzzing.mutation import Broken
from metako.proxy.hba import Asks, Client, NoLine, Unjudged, Verdict, judge, parse_hba

LINES_MAX = 7
WORLDS = 3  # that are asked beside those in which nothing and all holds

NAMES = (
    *("anna", "anna", "olga", "shop", "all", "replication", "sameuser", "samerole", "+staff"),
    *("/^an", "@them", "@", 'my "own"', "a b", "a,b", "#x", "é", "\udce9", "", "Anna", "x" * 63),
)
_KEYWORDS = ("all", "all", "all", "sameuser", "replication")
_UNSURE = ("+staff", "+anna", "samerole", "samegroup", "/^a.*$", "@file", "x" * 64, "y" * 201)
_KINDS = (*("host",) * 6, "hostssl", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc", "local")
_METHODS = (
    *("trust", "reject", "scram-sha-256", "md5") * 6,
    *("password", "ident", "ldap", "oauth", "cert", "magic"),
)
_OPTIONS = ("clientcert=verify-ca", "clientcert=verify-full", "clientcert=1", "map=x", "a", "b = c")
_SPACES = (" ", " ", " ", "\t", "  ", "\r", " \t ")
_HOSTS = ("db.example", ".example", "10.1", "010.1.2.3", "10.1.2.3%lo", "ALL", "fe80::1%lo", "/8")
_TRIFLES = (
    *('"', '""', ",", "#", "\\", " ", "\t", "\n", "\r", "\0", "@", "+", "/", "=", "\x0b", "\xa0"),
    *("all", "local", "trust", "include x", "host all all all trust", "1", ".", ":", "%", "\udc80"),
)


# -- clients ----------------------------------------------------------------------------------


def some_address(rng: random.Random) -> str:
    v6 = rng.random() < 0.4
    if rng.random() < 0.5:
        return rng.choice(("::1", "fe80::a1") if v6 else ("127.0.0.1", "10.1.2.3"))
    octets = rng.randbytes(16 if v6 else 4)
    return socket.inet_ntop(socket.AF_INET6 if v6 else socket.AF_INET, octets)


def some_client(rng: random.Random) -> Client:
    address = some_address(rng)
    match rng.randrange(12):
        case 0:
            address = f"::ffff:{address}"
        case 1:
            address += "%eth0"
        case 2 if rng.random() < 0.2:
            address = rng.choice(("", "/socket", "nobody", "10.1", "10.1.2.3/8", "\0", "\udc80"))
    name = rng.choice(NAMES) if rng.random() < 0.95 else rng.choice(("x" * 64, "é" * 32, "a\0b"))
    database = name if rng.random() < 0.2 else rng.choice(NAMES)
    replication = rng.random() < 0.15
    return Client(name, database, address, tls=rng.random() < 0.5, replication=replication)


# -- lines ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawn:
    """A line, and the words of its columns."""

    columns: tuple[tuple[Word, ...], ...]
    text: str


def _bare(text: str) -> bool:
    """Return whether a word can be written without quotes."""
    return text != "" and not any(char in ' \t\r\n,"#' for char in text)


def _write_word(rng: random.Random, word: Word) -> str:
    quoted = word.text.replace('"', '""')
    if word.quoted:
        if rng.random() < 0.1 and _bare(word.text):
            return rng.choice((f'""{word.text}', f'"{word.text[:1]}"{word.text[1:]}'))
        return f'"{quoted}"'
    if not _bare(word.text):  # begins without a quote, and has one further on
        return f'{word.text[0]}"{word.text[1:].replace(chr(34), chr(34) * 2)}"'
    at = rng.randint(1, len(word.text))
    if rng.random() < 0.1 and '"' not in word.text:
        return f'{word.text[:at]}"{word.text[at:]}"'
    return word.text


def _write_column(rng: random.Random, words: Sequence[Word]) -> str:
    commas = (",", ",", ", ", ",\t", ",,", ", ,")
    text = "".join(_write_word(rng, word) + rng.choice(commas) for word in words[:-1])
    return text + _write_word(rng, words[-1])


def _draw_word(rng: random.Random, name: str, *, sure: bool) -> Word:
    """Return a word that is the client's name, a keyword, or something else."""
    draw = rng.random()
    text = name.replace("\0", "")
    if draw > 0.4:
        text = rng.choice(_KEYWORDS if draw < 0.7 else NAMES if draw < 0.9 or sure else _UNSURE)
    can_begin_bare = text != "" and text[0] not in ' \t\r\n,"#'
    return Word(text, quoted=not can_begin_bare or rng.random() < 0.3)


def _draw_network(rng: random.Random, client: Client) -> list[str]:
    """Return the columns of a network that is near the client, or somewhere else."""
    octets = hbaserver.client_address(client.address)
    if octets is None or rng.random() < 0.2:
        octets = hbaserver.packed(some_address(rng))
        assert octets is not None
    width = 8 * len(octets)
    number = int.from_bytes(octets, "big")
    if rng.random() < 0.7:
        number ^= 1 << rng.randrange(width)  # one bit that may count, or not
    family = socket.AF_INET if width == 32 else socket.AF_INET6
    address = socket.inet_ntop(family, number.to_bytes(len(octets), "big"))
    size = rng.choice((0, 1, 8, 24, 31, 32, width - 1, width, rng.randint(0, width)))
    size += rng.random() < 0.02 and width
    if rng.random() < 0.6:
        return [f"{address}/{size:0{rng.choice((1, 3))}}"]
    mask = (
        rng.getrandbits(width) if rng.random() < 0.4 else ((1 << size) - 1) << max(width - size, 0)
    )
    mask &= (1 << width) - 1
    return [address, socket.inet_ntop(family, mask.to_bytes(len(octets), "big"))]


def _draw_where(rng: random.Random, client: Client, *, sure: bool) -> list[Word]:
    draw = rng.random()
    if draw < 0.35:
        texts = ["all"]
    elif draw < 0.9 or sure:
        texts = _draw_network(rng, client)
    elif draw < 0.95:
        texts = [rng.choice(("samehost", "samenet"))]
    else:
        texts = [rng.choice(_HOSTS)] + (["255.0.0.0"] if rng.random() < 0.3 else [])
    return [Word(text, quoted=rng.random() < 0.1) for text in texts]


def draw_line(rng: random.Random, client: Client, number: int | None, *, sure: bool) -> Drawn:
    """Return a line that may be for the client.

    Args:
        number: an option with it tells the line from others; None: it has no options.
        sure: most of the words are such as can be judged.
    """
    columns: list[tuple[Word, ...]] = [(Word(rng.choice(_KINDS), quoted=rng.random() < 0.03),)]
    for name in (client.database, client.user):
        count = rng.choice((1, 1, 2, 4))
        columns.append(tuple(_draw_word(rng, name, sure=sure) for _ in range(count)))
    columns += [(word,) for word in _draw_where(rng, client, sure=sure)]
    columns.append((Word(rng.choice(_METHODS), quoted=rng.random() < 0.05),))
    options = []
    if number is not None:
        options = [rng.choice(_OPTIONS)] if rng.random() < 0.1 else []
        options += [f"line={number}"] if rng.random() < 0.8 else []
    columns += [(Word(option, quoted=" " in option),) for option in options]
    if not sure and rng.random() < 0.03:
        del columns[rng.randrange(len(columns))]
    text = rng.choice(("", "", "", " ", ",", "\t"))
    text += "".join(_write_column(rng, one) + rng.choice(_SPACES) for one in columns)
    text = text[:-1] if rng.random() < 0.5 and text[-1] in " \t" else text
    return Drawn(tuple(columns), text + rng.choice(("", "", "", "#", "# or not", "\r")))


def spoil_line(rng: random.Random, text: str) -> str:
    """Return a line with a trifle put into it, over something, or with something cut out."""
    at = rng.randrange(len(text) + 1)
    match rng.randrange(4):
        case 0:
            return text[:at] + text[at + rng.randint(1, 5) :]
        case 1:
            return text[:at] + rng.choice(_TRIFLES) + text[at + 1 :]
        case _:
            return text[:at] + rng.choice(_TRIFLES) + text[at:]


def draw_lines(rng: random.Random, client: Client) -> list[str]:
    """Return what may be in a file, most of it without a fault."""
    lines, sure = [], rng.random() < 0.6
    for number in range(rng.randint(0, LINES_MAX)):
        drawn = draw_line(rng, client, number, sure=sure)
        if tuple(hbaserver.split(drawn.text)) != drawn.columns:
            raise Broken(
                f"{drawn} is split into {hbaserver.split(drawn.text)}: a bug of `hbaserver`"
            )
        lines.append(drawn.text)
    if lines and rng.random() < 0.2:
        at = rng.randrange(len(lines))
        lines[at] = spoil_line(rng, lines[at])
    if rng.random() < 0.1:
        lines.insert(
            rng.randint(0, len(lines)), rng.choice(("", "# a remark", "local all all trust"))
        )
    return lines


# -- claims -----------------------------------------------------------------------------------


def fuzz_rules(rng: random.Random) -> str:
    """Judge one client by one file; a server with the same lines has to come to the same."""
    client = some_client(rng)
    lines = draw_lines(rng, client)
    found = judge(parse_hba(lines), client)
    rules = hbaserver.read(lines)
    expected = hbaserver.verdict(rules, client)
    if not _same(found, expected):
        raise Broken(f"{client} by {lines} is {found}, and would be {expected}")
    if not isinstance(found, Unjudged):
        for _ in range(WORLDS):
            decided = hbaserver.decides(rules, client, hbaserver.some_world(rng))
            if not _same(found, decided):
                raise Broken(f"{client} by {lines} is {found}, and a server decides {decided}")
    _check_neighbours(rng, lines, client, found)
    match found:
        case Asks():
            return f"hba asks for {found.method}"
        case NoLine():
            return "hba no line"
        case Unjudged():
            return "hba not judged"


def _same(found: Verdict, expected: Line | Unknown | None) -> bool:
    match found, expected:
        case Asks(method, options), Line():
            return (method, options) == (expected.method, expected.options)
        case Unjudged(reason), Unknown(number):
            return number is None or reason.startswith(f"line {number} ")
        case NoLine(), None:
            return True
    return False


def _check_neighbours(
    rng: random.Random, lines: Sequence[str], client: Client, found: Verdict
) -> None:
    """Lines behind the one that decides change nothing, nor do lines that are for nobody."""
    if any("\n" in line for line in lines):
        return  # they are more than they seem
    more = draw_lines(rng, client)
    if not isinstance(found, NoLine):
        extended = judge(parse_hba([*lines, *more]), client)
        if extended != found:
            raise Broken(f"{client} by {lines} is {found}, and with {more} {extended}")
    nobodys = rng.choice(
        ("host all nobody all trust", "hostgssenc all all all trust", "local all all trust", "#")
    )
    place = rng.randint(0, len(lines))
    one_more = judge(parse_hba([*lines[:place], nobodys, *lines[place:]]), client)
    if type(one_more) is not type(found) or (isinstance(found, Asks) and one_more != found):
        raise Broken(f"{client} by {lines} is {found}, and with {nobodys} {one_more}")
