"""Calls made from inside another network namespace, by a thread of this process.

In: a namespace and a call that opens sockets. Out: what the call returns; the sockets stay in that
namespace, and the thread is back in its own. Only the thread that calls is moved.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
THREADS_MAX = 24
_LIBC = ctypes.CDLL(None, use_errno=True)


def inside(namespace: Path, call: Callable[[], T]) -> T:
    """Call from inside a network namespace.

    Raises:
        OSError: the namespace is not there, or this process may not enter it. Nothing was called.
    """
    own = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
    with own.open("rb") as back, namespace.open("rb") as there:
        _enter(there.fileno())
        try:
            return call()
        finally:
            _enter(back.fileno())


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


class Callers:
    """Threads for such calls, apart from trio's others: one that is slow holds up no timer."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(THREADS_MAX)

    async def call(self, namespace: Path, call: Callable[[], T]) -> T:
        """Call in a thread. If cancelled, the call goes on and its result is dropped."""
        return await trio.to_thread.run_sync(
            inside, namespace, call, limiter=self._limiter, abandon_on_cancel=True
        )
