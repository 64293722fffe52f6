"""Connections as TCP gives them: in order, nothing lost while both ends live, silent when cut.

In: what one end sends, as a callable that the other end's arrival calls. Out: those calls, in order
per direction. A direction that is cut holds what was sent and tries again, first after 200 ms and
then at doubling intervals, so that data arrives some time after the cut has healed; that is TCP's
own behaviour and a fault of its own.

The three ways in which an end goes differ in what the other one learns:
    close    the process ended, the kernel lives: all that was sent arrives, then the end of it
    abandon  the host lost power: nobody is told, and who sends later is answered by a reset once
             that host is up again
    (reset)  the answer to sending something to an end that is gone, or over a refusing cut

Invariants: `on_closed` of an end is called at most once, never of an end that closed or was
abandoned, and nothing is delivered to it afterwards. Windows and acknowledgements are not modelled:
a direction does not stand still because the other one is cut.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.heap import NS_PER_S, Entry, Heap
from sim.links import RETRANSMIT_FIRST_NS, Endpoint, Link, Traffic

if TYPE_CHECKING:
    from sim.network import Network

Action = Callable[[], object]
OnResult = Callable[["Connection | None", str], object]

QUEUE_MAX = 100_000
"""Messages of one direction that are not delivered: more is a sender that asks for no answer."""

GIVE_UP_NS = 900 * NS_PER_S
"""After so long without progress the sender is told that the connection is gone."""

DIAL_AGAIN_NS = NS_PER_S
"""Until an unanswered request to connect is repeated; doubled each further time."""


class Gone(enum.Enum):
    """How an end has gone."""

    CLOSED = enum.auto()  # its process ended
    ABANDONED = enum.auto()  # its host lost power
    TOLD = enum.auto()  # it was told that the connection is over


class Way:
    """One direction of a connection."""

    __slots__ = (
        *("_again_ns", "_draw", "_stalled", "_stalled_ns", "_timer", "connection", "frm", "heap"),
        *("last_ns", "link", "queue", "to"),
    )

    def __init__(self, connection: Connection, frm: Endpoint, to: Endpoint) -> None:
        network = connection.network
        self.connection = connection
        self.frm = frm
        self.to = to
        self.heap: Heap = network.heap
        self.link: Link = network.link(frm, to)
        self.queue: deque[Action] = deque()  # sent and not delivered, oldest first
        self.last_ns = 0  # when the newest of those that did not stall arrives
        # How many at the front of the queue have no arrival before them any more: they wait for
        # the timer. The others arrive by an event of their own each, which takes the oldest.
        self._stalled = 0
        self._stalled_ns = 0  # since when some wait
        self._again_ns = RETRANSMIT_FIRST_NS  # interval of the timer
        self._timer: Entry | None = None
        self._draw = network.draw(frm, to, connection.traffic)

    def push(self, action: Action) -> None:
        """Send something: `action` is called when it arrives."""
        link, connection = self.link, self.connection
        if not link.clear and link.refuses(connection.traffic):
            self.heap.after(link.delay_ns(self._draw), connection.tell, self.frm)
            return
        assert len(self.queue) < QUEUE_MAX, f"{self.frm} sends without end to {self.to}"
        self.queue.append(action)
        if self._stalled:
            self._stalled += 1
        elif not link.clear and link.blocks(connection.traffic):
            self._stall()
        else:
            heap = self.heap
            at = heap.now_ns + link.segment_ns(self._draw, connection.network.retransmit_max_ns)
            if at > self.last_ns:
                self.last_ns = at
            heap.at(self.last_ns, self._arrive)

    def drop(self) -> None:
        """Forget all that is not delivered."""
        self.queue.clear()
        self._calm()

    def hurry(self) -> None:
        """Deliver what waits as soon as the link allows: it stood in a clog, not at the sender."""
        if self._stalled:
            self.heap.cancel(self._timer)
            self._timer = self.heap.after(self.link.delay_ns(self._draw), self._drain)

    def lose_sender(self) -> None:
        """Forget what would have to be sent again: the sender's host lost power."""
        if self._stalled and not self.link.state.clogged:
            self.drop()

    def _arrive(self) -> None:
        queue = self.queue
        if not queue:
            return  # dropped
        if not self._stalled and self.link.clear and self.to not in self.connection.gone:
            queue.popleft()()  # as nearly always
        elif self._stalled:
            self._stalled = min(self._stalled + 1, len(self.queue))
        elif not self._deliver():
            self._stall()

    def _deliver(self) -> bool:
        """Hand over the oldest; False if it cannot arrive now."""
        connection = self.connection
        if not self.link.clear and self.link.blocks(connection.traffic):
            return False
        if self.to in connection.gone:
            return connection.answer_with_reset(self)
        action = self.queue.popleft()
        if self._stalled:
            self._stalled -= 1
        action()
        return True

    def _stall(self) -> None:
        self._stalled = 1
        self._stalled_ns = self.heap.now_ns
        self._again_ns = RETRANSMIT_FIRST_NS
        self.link.waiting[self] = None
        self._timer = self.heap.after(self._again_ns, self._retransmit)
        if self.connection.gone.get(self.frm) is Gone.ABANDONED:
            self.lose_sender()

    def _calm(self) -> None:
        self._stalled = 0
        self.heap.cancel(self._timer)
        self._timer = None
        self.link.waiting.pop(self, None)

    def _retransmit(self) -> None:
        if self.heap.now_ns - self._stalled_ns >= GIVE_UP_NS:
            self.connection.tell(self.frm)
            self.drop()
        elif self.link.blocks(self.connection.traffic):
            self._back_off()
        else:
            self._timer = self.heap.after(self.link.delay_ns(self._draw), self._drain)

    def _back_off(self) -> None:
        self._again_ns = min(2 * self._again_ns, self.connection.network.retransmit_max_ns)
        self._timer = self.heap.after(self._again_ns, self._retransmit)
        if self.connection.gone.get(self.frm) is Gone.ABANDONED:
            self.lose_sender()

    def _drain(self) -> None:
        self._timer = None
        while self._stalled:
            if not self._deliver():
                if self._timer is None:  # what was delivered may have made this stall again
                    self._back_off()
                return
        self._calm()


class Connection:
    """An open connection between two endpoints that are told apart by name."""

    __slots__ = ("_ways", "dst", "gone", "network", "on_closed", "open", "src", "traffic")

    def __init__(self, network: Network, src: Endpoint, dst: Endpoint, traffic: Traffic) -> None:
        assert src != dst, f"give the ends on {src} names of their own, as in {src}/proxy"
        self.network = network
        self.src = src
        self.dst = dst
        self.traffic = traffic
        self.open = True  # neither end has gone, whether or not the other one knows
        self.gone: dict[Endpoint, Gone] = {}
        self.on_closed: dict[Endpoint, Callable[[], object]] = {}  # told to that end, once
        self._ways = {src: Way(self, src, dst), dst: Way(self, dst, src)}

    def send(self, frm: Endpoint, deliver: Action) -> None:
        """Call `deliver` when what `frm` sends arrives; nothing happens if `frm` has gone."""
        if frm not in self.gone:
            self._ways[frm].push(deliver)

    def backlog(self, frm: Endpoint) -> int:
        """Return how many messages of `frm` are not delivered."""
        return len(self._ways[frm].queue)

    def close(self, frm: Endpoint, *, reset_reaches_peer: bool = True) -> None:
        """End the connection at `frm`, whose process ended; what it sent before still arrives.

        Args:
            frm: the end that closes; does nothing if it has gone.
            reset_reaches_peer: tell the peer, after all that was sent. Otherwise it learns of it
                when it next sends something.
        """
        if frm in self.gone:
            return
        self._leave(frm, Gone.CLOSED)
        if reset_reaches_peer and not self._finished():
            peer = self.peer(frm)
            self._ways[frm].push(lambda: self.tell(peer))

    def abandon(self, frm: Endpoint) -> None:
        """Lose the end at `frm`, whose host lost power; also after its process had closed it."""
        self._leave(frm, Gone.ABANDONED)
        self._ways[frm].lose_sender()

    def not_before(self, frm: Endpoint, when_ns: int) -> None:
        """Let nothing that `frm` sends arrive before the answer to the request to connect."""
        self._ways[frm].last_ns = when_ns

    def peer(self, end: Endpoint) -> Endpoint:
        """Return the other end."""
        return self.dst if end == self.src else self.src

    def tell(self, end: Endpoint) -> None:
        """Tell an end that the connection is over, unless it has gone or was told."""
        if end in self.gone:
            return
        callback = self.on_closed.get(end)
        self._leave(end, Gone.TOLD)
        self._ways[end].drop()
        if callback is not None:
            callback()

    def answer_with_reset(self, way: Way) -> bool:
        """Answer what arrived at an end that is gone; False if nothing answers.

        Only a host that is up answers, and only over a path that is open.
        """
        network = self.network
        back = network.link(way.to, way.frm)
        if network.listening(way.to, self.traffic) is None or back.blocks(self.traffic):
            return False
        way.drop()
        delay = back.delay_ns(network.draw(way.to, way.frm, self.traffic))
        network.heap.after(delay, self.tell, way.frm)
        return True

    def _leave(self, end: Endpoint, how: Gone) -> None:
        self.gone[end] = how
        self.open = False
        self.on_closed.pop(end, None)
        if self._finished():
            for way in self._ways.values():
                way.drop()
            self.network.forget(self)

    def _finished(self) -> bool:
        return len(self.gone) == len(self._ways)


class Dial:
    """An attempt to connect: repeated until it is answered or its time is over."""

    __slots__ = (
        *("_accepted", "_again_ns", "_back", "_deadline", "_draw", "_link", "_next", "done"),
        *("dst", "network", "on_result", "src", "traffic"),
    )

    def __init__(
        self,
        network: Network,
        src: Endpoint,
        dst: Endpoint,
        traffic: Traffic,
        on_result: OnResult,
        *,
        timeout_ns: int,
    ) -> None:
        assert src != dst, f"give the ends on {src} names of their own, as in {src}/proxy"
        self.network = network
        self.src = src
        self.dst = dst
        self.traffic = traffic
        self.on_result = on_result
        self.done = False
        self._link = network.link(src, dst)
        self._back = network.link(dst, src)
        self._draw = network.draw(src, dst, traffic)
        self._again_ns = DIAL_AGAIN_NS
        self._accepted: Connection | None = None  # by the server; its answer is on the way
        self._next: Entry | None = None  # the next step; None while it waits for the deadline
        self._deadline = network.heap.after(timeout_ns, self._finish, None, "timeout")
        self._ask()

    def cancel(self) -> None:
        """Stop trying: the process that wanted the connection is gone. Nobody is called."""
        self._stop()

    def _ask(self) -> None:
        heap, link = self.network.heap, self._link
        delay = link.delay_ns(self._draw)
        if link.refuses(self.traffic):
            self._next = heap.after(delay, self._finish, None, "refused")
        elif link.blocks(self.traffic) or link.loses(self._draw):
            self._wait()
        else:
            self._next = heap.after(delay, self._arrive)

    def _wait(self) -> None:
        self._next = self.network.heap.after(self._again_ns, self._ask)
        self._again_ns *= 2

    def _arrive(self) -> None:
        network, back = self.network, self._back
        accepts = network.listening(self.dst, self.traffic)
        if accepts is None or back.blocks(self.traffic) or back.loses(self._draw):
            self._wait()
            return
        delay = back.delay_ns(self._draw)
        if accepts:
            # The server's end exists from here on and can go before the client's does.
            connection = Connection(network, self.src, self.dst, self.traffic)
            connection.not_before(self.dst, network.heap.now_ns + delay)
            network.remember(connection)
            self._accepted = connection
            self._next = network.heap.after(delay, self._finish, connection, "")
        else:
            self._next = network.heap.after(delay, self._finish, None, "refused")

    def _finish(self, connection: Connection | None, why: str) -> None:
        if connection is not None:
            self._accepted = None
        self._stop()
        self.on_result(connection, why)

    def _stop(self) -> None:
        self.done = True
        if self._accepted is not None:
            self._accepted.close(self.src)
        self.network.heap.cancel(self._next)
        self.network.heap.cancel(self._deadline)
        self.network.forget_dial(self)
