"""The relay: frames of some directions, let out again later, twice, damaged, or when they may.

This kernel's traffic control cannot delay. So the switch leads the frames of a direction that is
to be slow into a TAP device, from which this process reads them, and to which it writes them back
when they are due; the TAP is a port of the bridge, which forwards them as if they had just come.

In: frames from the TAP; on standard input one JSON object a line, the shapes of all directions
that have one. Out: frames; for each line one with the counters, when it is in force. It ends when
its input does or when its starter dies. One thread; at most WAITING_BYTES_MAX wait, what comes
then is lost, as in a router whose queue is full. A frame that has come is let out whatever is cut
meanwhile, as by a real network; a direction without a shape passes at once.

Frames carry the header of virtio, so that the kernel leaves large TCP segments in one piece: a
frame here can be up to 64 KiB, and costs no more than a small one.

Run in the switch's namespace: `python -m chaos.relay --device NAME --parent PID`. It imports
nothing but the standard library: it starts fast and lives beside the servers under test.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import NamedTuple, Self

WAITING_BYTES_MAX = 64 << 20
HELD_MAX = 10_000
"""Frames in the clog of one direction."""
READS_MAX = 64
"""Frames read in a row before those that are due are looked at."""
LINE_BYTES_MAX = 1 << 20
FRAME_BYTES_MAX = 1 << 17
IDLE_S = 1.0
PRIORITY = -10
"""Late frames are a longer delay than was asked for: before the servers under test."""

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x2, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x1, 0x2
_PR_SET_PDEATHSIG = 1

# Offsets in a frame: 10 bytes of virtio's header, 14 of Ethernet's, then IPv4.
_IP = 24
_PROTOCOL = _IP + 9
_ADDRESSES = slice(_IP + 12, _IP + 20)
_UDP, _UDP_HEADER_BYTES, _UDP_CHECKSUM = 17, 8, 6


@dataclass(frozen=True, slots=True)
class Shape:
    """What one direction does to a frame. Probabilities are per frame, in 0..1."""

    low_ms: float = 0.0  # delay, uniform between the two
    high_ms: float = 0.0
    tail: float = 0.0  # probability of a further delay, mostly short
    tail_ms: float = 0.0  # at most
    reorder: float = 0.0  # probability of a further delay, uniform
    reorder_ms: float = 0.0  # at most
    duplicate: float = 0.0
    corrupt: float = 0.0  # bytes of a UDP datagram are changed; anything else is lost
    held: bool = False  # nothing passes now; all of it when this ends

    def __post_init__(self) -> None:
        assert 0 <= self.low_ms <= self.high_ms, self
        assert min(self.tail_ms, self.reorder_ms) >= 0, self
        for chance in (self.tail, self.reorder, self.duplicate, self.corrupt):
            assert 0 <= chance <= 1, self

    def delay_ns(self, draw: Callable[[], float]) -> int:
        """Return how long one frame takes."""
        delay_ms = self.low_ms + draw() * (self.high_ms - self.low_ms)
        if self.tail and draw() < self.tail:
            # The square makes most late frames a little late and a few very late.
            delay_ms += draw() ** 2 * self.tail_ms
        if self.reorder and draw() < self.reorder:
            delay_ms += draw() * self.reorder_ms
        return int(delay_ms * NS_PER_MS)


class Counters(NamedTuple):
    """Frames since the start."""

    passed: int = 0
    lost: int = 0  # there was no room
    corrupted: int = 0
    duplicated: int = 0
    waiting: int = 0  # at this moment


class Queue:
    """Which frame goes when. It neither reads nor writes, and is told the time."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._shapes: dict[bytes, Shape] = {}
        self._due: list[tuple[int, int, bytes]] = []  # when in ns, sequence, frame
        self._held: dict[bytes, deque[bytes]] = {}  # by direction; oldest first
        self._sequence = 0
        self._bytes = 0  # of all frames that wait
        self._counts = {"passed": 0, "lost": 0, "corrupted": 0, "duplicated": 0}

    @property
    def counters(self) -> Counters:
        waiting = len(self._due) + sum(map(len, self._held.values()))
        return Counters(**self._counts, waiting=waiting)

    def set(self, shapes: dict[bytes, Shape], now_ns: int) -> None:
        """Replace all shapes; what was held and is no longer goes now, in the order it came."""
        self._shapes = shapes
        for key in list(self._held):
            shape = shapes.get(key)
            if shape is None or not shape.held:
                for frame in self._held.pop(key):
                    self._bytes -= len(frame)
                    self._add(now_ns, frame)

    def put(self, frame: bytes, now_ns: int) -> None:
        """Take a frame in."""
        key = frame[_ADDRESSES]
        shape = self._shapes.get(key)
        if shape is None:
            # Never before those of the same direction that were released at this moment.
            self._add(now_ns, frame)
        elif shape.held:
            self._hold(key, frame)
        else:
            self._pass(shape, frame, now_ns)

    def pop(self, now_ns: int) -> bytes | None:
        """Return the next frame that is due, or None."""
        if not self._due or self._due[0][0] > now_ns:
            return None
        frame = heappop(self._due)[2]
        self._bytes -= len(frame)
        self._counts["passed"] += 1
        return frame

    def wait_s(self, now_ns: int) -> float:
        """Return how long nothing is due, at most IDLE_S."""
        if not self._due:
            return IDLE_S
        return min(max(self._due[0][0] - now_ns, 0) / NS_PER_S, IDLE_S)

    def _pass(self, shape: Shape, frame: bytes, now_ns: int) -> None:
        draw = self._draw
        if shape.corrupt and draw() < shape.corrupt:
            self._counts["corrupted"] += 1
            damaged = _damaged(frame, draw)
            if damaged is None:
                return
            frame = damaged
        self._add(now_ns + shape.delay_ns(draw), frame)
        if shape.duplicate and draw() < shape.duplicate:
            self._counts["duplicated"] += 1
            self._add(now_ns + shape.delay_ns(draw), frame)

    def _add(self, due_ns: int, frame: bytes) -> None:
        if self._has_room(frame):
            self._sequence += 1
            heappush(self._due, (due_ns, self._sequence, frame))

    def _hold(self, key: bytes, frame: bytes) -> None:
        held = self._held.setdefault(key, deque())
        if len(held) >= HELD_MAX:
            self._counts["lost"] += 1
        elif self._has_room(frame):
            held.append(frame)

    def _has_room(self, frame: bytes) -> bool:
        if self._bytes + len(frame) > WAITING_BYTES_MAX:
            self._counts["lost"] += 1
            return False
        self._bytes += len(frame)
        return True


def _damaged(frame: bytes, draw: Callable[[], float]) -> bytes | None:
    """Return the frame with one byte of its datagram changed, or None if it is no datagram.

    The checksum of UDP is taken out, or the receiver's kernel would refuse what its program is
    to see. That of TCP does what it is there for, so there damage is loss; also an empty datagram
    and a fragment of one are lost.
    """
    header_bytes = (frame[_IP] & 0x0F) * 4
    payload = _IP + header_bytes + _UDP_HEADER_BYTES
    fragment = struct.unpack_from(">H", frame, _IP + 6)[0] & 0x3FFF
    if frame[_PROTOCOL] != _UDP or fragment or len(frame) <= payload:
        return None
    result = bytearray(frame)
    result[0] = 0  # the flag in virtio's header by which the kernel would fill in a checksum
    checksum = _IP + header_bytes + _UDP_CHECKSUM
    result[checksum : checksum + 2] = b"\0\0"
    result[payload + int(draw() * (len(frame) - payload))] ^= 1 << int(draw() * 8)
    return bytes(result)


def key_of(source: str, destination: str) -> bytes:
    """Return the direction between two IPv4 addresses as it stands in a frame."""
    parts = (*source.split("."), *destination.split("."))
    return bytes(int(part) for part in parts)


def encode_shapes(shapes: Iterable[tuple[str, str, Shape]]) -> bytes:
    """Return the line that replaces all shapes; each is of a direction between two addresses."""
    return json.dumps([[a, b, asdict(shape)] for a, b, shape in shapes]).encode() + b"\n"


def decode_shapes(line: bytes) -> dict[bytes, Shape]:
    """Return what `encode_shapes` was given, by the direction in a frame."""
    return {key_of(a, b): Shape(**fields) for a, b, fields in json.loads(line)}


class Relay:
    """Moves frames between the TAP and the queue, until standard input ends."""

    def __init__(self, device: str) -> None:
        """Make the TAP device in this namespace; it goes with the process."""
        self._queue = Queue(random.SystemRandom().random)
        self._lines = b""
        self._tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(self._tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
        fcntl.ioctl(self._tap, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._tap)

    def run(self) -> None:
        self._answer()
        queue, tap, stdin = self._queue, self._tap, sys.stdin.fileno()
        while True:
            # Not epoll: its timeout is in whole milliseconds, which the delay would be late by.
            wait_s = queue.wait_s(time.monotonic_ns())
            readable, _, _ = select.select([tap, stdin], [], [], wait_s)
            if stdin in readable and not self._read_lines(stdin):
                return
            if tap in readable:
                self._read_frames()
            self._write_frames()

    def _read_frames(self) -> None:
        for _ in range(READS_MAX):
            try:
                frame = os.read(self._tap, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            # The port floods nothing: what else there is, the kernel of this namespace has sent.
            if len(frame) >= _ADDRESSES.stop and frame[_IP - 2 : _IP] == b"\x08\x00":
                self._queue.put(frame, time.monotonic_ns())

    def _write_frames(self) -> None:
        now_ns = time.monotonic_ns()
        while (frame := self._queue.pop(now_ns)) is not None:
            # The bridge takes it or drops it, at once; the device is down while it is taken away.
            with suppress(OSError):
                os.write(self._tap, frame)

    def _read_lines(self, stdin: int) -> bool:
        """Take in what the starter says; return False at the end."""
        data = os.read(stdin, LINE_BYTES_MAX)
        self._lines += data
        assert len(self._lines) <= LINE_BYTES_MAX, "a line without an end"
        *lines, self._lines = self._lines.split(b"\n")
        for line in lines:
            self._queue.set(decode_shapes(line), time.monotonic_ns())
            self._answer()
        return bool(data)

    def _answer(self) -> None:
        sys.stdout.write(json.dumps(self._queue.counters._asdict()) + "\n")
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos.relay")
    parser.add_argument("--device", required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != arguments.parent:
        return 1
    # A ^C at the terminal is the starter's to handle: it still needs the network while it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with Relay(arguments.device) as relay:
        relay.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
