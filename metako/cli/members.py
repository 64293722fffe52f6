"""`metako members add` and `remove`: ask the agent of this machine, and watch it happen.

In: the path of the agent's socket and what is wanted. Out: lines as things happen, or one JSON
object at the end, and an exit code: 0 once the document says what was wanted, 1 if it does not, 11
if no agent answers, 12 if it is not for this user to ask, 130 after an interrupt.

Invariant: giving up watching changes nothing: the cluster goes on, and the text says so.

Deliberately unaware of how a member is added; `member_course` judges what the agent shows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from metako.api.client import AgentAnswer, LocalAgent
from metako.cli.follow import STATUS_TIMEOUT_S, Watch, finish, interrupted, teller, words_of
from metako.cli.member_course import Change, MemberCourse, Wanted

_HINT = "`metako members` shows how it goes"


def add_member(
    socket: Path, node: str, *, learner: bool, timeout_s: float | None, as_json: bool
) -> int:
    """Order that a node be a voter, or a learner, and follow it until it is; return the exit code.

    Args:
        socket: of the agent of this machine.
        node: its name.
        learner: it is to have no vote, also if it has one now.
        timeout_s: of following it, from the leader's answer on; None: do not.
        as_json: print one object at the end, and nothing before.

    Raises:
        MetakoError: the cluster refused, it was given up or takes longer, or no agent answered.
    """
    agent = LocalAgent(socket)
    wanted = Wanted.LEARNER if learner else Wanted.VOTER

    def give() -> AgentAnswer:
        return agent.add_member(node, learner=learner)

    return _change(agent, node, wanted, give, timeout_s, as_json=as_json)


def remove_member(socket: Path, node: str, *, timeout_s: float | None, as_json: bool) -> int:
    """Order that a node be no member, and follow it until it is none; return the exit code.

    Raises:
        MetakoError: as `add_member`.
    """
    agent = LocalAgent(socket)

    def give() -> AgentAnswer:
        return agent.remove_member(node)

    return _change(agent, node, Wanted.GONE, give, timeout_s, as_json=as_json)


def _change(
    agent: LocalAgent,
    node: str,
    wanted: Wanted,
    give: Callable[[], AgentAnswer],
    timeout_s: float | None,
    *,
    as_json: bool,
) -> int:
    tell = teller(as_json=as_json)
    course = MemberCourse(agent.status(STATUS_TIMEOUT_S), node, wanted, tell)
    watch = Watch(agent)
    accepted = False
    try:
        answer = give()
        words = words_of(answer)
        if not answer.accepted:
            return finish(course.outcome(watch.after_s(), reason=words), "", as_json=as_json)
        accepted = True
        if timeout_s is None:
            taken = replace(course.outcome(watch.after_s()), reason=words)
            return finish(taken, f"accepted: {words}; {_HINT}", as_json=as_json)
        tell(f"accepted: {words}")
        change = _follow(watch, course, timeout_s)
        return finish(change, course.done(), as_json=as_json)
    except KeyboardInterrupt:
        state = "the change goes on" if accepted else "before an answer came, it may go on"
        reason = f"interrupted, {state}: {_HINT}"
        return interrupted(course.outcome(watch.after_s(), reason=reason), as_json=as_json)


def _follow(watch: Watch, course: MemberCourse, timeout_s: float) -> Change:
    change = watch.follow(course.see, watch.after_s() + timeout_s)
    if change is not None:
        return change
    reason = f"not done after {timeout_s:g} s: {course.why_not_done()}"
    return course.outcome(watch.after_s(), reason=reason)
