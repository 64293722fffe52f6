"""`metako switchover`: ask the agent of this machine for another primary, and watch it happen.

In: the path of the agent's socket and what is wanted. Out: lines as things happen, or one JSON
object at the end, and an exit code: 0 once the target is the primary, 1 if it is not, 11 if no
agent answers, 12 if it is not for this user to ask, 130 after an interrupt.

Invariant: giving up watching changes nothing: the cluster goes on, and the text says so.

Deliberately unaware of how a switchover is done; `course` judges what the agent shows of it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from metako.api.client import AgentAnswer, LocalAgent
from metako.cli.course import Course, Outcome
from metako.cli.main import EXIT_INTERRUPTED
from metako.cli.output import printable, write_json, write_line
from metako.model.errors import MetakoError, UnreachableError

EXIT_FAILED = 1
POLL_INTERVAL_S = 0.1
STATUS_TIMEOUT_S = 3.0
AFTER_TIMEOUT_S = 30.0
"""What is waited beyond the timeout of the order: that bounds the time until the old primary is
stopped, and an election, a promotion and a heartbeat follow."""

_CANCEL_HINT = (
    "`metako status` shows it, and `metako switchover --cancel` gives it up for as long as the old "
    "primary has not been stopped"
)


def switch_over(socket: Path, *, to: str | None, timeout_s: float, as_json: bool) -> int:
    """Order a switchover and follow it to its end; return the exit code.

    Args:
        socket: of the agent of this machine.
        to: who becomes the primary; None has the leader choose.
        timeout_s: for what has to be waited for before the old primary is stopped.

    Raises:
        MetakoError: the cluster refused or gave up, or no agent answered.
    """
    agent = LocalAgent(socket)
    before = agent.status(STATUS_TIMEOUT_S)
    began_s = time.monotonic()
    course: Course | None = None
    try:
        answer = agent.order_switchover(to, timeout_s)
        course = Course(
            before,
            order_id=answer.order_id,
            target=printable(answer.target) if answer.target else to,
            tell=_silent if as_json else write_line,
        )
        if not answer.accepted:
            return _finish(course.outcome(0, reason=_words(answer)), as_json=as_json)
        if not as_json:
            route = f"{course.source or 'no primary'} to {course.target or 'a node to be chosen'}"
            write_line(f"accepted, from {route}: {_words(answer)}")
        return _finish(_follow(agent, course, began_s, timeout_s), as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted(course, began_s, as_json=as_json)


def cancel_switchover(socket: Path, *, as_json: bool) -> int:
    """Have the switchover under way given up; return the exit code.

    Raises:
        MetakoError: there is none, it is too late, or no agent answered.
    """
    answer = LocalAgent(socket).cancel_switchover()
    words = _words(answer)
    if answer.accepted and not as_json:
        write_line(f"cancelled: {words}")
        return 0
    outcome = Outcome(ok=answer.accepted, reason=words, target=answer.target)
    return _finish(outcome, as_json=as_json)


def _follow(agent: LocalAgent, course: Course, began_s: float, timeout_s: float) -> Outcome:
    limit_s = timeout_s + AFTER_TIMEOUT_S
    silent = False  # the agent did not answer when last asked
    while (after_s := time.monotonic() - began_s) < limit_s:
        try:
            data = agent.status(STATUS_TIMEOUT_S)
        except UnreachableError as error:
            # An agent that is restarted comes back; the switchover does not depend on it.
            if not silent:
                sys.stderr.write(f"metako: {error}; still waiting\n")
            silent = True
        else:
            silent = False
            outcome = course.see(data, time.monotonic() - began_s)
            if outcome is not None:
                return outcome
        time.sleep(POLL_INTERVAL_S)
    state = f"it is still under way: {_CANCEL_HINT}" if course.under_way else "see `metako status`"
    return course.outcome(after_s, reason=f"not done after {limit_s:g} s; {state}")


def _finish(outcome: Outcome, *, as_json: bool) -> int:
    if as_json:
        write_json(outcome.as_json())
        return 0 if outcome.ok else EXIT_FAILED
    if not outcome.ok:
        raise MetakoError(outcome.reason)
    assert outcome.duration_ms is not None, outcome
    where = f"in term {_known(outcome.term)} on timeline {_known(outcome.timeline)}"
    write_line(f"new primary {outcome.primary} {where} after {outcome.duration_ms / 1000:.1f} s")
    return 0


def _interrupted(course: Course | None, began_s: float, *, as_json: bool) -> int:
    if course is None:
        reason = f"interrupted before an answer came; if there is a switchover, {_CANCEL_HINT}"
        outcome = Outcome(ok=False, reason=reason)
    else:
        reason = f"interrupted, the switchover goes on: {_CANCEL_HINT}"
        outcome = course.outcome(time.monotonic() - began_s, reason=reason)
    if as_json:
        write_json(outcome.as_json())
    else:
        sys.stderr.write(f"metako: {reason}\n")
    return EXIT_INTERRUPTED


def _words(answer: AgentAnswer) -> str:
    default = "taken" if answer.accepted else "refused without a reason"
    return printable(answer.reason) or default


def _known(number: int | None) -> str:
    return "-" if number is None else str(number)


def _silent(_line: str) -> None:
    return
