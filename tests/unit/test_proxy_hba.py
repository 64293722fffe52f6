"""What a client is asked by the lines of a pg_hba.conf, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.proxy.hba import Asks, Client, NoLine, Unjudged, Verdict, judge, parse_hba

ANNA = Client(user="anna", database="shop", address="10.1.2.3", tls=False)


def verdict(*lines: str, client: Client = ANNA) -> Verdict:
    return judge(parse_hba(lines), client)


@pytest.mark.parametrize(
    "line",
    [
        "host all all all trust",
        "host all all 10.1.2.3/32 trust",
        "host all all 10.9.9.9/8 trust",  # bits beyond the mask do not matter
        "host all all 10.0.0.0 255.0.0.0 trust",
        "host all all 0.0.2.0 0.0.255.0 trust",  # a mask may have holes
        "host shop anna all trust",
        "host sameuser,shop bob,anna all trust",
        "host sameuser, shop  bob,   anna  all trust",
        "host ,,shop anna, all all trust",
        'host "shop" "an"na "10.1.2.3/32" "trust"',
        "\thost\tall\tall\tall\ttrust\r",
        "host all all all trust # who is next?",
        "host all all all trust#",
        "hostnossl all all all trust",
        "hostnogssenc all all all trust",
    ],
)
def test_a_line_that_matches_asks_by_its_method(line: str) -> None:
    assert verdict(line, "host all all all reject") == Asks("trust")


@pytest.mark.parametrize(
    "line",
    [
        "# host all all all trust",
        "",
        "local all all trust",
        "hostssl all all all trust",
        "hostgssenc all all all trust",
        "host other all all trust",
        "host shop bob all trust",
        "host sameuser all all trust",
        "host replication all all trust",
        'host "all" all all trust',  # the database of that name
        'host all "all" all trust',
        "host ALL all all trust",
        "host all Anna all trust",
        "host all all 10.1.2.4/32 trust",
        "host all all ::/0 trust",
        # What cannot be told does not matter where another column says no.
        "host other +admins all trust",
        "host samerole anna 11.0.0.0/8 trust",
        "hostssl all all somewhere.example trust",
    ],
)
def test_a_line_that_does_not_match_is_passed_over(line: str) -> None:
    assert verdict(line) == NoLine()
    assert verdict(line, "host all all all md5") == Asks("md5")


@pytest.mark.parametrize(
    "line",
    [
        "host all +admins all trust",
        "host samerole all all trust",
        "host samegroup all all trust",
        "host all all samehost trust",
        "host all all samenet trust",
        "host all all db.example trust",
        "host all all .example trust",
        "host all /^a.*$ all trust",
        'host "/sh" all all trust',
        "host @databases all all trust",
        "host all bob,@users all trust",
        "host all all all trust \\",
        "# a remark \\",
        "include other.conf",
        "include_dir conf.d",
        "host all all all",
        "host all all all magic",
        "host all all 10.1.2.3 trust",  # the mask is missing
        "host all all 10.1.2.3 255.0.0.0",
        "host all all 10.1.2.3/33 trust",
        "host all all 10.1.2.3/-1 trust",
        "host all all 10.1.2.3/ trust",
        "host all all 010.1.2.3/8 trust",
        "host all all 10.1.2.3 ffff:: trust",
        "host all all all,10.0.0.0/8 trust",
        "host,local all all all trust",
        "host all all all trust,md5",
        "host all all all trust option",
        "host all all all cert",
        "host all all all peer",
        "host all " + "x" * 300 + " all trust",
    ],
)
def test_what_only_a_server_can_tell_is_not_judged(line: str) -> None:
    assert isinstance(verdict(line, "host all all all reject"), Unjudged)
    assert verdict("host shop anna all md5", line) == Asks("md5")


def test_one_sure_word_outweighs_the_unsure_ones_of_its_column() -> None:
    assert verdict("host all +admins,anna all trust") == Asks("trust")


def test_tls_chooses_among_lines() -> None:
    lines = ("hostssl all all all scram-sha-256", "hostnossl all all all reject")
    assert verdict(*lines) == Asks("reject")
    assert verdict(*lines, client=replace(ANNA, tls=True)) == Asks("scram-sha-256")


def test_replication_is_for_its_own_lines_only() -> None:
    lines = ('host all,"replication" all all trust', "host replication all all md5")
    assert verdict(*lines, client=replace(ANNA, replication=True)) == Asks("md5")
    named = replace(ANNA, database="replication")
    assert verdict(*lines, client=named) == Asks("trust")
    assert verdict(lines[1], client=named) == NoLine()


def test_sameuser_is_the_database_of_the_users_name() -> None:
    assert verdict("host sameuser all all md5", client=replace(ANNA, database="anna")) == Asks(
        "md5"
    )


def test_options_are_told() -> None:
    line = 'hostssl all all all cert clientname=DN "map=a b"'
    asked = verdict(line, client=replace(ANNA, tls=True))
    assert asked == Asks("cert", ("clientname=DN", "map=a b"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::1", "md5"),
        ("fe80::1%eth0", "password"),
        ("::ffff:10.1.2.3", "trust"),
        ("10.1.2.3", "trust"),
    ],
)
def test_addresses_of_both_families(address: str, expected: str) -> None:
    lines = (
        "host all all 10.0.0.0/8 trust",
        "host all all ::1/128 md5",
        "host all all fe80:: ffff:: password",
    )
    assert verdict(*lines, client=replace(ANNA, address=address)) == Asks(expected)


@pytest.mark.parametrize(
    "client",
    [
        replace(ANNA, address=""),
        replace(ANNA, address="/tmp/socket"),
        replace(ANNA, user="x" * 64),
        replace(ANNA, database="é" * 32),
        replace(ANNA, user="a\0b"),
    ],
)
def test_clients_that_a_server_would_take_for_others_are_not_judged(client: Client) -> None:
    assert isinstance(verdict("host all all all trust", client=client), Unjudged)


WORDS = st.sampled_from(
    [
        *("host", "hostssl", "all", "+a", "anna", "shop", "10.0.0.0/8", "trust", "md5", "reject"),
        *(
            ",",
            '"',
            "#",
            " ",
            "\\",
            "@x",
            "/x",
            "samehost",
            "255.0.0.0",
            "10.0.0.0",
            "a=b",
            "\udc80",
        ),
    ]
)
LINES = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40)


@given(st.lists(LINES, max_size=6), st.text(max_size=8), st.text(max_size=8), st.booleans())
def test_no_line_and_no_client_is_an_error(
    lines: list[str], user: str, address: str, tls: bool
) -> None:
    for one in (ANNA, Client(user, "shop", address or "::1", tls)):
        assert isinstance(verdict(*lines, client=one), Asks | NoLine | Unjudged)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\n\0\r'), min_size=1, max_size=9)


@given(NAMES, NAMES)
def test_a_quoted_name_matches_itself_and_nobody_else(name: str, other: str) -> None:
    line = f'host all "{name}" all md5'
    if name.startswith("/"):
        return  # a regular expression
    same = replace(ANNA, user=name)
    assert verdict(line, client=same) == Asks("md5")
    if other != name:
        assert verdict(line, client=replace(ANNA, user=other)) == NoLine()


@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=3))
def test_lines_behind_a_verdict_do_not_change_it(first: list[str], more: list[str]) -> None:
    found = verdict(*first)
    if not isinstance(found, NoLine):
        assert verdict(*first, *more) == found
