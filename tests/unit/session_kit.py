"""A conversation that is tracked."""

from __future__ import annotations

from follow_kit import Watched

from metako.proxy.estate import Estate, decode, encode
from metako.proxy.tracked import Tracked
from metako.proxy.who import Who


class Session(Watched):
    """Both scanners, and what is made of their notes."""

    def __init__(self, layouts=None) -> None:
        super().__init__(layouts)
        self.tracked = Tracked()

    def hear(self, note, from_client) -> None:
        self.tracked.note(note, from_client)

    @property
    def settings(self) -> list[str]:
        return [sql.decode() for all_ in self.tracked.settings.values() for sql in all_]

    @property
    def names(self) -> list[str]:
        return [name.decode() for name in self.tracked.statements]

    def handed_over(self) -> Session:
        """Return the same session at rest, as another process has it."""
        snapshot = self.tracked.snapshot()
        assert snapshot is not None
        who = Who(1, "u", "d", "", "127.0.0.1", 1, tls=False, since=0.0)
        estate = decode(encode(Estate(who, True, False, None, None, snapshot)))
        assert isinstance(estate, Estate)
        assert estate.snapshot == snapshot
        other = Session()
        other.tracked = Tracked(estate.snapshot)
        other.up.know(snapshot.texts())
        return other

    def clear(self) -> None:
        """Check that DISCARD ALL makes everything forgotten."""
        self.run("discard all", "DISCARD ALL")
        assert self.tracked.obstacle is None
        assert not self.tracked.dirty
        assert not self.settings
        assert not self.names


def describe(tracked: Tracked) -> str:
    """Return what the `=` lines of a transcript state of a session."""
    sql = "; ".join(one.decode() for all_ in tracked.settings.values() for one in all_)
    names = " ".join(name.decode() for name in tracked.statements)
    obstacle = tracked.obstacle.name if tracked.obstacle else "-"
    dirty = " dirty" if tracked.dirty else ""
    return f"settings=[{sql}] statements=[{names}] obstacle={obstacle}{dirty}"
