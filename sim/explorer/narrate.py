"""The steps of a counterexample in words.

In: a step, the states before and after it. Out: one line; what the step led a server to acknowledge
is told in the same line.
"""

from __future__ import annotations

from sim.explorer.model import Model
from sim.explorer.state import State, Step, bits

LINES = {
    "stand": "{0} stands for election in term {t1}",
    "vote": "{0} votes for {1} in term {t2}, durably",
    "detach": "{0} stops its WAL receiver, which keeps its promise",
    "forget": "{0}'s agent restarts and has forgotten its promise",
    "copy": "{0} sends a copy of {d2} to {1}",
    "accept": "{0} makes {d2} of {1} durable and acknowledges it",
    "win": "{0} has won term {t1} and makes {d2} durable",
    "win again": "{0}, still primary, has won term {t1} and makes {d2} durable",
    "hear": "{0} hears of {1} that {d2} is committed",
    "promote": "{0}'s server is promoted to timeline {t1}",
    "activate": "{0} proposes {d1}",
    "write": "{0}'s server writes commit {t1}",
    "end primary": "{0}'s server ends and comes back as a standby that follows nobody",
    "receive": "{0} receives WAL up to {t2} from {1}",
    "attach": "{0} follows {1}",
    "catch up": "{0}, a candidate, gets WAL up to {t2} from {1}, and acknowledges none",
    "catch up as itself": "{0}, a candidate, gets WAL from {1}, and acknowledges it",
    "rewind": "{0} throws away what is not in the history of {1}, and follows it",
    "set": "{0}'s server gets the setting {s1}",
    "give up": "{0} gives its change up: its server goes back to the setting of the document",
    "list": "{0} proposes {d1}",
    "barrier": "{0}'s barrier has passed; it proposes {d1}",
    "clone": "{0} is cloned from {1}, and follows it",
    "lose record": "{0}'s durable record is lost: its agent goes on as {1}, with a blank one",
    "replace": "{0}'s host is replaced by a blank one, {1}, and goes on elsewhere",
    "tell": "{0} sends a copy of {d2} to {1}, which it does not count",
    "restart": "{0}'s agent is started again and goes on leading",
    "member": "{0} is asked to change a member: it proposes {d1}",
    "advance": "{0} goes on with a change of a member: it proposes {d1}",
}


def narrate(model: Model, step: Step, before: State, after: State) -> str:
    """Return one step in words."""
    name, *values = step
    words: dict[str, str] = {}
    for place, value in enumerate(values):
        assert isinstance(value, int)
        words[f"t{place}"] = str(value)
        if value < len(after.nodes):
            words[str(place)] = label(model, after, value)
        if value < len(model.documents):
            words[f"d{place}"] = document_text(model, value)
    if name == "set":
        words["s1"] = setting_text(model, values[1:])
    # The keys are numbers, which `format` would take for positions.
    text = LINES[str(name)]
    for key, word in words.items():
        text = text.replace("{" + key + "}", word)
    known = dict(before.acked)
    for (term, node), lsn in after.acked:
        if known.get((term, node)) != lsn:
            who = label(model, after, node)
            text += f"; {who} of term {term} acknowledges up to commit {lsn}"
    return text


def label(model: Model, state: State, number: int) -> str:
    """Return the name of a node, with a mark for each record that was lost before its own."""
    name = state.nodes[number].name
    before = sum(node.name == name for node in state.nodes[:number])
    return model.names[name] + "'" * before


def document_text(model: Model, number: int) -> str:
    """Return a document in a few words."""
    document = model.documents[number]
    listed = setting_text(model, model.listed(number))
    members = ""
    if model.members_change:
        words = [f"votes {', '.join(document.voters)}"]
        for what in ("learners", "joining", "leaving"):
            names: tuple[str, ...] = getattr(document, what)
            words += [f"{what} {', '.join(names)}"] if names else []
        members = "; " + ", ".join(words)
    return f"document {document.ref} ({document.primary} {document.phase}, {listed}{members})"


def setting_text(model: Model, setting: tuple[int, ...] | list[int | str]) -> str:
    """Return a sync set in words."""
    mask, k = setting
    assert isinstance(mask, int)
    names = ", ".join(model.names[node] for node in bits(mask))
    return f"any {k} of {names}" if k else "no standby"
