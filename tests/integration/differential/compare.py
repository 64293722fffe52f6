"""Run a sequence on both sides, command by command, and find the first difference.

Differences that are known and accepted are in `explanations`. Anything else fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from differential import vocabulary as do
from differential.begin import open_real
from differential.explanations import Moment, explain
from differential.model import Model
from differential.programs import Programs
from differential.tracker import Tracker
from differential.vocabulary import Command, Seen, ServerView, flat, render


@dataclass(slots=True)
class Report:
    """How the comparison of one sequence went."""

    seed: int
    commands: tuple[Command, ...]
    done: int = 0  # commands that were compared
    moment: Moment | None = None  # the first difference that nothing explains
    explained: dict[str, int] = field(default_factory=dict)  # explanation → how often
    reached: set[str] = field(default_factory=set)  # outcomes on the real servers
    logs: str = ""
    stuck: int = 0

    def __str__(self) -> str:
        if self.moment is None:
            return f"seed {self.seed}: no unexplained difference in {self.done} commands"
        m = self.moment
        lines = [f"seed {self.seed}: PostgreSQL and the model differ in `{m.name}`"]
        lines += [f"  PostgreSQL: {m.real!r}", f"  model:      {m.model!r}"]
        lines.append(f"after command {self.done} of this sequence:")
        shown = render(self.commands).splitlines()
        lines += [f"{'->' if i == self.done else '  '} {c}" for i, c in enumerate(shown, 1)]
        return "\n".join(lines)


class _Past:
    """What explanations need to know of the commands before."""

    def __init__(self) -> None:
        self._waited: set[str] = set()  # commits that were ever seen to wait
        self._hidden: dict[str, frozenset[str]] = {}
        self._beyond: set[str] = set()

    def moment(self, command: Command | None, tracker: Tracker, seen: Seen) -> Moment:
        """Return what is known when a command begins, without a difference yet."""
        self._waited |= {value for value, outcome in seen.commits if outcome == "waiting"}
        if isinstance(command, do.Start):
            self._hidden[command.server] = frozenset(self._waited)
        self._look_for_forks(command, tracker, dict(seen.servers))
        past = (tracker.upstreams(), dict(self._hidden), frozenset(self._beyond))
        return Moment("", None, None, command, tracker, seen, *past)

    def _look_for_forks(
        self, command: Command | None, tracker: Tracker, views: Mapping[str, ServerView]
    ) -> None:
        for name, view in views.items():
            above = views.get(tracker.servers[name].upstream)
            if above is None or above.state != "primary" or view.state != "standby":
                continue
            if not view.streams_from and _values(view) - _values(above):
                self._beyond.add(name)
        if isinstance(command, do.Clone | do.Rewind | do.Promote):
            self._beyond.discard(command.server)


def _values(view: ServerView) -> set[str]:
    return {value for _, values in view.rows for value in values}


def differences(real: Seen, model: Seen, moment: Moment) -> list[Moment]:
    """Return a moment for each of the observables that differ."""
    left, right = flat(real), flat(model)
    names = list(dict.fromkeys((*left, *right)))
    return [
        replace(moment, name=name, real=left.get(name), model=right.get(name))
        for name in names
        if left.get(name) != right.get(name)
    ]


def compare(
    programs: Programs,
    seed: int,
    commands: tuple[Command, ...],
    *,
    careful: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Run the sequence on both sides until an unexplained difference, or to its end.

    Args:
        programs: of PostgreSQL.
        seed: names the sequence; also of the model's own draws.
        commands: those that make no sense where they stand are left out.
        careful: leave out also what may depend on the bytes of records.
        say: told what each command changed on the real servers.
    """
    report = Report(seed, commands)
    with open_real(programs, seed) as real:
        model = Model(seed)
        tracker = Tracker(careful=careful)
        past = _Past()
        seen = real.begin()
        moment = past.moment(None, tracker, seen)
        go_on = _judge(report, differences(seen, model.begin(), moment))
        for command in commands if go_on else ():
            report.done += 1
            if not tracker.applies(command):
                continue
            moment = past.moment(command, tracker, seen)
            tracker.apply(command)
            before, seen = seen, real.run(command)
            say(_changes(command, before, seen))
            report.reached |= _reached(command, seen)
            if not _judge(report, differences(seen, model.run(command), moment)):
                break
        report.stuck = real.settler.stuck
        if report.moment is not None:
            report.logs = f"{real.logs()}\n--- model\n{model.logs()}"
    return report


def _judge(report: Report, moments: list[Moment]) -> bool:
    """Take note of differences; return whether the sequence goes on."""
    go_on = True
    for moment in moments:
        explanation = explain(moment)
        if explanation is None:
            report.moment = moment
            return False
        report.explained[explanation.name] = report.explained.get(explanation.name, 0) + 1
        go_on = go_on and not explanation.final
        if explanation.final and moment.name == "outcome":
            return False  # the command went differently: so does everything that it brought about
    return go_on


def _reached(command: Command, seen: Seen) -> set[str]:
    found = {f"{type(command).__name__}: {seen.outcome}"}
    found |= {f"slot {slot[3]}" for _, view in seen.servers for slot in view.slots}
    return found | {f"commit {outcome}" for _, outcome in seen.commits}


def _changes(command: Command, before: Seen, after: Seen) -> str:
    old, new = flat(before), flat(after)
    changed = [name for name in new if name != "outcome" and new[name] != old.get(name)]
    lines = [f"    {name}: {old.get(name)!r} -> {new[name]!r}" for name in changed]
    return "\n".join([f"{command}: {after.outcome}", *lines])
