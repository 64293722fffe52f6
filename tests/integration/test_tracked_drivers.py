"""Sessions of real drivers, followed on their way to a real server."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from contextlib import closing, contextmanager

import asyncpg
import psycopg
import pytest
from tracked_kit import SYNC, TIMEOUT_S, Followed, Plain, numbers_server, parse, query, run

from metako.pgwire.follow import (
    FollowingClient,
    FollowingServer,
    following_client_layouts,
    following_server_layouts,
)
from metako.proxy.changes import Tie
from metako.proxy.concern import concerns
from metako.proxy.loss import wait_was_cancelled
from metako.proxy.rebuild import Progress
from metako.proxy.tracked import Tracked

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(test_bindir, keep_directories):
    with numbers_server(test_bindir, keep=keep_directories) as running:
        yield running


class Passage:
    """One connection of a driver, passed on to the server and followed."""

    def __init__(self, server) -> None:
        self.tracked = Tracked()
        self.up = FollowingClient(following_client_layouts(concerns))
        self.down = FollowingServer(self.up, following_server_layouts())
        self.up.owed = 1
        self.told = 0  # notes
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        backend = socket.socket(socket.AF_UNIX)
        backend.connect(str(self._server.socket_dir / f".s.PGSQL.{self._server.port}"))
        with self._listener, client, backend, selectors.DefaultSelector() as selector:
            backend.sendall(client.recv(10_000))  # the startup packet
            selector.register(client, selectors.EVENT_READ, (backend, self.up))
            selector.register(backend, selectors.EVENT_READ, (client, self.down))
            while True:
                for key, _ in selector.select(TIMEOUT_S):
                    other, scanner = key.data
                    data = key.fileobj.recv(65_536)
                    taken = scanner.scan(bytearray(data), len(data)) if data else 0
                    for note in scanner.notes:
                        self.told += 1
                        self.tracked.note(note, scanner is self.up)
                    scanner.notes.clear()
                    other.sendall(data)
                    if taken != len(data) or not data:
                        return

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)


@contextmanager
def passage(server):
    found = Passage(server)
    try:
        yield found
    finally:
        found.join()


STATE = "select name, setting from pg_settings where source = 'session' order by 1"
NAMES = "select name from pg_prepared_statements order by 1"


def rebuilt_state(server, tracked: Tracked) -> tuple[list, list]:
    assert tracked.obstacle is None
    with closing(Plain(server)) as fresh:
        building = fresh.rebuild(tracked)
        assert building.progress is Progress.DONE, building.failure
        return fresh.rows(STATE), fresh.rows(NAMES)


def test_psycopg(server) -> None:
    with passage(server) as passed:
        where = f"host=127.0.0.1 port={passed.port} user=postgres dbname=postgres sslmode=disable"
        with psycopg.connect(where, prepare_threshold=3) as connection:
            for number in range(2):
                connection.execute("insert into numbers values (%s)", (number,))
                connection.commit()
            assert not passed.tracked.dirty
            for number in range(6):
                connection.execute("set search_path to public, pg_catalog")
                connection.execute("select %s::int", (number,))
            connection.commit()
            connection.execute("set work_mem to '1MB'")
            connection.rollback()
            with connection.pipeline():
                for number in range(5):
                    connection.execute("select n from numbers where n = %s", (number,))
            connection.commit()
            connection.autocommit = True
            state = connection.execute(STATE).fetchall(), connection.execute(NAMES).fetchall()
            assert state[1]
            assert rebuilt_state(server, passed.tracked) == state
            connection.execute("listen a")
            assert passed.tracked.obstacle is Tie.LISTENS


async def _asyncpg(server, passed: Passage) -> None:
    connection = await asyncpg.connect(
        host="127.0.0.1", port=passed.port, user="postgres", database="postgres", ssl=False
    )
    try:
        for number in range(3):
            assert await connection.fetchval("select $1::int", number) == number
        await connection.execute("set work_mem to '2MB'")
        await connection.fetch("set statement_timeout to '1min'")
        async with connection.transaction():
            await connection.execute("set local work_mem to '3MB'")
            await connection.executemany(
                "insert into numbers values ($1)", [(number,) for number in range(100, 110)]
            )
        with pytest.raises(asyncpg.DivisionByZeroError):
            await _fail(connection)
        state = [tuple(row) for row in await connection.fetch(STATE)]
        names = [tuple(row) for row in await connection.fetch(NAMES)]
        # The statement that looks is prepared as well, and only it is not in its own answer.
        found, known = rebuilt_state(server, passed.tracked)
        assert found == state
        assert set(names) <= set(known)
        assert len(known) >= 3
        await connection.reset()
        assert not passed.tracked.settings
        assert passed.tracked.obstacle is None
    finally:
        await connection.close()


async def _fail(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("set search_path to nowhere")
        await connection.fetch("select 1/0")


def test_asyncpg(server) -> None:
    with passage(server) as passed:
        asyncio.run(_asyncpg(server, passed))


# -- a commit that stops waiting --------------------------------------------------------------


CANCEL = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"


def wait_until_commits_wait(server) -> None:
    """The checkpointer tells the others that commits have to wait, and may be late with that."""
    warned = []
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        connection.add_notice_handler(warned.append)
        commit = "select pg_logical_emit_message(true, 'a', 'b')"
        deadline = time.monotonic() + 20
        while not warned:
            assert time.monotonic() < deadline
            thread = threading.Thread(target=connection.execute, args=(commit,), daemon=True)
            thread.start()
            while thread.is_alive():
                assert time.monotonic() < deadline
                server.run(CANCEL)


@pytest.mark.parametrize(
    "request_",
    [
        query("insert into numbers values (500)"),
        parse("insert into numbers values (501)") + run("") + SYNC,
    ],
    ids=["simple", "extended"],
)
def test_a_cancelled_wait_for_a_standby_is_recognised(server, request_) -> None:
    server.run("alter system set synchronous_standby_names = 'nobody'")
    server.run("select pg_reload_conf()")
    notes = []
    try:
        wait_until_commits_wait(server)
        with closing(Followed(server)) as followed:
            followed.hear = notes.append
            followed.send(request_)
            deadline = time.monotonic() + 20
            while not server.run(CANCEL):
                assert time.monotonic() < deadline
            followed.until_ready()
            assert followed.errors == []
    finally:
        server.run("alter system reset synchronous_standby_names")
        server.run("select pg_reload_conf()")
    assert [note.sqlstate for note in notes if wait_was_cancelled(note)] == ["01000"]
