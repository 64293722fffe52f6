"""What a worker says to the one that takes its place: there and back, and anything else."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.model.ids import Address, NodeId, Term
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.messages import BackendKey, Parse
from metako.proxy.changes import Tie
from metako.proxy.estate import Ask, Estate, Ready, Server, Will, decode, encode
from metako.proxy.jsonline import FrameError
from metako.proxy.layers import Scope
from metako.proxy.outside import HEIR_FORMAT
from metako.proxy.prepared import Prepared
from metako.proxy.routes import Route
from metako.proxy.serverlogin import LogIn
from metako.proxy.snapshot import Snapshot
from metako.proxy.who import Who

OCTETS = st.binary(max_size=30)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
COUNTS = st.integers(0, 1 << 40)
TIES = st.sampled_from(list(Tie))
KEYS = st.builds(BackendKey, st.integers(0, 1 << 32), OCTETS)
LOGINS = st.builds(
    LogIn,
    st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    st.sampled_from([0, 2]),
    st.one_of(
        st.none(),
        st.builds(Md5Hash, OCTETS),
        st.builds(ScramKeys, st.builds(ClientKey, st.binary(min_size=32, max_size=32)), OCTETS),
    ),
)
SCOPES = st.builds(
    Scope,
    st.dictionaries(OCTETS, st.lists(OCTETS, max_size=2).map(tuple)).map(MappingProxyType),
    st.frozensets(OCTETS),
    st.frozensets(OCTETS),
    st.frozensets(TIES),
)


@st.composite
def statements(draw) -> dict[bytes, Prepared]:
    found = {}
    for name in draw(st.lists(OCTETS, max_size=3, unique=True)):
        parse = draw(st.one_of(st.none(), st.just(())))
        if parse is not None:
            parse = Parse(name, draw(OCTETS), tuple(draw(st.lists(COUNTS, max_size=3))))
        path = tuple(draw(st.lists(OCTETS, max_size=2)))
        found[name] = Prepared(parse, draw(OCTETS), path, draw(st.booleans()))
    return found


SNAPSHOTS = st.builds(
    Snapshot,
    SCOPES,
    statements(),
    st.booleans(),
    st.lists(TIES, max_size=2).map(tuple),
    st.booleans(),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.booleans(),
)
SERVERS = st.builds(
    Server,
    st.builds(
        Route, COUNTS.map(Term), TEXTS.map(NodeId), st.builds(Address, TEXTS, st.integers(0, 65535))
    ),
    st.none() | KEYS,
    st.booleans(),
    COUNTS,
)
ESTATES = st.builds(
    Estate,
    st.builds(
        Who,
        *(COUNTS, TEXTS, TEXTS, TEXTS, TEXTS, COUNTS),
        tls=st.booleans(),
        since=st.floats(-1e6, 0),
    ),
    st.booleans(),
    st.booleans(),
    st.none() | LOGINS,
    st.none() | st.tuples(COUNTS, KEYS),
    st.none() | SNAPSHOTS,
    st.none() | SERVERS,
)


@settings(max_examples=300)
@given(ESTATES)
def test_an_estate_arrives_as_it_was(estate) -> None:
    assert decode(encode(estate)) == estate


@pytest.mark.parametrize(
    "said", [Ask("*", 6432), Will(2, 300, 77), Will(0, 0, 0, ("*", "shop")), Ready()]
)
def test_so_does_the_rest(said) -> None:
    assert decode(encode(said)) == said


@settings(max_examples=300)
@given(ESTATES, st.data())
def test_what_is_something_else_is_refused_and_nothing_of_it_is_told(estate, data) -> None:
    body = json.loads(encode(estate))
    path = data.draw(st.sampled_from([one for one in leaves_of(body) if one]))
    other = data.draw(
        st.sampled_from([None, -1, 1.5, True, "s3cret", [], {}, ["s3cret"], {"s3cret": 1}])
    )
    *way, last = path
    inner = body
    for key in way:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = other
    else:
        del inner[last]
    error: FrameError | None = None
    try:
        found = decode(json.dumps(body).encode())
    except FrameError as raised:
        error = raised
    if error is None:
        assert isinstance(found, Estate), "what remains is a legal one"
    else:
        assert "s3cret" not in str(error)
        assert error.__cause__ is None


def leaves_of(value: object, path: tuple = ()) -> list[tuple]:
    """Return the paths to all that is in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += leaves_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += leaves_of(inner, (*path, index))
    return found


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data) -> None:
    with pytest.raises(FrameError):
        decode(data)


@pytest.mark.parametrize("version", [None, 0, HEIR_FORMAT + 1, "1"])
def test_another_version_is_not_read(version) -> None:
    body = json.loads(encode(Ready()))
    with pytest.raises(FrameError):
        decode(json.dumps({**body, "format": version}).encode())
    with pytest.raises(FrameError):
        decode(b"[" * 100_000)


@given(ESTATES)
def test_keys_do_not_show(estate) -> None:
    shown = repr(estate)
    assert "ClientKey" not in shown
    assert "secret_key" not in shown
