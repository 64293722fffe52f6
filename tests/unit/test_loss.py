"""What a client is told is true, whenever its server is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from follow_kit import SYNC, bind, execute, parse, query
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_kit import message

from metako.pgwire.messages import Parse, TransactionStatus, notice_response
from metako.pgwire.startup import parse_error_untrusted
from metako.pgwire.stream import Note
from metako.proxy.changes import Tie
from metako.proxy.inflight import Kind, kinds_of, read_requests
from metako.proxy.loss import (
    NOT_DONE,
    ROLLED_BACK,
    UNKNOWN,
    Keep,
    Moment,
    Retry,
    Tell,
    outcome_of_loss,
    unreplicated_error,
    wait_was_cancelled,
)
from metako.proxy.prepared import Prepared

IDLE, OPEN, FAILED = (
    TransactionStatus.IDLE,
    TransactionStatus.IN_TRANSACTION,
    TransactionStatus.FAILED,
)
RESTING = Moment(IDLE, 0, False, b"", True, False, False, None, {})
DATA = message("d", b"1\n")


def moment(*requests: bytes, owed: int | None = None, **changed) -> Moment:
    """Return the moment at which these were sent and, unless `owed` says so, not answered."""
    data = b"".join(requests)
    complete = sum(one.complete for one in read_requests(data, {}).found)
    owed = complete if owed is None else owed
    unfinished = changed.pop("unfinished", False)
    return replace(RESTING, requests=data, owed=owed, unfinished=unfinished, **changed)


def extended(*statements: str) -> bytes:
    return b"".join(parse(sql) + bind() + execute() for sql in statements)


# -- at rest ----------------------------------------------------------------------------------


def test_an_idle_client_need_not_notice() -> None:
    assert outcome_of_loss(RESTING) == Keep()


def test_an_idle_client_that_cannot_be_moved_is_told_why() -> None:
    found = outcome_of_loss(replace(RESTING, obstacle=Tie.LISTENS))
    assert isinstance(found, Tell)
    fields = parse_error_untrusted(found.message("the primary was lost")[5:])
    assert fields["C"] == "57P01"
    assert fields["V"] == "FATAL"
    assert fields["M"] == "terminating connection: the primary was lost"
    assert "listens for notifications" in fields["D"]
    assert fields["H"]


@pytest.mark.parametrize("status", [OPEN, FAILED])
def test_an_open_transaction_was_rolled_back(status) -> None:
    assert outcome_of_loss(replace(RESTING, status=status)) is ROLLED_BACK


# -- requests that were not answered ------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "request_", "expected"),
    [
        (IDLE, query("select 1"), Retry),
        (IDLE, query("select 1; show x"), Retry),
        (IDLE, query("begin"), Retry),
        (IDLE, query("begin; select 1"), Retry),
        (IDLE, query(""), Retry),
        (IDLE, extended("begin", "select 1") + SYNC, Retry),
        (IDLE, query("copy t to stdout"), Retry),
        (IDLE, query("explain insert into t values (1)"), Retry),
        (IDLE, query("insert into t values (1)"), UNKNOWN),
        (IDLE, query("select f()"), UNKNOWN),
        (IDLE, query("select * from t for update"), UNKNOWN),
        (IDLE, query("with a as (delete from t returning n) select * from a"), UNKNOWN),
        (IDLE, query("select 1 into t"), UNKNOWN),
        (IDLE, query("copy t from stdin"), UNKNOWN),
        (IDLE, query("vacuum"), UNKNOWN),
        (IDLE, query("do $$ $$"), UNKNOWN),
        (IDLE, query("commit prepared 'x'"), UNKNOWN),
        (IDLE, query("execute p"), UNKNOWN),
        (IDLE, query("select '\\'"), UNKNOWN),
        (IDLE, extended("insert into t values (1)") + SYNC, UNKNOWN),
        (IDLE, bind("unknown") + execute() + SYNC, UNKNOWN),
        (IDLE, message("F", bytes(20)), UNKNOWN),
        (IDLE, query("begin; insert into t values (1)"), NOT_DONE),
        (IDLE, query("insert into t values (1); begin"), NOT_DONE),
        (IDLE, query("insert into t values (1); rollback"), NOT_DONE),
        (IDLE, query("begin; insert into t values (1); commit"), UNKNOWN),
        (IDLE, query("set a = 1"), NOT_DONE),
        (IDLE, query("listen a"), NOT_DONE),
        (IDLE, parse("select 1", "s") + SYNC, NOT_DONE),
        (OPEN, query("select 1"), ROLLED_BACK),
        (OPEN, query("insert into t values (1)"), ROLLED_BACK),
        (OPEN, query("call p()"), ROLLED_BACK),
        (OPEN, query("rollback"), ROLLED_BACK),
        (OPEN, query("commit"), UNKNOWN),
        (OPEN, query("END"), UNKNOWN),
        (OPEN, query("prepare transaction 'x'"), UNKNOWN),
        (OPEN, query("rollback; insert into t values (1)"), UNKNOWN),
        (OPEN, extended("commit") + SYNC, UNKNOWN),
        (FAILED, query("commit"), ROLLED_BACK),
        (FAILED, query("rollback to a; commit"), UNKNOWN),
        (FAILED, query("insert into t values (1)"), ROLLED_BACK),
        (FAILED, query("commit; insert into t values (1)"), UNKNOWN),
    ],
)
def test_a_request_that_was_not_answered(status, request_, expected) -> None:
    found = outcome_of_loss(moment(request_, status=status))
    if expected is Retry:
        assert found == Retry(request_)
    else:
        assert found is expected


def test_a_read_of_which_the_client_saw_something_is_not_repeated() -> None:
    assert outcome_of_loss(moment(query("select 1"), delivered=True)) is NOT_DONE


def test_a_read_in_a_session_that_cannot_be_moved_is_not_repeated() -> None:
    found = outcome_of_loss(moment(query("select 1"), obstacle=Tie.TEMPORARY))
    assert isinstance(found, Tell)
    assert "temporary" in found.detail


def test_what_was_answered_is_not_repeated() -> None:
    sent = [query("insert into t values (1)"), extended("select 1") + SYNC, query("select 2")]
    assert outcome_of_loss(moment(*sent, owed=2)) == Retry(sent[1] + sent[2])
    assert outcome_of_loss(moment(*sent)) is UNKNOWN


def test_of_what_has_no_sync_only_a_commit_may_be_done() -> None:
    insert = extended("insert into t values (1)")
    assert outcome_of_loss(moment(insert, unfinished=True)) is NOT_DONE
    assert outcome_of_loss(moment(insert, extended("commit"), unfinished=True)) is UNKNOWN
    committing = moment(extended("commit"), unfinished=True, status=OPEN)
    assert outcome_of_loss(committing) is UNKNOWN


def test_a_message_that_was_not_sent_in_full_was_not_executed() -> None:
    data = query("insert into t values (1)")
    assert outcome_of_loss(moment(data[:-1], unfinished=True)) is NOT_DONE


def test_prepared_statements_are_known_by_their_names() -> None:
    request_ = bind("s") + execute() + SYNC
    for sql, expected in (("select 1", Retry(request_)), ("delete from t", UNKNOWN)):
        statements = {b"s": Prepared(Parse(b"s", sql.encode(), ()))}
        assert outcome_of_loss(moment(request_, statements=statements)) == expected
    assert outcome_of_loss(moment(request_, statements={b"s": Prepared(None)})) is UNKNOWN


def test_requests_that_were_not_kept_may_have_been_anything() -> None:
    for status in (IDLE, OPEN, FAILED):
        cut = replace(moment(query("select 1"), status=status), whole=False)
        assert outcome_of_loss(cut) is UNKNOWN
        assert outcome_of_loss(moment(query("select 1"), owed=2, status=status)) is UNKNOWN


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("status", "sql", "expected"),
    [
        (IDLE, "copy t from stdin", NOT_DONE),
        (OPEN, "copy t from stdin", ROLLED_BACK),
        (IDLE, "insert into t values (1); copy t from stdin", NOT_DONE),
        (OPEN, "commit; copy t from stdin", UNKNOWN),
        (IDLE, "call p(); copy t from stdin", UNKNOWN),
    ],
)
def test_a_copy_whose_end_was_not_sent_did_nothing(whole, status, sql, expected) -> None:
    for data in (query(sql), extended(*sql.split("; ")) + SYNC):
        for owed in (0, 1):
            found = moment(data, DATA, DATA[:-1], owed=owed, status=status, unfinished=True)
            found = replace(found, copying_in=True, whole=whole)
            assert outcome_of_loss(found) is expected


def test_a_copy_whose_end_was_sent_is_in_doubt_wherever_its_sync_stands() -> None:
    for sync in (b"", SYNC):
        data = extended("copy t from stdin") + sync + DATA + message("c") + SYNC
        assert outcome_of_loss(moment(data, owed=1)) is UNKNOWN


def test_a_begin_that_an_error_may_have_kept_from_its_server_protects_nothing_behind_it() -> None:
    begin = extended("select broken()", "begin") + SYNC
    for sql in ("vacuum", "insert into t values (1)"):
        assert outcome_of_loss(moment(begin, query(sql), owed=2)) is UNKNOWN
        assert outcome_of_loss(moment(query("begin"), query(sql), owed=2)) is UNKNOWN
        assert outcome_of_loss(moment(query(f"begin; {sql}"), owed=1)) is not UNKNOWN


# -- against a server that stops anywhere -------------------------------------------------------

STATEMENTS = st.sampled_from(
    [
        *("select 1", "insert into t values (1)", "set a = 1", "vacuum", "begin", "commit"),
        *("rollback", "savepoint a", "rollback to a", "select broken()", "commit prepared 'x'"),
    ]
)
REQUESTS = st.tuples(st.booleans(), st.lists(STATEMENTS, max_size=4))


class Stopping:
    """A server that does what it is told until it stops, and says what has become durable."""

    def __init__(self, status: TransactionStatus, steps: int, *, wounded: bool) -> None:
        self.status = status
        self.steps = steps  # until it stops
        self.durable = False
        self._written = status is not IDLE  # by the open transaction
        self._wounded = wounded  # whether select broken() fails

    def request(self, statements: list[str], *, ends: bool) -> None:
        for sql in statements:
            if not self.steps:
                return
            self.steps -= 1
            if not self._statement(sql):
                break
        if ends and self.steps and self.status is IDLE:
            self.steps -= 1
            self.durable = self.durable or self._written
            self._written = False

    def _statement(self, sql: str) -> bool:
        word = sql.split()[0]
        if self.status is FAILED and word not in ("rollback", "commit"):
            return False
        if sql == "select broken()" and self._wounded:
            if self.status is OPEN:
                self.status = FAILED
            else:
                self._written = False
            return False
        if sql == "rollback to a":
            self.status = OPEN if self.status is FAILED else self.status
        elif sql in ("commit prepared 'x'", "vacuum"):
            self.durable = self.durable or self.status is IDLE
        elif word == "commit":
            self.durable = self.durable or (self._written and self.status is not FAILED)
            self.status, self._written = IDLE, False
        elif word == "rollback":
            self.status, self._written = IDLE, False
        elif word == "begin":
            self.status = OPEN
        elif word in ("insert", "select"):
            self._written = self._written or word == "insert" or "broken" in sql
        return True


@settings(max_examples=1000)
@given(
    st.sampled_from([IDLE, OPEN, FAILED]),
    st.lists(REQUESTS, min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 20),
    st.booleans(),
)
def test_nothing_became_durable_unless_it_is_said_to_be_unknown(
    status, requests, ended, steps, wounded
) -> None:
    server = Stopping(status, steps, wounded=wounded)
    data = []
    for number, (simple, statements) in enumerate(requests):
        last = number == len(requests) - 1
        ends = simple or ended or not last
        data.append(query("; ".join(statements)) if simple else extended(*statements))
        if not simple and ends:
            data.append(SYNC)
        server.request(statements, ends=ends)
    found = outcome_of_loss(moment(*data, status=status, unfinished=not ended))
    if found is not UNKNOWN:
        assert not server.durable
    if isinstance(found, Retry):
        assert found.requests == b"".join(data)
        assert not any("insert" in sql for _, statements in requests for sql in statements)


# -- what is a read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*), max(a) from t where b in (1, 2) and exists (select 1)",
        "(select 1) union all (select 2)",
        "with a as materialized (select 1) select sum(n) over (order by n) from a",
        "select pg_catalog.now(), cast(a as numeric(10, 2))",
        "select 'delete', \"update\" from t",
        "table t",
        "select a from t where b = any(array(select 1)) group by rollup (a)",
    ],
)
def test_these_certainly_only_read(sql) -> None:
    assert kinds_of(sql.encode()) == [Kind.READ]


@pytest.mark.parametrize(
    "sql",
    [
        "select nextval('s')",
        "select * from (values (1)) looks_like_a_function (n)",
        "select myschema.count(1)",
        'select "F"(1)',
        "select pg_advisory_lock(1)",
        "select * from t for no key update",
        "select * from t for share",
        "select * into a from t",
        "select lo_create(1)",
        "copy (select f()) to stdout",
        "copy t to program 'x'",
    ],
)
def test_these_may_write(sql) -> None:
    assert kinds_of(sql.encode()) == [Kind.WRITE]


# -- a wait that was cancelled ------------------------------------------------------------------


def warning(sqlstate: str, routine: str, kind: bytes = b"N") -> Note:
    body = notice_response(sqlstate, "anything", severity="WARNING")[5:-1]
    return Note(kind, body + b"Fsyncrep.c\0L300\0R" + routine.encode() + b"\0\0", True)


def test_a_cancelled_wait_is_recognised_by_its_place_not_by_its_words() -> None:
    assert wait_was_cancelled(warning("01000", "SyncRepWaitForLSN"))
    assert wait_was_cancelled(warning("57P01", "SyncRepWaitForLSN"))
    assert not wait_was_cancelled(warning("01000", "exec_stmt_raise"))
    assert not wait_was_cancelled(warning("01000", "SyncRepWaitForLSNX"))
    assert not wait_was_cancelled(warning("25P01", "SyncRepWaitForLSN"))
    assert not wait_was_cancelled(warning("01000", "SyncRepWaitForLSN", b"E"))


def test_what_replaces_the_success_ends_no_connection() -> None:
    fields = parse_error_untrusted(unreplicated_error()[5:])
    assert (fields["C"], fields["V"]) == ("08007", "ERROR")
