"""The API on a real port: paths, methods, codes, headers, and that no client can hold it up."""

import contextlib
import errno
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from metako.api import server
from metako.api.client import fetch_status
from metako.api.health import LagLimit, parse_lag
from metako.api.server import serve_api, serve_streams
from metako.api.view import status_view
from metako.model.document import (
    ClusterDocument,
    DocumentRef,
    Durability,
    Phase,
    SyncMember,
    SyncSet,
)
from metako.model.errors import (
    ConfigError,
    PortInUseError,
    UnreachableError,
    UsageError,
)
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerRole, ServerState
from metako.model.postgres import DataState, PostgresObserved, ProcessState, ReceiverState
from metako.model.status import NodeStatus
from metako.model.timeline import TimelineEntry

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
NOW_LSN = 0x3000060


def member(node, role, *, replay=0, witness=False, state=MemberState.ALIVE):
    number = int(node[1:])
    server_state = {
        ServerRole.PRIMARY: ServerState.RUNNING,
        ServerRole.STANDBY: ServerState.STREAMING,
    }.get(role, ServerState.ABSENT)
    meta = MemberMeta(
        role=role,
        state=server_state,
        timeline=TimelineId(0 if witness else 2),
        lsn=Lsn(0 if witness else NOW_LSN),
        replay_lsn=Lsn(replay),
        lag_ms=12 if role is ServerRole.STANDBY else -1,
        document_ref=DocumentRef(Term(4), 2),
        postgres_address=Address(f"10.0.0.{number}", 5432),
        api_address=Address(f"10.0.0.{number}", 8008),
        witness=witness,
    )
    return Member(NodeId(node), 1, 3, state, Address(f"10.0.0.{number}", 7946), meta)


DOCUMENT = ClusterDocument(
    cluster_id="c1",
    cluster_name="main",
    system_id=7_300_000_000_000_000_001,
    term=Term(4),
    version=2,
    primary=N1,
    primary_data_id=DataId("d1"),
    phase=Phase.ACTIVE,
    voters=(N1, N2, N3),
    learners=(),
    witnesses=(N3,),
    sync=SyncSet((SyncMember(N2, DataId("d2")),), 1),
    durability=Durability.QUORUM,
    timelines=(
        TimelineEntry(
            Term(4), TimelineId(2), TimelineId(1), Lsn(0x3000000), N1, "failover", confirmed=True
        ),
    ),
    hold_ms=2000,
)

PRIMARY = NodeStatus(
    node=N1,
    cluster_name="main",
    boot_epoch=1,
    election_role="leader",
    term=Term(4),
    promised_term=Term(4),
    leader=N1,
    primary=N1,
    hold_remaining_ms=0,
    lease_remaining_ms=1500,
    blocked="",
    document=DOCUMENT,
    members=(
        member("n1", ServerRole.PRIMARY),
        member("n2", ServerRole.STANDBY, replay=NOW_LSN - 0x60),
        member("n3", ServerRole.NONE, witness=True),
    ),
    postgres=PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        in_recovery=False,
        timeline=TimelineId(2),
        lsn=Lsn(NOW_LSN),
        admitting=True,
    ),
)

STANDBY = replace(
    PRIMARY,
    node=N2,
    election_role="follower",
    lease_remaining_ms=0,
    hold_remaining_ms=1900,
    postgres=PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        in_recovery=True,
        timeline=TimelineId(2),
        lsn=Lsn(NOW_LSN),
        replay_lsn=Lsn(NOW_LSN - 0x60),
        lag_ms=12,
        receiver=ReceiverState.STREAMING,
        upstream=N1,
    ),
)

WITNESS = replace(STANDBY, node=N3, postgres=PostgresObserved(DataState.NONE, ProcessState.STOPPED))


class FakeSource:
    """A StatusSource whose picture the test sets."""

    def __init__(self, status):
        self.current = status

    def status(self):
        if isinstance(self.current, Exception):
            raise self.current
        return self.current

    def metrics(self):
        return "# TYPE metako_term gauge\nmetako_term 4\n"

    def history(self):
        return [{"at": None, "kind": "member", "text": f"change {n}", "term": n} for n in range(60)]


@asynccontextmanager
async def serving(status):
    """Serve `status` on a free port; yield the source and an HTTP client, then stop."""
    source, stop = FakeSource(status), trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(partial(serve_api, source, "127.0.0.1", 0, stop=stop))
            async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
                yield source, client
            stop.set()


async def codes(client, *paths):
    return [(await client.get(path)).status_code for path in paths]


CHECKS = ("/primary", "/replica", "/health", "/readiness", "/liveness")


async def test_primary_with_lease_answers_for_a_primary():
    async with serving(PRIMARY) as (_, client):
        assert await codes(client, *CHECKS) == [200, 503, 200, 200, 200]


async def test_streaming_standby_answers_for_a_replica():
    async with serving(STANDBY) as (_, client):
        assert await codes(client, *CHECKS) == [503, 200, 200, 200, 200]


async def test_witness_is_ready_and_has_no_healthy_server():
    async with serving(WITNESS) as (source, client):
        assert await codes(client, *CHECKS) == [503, 503, 503, 200, 200]
        source.current = replace(WITNESS, leader=None)
        assert await codes(client, "/readiness") == [503]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (replace(PRIMARY, lease_remaining_ms=0), "this node holds no valid lease"),
        (replace(PRIMARY, primary=N2), "applications are not admitted yet"),
        (
            replace(PRIMARY, document=replace(DOCUMENT, phase=Phase.PROMOTING)),
            "the promotion is not complete",
        ),
        (
            replace(PRIMARY, document=replace(DOCUMENT, primary=N2)),
            "the promotion is not complete",
        ),
        (replace(PRIMARY, document=None), "the promotion is not complete"),
        (
            replace(PRIMARY, postgres=replace(PRIMARY.postgres, admitting=False)),
            "applications are not admitted yet",
        ),
        (replace(PRIMARY, postgres=STANDBY.postgres), "the server is a streaming standby"),
        (
            replace(PRIMARY, postgres=PostgresObserved(process=ProcessState.DYING)),
            "the server is not running (dying)",
        ),
    ],
)
async def test_primary_is_refused_unless_lease_document_and_server_agree(status, reason):
    async with serving(status) as (_, client):
        response = await client.get("/primary")
        assert (response.status_code, response.json()["reason"]) == (503, reason)


async def test_standby_that_does_not_stream_is_neither_healthy_nor_a_replica():
    status = replace(STANDBY, postgres=replace(STANDBY.postgres, receiver=ReceiverState.GONE))
    async with serving(status) as (_, client):
        assert await codes(client, *CHECKS) == [503, 503, 503, 503, 200]


async def test_replica_lag_limits_are_applied_in_bytes_and_in_time():
    async with serving(STANDBY) as (_, client):
        limits = ["96", "95", "1kB", "12ms", "11ms", "1s"]
        answers = await codes(client, *(f"/replica?lag={limit}" for limit in limits))
        assert answers == [200, 503, 200, 200, 503, 200]


async def test_unknown_lag_exceeds_every_limit():
    blind = replace(STANDBY, members=(), postgres=replace(STANDBY.postgres, lag_ms=-1))
    async with serving(blind) as (_, client):
        answers = await codes(client, "/replica?lag=1GB", "/replica?lag=1min", "/replica")
        assert answers == [503, 503, 200]


async def test_malformed_lag_is_a_bad_request_and_other_queries_are_ignored():
    async with serving(STANDBY) as (_, client):
        answers = await codes(
            client, "/replica?lag=lots", "/replica?lag=-1", "/replica?tag=x", "/health?lag=lots"
        )
        assert answers == [400, 400, 200, 200]


def test_lag_units_are_powers_of_1024_and_any_case():
    assert parse_lag("16kB") == LagLimit(max_bytes=16384)
    assert parse_lag("2 mb") == LagLimit(max_bytes=2 << 20)
    assert parse_lag("3min") == LagLimit(max_ms=180_000)
    for text in ("", "1.5MB", "1 parsec", "٣", "-5", "kB"):
        with pytest.raises(ValueError, match="lag is a size"):
            parse_lag(text)


async def test_status_shows_the_view_of_the_moment():
    async with serving(PRIMARY) as (source, client):
        assert (await client.get("/status")).json() == json.loads(json.dumps(status_view(PRIMARY)))
        source.current = replace(PRIMARY, blocked="no data quorum", primary=None)
        body = (await client.get("/status?pretty=1")).json()
        assert (body["blocked"], body["primary"]) == ("no data quorum", None)


def test_status_view_says_null_for_the_unknown_and_strings_for_wide_numbers():
    view = status_view(PRIMARY)
    document, members = view["document"], view["members"]
    assert document["system_id"] == "7300000000000000001"
    assert document["sync"]["nodes"] == ["n2"]
    assert document["timelines"][0]["begin_lsn"] == "0/3000000"
    primary, standby, witness = members
    assert (primary["lsn"], primary["replay_lsn"], primary["lag_ms"]) == ("0/3000060", None, None)
    assert (standby["lag_bytes"], standby["lag_ms"], standby["sync"]) == (0x60, 12, True)
    assert (witness["role"], witness["timeline"], witness["lsn"]) == ("witness", None, None)
    assert [row["self"] for row in members] == [True, False, False]


def test_a_silent_member_has_every_key():
    silent = Member(NodeId("n9"), 0, 0, MemberState.EXPECTED, Address("10.0.0.9", 7946))
    view = status_view(replace(PRIMARY, members=(*PRIMARY.members, silent), document=None))
    rows = view["members"]
    assert set(rows[-1]) == set(rows[0])
    assert (rows[-1]["role"], rows[-1]["api_address"]) == ("unknown", None)
    assert view["document"] is None


def test_a_dead_member_is_not_shown_as_a_primary():
    dead = member("n1", ServerRole.PRIMARY, state=MemberState.DEAD)
    view = status_view(replace(STANDBY, members=(dead, *STANDBY.members[1:])))
    assert view["members"][0]["role"] == "unknown"


def test_lag_is_not_computed_across_timelines():
    other = member("n2", ServerRole.STANDBY, replay=NOW_LSN)
    other = replace(other, meta=replace(other.meta, timeline=TimelineId(1)))
    view = status_view(replace(PRIMARY, members=(PRIMARY.members[0], other)))
    assert view["members"][1]["lag_bytes"] is None


async def test_cluster_lists_members_with_roles_and_addresses():
    async with serving(PRIMARY) as (_, client):
        body = (await client.get("/cluster")).json()
    assert body["scope"] == "main"
    assert [(m["name"], m["role"], m["lag"]) for m in body["members"]] == [
        ("n1", "primary", None),
        ("n2", "standby", 0x60),
        ("n3", "witness", None),
    ]
    assert body["members"][0]["api_url"] == "http://10.0.0.1:8008"


async def test_metrics_are_prometheus_text():
    async with serving(PRIMARY) as (_, client):
        response = await client.get("/metrics")
    assert response.text.endswith("metako_term 4\n")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_root_names_the_paths():
    async with serving(PRIMARY) as (_, client):
        body = (await client.get("/")).json()
    assert body["node"] == "n1"
    assert {"/status", "/primary", "/replica", "/metrics"} <= set(body["paths"])


async def test_head_and_options_have_the_code_of_get_and_no_body():
    async with serving(STANDBY) as (_, client):
        for path in ("/primary", "/replica", "/status", "/metrics", "/"):
            expected = (await client.get(path)).status_code
            for method in ("HEAD", "OPTIONS"):
                response = await client.request(method, path)
                assert (response.status_code, response.content) == (expected, b""), (method, path)
        assert "GET" in (await client.options("/primary")).headers["allow"]


async def test_health_takes_post_and_status_does_not():
    async with serving(PRIMARY) as (_, client):
        assert (await client.post("/health", json={"node": "old"})).status_code == 200
        refused = await client.post("/status")
    assert refused.status_code == 405
    assert "GET" in refused.headers["allow"]
    assert refused.json()["status"] == 405


async def test_unknown_paths_are_404_in_json():
    async with serving(PRIMARY) as (_, client):
        for path in ("/nope", "/status/", "/..%2fetc/passwd"):
            response = await client.get(path)
            assert (response.status_code, response.json()["status"]) == (404, 404), path


async def test_every_answer_carries_the_safe_headers_and_no_server_header():
    async with serving(PRIMARY) as (source, client):
        answers = [await client.get(path) for path in ("/status", "/nope", "/metrics")]
        source.current = RuntimeError("secret detail")
        answers.append(await client.get("/status"))
    assert answers[-1].status_code == 500
    assert "secret" not in answers[-1].text
    for response in answers:
        assert "server" not in response.headers
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_an_error_in_one_request_does_not_end_the_service():
    async with serving(RuntimeError("broken")) as (source, client):
        assert await codes(client, "/status") == [500]
        source.current = PRIMARY
        assert await codes(client, "/status") == [200]


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"\x00" * 70_000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /status HTTP/1.1\r\nContent-Length: -3\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage-after-the-preface",
        b"GET /status HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: !!\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
)
async def test_noise_on_the_port_does_not_end_the_service(noise):
    async with serving(PRIMARY) as (_, client):
        stream = await trio.open_tcp_stream("127.0.0.1", client.base_url.port)
        async with stream:
            with trio.move_on_after(0.2):
                await stream.send_all(noise)
                await stream.send_eof()
                while await stream.receive_some(65536):
                    pass
        assert await codes(client, "/status") == [200]


async def test_stop_does_not_wait_for_clients_that_hold_connections_or_do_not_read():
    stop = trio.Event()
    big = replace(PRIMARY, blocked="x" * 4_000_000)  # more than the socket buffers hold
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(
                partial(serve_api, FakeSource(big), "127.0.0.1", 0, stop=stop)
            )
            deaf, idle, slow = [
                await trio.open_tcp_stream(address.host, address.port) for _ in range(3)
            ]
            await deaf.send_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            await slow.send_all(b"GET /status HTTP/1.1\r\nHo")
            assert (await deaf.receive_some(16)).startswith(b"HTTP/1.1 200")
            began = trio.current_time()
            stop.set()
        elapsed = trio.current_time() - began
        for stream in (deaf, idle, slow):
            await trio.aclose_forcefully(stream)
    assert elapsed < server.GRACEFUL_TIMEOUT_S + 0.3


async def test_stop_without_connections_returns_at_once():
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_api, FakeSource(PRIMARY), "127.0.0.1", 0, stop=stop))
            began = trio.current_time()
            stop.set()
        assert trio.current_time() - began < server.GRACEFUL_TIMEOUT_S / 2


async def test_cancellation_closes_deaf_connections_too():
    big = replace(PRIMARY, blocked="x" * 4_000_000)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(
                partial(serve_api, FakeSource(big), "127.0.0.1", 0, stop=trio.Event())
            )
            deaf = await trio.open_tcp_stream(address.host, address.port)
            await deaf.send_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await deaf.receive_some(16)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1
        await trio.aclose_forcefully(deaf)


async def test_connections_accepted_elsewhere_are_served_and_closed_at_the_end():
    stop = trio.Event()
    sender, receiver = trio.open_memory_channel(4)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_streams, FakeSource(PRIMARY), receiver, stop=stop))
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            clients = []
            for _ in range(3):
                client = await trio.testing.open_stream_to_socket_listener(listener)
                accepted = await listener.accept()
                await client.send_all(b"GET /primary HTTP/1.1\r\nHost: x\r\n\r\n")
                # What the owner of a shared port does: look, and take nothing.
                assert await accepted.socket.recv(4, socket.MSG_PEEK) == b"GET "
                await sender.send(accepted)
                clients.append(client)
                if len(clients) < 3:
                    assert (await client.receive_some(16)).startswith(b"HTTP/1.1 200")
                else:
                    stop.set()  # the last one is still queued, or has just been taken
        for client in clients:
            with contextlib.suppress(trio.BrokenResourceError):
                while await client.receive_some(65536):
                    pass
            await client.aclose()
        await listener.aclose()
    assert len(clients) == 3


async def test_connections_beyond_the_limit_are_closed_and_the_others_served(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(PRIMARY) as (_, client):
        assert await codes(client, "/status") == [200]  # keeps one connection open
        port = client.base_url.port
        async with await trio.open_tcp_stream("127.0.0.1", port) as second:
            await second.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await second.receive_some(16)
            async with await trio.open_tcp_stream("127.0.0.1", port) as third:
                assert await third.receive_some(16) == b""
        assert await codes(client, "/status") == [200]


async def test_a_taken_port_is_named_in_the_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{port}"):
            await serve_api(FakeSource(PRIMARY), "127.0.0.1", port, stop=trio.Event())


async def test_a_foreign_address_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"api\.host"):
        await serve_api(FakeSource(PRIMARY), "192.0.2.1", 0, stop=trio.Event())


async def test_the_client_reads_what_the_server_shows():
    async with serving(STANDBY) as (_, client):
        url = f"127.0.0.1:{client.base_url.port}"
        data = await trio.to_thread.run_sync(fetch_status, url, 2.0)
    assert data == json.loads(json.dumps(status_view(STANDBY)))


async def test_the_client_names_the_url_when_nobody_answers():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: refuses every connection
        port = unused.getsockname()[1]
        with pytest.raises(UnreachableError, match=rf"127\.0\.0\.1:{port}.*systemctl status"):
            fetch_status(f"http://127.0.0.1:{port}/", 1.0)


async def test_the_client_gives_up_on_a_listener_that_never_answers():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="timed out"):
            await trio.to_thread.run_sync(fetch_status, url, 0.1)


async def test_the_client_tells_a_stranger_from_an_agent():
    async def stranger(stream):
        with trio.move_on_after(2):
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, stranger, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="not as a metako agent"):
            await trio.to_thread.run_sync(fetch_status, url, 2.0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["https://x", "ftp://x", "http://", "http://x:99999", "a b"])
def test_the_client_refuses_what_is_not_an_http_address(url):
    with pytest.raises(UsageError, match="expected http://HOST:PORT"):
        fetch_status(url, 1.0)


def test_errno_of_a_reserved_port_is_a_privilege_error():
    # Root may bind every port, so the kernel's refusal is constructed here.
    error = server._bind_error(OSError(errno.EACCES, "Permission denied"), "127.0.0.1", 80)
    assert error.exit_code == 12


async def test_history_is_shown_newest_last_and_limited():
    async with serving(PRIMARY) as (_source, client):
        whole = (await client.get("/history")).json()
        assert (whole["node"], len(whole["history"])) == (PRIMARY.node, 50)
        assert whole["history"][-1]["text"] == "change 59"
        two = (await client.get("/history?limit=2")).json()["history"]
        assert [entry["term"] for entry in two] == [58, 59]
        for wrong in ("0", "-1", "ten", "10001", "1.5"):
            answer = await client.get("/history", params={"limit": wrong})
            assert answer.status_code == 400, wrong
            assert "limit must be a whole number" in answer.json()["error"]
