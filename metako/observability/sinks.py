"""Where log lines go, in a way that can never hold up the agent.

Input: lines. Output: the same lines in a file that is rotated, or on a stream. A disk that stalls,
a full disk, a pipe that nobody reads and a terminal stopped with Ctrl-S would all block a write for
as long as they please, and an agent that waits loses its lease. So each sink has a thread of its
own behind a bounded queue; a line that finds the queue full is dropped and counted, and so is one
whose write fails. Nothing here raises after it was set up.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

QUEUE_LINES_MAX = 4096
"""About a megabyte of lines, and far more than an agent writes while a disk recovers."""
CLOSE_TIMEOUT_S = 1.0
REOPEN_INTERVAL_S = 1.0
STREAM_WAIT_MS = 1000


class LineWriter(Protocol):
    """Something that a line can be written to, with a call that may block or fail."""

    def write_line(self, line: str) -> None:
        """Write a line and its end, or raise OSError or ValueError."""

    def close(self) -> None:
        """Let go of what was opened."""


class QueuedSink:
    """A line writer behind a bounded queue and a thread.

    The thread is a daemon: a write that never returns cannot keep the process from ending.
    """

    def __init__(self, writer: LineWriter, *, name: str) -> None:
        self._writer = writer
        self._queue: queue.Queue[str | threading.Event] = queue.Queue(QUEUE_LINES_MAX)
        self._stop = threading.Event()
        self._overflows = 0  # counted by the caller's thread only
        self._failures = 0  # counted by the sink's thread only
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Return the lines that were not written, because of a full queue or a failed write."""
        return self._overflows + self._failures

    def put(self, line: str) -> None:
        """Hand a line to the sink; never blocks, never raises."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._overflows += 1

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Wait until everything handed over so far is written; False if that takes too long."""
        done = threading.Event()
        deadline = time.monotonic() + timeout_s
        try:
            self._queue.put(done, timeout=timeout_s)
        except queue.Full:
            return False
        return done.wait(max(0.0, deadline - time.monotonic()))

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left, for at most `timeout_s`, and end the thread."""
        written = self.flush(timeout_s)
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(threading.Event())  # wakes the thread
        if written:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._writer.write_line(item)
            except (OSError, ValueError):
                # ValueError: the stream was closed under us. There is nobody left to tell.
                self._failures += 1
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()


class StreamWriter:
    """Lines on a stream that belongs to someone else, such as standard error.

    A stream with a descriptor is written to below Python's buffer: a thread that hangs in a
    buffered write holds the buffer's lock, and the interpreter aborts when it finds that at exit.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._fd: int | None = stream.fileno()  # None: a stream without a descriptor
        except (OSError, ValueError, AttributeError):
            self._fd = None

    def write_line(self, line: str) -> None:
        if self._fd is None:
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Some other process has made the shared descriptor non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                if not poll.poll(STREAM_WAIT_MS):
                    raise

    def close(self) -> None:
        """Leave the stream open: it is not ours."""


class RotatingFile:
    """Lines appended to a file; a full one is set aside as `NAME.1`, older ones as `NAME.2`…

    The file is opened anew when someone else has moved it away, so that logrotate works as well.
    A torn line, left by a full disk, is ended before the next one is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        rotation_bytes: int,
        retention: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._rotation_bytes = rotation_bytes
        self._retention = retention
        self._clock = clock
        self._fd: int | None = None  # None until opened, and after a failure
        self._size_bytes = 0
        self._torn = False  # the file does not end in a line's end
        self._checked_s = 0.0  # when the path was last compared with what is open

    def write_line(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        fd = self._current()
        if self._size_bytes and self._size_bytes + len(data) > self._rotation_bytes:
            self._rotate()
            fd = self._current()
        if self._torn:
            data = b"\n" + data
        written = os.write(fd, data)
        self._size_bytes += written
        self._torn = written < len(data)
        if self._torn:
            raise OSError("the disk took a part of the line only")

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _current(self) -> int:
        now_s = self._clock()
        if self._fd is not None and now_s - self._checked_s >= REOPEN_INTERVAL_S:
            self._checked_s = now_s
            if self._was_moved(self._fd):
                self.close()
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o640)
            self._size_bytes = os.fstat(self._fd).st_size
            self._torn = self._size_bytes > 0 and not self._ends_a_line()
            self._checked_s = now_s
        return self._fd

    def _was_moved(self, fd: int) -> bool:
        ours = os.fstat(fd)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _ends_a_line(self) -> bool:
        try:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except OSError:
            return False

    def _rotate(self) -> None:
        self.close()
        if self._retention == 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        for number in range(self._retention, 0, -1):
            older = rotated(self._path, number)
            newer = self._path if number == 1 else rotated(self._path, number - 1)
            # Where renaming is not possible, a file that grows is better than lines lost.
            with contextlib.suppress(OSError):
                newer.replace(older)


def rotated(path: Path, number: int) -> Path:
    """Return the name of the `number`-th newest file that was set aside."""
    return path.with_name(f"{path.name}.{number}")
