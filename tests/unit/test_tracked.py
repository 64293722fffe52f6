"""What is known of a session, wherever its bytes are cut, and what ties it to its server."""

from __future__ import annotations

import pytest
from follow_kit import (
    BOUND,
    CLOSED,
    EMPTY,
    EXECUTED,
    PARSED,
    SUSPENDED,
    SYNC,
    bind,
    close,
    done,
    error,
    execute,
    parse,
    query,
    ready,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_kit import message
from session_kit import Session, describe
from tracked_model import ModelServer

from metako.pgwire.follow import TEXT_BYTES_MAX
from metako.proxy.changes import Tie
from metako.proxy.layers import SAVEPOINTS_MAX, SETTINGS_MAX
from metako.proxy.prepared import STATEMENTS_BYTES_MAX, STATEMENTS_MAX
from metako.proxy.steps import HEAVY_STEPS_MAX, MEANINGS_MAX, STEPS_MAX

# -- against a model --------------------------------------------------------------------------

STATEMENTS = st.sampled_from(
    [
        *("set a = 1", "set a = 2", "set b = 1", "set local a = 3", "reset a", "reset b"),
        *("begin", "begin", "commit", "rollback", "select 1", "select 2", "fail"),
        *("savepoint x", "savepoint y", "rollback to x", "rollback to y", "release x", "release y"),
        *("prepare p as select 1", "prepare q as select 1", "deallocate p", "deallocate all"),
        *("listen l", "unlisten *"),
    ]
)
NAMES = st.sampled_from(["", "", "s", "t"])
MESSAGES = st.one_of(
    st.tuples(st.just("parse"), NAMES, STATEMENTS),
    st.tuples(st.just("run"), NAMES, st.just("")),
    st.tuples(st.just("both"), NAMES, STATEMENTS),
    st.tuples(st.just("close"), st.sampled_from(["s", "t"]), st.just("")),
)
REQUESTS = st.one_of(
    st.lists(STATEMENTS, min_size=1, max_size=4), st.lists(MESSAGES, min_size=1, max_size=4)
)


def request_and_answer(server: ModelServer, request) -> tuple[bytes, bytes]:
    if isinstance(request[0], str):
        return query("; ".join(request)), server.query(request)
    sent, messages = b"", []
    for what, name, sql in request:
        if what in ("parse", "both"):
            sent += parse(sql, name)
            messages.append(("parse", name, sql))
        if what in ("run", "both"):
            sent += bind(name) + execute()
            messages.append(("run", name, ""))
        if what == "close":
            sent += close(name)
            messages.append(("close", name, ""))
    return sent + SYNC, server.extended(messages)


@settings(max_examples=300)
@given(st.lists(st.lists(REQUESTS, min_size=1, max_size=3), max_size=12), st.data())
def test_what_is_known_is_what_the_server_has(turns, data) -> None:
    session, server = Session(), ModelServer()
    for requests in turns:
        pairs = [request_and_answer(server, request) for request in requests]
        if data.draw(st.booleans()):
            # Each request in a piece of its own, as most come.
            for sent, _ in pairs:
                session.feed(">", sent, quick=True)
        else:
            sent = b"".join(sent for sent, _ in pairs)
            session.feed(">", sent, data.draw(st.sampled_from([1, 5, 13, 1000])))
        answers = b"".join(answer for _, answer in pairs)
        session.feed("<", answers, data.draw(st.sampled_from([1, 5, 13, 1000])))
        if server.status == "I":
            obstacle = session.tracked.obstacle
            if obstacle is Tie.UNCLEAR and server.skipped_unnamed:
                return
            assert obstacle is (Tie.LISTENS if server.state.channels else None)
            assert session.settings == list(server.state.settings.values())
            assert sorted(session.names) == sorted(server.prepared)
    for name, prepared in session.tracked.statements.items():
        text = prepared.sql if prepared.parse is None else prepared.parse.query
        assert text.decode() == server.prepared[name.decode()]


@settings(max_examples=300)
@given(st.lists(st.lists(REQUESTS, min_size=1, max_size=3), max_size=12), st.data())
def test_another_process_goes_on_with_what_is_known(turns, data) -> None:
    session, other, server = Session(), Session(), ModelServer()
    handed_over = False
    for requests in turns:
        pairs = [request_and_answer(server, request) for request in requests]
        sent = b"".join(sent for sent, _ in pairs)
        answers = b"".join(answer for _, answer in pairs)
        for one in (session, other):
            one.feed(">", sent, 1000)
            one.feed("<", answers, 1000)
        if server.status == "I":
            if other.tracked.obstacle is not Tie.UNCLEAR:
                # Never less than the first one knows. The unnamed statement is not told of, so what
                # comes of executing it again may be unclear.
                assert describe(other.tracked) == describe(session.tracked)
            elif session.tracked.obstacle is not Tie.UNCLEAR:
                assert handed_over
            if data.draw(st.booleans()):
                other, handed_over = other.handed_over(), True


# -- clean and dirty --------------------------------------------------------------------------


def test_queries_and_transactions_leave_a_session_clean() -> None:
    session = Session()
    session.run("insert into t values (1)", "INSERT 0 1")
    session.run("begin", "BEGIN", status="T")
    session.run("set local a = 1", "SET", status="T")
    session.run("savepoint a", "SAVEPOINT", status="T")
    session.run("commit", "COMMIT")
    session.run("create temp table t (n int) on commit drop", "CREATE TABLE")
    session.run("select set_config('a', 'b', true)", "SELECT 1")
    session.send(parse("select $1"), bind(), execute(), SYNC)
    session.answer(EXECUTED, done("SELECT 1"), ready())
    session.fail("select 1/0")
    assert not session.tracked.dirty
    assert session.tracked.obstacle is None


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("set a = 1", "SET"),
        ("reset a", "RESET"),
        ("prepare p as select 1", "PREPARE"),
        ("listen a", "LISTEN"),
        ("do $$ $$", "DO"),
        ("call p()", "CALL"),
        ("select setseed(1)", "SELECT 1"),
    ],
)
def test_what_may_stay_makes_a_session_dirty_until_it_is_discarded(sql, tag) -> None:
    session = Session()
    session.run(sql, tag)
    assert session.tracked.dirty
    session.clear()


def test_what_follows_a_discard_in_the_same_request_counts() -> None:
    session = Session()
    session.send(query("discard all"), query("set a = 1"))
    session.answer(done("DISCARD ALL"), ready(), done("SET"), ready())
    assert session.tracked.dirty
    assert session.settings == ["set a = 1"]


# -- what ties a session ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "tag", "tie"),
    [
        ("create temp table t ()", "CREATE TABLE", Tie.TEMPORARY),
        ("select 1 into temp t", "SELECT 1", Tie.TEMPORARY),
        ("select pg_advisory_lock(1)", "SELECT 1", Tie.LOCKS),
        ("listen a", "LISTEN", Tie.LISTENS),
        ("declare c cursor with hold for select 1", "DECLARE CURSOR", Tie.CURSORS),
        ("select set_config('a', b, false) from t", "SELECT 1", Tie.CONFIG),
        ("select currval('s')", "SELECT 1", Tie.SEQUENCES),
        ("set a from current", "SET", Tie.UNCLEAR),
    ],
)
def test_what_cannot_be_rebuilt_is_an_obstacle_until_it_is_discarded(sql, tag, tie) -> None:
    session = Session()
    session.run(sql, tag)
    assert session.tracked.obstacle is tie
    session.clear()


@pytest.mark.parametrize(
    ("first", "then", "tag"),
    [
        (("listen a", "LISTEN"), "unlisten a", "UNLISTEN"),
        (("listen a", "LISTEN"), "unlisten *", "UNLISTEN"),
        (("declare c cursor with hold for select 1", "DECLARE CURSOR"), "close c", "CLOSE CURSOR"),
        (
            ("declare c cursor with hold for select 1", "DECLARE CURSOR"),
            "close all",
            "CLOSE CURSOR ALL",
        ),
        (("create temp table t ()", "CREATE TABLE"), "discard temp", "DISCARD TEMP"),
        (("select currval('s')", "SELECT 1"), "discard sequences", "DISCARD SEQUENCES"),
        (("select pg_advisory_lock(1)", "SELECT 1"), "select pg_advisory_unlock_all()", "SELECT 1"),
    ],
)
def test_what_is_given_back_is_no_obstacle_any_more(first, then, tag) -> None:
    session = Session()
    session.run(*first)
    assert session.tracked.obstacle is not None
    session.run(then, tag)
    assert session.tracked.obstacle is None


def test_a_library_stays_loaded() -> None:
    session = Session()
    session.run("load 'x'", "LOAD")
    session.run("discard all", "DISCARD ALL")
    assert session.tracked.obstacle is Tie.LIBRARY
    assert session.tracked.dirty


def test_a_lock_outlives_its_transaction_and_a_temporary_table_does_not() -> None:
    for sql, tag, expected in (
        ("select pg_advisory_lock(1)", "SELECT 1", Tie.LOCKS),
        ("create temp table t ()", "CREATE TABLE", None),
    ):
        session = Session()
        session.run("begin", "BEGIN", status="T")
        session.run(sql, tag, status="T")
        session.run("rollback", "ROLLBACK")
        assert session.tracked.obstacle is expected


def test_a_lock_is_assumed_though_the_statement_failed() -> None:
    session = Session()
    session.fail("select pg_advisory_lock(n), 1/0 from t")
    assert session.tracked.obstacle is Tie.LOCKS


def test_a_lock_is_assumed_each_time_its_statement_is_executed() -> None:
    session = Session()
    session.send(parse("select pg_advisory_lock(1)", "s"), SYNC)
    session.answer(PARSED, ready())
    session.run("select pg_advisory_unlock_all()", "SELECT 1")
    assert session.tracked.obstacle is None
    session.send(bind("s"), execute(), SYNC)
    session.answer(BOUND, done("SELECT 1"), ready())
    assert session.tracked.obstacle is Tie.LOCKS


@pytest.mark.parametrize("tag", ["SET", "LISTEN", "DISCARD ALL", "CREATE TABLE"])
def test_a_change_that_nobody_saw_coming_is_an_obstacle(tag) -> None:
    session = Session()
    session.run("select 1", tag)
    assert session.tracked.obstacle is Tie.UNCLEAR
    session.clear()


def test_executing_by_sql_what_the_protocol_prepared_may_be_an_obstacle() -> None:
    session = Session()
    session.send(parse("set a = 1", "s"), parse("select 1", "t"), SYNC)
    session.answer(PARSED, PARSED, ready())
    session.run("execute t", "SELECT 1")
    assert session.tracked.obstacle is None
    session.run("execute s", "SET")
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_a_function_that_is_called_by_its_number_is_an_obstacle_but_for_large_objects() -> None:
    session = Session()
    session.send(message("F", (952).to_bytes(4, "big") + bytes(8)))
    session.answer(message("V", bytes(4)), ready())
    assert session.tracked.obstacle is None
    session.send(message("F", (2880).to_bytes(4, "big") + bytes(8)))
    session.answer(message("V", bytes(4)), ready())
    assert session.tracked.obstacle is Tie.UNCLEAR


# -- texts that are long, or can be read in two ways ---------------------------------------------


def test_a_long_insert_is_no_obstacle_and_a_change_behind_it_is() -> None:
    text = "insert into t values ('" + "x" * TEXT_BYTES_MAX + "')"
    session = Session()
    session.run(text, "INSERT 0 1")
    assert session.tracked.obstacle is None
    assert session.tracked.dirty
    session.run(text + "; set a = 1", "INSERT 0 1", "SET")
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_a_long_text_may_not_end_a_transaction_that_has_changed_something() -> None:
    session = Session()
    session.run("begin; set a = 1", "BEGIN", "SET", status="T")
    session.run("select '" + "x" * TEXT_BYTES_MAX + "'; rollback", "SELECT 1", "ROLLBACK")
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_a_prepared_statement_that_was_not_kept_is_an_obstacle_while_it_is_there() -> None:
    session = Session()
    session.send(parse("select '" + "x" * TEXT_BYTES_MAX + "'", "s"), SYNC)
    session.answer(PARSED, ready())
    assert session.tracked.obstacle is Tie.LONG_STATEMENT
    session.send(close("s"), SYNC)
    session.answer(CLOSED, ready())
    assert session.tracked.obstacle is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("standard_conforming_strings", "on", None),
        ("standard_conforming_strings", "off", Tie.UNCLEAR),
        ("client_encoding", "UTF8", None),
        ("client_encoding", "SJIS", Tie.UNCLEAR),
    ],
)
def test_a_string_that_can_be_read_in_two_ways_is_an_obstacle(name, value, expected) -> None:
    session = Session()
    session.answer(message("S", f"{name}\0{value}\0".encode()))
    session.run("set a = '\\'; set b = '\\'", "SET", "SET")
    assert session.tracked.obstacle is expected
    assert session.tracked.reported == {name: value}


# -- the protocol ---------------------------------------------------------------------------------


def test_what_is_skipped_after_an_error_did_not_happen() -> None:
    session = Session()
    session.send(parse("set a = 1"), bind(), execute(), parse("select 1", "s"))
    session.answer(EXECUTED, done("SET"), error("42601"))
    session.send(parse("select 1", "t"), SYNC)
    session.answer(ready())
    assert not session.settings
    assert not session.names
    assert session.tracked.obstacle is None


def test_an_error_in_front_of_an_episode_makes_the_server_skip_it() -> None:
    session = Session()
    session.send(parse("select 1/0"), bind(), execute(), message("H"))
    session.answer(PARSED, error("22012"))
    session.send(parse("set a = 1", "s"), bind("s"), execute(), SYNC)
    session.answer(ready())
    assert not session.settings
    assert not session.names
    session.run("set a = 2", "SET")
    assert session.settings == ["set a = 2"]


def test_a_named_statement_behind_others_in_its_unit_is_known_exactly() -> None:
    for failing, expected in ((True, []), (False, ["s"])):
        session = Session()
        session.send(parse("begin"), bind(), execute(), parse("select 1/0", "s"), bind("s"))
        session.send(execute(), SYNC)
        session.answer(EXECUTED, done("BEGIN"), b"" if failing else PARSED, error("22012"))
        session.answer(ready("E"))
        session.run("rollback", "ROLLBACK")
        assert session.names == expected
        assert session.tracked.obstacle is None


def test_a_rollback_by_a_statement_that_was_not_told_of_is_an_obstacle() -> None:
    session = Session()
    session.send(parse("rollback"), SYNC)
    session.answer(PARSED, ready())
    session.send(parse("begin", "b"), bind("b"), execute(), SYNC)
    session.answer(EXECUTED, done("BEGIN"), ready("T"))
    session.send(parse("set a = 1", "s"), bind("s"), execute(), bind(), execute(), SYNC)
    session.answer(EXECUTED, done("SET"), BOUND, done("ROLLBACK"), ready())
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_portals_are_told_apart_and_suspended_ones_change_nothing() -> None:
    session = Session()
    session.send(parse("set a = 1", "s"), parse("select 1", "t"), bind("s", "p"), bind("t", "q"))
    session.send(execute("q"), execute("q"), execute("p"), SYNC)
    session.answer(PARSED, PARSED, BOUND, BOUND, SUSPENDED, done("SELECT 1"), done("SET"), ready())
    assert session.settings == ["set a = 1"]
    assert session.tracked.obstacle is None


def test_empty_queries_and_copies_do_not_disturb_the_order() -> None:
    session = Session()
    session.send(query("set a = 1"), query(""), parse(""), bind(), execute(), SYNC)
    session.send(parse("copy t from stdin"), bind(), execute(), SYNC)
    session.answer(done("SET"), ready(), EMPTY, ready(), EXECUTED, EMPTY, ready(), EXECUTED)
    session.answer(message("G", bytes(3)))
    session.send(message("d", b"1\n"), message("c"), SYNC, query("set b = 1"))
    session.answer(done("COPY 1"), ready(), done("SET"), ready())
    assert session.settings == ["set a = 1", "set b = 1"]
    assert session.tracked.obstacle is None


def test_answers_that_do_not_fit_are_an_obstacle() -> None:
    for answer in (done("LISTEN"), PARSED, CLOSED):
        session = Session()
        session.send(query("set a = 1"))
        session.answer(answer, ready())
        assert session.tracked.obstacle is Tie.UNCLEAR
        session.clear()


# -- settings -------------------------------------------------------------------------------------


def test_settings_are_kept_in_the_order_in_which_they_were_set_last() -> None:
    session = Session()
    for sql in ("set a = 1", "set b = 1", "set a = 2"):
        session.run(sql, "SET")
    assert session.settings == ["set b = 1", "set a = 2"]


def test_parts_of_a_date_style_are_all_kept() -> None:
    session = Session()
    for sql in ("set datestyle = sql", "set datestyle = dmy", "set datestyle = sql"):
        session.run(sql, "SET")
    assert session.settings == ["set datestyle = dmy", "set datestyle = sql"]


def test_a_new_user_has_no_role() -> None:
    session = Session()
    session.run("set role x", "SET")
    session.run("set session authorization y", "SET")
    assert session.settings == ["set session authorization y"]
    session.run("reset all", "RESET")
    assert session.settings == ["set session authorization y"]


def test_a_role_is_unclear_after_a_rolled_back_change_of_the_user() -> None:
    session = Session()
    session.run("set role x", "SET")
    session.run("begin; set session authorization y", "BEGIN", "SET", status="T")
    session.run("rollback", "ROLLBACK")
    assert session.tracked.obstacle is Tie.UNCLEAR


# -- limits ---------------------------------------------------------------------------------------


def test_settings_without_end_are_an_obstacle() -> None:
    session = Session()
    for number in range(SETTINGS_MAX + 1):
        assert session.tracked.obstacle is None
        session.run(f"set a{number} = 1", "SET")
    assert session.tracked.obstacle is Tie.SETTINGS
    assert len(session.settings) == SETTINGS_MAX


def test_statements_without_end_are_an_obstacle_until_they_are_deallocated() -> None:
    for text, count in (
        ("select 1", STATEMENTS_MAX),
        ("x" * 50_000, STATEMENTS_BYTES_MAX // 50_000),
    ):
        session = Session()
        for number in range(count + 1):
            assert session.tracked.obstacle is None
            session.send(parse(text, f"s{number}"), SYNC)
            session.answer(PARSED, ready())
        assert session.tracked.obstacle is Tie.STATEMENTS
        assert len(session.names) == count
        session.run("deallocate all", "DEALLOCATE ALL")
        assert session.tracked.obstacle is None


def test_savepoints_without_end_are_an_obstacle() -> None:
    session = Session()
    session.run("begin; set a = 1", "BEGIN", "SET", status="T")
    for _ in range(SAVEPOINTS_MAX + 1):
        session.run("savepoint a", "SAVEPOINT", status="T")
    session.run("commit", "COMMIT")
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_requests_without_an_answer_are_an_obstacle() -> None:
    session = Session()
    session.send(query("set a = 1"))
    session.send(query("select 1") * (STEPS_MAX // 2))
    assert session.tracked.obstacle is Tie.UNCLEAR
    assert not session.tracked._steps


def test_texts_that_wait_for_an_answer_are_bounded() -> None:
    session = Session()
    for number in range(HEAVY_STEPS_MAX):
        session.send(parse("select 1", f"s{number}"))
    assert session.tracked.obstacle is None
    session.send(parse("select 1", "one more"))
    assert session.tracked.obstacle is Tie.UNCLEAR


def test_statements_that_mean_something_are_bounded() -> None:
    session = Session()
    for number in range(MEANINGS_MAX + 1):
        session.send(parse("begin", f"s{number}"), close(f"s{number}"), SYNC)
        session.answer(PARSED, CLOSED, ready())
    assert len(session.tracked._meanings) <= MEANINGS_MAX + 1
    assert session.tracked.obstacle is Tie.UNCLEAR
