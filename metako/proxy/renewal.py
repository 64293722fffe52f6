"""Orders to replace the workers of a node by new processes, one after the other.

In: somebody's wish. Out: what each worker's keeper is to do, and what came of it.

Deliberately unknown here: how a worker is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

WORKER_TIMEOUT_S = 60.0  # for one of them: longer than all that its keeper tries


@dataclass(slots=True, eq=False)
class Renewal:
    """An order to replace one worker."""

    done: trio.Event = field(default_factory=trio.Event)
    failure: str = ""  # when done: why there is no new one; the old one goes on

    def end(self, failure: str = "") -> None:
        self.failure = failure
        self.done.set()


class Renewals:
    """Where orders are given, and where the keepers of workers take them."""

    def __init__(self) -> None:
        self._orders: dict[int, Renewal] = {}  # by the worker's number, until it is taken
        self._changed = trio.Event()  # replaced whenever it is set
        self._one_at_a_time = trio.Lock()
        self.workers = 0  # that are kept; 0 before they were started

    async def renew(self) -> tuple[int, list[str]]:
        """Have all workers replaced; return how many were, and why others were not.

        If cancelled, the one that is being replaced is replaced, and those after it are not.
        """
        failures = []
        async with self._one_at_a_time:
            for index in range(1, self.workers + 1):
                order = self._orders[index] = Renewal()
                self._changed.set()
                self._changed = trio.Event()
                try:
                    with trio.move_on_after(WORKER_TIMEOUT_S) as scope:
                        await order.done.wait()
                finally:
                    self._orders.pop(index, None)
                if scope.cancelled_caught:
                    failures.append(f"worker {index}: nobody took the order")
                elif order.failure:
                    failures.append(f"worker {index}: {order.failure}")
            return self.workers - len(failures), failures

    async def next_order(self, index: int) -> Renewal:
        """Return an order for this worker once there is one. It has to be ended."""
        while index not in self._orders:
            await self._changed.wait()
        return self._orders.pop(index)
