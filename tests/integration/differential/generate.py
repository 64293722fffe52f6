"""From a seed to a sequence of sensible commands, weighted towards what is known to be intricate.

A sequence is one *plot*, a few commands that lead to an interesting state, with random commands
before, between and after its own. The plots name roles; which server plays which is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from differential.tracker import CASCADING, Tracker
from differential.vocabulary import (
    LEVELS,
    NAMES,
    Attach,
    CancelCommit,
    Checkpoint,
    Clone,
    Command,
    Commit,
    Detach,
    Freeze,
    KillReceiver,
    PauseReplay,
    Promote,
    RemoveWal,
    ResumeReplay,
    Rewind,
    SetSync,
    Settle,
    Start,
    Stop,
    Thaw,
)

LENGTH = (8, 15)
BETWEEN = 0.25
"""Probability of a random command before each one of the plot."""
RANDOM_TRIES = 20
WAITS = ("on", "on", "on", "remote_write", "remote_apply")
ENDS = ("cancel", "cancel", "terminate")
REBUILDS_MAX = 2


class Writer:
    """A sequence that is being written."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.tracker = Tracker()
        self.commands: list[Command] = []

    def add(self, command: Command) -> bool:
        """Append the command if it makes sense here."""
        if not self.tracker.applies(command):
            return False
        self.tracker.apply(command)
        self.commands.append(command)
        return True

    def commit(self, server: str, level: str = "on") -> Commit:
        number = len(self.tracker.commits) + 1
        return Commit(server, self.rng.choice(("k1", "k2")), f"v{number}", level)

    def reserved(self) -> int:
        return self.tracker.max_tli + self.rng.randint(1, 3)

    def primaries(self) -> list[str]:
        return [name for name, s in self.tracker.servers.items() if s.running and s.primary]

    def any_commit(self) -> str:
        return self.rng.choice([*self.tracker.commits][-3:] or [""])


Plot = Iterator[Command]


def _names(w: Writer) -> tuple[str, str, str]:
    """Return the first primary and the two standbys in a drawn order."""
    b, c = w.rng.sample(("b", "c"), 2)
    return "a", b, c


def wait_and_cancel(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, (b,), 1)
    yield w.rng.choice((Detach(b), Stop(b), Freeze(b, "receiver"), Freeze(b, "server")))
    waits = w.commit(a, w.rng.choice(WAITS))
    yield waits
    yield CancelCommit(waits.value, w.rng.choice(ENDS))
    yield Thaw(b)
    yield Promote(c)
    yield w.commit(c)


def wait_and_crash(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, (b, c), w.rng.choice((1, 2)))
    yield Stop(b)
    yield Detach(c)
    yield w.commit(a, w.rng.choice(WAITS))
    yield Stop(a, w.rng.choice(("kill", "immediate", "fast")))
    yield Start(a, "")
    yield w.rng.choice((Promote(a, w.reserved()), Promote(c), Settle()))
    yield Start(b, w.rng.choice((a, c, "")))
    yield Attach(b, c)


def reload_while_waiting(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, (b, c), 2)
    yield w.rng.choice((Stop(b), Detach(b), Freeze(b, "receiver")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.commit(a, w.rng.choice(LEVELS))
    choices = (SetSync(a, (b, c), 1), SetSync(a, (c,), 1), SetSync(a, (b,), 1), SetSync(a, (c,), 2))
    yield w.rng.choice(choices)
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((Thaw(b), Start(b, a), Attach(b, a)))


def empty_while_waiting(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, w.rng.choice(((b,), (b, c), ())), 2)
    yield w.rng.choice((Stop(b), Detach(b), Freeze(b, "server")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((Detach(c), PauseReplay(c)))
    yield SetSync(a, (), 0)
    yield w.commit(a, "remote_apply")


def twins(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.commit(a)
    yield w.rng.choice((Stop(a, "kill"), Detach(b)))
    yield Detach(c)
    yield Promote(b)
    yield Promote(c)
    yield w.commit(b)
    yield w.commit(c)
    yield Stop(c, w.rng.choice(("fast", "kill")))
    yield Rewind(c, b)
    yield Clone(c, b)
    yield Start(c, b)


def across_a_fork(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield Detach(b)
    if w.rng.random() < 0.7:
        yield w.commit(a)
    if w.rng.random() < 0.3:
        yield w.commit(b)
    yield Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(b)
    yield Attach(c, b)
    yield w.rng.choice((KillReceiver(c), Stop(c), Attach(c, a)))
    yield Start(c, b)
    yield Rewind(c, b)


def rewind(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.rng.choice((Detach(b), SetSync(a, (b,), 1)))
    yield w.commit(a, w.rng.choice(("local", "on")))
    yield Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(a, "local")
    yield w.commit(b)
    who = w.rng.choice((a, c))
    if w.rng.random() < 0.4:
        yield RemoveWal(w.rng.choice((who, b)))
    yield Stop(who, w.rng.choice(("kill", "immediate", "fast")))
    yield Rewind(who, b)
    yield Start(who, w.rng.choice((b, b, "")))
    yield w.commit(b)


def placeholders(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield Stop(a, w.rng.choice(("kill", "fast")))
    yield Promote(b, w.reserved())
    yield Attach(c, b)
    yield w.commit(b)
    yield Stop(c, w.rng.choice(("fast", "kill")))
    yield Start(c, w.rng.choice((b, "")))
    yield Promote(c, w.rng.choice((0, w.reserved())))
    yield Start(a, w.rng.choice((b, c)))


def restart_and_position(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.commit(a)
    yield PauseReplay(b)
    yield w.commit(a)
    yield w.rng.choice((Stop(a, "kill"), Stop(a), Settle()))
    yield Stop(b, w.rng.choice(("fast", "immediate", "kill")))
    yield Start(b, w.rng.choice((a, "", c)))
    yield Promote(b, w.rng.choice((0, w.reserved())))
    yield Attach(c, b)


def paused(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, w.rng.choice(((b,), (b, c))), 1)
    yield PauseReplay(b)
    yield w.commit(a, w.rng.choice(("on", "remote_apply", "remote_write")))
    yield Detach(b)
    yield w.commit(a, w.rng.choice(("on", "remote_apply")))
    yield w.rng.choice((ResumeReplay(b), KillReceiver(b), Promote(b), Promote(b, w.reserved())))
    yield Attach(c, b)
    yield ResumeReplay(b)


def frozen(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield SetSync(a, (b, c), w.rng.choice((1, 2)))
    yield Freeze(b, w.rng.choice(("receiver", "server")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((Detach(c), PauseReplay(c), KillReceiver(c)))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((Thaw(b), Stop(a, "kill"), Stop(a, "fast"), Stop(a, "fast")))
    yield Thaw(b)
    yield Promote(b)


def cascade(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield Attach(c, b)
    yield SetSync(a, w.rng.choice(((b,), (c,), (b, c))), 1)
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((PauseReplay(b), KillReceiver(c), Detach(b), Stop(a, "kill")))
    yield w.commit(a, w.rng.choice(LEVELS))
    yield Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(b)


def removed_wal(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.rng.choice((Detach(b), Stop(b, "fast"), Stop(b, "kill")))
    yield w.commit(a)
    yield RemoveWal(a)
    yield w.rng.choice((Attach(b, a), Start(b, a)))
    yield w.rng.choice((Attach(b, c), KillReceiver(c), Promote(c, w.reserved())))
    yield w.commit(c if w.tracker.servers[c].primary else a)
    yield Stop(b)
    yield w.rng.choice((Rewind(b, c), Clone(b, a), Clone(b, c)))
    yield Start(b, c if w.tracker.servers[c].primary else a)


PLOTS: tuple[Callable[[Writer], Plot], ...] = (
    wait_and_cancel,
    wait_and_crash,
    reload_while_waiting,
    empty_while_waiting,
    twins,
    across_a_fork,
    rewind,
    placeholders,
    restart_and_position,
    paused,
    frozen,
    removed_wal,
    *((cascade,) if CASCADING else ()),
)


def _random_command(w: Writer) -> Command:
    rng = w.rng
    name = rng.choice(NAMES)
    other = rng.choice([n for n in NAMES if n != name])
    writer = rng.choice(w.primaries() or [name])
    listed = tuple(sorted(rng.sample([n for n in NAMES if n != writer], rng.randint(0, 2))))
    kinds: dict[str, tuple[int, Callable[[], Command]]] = {
        "commit": (30, lambda: w.commit(writer, rng.choice(LEVELS))),
        "elsewhere": (3, lambda: w.commit(name)),
        "cancel": (9, lambda: CancelCommit(w.any_commit(), rng.choice(ENDS))),
        "sync": (10, lambda: SetSync(writer, listed, rng.randint(1, 2) if listed else 0)),
        "stop": (4, lambda: Stop(name, rng.choice(("fast", "immediate", "kill")))),
        "start": (15, lambda: Start(name, rng.choice((other, other, "")))),
        "pause": (4, lambda: PauseReplay(name)),
        "resume": (25, lambda: ResumeReplay(name)),
        "detach": (4, lambda: Detach(name)),
        "attach": (8, lambda: Attach(name, other)),
        "receiver": (4, lambda: KillReceiver(name)),
        "promote": (3, lambda: Promote(name, rng.choice((0, w.reserved(), w.reserved())))),
        "rewind": (5, lambda: Rewind(name, other)),
        "clone": (3, lambda: Clone(name, other)),
        "freeze": (2, lambda: Freeze(name, rng.choice(("receiver", "server")))),
        "thaw": (12, lambda: Thaw(name)),
        "remove": (2, lambda: RemoveWal(writer)),
        "checkpoint": (4, lambda: Checkpoint(name)),
        "settle": (1, Settle),
    }
    (kind,) = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])
    return kinds[kind][1]()


def _add_random(w: Writer) -> None:
    for _ in range(RANDOM_TRIES):
        command = _random_command(w)
        rebuilds = sum(isinstance(c, Rewind | Clone) for c in w.commands)
        if isinstance(command, Rewind | Clone) and rebuilds >= REBUILDS_MAX:
            continue
        if w.add(command):
            return


def generate(seed: int, plot: Callable[[Writer], Plot] | None = None) -> tuple[Command, ...]:
    """Return the sequence of a seed, around a given plot or one that is drawn."""
    rng = random.Random(f"differential/{seed}")
    w = Writer(rng)
    target = rng.randint(*LENGTH)
    drawn = rng.choice(PLOTS)
    story = (plot or drawn)(w)
    while len(w.commands) < LENGTH[1]:
        # Before the plot says what is next: the names of its commits count those in between.
        if rng.random() < BETWEEN:
            _add_random(w)
        command = next(story, None)
        if command is None:
            break
        w.add(command)
    while len(w.commands) < target:
        _add_random(w)
    return tuple(w.commands)
