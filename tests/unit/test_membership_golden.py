"""Golden scripts: a few commands, and the transcript that a person can read and check.

Each file in tests/golden/membership has commands, a line of four dashes, and what must come out:

    nodes COUNT [seed=N]      start that many members, each configured with all others
    advance 2s                let time pass
    trace messages | events | nothing
    crash|restart|pause|resume|leave NODE
    cut A,B C,D               drop everything from A and B to C and D; `partition` drops both ways
    heal
    tell SENDER→RECEIVER NODE STATE INCARNATION    deliver one rumour by gossip
    members NODE              print that node's roster

With METAKO_GOLDEN_WRITE=1 in the environment the transcripts are rewritten instead of compared;
read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from membership_network import Network

from metako.model.ids import NodeId
from metako.model.member import MemberState
from metako.wire.messages import Gossip, MemberUpdate, Message, Outbound, PushPull, Received

GOLDEN = Path(__file__).parent.parent / "golden" / "membership"
SEPARATOR = "----\n"
SCRIPTS = sorted(GOLDEN.glob("*.txt"))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 3


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
        self.network = Network(0)
        self.trace = "events"
        self.lines: list[str] = []

    def play(self, commands: str) -> str:
        for line in commands.splitlines():
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(self.lines) and words[0] != "trace":
                self.lines.append(f"> {' '.join(words)}")
            self.command(words[0], words[1:])
            self.collect()
        return "\n".join(self.lines) + "\n"

    def command(self, verb: str, words: list[str]) -> None:
        network = self.network
        match verb, words:
            case "nodes", [count, *options]:
                seed = dict(option.split("=") for option in options).get("seed", "1")
                self.network = Network(int(count), seed=int(seed), delay_ms=(1, 1))
                self.lines.append(f"> nodes {count}")
            case "advance", [duration]:
                network.run(float(duration.removesuffix("s")))
            case "trace", [what]:
                assert what in ("messages", "events", "nothing")
                self.trace = what
                network.keep_sent = what == "messages"
            case (("crash" | "restart" | "pause" | "resume"), [node]):
                getattr(network, verb)(node)
            case "leave", [node]:
                network.do(network.hosts[NodeId(node)], network.core(node).leave(network.now))
            case "cut", [senders, receivers]:
                network.cut(senders.split(","), receivers.split(","))
            case "partition", groups:
                network.partition(*(group.split(",") for group in groups))
            case "heal", []:
                network.heal()
            case "tell", [route, node, state, incarnation]:
                self.tell(*route.split("→"), node, MemberState(state), int(incarnation))
            case "members", [node]:
                self.lines += [
                    f"  {m.node} {m.state} epoch={m.boot_epoch} incarnation={m.incarnation}"
                    for m in network.core(node).members()
                ]
            case _:
                raise AssertionError(f"unknown command: {verb} {words}")

    def tell(
        self, sender: str, receiver: str, node: str, state: MemberState, incarnation: int
    ) -> None:
        network = self.network
        hosts = network.hosts
        epoch = hosts[NodeId(node)].boot_epoch
        update = MemberUpdate(NodeId(node), epoch, incarnation, state, accuser=NodeId(sender))
        host = hosts[NodeId(receiver)]
        received = Received(NodeId(sender), hosts[NodeId(sender)].boot_epoch, Gossip((update,)))
        network.do(host, network.core(receiver).receive(network.now, received))

    def collect(self) -> None:
        """Append what happened since the last command, in the order of time."""
        network = self.network
        entries: list[tuple[int, str]] = []
        if self.trace != "nothing":
            for h in network.happened:
                fields = {k: v for k, v in h.event.fields if k in ("incarnation", "accuser")}
                text = " ".join(f"{k}={v}" for k, v in fields.items())
                line = f"{h.observer}: {h.event.name} {h.subject} {text}".rstrip()
                entries.append((round(h.at_s * 1e9), line))
        if self.trace == "messages":
            entries += [(at, f"{node}→{o.to} {said(o)}") for at, node, o in network.sent]
        network.happened.clear()
        network.sent.clear()
        entries.sort(key=lambda entry: entry[0])
        self.lines += [f"{at / 1e9:8.3f} {line}" for at, line in entries]


def said(outbound: Outbound) -> str:
    """Return a message in one line."""
    message: Message = outbound.message
    words = [type(message).__name__]
    for name in ("sequence", "target", "reply"):
        if hasattr(message, name):
            words.append(f"{name}={getattr(message, name)}")
    if outbound.stream:
        words.append("by stream")
    updates = getattr(message, "updates", ())
    if isinstance(message, PushPull):
        updates = sorted(updates, key=lambda update: update.node)
    words += [f"[{u.node} {u.state} {u.incarnation}]" for u in updates]
    return " ".join(words)
