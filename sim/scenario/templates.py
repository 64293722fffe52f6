"""What a swarm may do at random: kinds of faults with their numbers, as a table.

In: nothing. Out: templates, each a kind with arguments to draw and how long it usually lasts.
A template has a name of its own (`kill:agent`), because a run turns half of the templates off, not
half of the kinds: that is what makes some runs all about one thing.

Left out on purpose is what nothing promises to survive: a lying fsync or a lost record on several
nodes, clocks beyond ρ. So are forgotten slots and small disks, which do something only together and
after a while. Scenarios name those themselves.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.faults import KINDS, Range
from sim.faults.arguments import Open
from sim.heap import NS_PER_MS, NS_PER_S
from sim.scenario.composites import COMPOSITES


class Span(enum.Enum):
    """How long a fault lasts, as bounds in nanoseconds."""

    NONE = None  # it is over at once
    BLINK = (20 * NS_PER_MS, 400 * NS_PER_MS)
    SHORT = (300 * NS_PER_MS, 3 * NS_PER_S)
    LONG = (2 * NS_PER_S, 15 * NS_PER_S)


class Who(enum.Enum):
    """Whom a fault is about."""

    NOBODY = ()
    NODE = ("node",)
    DATA_NODE = ("node", "data")
    PAIR = ("from", "to")
    GROUPS = ("groups",)
    ALL = ("all",)


@dataclass(frozen=True, slots=True)
class Template:
    """One thing that may happen."""

    name: str
    do: str
    who: Who
    spans: tuple[Span, ...]
    weight: float = 1.0
    args: Mapping[str, Open] = field(default_factory=dict)

    @property
    def family(self) -> str:
        kind = KINDS.get(self.do) or COMPOSITES[self.do]
        return str(kind.family)

    def words(self) -> tuple[str, str, str]:
        """Return the words by which the template can be allowed or turned off."""
        return (self.name, self.do, self.family)


_ANY = (Span.BLINK, Span.SHORT, Span.LONG)
_STAY = (Span.SHORT, Span.LONG)


def _t(
    name: str,
    who: Who,
    spans: tuple[Span, ...],
    weight: float = 1.0,
    **args: Open,
) -> Template:
    return Template(name, name.partition(":")[0], who, spans, weight, args)


def _ms(low: float, high: float) -> Range:
    return Range(round(low * NS_PER_MS), round(high * NS_PER_MS))


TEMPLATES: tuple[Template, ...] = (
    # network
    _t("partition", Who.GROUPS, _ANY, 2),
    _t("partition:refuse", Who.GROUPS, _STAY, 0.5, kind="refuse"),
    _t("isolate", Who.NODE, _ANY, 2),
    _t("isolate:clients", Who.NODE, _STAY, 0.5, clients=True),
    _t("isolate:in", Who.NODE, _ANY, direction="in"),
    _t("isolate:out", Who.NODE, _ANY, direction="out"),
    _t("isolate:agents", Who.NODE, _STAY, 0.7, traffic="agents"),
    _t("isolate:replication", Who.DATA_NODE, _STAY, 0.7, traffic="replication"),
    _t("cut", Who.PAIR, _ANY),
    _t("cut:gossip", Who.PAIR, _STAY, 0.5, traffic="gossip"),
    _t("cut:replication", Who.PAIR, _STAY, 0.5, traffic="replication"),
    _t("bridge", Who.NODE, _STAY, 0.5),
    _t("majority_ring", Who.ALL, _STAY, 0.5),
    _t("link:lossy", Who.PAIR, _STAY, 1, loss=Range(0.05, 0.6)),
    _t("link:slow", Who.PAIR, _STAY, 1, delay=_ms(5, 200), jitter=_ms(0, 100)),
    _t("link:messy", Who.PAIR, _STAY, 0.5, duplicate=Range(0.05, 0.5), reorder=Range(0.05, 0.5)),
    _t("link:corrupt", Who.PAIR, _STAY, 0.3, corrupt=Range(0.01, 0.3)),
    _t("clog", Who.PAIR, _ANY),
    _t("swizzle", Who.ALL, (Span.NONE,), 0.5, every=_ms(50, 800), hold=_ms(100, 3000)),
    _t("flap", Who.NODE, (Span.NONE,), 0.5, period=_ms(200, 3000), times=Range(2, 6)),
    # processes
    _t("kill:host", Who.NODE, _STAY, 2, what="host"),
    _t("kill:agent", Who.NODE, _ANY, 2, what="agent"),
    _t("kill:guard", Who.DATA_NODE, (Span.NONE,), 1, what="guard"),
    _t("kill:postgres", Who.DATA_NODE, (Span.NONE,), 2, what="postgres"),
    _t("kill:proxy", Who.DATA_NODE, (Span.NONE,), 0.3, what="proxy"),
    _t("pause:host", Who.NODE, _ANY, 1, what="host"),
    _t("pause:agent", Who.NODE, _ANY, 1, what="agent"),
    _t("pause:guard", Who.DATA_NODE, _STAY, 0.5, what="guard"),
    _t("pause:postgres", Who.DATA_NODE, _ANY, 1, what="postgres"),
    _t("stop", Who.NODE, _STAY, 1),
    _t("slow_agent", Who.NODE, _STAY, 1, step=_ms(1, 150)),
    _t("power_loss", Who.ALL, (Span.NONE,), 0.3, down=_ms(100, 5000), stagger=_ms(0, 4000)),
    _t("rolling", Who.ALL, (Span.NONE,), 0.2, every=_ms(1000, 6000), down=_ms(300, 3000)),
    # clocks, within ρ
    _t("clock_rate", Who.NODE, _STAY, 1, rate=Range(-9000, 9000)),
    _t("clock_jump", Who.NODE, (Span.NONE,), 1, by=Range(-3600 * NS_PER_S, 3600 * NS_PER_S)),
    _t("suspend", Who.NODE, _ANY, 1),
    # disks: what the design claims to survive
    _t("disk_full", Who.NODE, _STAY, 0.5),
    _t("disk_error", Who.NODE, _STAY, 0.5),
    _t("disk_slow", Who.NODE, _STAY, 1, delay=_ms(5, 400)),
    _t("torn_write", Who.NODE, (Span.NONE,), 0.5),
    _t("wal_disk_full", Who.DATA_NODE, _STAY, 0.5),
    # PostgreSQL
    _t("hang", Who.DATA_NODE, _STAY, 1),
    _t("stall_standby", Who.DATA_NODE, _ANY, 2),
    _t("pause_replay", Who.DATA_NODE, _STAY, 1),
    _t("promote_slow", Who.DATA_NODE, _STAY, 0.5, extra=_ms(100, 4000)),
    _t("promote_hang", Who.DATA_NODE, _STAY, 0.3),
    _t("slow_postgres", Who.DATA_NODE, _STAY, 1, factor=Range(2, 12)),
    _t("slow_reload", Who.DATA_NODE, _STAY, 0.5, delay=_ms(20, 2000)),
    _t("rewind_fails", Who.DATA_NODE, _STAY, 0.5, times=Range(1, 2)),
    _t("clone_breaks", Who.DATA_NODE, _STAY, 0.5, times=Range(1, 2)),
    _t("start_fails", Who.DATA_NODE, _STAY, 0.5, times=Range(1, 3)),
    _t("remove_wal", Who.DATA_NODE, (Span.NONE,), 0.3, slots_keep=Range(0, 200)),
    # operators
    _t("switchover", Who.NODE, (Span.NONE,), 1.5),
    _t("cancel_switchover", Who.NODE, (Span.NONE,), 0.3),
    # clients
    _t("cancel_waiting", Who.NOBODY, (Span.NONE,), 1),
    _t("client_storm", Who.NOBODY, _STAY, 0.3, factor=Range(3, 20)),
    _t("reconnect", Who.NOBODY, (Span.NONE,), 0.5),
)
