"""Peers of the proxy benchmark as processes: started, found to serve or not, and ended for good."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from proxy_kit import eventually, free_port

from benchmarks.proxy import contestants, procfs
from benchmarks.proxy.configs import Launch, Setting
from benchmarks.proxy.contestants import Peer, PeerKind
from metako.model.errors import MetakoError

pytestmark = pytest.mark.slow  # starting an interpreter takes a while

STUBBORN = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
time.sleep(60)
"""
SPEAKS_AND_ENDS = "import sys; sys.exit('port 1 is not for me')"
WAIT_S = 10.0


def peer_of(code: str, directory: Path) -> Peer:
    port = free_port()
    kind = PeerKind("", "fake", "", "", lambda s: Launch({}, ("-c", code, str(s.port))))
    setting = Setting(directory, port, 0, 0, "app", "app", "", "", "app_trust", 10, 10)
    return Peer(kind, Path(sys.executable), setting, os_user=None)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def tree_of(peer: Peer) -> set[int]:
    return procfs.tree(peer.roots(), procfs.process_stats())


def wait_until(claim: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


async def test_peer_that_ignores_its_signal_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(contestants, "STOP_TIMEOUT_S", 0.1)
    peer = peer_of(STUBBORN, tmp_path / "peer")
    try:
        await peer.wait_ready()
        await eventually(lambda: len(tree_of(peer)) == 2)
        found = tree_of(peer)
    finally:
        peer.stop()
    await eventually(lambda: not any(is_running(pid) for pid in found))
    assert peer.roots() == []
    peer.stop()  # once more is no error


async def test_peer_that_does_not_start_is_told_in_its_own_words(tmp_path):
    peer = peer_of(SPEAKS_AND_ENDS, tmp_path / "peer")
    with pytest.raises(MetakoError, match=r"fake ended with status 1: port 1 is not for me"):
        await peer.wait_ready()
    peer.stop()


def test_peer_ends_when_its_parent_is_killed(tmp_path):
    """The parent is a process of its own, which starts a peer and waits to be killed."""
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_bench_peers import peer_of\n"
        "peer = peer_of('import time; time.sleep(60)', Path(sys.argv[1]))\n"
        "print(*peer.roots(), flush=True)\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "peer"), *sys.path]
    argv.append(str(Path(__file__).parent))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            # The launcher, which has options before its code, asks the kernel and becomes the peer.
            wait_until(
                lambda: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2] == [b"-c"]
            )
            parent.kill()
            wait_until(lambda: not is_running(pid))
        finally:
            parent.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
