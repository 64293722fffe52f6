"""What we ask of a client is what PostgreSQL asks, by the same lines of pg_hba.conf.

Each table of lines is loaded by a real server; clients of all kinds connect to it, and its first
answer is compared with ours: request for a password of which kind, no request, or refusal, word for
word. Where we judge nobody there is nothing to compare, and tests count how often that is.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from login_kit import RealServer, client_context, real_server
from supervisor_kit import free_port

from fuzzing.rules import draw_line, some_address, spoil_line
from metako.model.rolelogin import RoleLogin
from metako.pgwire import startup as pg
from metako.pgwire.login_server import Credential, Md5Login, RejectLogin, ScramLogin, TrustLogin
from metako.proxy.credentials import Asking, Credentials
from metako.proxy.hba import Client, Rule, Unreadable, _Where, parse_hba
from metako.proxy.loginframes import Welcome

pytestmark = pytest.mark.integration

TIMEOUT_S = 10.0
CLIENTS = 25  # of all kinds, drawn anew for each table
LOCAL = "local all postgres trust"  # the test's own way
TABLES: Sequence[tuple[str, ...]] = (
    (),
    ("host all all all trust",),
    ("host all all all reject",),
    ("host all all 127.0.0.1/32 trust", "host all all 127.0.0.0/8 md5"),
    ("host all all 127.0.0.2 255.255.255.255 md5", "host all all 127.0.0.0 255.0.0.0 trust"),
    ("host all all 0.0.0.2 0.0.0.255 trust", "host all all all scram-sha-256"),
    ("host all all 127.9.9.9/8 trust",),  # bits beyond the mask
    ("host all all ::1/128 trust", "host all all 127.0.0.1/32 reject"),
    ("host all all ::/0 md5", "host all all 0.0.0.0/0 password"),
    ("host all all ::ffff:127.0.0.1/96 trust", "host all all ::1/32 reject"),
    ("hostssl all all all trust", "host all all all reject"),
    ("hostnossl all all all trust",),
    ("hostgssenc all all all trust", "hostnogssenc all all all md5"),
    ("host postgres anna all trust", "host all olga all md5", "host all all all password"),
    ("host sameuser all all trust", "host all all all scram-sha-256"),
    ('host "sameuser" all all trust', "host all all all md5"),
    ('host "all" all all trust', 'host all "all" all md5', "host all anna all scram-sha-256"),
    ('host all "anna,olga" all trust', "host all anna,olga all md5"),
    ('host all "an"na,ol"ga" all trust',),
    ('host all "my ""own""",x all trust', "host all all all md5"),
    ("host ,,postgres, ,x anna all trust", "host all all all md5"),
    ("host all,template1 , all all trust",),
    ("host postgres,template1 anna, olga all trust # remark", "host all all all md5#remark"),
    ("host replication all all trust", "host all all all md5"),
    ('host "replication" all all trust', "host all all all md5"),
    ("host all,replication anna all trust",),
    ("host ALL all all trust", "host all Anna all trust", "host all all all md5"),
    ("\thost\tall  anna\tall\ttrust", "   host all all all md5"),
    ("# host all all all trust", "", "host all all all scram-sha-256"),
    ("local all all trust",),
    ("host all +staff all trust", "host all all all md5"),
    ("host all anna all md5", "host samerole all all trust", "host all all all reject"),
    ("host all all samehost trust",),
    ("host all all samenet md5", "host all all all reject"),
    ("host postgres all localhost trust", "host template1 all all md5"),
    ("hostssl all anna all scram-sha-256 clientcert=verify-ca", "host all all all trust"),
)
DATABASES = ("postgres", "anna", "all", "replication", "sameuser")
USERS = ("anna", "olga", "nobody", 'my "own"', "all", "anna,olga")
WHERE = (("127.0.0.1", False), ("127.0.0.2", True), ("127.0.0.2", False), ("::1", False))


@pytest.fixture(scope="module")
def server(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with real_server(test_bindir, free_port(), keep=keep_directories) as running:
        running.run("create role staff; grant staff to anna")
        yield running


@dataclass
class RealAgent:
    """Tells what the server has, and judges by given lines."""

    server: RealServer
    lines: tuple[str, ...]
    answering: bool = True

    async def wait_welcome(self) -> Welcome:
        return Welcome(bytes(32), bytes(32), self.lines)

    async def ask(self, user: str) -> RoleLogin | None:
        stored = self.server.stored(user.replace("'", "''"))
        return RoleLogin(stored is not None, stored)


reloads = itertools.count(1)


def write(server: RealServer, lines: Sequence[str]) -> None:
    path = server.socket_dir / "data" / "pg_hba.conf"
    path.write_text("\n".join([LOCAL, *lines]) + "\n", newline="")


def load(server: RealServer, lines: Sequence[str]) -> None:
    """Have the server go by these lines; returns once new connections do."""
    write(server, lines)
    asked = "select line_number, error from pg_hba_file_rules where error is not null"
    # A build without TLS or GSSAPI remarks on lines for them, and goes by the file all the same.
    wrong = [row for row in server.run(asked) if "cannot match" not in str(row[1])]
    assert not wrong, (lines, wrong)
    # Read in one go with pg_hba.conf, and shown by new backends.
    mark = next(reloads)
    server.run(f"alter system set vacuum_cost_limit = {mark}")
    server.run("select pg_reload_conf()")
    deadline_s = time.monotonic() + TIMEOUT_S
    while server.run("show vacuum_cost_limit") != [(str(mark),)]:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, "the server closed the connection without a word"
        data += part
    return data


def first_answer(server: RealServer, asking: Asking) -> str:
    """Return what the server says first to such a client."""
    family = socket.AF_INET6 if ":" in asking.address else socket.AF_INET
    with socket.socket(family) as plain:
        plain.settimeout(TIMEOUT_S)
        plain.bind((asking.address, 0))
        plain.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", server.port))
        sock = plain
        if asking.tls:
            plain.sendall(pg.ssl_request_packet())
            assert receive(plain, 1) == b"S"
            sock = client_context().wrap_socket(plain)
        try:
            parameters = {"user": asking.user, "database": asking.database}
            if asking.replication:
                parameters["replication"] = "true"
            sock.sendall(pg.startup_packet(parameters))
            kind, length = struct.unpack("!cI", receive(sock, 5))
            body = receive(sock, length - 4)
        finally:
            if isinstance(sock, ssl.SSLSocket):
                sock.close()
    if kind == b"E":
        fields = pg.parse_error_untrusted(body)
        return f"{fields['C']} {fields['M']}"
    assert kind == b"R"
    return {0: "trust", 3: "password", 5: "md5", 10: "scram"}[struct.unpack("!I", body[:4])[0]]


def told(credential: Credential) -> str:
    """Return the same of our own answer."""
    match credential:
        case TrustLogin():
            return "trust"
        case Md5Login():
            return "md5"
        case ScramLogin():
            return "scram"
        case RejectLogin():
            return f"{credential.sqlstate} {credential.message}"


def clients(server: RealServer) -> Iterator[Asking]:
    for (address, tls), user, database in itertools.product(WHERE, USERS, DATABASES):
        if (tls and not server.has_tls) or (":" in address and not has_ipv6(server)):
            continue
        yield Asking(user, database, address, tls)
        if database == "postgres":
            yield Asking(user, database, address, tls, replication=True)


def has_ipv6(server: RealServer) -> bool:
    try:
        socket.create_connection(("::1", server.port), TIMEOUT_S).close()
    except OSError:
        return False
    return True


async def compare(server: RealServer, lines: tuple[str, ...], chosen: Sequence[Asking]) -> int:
    """Fail where we and the server differ; return how many clients were judged."""
    load(server, lines)
    source = Credentials(RealAgent(server, (LOCAL, *lines)))
    judged = 0
    for asking in chosen:
        ours = await source.credential(asking)
        if ours is not None:
            judged += 1
            assert told(ours) == first_answer(server, asking), (lines, asking)
    return judged


@pytest.mark.slow
@pytest.mark.parametrize("lines", TABLES, ids=lambda lines: " | ".join(lines))
async def test_a_table_asks_what_a_real_server_asks(
    server: RealServer, lines: tuple[str, ...]
) -> None:
    everybody = list(clients(server))
    judged = await compare(server, lines, random.Random(str(lines)).sample(everybody, CLIENTS))
    text = " ".join(lines)
    unsure = ("+", "same", "localhost", "clientcert", "password")
    if not any(word in text.replace("sameuser", "") for word in unsure):
        assert judged == CLIENTS


KINDS = ("host", "host", "hostssl", "hostnossl", "hostnogssenc", "local")
RANDOM_DATABASES = ("all", "sameuser", "postgres", "replication", '"all"', "anna,postgres", "x")
RANDOM_USERS = ("all", "anna", "olga,nobody", "+staff", '"my ""own"""', '"all",anna', "x")
RANDOM_WHERE = ("all", "127.0.0.1/32", "127.0.0.2/31", "127.0.0.0 255.0.0.0", "::1/128", "samehost")
METHODS = ("trust", "reject", "md5", "scram-sha-256", "md5", "scram-sha-256")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
async def test_random_tables_ask_what_a_real_server_asks(server: RealServer, seed: int) -> None:
    rng = random.Random(seed)
    lines = []
    for _ in range(rng.randint(2, 7)):
        kind = rng.choice(KINDS)
        columns = [kind, rng.choice(RANDOM_DATABASES), rng.choice(RANDOM_USERS)]
        columns += [] if kind == "local" else [rng.choice(RANDOM_WHERE)]
        lines.append(" ".join([*columns, rng.choice(METHODS)]))
    everybody = list(clients(server))
    judged = await compare(server, tuple(lines), rng.sample(everybody, CLIENTS))
    assert judged >= 3  # the rest came to a line that only the server can judge


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
async def test_files_of_the_fuzzer_ask_what_a_real_server_asks(
    server: RealServer, seed: int
) -> None:
    rng = random.Random(seed)
    everybody = list(clients(server))
    judged = 0
    for _ in range(5):
        chosen = rng.sample(everybody, CLIENTS // 5)
        lines = [line_of_the_fuzzer(rng, rng.choice(chosen)) for _ in range(12)]
        judged += await compare(server, loadable(server, lines), chosen)
    assert judged >= 3


def loadable(server: RealServer, lines: Sequence[str]) -> tuple[str, ...]:
    """Return those of some lines that a server has nothing against."""
    write(server, lines)
    wrong = {
        row[0] for row in server.run("select line_number, error from pg_hba_file_rules") if row[1]
    }
    return tuple(line for number, line in enumerate(lines, start=2) if number not in wrong)


def line_of_the_fuzzer(rng: random.Random, asking: Asking) -> str:
    client = Client(asking.user, asking.database, asking.address, asking.tls, asking.replication)
    while True:
        line = draw_line(rng, client, None, sure=rng.random() < 0.7).text
        line = spoil_line(rng, line) if rng.random() < 0.3 else line
        # What goes on in the next line or names files, and what SQL cannot show.
        if not any(char in line for char in "\\\n\0@") and "include" not in line:
            return "".join(char for char in line if not "\ud800" <= char <= "\udfff")


PIECES = (
    *("host", "hostssl", "hostgssenc", "all", "all", "anna", "sameuser", "+staff", '"', '""', ","),
    *("127.0.0.1/32", "127.0.0.1", "255.0.0.0", "::1/128", "10.0.0.0/33", "a.example", "samenet"),
    *("trust", "md5", "reject", "password", "scram-sha-256", "cert", "peer", "magic", "#", "x=1"),
    *("clientcert=verify-ca", "clientcert=verify-full", "map=x", '"a b"', "a,b", "all,", "@none"),
)


# What a server has against lines that are read here.
EXCUSES = (
    *("cannot match", "not supported by this build", "requires argument", "regular expression"),
    *("invalid IP mask", 'method "oauth"'),
)


def random_lines(rng: random.Random) -> Iterator[str]:
    while True:
        begin = ["host", "all", "anna", "all", "md5"][: rng.randint(0, 5)]
        more = rng.choices(PIECES, k=rng.randint(0, 5))
        yield rng.choice((" ", " ", "")).join([*(f"{word} " for word in begin), *more])


def lines_of_the_fuzzer(rng: random.Random) -> Iterator[str]:
    while True:
        yield line_of_the_fuzzer(rng, Asking("anna", "shop", some_address(rng), tls=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draw", [random_lines, lines_of_the_fuzzer])
def test_lines_that_we_read_are_read_alike_by_a_real_server(
    server: RealServer, draw: Callable[[random.Random], Iterator[str]], seed: int
) -> None:
    """What one of both cannot read is not judged by; words of columns are the same."""
    lines = list(itertools.islice(draw(random.Random(seed)), 2000))
    write(server, lines)
    columns = "line_number, error, database, user_name, auth_method, address, netmask"
    asked = f"select {columns} from pg_hba_file_rules"
    real = {row[0]: row[1:] for row in server.run(asked)}
    ours = dict(parse_hba([LOCAL, *lines]).lines)
    read = 0
    for number, rule in ours.items():
        if isinstance(rule, Unreadable):
            continue
        read += 1
        error, databases, users, method, address, mask = real[number]
        line = lines[number - 2]
        if error is None:
            assert [token.text for token in rule.databases] == databases, line
            assert [token.text for token in rule.users] == users, line
            assert rule.asks.method == method, line
            assert is_shown_so(rule, str(address), mask), (line, address, mask)
        else:
            # Options are left to the server in any case, and so are files and names of hosts.
            excused = "=" in line or "@" in line or any(word in str(error) for word in EXCUSES)
            assert excused, (line, error)
    assert read > 50
    for number in real.keys() - ours - {1}:  # no line for TCP is overlooked here
        assert "local" in lines[number - 2].replace('"', ""), lines[number - 2]


def is_shown_so(rule: Rule, address: str, mask: str | None) -> bool:
    """Return whether a server shows the same address for a line; it may be the name of a host."""
    match rule.where:
        case _Where.ALL:
            return address == "all"
        case _Where.UNTOLD:
            return mask is None
        case network:
            shown = ipaddress.ip_address(address), ipaddress.ip_address(mask)
            return [int(one) for one in shown] == [network.address, network.mask]
