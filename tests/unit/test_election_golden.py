"""Golden scripts of agreement: a few commands, and a transcript that a person can read and check.

Each file in tests/golden/election has commands, a line of four dashes, and what must come out:

    nodes a,b,c [witnesses=w] [seed=N]   a cluster in the simulator; every message takes 1 ms, and
                               whatever else takes time as long as it typically does
    settle                     until there is a primary and every data node is a listed standby
    advance 2s
    trace messages | rounds | nothing    agreement's messages, with `rounds` heartbeats as well
    crash server|agent|host NODE
    start NODE                 its agent, after a crash
    stop NODE                  on purpose
    pause NODE | resume NODE   agent, guard and PostgreSQL; `pause agent NODE` the agent alone
    starve A,B                 no WAL comes through to A and B any more
    cut A,B C,D                drop everything from A and B to C and D; `partition` drops both ways
    heal                       ends cuts and partitions, and what starves
    slow NODE 1000             let everything that PostgreSQL does take so many times as long
    fail NODE | mend NODE      let no start of PostgreSQL succeed, or again
    tell A→B vote TERM         hand B a vote request of A, of its newest document
    write NODE                 and say whether it is acknowledged within 20 ms
    document                   print the newest one that any node has

Times are counted from the last `settle`. With METAKO_GOLDEN_WRITE=1 in the environment the
transcripts are rewritten instead of compared; read the difference before committing it.
"""

from __future__ import annotations

import os
import random
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
    ShortDocument,
    VoteRequest,
)
from sim.network import Traffic
from sim.node import SimNode
from sim.settled import KEEP_DOWN, Stage, document, settle

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
        self.world: Stage = Typical("a", down="a")
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
            case "crash", [part, name]:
                node = self.node(name)
                done = {
                    "server": node.kill_postgres,
                    "agent": node.kill_agent,
                    "host": node.kill_host,
                }[part]()
                assert done, f"{name} has no {part} that runs"
            case (("start" | "stop"), [name]):
                assert getattr(self.node(name), verb)()
            case (("pause" | "resume"), [name]):
                assert getattr(self.node(name), f"{verb}_host")()
            case (("pause" | "resume"), ["agent", name]):
                assert getattr(self.node(name), f"{verb}_agent")()
            case "starve", [names]:
                for name in names.split(","):
                    world.network.cut("*", name, Traffic.REPLICATION)
            case "cut", [senders, receivers]:
                for a in senders.split(","):
                    for b in receivers.split(","):
                        world.network.cut(a, b)
            case "partition", groups:
                world.network.partition(*(group.split(",") for group in groups))
            case "heal", []:
                world.network.heal()
            case "slow", [name, factor]:
                self.node(name).server.slow = float(factor)
            case "fail", [name]:
                self.node(name).server.start_failures = KEEP_DOWN
            case "mend", [name]:
                self.node(name).server.start_failures = 0
            case "tell", [route, "vote", term]:
                sender, receiver = route.split("→")
                self.tell_vote(NodeId(sender), NodeId(receiver), Term(int(term)))
            case "write", [name]:
                return [f"  {self.write(NodeId(name))}"]
            case "document", []:
                return [f"  {told(document(world))}"]
            case _:
                raise AssertionError(f"unknown command: {verb} {words}")
        return []

    def node(self, name: str) -> SimNode:
        return self.world.nodes[NodeId(name)]

    def settle(self) -> None:
        world = self.world
        settle(world)
        world.run(0.5)
        self.origin_ns = world.heap.now_ns
        self.seen = len(world.story.events)
        world.story.messages.clear()

    def tell_vote(self, sender: NodeId, receiver: NodeId, term: Term) -> None:
        hard, agent = self.world.nodes[sender].hard, self.world.nodes[receiver].agent
        assert hard is not None
        assert agent is not None
        agent.give(Received(sender, hard.boot_epoch, VoteRequest(term, hard.document_ref)))

    def write(self, node: NodeId) -> str:
        before = len(self.world.acked)
        if self.world.write(node) is None:
            return "refused"
        self.world.run(0.02)
        return "acknowledged" if len(self.world.acked) > before else "not acknowledged"

    def collect(self) -> None:
        """Append what happened since the last command, in the order of time."""
        story = self.world.story
        entries = [
            (at, f"{node}: {event.message}")
            for at, node, event in story.events[self.seen :]
            if event.name in TOLD
        ]
        entries += [
            (at, f"{node}→{outbound.to} {said(outbound.message)}")
            for at, node, outbound in story.messages
            if not isinstance(outbound.message, GOSSIP)
            and (self.trace == "rounds" or not isinstance(outbound.message, ROUNDS))
        ]
        self.seen = len(story.events)
        story.messages.clear()
        entries.sort(key=lambda entry: entry[0])
        if self.trace != "nothing":
            self.lines += [f"{(at - self.origin_ns) / 1e9:8.3f} {t}" for at, t in entries]


class Middle(random.Random):
    """Draws the middle of every range."""

    def random(self) -> float:
        return 0.5


class Typical(Stage):
    """A world in which everything takes as long as it typically does; only gossip is random."""

    def rng(self, node: NodeId, purpose: str) -> random.Random:
        return super().rng(node, purpose) if purpose.endswith("/engine") else Middle()


def build(names: str, options: dict[str, str]) -> Stage:
    world = Typical(
        names.replace(",", ""),
        seed=int(options.get("seed", "1")),
        witnesses=options.get("witnesses", "").replace(",", ""),
        election=ElectionSettings(jitter_ms=0),
    )
    world.network.set_base("*", "*", delay_ms=(1.0, 1.0))
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
    if isinstance(message, ShortDocument):
        kind = "copy" if message.term is None else "offer"
        return f"{words[0]} {kind} {told(message.document)} after {message.left_out} more"
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
