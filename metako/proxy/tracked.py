"""What a session consists of besides its transactions: what a new server would have to be told.

In: the notes of `follow`'s two scanners, in the order in which they pass. Out, whenever the client
is at rest: why the session cannot be rebuilt at another server, if it cannot; the messages that
rebuild it (see `rebuild`); and whether its server has to forget something before another client may
use it.

What is sent is read at once, and stands in a queue until the server answers: a change takes place
when its statement succeeded, and stays when its transaction did. Answers come in the order of the
requests, so each answer belongs to the first in the queue that waits for one of its kind. Where an
answer does not fit, what it belongs to is not known any more: then the session is tied to its
server (`Tie.UNCLEAR`), until DISCARD ALL.

Not seen, and assumed not to happen:

- that a function, a trigger, a rule, a DO block or a procedure changes the session: with SET, a
  temporary table, a lock. (What calls PostgreSQL's own functions by name is seen; `meaning`.) DO
  and CALL make a session dirty, but do not tie it.
- what stands in a text behind its first 64 KiB, unless the answer's tag shows it; state of
  extensions, such as connections of dblink; temporary replication slots.
- that a client binds the unnamed statement again after it was idle: it is not there after a move.

Conservative on purpose: a temporary table that is dropped and a lock that is given back with
pg_advisory_unlock() still tie the session. DISCARD ALL unties it, but for LOAD.

Invariant: memory is bounded by the limits here, in `layers` and `prepared`, and in `follow`.

Deliberately unknown here: sockets, and when and whether a session is moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metako.pgwire.follow import Opening, Ready
from metako.pgwire.messages import parse_parse_untrusted
from metako.pgwire.scan import STATUS_IDLE
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import Note
from metako.proxy.changes import (
    NOTHING,
    UNCLEAR,
    Deallocate,
    Execute,
    Meaning,
    Prepare,
    Simple,
    Tie,
)
from metako.proxy.layers import Layers, Settings
from metako.proxy.meaning import meanings_of
from metako.proxy.prepared import Prepared, PreparedStatements
from metako.proxy.reported import Reported
from metako.proxy.snapshot import Snapshot
from metako.proxy.steps import (
    ANSWERS,
    CERTAIN_TAGS,
    LARGE_OBJECT_FUNCTIONS,
    MEANINGS_MAX,
    TELLING_TAGS,
    TRANSACTION_TAGS,
    Awaited,
    Step,
    remember,
)

_ENDLESS = frozenset((Tie.LIBRARY,))  # not even DISCARD ALL unloads a library


class Tracked:
    """See the module's docstring.

    Args:
        kept: what another process knew of the session; None: it begins.
    """

    __slots__ = (
        *("_before", "_dirty", "_failed", "_following", "_layers", "_meanings"),
        *("_portals", "_reported", "_skipping", "_statements", "_steps", "_ties"),
    )

    def __init__(self, kept: Snapshot | None = None) -> None:
        self._layers = Layers()
        self._statements = PreparedStatements()
        self._ties: dict[Tie, None] = {}  # what no ROLLBACK undoes, in the order of its appearance
        self._dirty = False
        self._steps = Awaited()
        self._before = 0  # ReadyForQuery of requests that were sent before the first step
        self._following = False  # whether there is an episode, and its answers fit so far
        self._failed = False  # there was an error since the last ReadyForQuery
        self._skipping = False  # the server ignores what is sent until a Sync
        # What executing a statement or a portal would mean, as far as it means anything.
        self._meanings: dict[bytes, Meaning] = {}
        self._portals: dict[bytes, Meaning] = {}
        self._reported = Reported()
        if kept is not None:
            self._begin_with(kept)

    def _begin_with(self, kept: Snapshot) -> None:
        self._layers = Layers(kept.scope)
        self._ties = dict.fromkeys(kept.ties)
        self._reported.values.update(kept.reported)
        self._reported.doubtful = kept.doubtful
        self._statements.overflown = kept.overflown
        for name, prepared in kept.statements.items():
            self._statements.add(name, prepared)
            if prepared.parse is not None:
                meanings = meanings_of(prepared.parse.query, doubtful=kept.doubtful)
                remember(self._meanings, name, meanings[0] if len(meanings) == 1 else NOTHING)
            elif not prepared.sql:
                self._tie(Tie.UNCLEAR)  # its text was not kept, and what it meant was not either
        self._dirty = self._dirty or kept.dirty

    # -- at rest --------------------------------------------------------------------------------

    @property
    def obstacle(self) -> Tie | None:
        """Why the session cannot be rebuilt at another server; None if it can."""
        if self._ties:
            return next(iter(self._ties))
        return self._layers.committed.tie or self._statements.tie

    @property
    def dirty(self) -> bool:
        """Whether the server needs DISCARD ALL before another client may use it.

        A session of nothing but queries and transactions is clean, in both protocols. What is not
        seen, as said above, is assumed not to be there.
        """
        return self._dirty

    @property
    def settings(self) -> Settings:
        """The SQL that sets what differs from the begin of the session, in order."""
        return self._layers.committed.settings

    @property
    def statements(self) -> Mapping[bytes, Prepared]:
        """The prepared statements, by name, in the order of their creation."""
        return self._statements.by_name

    @property
    def reported(self) -> Mapping[str, str]:
        """What the client was told last of the settings that servers report."""
        return self._reported.values

    def snapshot(self) -> Snapshot | None:
        """Return what another process needs to go on; None if the client is not at rest."""
        if self._following or self._layers.pending:
            return None
        return Snapshot(
            self._layers.committed,
            dict(self._statements.by_name),
            self._statements.overflown,
            tuple(self._ties),
            self._dirty,
            dict(self._reported.values),
            self._reported.doubtful,
        )

    def moved(self, left_out: Iterable[bytes], reported: Mapping[str, str]) -> None:
        """Note that the session was rebuilt, and that the client is told what is `reported`.

        Args:
            left_out: names of statements that could not be prepared any more.
        """
        for name in left_out:
            self._statements.remove(name)
        self._reported.values.update(reported)

    # -- the notes ------------------------------------------------------------------------------

    def note(self, note: Note, from_client: bool) -> None:
        """Take the next note of either scanner."""
        if from_client:
            self._sent(note)
        elif note.kind == b"S":
            self._reported.receive(note.body)
        elif self._following and not (self._before and note.kind == b"C"):
            self._answered(note)
        elif note.kind == b"C" and note.body.rstrip(b"\0") in TELLING_TAGS:
            # Nobody saw it coming: in a text that was too long, or by way of EXECUTE.
            self._tie(Tie.UNCLEAR)

    def _sent(self, note: Note) -> None:
        kind, body = note.kind, note.body
        opening = Opening.of(note)
        if opening is not None:
            self._open(opening)
        elif self._skipping and kind != b"S":
            return
        elif kind == b"Q":
            self._query(note)
        elif kind == b"P":
            self._parse(note)
        elif kind == b"B":
            portal, _, rest = body.partition(b"\0")
            name, end, _ = rest.partition(b"\0")
            if not end:
                self._tie(Tie.UNCLEAR)
            self._expect(Step(b"2", name=name, portal=portal))
        elif kind == b"E":
            portal, end, _ = body.partition(b"\0")
            if not end:
                self._tie(Tie.UNCLEAR)
            self._expect(Step(b"C", extended=True, portal=portal))
        elif kind == b"C":
            closed = body[1:].rstrip(b"\0") if body[:1] == b"S" and note.whole else None
            if not note.whole:
                self._tie(Tie.UNCLEAR)
            self._expect(Step(b"3", name=closed))
        elif kind == b"F":
            if int.from_bytes(body, "big") not in LARGE_OBJECT_FUNCTIONS:
                self._begun(UNCLEAR)
            self._expect(Step(b"Z"))
        elif kind == b"S":
            self._skipping = False
            self._expect(Step(b"Z"))
        else:
            self._tie(Tie.UNCLEAR)  # an opening that does not say everything

    def _open(self, opening: Opening) -> None:
        """Begin an episode."""
        if self._steps:
            self._tie(Tie.UNCLEAR)
            self._steps.clear()
        self._portals.clear()
        self._following = True
        self._failed = self._skipping = False
        self._before = opening.owed
        if not opening.unnamed:
            self._meanings.pop(b"", None)
        for kind in opening.earlier:
            self._expect(Step(ANSWERS[kind], known=False, extended=True))

    def _query(self, note: Note) -> None:
        if not note.whole:
            # Its answers are not foreseen; `_ended` judges their tags.
            self._dirty = True
            self._expect(Step(b"C", known=False))
            self._expect(Step(b"Z"))
            return
        for meaning in meanings_of(note.body[:-1], doubtful=self._reported.doubtful):
            self._expect(Step(b"C", self._begun(meaning)))
        self._expect(Step(b"Z"))

    def _parse(self, note: Note) -> None:
        name, end, _ = note.body.partition(b"\0")
        parse, meanings = None, [NOTHING]
        if note.whole:
            try:
                parse = parse_parse_untrusted(note.body)
            except PgWireError:
                self._tie(Tie.UNCLEAR)
            else:
                meanings = meanings_of(parse.query, doubtful=self._reported.doubtful)
        elif not end:
            self._tie(Tie.UNCLEAR)
        # More than one statement is refused by the server.
        meaning = self._begun(meanings[0]) if len(meanings) == 1 else NOTHING
        self._dirty = self._dirty or bool(name) or not note.whole
        self._expect(Step(b"1", meaning, parse=parse if name else None, name=name))

    def _begun(self, meaning: Meaning) -> Meaning:
        """Take account of what has to be assumed of a statement that is on its way."""
        for tie in meaning.ties:
            self._tie(tie)
        self._dirty = self._dirty or meaning.dirty
        return meaning

    def _expect(self, step: Step) -> None:
        if self._following and not self._steps.expect(step):
            self._lose()

    # -- the answers ----------------------------------------------------------------------------

    def _answered(self, note: Note) -> None:
        kind, steps = note.kind, self._steps
        if kind == b"Z":
            self._ready(Ready.of(note))
        elif kind in (b"A", b"N") or self._before:
            return
        elif kind == b"E":
            self._failed, self._skipping = True, steps.skip()
        elif kind == b"G":
            steps.begin_copy()
        else:
            first = steps[0].kind if steps else b""
            if kind == b"I" and first != b"C":
                return  # of a Query without any statement no step was made
            if first != (b"C" if kind in (b"C", b"I", b"s") else kind):
                self._lose()
            elif kind == b"C":
                self._ended(note.body.rstrip(b"\0"))
            else:
                self._done(steps.popleft(), kind)

    def _done(self, step: Step, kind: bytes) -> None:
        """Take account of an answer without a tag."""
        if step.name is None:
            return
        if kind == b"1":
            remember(self._meanings, step.name, step.meaning)
            if step.name:
                self._statements.add(step.name, Prepared(step.parse, b"", *self._layers.path))
        elif kind == b"2":
            meaning = self._begun(self._meanings.get(step.name, NOTHING))
            remember(self._portals, step.portal, meaning)
        elif kind == b"3":
            self._statements.remove(step.name)
        if len(self._meanings) + len(self._portals) > MEANINGS_MAX:
            self._lose()

    def _ended(self, tag: bytes) -> None:
        """Take account of a statement that succeeded."""
        step = self._steps[0]
        if not step.known:
            # Either one statement that is harmless, or a text of which not all is known.
            if step.extended:
                self._steps.popleft()
            if tag in TELLING_TAGS or (tag in TRANSACTION_TAGS and self._layers.pending):
                self._tie(Tie.UNCLEAR)
            return
        self._steps.popleft()
        meaning = self._portals.get(step.portal, NOTHING) if step.extended else step.meaning
        if tag not in meaning.tags if meaning.tags else tag in CERTAIN_TAGS:
            self._lose()
        elif tag in TRANSACTION_TAGS and meaning.change is None and self._layers.pending:
            self._tie(Tie.UNCLEAR)  # by the unnamed statement, which nobody was told of
        elif tag == b"ROLLBACK" and meaning.change is Simple.COMMIT:
            self._layers.roll_back()
        else:
            self._change(meaning)

    def _change(self, meaning: Meaning) -> None:
        match meaning.change:
            case None:
                return
            case Execute(name):
                if name in self._meanings:
                    self._tie(Tie.UNCLEAR)  # it was prepared by the protocol, and is no query
            case Prepare(name, sql):
                self._statements.add(name, Prepared(None, sql, *self._layers.path))
            case Deallocate(None):
                self._statements.clear()
                self._forget_named()
            case Deallocate(bytes(name)):
                self._statements.remove(name)
            case Simple.DISCARD_ALL:
                self._discard_all()
            case Simple.DISCARD_SEQUENCES:
                self._ties.pop(Tie.SEQUENCES, None)
            case Simple.UNLOCK_ALL:
                self._ties.pop(Tie.LOCKS, None)
            case other:
                self._layers.apply(other)

    def _discard_all(self) -> None:
        self._layers = Layers()
        self._statements.clear()
        self._forget_named()
        self._ties = {tie: None for tie in self._ties if tie in _ENDLESS}
        self._dirty = bool(self._ties)
        # What was sent behind it may have been assumed already.
        for step in self._steps:
            self._begun(step.meaning)
            self._dirty = self._dirty or bool(step.name)

    def _forget_named(self) -> None:
        # The unnamed statement is not deallocated with the others.
        self._meanings = {name: found for name, found in self._meanings.items() if not name}

    def _ready(self, ready: Ready) -> None:
        if self._before:
            self._before -= 1
            return
        self._steps.end_request()
        if ready.status == STATUS_IDLE:
            self._layers.end(failed=self._failed)
            if not self._steps:
                self._portals.clear()
        self._failed = False
        if not ready.owed:
            self._steps.end_requests()
            if not self._steps and ready.status == STATUS_IDLE:
                self._following = False  # the episode is over

    def _lose(self) -> None:
        """Note that answers and requests do not fit."""
        self._tie(Tie.UNCLEAR)
        self._dirty = True
        self._following = False
        self._steps.clear()

    # -- small things ---------------------------------------------------------------------------

    def _tie(self, tie: Tie) -> None:
        self._ties.setdefault(tie)
        self._dirty = True
