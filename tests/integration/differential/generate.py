"""From a seed to a sequence of sensible commands, weighted towards what is known to be intricate.

A sequence is one *plot*, a few commands that lead to an interesting state, with random commands
before, between and after its own. The plots name roles; which server plays which is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from differential import vocabulary as do
from differential.slot_plots import SLOT_PLOTS, random_slot_command
from differential.tracker import Tracker
from differential.vocabulary import LEVELS, NAMES, Command

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

    def commit(self, server: str, level: str = "on") -> do.Commit:
        number = len(self.tracker.commits) + 1
        return do.Commit(server, self.rng.choice(("k1", "k2")), f"v{number}", level)

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
    yield do.SetSync(a, (b,), 1)
    yield w.rng.choice((do.Detach(b), do.Stop(b), do.Freeze(b, "receiver"), do.Freeze(b, "server")))
    waits = w.commit(a, w.rng.choice(WAITS))
    yield waits
    yield do.CancelCommit(waits.value, w.rng.choice(ENDS))
    yield do.Thaw(b)
    yield do.Promote(c)
    yield w.commit(c)


def wait_and_crash(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.SetSync(a, (b, c), w.rng.choice((1, 2)))
    yield do.Stop(b)
    yield do.Detach(c)
    yield w.commit(a, w.rng.choice(WAITS))
    yield do.Stop(a, w.rng.choice(("kill", "immediate", "fast")))
    yield do.Start(a, "")
    yield w.rng.choice((do.Promote(a, w.reserved()), do.Promote(c), do.Settle()))
    yield do.Start(b, w.rng.choice((a, c, "")))
    yield do.Attach(b, c)


def reload_while_waiting(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.SetSync(a, (b, c), 2)
    yield w.rng.choice((do.Stop(b), do.Detach(b), do.Freeze(b, "receiver")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.commit(a, w.rng.choice(LEVELS))
    names, k = w.rng.choice((((b, c), 1), ((c,), 1), ((b,), 1), ((c,), 2)))
    yield do.SetSync(a, names, k)
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((do.Thaw(b), do.Start(b, a), do.Attach(b, a)))


def empty_while_waiting(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.SetSync(a, w.rng.choice(((b,), (b, c), ())), 2)
    yield w.rng.choice((do.Stop(b), do.Detach(b), do.Freeze(b, "server")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((do.Detach(c), do.PauseReplay(c)))
    yield do.SetSync(a, (), 0)
    yield w.commit(a, "remote_apply")


def twins(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.commit(a)
    yield w.rng.choice((do.Stop(a, "kill"), do.Detach(b)))
    yield do.Detach(c)
    yield do.Promote(b)
    yield do.Promote(c)
    yield w.commit(b)
    yield w.commit(c)
    yield do.Stop(c, w.rng.choice(("fast", "kill")))
    yield do.Rewind(c, b)
    yield do.Clone(c, b)
    yield do.Start(c, b)


def across_a_fork(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.Detach(b)
    if w.rng.random() < 0.7:
        yield w.commit(a)
    if w.rng.random() < 0.3:
        yield w.commit(b)
    yield do.Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(b)
    yield do.Attach(c, b)
    yield w.rng.choice((do.KillReceiver(c), do.Stop(c), do.Attach(c, a)))
    yield do.Start(c, b)
    yield do.Rewind(c, b)


def rewind(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.rng.choice((do.Detach(b), do.SetSync(a, (b,), 1)))
    yield w.commit(a, w.rng.choice(("local", "on")))
    yield do.Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(a, "local")
    yield w.commit(b)
    who = w.rng.choice((a, c))
    if w.rng.random() < 0.4:
        yield do.RemoveWal(w.rng.choice((who, b)))
    yield do.Stop(who, w.rng.choice(("kill", "immediate", "fast")))
    yield do.Rewind(who, b)
    yield do.Start(who, w.rng.choice((b, b, "")))
    yield w.commit(b)


def placeholders(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.Stop(a, w.rng.choice(("kill", "fast")))
    yield do.Promote(b, w.reserved())
    yield do.Attach(c, b)
    yield w.commit(b)
    yield do.Stop(c, w.rng.choice(("fast", "kill")))
    yield do.Start(c, w.rng.choice((b, "")))
    yield do.Promote(c, w.rng.choice((0, w.reserved())))
    yield do.Start(a, w.rng.choice((b, c)))


def restart_and_position(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.commit(a)
    yield do.PauseReplay(b)
    yield w.commit(a)
    yield w.rng.choice((do.Stop(a, "kill"), do.Stop(a), do.Settle()))
    yield do.Stop(b, w.rng.choice(("fast", "immediate", "kill")))
    yield do.Start(b, w.rng.choice((a, "", c)))
    yield do.Promote(b, w.rng.choice((0, w.reserved())))
    yield do.Attach(c, b)


def paused(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.SetSync(a, w.rng.choice(((b,), (b, c))), 1)
    yield do.PauseReplay(b)
    yield w.commit(a, w.rng.choice(("on", "remote_apply", "remote_write")))
    yield do.Detach(b)
    yield w.commit(a, w.rng.choice(("on", "remote_apply")))
    promotion = do.Promote(b, w.rng.choice((0, w.reserved())))
    yield w.rng.choice((do.ResumeReplay(b), do.KillReceiver(b), promotion))
    yield do.Attach(c, b)
    yield do.ResumeReplay(b)


def frozen(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.SetSync(a, (b, c), w.rng.choice((1, 2)))
    yield do.Freeze(b, w.rng.choice(("receiver", "server")))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((do.Detach(c), do.PauseReplay(c), do.KillReceiver(c)))
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((do.Thaw(b), do.Stop(a, "kill"), do.Stop(a, "fast"), do.Stop(a, "fast")))
    yield do.Thaw(b)
    yield do.Promote(b)


def cascade(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield do.Attach(c, b)
    yield do.SetSync(a, w.rng.choice(((b,), (c,), (b, c))), 1)
    yield w.commit(a, w.rng.choice(WAITS))
    yield w.rng.choice((do.PauseReplay(b), do.KillReceiver(c), do.Detach(b), do.Stop(a, "kill")))
    yield w.commit(a, w.rng.choice(LEVELS))
    yield do.Promote(b, w.rng.choice((0, w.reserved())))
    yield w.commit(b)


def removed_wal(w: Writer) -> Plot:
    a, b, c = _names(w)
    yield w.rng.choice((do.Detach(b), do.Stop(b, "fast"), do.Stop(b, "kill")))
    yield w.commit(a)
    yield do.RemoveWal(a)
    yield w.rng.choice((do.Attach(b, a), do.Start(b, a)))
    yield w.rng.choice((do.Attach(b, c), do.KillReceiver(c), do.Promote(c, w.reserved())))
    yield w.commit(c if w.tracker.servers[c].primary else a)
    yield do.Stop(b)
    yield w.rng.choice((do.Rewind(b, c), do.Clone(b, a), do.Clone(b, c)))
    yield do.Start(b, c if w.tracker.servers[c].primary else a)


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
    cascade,
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
        "cancel": (9, lambda: do.CancelCommit(w.any_commit(), rng.choice(ENDS))),
        "sync": (10, lambda: do.SetSync(writer, listed, rng.randint(1, 2) if listed else 0)),
        "stop": (4, lambda: do.Stop(name, rng.choice(("fast", "immediate", "kill")))),
        "start": (15, lambda: do.Start(name, rng.choice((other, other, "")))),
        "pause": (4, lambda: do.PauseReplay(name)),
        "resume": (25, lambda: do.ResumeReplay(name)),
        "detach": (4, lambda: do.Detach(name)),
        "attach": (8, lambda: do.Attach(name, other)),
        "receiver": (4, lambda: do.KillReceiver(name)),
        "promote": (3, lambda: do.Promote(name, rng.choice((0, w.reserved(), w.reserved())))),
        "rewind": (5, lambda: do.Rewind(name, other)),
        "clone": (3, lambda: do.Clone(name, other)),
        "freeze": (2, lambda: do.Freeze(name, rng.choice(("receiver", "server")))),
        "thaw": (12, lambda: do.Thaw(name)),
        "remove": (2, lambda: do.RemoveWal(writer)),
        "checkpoint": (4, lambda: do.Checkpoint(name)),
        "settle": (1, do.Settle),
    }
    (kind,) = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])
    return kinds[kind][1]()


def _add_random(w: Writer, *, slots: bool) -> None:
    for _ in range(RANDOM_TRIES):
        command = random_slot_command(w) if slots and w.rng.random() < 0.5 else _random_command(w)
        rebuilds = sum(isinstance(c, do.Rewind | do.Clone) for c in w.commands)
        if isinstance(command, do.Rewind | do.Clone) and rebuilds >= REBUILDS_MAX:
            continue
        if w.add(command):
            return


def generate(
    seed: int, plot: Callable[[Writer], Plot] | None = None, *, slots: bool = False
) -> tuple[Command, ...]:
    """Return the sequence of a seed, around a given plot or one that is drawn.

    Args:
        seed: of everything that is drawn.
        plot: None: one of the family.
        slots: of the family about slots.
    """
    rng = random.Random(f"differential/slots/{seed}" if slots else f"differential/{seed}")
    w = Writer(rng)
    target = rng.randint(*LENGTH)
    drawn = rng.choice(SLOT_PLOTS if slots else PLOTS)
    story = (plot or drawn)(w)
    while len(w.commands) < LENGTH[1]:
        # Before the plot says what is next: the names of its commits count those in between.
        if rng.random() < BETWEEN:
            _add_random(w, slots=slots)
        command = next(story, None)
        if command is None:
            break
        w.add(command)
    while len(w.commands) < target:
        _add_random(w, slots=slots)
    return tuple(w.commands)
