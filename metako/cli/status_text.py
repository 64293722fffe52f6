"""The JSON of a node's status in words and columns, for people.

In: the decoded body of `GET /status`, possibly from an agent of another version. Out: `Picture`,
which the command prints plainly or with colours.

Invariant: a missing key, a null or a value of another type is shown as `-`; nothing an agent sends
makes this fail or reaches the terminal unfiltered.

Deliberately unaware of where the data came from and of how it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from metako.cli.output import plain_table, printable
from metako.cli.status_data import UNKNOWN, Data, names_at, object_at, objects_at, text_at
from metako.cli.upkeep_text import upkeep_facts
from metako.model.document import PairMode, majority_of

LOST_RECORD = "lost record"
NO_MEMBER = "not a member"
STATUS_COLUMNS = (
    "node",
    "role",
    "state",
    "timeline",
    "LSN",
    "lag",
    "gossip",
    "election",
    "sessions",
)
MEMBER_COLUMNS = (
    "node",
    "gossip",
    "address",
    "membership",
    "postgres",
    "proxy",
    "api",
    "PostgreSQL",
    "agent",
)

_DOING = {
    "absent": "copies data",
    "cloning": "copies data",
    "rewinding": "rewinds its data",
    "stopped": "PostgreSQL is stopped",
    "starting": "PostgreSQL starts",
    "running": "does not stream yet",
    "stopping": "PostgreSQL stops",
    "failed": "PostgreSQL failed",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """What `metako status` shows, before it is drawn."""

    facts: tuple[tuple[str, str], ...]  # label and value, one a line
    rows: tuple[tuple[str, ...], ...]  # cells in the order of STATUS_COLUMNS
    trouble: str  # what blocks the cluster, in a sentence; "" when nothing does


def has_primary(data: Data) -> bool:
    """Return whether a primary takes writes now, as far as the node knows."""
    return isinstance(data.get("primary"), str)


def picture(data: Data, now: datetime | None = None) -> Picture:
    """Return what to show of `data`.

    Args:
        data: the body of `GET /status`.
        now: what the clock here shows; None: how long something takes from now is left out.
    """
    document = object_at(data, "document")
    members = objects_at(data, "members")
    facts = [
        ("cluster", text_at(data, "cluster")),
        ("primary", _primary_line(data, members)),
        *_switchover_facts(document),
        *upkeep_facts(document or {}, now),
        *_change_facts(data),
        ("term", _term_line(data)),
        ("document", _document_line(document)),
        ("durability", _durability_line(document)),
        *_pair_facts(document),
        ("asked", f"{text_at(data, 'node')}, {_election_line(data)}"),
        *_watchdog_facts(data),
    ]
    rows = tuple(_status_row(member, data) for member in members)
    return Picture(tuple(facts), rows, _trouble(data))


def member_rows(data: Data) -> tuple[tuple[str, ...], ...]:
    """Return the cells of `metako members`, in the order of MEMBER_COLUMNS."""
    return tuple(
        (
            _name(member),
            text_at(member, "state"),
            text_at(member, "address"),
            _membership(member, data),
            text_at(member, "postgres_address"),
            text_at(member, "proxy_address"),
            text_at(member, "api_address"),
            _server_version(member),
            text_at(member, "agent_version"),
        )
        for member in objects_at(data, "members")
    )


def lines(shown: Picture) -> list[str]:
    """Return the picture as plain lines, trouble last."""
    width = max(len(label) for label, _ in shown.facts) + 2
    result = [f"{label:<{width}}{value}" for label, value in shown.facts]
    result += ["", *plain_table(STATUS_COLUMNS, shown.rows)]
    if shown.trouble:
        result += ["", shown.trouble]
    return result


def _primary_line(data: Data, members: list[Data]) -> str:
    if not has_primary(data):
        own = next((m for m in members if m.get("self") is True), {})
        return "not known to who is no member" if _is_stranger(own, data) else "none"
    name = text_at(data, "primary")
    row = next((m for m in members if m.get("node") == data.get("primary")), None)
    if row is None:
        return name
    return f"{name}, {text_at(row, 'postgres_address')}, timeline {text_at(row, 'timeline')}"


def _switchover_facts(document: Data | None) -> list[tuple[str, str]]:
    switchover = object_at(document or {}, "switchover")
    if switchover is None:
        return []  # the rule, which needs no line
    return [("switchover", f"to {text_at(switchover, 'to')} is under way")]


def _watchdog_facts(data: Data) -> list[tuple[str, str]]:
    """Return how the watchdog of the asked node is, if it has one."""
    watchdog = object_at(data, "watchdog") or {}
    state = text_at(watchdog, "state")
    if state in (UNKNOWN, "off"):
        return []
    if state == "failed":
        return [("watchdog", f"NOT ARMED: {text_at(watchdog, 'why')}")]
    driver = text_at(watchdog, "identity")
    return [("watchdog", f"{state}, {driver}, {text_at(watchdog, 'timeout_s')} s")]


def _change_facts(data: Data) -> list[tuple[str, str]]:
    """Return who gets a vote once it has caught up, and who leaves, each with what it does now."""
    document = object_at(data, "document") or {}
    rows = {text_at(member, "node"): member for member in objects_at(data, "members")}
    joining = ", ".join(
        f"{node} (learner, {_waits_for(rows.get(node, {})) or 'catching up'})"
        for node in names_at(document, "joining")
    )
    leaving = ", ".join(
        f"{node} ({why})" if (why := _waits_for(rows.get(node, {}))) else node
        for node in names_at(document, "leaving")
    )
    return [(name, text) for name, text in (("joining", joining), ("leaving", leaving)) if text]


def _waits_for(member: Data) -> str:
    """Return what a change of a member waits for: as the leader says, else as it shows."""
    if isinstance(member.get("waits_for"), str):
        return text_at(member, "waits_for")
    if member.get("leaving") is True:
        return "a commit may wait for it" if member.get("sync") is True else ""
    return doing(member)


def _term_line(data: Data) -> str:
    term, promised = data.get("term"), data.get("promised_term")
    if isinstance(promised, int) and promised != term:
        return f"{text_at(data, 'term')}, promised {promised}"
    return text_at(data, "term")


def _document_line(document: Data | None) -> str:
    if document is None:
        return "none yet"
    line = f"version {text_at(document, 'ref')}, {text_at(document, 'phase')}"
    return f"{line}, paused" if document.get("paused") is True else line


def _durability_line(document: Data | None) -> str:
    if document is None:
        return UNKNOWN
    mode = text_at(document, "durability")
    sync = object_at(document, "sync") or {}
    nodes = sync.get("nodes")
    names = ", ".join(printable(str(n)) for n in nodes) if isinstance(nodes, list) else ""
    if names:
        return f"{mode}: a commit waits for {text_at(sync, 'k')} of {{{names}}}"
    return f"{mode}: no standby is listed, a commit waits for none"


def _election_line(data: Data) -> str:
    role = text_at(data, "role")
    if _positive(data, "lease_remaining_ms"):
        return f"{role}, lease {_seconds(data, 'lease_remaining_ms')}"
    if _positive(data, "hold_remaining_ms"):
        return f"{role}, hold {_seconds(data, 'hold_remaining_ms')}"
    return role


def _status_row(member: Data, data: Data) -> tuple[str, ...]:
    role = text_at(member, "role")
    if role == "standby" and member.get("sync") is True:
        role = "sync standby"
    return (
        _name(member),
        role,
        text_at(member, "server_state"),
        text_at(member, "timeline"),
        text_at(member, "lsn"),
        lag_of(member),
        text_at(member, "state"),
        _election_cell(member, data),
        text_at(member, "proxy_sessions"),
    )


def _election_cell(member: Data, data: Data) -> str:
    if member.get("self") is True:
        outside = member.get("record") == "lost" or _is_stranger(member, data)
        return _standing(member, data) if outside else _election_line(data)
    if member.get("node") == data.get("leader"):
        return "leader"
    return _standing(member, data)


def _membership(member: Data, data: Data) -> str:
    """Return what a member is by the document; `-` for who is none."""
    if _is_stranger(member, data):
        return UNKNOWN
    standing = _standing(member, data)
    if standing == "voter" and member.get("membership") == "witness":
        standing = "witness"
    if member.get("node") == data.get("leader"):
        standing += ", leads"
    document = object_at(data, "document") or {}
    decides = document.get("committed") is True and member.get("node") == document.get("decider")
    return f"{standing}, decides" if decides else standing


def _standing(member: Data, data: Data) -> str:
    if data.get("document") is None:
        return UNKNOWN
    if _is_stranger(member, data):
        return NO_MEMBER
    if member.get("record") == "lost":
        return LOST_RECORD
    if member.get("leaving") is True:
        return "leaving"
    if member.get("joining") is True:
        return "learner, joins"
    return "voter" if member.get("voter") is True else "learner"


def _is_stranger(member: Data, data: Data) -> bool:
    # An agent of an earlier version does not say who is a member.
    known = data.get("document") is not None and "membership" in member
    return known and member["membership"] is None


def doing(member: Data) -> str:
    """Return what keeps a member's server busy while it catches up; "" if nothing is known."""
    state = text_at(member, "server_state")
    if member.get("state") not in ("alive", None):
        return f"not heard ({text_at(member, 'state')})"
    if member.get("role") == "witness":
        return ""
    return f"streams, lag {lag_of(member)}" if state == "streaming" else _DOING.get(state, "")


def votes_of(data: Data) -> str:
    """Return how many voters there are by the document, and which of them are needed."""
    document = object_at(data, "document") or {}
    count = len(names_at(document, "voters"))
    if rule := _pair_rule(document):
        return f"{count} voters, pair_mode {rule}"
    noun = "voter" if count == 1 else "voters"
    return f"{count} {noun}, of which {majority_of(count)} are needed"


def _pair_facts(document: Data | None) -> list[tuple[str, str]]:
    rule = _pair_rule(document or {})
    return [("pair_mode", rule)] if rule else []


def _pair_rule(document: Data) -> str:
    """Return what two voters without a witness do by themselves; "" where a majority decides."""
    mode, primary, decider = (text_at(document, k) for k in ("pair_mode", "primary", "decider"))
    if UNKNOWN in (mode, decider):
        return ""
    if document.get("committed") is not True:
        # By a version that was not agreed on nobody can be said to decide.
        able = "synchronous standby" if mode == PairMode.TAKEOVER else "primary"
        return f"{mode}: the {able} can lead without the other one"
    if decider != primary:
        return f"{mode}: {decider} takes over alone, and {primary} stops without it"
    then = "waits for it or for `metako failover`"
    if mode == PairMode.TAKEOVER:
        then = f"{then}: no standby is synchronous"
    return f"{mode}: {primary} goes on alone, and its loss {then}"


def _trouble(data: Data) -> str:
    reason = data.get("blocked")
    if isinstance(reason, str) and reason:
        own = next((m for m in objects_at(data, "members") if m.get("self") is True), {})
        if own.get("record") == "lost" or _is_stranger(own, data):
            return printable(reason)  # about this node: of the cluster it knows nothing new
        what = "commits are blocked" if has_primary(data) else "no primary"
        # An agent that knows why nobody leads says that nobody does.
        return printable(reason if reason.startswith(what) else f"{what}: {reason}")
    if not has_primary(data):
        return f"no primary is known to {text_at(data, 'node')}"
    return ""


def _name(member: Data) -> str:
    return f"{text_at(member, 'node')} *" if member.get("self") is True else text_at(member, "node")


def lag_of(member: Data) -> str:
    """Return how far a member's server is behind the primary, `-` if that is not known."""
    parts = []
    size, delay_ms = member.get("lag_bytes"), member.get("lag_ms")
    if isinstance(size, int):
        parts.append(format_bytes(size))
    if isinstance(delay_ms, int):
        parts.append(f"{delay_ms} ms" if delay_ms < 10_000 else f"{delay_ms / 1000:.0f} s")
    return ", ".join(parts) or UNKNOWN


def format_bytes(size: int) -> str:
    """Return a size in the largest unit that leaves a number of at least one: `1.5 MB`."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _server_version(member: Data) -> str:
    number = member.get("server_version")
    if not isinstance(number, int) or number < 100_000:
        return UNKNOWN
    return f"{number // 10_000}.{number % 10_000}"


def _positive(data: Data, key: str) -> bool:
    value = data.get(key)
    return isinstance(value, int | float) and value > 0


def _seconds(data: Data, key: str) -> str:
    value = data.get(key)
    return f"{value / 1000:.1f} s" if isinstance(value, int | float) else UNKNOWN
