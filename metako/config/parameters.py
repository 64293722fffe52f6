"""Which PostgreSQL settings and pg_hba lines an operator may write into the configuration.

Input: `postgresql.parameters` and `postgresql.hba`. Output: problems, and the settings in one
spelling. A setting that metako writes itself is refused by name: accepting and overriding it would
leave the operator with a file that does not say what is in force. Does not know whether a name
exists in PostgreSQL; the server says so when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from metako.config.problems import Path, Problem
from metako.model.document import Durability

PARAMETERS: Path = ("postgresql", "parameters")
HBA: Path = ("postgresql", "hba")

INSTEAD = {
    "listen_addresses": "use postgresql.listen",
    "port": "use postgresql.port",
    "data_directory": "use postgresql.data_dir",
    "hba_file": "use postgresql.hba",
    "cluster_name": "use cluster.name",
    "synchronous_standby_names": "use durability.mode and durability.acks",
}
"""Managed settings that have a key of their own."""

MANAGED = frozenset(
    (
        *INSTEAD,
        "config_file",
        "external_pid_file",
        "hot_standby",
        "ident_file",
        "include",
        "include_dir",
        "include_if_exists",
        "lc_messages",
        "log_destination",
        "logging_collector",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
        "recovery_end_command",
        "recovery_min_apply_delay",
        "restart_after_crash",
        "restore_command",
        "unix_socket_directories",
        "wal_log_hints",
    )
)
"""Settings that metako writes itself, and settings that would take its control away."""

MANAGED_PREFIXES = ("recovery_target", "metako.")
_PARAMETER = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)?")
_OFF = frozenset(("off", "false", "no", "0", "of", "f", "n", "fals", "fa", "fal"))
_SYNCED = frozenset(("fsync", "full_page_writes"))  # what every durability rests on
_WAL_LEVELS = ("replica", "logical")
_WEAK_COMMIT = frozenset(("off", "local", "remote_write", "false", "no", "0"))
_HBA_FIELDS_MIN = {"local": 4} | dict.fromkeys(
    ("host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"), 5
)


def check_parameters(
    parameters: Mapping[str, str], durability: Durability
) -> tuple[tuple[tuple[str, str], ...], list[Problem]]:
    """Return the settings sorted, in lower case, and what is wrong with them."""
    result: dict[str, str] = {}
    problems = []
    for written, value in parameters.items():
        name = written.lower()
        path = (*PARAMETERS, written)
        if _PARAMETER.fullmatch(name) is None:
            problems.append(Problem(path, "is not the name of a PostgreSQL setting"))
        elif name in result:
            problems.append(Problem(path, "the setting is given twice, in upper and lower case"))
        elif name in MANAGED or name.startswith(MANAGED_PREFIXES):
            hint = INSTEAD.get(name, "remove it")
            problems.append(Problem(path, "is managed by metako", hint))
        elif name == "wal_level" and value.lower() not in _WAL_LEVELS:
            problems.append(Problem(path, f"{value!r} is too low", "use replica or logical"))
        elif name in _SYNCED and value.lower() in _OFF:
            text = f"{name}=off loses acknowledged commits when a machine fails"
            problems.append(Problem(path, text, "remove it"))
        elif (danger := _danger(name, value.lower(), durability)) is not None:
            problems.append(Problem(path, danger, "remove it, or set durability.mode: async"))
        result[name] = value
    return tuple(sorted(result.items())), problems


def _danger(name: str, value: str, durability: Durability) -> str | None:
    """Return why a value would break a promise of metako; None if it does not."""
    if durability is Durability.ASYNC:
        return None
    if name == "synchronous_commit" and value in _WEAK_COMMIT:
        return f"synchronous_commit={value} acknowledges commits that a failover can lose"
    return None


def check_hba(lines: Sequence[str]) -> list[Problem]:
    """Return what is wrong with the shape of pg_hba lines; PostgreSQL checks the rest."""
    problems = []
    for index, line in enumerate(lines):
        words = line.split()
        least = _HBA_FIELDS_MIN.get(words[0])
        if least is None:
            kinds = ", ".join(_HBA_FIELDS_MIN)
            problems.append(
                Problem((*HBA, index), f"{words[0]!r} is no kind of pg_hba line", f"use {kinds}")
            )
        elif len(words) < least:
            shape = "local DATABASE USER METHOD"
            if least == 5:
                shape = f"{words[0]} DATABASE USER ADDRESS METHOD"
            problems.append(
                Problem((*HBA, index), "the pg_hba line is too short", f"write '{shape}'")
            )
    return problems
