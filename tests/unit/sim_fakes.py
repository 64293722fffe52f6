"""A world of which only the disturbances exist: it writes down what faults do to it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId, Term
from metako.model.orders import Order
from sim.faults import Fault
from sim.heap import Heap
from sim.network import Network
from sim.streams import stream

VERBS = (
    *("kill_host", "kill_agent", "kill_guard", "kill_postgres", "kill_proxy", "stop", "wake"),
    *("kill_backend", "kill_receiver", "pause_proxy", "resume_proxy"),
    *("pause_backend", "resume_backend", "kill_sender", "kill_startup"),
    *("pause_sender", "resume_sender"),
    *("pause_host", "pause_agent", "pause_guard", "pause_postgres"),
    *("resume_host", "resume_agent", "resume_guard", "resume_postgres"),
    *(
        "lose_record",
        "rot_record",
        "restore_old_record",
        "lose_data",
        "restore_lost_record",
        "foreign_data",
    ),
    *("take_backup", "restore_backup"),
)
DISK = {"full": False, "failing": False, "lying": False, "tear_next": False, "slow_ms": 0}
SERVER = {
    **dict.fromkeys(("hung", "wal_disk_full", "fsync_lies", "replay_paused"), False),
    **dict.fromkeys(("receive_stalled", "promote_hangs"), False),
    **dict.fromkeys(("rewind_failures", "clone_failures", "start_failures"), 0),
    "recovery_failures": 0,
    "fsync_ms": 1.0,
    "promote_extra_ms": 0.0,
    "slow": 1.0,
    "checkpointer_stall_ms": 0.0,
    "wal_room": 0,
    "slot_keep": None,
}


class FakeClock:
    def __init__(self) -> None:
        self.rate_ppm = 0
        self.jumped_s: list[float] = []

    def jump_wall(self, seconds: float) -> None:
        self.jumped_s.append(seconds)


class FakeNode:
    """Does nothing, and writes down what it was told. A verb in `refuses` finds nothing to do."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.witness = self.invited = self.lost = self.taken_in_again = False
        self.host_up = self.agent_up = True
        self.refuses: set[str] = set()
        self.clock = FakeClock()
        self.disk = SimpleNamespace(**DISK)
        self.server = SimpleNamespace(**SERVER)
        for verb in ("remove_wal", "create_slot", "drop_slot"):
            setattr(self.server, verb, partial(self._do, verb))
        self._log = log

    def _do(self, verb: str, *args: object) -> bool:
        if verb in self.refuses:
            return False
        self._log.append(" ".join([self.name, verb, *map(str, args)]))
        return True

    def __getattr__(self, verb: str) -> object:
        if verb not in VERBS:
            raise AttributeError(verb)

        def do() -> bool:
            done = self._do(verb)
            if done and verb in ("kill_host", "kill_agent", "stop"):
                self.agent_up = False
                self.host_up = self.host_up and verb != "kill_host"
            return done

        return do

    def leads(self, now_ns: int) -> bool:
        return self.name == "n1"

    def start(self) -> bool:
        self.host_up = self.agent_up = True
        return self._do("start")

    def suspend(self, *, hidden: bool = False) -> bool:
        return self._do("suspend", hidden)

    def slow_agent(self, step_ms: float) -> bool:
        return self._do("slow_agent", step_ms)

    def burn(self, per_core: int) -> bool:
        return self._do("burn", per_core)

    def order(self, order: Order) -> bool:
        learner = () if order.voter else ("learner",)
        return self._do("order", order.kind, order.target, *learner, *order.lost)

    def set_clock_rate(self, ppm: int) -> bool:
        self.clock.rate_ppm = ppm
        return True


class FakeClient:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.waits = True
        self._log = log

    def set_load(self, factor: float) -> None:
        self._log.append(f"{self.name} load {factor:g}")

    def reconnect(self) -> None:
        self._log.append(f"{self.name} reconnect")

    def cancel_waiting(self) -> bool:
        return self.waits


class FakeWorld:
    """Nodes and clients by name; the primary is the first node."""

    def __init__(
        self,
        nodes: int = 3,
        witnesses: tuple[str, ...] = (),
        clients: int = 2,
        spares: tuple[str, ...] = (),
    ) -> None:
        self.log: list[str] = []
        self.heap = Heap()
        self.network = Network(self.heap, lambda name: stream(0, name))
        self.names = tuple(NodeId(f"n{i}") for i in range(1, nodes + 1))
        self.names += tuple(NodeId(name) for name in witnesses)
        self.voters = self.names
        self.names += tuple(NodeId(name) for name in spares)
        self.witnesses = tuple(NodeId(name) for name in witnesses)
        self.nodes = {name: FakeNode(name, self.log) for name in self.names}
        self.clients = [FakeClient(f"c{i}", self.log) for i in range(1, clients + 1)]
        self.now_primary: NodeId | None = self.names[0]
        self.sync = tuple(n for n in self.names[1:3] if n not in self.witnesses)

    def primary(self) -> NodeId | None:
        return self.now_primary

    def document(self) -> ClusterDocument:
        members = tuple(SyncMember(name, DataId("d")) for name in self.sync)
        return ClusterDocument(
            cluster_id="c",
            cluster_name="sim",
            system_id=1,
            term=Term(1),
            version=1,
            primary=self.names[0],
            primary_data_id=DataId("d"),
            phase=Phase.ACTIVE,
            voters=self.voters,
            learners=(),
            witnesses=self.witnesses,
            sync=SyncSet(members, 1 if members else 0),
            durability=Durability.QUORUM,
            timelines=(),
            hold_ms=2000,
        )

    def cut(self) -> set[str]:
        """Return the directions that nothing passes, as `n1>n2`."""
        places = [*self.names, *(client.name for client in self.clients)]
        return {
            f"{a}>{b}" for a in places for b in places if a != b and not self.network.is_open(a, b)
        }


class Told:
    """An observer of the injector."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None:
        self.lines.append(f"{number} {text}")

    def fault_ended(self, number: int) -> None:
        self.lines.append(f"{number} ended")
