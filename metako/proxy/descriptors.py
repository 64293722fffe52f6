"""Messages with open files, over a Unix socket between two processes of one user.

    size of the body (4 bytes, big-endian) | count of files (1 byte) | body

The files go with the first byte of their message, so they arrive in the order of the messages.
Whoever sends files keeps its own; both have to be closed. What was sent and never read is closed by
the kernel with the socket.

Deliberately unknown here: what the bodies say, and what the files are.

Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

import trio

from metako.proxy import sockets
from metako.proxy.jsonline import FrameError

BODY_BYTES_MAX = 4 * 1024 * 1024
FILES_MAX = 64  # of one message; the kernel takes 253
RECEIVE_BYTES = 65_536
FULL_PAUSE_S = 0.01  # while as many files are on their way as the kernel allows
_header = struct.Struct("!IB")
_ITEM_BYTES = array.array("i").itemsize


class Descriptors:
    """One end of the socket, which it owns. One task may send while another receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = trio.Lock()
        self._buffer = bytearray()
        self._files: deque[int] = deque()  # received, and not given away yet

    async def send(self, message: Callable[[], tuple[bytes, Sequence[int]]]) -> None:
        """Send a message. Raises one of `sockets.BROKEN`.

        If cancelled or broken, nothing is known of whether it arrives.

        Args:
            message: asked for body and files in the moment when they leave; nothing waits between.
        """
        async with self._sending:
            while True:
                body, files = message()
                assert len(body) <= BODY_BYTES_MAX
                data = _header.pack(len(body), len(files)) + body
                try:
                    sent = socket.send_fds(self._sock, [data], list(files))
                    break
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    await trio.sleep(FULL_PAUSE_S)
            await sockets.send_all(self._sock, memoryview(data)[sent:])

    async def receive(self) -> tuple[bytes, list[int]]:
        """Return the next message and its files, which are the caller's from now on.

        Raises `FrameError` at the end, or if it is none; one of `sockets.BROKEN`. Cancelling loses
        nothing.
        """
        while (message := self._next()) is None:
            await self._read()
        return message

    def close(self) -> None:
        """Close the socket, and the files that nobody has received. Harmless if repeated."""
        sockets.close(self._sock)
        while self._files:
            os.close(self._files.popleft())

    def _next(self) -> tuple[bytes, list[int]] | None:
        if len(self._buffer) < _header.size:
            return None
        size, count = _header.unpack_from(self._buffer)
        if size > BODY_BYTES_MAX or count > FILES_MAX:
            raise FrameError("a message that is too long")
        end = _header.size + size
        if len(self._buffer) < end:
            return None
        if len(self._files) < count:
            raise FrameError("files are missing")  # this process may have no more of them
        body = bytes(self._buffer[_header.size : end])
        del self._buffer[:end]
        return body, [self._files.popleft() for _ in range(count)]

    async def _read(self) -> None:
        room = socket.CMSG_SPACE(FILES_MAX * _ITEM_BYTES)
        while True:
            try:
                found = self._sock.recvmsg(RECEIVE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
        data, messages, flags, _ = found
        for level, kind, content in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files = array.array("i")
                files.frombytes(content[: len(content) - len(content) % _ITEM_BYTES])
                self._files.extend(files)
        if flags & socket.MSG_CTRUNC:
            raise FrameError("files were lost on their way")
        if not data:
            raise FrameError("the other process has ended")
        self._buffer += data
