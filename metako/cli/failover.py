"""`metako failover`: have the node of this machine lead, although commits may be lost by it.

In: the path of the agent's socket, and whether the loss was accepted. Out: what it may cost, a
question unless that was answered before, lines as things happen or one JSON object at the end, and
an exit code: 0 once this node is the primary, 1 if it is not, 2 if nobody has accepted the loss, 11
if no agent answers, 12 if it is not for this user to ask, 130 after an interrupt.

Invariant: nothing is ordered before the cost was shown and accepted.

Deliberately unaware of how an election is won; the agent of this node decides whether it may stand.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.failover_cost import Cost, cost_of
from metako.cli.follow import STATUS_TIMEOUT_S, Watch, finish, interrupted, teller, words_of
from metako.cli.output import printable, write_line
from metako.cli.status_data import Data
from metako.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, or why it was not begun."""

    ok: bool
    reason: str  # for people; "" if all went well
    cost: Cost
    primary: str | None = None
    duration_ms: int | None = None  # since the order was given

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako failover --json`."""
        return {
            "ok": self.ok,
            "node": self.cost.node,
            "primary": self.primary,
            "lost_bytes": self.cost.lost_bytes,
            "duration_ms": self.duration_ms,
            "reason": self.reason or None,
        }


def fail_over(
    socket: Path, *, lost: Sequence[str], accepted: bool, timeout_s: float, as_json: bool
) -> int:
    """Show the cost, have it accepted, order a failover to this node and follow it.

    Args:
        socket: of the agent of this machine.
        lost: members that are off for good: the cluster goes on without them and their votes.
        accepted: the loss was accepted already.
        timeout_s: for the node to be the primary.
        as_json: print one object at the end, and ask nothing.

    Raises:
        UsageError: nobody has accepted the loss.
        MetakoError: the node may not stand, did not win, or no agent answered.
    """
    agent = LocalAgent(socket)
    cost = cost_of(agent.status(STATUS_TIMEOUT_S), lost)
    tell, told = teller(as_json=as_json), [cost.words(), *filter(None, [cost.hint()])]
    if not accepted and (as_json or not sys.stdin.isatty()):
        raise UsageError(f"{'. '.join(told)}. Whoever accepts that gives --accept-loss")
    for line in told:
        tell(line)
    if not accepted:
        _ask(cost)
    watch = Watch(agent)
    try:
        answer = agent.order_failover(lost)
        if not answer.accepted:
            return finish(Ended(False, words_of(answer), cost), "", as_json=as_json)
        tell(f"accepted: {cost.node} {words_of(answer)}")
        seen = watch.follow(lambda data, _: _primary_is(data, cost.node), timeout_s)
        if seen is None:
            blocked = _blocked(agent)
            why = f"{cost.node} is not the primary after {timeout_s:g} s{blocked}"
            return finish(Ended(False, why, cost), "", as_json=as_json)
        after_s = watch.after_s()
        ended = Ended(True, "", cost, primary=cost.node, duration_ms=round(after_s * 1000))
        return finish(ended, f"{cost.node} is the primary after {after_s:.1f} s", as_json=as_json)
    except KeyboardInterrupt:
        why = "interrupted; the order may have been taken: `metako status` shows who leads"
        return interrupted(Ended(False, why, cost), as_json=as_json)


def _ask(cost: Cost) -> None:
    gone = cost.gone()
    question = "is that loss accepted?"
    write_line(f"{gone}. Is that so, and {question}" if gone else question.capitalize())
    if input(f"Type the name of this node, {cost.node}, to go on: ").strip() != cost.node:
        raise UsageError("not accepted: nothing was ordered")


def _primary_is(data: Data, node: str) -> bool | None:
    return True if data.get("primary") == node else None


def _blocked(agent: LocalAgent) -> str:
    words = agent.status(STATUS_TIMEOUT_S).get("blocked")
    return f": {printable(words)}" if isinstance(words, str) and words else ""
