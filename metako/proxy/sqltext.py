"""Take SQL apart as PostgreSQL's own lexer does, as far as telling statements apart needs it.

In: the text of a Query or Parse, as bytes. Out: its statements, each a list of tokens with their
places. Comments nest; strings are known in all their forms ('', E'', U&'', B'', $tag$), and so are
quoted identifiers. A statement ends at a semicolon that is not inside of parentheses (rules) nor
of BEGIN ATOMIC ... END (functions).

Invariant: text inside of a string, a comment or a quoted identifier never comes out as a word.

Two settings change how a text is to be read, and the text does not show them: with
`standard_conforming_strings` off a backslash escapes in every string, and in a few encodings that
only clients may use the second byte of a character can be a backslash. With `doubtful` a plain
string with a backslash makes the result uncertain, and the caller has to assume the worst.

Deliberately unknown here: what the statements do.

Source: src/backend/parser/scan.l; for BEGIN ATOMIC, src/fe_utils/psqlscan.l.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import NamedTuple


class Kind(enum.Enum):
    """What a token is."""

    WORD = enum.auto()  # keyword or identifier, in lower case
    QUOTED = enum.auto()  # a quoted identifier, as it is without its quotes
    STRING = enum.auto()  # of any form; see `Token.value`
    NUMBER = enum.auto()
    SYMBOL = enum.auto()  # one byte


class Token(NamedTuple):
    """One token, and where it is."""

    kind: Kind
    # Of a string or a quoted identifier what is between the quotes, with doubled quotes undone but
    # escapes as they stand.
    value: bytes
    start: int  # in the text, in bytes
    end: int

    @property
    def names(self) -> bool:
        """Whether it can be a name."""
        return self.kind is Kind.WORD or self.kind is Kind.QUOTED


@dataclass(slots=True)
class Statement:
    """What stands between two semicolons; never empty."""

    text: bytes  # without the semicolon, and without comments before the first token
    tokens: list[Token]


@dataclass(slots=True)
class Script:
    """A text that was taken apart."""

    statements: list[Statement] = field(default_factory=list)
    whole: bool = True  # False if a string or comment has no end: PostgreSQL refuses such a text
    certain: bool = True  # False if it might be read in another way


_TOKEN = re.compile(
    rb"""
      (?P<space> (?: [ \t\n\r\f\v]+ | --[^\n\r]* )+ )
    | (?P<comment> /\* )
    | (?P<string> (?: [uU]& )? ' (?P<plain> [^']* (?: '' [^']* )* ) ' )
    | (?P<escape> [eE] ' (?P<escaped> [^'\\]* (?: (?: '' | \\. ) [^'\\]* )* ) ' )
    | (?P<quoted> (?: [uU]& )? " (?P<name> [^"]* (?: "" [^"]* )* ) " )
    | (?P<dollar> \$ (?: [A-Za-z_\x80-\xff] [A-Za-z0-9_\x80-\xff]* )? \$ )
    | (?P<word> [A-Za-z_\x80-\xff] [A-Za-z0-9_$\x80-\xff]* )
    | (?P<number> \d+ (?: \.\d* )? (?: [eE][+-]?\d+ )? | \$\d+ )
    | (?P<open> ['"] )
    | (?P<symbol> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
# A string goes on behind a line end as what it was begun as, so E'' stays E''.
_CONTINUED = re.compile(
    rb"""
    (?: [ \t\f\v] | --[^\n\r]* )* [\n\r] (?: [ \t\n\r\f\v] | --[^\n\r]*[\n\r] )*
    ' (?P<escaped> [^'\\]* (?: (?: '' | \\. ) [^'\\]* )* ) '
    """,
    re.VERBOSE | re.DOTALL,
)


def read_script(text: bytes, *, doubtful: bool = False) -> Script:
    """Return the statements of `text`."""
    script = Script()
    tokens: list[Token] = []
    nesting = _Nesting()
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None
        start, position = position, found.end()
        match found.lastgroup:
            case "space":
                continue
            case "comment":
                position = _comment_end(text, position)
            case "string":
                value = found["plain"]
                script.certain = script.certain and not (doubtful and b"\\" in value)
                tokens.append(Token(Kind.STRING, value.replace(b"''", b"'"), start, position))
            case "escape":
                value = found["escaped"]
                while more := _CONTINUED.match(text, position):
                    value, position = value + more["escaped"], more.end()
                tokens.append(Token(Kind.STRING, value.replace(b"''", b"'"), start, position))
            case "quoted":
                name = found["name"].replace(b'""', b'"')
                tokens.append(Token(Kind.QUOTED, name, start, position))
            case "dollar":
                end = text.find(found[0], position)
                if end < 0:
                    position = -1
                else:
                    value, position = text[position:end], end + len(found[0])
                    tokens.append(Token(Kind.STRING, value, start, position))
            case "word":
                tokens.append(Token(Kind.WORD, found[0].lower(), start, position))
                nesting.word(tokens)
            case "number":
                tokens.append(Token(Kind.NUMBER, found[0], start, position))
            case "open":
                position = -1
            case _:
                if found[0] == b";" and not nesting.inside:
                    _add(script, text, tokens)
                    tokens, nesting = [], _Nesting()
                else:
                    tokens.append(Token(Kind.SYMBOL, found[0], start, position))
                    nesting.symbol(found[0])
        if position < 0:
            script.whole = False
            break
    _add(script, text, tokens)
    return script


def _add(script: Script, text: bytes, tokens: list[Token]) -> None:
    if tokens:
        script.statements.append(Statement(text[tokens[0].start : tokens[-1].end], tokens))


def _comment_end(text: bytes, position: int) -> int:
    """Return where the comment ends inside of which `position` is, -1 if nowhere."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return -1


class _Nesting:
    """Whether a semicolon is inside of something."""

    def __init__(self) -> None:
        self._parentheses = 0
        self._blocks = 0  # BEGIN and CASE without their END, in the body of a routine

    @property
    def inside(self) -> bool:
        return self._parentheses > 0 or self._blocks > 0

    def symbol(self, value: bytes) -> None:
        if value == b"(":
            self._parentheses += 1
        elif value == b")" and self._parentheses:
            self._parentheses -= 1

    def word(self, tokens: list[Token]) -> None:
        match tokens[-1].value:
            case b"begin":
                # Elsewhere than in CREATE it is not followed by ATOMIC.
                if self._blocks or creates_routine(tokens):
                    self._blocks += 1
            case b"case":
                self._blocks += self._blocks > 0
            case b"end":
                self._blocks -= self._blocks > 0


def creates_routine(tokens: list[Token]) -> bool:
    """Return whether this is CREATE [OR REPLACE] FUNCTION or PROCEDURE."""
    words = [token.value if token.kind is Kind.WORD else b"" for token in tokens[:4]]
    if words[:1] != [b"create"]:
        return False
    if words[1:3] == [b"or", b"replace"]:
        del words[1:3]
    return words[1:2] in ([b"function"], [b"procedure"])
