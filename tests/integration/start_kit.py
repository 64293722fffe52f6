"""One node that is about to be started wrongly, and what must be true of the refusal."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import trio

from metako.config import load
from metako.demo.layout import is_port_free, plan_layout
from metako.demo.prepare import ensure_os_user
from metako.model.ids import NodeId
from metako.runtime.binding import bind_gossip
from metako.runtime.port_owner import describe_port_owner
from metako.runtime.transport import Transport, wall_clock_ms
from metako.wire.messages import Received
from metako.wire.seal import SALT_BYTES, Opener, Sealer

RUN_TIMEOUT_S = 40.0
ROOT = Path(__file__).resolve().parents[2]


class Node:
    """One node's file and directories; `text` may be changed before it is started."""

    def __init__(self, directory: Path, bindir: str | None) -> None:
        layout = plan_layout(
            directory, nodes=2, bindir=bindir, os_user=ensure_os_user(lambda _text: None)
        )
        self.layout = layout
        self.place, self.peer = layout.nodes
        self.data = self.place.data_dir
        self.state = self.place.state_dir
        self.file = self.place.config_path
        self.os_user = layout.os_user
        self.values = {
            "node": {"name": "n1", "state_dir": str(self.state)},
            "cluster": {
                "name": "demo",
                "bootstrap_node": "n1",
                "members": [
                    {
                        "name": node.name,
                        "host": "127.0.0.1",
                        "gossip_port": node.gossip_port,
                        "postgres_port": node.postgres_port,
                    }
                    for node in layout.nodes
                ],
            },
            "gossip": {
                "host": "127.0.0.1",
                "port": self.place.gossip_port,
                "key": layout.gossip_key,
            },
            "postgresql": {
                "data_dir": str(self.data),
                "bindir": bindir,
                "os_user": self.os_user,
                "host": "127.0.0.1",
                "listen": "127.0.0.1",
                "port": self.place.postgres_port,
            },
            "proxy": {"host": "127.0.0.1", "port": self.place.proxy_port},
            "api": {"host": "127.0.0.1", "port": self.place.api_port},
        }
        self.data.parent.mkdir(parents=True)
        if self.os_user:
            shutil.chown(self.data.parent, self.os_user)

    def write(self) -> Path:
        self.file.write_text(json.dumps(self.values))
        return self.file

    def own(self, path: Path) -> None:
        """Give what the test made to PostgreSQL's user, as initdb would."""
        if self.os_user:
            subprocess.run(["chown", "-R", self.os_user, path], check=True)

    def make_data(self, **files: str) -> None:
        for name, text in files.items():
            path = self.data / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.data.mkdir(exist_ok=True)
        self.data.chmod(0o700)
        self.own(self.data)


def listing(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory that a program could have changed."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))] if top.exists() else []:
        status = path.lstat()
        found[str(path)] = (
            status.st_mode,
            status.st_uid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ino,
        )
    return found


async def run_metako(
    *arguments: str | Path, user: str | None = None, python: str = sys.executable
) -> subprocess.CompletedProcess[bytes]:
    options = {"user": user, "extra_groups": []} if user else {}
    with trio.fail_after(RUN_TIMEOUT_S):
        return await trio.run_process(
            [python, "-m", "metako", *map(str, arguments)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd="/" if user else ROOT,
            **options,
        )


def one_line(result: subprocess.CompletedProcess[bytes], error: type[Exception]) -> str:
    """Return the one line for the operator, after checking that it is one and the code is right."""
    text = result.stderr.decode()
    assert "Traceback" not in text, text
    assert "Exception Group" not in text, text
    assert "internal error" not in text, text
    lines = text.splitlines()
    said = [line for line in lines if line.startswith("metako: ")]
    assert len(said) == 1, text
    for line in lines:
        if line not in said:
            json.loads(line)  # the log, which is JSON where nobody watches
    assert result.returncode == error.exit_code, (result.returncode, text)
    return said[0]


async def refused(node: Node, error: type[Exception], *words: object) -> str:
    """Run the node; it must refuse with `error`, name `words`, and have touched no data."""
    before = listing(node.data.parent)
    result = await run_metako("run", "-c", node.write())
    line = one_line(result, error)
    for word in words:
        assert str(word) in line
    assert listing(node.data.parent) == before
    for port in node.place.ports():
        owners = f"{describe_port_owner('tcp', port)} {describe_port_owner('udp', port)}"
        assert is_port_free(port) or f"pid {os.getpid()})" in owners, (port, owners)
    return line


@contextlib.contextmanager
def taken(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[None]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", port))
        if kind is socket.SOCK_STREAM:
            sock.listen()
        yield


@contextlib.asynccontextmanager
async def peer(
    node: Node, *, key: bytes | None = None, cluster: str = "demo", ahead_ms: int = 0
) -> Iterator[None]:
    """The gossip port of node n2, as an agent with these settings has it."""
    sockets = bind_gossip("127.0.0.1", node.peer.gossip_port)
    keys = [key if key is not None else load(node.write()).gossip.keys[0]]
    send, receive = trio.open_memory_channel[Received](100)
    transport = Transport(
        sockets,
        Sealer(cluster, NodeId("n2"), 1, os.urandom(SALT_BYTES), keys),
        Opener(cluster, NodeId("n2"), keys),
        send,
        wall_ms=lambda: wall_clock_ms() + ahead_ms,
    )
    async with trio.open_nursery() as nursery:
        with send, receive:
            await nursery.start(transport.run)
            yield
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running(file: Path, node: Node) -> Iterator[trio.Process]:
    """An agent that runs, until the end of the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "metako", "run", "-c", str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        with trio.fail_after(RUN_TIMEOUT_S):
            while not (node.state / "record").exists():
                assert process.poll() is None
                await trio.sleep(0.05)
        yield process
    finally:
        process.terminate()
        with trio.move_on_after(RUN_TIMEOUT_S):
            await process.wait()
        if process.poll() is None:
            process.kill()
