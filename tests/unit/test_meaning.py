"""What statements leave behind, one by one."""

from __future__ import annotations

import pytest

from metako.proxy.changes import (
    NOTHING,
    CloseCursor,
    Deallocate,
    Execute,
    Hold,
    Listen,
    Meaning,
    Point,
    Prepare,
    Reset,
    Savepoint,
    Set,
    Simple,
    Tie,
)
from metako.proxy.meaning import meaning_of
from metako.proxy.sqltext import read_script


def meaning(sql: str) -> Meaning:
    (statement,) = read_script(sql.encode()).statements
    return meaning_of(statement)


def sets(name: str, sql: str) -> Set:
    return Set(((name.encode(), sql.encode()),))


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SET a = 1", "a"),
        ("set A to 1", "a"),
        ('set "A" to 1', "a"),
        ("set app.x to 1", "app.x"),
        ("set session a = 1", "a"),
        ("set time zone 'UTC'", "timezone"),
        ("set session time zone 1", "timezone"),
        ("set time zone interval '1' hour", "timezone"),
        ("set names 'LATIN1'", "client_encoding"),
        ("set schema 'x'", "search_path"),
        ("set xml option document", "xmloption"),
        ("set role x", "role"),
        ("set role none", "role"),
        ('set role "default"', "role"),
        ("set role = x", "role"),
        ("set session role x", "role"),
        ("set session authorization x", "session_authorization"),
        ("set session authorization 'default'", "session_authorization"),
        ("set session session authorization x", "session_authorization"),
        ("select set_config('A', 'b', false)", "a"),
        ("select pg_catalog.set_config('a', 'b', false)", "a"),
        ("set session = 1", None),
    ],
)
def test_settings_are_known_by_their_names(sql, name) -> None:
    if name is None:
        assert meaning(sql).ties == (Tie.UNCLEAR,)
    else:
        assert meaning(sql).change == sets(name, sql)
        assert meaning(sql).dirty


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("reset a", b"a"),
        ("reset app.x", b"app.x"),
        ("reset all", None),
        ("reset time zone", b"timezone"),
        ("reset session authorization", b"session_authorization"),
        ("reset role", b"role"),
        ("set a to default", b"a"),
        ("set time zone local", b"timezone"),
        ("set names", b"client_encoding"),
        ("set session authorization default", b"session_authorization"),
    ],
)
def test_settings_are_given_back(sql, name) -> None:
    assert meaning(sql).change == Reset(name)


@pytest.mark.parametrize(
    "sql",
    [
        "set local a = 1",
        "set transaction isolation level serializable",
        "set constraints all deferred",
        "set transaction_isolation to serializable",
        "reset transaction isolation level",
        "select 1",
        "(select 1)",
        "insert into temp values (1)",
        "create temp table t (n int) on commit drop",
        "create table t ()",
        "create function f() returns void as $$ set a = 1 $$ language sql",
        "create function f() returns int begin atomic select currval('s'); end",
        "explain analyze select 1",
        "select set_config('a', $1, true)",
        "select set_config('a', 'b', 't'::boolean), set_config('c', f(1, false), true)",
        "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2), pg_advisory_unlock(3)",
        "select 'currval(1)', currval from t",
        "commit prepared 'x'",
        "discard plans",
    ],
)
def test_these_leave_nothing_behind(sql) -> None:
    found = meaning(sql)
    change = found.change if found.change is Simple.LOCAL else None
    assert found == Meaning(change, tags=found.tags)


@pytest.mark.parametrize(
    ("sql", "tie"),
    [
        ("select pg_advisory_lock(1)", Tie.LOCKS),
        ("select pg_catalog.pg_try_advisory_lock_shared(1)", Tie.LOCKS),
        ("select set_config('a', $1, false)", Tie.CONFIG),
        ("select set_config('a', $1, $2)", Tie.CONFIG),
        ("select set_config('a', 'b', false), 1", Tie.CONFIG),
        ("select set_config('a', 'b', not true)", Tie.CONFIG),
        ("select set_config('a', 'b', true and false)", Tie.CONFIG),
        ("select currval('s')", Tie.SEQUENCES),
        ("insert into t values (lastval())", Tie.SEQUENCES),
        ("select setseed(1)", Tie.SEED),
        ("set seed to 0.5", Tie.SEED),
        ("load 'x'", Tie.LIBRARY),
        ("prepare p as select pg_advisory_lock(1)", Tie.LOCKS),
        ("execute p(currval('s'))", Tie.SEQUENCES),
        ("declare c cursor for select pg_advisory_lock(1)", Tie.LOCKS),
        ("explain analyze select setseed(1)", Tie.SEED),
        ("set a from current", Tie.UNCLEAR),
        ("set search_path to pg_temp, public", Tie.TEMPORARY),
    ],
)
def test_these_tie_a_session_to_its_server(sql, tie) -> None:
    assert meaning(sql).ties == (tie,)
    assert meaning(sql).dirty


@pytest.mark.parametrize(
    ("sql", "change"),
    [
        ("create temp table t ()", Simple.TEMPORARY),
        ("create local temporary table t ()", Simple.TEMPORARY),
        ("create or replace temp view v as select 1", Simple.TEMPORARY),
        ("explain analyze create temp table t as select 1", Simple.TEMPORARY),
        ("create temp sequence s", Simple.TEMPORARY),
        ("select 1 into temp t", Simple.TEMPORARY),
        ("select 1 into local temporary table t", Simple.TEMPORARY),
        ("create table pg_temp.t ()", Simple.TEMPORARY),
        ('insert into "pg_temp".t values (1)', Simple.TEMPORARY),
        ("listen a", Listen(b"a", begins=True)),
        ('listen "A"', Listen(b"A", begins=True)),
        ("unlisten a", Listen(b"a", begins=False)),
        ("unlisten *", Listen(None, begins=False)),
        ("prepare p as select 1", Prepare(b"p", b"prepare p as select 1")),
        ('prepare "P" (int) as select $1', Prepare(b"P", b'prepare "P" (int) as select $1')),
        ("prepare transaction 'x'", Simple.COMMIT),
        ("deallocate p", Deallocate(b"p")),
        ("deallocate prepare p", Deallocate(b"p")),
        ("deallocate prepare", Deallocate(b"prepare")),
        ("deallocate all", Deallocate(None)),
        ("deallocate prepare all", Deallocate(None)),
        ("execute p(1)", Execute(b"p")),
        ("declare c cursor with hold for select 1", Hold(b"c")),
        ("declare c no scroll cursor with hold for select hold", Hold(b"c")),
        ("close c", CloseCursor(b"c")),
        ("close all", CloseCursor(None)),
        ("begin", Simple.BEGIN),
        ("start transaction", Simple.BEGIN),
        ("commit and chain", Simple.COMMIT),
        ("end", Simple.COMMIT),
        ("rollback", Simple.ROLLBACK),
        ("abort", Simple.ROLLBACK),
        ("rollback and chain", Simple.ROLLBACK),
        ("rollback to a", Savepoint(b"a", Point.ROLL_BACK_TO)),
        ("rollback work to savepoint a", Savepoint(b"a", Point.ROLL_BACK_TO)),
        ("savepoint a", Savepoint(b"a", Point.SET)),
        ("release a", Savepoint(b"a", Point.RELEASE)),
        ("release savepoint a", Savepoint(b"a", Point.RELEASE)),
        ("release savepoint", Savepoint(b"savepoint", Point.RELEASE)),
        ("discard all", Simple.DISCARD_ALL),
        ("discard temp", Simple.DISCARD_TEMPORARY),
        ("discard sequences", Simple.DISCARD_SEQUENCES),
        ("select pg_advisory_unlock_all()", Simple.UNLOCK_ALL),
    ],
)
def test_changes(sql, change) -> None:
    assert meaning(sql).change == change
    assert not meaning(sql).ties


def test_a_cursor_without_hold_leaves_nothing_behind() -> None:
    assert meaning("declare c cursor for select 'with hold'").change is None
    assert meaning("declare c cursor for select with hold").change is None


def test_characteristics_are_settings_of_their_own() -> None:
    found = meaning(
        "set session characteristics as transaction isolation level repeatable read, read only,"
        " not deferrable"
    )
    assert found.change == Set(
        (
            (
                b"default_transaction_isolation",
                b"SET default_transaction_isolation = 'repeatable read'",
            ),
            (b"default_transaction_read_only", b"SET default_transaction_read_only = 'on'"),
            (b"default_transaction_deferrable", b"SET default_transaction_deferrable = 'off'"),
        )
    )


def test_what_procedural_code_does_is_not_known() -> None:
    for sql in ("do $$ begin end $$", "call p()"):
        assert meaning(sql) == Meaning(dirty=True)
    assert meaning("create procedure p() language sql as ''") == NOTHING
