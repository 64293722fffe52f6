"""Golden scripts of agreement: a few commands, and a transcript that a person can read and check.

Each file in tests/golden/election has commands, a line of four dashes, and what must come out:

    nodes a,b,c [witnesses=w] [seed=N]   a cluster in the simulator; every message takes 1 ms
    settle                     until there is a primary and every data node is a listed standby
    advance 2s
    trace messages | rounds | nothing    agreement's messages, with `rounds` heartbeats as well
    crash server|agent|host NODE
    start NODE                 its agent, after a crash
    stop NODE                  on purpose
    pause NODE | resume NODE   agent, guard and PostgreSQL
    stall NODE | unstall NODE  a standby that stays connected and receives nothing
    cut A,B C,D                drop everything from A and B to C and D; `partition` drops both ways
    heal
    slow NODE STEP 300ms       let a step of the supervisor take that long
    tell A→B vote TERM         hand B a vote request of A, of its newest document
    write NODE                 and say whether it is acknowledged within 20 ms
    document                   print the newest one that any node has

Times are counted from the last `settle`. With METAKO_GOLDEN_WRITE=1 in the environment the
transcripts are rewritten instead of compared; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metako.election.settings import ElectionSettings
from metako.model.document import ClusterDocument
from metako.model.events import EventName
from metako.model.ids import NodeId, Term
from metako.model.lsn import format_lsn
from metako.wire.messages import (
    Ack,
    DocumentCopy,
    DocumentOffer,
    Gossip,
    Heartbeat,
    HeartbeatAck,
    Message,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Received,
    VoteRequest,
)
from sim.first.scenario import document, until
from sim.first.world import World

GOLDEN = Path(__file__).parent.parent / "golden" / "election"
SEPARATOR = "----\n"
SCRIPTS = sorted(GOLDEN.glob("*.txt"))
GOSSIP = (Ping, PingRequest, Ack, Nack, Gossip, PushPull)
ROUNDS = (Heartbeat, HeartbeatAck)
TOLD = {
    *(EventName.HOLD_EXPIRED, EventName.LEASE_LOST, EventName.LEASE_RELEASED),
    *(EventName.CANDIDACY_STARTED, EventName.CANDIDACY_LOST, EventName.CANDIDACY_HANDED_OVER),
    *(EventName.ELECTION_WON, EventName.TIMELINE_RESERVED, EventName.PROMOTED),
    *(EventName.PRIMARY_ACTIVE, EventName.STEPPED_DOWN, EventName.PROMISE_KEPT),
    *(EventName.SYNC_SET_CHANGING, EventName.SYNC_SET_CHANGED, EventName.DOCUMENT_COMMITTED),
}


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_golden(script: Path) -> None:
    commands, _, expected = script.read_text().partition(SEPARATOR)
    transcript = Run().play(commands)
    if os.environ.get("METAKO_GOLDEN_WRITE") == "1":
        script.write_text(commands + SEPARATOR + transcript)
    assert transcript.count("\n") >= 1
    assert transcript == expected or os.environ.get("METAKO_GOLDEN_WRITE") == "1"


class Run:
    """One script being played."""

    def __init__(self) -> None:
        self.world = World("a", down="a")
        self.trace = "messages"
        self.lines: list[str] = []
        self.origin_ns = 0
        self.seen = 0  # events printed

    def play(self, commands: str) -> str:
        for line in commands.splitlines():
            words = line.partition("#")[0].split()
            if not words:
                continue
            if words[0] not in ("trace", "nodes"):
                self.lines.append(f"> {' '.join(words)}")
            answer = self.command(words[0], words[1:])
            self.collect()
            self.lines += answer
        return "\n".join(self.lines) + "\n"

    def command(self, verb: str, words: list[str]) -> list[str]:
        world = self.world
        match verb, words:
            case "nodes", [names, *options]:
                self.world = build(names, dict(option.split("=") for option in options))
            case "settle", []:
                self.settle()
                return [f"  {self.world.primary()} is the primary"]
            case "advance", [duration]:
                world.run(float(duration.removesuffix("s")))
            case "trace", [what]:
                assert what in ("messages", "rounds", "nothing")
                self.trace = what
            case "crash", [part, node]:
                {
                    "server": world.kill_server,
                    "agent": world.kill_agent,
                    "host": world.kill_node,
                }[part](NodeId(node))
            case (("start" | "stop" | "resume"), [node]):
                getattr(world, verb)(NodeId(node))
            case "pause", [node]:
                world.pause(NodeId(node), server=True)
            case "stall", [node]:
                world.stalled.add(NodeId(node))
            case "unstall", [node]:
                world.stalled.discard(NodeId(node))
            case "cut", [senders, receivers]:
                pairs = {(a, b) for a in senders.split(",") for b in receivers.split(",")}
                world.network.cut |= {(NodeId(a), NodeId(b)) for a, b in pairs}
            case "partition", groups:
                world.network.partition(*(map(NodeId, group.split(",")) for group in groups))
            case "heal", []:
                world.network.heal()
            case "slow", [node, step, duration]:
                durations = world.nodes[NodeId(node)].server.durations_ms
                assert step in durations
                durations[step] = int(duration.removesuffix("ms"))
            case "tell", [route, "vote", term]:
                sender, receiver = route.split("→")
                self.tell_vote(NodeId(sender), NodeId(receiver), Term(int(term)))
            case "write", [node]:
                return [f"  {self.write(NodeId(node))}"]
            case "document", []:
                return [f"  {told(document(world))}"]
            case _:
                raise AssertionError(f"unknown command: {verb} {words}")
        return []

    def settle(self) -> None:
        world = self.world
        world.run_until_primary(10)
        standbys = len(world.names) - len(world.witnesses) - 1
        until(world, lambda: len(document(world).sync.members) == standbys, limit_s=10)
        world.run(0.5)
        self.origin_ns = world.heap.now_ns
        self.seen = len(world.events)
        world.sent.clear()

    def tell_vote(self, sender: NodeId, receiver: NodeId, term: Term) -> None:
        node = self.world.nodes[sender]
        request = VoteRequest(term, node.hard.document_ref)
        self.world.step(receiver, Received(sender, node.hard.boot_epoch, request))

    def write(self, node: NodeId) -> str:
        before = len(self.world.acked)
        if self.world.write(node) is None:
            return "refused"
        self.world.run(0.02)
        return "acknowledged" if len(self.world.acked) > before else "not acknowledged"

    def collect(self) -> None:
        """Append what happened since the last command, in the order of time."""
        world = self.world
        entries = [
            (at, f"{node}: {event.message}")
            for at, node, event in world.events[self.seen :]
            if event.name in TOLD
        ]
        entries += [
            (at, f"{node}→{outbound.to} {said(outbound.message)}")
            for at, node, outbound in world.sent
            if not isinstance(outbound.message, GOSSIP)
            and (self.trace == "rounds" or not isinstance(outbound.message, ROUNDS))
        ]
        self.seen = len(world.events)
        world.sent.clear()
        entries.sort(key=lambda entry: entry[0])
        if self.trace != "nothing":
            self.lines += [f"{(at - self.origin_ns) / 1e9:8.3f} {t}" for at, t in entries]


def build(names: str, options: dict[str, str]) -> World:
    world = World(
        names.replace(",", ""),
        seed=int(options.get("seed", "1")),
        witnesses=options.get("witnesses", "").replace(",", ""),
        election=ElectionSettings(jitter_ms=0),
    )
    world.network.delay_ms = (1.0, 1.0)
    world.slowness = 0.0
    world.keep_sent = True
    return world


def told(doc: ClusterDocument) -> str:
    """Return a document in one line."""
    standbys = ",".join(sorted(doc.sync.nodes()))
    lines = " ".join(
        f"{e.tli}@{format_lsn(e.begin_lsn)}{'' if e.confirmed else '?'}" for e in doc.timelines
    )
    return (
        f"{doc.ref} {doc.phase} primary={doc.primary} S={{{standbys}}} k={doc.sync.k} "
        f"timelines={lines}"
    )


def said(message: Message) -> str:
    """Return a message in one line, without what does not matter to a reader."""
    words = [type(message).__name__]
    if isinstance(message, DocumentOffer | DocumentCopy):
        return f"{words[0]} {told(message.document)}"
    if hasattr(message, "term"):
        words.append(f"term={message.term}")
    for name in ("round", "last_round", "rejected", "promised", "granted", "detached"):
        if hasattr(message, name) and not (
            name == "detached" and not getattr(message, "granted", False)
        ):
            words.append(f"{name}={getattr(message, name)}")
    for name in ("refusal", "position", "hold_remaining_ms"):
        if getattr(message, name, None):
            words.append(f"{name}={getattr(message, name)}")
    if hasattr(message, "document_ref"):
        words.append(f"document={message.document_ref}")
    return " ".join(words)
