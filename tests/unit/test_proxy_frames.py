"""Frames between agent and worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.model.ids import Address, NodeId, Term
from metako.model.lsn import Lsn
from metako.model.routing import Peer, RouteTarget, RoutingTable
from metako.proxy import frames
from metako.proxy.jsonline import FrameError

NAT = st.integers(0, 2**63)
NAMES = st.text(max_size=20).map(NodeId)
ADDRESSES = st.builds(Address, st.text(max_size=20), st.integers(0, 65535))
TARGETS = st.builds(
    RouteTarget,
    node=NAMES,
    address=ADDRESSES,
    lsn=NAT.map(Lsn),
    local=st.booleans(),
)
TABLES = st.builds(
    RoutingTable,
    term=NAT.map(Term),
    primary=st.none() | TARGETS,
    replicas=st.lists(TARGETS, max_size=4).map(tuple),
    valid_until_boot_ns=NAT,
    peers=st.lists(st.builds(Peer, NAMES, ADDRESSES), max_size=4).map(tuple),
    hold=st.text(max_size=20),
)


@given(TABLES)
def test_tables_survive_the_journey(table: RoutingTable) -> None:
    line = frames.encode(table)
    assert line.count(b"\n") == 1
    assert frames.decode_from_agent(line) == table


def test_drain_survives_the_journey() -> None:
    assert frames.decode_from_agent(frames.encode(frames.Drain())) == frames.Drain()


@pytest.mark.parametrize(
    "frame",
    [
        frames.Hello(pid=12, index=2, node=NodeId("n1"), host="::", port=6432),
        frames.Stats(sessions=1, waiting=2, total=3, refused=4, malformed=5, cut=6, bytes_up=7),
        frames.WorkerEvent("INFO", "primary changed", (("term", 4), ("node", "n2"))),
    ],
)
def test_worker_frames_survive_the_journey(frame: frames.FromWorker) -> None:
    assert frames.decode_from_worker(frames.encode(frame)) == frame


def test_unknown_keys_are_ignored() -> None:
    line = b'{"table":{"term":1,"primary":null,"replicas":[],"valid_until_boot_ns":5,"new":1}}'
    assert frames.decode_from_agent(line) == RoutingTable(Term(1), None, (), 5)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"drain":false}',
        b'{"table":[]}',
        b'{"table":{"term":-1,"primary":null,"replicas":[],"valid_until_boot_ns":5}}',
        b'{"table":{"term":true,"primary":null,"replicas":[],"valid_until_boot_ns":5}}',
        b'{"table":{"term":1,"primary":{"node":"a"},"replicas":[],"valid_until_boot_ns":5}}',
        b'{"hello":{"pid":"x"}}',
        b'{"stats":[]}',
        b'{"event":{"level":1,"message":"x"}}',
        b"[" * 60_000,
        b" " * 65_537,
    ],
)
def test_bad_frames_raise_frame_error_only(line: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode_from_agent(line)
    with pytest.raises(FrameError):
        frames.decode_from_worker(line)


@given(st.binary(max_size=100))
def test_garbage_raises_frame_error_only(line: bytes) -> None:
    for decode in (frames.decode_from_agent, frames.decode_from_worker):
        with pytest.raises(FrameError):
            decode(line)
