"""What the rooms of the simulator ask of each other, as Protocols; nothing is decided here.

`Truth` is told what really happens, as nobody in the cluster can see it: the checkers, the marks
and the trace hang there. `Environment` is what a simulated server may use of the world around it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from metako.model.ids import NodeId, TimelineId
from sim.heap import Heap

if TYPE_CHECKING:
    from sim.network import Network
    from sim.postgres.server import Commit, SimServer


class Truth(Protocol):
    """Ground truth of the PostgreSQL servers, told at the event. No callee changes a server."""

    def server_changed(self, server: SimServer) -> None:
        """Process, recovery, freeze, admission, sync setting or data of a server changed."""
        ...

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        """A server has left recovery on a new branch."""
        ...

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        """COMMIT returns success to the client now, without the warning of a cancelled wait."""
        ...

    def note(self, node: NodeId, mark: str, text: str = "") -> None:
        """An interesting state was reached; `mark` is a name of `sim.marks`, snake_case."""
        ...


class Environment(Protocol):
    """The world as a server and its supervisor see it."""

    @property
    def heap(self) -> Heap: ...

    @property
    def network(self) -> Network: ...

    @property
    def truth(self) -> Truth: ...

    @property
    def postgres_version(self) -> int:
        """Return the major version that the servers are."""
        ...

    def rng(self, node: NodeId, purpose: str) -> random.Random:
        """Return the random stream of a node for a purpose; the same object each time."""
        ...

    def server(self, node: NodeId) -> SimServer | None:
        """Return the server process model at a node's address, whatever its state."""
        ...

    def new_id(self, kind: str) -> str:
        """Return a name that was not given out before."""
        ...
