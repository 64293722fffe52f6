"""Delays and the like on directed links, by a relay process in the switch's namespace.

In: a `relay.Shape` for each direction that has one. Out: a TAP device, a port of the bridge, into
which the rules of `chaos.wire` lead the frames of those directions. It decides nothing about them.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from chaos.lab import SWITCH, Lab
from chaos.relay import Counters, Shape, encode_shapes
from chaos.tools import LabError, run, tool

DEVICE = "delay"
ANSWER_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 4096
ERROR_CHARACTERS = 2000
QUEUE_FRAMES = 10_000
"""Frames that the device keeps while the relay does something else."""

_TESTS = Path(__file__).resolve().parent.parent


class Delays:
    """The relay of one lab, from `start` to `close`. One caller at a time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._relay: subprocess.Popen[bytes] | None = None
        self._shapes: dict[tuple[str, str], Shape] = {}

    @property
    def pid(self) -> int | None:
        """Return the relay's process id; None if it was not started."""
        return None if self._relay is None else self._relay.pid

    @property
    def shapes(self) -> Mapping[tuple[str, str], Shape]:
        """Return the shapes in force, by the names of sender and receiver."""
        return self._shapes

    def start(self) -> None:
        """Start the relay and make its device a port of the bridge.

        From the main thread only: the kernel ends the relay with the *thread* that started it.

        Raises:
            LabError: there is no TAP here, or the relay does not answer; nothing is left running.
        """
        assert self._relay is None, "started twice"
        assert threading.current_thread() is threading.main_thread()
        program = [sys.executable, "-P", "-m", "chaos.relay", "--device", DEVICE]
        self._relay = subprocess.Popen(
            self._lab.argv(SWITCH, [*program, "--parent", str(os.getpid())]),
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            self._answer()
            lines = (
                f"link set {DEVICE} txqueuelen {QUEUE_FRAMES} master br0",
                # Hosts stay known at their own ports, and only the rules lead frames here.
                f"link set {DEVICE} type bridge_slave"
                " learning off flood off mcast_flood off bcast_flood off",
                f"link set {DEVICE} up",
            )
            argv = [tool("ip"), "-netns", self._lab.namespace(SWITCH), "-batch", "-"]
            run(argv, "\n".join(lines) + "\n")
        except BaseException:
            self.close()
            raise

    def set(self, shapes: Mapping[tuple[str, str], Shape]) -> Counters:
        """Replace all shapes, by the names of sender and receiver; return the counters.

        When it returns they are in force for what comes from then on.

        Raises:
            LabError: the relay has ended or does not answer; frames that are led to it are lost.
        """
        relay = self._running()
        address = self._lab.address
        line = encode_shapes((address(a), address(b), shape) for (a, b), shape in shapes.items())
        assert relay.stdin is not None
        try:
            relay.stdin.write(line)
            relay.stdin.flush()
        except OSError as error:
            raise LabError(f"the relay does not listen: {self._why()}") from error
        counters = self._answer()
        self._shapes = dict(shapes)
        return counters

    def counters(self) -> Counters:
        """Return what the relay has counted until now."""
        return self.set(self._shapes)

    def close(self) -> None:
        """End the relay; its device goes with it, and so do the frames that wait."""
        relay, self._relay, self._shapes = self._relay, None, {}
        if relay is None:
            return
        # The pipe's end is what it ends at; `communicate` also closes all three.
        try:
            relay.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            relay.kill()
            relay.communicate(timeout=STOP_TIMEOUT_S)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._relay is not None, "not started"
        return self._relay

    def _answer(self) -> Counters:
        """Read one line of the relay, which says something only when it is asked."""
        relay = self._running()
        assert relay.stdout is not None
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        data = b""
        while not data.endswith(b"\n") and len(data) < ANSWER_BYTES_MAX:
            # Not `select`, which knows no descriptor beyond 1023.
            waiting = select.poll()
            waiting.register(relay.stdout, select.POLLIN)
            if not waiting.poll(max(deadline_s - time.monotonic(), 0) * 1000):
                raise LabError(f"the relay did not answer within {ANSWER_TIMEOUT_S:g} s")
            part = os.read(relay.stdout.fileno(), ANSWER_BYTES_MAX)
            if not part:
                raise LabError(f"the relay has ended: {self._why()}")
            data += part
        return Counters(**json.loads(data))

    def _why(self) -> str:
        relay = self._running()
        try:
            _, errors = relay.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it hangs"
        text = errors.decode(errors="replace").strip()[-ERROR_CHARACTERS:]
        return text.rpartition("\n")[2] or f"exit code {relay.returncode}"
