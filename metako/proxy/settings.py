"""What SET, RESET and set_config() do to the settings of a session.

A setting is remembered as the statement that is to be repeated: its text is what the client wrote,
so nothing has to be known of values and their types. `SET LOCAL` and what sets the characteristics
of one transaction leave nothing behind.

Source: src/backend/parser/gram.y (VariableSetStmt, set_rest, set_rest_more).
"""

from __future__ import annotations

from metako.proxy.changes import UNCLEAR, Meaning, Reset, Set, Simple, Tie
from metako.proxy.sqltext import Kind, Statement, Token

SEARCH_PATH = b"search_path"
ROLE = b"role"
AUTHORIZATION = b"session_authorization"
# RESET ALL leaves these alone. (GUC_NO_RESET_ALL; the others last for one transaction.)
KEPT_BY_RESET_ALL = frozenset((ROLE, AUTHORIZATION))
_OF_TRANSACTION = frozenset(
    (b"transaction_isolation", b"transaction_read_only", b"transaction_deferrable")
)
_TAGS = (b"SET",)
_LOCAL = Meaning(Simple.LOCAL, tags=_TAGS)


def meaning_of_set(statement: Statement) -> Meaning:
    """Return the meaning of a statement that begins with SET."""
    words = _words(statement.tokens)
    if words[1:2] == [b"local"]:
        return _LOCAL
    if words[1:2] == [b"constraints"]:
        return Meaning(tags=(b"SET CONSTRAINTS",))
    if words[1:2] == [b"transaction"]:
        return _LOCAL
    begin = 1
    if words[1:3] == [b"session", b"characteristics"]:
        return _characteristics(words)
    # SESSION can be left out, and can be a part of what is set.
    if words[1:2] == [b"session"] and words[2:3] != [b"authorization"]:
        begin = 2
    return _set_one(statement, words, begin)


def _set_one(statement: Statement, words: list[bytes], begin: int) -> Meaning:
    tokens = statement.tokens
    rest = words[begin:]
    match rest:
        case [b"time", b"zone", *value]:
            name, reset = b"timezone", value in ([b"local"], [b"default"])
        case [b"session", b"authorization", *value]:
            name, reset = AUTHORIZATION, value == [b"default"]
        case [b"names", *value]:
            name, reset = b"client_encoding", value in ([], [b"default"])
        case [b"schema", *value]:
            name, reset = SEARCH_PATH, False
        case [b"xml", b"option", *value]:
            name, reset = b"xmloption", False
        case [b"role", *value] if len(value) == 1:
            name, reset = ROLE, False
        case [b"catalog", *_]:
            return UNCLEAR
        case _:
            found, value_at = _setting_name(tokens, begin)
            if found is None or words[value_at : value_at + 1] not in ([b"="], [b"to"]):
                return UNCLEAR  # FROM CURRENT, or nothing that PostgreSQL would accept
            value = words[value_at + 1 :]
            name, reset = found, value == [b"default"]
    if name in _OF_TRANSACTION:
        return _LOCAL
    if name == b"seed":
        return Meaning(ties=(Tie.SEED,), dirty=True, tags=_TAGS)
    if reset:
        return Meaning(Reset(name), dirty=True, tags=_TAGS)
    ties: tuple[Tie, ...] = ()
    if any(b"pg_temp" in token.value.lower() for token in tokens[begin:]):
        ties = (Tie.TEMPORARY,)
    return Meaning(Set(((name, statement.text),)), ties, dirty=True, tags=_TAGS)


def meaning_of_reset(statement: Statement) -> Meaning:
    """Return the meaning of a statement that begins with RESET."""
    words = _words(statement.tokens)
    tags = (b"RESET",)
    match words[1:]:
        case [b"all"]:
            return Meaning(Reset(None), dirty=True, tags=tags)
        case [b"time", b"zone"]:
            return Meaning(Reset(b"timezone"), dirty=True, tags=tags)
        case [b"session", b"authorization"]:
            return Meaning(Reset(AUTHORIZATION), dirty=True, tags=tags)
        case [b"transaction", *_]:
            return Meaning(tags=tags)
    name, _ = _setting_name(statement.tokens, 1)
    if name is None:
        return UNCLEAR
    return Meaning(Reset(name), dirty=True, tags=tags)


def _words(tokens: list[Token]) -> list[bytes]:
    """Return the values of words and symbols, and b"" for all else: no string is a keyword."""
    return [token.value if token.kind in (Kind.WORD, Kind.SYMBOL) else b"" for token in tokens]


def _setting_name(tokens: list[Token], begin: int) -> tuple[bytes | None, int]:
    """Return the name that begins there, which may have dots, and where what follows it is."""
    parts: list[bytes] = []
    for index in range(begin, len(tokens), 2):
        if not tokens[index].names:
            return None, index
        parts.append(tokens[index].value.lower())
        if tokens[index + 1 : index + 2] == [] or tokens[index + 1].value != b".":
            return b".".join(parts), index + 1
    return None, len(tokens)


def _characteristics(words: list[bytes]) -> Meaning:
    """Return the meaning of SET SESSION CHARACTERISTICS AS TRANSACTION with one or more modes.

    They are settings of their own, and may be changed one by one.
    """
    if words[3:5] != [b"as", b"transaction"]:
        return UNCLEAR
    found: list[tuple[bytes, bytes]] = []
    rest = [word for word in words[5:] if word != b","]
    while rest:
        match rest:
            case [b"isolation", b"level", b"read" | b"repeatable" as first, second, *rest]:
                found.append((b"default_transaction_isolation", first + b" " + second))
            case [b"isolation", b"level", level, *rest]:
                found.append((b"default_transaction_isolation", level))
            case [b"read", b"only" | b"write" as access, *rest]:
                value = b"on" if access == b"only" else b"off"
                found.append((b"default_transaction_read_only", value))
            case [b"not", b"deferrable", *rest]:
                found.append((b"default_transaction_deferrable", b"off"))
            case [b"deferrable", *rest]:
                found.append((b"default_transaction_deferrable", b"on"))
            case _:
                return UNCLEAR
    # The values are words of the grammar: they need no quoting but for the space.
    statements = tuple((name, b"SET " + name + b" = '" + value + b"'") for name, value in found)
    return Meaning(Set(statements), dirty=True, tags=_TAGS)


def set_config_statement(statement: Statement) -> Set | None:
    """Return what `SELECT set_config('name', 'value', false)` sets, None for anything else.

    Only this form, with constants, can be repeated later as it stands.
    """
    tokens = statement.tokens
    values = [token.value for token in tokens]
    if values[:1] != [b"select"]:
        return None
    begin = 3 if values[1:3] == [b"pg_catalog", b"."] else 1
    if len(tokens) != begin + 8:
        return None
    call, opening, name, comma, value, comma_too, local, closing = tokens[begin:]
    if (
        not call.names
        or call.value != b"set_config"
        or (opening.value, comma.value, comma_too.value, closing.value) != (b"(", b",", b",", b")")
        or any(token.kind is not Kind.STRING for token in (name, value))
        or local.kind is not Kind.WORD
        or local.value != b"false"
        or b"\\" in name.value
    ):
        return None
    setting = name.value.lower()
    if setting in _OF_TRANSACTION | {b"seed"} or b"pg_temp" in value.value.lower():
        return None
    return Set(((setting, statement.text),))
