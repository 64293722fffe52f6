"""`metako restart`: have PostgreSQL restarted, one server at a time, and watch it happen.

In: the path of the agent's socket, whose servers, and whether that was confirmed. Out: what will be
done, a question unless that was answered before, lines as things happen or one JSON object at the
end, and an exit code: 0 once every server is back, 1 if one is not, 2 if nobody has confirmed it,
11 if no agent answers, 12 if it is not for this user to ask, 130 after an interrupt.

Invariant: nothing is ordered before it was said what it does, and confirmed; giving up watching
changes nothing.

Deliberately unaware of how a server is restarted; `restart_course` judges what the agent shows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.follow import STATUS_TIMEOUT_S, Watch, finish, interrupted, teller, words_of
from metako.cli.output import write_line
from metako.cli.restart_course import RestartCourse, Restarted, turns_of
from metako.cli.status_data import Data, names_at, object_at, text_at
from metako.model.errors import UsageError

AFTER_TIMEOUT_S = 30.0
"""What is waited beyond the time for each server: the primary's turn is a switchover, and an
election, a promotion and a heartbeat follow it."""
_YES = "yes"
_HINT = "`metako status` shows who is left, and `metako restart --cancel` leaves those as they are"


def restart_servers(
    socket: Path, nodes: Sequence[str], *, timeout_s: float, confirmed: bool, as_json: bool
) -> int:
    """Say what is done, have it confirmed, order it and follow it; return the exit code.

    Args:
        socket: of the agent of this machine.
        nodes: whose servers; none: all of them.
        timeout_s: for each of them to be back.
        confirmed: nothing has to be asked.
        as_json: print one object at the end, and ask nothing.

    Raises:
        UsageError: nobody has confirmed it.
        MetakoError: the cluster refused or a server was not restarted, or no agent answered.
    """
    agent = LocalAgent(socket)
    before = agent.status(STATUS_TIMEOUT_S)
    turns = turns_of(before, nodes)
    _confirm(_plan(before, turns), confirmed=confirmed, as_json=as_json)
    tell = teller(as_json=as_json)
    watch = Watch(agent)
    course: RestartCourse | None = None
    try:
        answer = agent.restart(nodes, timeout_s)
        course = RestartCourse(
            before, turns, order_id=answer.order_id, timeout_s=timeout_s, tell=tell
        )
        if not answer.accepted:
            return finish(course.outcome(0, reason=words_of(answer)), "", as_json=as_json)
        tell(f"accepted: {words_of(answer)}")
        limit_s = timeout_s * (len(turns) + 1) + AFTER_TIMEOUT_S
        ended = watch.follow(course.see, limit_s)
        if ended is None:
            reason = f"not done after {limit_s:g} s: {_HINT}"
            ended = course.outcome(watch.after_s(), reason=reason)
        done = f"{len(ended.restarted)} restarted, {ended.primary} is the primary"
        return finish(ended, done, as_json=as_json)
    except KeyboardInterrupt:
        if course is None:
            ended = Restarted(False, f"interrupted before an answer came; if it was taken, {_HINT}")
        else:
            reason = f"interrupted, the restart goes on: {_HINT}"
            ended = course.outcome(watch.after_s(), reason=reason)
        return interrupted(ended, as_json=as_json)


def cancel_restart(socket: Path, *, as_json: bool) -> int:
    """Have those that are left left as they are; return the exit code.

    Raises:
        MetakoError: no restart is under way, or no agent answered.
    """
    answer = LocalAgent(socket).cancel_restart()
    words = words_of(answer)
    return finish(Restarted(answer.accepted, words), words, as_json=as_json)


def _plan(before: Data, turns: Sequence[str]) -> str:
    """Return what will be done, for whoever has to confirm it."""
    document = object_at(before, "document") or {}
    primary = text_at(document, "primary")
    words = f"PostgreSQL is restarted on {', then '.join(turns) or 'every node with data'}"
    members = (*names_at(document, "voters"), *names_at(document, "learners"))
    alone = len(set(members) - set(names_at(document, "witnesses"))) == 1
    if primary in turns and alone:
        words += "; nobody takes writes until it is back"
    elif primary in turns:
        words += f"; {primary} is the primary, and hands over to another node first"
    return f"{words}. Sessions on each server end with it"


def _confirm(plan: str, *, confirmed: bool, as_json: bool) -> None:
    if confirmed:
        return
    if as_json or not sys.stdin.isatty():
        raise UsageError(f"{plan}. Whoever wants that gives --yes")
    write_line(plan)
    try:
        typed = input(f"Type {_YES} to go on: ")
    except EOFError:
        typed = ""
    if typed.strip() != _YES:
        raise UsageError("not confirmed: nothing was ordered")
