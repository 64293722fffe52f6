"""`metako pause` and `metako resume`: ask the agent of this machine, and watch it happen.

In: the path of the agent's socket. Out: what it means, or one JSON object, and an exit code: 0 once
a majority has it, and after a resume once somebody leads; 1 if not, 11 if no agent answers, 12 if
it is not for this user to ask, 130 after an interrupt.

Invariant: done is only what a document says that a majority has, and that is newer than the one
before the order, unless that one, which may be old, has said the same for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.follow import STATUS_TIMEOUT_S, Watch, finish, interrupted, teller, words_of
from metako.cli.output import printable
from metako.cli.status_data import Data, object_at, text_at
from metako.cli.upkeep_text import paused_words

OLD_MAX_S = 1.0
"""After which a document that was there before the order, and says what is wanted, is believed to
be the newest: then there was nothing to change."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, or why it was not begun. What is not known is None."""

    ok: bool
    reason: str  # for people; "" if all went well
    paused: bool | None = None  # by the newest document seen
    primary: str | None = None
    duration_ms: int | None = None  # since the order was given

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako pause --json`."""
        return {
            "ok": self.ok,
            "paused": self.paused,
            "primary": self.primary,
            "duration_ms": self.duration_ms,
            "reason": self.reason or None,
        }


class PauseCourse:
    """What has been seen of a pause, or of its end, since it was ordered."""

    def __init__(self, before: Data, *, pauses: bool) -> None:
        """Begin with the status from before the order was given."""
        self._pauses = pauses
        self._ref = _ref(before)
        self._latest = before

    def see(self, data: Data, after_s: float) -> Ended | None:
        """Take the newest status; return the ending once it is as it was ordered."""
        self._latest = data
        document = object_at(data, "document") or {}
        if document.get("paused") is not self._pauses or document.get("committed") is False:
            return None
        if _ref(data) == self._ref and after_s < OLD_MAX_S:
            return None
        if not self._pauses and not isinstance(data.get("primary"), str):
            return None  # where nobody led, an election ends the pause, and is not over yet
        return self.ended(after_s)

    def ended(self, after_s: float, *, reason: str = "") -> Ended:
        """Return the ending with what was seen last; one without a reason is a good one."""
        paused = (object_at(self._latest, "document") or {}).get("paused")
        primary = self._latest.get("primary")
        return Ended(
            ok=not reason,
            reason=reason,
            paused=paused if isinstance(paused, bool) else None,
            primary=printable(primary) if isinstance(primary, str) else None,
            duration_ms=round(after_s * 1000),
        )

    def done(self) -> str:
        """Return the line for a good end: what it means from now on."""
        document = object_at(self._latest, "document") or {}
        if self._pauses:
            return f"paused: {paused_words(text_at(document, 'primary'))}"
        primary = text_at(self._latest, "primary")
        return f"resumed: {primary} is the primary, and another node takes over if need be"

    def why_not_done(self) -> str:
        """Return how far it is, for whoever waits no longer."""
        document = object_at(self._latest, "document") or {}
        blocked = self._latest.get("blocked")
        why = f": {printable(blocked)}" if isinstance(blocked, str) and blocked else ""
        if document.get("paused") is not self._pauses:
            return f"no document says so{why or '; see `metako status`'}"
        if document.get("committed") is False:
            return f"no majority is known to have the document that says so{why}"
        return f"the pause has ended, and nobody is the primary{why}"


def pause_cluster(socket: Path, *, timeout_s: float, as_json: bool) -> int:
    """Have nobody take over from the present primary; return the exit code.

    Args:
        socket: of the agent of this machine.
        timeout_s: of watching it.
        as_json: print one object at the end, and nothing before.

    Raises:
        MetakoError: it was refused, is not so in time, or no agent answered.
    """
    return _change(socket, pauses=True, timeout_s=timeout_s, as_json=as_json)


def resume_cluster(socket: Path, *, timeout_s: float, as_json: bool) -> int:
    """End a pause, by an election if nobody leads; return the exit code.

    Raises:
        MetakoError: as `pause_cluster`.
    """
    return _change(socket, pauses=False, timeout_s=timeout_s, as_json=as_json)


def _change(socket: Path, *, pauses: bool, timeout_s: float, as_json: bool) -> int:
    agent = LocalAgent(socket)
    course = PauseCourse(agent.status(STATUS_TIMEOUT_S), pauses=pauses)
    watch = Watch(agent)
    try:
        answer = agent.pause() if pauses else agent.resume()
        words = words_of(answer)
        if not answer.accepted:
            return finish(course.ended(watch.after_s(), reason=words), "", as_json=as_json)
        teller(as_json=as_json)(f"accepted: {words}")
        ended = watch.follow(course.see, watch.after_s() + timeout_s)
        if ended is None:
            reason = f"not done after {timeout_s:g} s: {course.why_not_done()}"
            ended = course.ended(watch.after_s(), reason=reason)
        return finish(ended, course.done(), as_json=as_json)
    except KeyboardInterrupt:
        reason = "interrupted; the order may have been taken: `metako status` shows what is so"
        return interrupted(course.ended(watch.after_s(), reason=reason), as_json=as_json)


def _ref(data: Data) -> str:
    return text_at(object_at(data, "document") or {}, "ref")
