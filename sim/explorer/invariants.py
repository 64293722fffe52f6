"""The promises, checked in every state and at every step.

Each function returns what is broken, in words, or None. `possible` documents are those that a
candidate could still come to judge by: a majority of voters holds nothing newer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from metako.model.document import NO_DOCUMENT, DocumentRef, MemberRecord, SyncMember
from metako.model.durable import HardState, assert_not_older
from metako.model.ids import Term
from sim.explorer.model import Model
from sim.explorer.narrate import label
from sim.explorer.state import FORGOTTEN, NOBODY, STANDBY, Branch, Node, State, holds

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
                    f"{_commit(model, state, branch, lsn)} was acknowledged, and "
                    f"{label(model, state, number)}, primary of term {own.term}, does not have it"
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
                f"{label(model, state, number)}, primary of term {terms[number]}, can acknowledge "
                f"new commits beside {label(model, state, other)}, primary of term {terms[other]}"
            )
    return None


def _suffices(state: State, number: int, setting: tuple[int, int]) -> bool:
    mask, k = setting
    return sum(node.upstream == number and mask >> node.name & 1 for node in state.nodes) >= k


def data_quorums_cover(model: Model, state: State) -> str | None:
    """Every data quorum of every possible document has every acknowledged commit."""
    if not state.acked:
        return None
    for number in _possible(model, state):
        document = model.documents[number]
        for branch, lsn in state.acked:
            lacking = {
                model.member(node.name, node.data): label(model, state, at)
                for at, node in enumerate(state.nodes)
                if node.past != FORGOTTEN  # whose data is another's now
                and model.has_data(node)
                and not holds(model.wals[node.wal], branch, lsn)
            }
            quorum = [lacking[member] for member in document.sync.members if member in lacking]
            primary = lacking.get(SyncMember(document.primary, document.primary_data_id))
            alone = len(quorum) < document.sync.read_quorum
            if alone and primary is None:
                continue
            what = f"{primary} alone" if alone else ", ".join(quorum)
            return (
                f"document {document.ref} takes {what} for a data quorum, which is without "
                f"{_commit(model, state, branch, lsn)}, acknowledged"
            )
    return None


def _possible(model: Model, state: State) -> list[int]:
    held = sorted({node.document for node in state.nodes}, key=model.ref)
    return [each for each in held if _may_win(model, state, each)]


def _may_win(model: Model, state: State, number: int) -> bool:
    """Return whether a majority that counts by a document holds nothing newer."""
    document = model.documents[number]
    if not model.members_change:
        if any(node.sole and node.document == number for node in state.nodes):
            return True  # its holder needs nobody else
        refs = [model.ref(node.document) for node in state.nodes]
        return sum(ref <= document.ref for ref in refs) >= document.majority
    able = [
        model.names[node.name]
        for at, node in enumerate(state.nodes)
        if model.ref(node.document) <= document.ref
        and (
            document.admits(model.names[node.name], model.record_id(at))
            or (
                model.counts(at, node)
                and document.counts(model.names[node.name], model.ref(node.document))
            )
        )
    ]
    return document.has_majority(able)


def control_quorums_meet(model: Model, state: State) -> str | None:
    """Any majorities by two possible documents share a voter, with the same record (Lemma 0)."""
    if not model.members_change:
        return None
    possible = _possible(model, state)
    for at, one in enumerate(possible):
        for other in possible[at + 1 :]:
            if not _meet(model, one, other):
                refs = f"{model.ref(one)} and {model.ref(other)}"
                return f"a majority by each of the documents {refs} share no voter that remembers"
    return None


def _meet(model: Model, one: int, other: int) -> bool:
    voters, needed = set[MemberRecord](), 0
    for number in (one, other):
        document = model.documents[number]
        needed += document.majority
        for name in document.voters:
            record = document.record_of(name)
            voters.add(record._replace(since=NO_DOCUMENT))
    return needed > len(voters)


def one_leader_a_term(model: Model, state: State) -> str | None:
    """All documents of a term name one primary, which wrote them, each version once."""
    leaders: dict[int, str] = {}
    versions: dict[DocumentRef, int] = {}
    for node in state.nodes:
        document = model.documents[node.document]
        known = leaders.setdefault(document.term, document.primary)
        if known != document.primary:
            return f"term {document.term} has two leaders, {known} and {document.primary}"
        if versions.setdefault(document.ref, node.document) != node.document:
            return f"there are two documents {document.ref}, both of {known}"
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
                    f"timeline {record.tli} was written by {label(model, state, known[1])} in term "
                    f"{known[0]} and by {label(model, state, branch[1])} in term {branch[0]}"
                )
    return None


def nothing_goes_back(model: Model, before: State, after: State) -> str | None:
    """No durable record goes back, and no vote is given twice in a term."""
    # A record that was made anew is none of those before.
    for number, (old, new) in enumerate(zip(before.nodes, after.nodes, strict=False)):
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
            return f"the durable record of {label(model, after, number)} went back: {error}"
    return None


def _record(model: Model, number: int, node: Node) -> HardState:
    return HardState(
        node_id=model.names[node.name],
        record_id=model.record_id(number),
        boot_epoch=1,
        term=Term(node.promised if node.vote != NOBODY else 0),
        voted_for=model.names[node.vote] if node.vote != NOBODY else None,
        promised_term=Term(node.promised),
        document=model.documents[node.document],
    )


def _commit(model: Model, state: State, branch: Branch, lsn: int) -> str:
    return f"commit {lsn} of {label(model, state, branch[1])} in term {branch[0]}"


CHECKS: dict[str, Check] = {
    "acknowledged_is_kept": acknowledged_is_kept,
    "one_acknowledges": one_acknowledges,
    "data_quorums_cover": data_quorums_cover,
    "one_leader_a_term": one_leader_a_term,
    "control_quorums_meet": control_quorums_meet,
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
