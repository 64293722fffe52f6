"""A run as a file: the scenario, the seed, and the concrete faults, so that it can be replayed.

In: a result and its scenario, or the text of such a file. Out: JSON text, or a `SavedRun`.
Invariant: replaying needs nothing but this file and the program; the scenario is in it as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sim.faults import Fault, FaultError, checked, nodes_named
from sim.result import Result, Violation
from sim.scenario.data import to_data
from sim.scenario.fields import ScenarioError
from sim.scenario.model import Scenario
from sim.scenario.parse import parse_scenario

FORMAT = 1
FAULTS_MAX = 100_000
KEYS = ("format", "scenario", "seed", "faults", "extra_faults", "mutation", "violation")


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What is needed to play a run again, and what came of it then."""

    scenario: Scenario
    seed: int
    faults: tuple[Fault, ...]
    mutation: str | None = None  # the planted bug that it was played with
    extra_faults: bool = True  # random ones are among them, so that nothing can be expected
    violation: Violation | None = None


def save_run(
    result: Result,
    scenario: Scenario,
    *,
    mutation: str | None = None,
    extra_faults: bool = True,
) -> str:
    """Return a run as text. Equal runs give equal texts."""
    violation = result.violation
    data = {
        "format": FORMAT,
        "scenario": to_data(scenario),
        "seed": result.seed,
        "mutation": mutation,
        "extra_faults": extra_faults,
        "violation": None
        if violation is None
        else {
            "check": violation.check,
            "text": violation.text,
            "at_ns": violation.at_ns,
            "nodes": list(violation.nodes),
        },
    }
    # One fault a line: such a file is read, compared and shortened by people.
    head = json.dumps(data, indent=1, ensure_ascii=False)[:-2]
    faults = [json.dumps(fault.to_json(), ensure_ascii=False) for fault in result.faults]
    lines = ",\n  ".join(faults)
    listed = f"[\n  {lines}\n ]" if faults else "[]"
    return f'{head},\n "faults": {listed}\n}}\n'


def load_run(text: str, file: str = "saved run") -> SavedRun:
    """Return a run that was saved.

    Args:
        text: the whole file.
        file: what the file is called in errors.

    Raises:
        ScenarioError: it is no saved run, or one of another format; all of it is told.
    """
    data = _decoded(text, file)
    lines: list[str] = []
    lines += [f"{file}: unknown key {key!r}" for key in data if key not in KEYS]
    scenario, problems = parse_scenario(data.get("scenario"))
    lines += [f"{file}: scenario: {p.text('', 0).removeprefix(':0: ')}" for p in problems]
    seed = data.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        lines.append(f"{file}: seed: is no whole number")
        seed = 0
    mutation = data.get("mutation")
    if mutation is not None and not isinstance(mutation, str):
        lines.append(f"{file}: mutation: is no name")
        mutation = None
    extra_faults = data.get("extra_faults", True)
    if not isinstance(extra_faults, bool):
        lines.append(f"{file}: extra_faults: is not true or false")
        extra_faults = True
    faults = _faults(data.get("faults"), scenario, file, lines)
    violation = _violation(data.get("violation"), file, lines)
    if lines:
        raise ScenarioError(lines)
    return SavedRun(scenario, seed, faults, mutation, extra_faults, violation)


def _decoded(text: str, file: str) -> Mapping[str, object]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ScenarioError([f"{file}:{error.lineno}: not valid JSON: {error.msg}"]) from None
    except RecursionError:
        raise ScenarioError([f"{file}: not valid JSON: it is nested too deeply"]) from None
    if not isinstance(data, dict):
        raise ScenarioError([f"{file}: is no saved run; make one with --save"])
    if data.get("format") != FORMAT:
        found = data.get("format")
        hint = "make one with --save" if found is None else f"this program reads {FORMAT}"
        raise ScenarioError([f"{file}: format {found!r} is unknown; {hint}"])
    return data


def _faults(data: object, scenario: Scenario, file: str, lines: list[str]) -> tuple[Fault, ...]:
    if not isinstance(data, list):
        lines.append(f"{file}: faults: is no list")
        return ()
    if len(data) > FAULTS_MAX:
        lines.append(f"{file}: faults: are more than {FAULTS_MAX}")
        return ()
    known = {*scenario.cluster.names, *scenario.workload.names}
    found: list[Fault] = []
    for number, item in enumerate(data):
        try:
            fault = checked(item)
        except FaultError as error:
            lines.append(f"{file}: faults[{number}]: {error}")
            continue
        strangers = [name for name in nodes_named(fault) if name not in known]
        if strangers:
            lines.append(f"{file}: faults[{number}]: there is no node {strangers[0]!r}")
        found.append(fault)
    return tuple(found)


def _violation(data: object, file: str, lines: list[str]) -> Violation | None:
    if data is None:
        return None
    if isinstance(data, dict):
        check, text, at_ns = data.get("check"), data.get("text"), data.get("at_ns")
        nodes = data.get("nodes", [])
        named = isinstance(nodes, list) and all(isinstance(node, str) for node in nodes)
        if isinstance(check, str) and isinstance(text, str) and isinstance(at_ns, int) and named:
            return Violation(check, text, at_ns, tuple(nodes))
    lines.append(f"{file}: violation: is not one of check, text, at_ns and nodes")
    return None
