"""A scenario as frozen values: cluster, workload, conditions, timeline, and what is expected of it.

In: nothing; `sim.scenario.parse` makes them. Out: values that others read. Times are nanoseconds.
A step's arguments may still be open: a selector such as `$primary`, or a range to draw from; they
become a concrete `Fault` when the step's time has come.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from metako.config.profiles import TIMING_MS
from metako.election.settings import ElectionSettings
from metako.model.document import Durability, PairMode
from metako.model.ids import NodeId
from sim.faults import Family, Range
from sim.faults.arguments import Open
from sim.heap import NS_PER_S

NODES_MAX = 15
CLIENTS_MAX = 100
DURATION_MAX_NS = 3600 * NS_PER_S


NO_RANGE = Range(0, 0)
FAMILIES = tuple(str(family) for family in Family)


class Anchor(enum.StrEnum):
    """What the time of a step is counted from."""

    START = "start"  # virtual time 0
    PREVIOUS = "previous"  # the moment at which the step before it was applied
    ENDED = "ended"  # the end of the `for` of the step before it
    EVENT = "event"  # the next event or mark of a name, after the step before it was applied


@dataclass(frozen=True, slots=True)
class When:
    """The time of a step."""

    anchor: Anchor
    low_ns: int
    high_ns: int
    event: str = ""  # name of the event or mark
    nth: int = 1  # which of them counts


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline."""

    when: When
    do: str  # a kind of fault, a composite, or `pick`
    args: tuple[tuple[str, Open], ...] = ()  # sorted by name
    bind: str = ""  # `as`: the chosen node is known by this name in later steps
    within_ns: int = 30 * NS_PER_S  # how long to wait for the event; then the step is left out
    times: int = 1  # how often it is done
    every_ns: int = 0  # between two of them


MAJORITY = "majority"
"""Of `pair_mode`: a majority of two voters is both, and nobody decides alone."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes, and how they are set up."""

    names: tuple[NodeId, ...] = (NodeId("n1"), NodeId("n2"), NodeId("n3"))
    witnesses: tuple[NodeId, ...] = ()  # those of the names that hold no data
    acks: int = 1  # k: standbys that confirm a commit
    durability: Durability = Durability.QUORUM
    timing: str = "default"  # the profile that `election` is based on
    election: ElectionSettings = field(default_factory=ElectionSettings)
    learners: tuple[NodeId, ...] = ()  # those of the names without a vote
    spares: tuple[NodeId, ...] = ()  # those that run, and are no members until they are added
    pair_mode: PairMode | None = PairMode.MANUAL  # of two voters; None: their majority, both
    takeover_wait_ms: int = 0  # `takeover`: beyond the hold
    never_lead: tuple[NodeId, ...] = ()  # those of priority 0

    @property
    def data_nodes(self) -> tuple[NodeId, ...]:
        return tuple(name for name in self.names if name not in self.witnesses)

    @property
    def is_pair(self) -> bool:
        """Whether `pair_mode` is of any effect: two voters, and both hold data."""
        voters = set(self.names) - set(self.learners) - set(self.spares)
        return len(voters) == 2 and not self.witnesses

    @property
    def timing_changes_ms(self) -> Mapping[str, int]:
        """The keys of `timing:` that differ from those of the profile."""
        base_ms = TIMING_MS[self.timing]
        values_ms = {key: getattr(self.election, f"{key}_ms") for key in base_ms}
        return {key: value for key, value in values_ms.items() if value != base_ms[key]}


def timing_profile(name: str) -> ElectionSettings:
    """Return the settings of a profile of timing."""
    return ElectionSettings(**{f"{key}_ms": value for key, value in TIMING_MS[name].items()})


class Operation(enum.StrEnum):
    """What a client does; the workload gives each a weight."""

    APPEND = "append"
    READ = "read"
    TXN = "txn"
    RECONNECT = "reconnect"
    CANCEL = "cancel"


LEVELS = ("off", "local", "remote_write", "on", "remote_apply")
"""Values of synchronous_commit; only the last two are covered by the promise."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What clients do."""

    clients: int = 3
    rate: float = 10.0  # operations of one client in a second
    mix: tuple[tuple[Operation, float], ...] = ((Operation.APPEND, 0.7), (Operation.READ, 0.3))
    levels: tuple[tuple[str, float], ...] = (("on", 1.0),)  # synchronous_commit by weight
    homes: tuple[NodeId, ...] = ()  # the hosts that clients live on, in turn; none: elsewhere
    direct: tuple[NodeId, ...] = ()  # a client more for each, which connects past the proxy

    @property
    def names(self) -> tuple[str, ...]:
        """Return the clients' names: `c1`… through proxies, `d1`… directly."""
        through = [f"c{number}" for number in range(1, self.clients + 1)]
        return (*through, *(f"d{number}" for number in range(1, len(self.direct) + 1)))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the world is like in which the scenario plays, and what a swarm may add to it."""

    faults: tuple[str, ...] = FAMILIES
    without: tuple[str, ...] = ()  # families and kinds that it may not
    drift_ppm: int = 0  # the rate of each clock is off by up to this
    loss: Range = NO_RANGE  # of datagrams, on every link
    duplicate: Range = NO_RANGE
    reorder: Range = NO_RANGE
    corrupt: Range = NO_RANGE
    delay: Range | None = None  # one way; None: the network's own


class Core(enum.StrEnum):
    """Whom the peace at the end is made for."""

    NONE = "none"  # nothing is healed: the cluster has to be well as it is
    QUORUM = "quorum"  # a majority with the data: others stay as they are, for ever
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Liveness:
    """What must come true after the faults."""

    heal_core: Core = Core.ALL
    converge_within_ns: int = 30 * NS_PER_S


class Failover(enum.StrEnum):
    """Whether another node must, must not or may become the primary."""

    REQUIRED = "required"
    FORBIDDEN = "forbidden"
    ALLOWED = "allowed"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What this scenario expects, besides every promise that always holds.

    That no acknowledged commit is lost cannot be switched off.
    """

    failover: Failover = Failover.ALLOWED
    elections: tuple[int, int] | None = None  # won; the bootstrap is none; None: any
    rto_max_ns: int | None = None  # from a failover's cause to the next acknowledged write
    writes_blocked_max_ns: int | None = None  # longest time without an acknowledged write
    primary_stays: bool = False  # at the end the primary is the one from the beginning
    sometimes: tuple[str, ...] = ()  # marks that some of the seeds reach
    always: tuple[str, ...] = ()  # marks that every run reaches
    never: tuple[str, ...] = ()  # marks that no run reaches


@dataclass(frozen=True, slots=True)
class Regression:
    """A seed that failed once."""

    seed: int
    commit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file of the library. See the module's docstring."""

    name: str
    summary: str
    cluster: Cluster = Cluster()
    workload: Workload = Workload()
    random: Conditions = Conditions()
    timeline: tuple[Step, ...] = ()
    liveness: Liveness = Liveness()
    duration_ns: int = 60 * NS_PER_S  # of the faults; the peace at the end comes after it
    expect: Expectation = Expectation()
    tier: tuple[str, ...] = ("core",)
    known_good_seeds: tuple[int, ...] = ()
    regressions: tuple[Regression, ...] = ()
