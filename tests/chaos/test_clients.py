"""Both clients against a real server: what they write down is what happened."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.checker import check
from chaos.client_plan import Attempt, Pace, Planned, outcome_of_error
from chaos.history import Final, History, Kind, Left, Operation, Outcome, Phase, Record, Run
from chaos.pg_kit import (
    WAIT_S,
    ClientProcess,
    CutBeforeReady,
    Server,
    find_bindir,
    free_port,
    wait_until,
)

BINDIR = find_bindir()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(BINDIR is None, reason="no PostgreSQL is installed"),
]
APPEND = ("--mix", "append=1")
TXN = ("--mix", "txn=1")
NO_PSYCOPG = importlib.util.find_spec("psycopg") is None
Start = Callable[..., ClientProcess]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    assert BINDIR is not None
    server = Server(BINDIR)
    try:
        server.start()
        server.create()
        yield server
    finally:
        server.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.reset()
    return running


@pytest.fixture(
    params=[
        "chaos.client_asyncpg",
        pytest.param(
            "chaos.client_psycopg",
            marks=pytest.mark.skipif(NO_PSYCOPG, reason="psycopg is not installed"),
        ),
    ]
)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    started: list[ClientProcess] = []

    def begin(port: int, *options: str) -> ClientProcess:
        started.append(ClientProcess(request.param, tmp_path, port, *options))
        return started[-1].start()

    yield begin
    for client in started:
        client.kill()


def outcomes(operations: list[Operation]) -> set[Outcome]:
    return {operation.outcome for operation in operations}


def test_acknowledged_writes_are_there_and_reads_show_them(server: Server, start: Start) -> None:
    found = start(server.port, "--count", "60", "--rate", "200", "--keys", "3").finish()
    assert outcomes(found) == {Outcome.OK}, found
    assert sorted(value for op in found for value in op.values) == sorted(server.values())
    assert {(op.server, op.timeline) for op in found} == {("127.0.0.1", 1)}
    assert {op.kind for op in found} == set(Kind)
    assert all(len(op.at_us) == len(op.values) == len(op.keys) for op in found if op.writes)
    known: dict[int, list[str]] = {}
    for op in found:
        if op.writes:
            for key, value in zip(op.keys, op.values, strict=True):
                known.setdefault(key, []).append(value)
        else:
            assert op.seen == tuple(known.get(op.keys[0], ())), op
            assert (op.role, op.since_us) == ("primary", 0)
    assert all(0 <= op.begin <= op.end for op in found)


def test_a_long_key_is_read_from_its_newest_end(server: Server, start: Start) -> None:
    server.sql(
        "insert into chaos select 0, 'x-' || n, now() + n * interval '1 ms'"
        " from generate_series(1, 80) n"
    )
    op = start(server.port, "--count", "1", "--read-only", "--keys", "1").finish()[0]
    assert op.seen == tuple(f"x-{n}" for n in range(31, 81))
    oldest = server.sql(
        "select (extract(epoch from at) * 1000000)::bigint from chaos where value = 'x-31'"
    )
    assert op.since_us == int(oldest)


def test_unique_error_is_failed(server: Server, start: Start) -> None:
    server.sql("create unique index on chaos (value); insert into chaos values (0, 'c1-3')")
    found = start(server.port, *APPEND, "--count", "5", "--rate", "50").finish()
    assert [op.outcome for op in found] == [
        Outcome.OK, Outcome.OK, Outcome.FAILED, Outcome.OK, Outcome.OK,
    ]  # fmt: skip
    assert found[2].error.startswith("23505 ")


def test_an_error_within_a_transaction_fails_all_of_it(server: Server, start: Start) -> None:
    server.sql("create unique index on chaos (value); insert into chaos values (0, 'c1-2')")
    found = start(server.port, *TXN, "--count", "2").finish()
    assert [op.outcome for op in found] == [Outcome.FAILED, Outcome.OK]
    assert sorted(server.values()) == sorted(["c1-2", *found[1].values])


def test_read_only_server_is_failed(server: Server, start: Start) -> None:
    server.sql("alter role app set default_transaction_read_only = on")
    found = start(server.port, "--mix", "append=1,txn=1", "--count", "4").finish()
    assert outcomes(found) == {Outcome.FAILED}
    assert all(op.error.startswith("25006 ") for op in found)


def test_no_server_is_failed(start: Start) -> None:
    found = start(free_port(), "--count", "5", "--rate", "50").finish()
    assert outcomes(found) == {Outcome.FAILED}
    assert len(found) == 5


def test_a_server_that_says_nothing_is_failed(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = start(silent.getsockname()[1], "--count", "1", "--connect-timeout", "1").finish()
    assert outcomes(found) == {Outcome.FAILED}
    assert 0.9 < found[0].end - found[0].begin < 3


@pytest.mark.parametrize("mix", [APPEND, TXN])
def test_cancelled_wait_for_standbys_is_unknown(
    server: Server, start: Start, mix: tuple[str, ...]
) -> None:
    server.demand_a_standby()
    client = start(server.port, *mix, "--count", "1")
    server.wait_commit_waits()
    server.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
    (op,) = client.finish()
    assert op.outcome is Outcome.UNKNOWN
    assert "canceling wait for synchronous replication" in op.warning
    assert sorted(server.values()) == sorted(op.values)


def test_killed_server_leaves_the_commit_unknown_and_then_refuses(
    server: Server, start: Start
) -> None:
    server.demand_a_standby()
    client = start(server.port, *APPEND, "--rate", "50")
    server.wait_commit_waits()
    server.stop(signal.SIGKILL)
    client.wait_operations(4)
    found = client.terminate()
    assert found[0].outcome is Outcome.UNKNOWN
    # Only the postmaster was killed: its listening socket is gone, and the session's process
    # ends by itself when it notices.
    assert outcomes(found[1:]) == {Outcome.FAILED}


def test_row_and_tag_before_the_end_of_the_commit_prove_nothing(
    server: Server, start: Start
) -> None:
    relay = CutBeforeReady(server.port)
    thread = threading.Thread(target=relay.serve_one)
    thread.start()
    found = start(relay.port, *APPEND, "--count", "2").finish()
    thread.join()
    assert [op.outcome for op in found] == [Outcome.UNKNOWN, Outcome.FAILED]


@pytest.mark.parametrize("mix", [APPEND, TXN])
def test_statement_timeout_is_unknown(server: Server, start: Start, mix: tuple[str, ...]) -> None:
    server.demand_a_standby()
    found = start(server.port, *mix, "--count", "2", "--statement-timeout", "0.4").finish()
    assert outcomes(found) == {Outcome.UNKNOWN}
    assert all(0.3 < op.end - op.begin < 3 for op in found)


def test_timeout_before_commit_was_sent_is_failed(server: Server, start: Start) -> None:
    lock = "begin; lock table chaos; select pg_sleep(2)"
    thread = threading.Thread(target=server.sql, args=(lock,))
    thread.start()
    wait_until(
        lambda: (
            server.sql("select count(*) from pg_locks where mode = 'AccessExclusiveLock'") != "0"
        ),
        "the table is locked",
    )
    found = start(server.port, *TXN, "--count", "1", "--statement-timeout", "0.4").finish()
    thread.join()
    assert outcomes(found) == {Outcome.FAILED}
    assert server.values() == []


def test_sigterm_abandons_a_commit_that_waits(server: Server, start: Start) -> None:
    server.demand_a_standby()
    client = start(server.port, *APPEND)
    server.wait_commit_waits()
    (op,) = client.terminate()
    assert op.outcome is Outcome.UNKNOWN
    assert op.end - op.begin < 6  # not the timeout of the statement


def test_a_session_survives_a_change_of_settings(server: Server, start: Start) -> None:
    client = start(server.port, *APPEND, "--rate", "3")
    client.wait_operations(1)
    pids = "select array_agg(pid) from pg_stat_activity where usename = 'app'"
    before = server.sql(pids)
    server.sql("alter system set timezone = 'Etc/GMT+5'; select pg_reload_conf()")
    client.wait_operations(3)
    after = server.sql(pids)
    server.sql("alter system reset timezone")
    assert before == after != ""
    assert outcomes(client.terminate()) == {Outcome.OK}


def test_sigterm_ends_an_idle_client(server: Server, start: Start) -> None:
    client = start(server.port, "--rate", "0.5")
    client.wait_operations(1)
    assert outcomes(client.terminate()) == {Outcome.OK}


def test_session_ended_while_idle_puts_nothing_in_doubt(server: Server, start: Start) -> None:
    client = start(server.port, *APPEND, "--rate", "3")
    client.wait_operations(1)
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
    client.wait_operations(3)
    assert outcomes(client.terminate()) == {Outcome.OK}


def test_timeline_is_new_at_once_after_a_promotion(server: Server, start: Start) -> None:
    new = int(server.sql("checkpoint; select timeline_id + 1 from pg_control_checkpoint()"))
    server.stop()
    signal_file = server.data / "standby.signal"
    signal_file.touch()
    signal_file.chmod(0o666)
    server.start()
    client = start(server.port, "--mix", "append=1,read=1", "--rate", "50", "--keys", "1")
    client.wait_operations(20)
    server.sql("select pg_promote()")
    wait_until(
        lambda: [op for op in client.operations() if op.writes and op.outcome is Outcome.OK][3:],
        "writes after the promotion",
    )
    found = client.terminate()
    reads = [op for op in found if not op.writes]
    assert {(op.role, op.timeline) for op in reads} == {("standby", 0), ("primary", new)}
    writes = [op for op in found if op.writes]
    assert {(op.outcome, op.timeline) for op in writes} == {(Outcome.FAILED, 0), (Outcome.OK, new)}


def test_the_checker_judges_what_a_client_wrote(server: Server, start: Start) -> None:
    client = start(server.port, "--count", "150", "--rate", "200", "--keys", "2")
    found = client.finish()
    rows = server.sql("select key, value from chaos order by at").splitlines()
    finals = {"n1": [(int(key), value) for key, _, value in (row.partition("|") for row in rows)]}
    end = found[-1].end
    frame: list[Record] = [
        Run(0.0, "3fa1", "plain", 1, "", ("n1",), "2026-01-01T00:00:00Z", 0.0),
        Phase(end, "end"),
        Final(end, "n1", len(rows), "x", found[0].timeline, False, "ok"),
        Left(end),
    ]
    assert check(History((*frame, *found)), finals).violations == ()
    value = next(op.values[0] for op in found if op.writes)
    missing = {"n1": [row for row in finals["n1"] if row[1] != value]}
    names = {finding.check for finding in check(History((*frame, *found)), missing).violations}
    assert "lost" in names


def test_client_outlives_the_thread_that_started_it(start: Start) -> None:
    clients: list[ClientProcess] = []
    port = free_port()
    thread = threading.Thread(
        target=lambda: clients.append(start(port, "--rate", "20", "--parent", str(os.getpid())))
    )
    thread.start()
    thread.join()
    clients[0].wait_operations(3)
    assert clients[0].process is not None
    assert clients[0].process.poll() is None
    assert outcomes(clients[0].terminate()) == {Outcome.FAILED}


def test_client_of_another_parent_ends_at_once(start: Start) -> None:
    client = start(free_port(), "--parent", "1")
    assert client.process is not None
    assert client.process.wait(timeout=WAIT_S) == 1
    assert client.operations() == []


def test_client_dies_with_its_parent(start: Start) -> None:
    client = start(free_port(), "--rate", "1")
    client.kill()
    program = f"import subprocess as s\np = s.Popen({client.argv!r})\nprint(p.pid, flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", program + "p.wait()"],
        stdout=subprocess.PIPE,
        env=client.environment,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        client.out.unlink(missing_ok=True)
        client.wait_operations(1)
        parent.kill()
    wait_until(lambda: not _lives(child), "the client ends")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("severity", "sqlstate", "outcome"),
    [
        ("ERROR", "23505", Outcome.FAILED),
        ("ERROR", "25006", Outcome.FAILED),
        ("ERROR", "57014", Outcome.FAILED),
        ("ERROR", "40001", Outcome.FAILED),
        ("ERROR", "40003", Outcome.UNKNOWN),
        ("ERROR", "08006", Outcome.UNKNOWN),
        ("ERROR", "57P01", Outcome.UNKNOWN),
        ("ERROR", "57P03", Outcome.UNKNOWN),
        ("FATAL", "57P01", Outcome.UNKNOWN),
        ("FATAL", "25006", Outcome.UNKNOWN),
        ("PANIC", "XX000", Outcome.UNKNOWN),
        ("ERROR", "", Outcome.UNKNOWN),
        ("", "23505", Outcome.UNKNOWN),
    ],
)
def test_only_a_plain_error_proves_failure(severity: str, sqlstate: str, outcome: Outcome) -> None:
    assert outcome_of_error(severity, sqlstate) is outcome


def test_fatal_before_the_statement_was_sent_is_failed() -> None:
    attempt = Attempt(Planned(Kind.APPEND, (1,), ("c1-1",)), begin=0.0)
    attempt.refuse("FATAL", "57P03", "the database system is starting up")
    assert attempt.outcome is Outcome.FAILED


def test_pace_drops_what_is_too_late() -> None:
    pace = Pace(10.0, 0.0)
    assert pace.next_due(0.0) == pytest.approx(0.1)
    assert pace.next_due(100.0) == pytest.approx(99.5)
    assert pace.next_due(100.0) == pytest.approx(99.6)
