"""What a statement leaves behind in its session, read from its tokens.

In: one statement from `sqltext`. Out: its `Meaning`. A statement that leaves nothing behind has an
empty one.

What a statement leaves behind by way of a function, a DO block or a procedure cannot be seen. The
exceptions are PostgreSQL's own functions for advisory locks, settings and sequences, which are
found wherever they are called by name, also inside of what is only being prepared.

Deliberately unknown here: transactions. A change says what it is, `tracked` says whether it stays.

Source: PostgreSQL documentation, "SQL Commands"; src/backend/parser/gram.y.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from metako.proxy.changes import (
    NOTHING,
    UNCLEAR,
    Change,
    CloseCursor,
    Deallocate,
    Execute,
    Hold,
    Listen,
    Meaning,
    Point,
    Prepare,
    Savepoint,
    Simple,
    Tie,
)
from metako.proxy.concern import is_mere_query
from metako.proxy.settings import meaning_of_reset, meaning_of_set, set_config_statement
from metako.proxy.sqltext import Kind, Statement, Token, creates_routine, read_script

_TEMPORARY_WORDS = (b"temp", b"temporary")
_BEFORE_TEMPORARY = (b"create", b"replace", b"local", b"global", b"into")
_TIES_OF_FUNCTIONS = {
    b"currval": Tie.SEQUENCES,
    b"lastval": Tie.SEQUENCES,
    b"setseed": Tie.SEED,
}
_TRUE = (b"true", b"t", b"on", b"yes", b"y", b"1")


def meanings_of(text: bytes, *, doubtful: bool) -> list[Meaning]:
    """Return what each statement of a text leaves behind.

    Args:
        doubtful: a backslash in a plain string may escape what is behind it, or not.
    """
    if is_mere_query(text):
        return [NOTHING]
    script = read_script(text, doubtful=doubtful)
    if not script.certain:
        return [UNCLEAR]
    return [meaning_of(statement) for statement in script.statements]


def meaning_of(statement: Statement) -> Meaning:
    """Return what `statement` leaves behind."""
    tokens = statement.tokens
    first = tokens[0]
    if first.kind is not Kind.WORD:
        # A query in parentheses, or nothing that PostgreSQL would accept.
        return _query(statement)
    if first.value in (b"do", b"call"):
        return Meaning(dirty=True)
    if creates_routine(tokens):
        return NOTHING  # what stands in its body happens when it is called
    read = _READERS.get(first.value, _query)
    return read(statement)


# -- queries, and everything that contains one ------------------------------------------------


def _query(statement: Statement) -> Meaning:
    """Return the meaning of what is known for what is in it only."""
    tokens = statement.tokens
    config = set_config_statement(statement)
    if config is not None:
        return Meaning(config, dirty=True)
    ties = _ties_of_calls(tokens)
    change: Change | None = None
    if _calls(tokens, b"set_config"):
        change = Simple.LOCAL
    if _calls(tokens, b"pg_advisory_unlock_all"):
        change = Simple.UNLOCK_ALL
    if _makes_temporary(tokens):
        if change is Simple.UNLOCK_ALL:
            ties += (Tie.TEMPORARY,)
        change = Simple.TEMPORARY
    return Meaning(change, ties, dirty=bool(ties) or change not in (None, Simple.LOCAL))


def _ties_of_calls(tokens: list[Token]) -> tuple[Tie, ...]:
    found: list[Tie] = []
    for index, token in enumerate(tokens[:-1]):
        if not token.names or tokens[index + 1].value != b"(":
            continue
        name = token.value
        if name in _TIES_OF_FUNCTIONS:
            found.append(_TIES_OF_FUNCTIONS[name])
        elif name == b"set_config" and not _is_local(tokens, index + 1):
            found.append(Tie.CONFIG)
        elif (
            name.startswith((b"pg_advisory_", b"pg_try_advisory_"))
            and b"_xact_" not in name
            and b"unlock" not in name
        ):
            found.append(Tie.LOCKS)
    return tuple(dict.fromkeys(found))


def _is_local(tokens: list[Token], opening: int) -> bool:
    """Return whether the last argument of a call says true, so that its effect ends in time."""
    depth, last = 0, list[Token]()
    for token in tokens[opening:]:
        if token.value in (b"(", b")") and token.kind is Kind.SYMBOL:
            depth += 1 if token.value == b"(" else -1
            if not depth:
                break
        if depth == 1 and token.kind is Kind.SYMBOL and token.value == b",":
            last = []
        else:
            last.append(token)
    if (
        not last
        or last[0].kind not in (Kind.WORD, Kind.STRING)
        or last[0].value.lower() not in _TRUE
    ):
        return False
    # With a cast behind it at most: nothing else may come between the constant and the result.
    rest = [token.value for token in last[1:]]
    return rest in ([], [b":", b":", b"boolean"], [b":", b":", b"bool"])


def _calls(tokens: list[Token], function: bytes) -> bool:
    return any(
        token.names and token.value == function and after.value == b"("
        for token, after in pairwise(tokens)
    )


def _makes_temporary(tokens: list[Token]) -> bool:
    if any(token.names and token.value.startswith(b"pg_temp") for token in tokens):
        return True
    if tokens[0].value in (b"insert", b"merge"):
        return False  # INTO temp: a table of that name
    for before, token in pairwise(tokens):
        if (
            token.kind is Kind.WORD
            and token.value in _TEMPORARY_WORDS
            and before.kind is Kind.WORD
            and before.value in _BEFORE_TEMPORARY
        ):
            return not _has_words(tokens, b"on", b"commit", b"drop")
    return False


def _has_words(tokens: list[Token], *words: bytes) -> bool:
    values = [token.value if token.kind is Kind.WORD else b"" for token in tokens]
    return any(tuple(values[index : index + len(words)]) == words for index in range(len(values)))


# -- commands ---------------------------------------------------------------------------------


def _name(statement: Statement, index: int) -> bytes | None:
    """Return the token at `index` as a name, None if it is none."""
    tokens = statement.tokens
    return tokens[index].value if index < len(tokens) and tokens[index].names else None


def _is_word(statement: Statement, index: int, *words: bytes) -> bool:
    tokens = statement.tokens
    return index < len(tokens) and tokens[index].kind is Kind.WORD and tokens[index].value in words


def _after_optional(statement: Statement, index: int, *words: bytes) -> int:
    return index + _is_word(statement, index, *words)


def _begin(_statement: Statement) -> Meaning:
    return Meaning(Simple.BEGIN, tags=(b"BEGIN", b"START TRANSACTION"))


def _commit(statement: Statement) -> Meaning:
    if _is_word(statement, 1, b"prepared"):
        return Meaning(tags=(b"COMMIT PREPARED",))
    return Meaning(Simple.COMMIT, tags=(b"COMMIT", b"ROLLBACK"))


def _rollback(statement: Statement) -> Meaning:
    if _is_word(statement, 1, b"prepared"):
        return Meaning(tags=(b"ROLLBACK PREPARED",))
    index = _after_optional(statement, 1, b"work", b"transaction")
    if _is_word(statement, index, b"to"):
        name = _name(statement, _after_optional(statement, index + 1, b"savepoint"))
        return _point(name, Point.ROLL_BACK_TO, b"ROLLBACK")
    return Meaning(Simple.ROLLBACK, tags=(b"ROLLBACK",))


def _savepoint(statement: Statement) -> Meaning:
    return _point(_name(statement, 1), Point.SET, b"SAVEPOINT")


def _release(statement: Statement) -> Meaning:
    index = 1
    # SAVEPOINT can be left out, and can be a name.
    if len(statement.tokens) > 2:
        index = _after_optional(statement, 1, b"savepoint")
    return _point(_name(statement, index), Point.RELEASE, b"RELEASE")


def _point(name: bytes | None, action: Point, tag: bytes) -> Meaning:
    return UNCLEAR if name is None else Meaning(Savepoint(name, action), tags=(tag,))


def _listen(statement: Statement) -> Meaning:
    name = _name(statement, 1)
    return UNCLEAR if name is None else _changed(Listen(name, begins=True), b"LISTEN")


def _unlisten(statement: Statement) -> Meaning:
    # Either a name, or *.
    return _changed(Listen(_name(statement, 1), begins=False), b"UNLISTEN")


def _load(_statement: Statement) -> Meaning:
    return Meaning(ties=(Tie.LIBRARY,), dirty=True, tags=(b"LOAD",))


def _prepare(statement: Statement) -> Meaning:
    if _is_word(statement, 1, b"transaction"):
        return Meaning(Simple.COMMIT, tags=(b"PREPARE TRANSACTION", b"ROLLBACK"))
    name = _name(statement, 1)
    if name is None:
        return UNCLEAR
    inner = _query(statement)
    return Meaning(Prepare(name, statement.text), inner.ties, dirty=True, tags=(b"PREPARE",))


def _deallocate(statement: Statement) -> Meaning:
    index = 1
    if len(statement.tokens) > 2:
        index = _after_optional(statement, 1, b"prepare")
    if _is_word(statement, index, b"all"):
        return _changed(Deallocate(None), b"DEALLOCATE ALL")
    name = _name(statement, index)
    return UNCLEAR if name is None else _changed(Deallocate(name), b"DEALLOCATE")


def _execute(statement: Statement) -> Meaning:
    name = _name(statement, 1)
    if name is None:
        return UNCLEAR
    inner = _query(statement)  # the parameters may call functions
    return Meaning(Execute(name), inner.ties, dirty=True)


def _discard(statement: Statement) -> Meaning:
    if _is_word(statement, 1, b"all"):
        return _changed(Simple.DISCARD_ALL, b"DISCARD ALL")
    if _is_word(statement, 1, *_TEMPORARY_WORDS):
        return _changed(Simple.DISCARD_TEMPORARY, b"DISCARD TEMP")
    if _is_word(statement, 1, b"sequences"):
        return _changed(Simple.DISCARD_SEQUENCES, b"DISCARD SEQUENCES")
    return Meaning(tags=(b"DISCARD PLANS",))


def _declare(statement: Statement) -> Meaning:
    name = _name(statement, 1)
    if name is None:
        return UNCLEAR
    ties = _ties_of_calls(statement.tokens)
    # WITH HOLD stands before FOR, and nothing else is called HOLD there.
    words = [token.value for token in statement.tokens if token.kind is Kind.WORD]
    head = words[1 : words.index(b"for")] if b"for" in words else words[1:]
    holds = any(pair == (b"with", b"hold") for pair in pairwise(head))
    change = Hold(name) if holds else None
    return Meaning(change, ties, dirty=holds or bool(ties), tags=(b"DECLARE CURSOR",))


def _close(statement: Statement) -> Meaning:
    if _is_word(statement, 1, b"all"):
        return Meaning(CloseCursor(None), tags=(b"CLOSE CURSOR ALL",))
    name = _name(statement, 1)
    return UNCLEAR if name is None else Meaning(CloseCursor(name), tags=(b"CLOSE CURSOR",))


def _changed(change: Change, tag: bytes) -> Meaning:
    return Meaning(change, dirty=True, tags=(tag,))


_READERS: dict[bytes, Callable[[Statement], Meaning]] = {
    b"set": meaning_of_set,
    b"reset": meaning_of_reset,
    b"begin": _begin,
    b"start": _begin,
    b"commit": _commit,
    b"end": _commit,
    b"rollback": _rollback,
    b"abort": _rollback,
    b"savepoint": _savepoint,
    b"release": _release,
    b"listen": _listen,
    b"unlisten": _unlisten,
    b"load": _load,
    b"prepare": _prepare,
    b"deallocate": _deallocate,
    b"execute": _execute,
    b"discard": _discard,
    b"declare": _declare,
    b"close": _close,
}
