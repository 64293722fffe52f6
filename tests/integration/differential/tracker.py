"""Which commands make sense when: the part of the state that follows from the commands alone.

The generator asks before it adds a command, and whoever runs a sequence asks again, so a sequence
from which commands were removed still means something: what no longer applies is left out on both
sides alike.

It also keeps sequences away from what no model can foretell: two promotions may have made the same
timeline, and what a standby of one of them finds on the other then depends on the byte at which
each record happens to begin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from differential import vocabulary as do
from differential.vocabulary import NAMES, Command

Chain = tuple[str, ...]
"""A history: names of branches, oldest first. `n3` took the next timeline, `r3` a reserved one."""

FIRST: Chain = ("r2",)
CHAINS_MAX = 8
FROZEN_MAX = 4
"""Commands while a process is frozen: in virtual time each takes more than a second, and after ten
the upstream gives the standby up."""


@dataclass(slots=True)
class Status:
    """What is known of one server without looking at it."""

    running: bool = True
    primary: bool = False
    upstream: str = ""
    paused: bool = False
    frozen: str = ""
    slot: str = ""  # that its settings name
    sync: tuple[str, ...] = ()  # listed
    # Every history that its data may be on: whether a standby could follow is not known here.
    chains: set[Chain] = field(default_factory=lambda: {FIRST})
    # Its data came from pg_rewind where the timelines may be equal, or after a recovery that gave a
    # standby WAL of its own on its upstream's timeline: only a clone makes it usable.
    suspect: bool = False
    crashed_standby: bool = False  # it was a standby and did not end in order


@dataclass(slots=True)
class Tracker:
    """Follows a sequence from its beginning."""

    servers: dict[str, Status] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)  # value → server
    branches: int = 0
    max_tli: int = 2  # no timeline above it exists
    frozen_for: int = 0  # commands since a process was frozen
    contest: tuple[str, str] = ("", "")  # who has a slot, and who is refused it
    careful: bool = True  # keep away from what depends on bytes

    def __post_init__(self) -> None:
        if not self.servers:
            self.servers = {name: Status(upstream="a") for name in NAMES}
            self.servers["a"] = Status(primary=True)

    # ---------------------------------------------------------------- what applies

    def applies(self, command: Command) -> bool:
        """Return whether the command makes sense now."""
        if self.frozen_for >= FROZEN_MAX and not isinstance(command, do.Thaw):
            return False
        if self.contest[0] and not self._ends_contest(command):
            return False
        match command:
            case do.Settle():
                return self.frozen_for == 0
            case do.CancelCommit(value=value):
                return value in self.commits and self._answers(self.commits[value])
            case do.Commit(value=value):
                return self._answers(command.server) and value not in self.commits
            case do.SetSync() | do.Checkpoint() | do.Read() | do.CreateSlot() | do.DropSlot():
                return self._answers(command.server)
            case do.LimitSlots(server=name):
                return self._is_primary(name)
            case do.RemoveWal(server=name) | do.SwitchWal(server=name):
                # More than a socket takes is sent to every standby.
                return self._is_primary(name) and not self.frozen_for
            case do.Stop(server=name, how=how):
                here = self.servers[name]
                return here.running and (how == "kill" or not here.frozen)
            case do.Start(server=name, upstream=upstream):
                if self.servers[name].running:
                    return False
                if self._users(name, self.servers[name].slot):
                    return False
                return self._may_follow(name, upstream)
            case do.Rewind(server=name, source=source):
                stopped = not self.servers[name].running and not self.servers[name].suspect
                return stopped and self._is_primary(source)
            case do.Clone(server=name, source=source):
                return not self.servers[name].running and self._is_primary(source)
            case _:
                return self._applies_to_standby(command)

    def _applies_to_standby(self, command: Command) -> bool:
        here = self.servers[command.server]  # type: ignore[union-attr]
        if not here.running or here.primary:
            return False
        if isinstance(command, do.Thaw):
            return bool(here.frozen)
        if here.frozen:
            return False
        connected = bool(here.upstream) and self.servers[here.upstream].running
        match command:
            case do.PauseReplay():
                return not here.paused
            case do.ResumeReplay():
                return here.paused
            case do.Detach():
                return bool(here.upstream)
            case do.Attach(server=name, upstream=upstream):
                return upstream != here.upstream and self._may_follow(name, upstream)
            case do.KillReceiver():  # without a server to connect to it comes and goes
                return connected or not here.upstream
            case do.Freeze(what=what):
                return what == "server" or connected
            case do.Promote(tli=tli):
                return tli == 0 or tli > self.max_tli
            case do.UseSlot(server=name, name=slot):
                return slot != here.slot and self._may_use(name, slot)
            case _:
                raise AssertionError(command)

    def _may_use(self, name: str, slot: str) -> bool:
        """Return whether it is known who has the slot, if several ask for it."""
        users = self._users(name, slot)
        if not users:
            return True
        here, other = self.servers[name], self.servers[users[0]]
        same = bool(here.upstream) and here.upstream == other.upstream
        busy = here.paused or other.paused or other.frozen
        return same and not busy and self._is_primary(here.upstream)

    def _users(self, name: str, slot: str) -> list[str]:
        """Return the other standbys whose settings name the slot."""
        standbys = ((n, s) for n, s in self.servers.items() if s.running and not s.primary)
        return [n for n, s in standbys if n != name and slot and s.slot == slot]

    def _ends_contest(self, command: Command) -> bool:
        """Return whether it stays known who has a slot that two standbys ask for."""
        holder, refused = self.contest
        match command:
            case do.Commit() | do.Read() | do.Checkpoint() | do.Settle() | do.DropSlot():
                return True
            case do.SwitchWal() | do.RemoveWal():
                return True
            case do.CreateSlot(name=slot):  # if there was none, both would be there at once
                return slot != self.servers[refused].slot
            case do.Stop(server=name):
                return name in (holder, refused)
            case do.UseSlot(server=name):
                return name == refused
            case _:
                return False

    def _answers(self, name: str) -> bool:
        return self.servers[name].running and self.servers[name].frozen != "server"

    def _is_primary(self, name: str) -> bool:
        return self._answers(name) and self.servers[name].primary

    def upstreams(self) -> dict[str, str]:
        """Return whom the settings of each server name."""
        return {name: here.upstream for name, here in self.servers.items()}

    def _may_follow(self, name: str, upstream: str) -> bool:
        if not upstream:
            return True
        if upstream == name or self.servers[upstream].frozen == "server":
            return False
        above = upstream
        while above:  # no circles
            if above == name:
                return False
            above = self.servers[above].upstream if not self.servers[above].primary else ""
        here = self.servers[name]
        return not self.careful or not (here.suspect or self._may_be_twins(name, upstream))

    def _may_be_twins(self, one: str, other: str) -> bool:
        return any(
            _same_timeline_twice(x, y)
            for x in self.servers[one].chains
            for y in self.servers[other].chains
        )

    # ---------------------------------------------------------------- what it changes

    def apply(self, command: Command) -> None:
        """Take note of a command that was carried out."""
        match command:
            case do.Commit(server=name, value=value):
                self.commits[value] = name
            case do.Stop(server=name, how=how):
                here = self.servers[name]
                here.crashed_standby = how != "fast" and not here.primary
                here.running = here.primary = here.paused = False
                here.frozen = here.upstream = ""
                self.contest = ("", "")
            case do.Start(server=name, upstream=upstream):
                here = self.servers[name]
                here.running, here.upstream = True, upstream
            case do.SetSync(server=name, names=names):
                self.servers[name].sync = names
            case do.Attach(server=name, upstream=upstream):
                self.servers[name].upstream = upstream
            case do.Detach(server=name):
                self.servers[name].upstream = ""
            case do.UseSlot(server=name, name=slot):
                holder = next(iter(self._users(name, slot)), "")
                self.contest = (holder, name) if holder else ("", "")
                self.servers[name].slot = slot
            case do.PauseReplay(server=name):
                self.servers[name].paused = True
            case do.ResumeReplay(server=name):
                self.servers[name].paused = False
            case do.Freeze(server=name, what=what):
                self.servers[name].frozen = what
            case do.Thaw(server=name):
                self.servers[name].frozen = ""
            case do.Promote(server=name, tli=tli):
                self._promoted(self.servers[name], tli)
            case do.Rewind(server=name, source=source):
                here = self.servers[name]
                here.suspect = here.crashed_standby or self._may_be_twins(name, source)
                here.chains = set(self.servers[source].chains)
            case do.Clone(server=name, source=source):
                here = self.servers[name]
                here.suspect, here.chains = False, set(self.servers[source].chains)
            case _:
                pass
        frozen = any(here.frozen for here in self.servers.values())
        self.frozen_for = self.frozen_for + 1 if frozen else 0
        self._follow()

    def _promoted(self, here: Status, tli: int) -> None:
        self.branches += 1
        branch = f"r{tli}" if tli else f"n{self.branches}"
        self.max_tli = max(self.max_tli + 1, tli)
        here.primary, here.upstream, here.paused = True, "", False
        here.chains = {(*chain, branch) for chain in here.chains}

    def _follow(self) -> None:
        for _ in NAMES:
            for here in self.servers.values():
                if here.running and here.upstream and self.servers[here.upstream].running:
                    here.chains |= self.servers[here.upstream].chains
        for here in self.servers.values():
            here.suspect = here.suspect or len(here.chains) > CHAINS_MAX


def _same_timeline_twice(x: Chain, y: Chain) -> bool:
    for one, other in zip(x, y, strict=False):
        if one != other:
            return one[0] == other[0] == "n"  # a reserved number is nobody else's
    return False


def applicable(commands: tuple[Command, ...] | list[Command]) -> tuple[Command, ...]:
    """Return the commands that make sense where they stand, once the others are left out."""
    tracker = Tracker()
    kept = []
    for command in commands:
        if tracker.applies(command):
            tracker.apply(command)
            kept.append(command)
    return tuple(kept)
