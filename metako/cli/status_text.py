"""The JSON of a node's status in words and columns, for people.

In: the decoded body of `GET /status`, possibly from an agent of another version. Out: `Picture`,
which the command prints plainly or with colours.

Invariant: a missing key, a null or a value of another type is shown as `-`; nothing an agent sends
makes this fail or reaches the terminal unfiltered.

Deliberately unaware of where the data came from and of how it is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metako.cli.output import plain_table, printable

UNKNOWN = "-"
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
    "vote",
    "postgres",
    "proxy",
    "api",
    "PostgreSQL",
    "agent",
)

Data = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Picture:
    """What `metako status` shows, before it is drawn."""

    facts: tuple[tuple[str, str], ...]  # label and value, one a line
    rows: tuple[tuple[str, ...], ...]  # cells in the order of STATUS_COLUMNS
    trouble: str  # what blocks the cluster, in a sentence; "" when nothing does


def has_primary(data: Data) -> bool:
    """Return whether a primary takes writes now, as far as the node knows."""
    return isinstance(data.get("primary"), str)


def picture(data: Data) -> Picture:
    """Return what to show of `data`."""
    document = _object(data, "document")
    members = _objects(data, "members")
    facts = [
        ("cluster", _text(data, "cluster")),
        ("primary", _primary_line(data, members)),
        ("term", _term_line(data)),
        ("document", _document_line(document)),
        ("durability", _durability_line(document)),
        ("asked", f"{_text(data, 'node')}, {_election_line(data)}"),
    ]
    rows = tuple(_status_row(member, data) for member in members)
    return Picture(tuple(facts), rows, _trouble(data))


def member_rows(data: Data) -> tuple[tuple[str, ...], ...]:
    """Return the cells of `metako members`, in the order of MEMBER_COLUMNS."""
    return tuple(
        (
            _name(member),
            _text(member, "state"),
            _text(member, "address"),
            _vote(member, data),
            _text(member, "postgres_address"),
            _text(member, "proxy_address"),
            _text(member, "api_address"),
            _server_version(member),
            _text(member, "agent_version"),
        )
        for member in _objects(data, "members")
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
        return "none"
    name = _text(data, "primary")
    row = next((m for m in members if m.get("node") == data.get("primary")), None)
    if row is None:
        return name
    return f"{name}, {_text(row, 'postgres_address')}, timeline {_text(row, 'timeline')}"


def _term_line(data: Data) -> str:
    term, promised = data.get("term"), data.get("promised_term")
    if isinstance(promised, int) and promised != term:
        return f"{_text(data, 'term')}, promised {promised}"
    return _text(data, "term")


def _document_line(document: Data | None) -> str:
    if document is None:
        return "none yet"
    line = f"version {_text(document, 'ref')}, {_text(document, 'phase')}"
    return f"{line}, paused" if document.get("paused") is True else line


def _durability_line(document: Data | None) -> str:
    if document is None:
        return UNKNOWN
    mode = _text(document, "durability")
    sync = _object(document, "sync") or {}
    nodes = sync.get("nodes")
    names = ", ".join(printable(str(n)) for n in nodes) if isinstance(nodes, list) else ""
    if names:
        return f"{mode}: a commit waits for {_text(sync, 'k')} of {{{names}}}"
    return f"{mode}: no standby is listed, a commit waits for none"


def _election_line(data: Data) -> str:
    role = _text(data, "role")
    if _positive(data, "lease_remaining_ms"):
        return f"{role}, lease {_seconds(data, 'lease_remaining_ms')}"
    if _positive(data, "hold_remaining_ms"):
        return f"{role}, hold {_seconds(data, 'hold_remaining_ms')}"
    return role


def _status_row(member: Data, data: Data) -> tuple[str, ...]:
    role = _text(member, "role")
    if role == "standby" and member.get("sync") is True:
        role = "sync standby"
    return (
        _name(member),
        role,
        _text(member, "server_state"),
        _text(member, "timeline"),
        _text(member, "lsn"),
        _lag(member),
        _text(member, "state"),
        _election_line(data) if member.get("self") is True else _vote(member, data),
        _text(member, "proxy_sessions"),
    )


def _vote(member: Data, data: Data) -> str:
    if member.get("node") == data.get("leader"):
        return "leader"
    if data.get("document") is None:
        return UNKNOWN
    return "voter" if member.get("voter") is True else "learner"


def _trouble(data: Data) -> str:
    reason = data.get("blocked")
    if isinstance(reason, str) and reason:
        what = "commits are blocked" if has_primary(data) else "no primary"
        return f"{what}: {printable(reason)}"
    if not has_primary(data):
        return f"no primary is known to {_text(data, 'node')}"
    return ""


def _name(member: Data) -> str:
    return f"{_text(member, 'node')} *" if member.get("self") is True else _text(member, "node")


def _lag(member: Data) -> str:
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


def _text(data: Data, key: str) -> str:
    value = data.get(key)
    if isinstance(value, str) and value:
        return printable(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return UNKNOWN


def _object(data: Data, key: str) -> Data | None:
    value = data.get(key)
    return value if isinstance(value, dict) else None


def _objects(data: Data, key: str) -> list[Data]:
    value = data.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
