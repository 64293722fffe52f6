"""Why there is no primary, in words that an operator can act on."""

from __future__ import annotations

from metako.election.election import Election
from metako.model.instant import Instant


def blocked(election: Election, now: Instant) -> str:
    """Return why there is no primary as far as this node knows; "" if there is no such reason."""
    core = election.core
    if not core.voting:
        return (
            "this node lost its durable record, so it neither votes nor streams; the others go on "
            "without it"
        )
    if core.foreign():
        return "the data directory belongs to another database system; move it away"
    if election.bootstrap.wanted():
        return election.bootstrap.why_not()
    if core.document is None:
        return "no cluster document yet: waiting for the bootstrap node"
    if election.leader is not None or election.voter.hold.active(now):
        return ""
    verdict = election.candidate.verdict
    if verdict is not None and verdict.missing:
        return f"no primary: missing {verdict.missing}"
    return "no primary: an election is due"
