"""Where statements begin and end, whatever stands in strings, comments and quoted names."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.proxy.sqltext import Kind, read_script


def texts(sql: str) -> list[str]:
    return [one.text.decode() for one in read_script(sql.encode()).statements]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" ; ;; -- nothing\n", []),
        ("a;b", ["a", "b"]),
        ("a ; b ;", ["a", "b"]),
        ("a ';' b; c", ["a ';' b", "c"]),
        ("a ''';' b", ["a ''';' b"]),
        ("a '\\'; b", ["a '\\'", "b"]),
        ("a E'\\';' b", ["a E'\\';' b"]),
        ("a e'\\\\'; b", ["a e'\\\\'", "b"]),
        ("ae'\\'; b", ["ae'\\'", "b"]),
        ("a E'x'\n'\\';' b", ["a E'x'\n'\\';' b"]),
        ("a E'x' '\\'; b", ["a E'x' '\\'", "b"]),
        ("a E'x' -- c\n '\\';' b", ["a E'x' -- c\n '\\';' b"]),
        ("a U&'\\'; b", ["a U&'\\'", "b"]),
        ("a B'0;1'; b", ["a B'0;1'", "b"]),
        ('a ";" b', ['a ";" b']),
        ('a U&";" b', ['a U&";" b']),
        ('a """;" b', ['a """;" b']),
        ("a $$;$$; b", ["a $$;$$", "b"]),
        ("a $x$;$$;$x$; b", ["a $x$;$$;$x$", "b"]),
        ("a $1;b", ["a $1", "b"]),
        ("a$b$;b$b$", ["a$b$", "b$b$"]),
        ("a -- ;\n b; c", ["a -- ;\n b", "c"]),
        ("a -- ;\r b; c", ["a -- ;\r b", "c"]),
        ("a /* ; /* ; */ ; */ b; c", ["a /* ; /* ; */ ; */ b", "c"]),
        ("/* ; */ a", ["a"]),
        ("a - - b; c", ["a - - b", "c"]),
        ("a */ b; c", ["a */ b", "c"]),
        ("create rule r as on insert to t do (a; b); c", None),
        (
            "create function f() begin atomic select case when a then 1 end; b; end; c",
            [
                "create function f() begin atomic select case when a then 1 end; b; end",
                "c",
            ],
        ),
        ("begin; end; c", ["begin", "end", "c"]),
    ],
)
def test_statements_end_at_semicolons_that_are_theirs(sql, expected) -> None:
    assert texts(sql) == (expected if expected is not None else sql.rsplit("; ", 1))


@pytest.mark.parametrize("sql", ["a 'b", 'a "b', "a $$ b", "a /* b", "a /* /* */ b", "a $x$ b $$"])
def test_what_has_no_end_is_said_to_be_cut(sql) -> None:
    script = read_script(sql.encode())
    assert not script.whole
    assert [token.value for token in script.statements[0].tokens] == [b"a"]


@pytest.mark.parametrize(
    ("sql", "certain"),
    [("a '\\'", False), ("a E'\\''", True), ("a 'b'", True), ('a $$\\$$ "\\"', True)],
)
def test_a_backslash_makes_a_doubtful_string_uncertain(sql, certain) -> None:
    assert read_script(sql.encode(), doubtful=True).certain is certain
    assert read_script(sql.encode()).certain


PARTS = (
    ("Word", (Kind.WORD, b"word")),
    ("_a$1", (Kind.WORD, b"_a$1")),
    ("ä", (Kind.WORD, "ä".encode())),
    ('"Wo""rd;"', (Kind.QUOTED, b'Wo"rd;')),
    ("'it''s;'", (Kind.STRING, b"it's;")),
    ("E'\\';'", (Kind.STRING, b"\\';")),
    ("$$;'$$", (Kind.STRING, b";'")),
    ("$a$ $b$;$a$", (Kind.STRING, b" $b$;")),
    ("1.5e3", (Kind.NUMBER, b"1.5e3")),
    ("$12", (Kind.NUMBER, b"$12")),
    (",", (Kind.SYMBOL, b",")),
    ("=", (Kind.SYMBOL, b"=")),
    ("/* 'a; /* */ \" */", None),
    ("-- it's; $$\n", None),
    (";", "end"),
)


@given(st.lists(st.sampled_from(PARTS), max_size=30), st.sampled_from([" ", "\n\t", " /**/ "]))
def test_tokens_come_out_as_they_were_put_in(parts, space) -> None:
    text = space.join(part for part, _ in parts).encode()
    # A string behind a line end may belong to the one before it.
    if "\n" in space or any(part.startswith("--") for part, _ in parts):
        text = text.replace(b"E'", b"e E'").replace(b"e E'", b"E'")
    expected = [[]]
    for _, token in parts:
        if token == "end":
            expected.append([])
        elif token is not None:
            expected[-1].append(token)
    if any(_continues(part, after, space) for part, after in pairwise(parts)):
        return
    script = read_script(text)
    assert script.whole
    found = [[(one.kind, one.value) for one in each.tokens] for each in script.statements]
    assert found == [tokens for tokens in expected if tokens]
    for each in script.statements:
        for token in each.tokens:
            assert text[token.start : token.end].strip() == text[token.start : token.end]


def _continues(part, after, space) -> bool:
    return part[0].startswith("E") and ("\n" in space or after[0].startswith("--"))


@given(st.text(alphabet="aE'\"\\$;-/*(\n 1", max_size=40).map(str.encode))
def test_any_text_can_be_taken_apart(text) -> None:
    script = read_script(text)
    places = [(one.start, one.end) for each in script.statements for one in each.tokens]
    assert places == sorted(places)
    assert all(start < end for start, end in places)
