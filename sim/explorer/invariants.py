"""The promises, checked in every state and at every step.

Each function returns what is broken, in words, or None. `possible` documents are those that a
candidate could still come to judge by: a majority of voters holds nothing newer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from metako.model.durable import HardState, assert_not_older
from metako.model.ids import Term
from sim.explorer.model import Model
from sim.explorer.state import NOBODY, STANDBY, Branch, Node, State, bits, holds

Check = Callable[[Model, State], str | None]


def acknowledged_is_kept(model: Model, state: State) -> str | None:
    """No acknowledged commit is missing from the WAL of a later primary (G1)."""
    for number, node in enumerate(state.nodes):
        if node.server == STANDBY:
            continue
        wal = model.wals[node.wal]
        own = wal[-1]
        for branch, lsn in state.acked:
            later = branch[0] <= own.term and branch != (own.term, own.node)
            if later and not holds(wal, branch, lsn):
                return (
                    f"{_commit(model, branch, lsn)} was acknowledged, and "
                    f"{model.names[number]}, primary of term {own.term}, does not have it"
                )
    return None


def one_acknowledges(model: Model, state: State) -> str | None:
    """After a newer primary was promoted an older one can acknowledge no new commit (G2)."""
    primaries = [n for n, node in enumerate(state.nodes) if node.server != STANDBY]
    if len(primaries) < 2:
        return None
    terms = {n: model.wals[state.nodes[n].wal][-1].term for n in primaries}
    newest = max(terms.values())
    for number in primaries:
        node = state.nodes[number]
        rival = terms[number] < newest or sum(t == newest for t in terms.values()) > 1
        if rival and any(_suffices(state, number, each) for each in (node.sync, *node.stale)):
            other = max((n for n in primaries if n != number), key=lambda n: terms[n])
            return (
                f"{model.names[number]}, primary of term {terms[number]}, can acknowledge new "
                f"commits beside {model.names[other]}, primary of term {terms[other]}"
            )
    return None


def _suffices(state: State, number: int, setting: tuple[int, int]) -> bool:
    mask, k = setting
    return sum(state.nodes[other].upstream == number for other in bits(mask)) >= k


def data_quorums_cover(model: Model, state: State) -> str | None:
    """Every data quorum of every possible document has every acknowledged commit."""
    if not state.acked:
        return None
    for document in _possible(model, state):
        mask, k = model.listed(document)
        primary = model.index[model.documents[document].primary]
        for branch, lsn in state.acked:
            have = [holds(model.wals[node.wal], branch, lsn) for node in state.nodes]
            ref = model.ref(document)
            if sum(have[member] for member in bits(mask)) < k:
                without = ", ".join(model.names[m] for m in bits(mask) if not have[m])
                return (
                    f"document {ref} takes {without} for a data quorum, which is without "
                    f"{_commit(model, branch, lsn)}, acknowledged"
                )
            if not have[primary]:
                return (
                    f"document {ref} takes {model.names[primary]} alone for a data quorum, which "
                    f"is without {_commit(model, branch, lsn)}, acknowledged"
                )
    return None


def _possible(model: Model, state: State) -> list[int]:
    held = sorted({node.document for node in state.nodes}, key=model.ref)
    refs = [model.ref(node.document) for node in state.nodes]
    return [each for each in held if sum(ref <= model.ref(each) for ref in refs) >= model.majority]


def one_leader_a_term(model: Model, state: State) -> str | None:
    """All documents of a term name one primary, which wrote them."""
    leaders: dict[int, str] = {}
    for node in state.nodes:
        document = model.documents[node.document]
        known = leaders.setdefault(document.term, document.primary)
        if known != document.primary:
            return f"term {document.term} has two leaders, {known} and {document.primary}"
    return None


def timelines_are_unique(model: Model, state: State) -> str | None:
    """No timeline number stands for the WAL of two primaries."""
    writers: dict[int, Branch] = {}
    for node in state.nodes:
        for record in model.wals[node.wal]:
            branch = record.term, record.node
            known = writers.setdefault(record.tli, branch)
            if known != branch:
                return (
                    f"timeline {record.tli} was written by {model.names[known[1]]} in term "
                    f"{known[0]} and by {model.names[branch[1]]} in term {branch[0]}"
                )
    return None


def nothing_goes_back(model: Model, before: State, after: State) -> str | None:
    """No durable record goes back, and no vote is given twice in a term."""
    for number, (old, new) in enumerate(zip(before.nodes, after.nodes, strict=True)):
        if old[:3] == new[:3]:
            continue
        had = _record(model, number, old)
        if new.vote == NOBODY and new.promised > old.promised:
            # A leader was heard whom this node has not voted for: the vote before stays on record.
            has = replace(_record(model, number, new), term=had.term, voted_for=had.voted_for)
        else:
            has = _record(model, number, new)
        try:
            assert_not_older(had, has)
        except AssertionError as error:
            return f"the durable record of {model.names[number]} went back: {error}"
    return None


def _record(model: Model, number: int, node: Node) -> HardState:
    return HardState(
        node_id=model.names[number],
        boot_epoch=1,
        term=Term(node.promised if node.vote != NOBODY else 0),
        voted_for=model.names[node.vote] if node.vote != NOBODY else None,
        promised_term=Term(node.promised),
        document=model.documents[node.document],
    )


def _commit(model: Model, branch: Branch, lsn: int) -> str:
    return f"commit {lsn} of {model.names[branch[1]]} in term {branch[0]}"


CHECKS: dict[str, Check] = {
    "acknowledged_is_kept": acknowledged_is_kept,
    "one_acknowledges": one_acknowledges,
    "data_quorums_cover": data_quorums_cover,
    "one_leader_a_term": one_leader_a_term,
    "timelines_are_unique": timelines_are_unique,
}
"""Those of a state. `nothing_goes_back` is that of a step."""


def broken(model: Model, state: State) -> tuple[str, str] | None:
    """Return the first check that a state fails, with what is wrong."""
    for name, check in CHECKS.items():
        text = check(model, state)
        if text is not None:
            return name, text
    return None
