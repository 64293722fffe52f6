"""Tell quickly which texts cannot leave anything behind in a session.

This runs for every Query, and for every Parse that no layout recognises, of every session that is
followed; hence the order of its questions. What passes all of them is a single statement that
begins like a query or like a transaction command, and nowhere has a word that changes a session
from within a query. Everything else *concerns* those who follow: `meaning` looks at it properly.

A text that concerns nobody in truth may be called concerning; that costs time. The reverse would
cost correctness: `tracked` looks at the tags of the answers too, for that reason.

What no text shows stays unknown: a function may do on the server what it likes. The same holds for
what stands in a text behind its first `follow.TEXT_BYTES_MAX` bytes.
"""

from __future__ import annotations

import re

# The first four letters of what may be executed without a closer look. None of them begins another
# command that is not as harmless.
_HARMLESS = frozenset(
    word
    for lower in (
        *(b"sele", b"inse", b"upda", b"dele", b"with", b"valu", b"merg", b"fetc", b"move"),
        *(b"begi", b"star", b"comm", b"end", b"end;", b"roll", b"abor", b"save", b"rele"),
        *(b"copy", b"show", b"noti", b"lock", b"trun", b"anal", b"vacu", b"tabl"),
    )
    for word in (lower, lower.upper(), lower.capitalize())
)
# Those of them that end or divide no transaction either.
_QUERIES = _HARMLESS & frozenset(
    word
    for lower in (b"sele", b"inse", b"upda", b"dele", b"with", b"valu", b"merg", b"fetc", b"copy")
    for word in (lower, lower.upper(), lower.capitalize())
)
_SEMICOLON, _QUOTE, _OPENING = b';"('
# What may stand before it. A comment that could be nested is left to the lexer.
_BEGIN = re.compile(
    rb"(?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r]|/\*[^*/]*+\*/)*+\(?([A-Za-z]{3}[A-Za-z]?)"
)
# One statement without any of the words that `concerns` looks for, in which a semicolon is the last
# thing if there is one. What could be read in more than one way does not match: a backslash in a
# plain string, nested comments, a letter right behind a digit (of an exponent or of a word).
_SINGLE = re.compile(
    rb"""
    (?:
        [^;'"$/\-A-Za-z_\x80-\xff]++
      | [eE]'[^'\\]*+(?:\\.[^'\\]*+)*+'
      | '[^'\\]*+'
      | (?<![0-9])(?!u&"|pg_temp|pg_(?:try_)?advisory)
        (?!(?:temp|temporary|set_config|currval|lastval|setseed)(?![a-z0-9_$\x80-\xff]))
        [a-z_\x80-\xff][a-z0-9_$\x80-\xff]*+
      | "(?!pg_|set_config"|currval"|lastval"|setseed")[^"]*+"
      | \$[0-9]++
      | \$(?P<tag>(?:[A-Za-z_][A-Za-z0-9_]*+)?)\$.*?\$(?P=tag)\$
      | --[^\n\r]*+
      | -(?!-)
      | /\*[^*/]*+\*/
      | /(?!\*)
    )*+
    [; \t\n\r\f\v]*+\Z
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def concerns(text: bytes) -> bool:
    """Return whether `text` might change what a session consists of."""
    lower = text.lower()
    if text[:4] not in _HARMLESS and not _begins_harmlessly(text, lower):
        return True
    # A single byte is looked for as a number: that takes a fifth of the time.
    if (
        _SEMICOLON not in text[:-1]
        and lower.find(b"temp") < 0  # a temporary table, or pg_temp
        and (_QUOTE not in text or b'u&"' not in lower)  # any name, in disguise
        and (
            _OPENING not in text
            or (
                b"advisory" not in lower
                and b"set_config" not in lower
                and b"currval" not in lower
                and b"lastval" not in lower
                and b"setseed" not in lower
            )
        )
    ):
        return False
    return _SINGLE.match(text) is None


def is_mere_query(text: bytes) -> bool:
    """Return whether `text` is one statement that leaves nothing behind and ends no transaction.

    False for a text of which that cannot be told quickly.
    """
    return text[:4] in _QUERIES and not concerns(text)


def _begins_harmlessly(text: bytes, lower: bytes) -> bool:
    found = _BEGIN.match(text)
    if found is None:
        return False
    word = found[1].lower()
    # A cursor is closed at the end of its transaction, but for those WITH HOLD.
    return word in _HARMLESS or (word == b"decl" and b"hold" not in lower)
