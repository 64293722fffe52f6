"""The disk of one host: files whose newest writes may not be on it yet, and all that goes wrong.

In: writes, then a sync, as the kernel offers them; power losses and the switches of the faults,
which are read at the moment of use. Out: what a program sees, and after a power loss what is left.

A write is seen at once and *pending* until a sync that began after it has ended. At a power loss
each pending write is lost, kept, or torn: some of its 512-byte sectors are there and others not. A
process that dies loses nothing.

`lying`: a sync returns at once and leaves everything pending. `failing`: a sync ends with EIO and
what was pending will never be on the disk, although it may still be *seen*, as with Linux's page
cache, where a second sync calls that a success. `full`: what needs new space is refused. It knows
no format and no process.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.heap import NS_PER_MS, NS_PER_S, Heap

SECTOR_BYTES = 512
"""What a disk writes as a whole or not at all."""

PENDING_MAX = 64
"""Writes that a disk which lies about syncs holds back; the oldest then gets on it after all."""

COPIES_MAX = 8
COPY_EVERY_NS = NS_PER_S
"""A backup is kept at most this often: `restore_old` takes one of them."""

Done = Callable[[OSError | None], object]


@dataclass(slots=True)
class _Write:
    """A write that is not on the disk. A new file is one, too: it is there as a whole or not."""

    number: int  # in the order of all writes
    offset: int
    data: bytes
    new_file: bool = False


@dataclass(slots=True)
class _File:
    stable: bytearray | None = None  # on the disk; None: not there
    seen: bytearray | None = None  # by programs: the page cache
    pending: list[_Write] = field(default_factory=list)  # oldest first


class SimDisk:
    """One disk. The switches are plain attributes."""

    def __init__(
        self, heap: Heap, rng: random.Random, *, sync_ms: tuple[float, float] = (0.2, 2.0)
    ) -> None:
        """Make an empty disk.

        Args:
            heap: of the virtual time.
            rng: draws latencies and what a power loss leaves.
            sync_ms: what a sync takes, uniform between the two.
        """
        self.full = False
        self.failing = False
        self.lying = False
        self.slow_ms = 0  # more, for each sync
        # The next write does not end: `on_torn` is called in the middle of it and has to take the
        # power away (`crash`), which tears it. Without `on_torn`, the next power loss is one that
        # tears what is pending.
        self.tear_next = False
        self.on_torn: Callable[[], object] | None = None
        self.syncs = 0  # begun so far
        self._heap = heap
        self._rng = rng
        self._sync_ms = sync_ms
        self._files: dict[str, _File] = {}
        self._writes = 0  # number of the newest
        self._tearing = False  # the write that is to be torn is under way
        self._power = 0  # grows at each power loss, so that syncs under way then never end
        self._copies: deque[dict[str, bytes]] = deque(maxlen=COPIES_MAX)  # backups, oldest first
        self._copied_ns = -COPY_EVERY_NS  # when the newest backup was made

    # --- what programs do ---

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self._file(name).seen is not None

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file, fewer where it ends.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return bytes(self._seen(name)[offset : offset + length])

    def create(self, name: str, size: int, offset: int, data: bytes) -> None:
        """Make a file aside, with all its space and some content, and rename it to `name`.

        After a power loss before the next sync, the whole file is there or the one before it.

        Raises:
            OSError: no space is left; nothing changed.
        """
        if self.full:
            raise _error(errno.ENOSPC)
        image = bytearray(size)
        image[offset : offset + len(data)] = data
        file = self._file(name)
        file.seen = image
        self._add(file, _Write(0, 0, bytes(image), new_file=True))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Change bytes of a file, which grows if it has to.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it has to grow and no space is left; nothing changed.
        """
        image = self._seen(name)
        end = offset + len(data)
        if end > len(image):
            if self.full:
                raise _error(errno.ENOSPC)
            image.extend(bytes(end - len(image)))
        image[offset:end] = data
        self._add(self._file(name), _Write(0, offset, data))

    def sync(self, name: str, done: Done) -> None:
        """Make what was written durable; `done` is called with None or the error.

        After a power loss in between it is never called: neither is who wanted to know.
        """
        delay = self._latency_ns()
        self.syncs += 1
        file, upto = self._file(name), self._writes
        if self.tear_next and self.on_torn is not None:
            self.tear_next = False
            self._tearing = True
            self._heap.after(int(self._rng.random() * delay), self._tear, self._power)
        elif self.lying:
            self._heap.after(0, self._answer, self._power, done)
            return
        self._heap.after(delay, self._end_sync, self._power, file, upto, done)

    def sync_now(self, name: str) -> None:
        """Make what was written durable, in no time.

        Raises:
            OSError: it cannot be.
        """
        self.syncs += 1
        if not self.lying:
            self._settle(self._file(name), self._writes)

    # --- what befalls it ---

    def crash(self) -> None:
        """Lose the power: of what is pending something is left, or nothing."""
        self._power += 1
        tear = self._tearing or self.tear_next
        self._tearing = self.tear_next = False
        for file in self._files.values():
            last = file.pending[-1] if file.pending else None
            for write in file.pending:
                if write.new_file and self._rng.random() < 0.5:
                    break  # and with it all that was written to it
                self._outlive(file, write, tear=tear and write is last)
            file.pending.clear()
            file.seen = None if file.stable is None else bytearray(file.stable)

    def lose(self, name: str | None = None) -> None:
        """Delete a file, durably; None: all of them."""
        for each in list(self._files) if name is None else [name]:
            self._files[each] = _File()

    def copy(self, name: str) -> bytes | None:
        """Return a file as programs see it; None if there is none."""
        seen = self._file(name).seen
        return None if seen is None else bytes(seen)

    def restore(self, name: str, image: bytes) -> None:
        """Put a file in place, durably."""
        self._files[name] = _File(bytearray(image), bytearray(image))

    def restore_old(self) -> bool:
        """Put back a backup that differs from what is there; False if there is none."""
        now = {name: copy for name in self._files if (copy := self.copy(name)) is not None}
        older = [each for each in self._copies if each != now]
        if not older:
            return False
        for name, image in self._rng.choice(older).items():
            self.restore(name, image)
        return True

    def rot(self, name: str, offset: int, length: int = 1) -> None:
        """Flip every bit of some bytes of a file, on the disk and in the cache."""
        file = self._file(name)
        for image in (file.stable, file.seen):
            if image is not None:
                for at in range(offset, min(offset + length, len(image))):
                    image[at] ^= 0xFF

    # --- inside ---

    def _file(self, name: str) -> _File:
        return self._files.setdefault(name, _File())

    def _seen(self, name: str) -> bytearray:
        seen = self._file(name).seen
        if seen is None:
            raise _error(errno.ENOENT)
        return seen

    def _latency_ns(self) -> int:
        low, high = self._sync_ms
        return int((low + self._rng.random() * (high - low) + self.slow_ms) * NS_PER_MS)

    def _add(self, file: _File, write: _Write) -> None:
        self._writes += 1
        write.number = self._writes
        file.pending.append(write)
        if len(file.pending) > PENDING_MAX:
            _apply(file, file.pending.pop(0))

    def _answer(self, power: int, done: Done) -> None:
        if power == self._power:
            done(None)

    def _tear(self, power: int) -> None:
        if power == self._power and self.on_torn is not None:
            self.on_torn()

    def _end_sync(self, power: int, file: _File, upto: int, done: Done) -> None:
        if power != self._power:
            return
        self._tearing = False
        try:
            self._settle(file, upto)
        except OSError as error:
            done(error)
        else:
            done(None)

    def _settle(self, file: _File, upto: int) -> None:
        """End a sync of the writes up to a number."""
        if self.failing:
            self._drop(file)
            raise _error(errno.EIO)
        while file.pending and file.pending[0].number <= upto:
            _apply(file, file.pending.pop(0))
        if self._heap.now_ns - self._copied_ns >= COPY_EVERY_NS:
            self._copied_ns = self._heap.now_ns
            self._copies.append(
                {name: bytes(f.stable) for name, f in self._files.items() if f.stable is not None}
            )

    def _drop(self, file: _File) -> None:
        """Forget what is pending. A file that was being made is not there, the rest may be seen."""
        new_file = any(write.new_file for write in file.pending)
        file.pending.clear()
        if new_file or self._rng.random() < 0.5:
            file.seen = None if file.stable is None else bytearray(file.stable)

    def _outlive(self, file: _File, write: _Write, *, tear: bool) -> None:
        """Put on the disk what a power loss leaves of a pending write."""
        if write.new_file:
            _apply(file, write)
            return
        rng = self._rng
        pieces = _sectors(write)
        chance = rng.random()
        if not tear and chance < 0.4:
            return
        if not tear and chance < 0.6:
            _apply(file, write)
        elif len(pieces) == 1:
            # A sector is whole or not there, except when it is to be torn at any price: a disk
            # without a capacitor does that.
            if tear:
                cut = rng.randrange(1, max(2, len(write.data)))
                _apply(file, _Write(0, write.offset, write.data[:cut]))
            elif chance < 0.8:
                _apply(file, write)
        else:
            for piece in _some(rng, pieces):
                _apply(file, piece)


def _some(rng: random.Random, pieces: list[_Write]) -> list[_Write]:
    """Return some pieces, but neither none nor all: the first ones, or any."""
    if rng.random() < 0.5:
        return pieces[: rng.randrange(1, len(pieces))]
    return rng.sample(pieces, rng.randrange(1, len(pieces)))


def _sectors(write: _Write) -> list[_Write]:
    """Return a write as one for each sector that it touches."""
    found: list[_Write] = []
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        found.append(_Write(0, at, write.data[at - write.offset : until - write.offset]))
        at = until
    return found


def _apply(file: _File, write: _Write) -> None:
    """Put a write on the disk."""
    if write.new_file:
        file.stable = bytearray(write.data)
        return
    assert file.stable is not None, "a write to a file that was never made"
    end = write.offset + len(write.data)
    if end > len(file.stable):
        file.stable.extend(bytes(end - len(file.stable)))
    file.stable[write.offset : end] = write.data


def _error(number: int) -> OSError:
    text = {
        errno.EIO: "Input/output error",
        errno.ENOENT: "No such file or directory",
        errno.ENOSPC: "No space left on device",
    }[number]
    # The class goes by the number: FileNotFoundError for ENOENT.
    return OSError(number, text)
