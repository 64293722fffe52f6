"""What a configuration asks of two voters without a witness, and whether that can be had.

Input: the values of a file and the members that it names. Output: problems and remarks. The rule in
force is the cluster document's; what is said here is what a file asks for. Source: DESIGN §4.6.
"""

from __future__ import annotations

from metako.config.members import Members
from metako.config.problems import Problem
from metako.config.schema import FileSchema
from metako.model.document import Durability, PairMode

_MODE = ("cluster", "pair_mode")
_NOT_CHOSEN = (
    "cluster.pair_mode: not chosen, so `manual` is in force. A majority of two voters is both, so "
    "no rule survives the loss of either one. `manual`: the primary goes on alone when the other "
    "one is lost, and the loss of the primary waits for it or for `metako failover --lost`. "
    "`takeover`: the synchronous standby takes over alone when the primary is lost, and without "
    "that standby the primary stops. Better than both is a witness as a third member: then the "
    "loss of any one of them is survived"
)


def check_pair(schema: FileSchema, members: Members) -> tuple[list[Problem], list[str]]:
    """Return problems and remarks: what a pair's rule cannot have, and what will not happen."""
    section = schema.cluster
    mode = None if section.pair_mode is None else PairMode(section.pair_mode)
    unused = [
        f"cluster.{name}: has no effect without cluster.pair_mode: takeover"
        for name in ("takeover_delay", "takeover_failures")
        if name in section.model_fields_set and mode is not PairMode.TAKEOVER
    ]
    voters = members.voters
    if len(voters) != 2 or any(member.witness for member in voters):
        return [], [*unused, *_no_pair(members, mode)]
    notes = [*unused, *_of_two(schema)]
    if mode is None:
        return [], [*notes, _NOT_CHOSEN]
    if mode is PairMode.MANUAL:
        return [], notes
    if schema.durability.mode is Durability.STRICT:
        text = (
            "takeover with durability strict: after a takeover every commit would wait for the "
            "server that was lost"
        )
        return [Problem(_MODE, text, "use durability quorum, or pair_mode manual")], notes
    if schema.durability.mode is Durability.ASYNC:
        notes.append(
            "cluster.pair_mode: takeover never happens with durability async: no standby is "
            "synchronous, so none takes over alone, and what happens is what `manual` does"
        )
    return [], notes


def _no_pair(members: Members, mode: PairMode | None) -> list[str]:
    """Return what is to be said of members that are no pair."""
    notes = []
    if mode is not None:
        notes.append(
            f"cluster.pair_mode: {mode} has no effect: it is for two voters without a witness, "
            "and here a majority of the voters decides"
        )
    if len(members.voters) == 2:
        notes.append(
            "cluster.members: one of two voters is a witness: nobody leads without both of them; "
            "add a node with data as a third member"
        )
    return notes


def _of_two(schema: FileSchema) -> list[str]:
    """Return which other keys keep a pair's rule from what it promises."""
    notes = []
    if schema.cluster.min_votes == 2:
        notes.append(
            "cluster.min_votes: 2 of two voters: nobody is elected by its own vote, whatever "
            "cluster.pair_mode says"
        )
    if schema.durability.mode is Durability.STRICT:
        notes.append(
            "durability.mode: strict: there is one standby, and while it is lost commits wait, "
            "whatever cluster.pair_mode says"
        )
    return notes
