"""What is known of a session agrees with PostgreSQL, and can be built again at another server."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from tracked_kit import (
    SYNC,
    Followed,
    Plain,
    bind,
    close,
    execute,
    numbers_server,
    parse,
    query,
    run,
)

from metako.pgwire.messages import message
from metako.proxy.changes import Tie
from metako.proxy.rebuild import Progress

pytestmark = pytest.mark.integration

SESSIONS = 60
STEPS = 25


@pytest.fixture(scope="module")
def server(test_bindir, keep_directories):
    with numbers_server(test_bindir, keep=keep_directories) as running:
        yield running


@pytest.fixture
def followed(server, request):
    seed = getattr(request.node, "callspec", None)
    found = Followed(server, seed=seed.params.get("seed", 0) if seed else 0)
    yield found
    found.close()


def moved_state(server, followed: Followed) -> list[tuple[str, ...]]:
    """Return what a new connection consists of that was made what `followed` is."""
    with closing(Plain(server)) as fresh:
        building = fresh.rebuild(followed.tracked)
        assert building.progress is Progress.DONE, building.failure
        assert not building.left_out
        return fresh.state()


# -- scripts ----------------------------------------------------------------------------------

NAMES = ("a", "b", '"A b"')
STATEMENTS = ("p1", "p2", '"P 3"')
SETTINGS = (
    "search_path to {}",
    "work_mem = '{}MB'",
    "session statement_timeout to '{}min'",
    "datestyle = SQL",
    "datestyle to 'DMY'",
    "time zone 'UTC'",
    "time zone interval '{}' hour to minute",
    "time zone default",
    "names 'LATIN1'",
    "app.number = '{}'",
    "App.\"Number\" to 'it''s {}'",
    "session characteristics as transaction isolation level serializable, read write",
    "session characteristics as transaction isolation level repeatable read, not deferrable",
    "role tina",
    "role none",
    "statement_timeout to default",
    "no_such_setting = {}",
    "work_mem = 'nonsense'",
)


def statement(rng: random.Random) -> str:
    """Return a statement at random, some of which fail."""
    name, prepared = rng.choice(NAMES), rng.choice(STATEMENTS)
    setting = rng.choice(SETTINGS).format(rng.randrange(1, 9))
    return rng.choice(
        (
            *(f"set {setting}", f"SET /* a; b */ {setting}", f"set {setting}"),
            f"set local {setting}",
            "reset work_mem",
            "reset role",
            *("begin", "begin", "start transaction isolation level serializable"),
            *("commit", "end", "rollback", "abort", "commit and chain"),
            *(f"savepoint {name}", f"savepoint {name}", f"rollback to {name}"),
            *(f"rollback work to savepoint {name}", f"release {name}"),
            f"prepare {prepared} as select {rng.randrange(9)}",
            f"prepare {prepared} (int, text) as select $1, $2 || ';'",
            *(f"deallocate {prepared}", f"deallocate prepare {prepared}"),
            "deallocate all",
            f"execute {prepared}",
            "discard all",
            "discard plans",
            *("select 1", "select 1/0", "select ';' -- ;", "no such statement"),
            "insert into numbers values (1) on conflict do nothing",
            "select set_config('work_mem', '7MB', false)",
            "select set_config('search_path', 'x, y', true)",
            "set transaction isolation level serializable",
            "set constraints all immediate",
            "",
        )
    )


def request(rng: random.Random) -> bytes:
    """Return what a client might send without waiting in between."""
    if rng.random() < 0.5:
        count = rng.choice((1, 1, 1, 2, 3))
        return query("; ".join(statement(rng) for _ in range(count)) + rng.choice(("", ";", " ; ")))
    parts = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(("", "", "s1", "s2"))
        choice = rng.random()
        if choice < 0.7:
            parts.append(parse(statement(rng), name) + run(name))
        elif choice < 0.8:
            parts.append(run(name))
        elif choice < 0.9:
            parts.append(close(name or "s1"))
        else:
            parts.append(parse("select $1 + 1", rng.choice(("s1", "s3")), 23))
        if rng.random() < 0.2:
            parts.append(SYNC)
    return b"".join(parts) + SYNC


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SESSIONS))
def test_a_random_session_is_the_same_at_a_new_server(server, followed, seed) -> None:
    rng = random.Random(seed)
    for _ in range(STEPS):
        followed.talk(*(request(rng) for _ in range(rng.choice((1, 1, 1, 2)))))
        if followed.down.status != ord("I"):
            continue
        assert followed.tracked.obstacle is None
        assert moved_state(server, followed) == followed.state()
        if rng.random() < 0.1:
            followed.talk(query("reset all"))
    followed.talk(query("rollback"))
    assert moved_state(server, followed) == followed.state()
    followed.talk(query("discard all"))
    assert not followed.tracked.dirty


# -- one by one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "tie"),
    [
        ("create temp table t (n int)", Tie.TEMPORARY),
        ("select 1 as n into temp t", Tie.TEMPORARY),
        ("set search_path to pg_temp; create table t (n int)", Tie.TEMPORARY),
        ("begin; create temp table t (n int) on commit drop; commit", None),
        ("begin; create temp table t (n int); rollback", None),
        ("select pg_advisory_lock(1)", Tie.LOCKS),
        ("begin; select pg_advisory_lock(1); rollback", Tie.LOCKS),
        ("select pg_advisory_lock(1); select pg_advisory_unlock_all()", None),
        ("select pg_advisory_xact_lock(1)", None),
        ("listen a", Tie.LISTENS),
        ("begin; listen a; rollback", None),
        ("listen a; unlisten *", None),
        ("begin; declare c cursor with hold for select 1; commit", Tie.CURSORS),
        ("begin; declare c cursor with hold for select 1; rollback", None),
        ("begin; declare c cursor with hold for select 1; commit; close c", None),
        ("begin; declare c cursor for select 1; commit", None),
        ("select set_config('work_mem', 1 || 'MB', false)", Tie.CONFIG),
        ("load 'plpgsql'", Tie.LIBRARY),
    ],
)
@pytest.mark.parametrize("way", ["at once", "one by one", "extended"])
def test_obstacles_are_what_the_server_has(server, followed, sql, tie, way) -> None:
    parts = {"at once": [query(sql)], "one by one": [query(part) for part in sql.split("; ")]}
    prepared = [parse(part) + run("") + SYNC for part in sql.split("; ")]
    followed.talk(*parts.get(way, prepared))
    assert followed.errors == []
    assert followed.tracked.obstacle is tie
    followed.talk(query("discard all"))
    assert followed.tracked.obstacle is (Tie.LIBRARY if tie is Tie.LIBRARY else None)


def test_a_statement_whose_table_is_gone_is_left_out_and_any_other_failure_forbids(server) -> None:
    server.run("create table gone (n int)")
    with closing(Followed(server)) as followed, closing(Plain(server)) as fresh:
        followed.talk(parse("select * from gone", "s") + parse("select 1", "t") + SYNC)
        followed.talk(query("prepare p as select * from gone; prepare q as select 2"))
        server.run("drop table gone")
        building = fresh.rebuild(followed.tracked)
        assert building.progress is Progress.DONE
        assert building.left_out == [b"s", b"p"]
        assert list(followed.tracked.statements) == [b"t", b"q"]
        followed.talk(query("set role tina"))
        server.run("create role vera; grant vera to tina")
        followed.talk(query("set role vera"))
        server.run("drop role vera")
        with closing(Plain(server)) as another:
            building = another.rebuild(followed.tracked)
        assert building.progress is Progress.FAILED
        assert "setting role" in building.failure
        assert "vera" in building.failure


def test_a_statement_is_prepared_with_the_path_that_it_was_prepared_with(server) -> None:
    server.run("create schema tenant create table things (n int)")
    with closing(Followed(server)) as followed, closing(Plain(server)) as fresh:
        followed.talk(parse("select 1", "a") + SYNC, query("set search_path to tenant"))
        followed.talk(parse("select * from things", "b") + SYNC)
        followed.talk(query("set search_path to nowhere; prepare c as select 2"))
        building = fresh.rebuild(followed.tracked)
        assert building.progress is Progress.DONE, building.failure
        assert building.left_out == []
        assert fresh.state() == followed.state()
        # Of a path that was local to a transaction the text is not known.
        followed.talk(query("begin; set local search_path to tenant"))
        followed.talk(parse("select n from things", "d") + SYNC + query("commit"))
        with closing(Plain(server)) as another:
            building = another.rebuild(followed.tracked)
        assert building.progress is Progress.FAILED
        assert "things" in building.failure


def test_what_a_client_is_not_told_again_is_what_it_knows(server, followed) -> None:
    followed.talk(query("set time zone 'UTC'; set datestyle = sql"))
    with closing(Plain(server)) as fresh:
        fresh.reported["server_version"] = "99"
        building = fresh.rebuild(followed.tracked)
        assert building.progress is Progress.DONE
        assert building.news == b"S\0\0\0\x16server_version\x0099\0"
        assert fresh.reported["TimeZone"] == "UTC"
        assert followed.tracked.reported == fresh.reported


def test_a_session_with_an_obstacle_is_not_rebuilt(server, followed) -> None:
    followed.talk(query("listen a"))
    with closing(Plain(server)) as fresh:
        building = fresh.rebuild(followed.tracked)
    assert building.progress is Progress.FAILED
    assert "listens" in building.failure


def test_a_copy_in_the_extended_protocol_does_not_lose_the_thread(server, followed) -> None:
    copy = parse("copy numbers from stdin") + bind() + execute() + SYNC
    data = message(b"d", b"7\n") + message(b"c", b"") + SYNC
    followed.talk(query("begin") + parse("set local work_mem = '1MB'") + run("") + SYNC)
    followed.send(copy)
    followed.until_copying()
    followed.talk(data)
    followed.talk(query("rollback; set work_mem = '2MB'"))
    assert followed.errors == []
    assert followed.tracked.obstacle is None
    assert moved_state(server, followed) == followed.state()


def test_reset_all_passes_over_what_is_local_to_its_transaction(server, followed) -> None:
    followed.talk(query("set work_mem = '3MB'"))
    followed.talk(query("begin; set local work_mem to default; reset all; commit"))
    assert ("work_mem", "3072") in followed.state()
    assert followed.tracked.obstacle is Tie.UNCLEAR


def test_closed_statements_are_gone_and_marked_ones_are_followed(server, followed) -> None:
    followed.talk(parse("set work_mem = '3MB'", "s") + SYNC, parse("select 1", "t") + SYNC)
    followed.talk(query("reset work_mem"), run("t") + SYNC, run("s") + close("t") + SYNC)
    assert [name for name, _ in followed.state()] == ["user", "work_mem", "s"]
    assert moved_state(server, followed) == followed.state()
