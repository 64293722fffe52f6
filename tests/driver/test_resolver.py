"""Host names: never waited for when sending, refreshed behind, bounded."""

import socket

import pytest
import trio
import trio.testing

from metako.runtime import resolver as resolver_module
from metako.runtime.resolver import (
    FRESH_S,
    HOSTS_MAX,
    LOOKUP_TIMEOUT_S,
    LOOKUPS_MAX,
    RETRY_S,
    Resolver,
    as_literal,
)


class NameServer(trio.abc.HostnameResolver):
    """Answers from a table; a name that is not in it does not exist; None never answers."""

    def __init__(self, **table):
        self.table = table
        self.asked = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002 - trio's
        host = host.decode() if isinstance(host, bytes) else host
        self.asked.append(host)
        if host not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        if self.table[host] is None:
            await trio.sleep_forever()
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.table[host], 0))]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@pytest.fixture
def names():
    return NameServer(db1="10.0.0.1")


@pytest.fixture
def resolver(names, nursery):
    trio.socket.set_custom_hostname_resolver(names)
    return Resolver(socket.AF_INET)


async def test_a_literal_needs_no_name_server(resolver, names, nursery):
    assert resolver.lookup("192.0.2.7", nursery) == "192.0.2.7"
    assert await resolver.resolve("192.0.2.7") == "192.0.2.7"
    assert names.asked == []


@pytest.mark.parametrize(
    ("host", "family", "expected"),
    [
        ("10.0.0.1", socket.AF_INET, "10.0.0.1"),
        ("10.0.0.1", socket.AF_INET6, "::ffff:10.0.0.1"),
        ("fd00::1", socket.AF_INET6, "fd00::1"),
        ("fd00::1", socket.AF_INET, None),
        ("db1", socket.AF_INET, None),
        ("10.0.0", socket.AF_INET, None),
    ],
)
def test_literals_take_the_form_of_the_socket(host, family, expected):
    assert as_literal(host, family) == expected


async def test_an_unknown_name_is_asked_for_once_behind_the_senders_back(resolver, names, nursery):
    assert resolver.lookup("db1", nursery) is None
    assert resolver.lookup("db1", nursery) is None
    await trio.testing.wait_all_tasks_blocked()
    assert resolver.lookup("db1", nursery) == "10.0.0.1"
    assert names.asked == ["db1"]


async def test_a_stale_answer_is_used_until_the_new_one_is_there(
    autojump_clock, resolver, names, nursery
):
    await resolver.resolve("db1")
    names.table["db1"] = "10.0.0.2"
    await trio.sleep(FRESH_S)
    assert resolver.lookup("db1", nursery) == "10.0.0.1"
    await trio.testing.wait_all_tasks_blocked()
    assert resolver.lookup("db1", nursery) == "10.0.0.2"


async def test_a_name_server_that_is_down_does_not_take_known_addresses_away(
    autojump_clock, resolver, names, nursery
):
    await resolver.resolve("db1")
    names.table.clear()
    for _ in range(3):
        await trio.sleep(FRESH_S)
        assert resolver.lookup("db1", nursery) == "10.0.0.1"
        await trio.testing.wait_all_tasks_blocked()
    assert await resolver.resolve("db1") == "10.0.0.1"


async def test_a_name_that_was_not_found_is_tried_again_after_a_while(
    autojump_clock, resolver, names
):
    assert await resolver.resolve("db2") is None
    assert await resolver.resolve("db2") is None
    assert names.asked == ["db2"]
    names.table["db2"] = "10.0.0.9"
    await trio.sleep(RETRY_S)
    assert await resolver.resolve("db2") == "10.0.0.9"


async def test_a_silent_name_server_is_given_up(autojump_clock, resolver, names):
    names.table["db3"] = None
    started = trio.current_time()
    assert await resolver.resolve("db3") is None
    assert trio.current_time() - started == pytest.approx(LOOKUP_TIMEOUT_S)


async def test_look_ups_at_a_time_are_bounded(resolver, names, nursery):
    for i in range(LOOKUPS_MAX + 4):
        names.table[f"slow{i}"] = None
        assert resolver.lookup(f"slow{i}", nursery) is None
    await trio.testing.wait_all_tasks_blocked()
    assert len(names.asked) == LOOKUPS_MAX


async def test_names_remembered_are_bounded(resolver, names, monkeypatch):
    monkeypatch.setattr(resolver_module, "HOSTS_MAX", 3)
    for i in range(6):
        names.table[f"h{i}"] = f"10.0.1.{i}"
        await resolver.resolve(f"h{i}")
    assert list(resolver._known) == ["h3", "h4", "h5"]
    assert HOSTS_MAX > 3
