"""`metako switchover`: ask the agent of this machine for another primary, and watch it happen.

In: the path of the agent's socket and what is wanted. Out: lines as things happen, or one JSON
object at the end, and an exit code: 0 once the target is the primary, 1 if it is not, 11 if no
agent answers, 12 if it is not for this user to ask, 130 after an interrupt.

Invariant: giving up watching changes nothing: the cluster goes on, and the text says so.

Deliberately unaware of how a switchover is done; `course` judges what the agent shows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.course import Course, Outcome
from metako.cli.follow import STATUS_TIMEOUT_S, Watch, finish, interrupted, teller, words_of
from metako.cli.output import printable, write_line
from metako.cli.upkeep_text import both_zones
from metako.model.moment import format_moment, to_ms

AFTER_TIMEOUT_S = 30.0
"""What is waited beyond the timeout of the order: that bounds the time until the old primary is
stopped, and an election, a promotion and a heartbeat follow."""

_CANCEL_HINT = (
    "`metako status` shows it, and `metako switchover --cancel` gives it up for as long as the old "
    "primary has not been stopped"
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A switchover by the clock that was taken, or why it was not."""

    ok: bool
    reason: str  # for people: the leader's words
    at: str  # in ISO 8601, UTC
    target: str | None = None  # None: whoever is fit then

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako switchover --at TIME --json`."""
        return {"ok": self.ok, "to": self.target, "at": self.at, "reason": self.reason}


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
    watch = Watch(agent)
    course: Course | None = None
    try:
        answer = agent.order_switchover(to, timeout_s)
        course = Course(
            before,
            order_id=answer.order_id,
            target=printable(answer.target) if answer.target else to,
            tell=teller(as_json=as_json),
        )
        if not answer.accepted:
            return _finish(course.outcome(0, reason=words_of(answer)), as_json=as_json)
        if not as_json:
            route = f"{course.source or 'no primary'} to {course.target or 'a node to be chosen'}"
            write_line(f"accepted, from {route}: {words_of(answer)}")
        return _finish(_follow(watch, course, timeout_s), as_json=as_json)
    except KeyboardInterrupt:
        return interrupted(_unwatched(course, watch), as_json=as_json)


def plan_switchover(
    socket: Path, *, to: str | None, timeout_s: float, at: datetime, as_json: bool
) -> int:
    """Order a switchover for later; return the exit code once it was taken, and follow nothing.

    Args:
        socket: of the agent of this machine.
        to: who becomes the primary; None: whoever is fit then.
        timeout_s: as of `switch_over`, from then on.
        at: when, with a zone.
        as_json: print one object.

    Raises:
        MetakoError: the cluster refused, or no agent answered.
    """
    moment = format_moment(to_ms(at))
    answer = LocalAgent(socket).order_switchover(to, timeout_s, moment)
    planned = Planned(answer.accepted, words_of(answer), moment, target=to)
    whom = printable(to) if to is not None else "whoever is fit then"
    done = f"accepted: switchover to {whom} at {both_zones(at)}; `metako status` shows it, and "
    done += "`metako switchover --cancel` cancels it"
    return finish(planned, done, as_json=as_json)


def cancel_switchover(socket: Path, *, as_json: bool) -> int:
    """Have the switchover under way, or else the scheduled one, given up; return the exit code.

    Raises:
        MetakoError: there is none, it is too late, or no agent answered.
    """
    answer = LocalAgent(socket).cancel_switchover()
    words = words_of(answer)
    outcome = Outcome(ok=answer.accepted, reason=words, target=answer.target)
    return finish(outcome, f"cancelled: {words}", as_json=as_json)


def _follow(watch: Watch, course: Course, timeout_s: float) -> Outcome:
    limit_s = timeout_s + AFTER_TIMEOUT_S
    outcome = watch.follow(course.see, limit_s)
    if outcome is not None:
        return outcome
    state = f"it is still under way: {_CANCEL_HINT}" if course.under_way else "see `metako status`"
    return course.outcome(watch.after_s(), reason=f"not done after {limit_s:g} s; {state}")


def _finish(outcome: Outcome, *, as_json: bool) -> int:
    where = f"in term {_known(outcome.term)} on timeline {_known(outcome.timeline)}"
    after_s = (outcome.duration_ms or 0) / 1000
    done = f"new primary {outcome.primary} {where} after {after_s:.1f} s"
    return finish(outcome, done, as_json=as_json)


def _unwatched(course: Course | None, watch: Watch) -> Outcome:
    if course is None:
        reason = f"interrupted before an answer came; if there is a switchover, {_CANCEL_HINT}"
        return Outcome(ok=False, reason=reason)
    reason = f"interrupted, the switchover goes on: {_CANCEL_HINT}"
    return course.outcome(watch.after_s(), reason=reason)


def _known(number: int | None) -> str:
    return "-" if number is None else str(number)
