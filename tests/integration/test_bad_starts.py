"""Starts that cannot succeed: one line that says what to do, an exit code, and nothing touched.

Each test runs `metako run` as a person would and compares the data directory, names and times
included, before and after.
"""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from start_kit import Node, listing, one_line, peer, refused, run_metako, running, taken
from stranger_kit import interpreters, python_for

from metako.cli.app import EXIT_USAGE
from metako.config import generate_key, load
from metako.model.errors import (
    BinaryMissingError,
    ClockMismatchError,
    ClusterMismatchError,
    ConfigError,
    DataDirectoryError,
    KeyMismatchError,
    PortInUseError,
    PrivilegeError,
    StateError,
)
from metako.model.ids import Address, NodeId
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user
from metako.postgres.process import server_processes
from metako.runtime.binding import bind_gossip
from metako.runtime.transport import Transport
from metako.wire.messages import Nack, Outbound, Received
from metako.wire.seal import SALT_BYTES, Opener, Sealer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

IS_ROOT = os.geteuid() == 0
NODE_UP_S = 40.0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


@pytest.fixture
def node(short_directory, test_bindir) -> Node:
    return Node(short_directory, test_bindir)


# ------------------------------------------------------------ ports


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        ("gossip", socket.SOCK_STREAM),
        ("gossip", socket.SOCK_DGRAM),
        ("proxy", socket.SOCK_STREAM),
        ("api", socket.SOCK_STREAM),
        ("postgresql", socket.SOCK_STREAM),
    ],
)
async def test_a_port_in_use_is_named_with_its_owner(node, which, kind):
    port = node.values[which]["port"]
    with taken(port, kind):
        await refused(node, PortInUseError, port, f"{which}.port", f"pid {os.getpid()}")
    assert not node.state.exists() or which == "gossip"


async def test_an_address_of_another_machine_cannot_be_listened_on(node):
    node.values["api"]["host"] = "192.0.2.7"
    await refused(node, ConfigError, "192.0.2.7", "api.host")


async def test_a_postgresql_address_of_another_machine_is_told_before_the_start(node):
    node.values["postgresql"]["listen"] = "192.0.2.7"
    await refused(node, ConfigError, "192.0.2.7", "postgresql.listen")


def everybody_may_listen() -> bool:
    path = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return path.exists() and int(path.read_text()) <= 543


async def test_a_port_that_postgresql_may_not_have_is_told_before_the_start(node):
    if everybody_may_listen():
        pytest.skip("here every user may listen on every port")
    node.values["postgresql"]["port"] = node.values["cluster"]["members"][0]["postgres_port"] = 543
    await refused(node, PrivilegeError, "543", "postgresql.port")


async def test_a_server_that_a_pg_metako_file_means_is_not_fought_for_its_port(node):
    port = node.place.postgres_port
    own = {"gossip": node.values["gossip"], "proxy": node.values["proxy"]}
    old = {
        "identity": {"node_name": f"only-{port}", "api_host": "127.0.0.1"},
        "local_db": {"host": "localhost", "port": port, "role": "master"},
        "node": {"state_dir": str(node.state)},
        "postgresql": {"bindir": node.layout.bindir, "listen": "127.0.0.1"},
    }
    old["identity"]["api_port"] = own["gossip"].pop("port")
    node.values = {**own, **old}
    with taken(port):
        await refused(node, PortInUseError, port, "postgresql.data_dir")


# ------------------------------------------------------------ programs and files


async def test_a_wrong_bindir_is_named(node):
    node.values["postgresql"]["bindir"] = "/nowhere/bin"
    await refused(node, BinaryMissingError, "/nowhere/bin", "postgresql.bindir")


async def test_a_bindir_with_a_program_that_does_not_run_is_named(node, short_directory):
    bindir = short_directory / "bin"
    bindir.mkdir()
    (bindir / "postgres").write_text("#!/bin/sh\nexit 3\n")
    (bindir / "postgres").chmod(0o755)
    node.values["postgresql"]["bindir"] = str(bindir)
    await refused(node, BinaryMissingError, bindir / "postgres")


async def test_a_bindir_without_the_other_programs_is_told_before_the_start(
    node, short_directory, test_bindir
):
    user = resolve_os_user(node.os_user)
    real = find_installation(test_bindir, user, short_directory / "cache").bindir
    bindir = short_directory / "bin"
    bindir.mkdir()
    (bindir / "postgres").symlink_to(real / "postgres")
    node.values["postgresql"]["bindir"] = str(bindir)
    await refused(node, BinaryMissingError, bindir)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node: {name: n1", "not valid YAML"),
        ("node:\n\tname: n1\n", "indent with spaces"),
        ("- n1\n", "mapping"),
        ("", "empty"),
        ("node: {name: n1}\ncluster: {nme: x}\n", "unknown key"),
        ("node: {name: n1}\nproxy: {port: 70000}\n", "proxy.port"),
    ],
)
async def test_a_wrong_file_is_told_with_its_line(node, text, words):
    node.file.write_text(text)
    result = await run_metako("run", "-c", node.file)
    line = one_line(result, ConfigError)
    assert words in line
    assert f"{node.file}:" in line


async def test_a_missing_file_and_a_directory_are_told(node):
    missing = one_line(await run_metako("run", "-c", node.file), ConfigError)
    assert "no such file" in missing
    directory = one_line(await run_metako("run", "-c", node.file.parent), ConfigError)
    assert "is a directory" in directory


async def test_wrong_arguments_have_a_code_of_their_own(node):
    result = await run_metako("run", "--no-such-option")
    assert result.returncode == EXIT_USAGE
    assert b"Traceback" not in result.stderr


async def test_a_log_file_that_cannot_be_written_is_named(node, short_directory):
    (short_directory / "file").write_text("")
    node.values["logging"] = {"file": str(short_directory / "file" / "metako.log")}
    await refused(node, ConfigError, "logging.file", short_directory / "file")
    node.values["logging"] = {"file": str(short_directory)}
    await refused(node, ConfigError, "logging.file", "is a directory")


# ------------------------------------------------------------ the data directory


async def test_a_foreign_directory_is_not_touched(node):
    node.make_data(notes="mine\n")
    await refused(node, DataDirectoryError, node.data, "no PostgreSQL database")


async def test_a_half_written_data_directory_is_not_touched(node):
    node.make_data(PG_VERSION="15\n", base__1="x")
    await refused(node, DataDirectoryError, node.data, "pg_control")


async def test_a_data_directory_of_another_version_is_not_touched(node):
    node.make_data(PG_VERSION="9\n", global__pg_control="x")
    await refused(node, DataDirectoryError, "of PostgreSQL 9", "postgresql.bindir")


@needs_root
async def test_a_data_directory_of_another_user_is_not_touched(node):
    node.make_data(PG_VERSION="15\n", global__pg_control="x")
    for path in [node.data, *node.data.rglob("*")]:
        shutil.chown(path, "nobody")
    await refused(node, DataDirectoryError, node.data, "belongs to uid", node.os_user)


@pytest.fixture
def server(node, short_directory, test_bindir):
    """A real server on the data directory that metako did not start."""
    user = resolve_os_user(node.os_user)
    bindir = find_installation(test_bindir, user, short_directory / "cache").bindir
    sockets = short_directory / "s"
    sockets.mkdir()
    node.own(sockets)
    options = {"user": user.name, "extra_groups": []} if user.switch else {}

    def run(*argv: object) -> None:
        subprocess.run(
            list(map(str, argv)),
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        )

    run(bindir / "initdb", "-D", node.data, "-A", "trust", "--no-sync")
    log = sockets / "log"
    start = f"-c listen_addresses= -c unix_socket_directories={sockets}"
    run(bindir / "pg_ctl", "-D", node.data, "-w", "-l", log, "-o", start, "start")
    yield int((node.data / "postmaster.pid").read_text().splitlines()[0])
    run(bindir / "pg_ctl", "-D", node.data, "-m", "immediate", "-w", "stop")


async def test_a_data_directory_in_use_is_not_touched(node, server):
    line = await refused(node, DataDirectoryError, node.data, "did not start")
    assert f"pid {server}" in line
    os.kill(server, 0)  # and its server still runs


# ------------------------------------------------------------ the other nodes


async def test_another_key_is_told_before_anything_is_made(node):
    async with peer(node, key=bytes(32)):
        await refused(node, KeyMismatchError, "n2", "key")
    assert not (node.state / "record").exists()


async def test_a_node_without_a_key_is_refused_by_one_with_a_key(node):
    async with peer(node):
        del node.values["gossip"]["key"]
        await refused(node, KeyMismatchError, "n2", "key")


async def test_another_cluster_is_told_before_anything_is_made(node):
    async with peer(node, cluster="other"):
        await refused(node, ClusterMismatchError, "'other'", "'demo'")
    assert not (node.state / "record").exists()


@pytest.mark.parametrize(("ahead_ms", "word"), [(3_600_000, "ahead"), (-3_600_000, "behind")])
async def test_another_clock_is_told_before_anything_is_made(node, ahead_ms, word):
    async with peer(node, ahead_ms=ahead_ms):
        await refused(node, ClockMismatchError, "clock", word, "3600")
    assert not (node.state / "record").exists()


async def test_a_name_that_runs_elsewhere_is_told_before_anything_is_made(node):
    keys = load(node.write()).gossip.keys
    sockets = bind_gossip("127.0.0.1", 0)
    other = NodeId("n1")
    send, receive = trio.open_memory_channel[Received](1)
    transport = Transport(
        sockets,
        Sealer("demo", other, 7, os.urandom(SALT_BYTES), keys),
        Opener("demo", other, keys),
        send,
    )

    async def talk() -> None:
        to = Address("127.0.0.1", node.peer.gossip_port)
        while True:  # ends with the test's nursery
            transport.send(Outbound(NodeId("n2"), to, Nack(1), False))
            await trio.sleep(0.2)

    async with peer(node), trio.open_nursery() as nursery:
        with send, receive:
            await nursery.start(transport.run)
            nursery.start_soon(talk)
            await refused(node, StateError, "'n1' is used twice", "n2", "node.name")
            nursery.cancel_scope.cancel()
    assert not (node.state / "record").exists()


async def test_a_key_that_is_no_key_is_told_with_its_line(node):
    node.values["gossip"]["key"] = generate_key()[:-5]
    await refused(node, ConfigError, "gossip.key")


# ------------------------------------------------------------ the same node twice


async def test_a_second_agent_of_the_same_node_is_refused(node):
    async with running(node.write(), node) as first:
        result = await run_metako("run", "-c", node.file)
        line = one_line(result, StateError)
        assert f"pid {first.pid}" in line
        assert str(node.state) in line


async def test_a_state_directory_of_another_node_is_refused(node):
    async with running(node.write(), node):
        pass
    node.values["node"]["name"] = node.values["cluster"]["bootstrap_node"] = "n9"
    node.values["cluster"]["members"][0]["name"] = "n9"
    await refused(node, StateError, "'n1'", "'n9'")


# ------------------------------------------------------------ users


@needs_root
async def test_root_is_refused_as_the_user_of_postgresql(node):
    node.values["postgresql"]["os_user"] = "root"
    await refused(node, PrivilegeError, "'root'", "postgresql.os_user")


@needs_root
async def test_a_user_that_does_not_exist_is_named(node):
    node.values["postgresql"]["os_user"] = "no-such-user"
    await refused(node, PrivilegeError, "'no-such-user'", "useradd")


@needs_root
async def test_a_data_directory_that_postgresql_cannot_reach_is_named(node, short_directory):
    closed = short_directory / "closed"
    closed.mkdir(mode=0o700)
    node.values["postgresql"]["data_dir"] = str(closed / "pg" / "data")
    await refused(node, PrivilegeError, closed, "chmod o+x")
    assert list(closed.iterdir()) == []


@pytest.fixture(scope="session")
def stranger() -> Iterator[tuple[str, str]]:
    """A user without rights and a Python that he can run with what metako needs."""
    if not IS_ROOT or "nobody" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("needs root and a user 'nobody'")
    with python_for("nobody") as python:
        if python is None:
            pytest.skip(f"none of {interpreters()} can be run by 'nobody'")
        yield "nobody", str(python)


async def test_a_node_runs_as_an_ordinary_user_and_leaves_nothing(node, stranger):
    user, python = stranger
    await trio.run_process(["chown", "-R", user, str(node.layout.directory)])
    node.values["postgresql"]["os_user"] = None
    node.values["cluster"]["members"] = node.values["cluster"]["members"][:1]
    file = node.write()
    process = await trio.lowlevel.open_process(
        [python, "-m", "metako", "run", "-c", str(file)],
        user=user,
        extra_groups=[],
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(NODE_UP_S):
            while True:
                status = await run_metako("status", "-c", file, user=user, python=python)
                if status.returncode == 0:
                    break
                await trio.sleep(0.2)
        assert server_processes(node.data)
    finally:
        process.terminate()
        with trio.fail_after(NODE_UP_S):
            code = await process.wait()
    assert code == 0
    assert server_processes(node.data) == []


async def test_a_file_that_may_not_be_read_is_told(node, stranger):
    user, python = stranger
    node.write().chmod(0)
    result = await run_metako("run", "-c", node.file, user=user, python=python)
    assert "may not be read" in one_line(result, ConfigError)


async def test_an_ordinary_user_cannot_run_postgresql_as_another(node, stranger):
    user, python = stranger
    result = await run_metako("run", "-c", node.write(), user=user, python=python)
    assert "only root can" in one_line(result, PrivilegeError)


async def test_data_that_the_user_may_not_look_at_is_told(node, stranger):
    user, python = stranger
    node.make_data(PG_VERSION="15\n", global__pg_control="x")
    node.values["postgresql"]["os_user"] = None
    before = listing(node.data.parent)
    result = await run_metako("run", "-c", node.write(), user=user, python=python)
    one_line(result, DataDirectoryError)
    assert listing(node.data.parent) == before


async def test_a_state_directory_that_cannot_be_made_is_named(node, stranger):
    user, python = stranger
    node.values["postgresql"]["os_user"] = None
    node.values["node"]["state_dir"] = "/metako-not-allowed"
    result = await run_metako("run", "-c", node.write(), user=user, python=python)
    assert "/metako-not-allowed" in one_line(result, PrivilegeError)
