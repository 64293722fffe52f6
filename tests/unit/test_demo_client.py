"""The small PostgreSQL client and the writer, against a scripted server on loopback.

The scripted server is a fake: it knows just enough of the protocol to answer as it is told. The
integration tests run the same client against real servers.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from metako.demo.client import ClientError, PgClient, Scram, ServerError
from metako.demo.layout import HOST, plan_layout
from metako.demo.writer import Writer


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


AUTH_OK = message(b"R", struct.pack("!I", 0))
READY = message(b"Z", b"I")
INSERTED = message(b"C", b"INSERT 0 1\0")
CANCELLED_WAIT = message(
    b"N", b"SWARNING\0VWARNING\0C01000\0Mcanceling wait for synchronous replication\0\0"
)


def error(severity: str, sqlstate: str) -> bytes:
    return message(b"E", f"S{severity}\0V{severity}\0C{sqlstate}\0Mno\0\0".encode())


class FakeServer:
    """Logs everyone in; answers each query with what `answer` returns; None closes."""

    def __init__(self, answer: Callable[[str], bytes | None]) -> None:
        self.answer = answer
        self.queries: list[str] = []
        self.sessions = 0

    async def serve(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self.session, listeners)

    async def session(self, stream: trio.SocketStream) -> None:
        self.sessions += 1
        try:
            buffer = bytearray(await stream.receive_some(10_000))
            buffer.clear()
            await stream.send_all(AUTH_OK + READY)
            while data := await stream.receive_some(10_000):
                buffer += data
                sql = bytes(buffer[5:]).rstrip(b"\0").decode()
                buffer.clear()
                self.queries.append(sql)
                answer = self.answer(sql)
                if answer is None:
                    return
                await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass  # the client went away, as some tests want it to


async def connect(port: int) -> PgClient:
    return await PgClient.connect(HOST, port, user="app", password="x", database="app", timeout_s=5)


def test_scram_proof_is_that_of_rfc_7677():
    scram = Scram("pencil", nonce="rOprNGfwEbeRWgbNEkqO", user="user")
    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = scram.final(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize(
    "challenge", [b"", b"r=other,s=QUFB,i=4096", b"r=n1,s=QUFB,i=0", b"r=n1", b"\xff"]
)
def test_scram_challenge_that_is_no_answer_to_ours_is_refused(challenge):
    with pytest.raises(ClientError):
        Scram("x", nonce="n").final(challenge)


def test_scram_server_that_does_not_know_the_password_is_refused():
    scram = Scram("x", nonce="n")
    scram.final(b"r=n1,s=QUFB,i=1")
    with pytest.raises(ClientError, match="does not know"):
        scram.verify(b"v=AAAA")


async def test_rows_nulls_and_warnings_are_returned(nursery):
    row = message(b"D", struct.pack("!H", 2) + struct.pack("!i", 1) + b"7" + struct.pack("!i", -1))
    server = FakeServer(lambda _: row + row + CANCELLED_WAIT + message(b"C", b"SELECT 2\0") + READY)
    port = await nursery.start(server.serve)
    with await connect(port) as client:
        result = await client.query("select", timeout_s=5)
    assert result.rows == [("7", None), ("7", None)]
    assert result.tag == "SELECT 2"
    assert result.warnings == ["01000 canceling wait for synchronous replication"]
    nursery.cancel_scope.cancel()


async def test_plain_error_leaves_the_connection_usable(nursery):
    answers = iter([error("ERROR", "25006") + READY, INSERTED + READY])
    server = FakeServer(lambda _: next(answers))
    port = await nursery.start(server.serve)
    with await connect(port) as client:
        with pytest.raises(ServerError) as caught:
            await client.query("insert", timeout_s=5)
        assert caught.value.sqlstate == "25006"
        assert (await client.query("insert", timeout_s=5)).tag == "INSERT 0 1"
    nursery.cancel_scope.cancel()


async def test_end_of_the_stream_closes_the_connection(nursery):
    port = await nursery.start(FakeServer(lambda _: None).serve)
    client = await connect(port)
    with pytest.raises(ClientError):
        await client.query("insert", timeout_s=5)
    assert client.closed
    nursery.cancel_scope.cancel()


async def test_silence_ends_at_the_deadline(nursery):
    port = await nursery.start(FakeServer(lambda _: b"").serve)
    client = await connect(port)
    with pytest.raises(ClientError, match="no answer within"):
        await client.query("insert", timeout_s=0.02)
    assert client.closed
    nursery.cancel_scope.cancel()


async def test_refused_connection_is_a_client_error():
    with socket.socket() as bound:
        bound.bind((HOST, 0))  # and nobody listens
        with pytest.raises(ClientError):
            await connect(bound.getsockname()[1])


async def write_through(
    nursery: trio.Nursery, server: FakeServer, until: Callable[[Writer], bool], **options
) -> Writer:
    port = await nursery.start(server.serve)
    layout = plan_layout(Path("/tmp/x"), nodes=1)
    layout = replace(layout, nodes=(replace(layout.nodes[0], proxy_port=port),))
    writer = Writer(layout, rows_per_second=1000, **options)
    nursery.start_soon(writer.run)
    with trio.fail_after(5):
        while not until(writer):  # noqa: ASYNC110 - the writer has no event for each row
            await trio.sleep(0.001)
    writer.stop()
    with trio.fail_after(5):
        await writer.finished.wait()
    nursery.cancel_scope.cancel()
    return writer


def rows(server: FakeServer) -> list[int]:
    return [int(sql.split("values (")[1].split(",")[0]) for sql in server.queries]


async def test_acknowledged_rows_are_numbered_without_a_hole(nursery):
    server = FakeServer(lambda _: INSERTED + READY)
    writer = await write_through(nursery, server, lambda w: len(w.record.acknowledged) >= 5)
    assert sorted(writer.record.acknowledged) == list(range(1, len(writer.record.acknowledged) + 1))
    assert rows(server) == sorted(set(rows(server)))


@pytest.mark.parametrize("keep", [True, False])
async def test_writer_uses_one_connection_for_all_rows_or_one_for_each(nursery, keep):
    server = FakeServer(lambda _: INSERTED + READY)
    writer = await write_through(
        nursery, server, lambda w: len(w.record.acknowledged) >= 5, keep_connections=keep
    )
    assert sorted(writer.record.acknowledged) == rows(server)
    assert not writer.record.errors
    assert server.sessions == (1 if keep else len(server.queries))


async def test_row_is_recorded_as_begun_before_it_is_acknowledged(nursery):
    server = FakeServer(lambda _: INSERTED + READY)
    writer = await write_through(nursery, server, lambda w: len(w.record.acknowledged) >= 3)
    record = writer.record
    assert all(record.begun[row] <= time_s for row, time_s in record.acknowledged.items())
    times = list(record.acknowledged.values())
    assert record.times_after(times[0]) == times[:0:-1]


async def test_failed_row_is_sent_again_under_its_number(nursery):
    answers = iter([error("ERROR", "25006") + READY])
    server = FakeServer(lambda _: next(answers, INSERTED + READY))
    writer = await write_through(nursery, server, lambda w: 1 in w.record.acknowledged)
    assert rows(server)[:2] == [1, 1]
    assert writer.record.errors == 1
    assert not writer.record.unknown


@pytest.mark.parametrize(
    "answer",
    [
        None,  # the connection ends
        error("FATAL", "57P01"),  # the proxy cuts the session
        error("ERROR", "08007") + READY,
        CANCELLED_WAIT + INSERTED + READY,  # committed, perhaps only on the primary
    ],
)
async def test_row_in_doubt_is_never_sent_again(nursery, answer):
    answers = iter([answer])
    server = FakeServer(lambda _: next(answers, INSERTED + READY))
    writer = await write_through(nursery, server, lambda w: 2 in w.record.acknowledged)
    assert rows(server).count(1) == 1
    assert list(writer.record.unknown) == [1]
    assert 1 not in writer.record.acknowledged


async def test_cancelled_writer_remembers_the_row_in_flight_as_unknown(nursery):
    server = FakeServer(lambda _: b"")
    port = await nursery.start(server.serve)
    layout = plan_layout(Path("/tmp/x"), nodes=1)
    layout = replace(layout, nodes=(replace(layout.nodes[0], proxy_port=port),))
    writer = Writer(layout, rows_per_second=1000)
    with trio.move_on_after(0.2):
        await writer.run()
    assert list(writer.record.unknown) == [1]
    nursery.cancel_scope.cancel()
