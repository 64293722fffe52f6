"""What concerns nobody leaves nothing behind; and ordinary statements concern nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.proxy.changes import Meaning, Savepoint, Simple
from metako.proxy.concern import concerns
from metako.proxy.meaning import meaning_of
from metako.proxy.sqltext import read_script

ORDINARY = (
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
    "select 1",
    "  \n select 1 ;\n",
    "/* traceparent='a-b' */ select 1",
    "-- name\nSelect 1",
    "(select 1) union (select 2)",
    "INSERT INTO t VALUES (1, 'a;b', 'temp', 'it''s'), (2, E'\\';', $$;$$)",
    "insert into values_hold (temperature, advisory) values (1, 2)",
    "UPDATE t SET search_path = 1, currval_ = 2",
    "DELETE FROM t",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "values (1)",
    "table t",
    "BEGIN",
    "BEGIN;",
    "begin isolation level serializable",
    "START TRANSACTION READ ONLY",
    "COMMIT",
    "END",
    "end;",
    "ROLLBACK",
    "ABORT",
    "ROLLBACK TO a",
    "SAVEPOINT a",
    "RELEASE a",
    "COPY t FROM STDIN",
    "FETCH 10 FROM c",
    "declare c cursor for select 1",
    "SHOW search_path",
    "LOCK TABLE t",
    "select now() -- ; set a = 1",
    'select ";"',
)
CONCERNING = (
    "SET a = 1",
    "select 1; set a = 1",
    "select 1; select 2",
    "RESET ALL",
    "create temp table t ()",
    "CREATE TABLE t ()",
    "select 1 into temp t",
    "select * from pg_temp.t",
    'select * from "pg_temp_1".t',
    "select pg_advisory_lock(1)",
    "SELECT PG_TRY_ADVISORY_LOCK ( 1 )",
    "select set_config('a', 'b', false)",
    "select \"set_config\"('a', 'b', false)",
    "select pg_catalog.set_config('a', 'b', false)",
    "select 'a;b', set_config('a', 'b', false)",
    "select currval('s')",
    "select lastval()",
    "select setseed(0.5)",
    'select U&"\\0073et_config"(1)',
    "select ';', U&\"\\0073et_config\"(1)",
    "select /* /* */ ; set a = 1 -- */ */ 1",
    "select '\\'; set a = 1; --'",
    "select $a$ $b$; set a = 1",
    "declare c cursor with hold for select 1",
    "select 1e3pg_temp.f()",
    "PREPARE p AS SELECT 1",
    "LISTEN a",
    "DISCARD ALL",
    "do $$ $$",
    "call p()",
    "load 'x'",
    "close c",
    "",
)


@pytest.mark.parametrize("sql", ORDINARY)
def test_ordinary_statements_concern_nobody(sql) -> None:
    assert not concerns(sql.encode())


@pytest.mark.parametrize("sql", CONCERNING)
def test_what_may_leave_something_behind_concerns_somebody(sql) -> None:
    assert concerns(sql.encode())


PARTS = (
    *(
        " ",
        "\n",
        ";",
        "'",
        '"',
        "E'",
        "$$",
        "$a$",
        "\\",
        "--",
        "/*",
        "*/",
        "(",
        ")",
        ",",
        "=",
        "U&",
    ),
    *("select", "insert into t", "with a as", "set", "into temp t", "pg_temp", "set_config", "a"),
    *("currval", "pg_advisory_lock", "begin", "declare c cursor", "hold", "with", "reset all", "1"),
)
HARMLESS = (None, Simple.BEGIN, Simple.COMMIT, Simple.ROLLBACK)


@given(
    st.sampled_from(["select ", "insert into t values (", "BEGIN", "with ", "", "declare c "]),
    st.lists(st.sampled_from(PARTS), max_size=15),
)
def test_what_concerns_nobody_means_nothing(begin, parts) -> None:
    text = (begin + "".join(parts)).encode()
    if concerns(text):
        return
    script = read_script(text)
    if not script.whole:
        return  # PostgreSQL refuses it
    assert len(script.statements) <= 1
    for statement in script.statements:
        meaning = meaning_of(statement)
        if not isinstance(meaning.change, Savepoint):
            assert meaning.change in HARMLESS
        assert Meaning(meaning.change, tags=meaning.tags) == meaning


@given(st.lists(st.sampled_from(["';'", "E'\\';'", "$$;$$", '";"', "-- ;\n", "/* ; */", ", 1"])))
def test_semicolons_in_strings_and_comments_concern_nobody(parts) -> None:
    assert not concerns(("select 1 " + " ".join(parts)).encode())
