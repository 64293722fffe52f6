"""The verdict in words: what a reader who sees nothing else should know. Pure.

In: a `History`, the checker's verdict and the outages. Out: sentences and a few numbers. What
nobody has checked is said not to be checked; silence never counts as success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.report_outages import OUTAGE_S, Outage
from chaos.report_read import History, Row, clip, number, text, texts


@dataclass(frozen=True, slots=True)
class Double:
    """A time in which more than one server was found out of recovery."""

    begin: float
    end: float
    nodes: tuple[str, ...]


def words(
    history: History, verdict: Row | None, gaps: Sequence[Outage], doubles: Sequence[Double]
) -> dict[str, object]:
    """Return `class` (ok, bad, open), `title`, `sentences`, `facts` ([label, value, class])."""
    ops = history.ops
    acked = sum(op.writes and op.outcome == "ok" for op in ops)
    lost = _lost(verdict)
    violations = _violations(verdict)
    worst = max(gaps, key=lambda gap: gap.length, default=None)
    match verdict:
        case None:
            kind, title = "open", "Not checked"
        case {"ok": True}:
            kind, title = "ok", "Passed"
        case _:
            kind, title = "bad", f"Failed: {_plural(violations, 'violation')}"
    sentences = [_ran(history), _made(history), _kept(acked, lost, verdict)]
    sentences.append(_stopped(history, gaps, worst))
    if doubles:
        total = sum(each.end - each.begin for each in doubles)
        sentences.append(
            f"More than one server was out of recovery at once for {length(total)}; that is "
            "harmless as long as only one of them can acknowledge a write, and worth a look."
        )
    sentences += _afterwards(history)
    wrote = any(op.writes for op in ops)
    longest = length(worst.length) if worst else "none" if wrote else "–"
    failed = sum(op.outcome == "failed" for op in ops)
    ok = sum(op.outcome == "ok" for op in ops)
    unsaid = "not checked" if verdict is None else "not said"
    return {
        "class": kind,
        "title": title,
        "sentences": sentences,
        "facts": [
            ["acknowledged writes", grouped(acked), ""],
            ["lost", unsaid if lost is None else grouped(lost), "bad" if lost else ""],
            ["longest outage", longest, ""],
            ["outages", grouped(len(gaps)), ""],
            ["without writes", length(sum(gap.length for gap in gaps)), ""],
            ["faults", grouped(len(history.faults)), ""],
            ["unknown", grouped(len(ops) - ok - failed), ""],
            ["failed", grouped(failed), ""],
        ],
    }


def _ran(history: History) -> str:
    run = history.run
    named = clip(text(run, "scenario")) or "A run without a name"
    details = [f"{key} {clip(text(run, key))}" for key in ("seed", "timing") if text(run, key)]
    said = f" ({', '.join(details)})" if details else ""
    skipped = len(history.rows.get("skipped", ()))
    return (
        f"{named}{said} ran for "
        f"{length(max(0.0, history.end))} on {_plural(len(history.nodes()), 'node')} under "
        f"{_plural(len(history.faults), 'fault')}{f' ({skipped} skipped)' if skipped else ''}."
    )


def _made(history: History) -> str:
    ops = history.ops
    clients = len({op.client for op in ops})
    if not ops:
        return "No client made an operation."
    ok, failed = (sum(op.outcome == outcome for op in ops) for outcome in ("ok", "failed"))
    return (
        f"{_plural(clients, 'client')} made {_plural(len(ops), 'operation')}: {grouped(ok)} ok, "
        f"{grouped(failed)} failed, {grouped(len(ops) - ok - failed)} of unknown outcome."
    )


def _kept(acked: int, lost: int | None, verdict: Row | None) -> str:
    of = f"Of {_plural(acked, 'acknowledged write')}"
    who = "Nobody has checked" if verdict is None else "The checker does not say"
    match lost:
        case None:
            return f"{who} whether any of {_plural(acked, 'acknowledged write')} is lost."
        case 0:
            return f"{of} 0 are lost."
        case 1:
            return f"{of} 1 is LOST."
        case _:
            return f"{of} {grouped(lost)} are LOST."


def _stopped(history: History, gaps: Sequence[Outage], worst: Outage | None) -> str:
    if not any(op.writes for op in history.ops):
        return "No client wrote, so nothing is known of outages."
    if worst is None:
        return f"Writes never stopped for more than {OUTAGE_S} s."
    total = length(sum(gap.length for gap in gaps))
    said = (
        f"Writes stopped {_plural(len(gaps), 'time')} for more than {OUTAGE_S} s, {total} in all; "
        f"the longest outage began at {worst.begin:.1f} s and took {length(worst.length)}."
    )
    if gaps[-1].open:
        said += " At the end no write was acknowledged any more."
    return said


def _afterwards(history: History) -> list[str]:
    took = [s for row in history.of_kind("recovered") if (s := number(row, "after_s")) is not None]
    said: list[str] = []
    if took:
        said.append(
            f"When the faults were over, {_plural(len(took), 'node')} recovered, the last after "
            f"{length(max(took))}."
        )
    left = history.of_kind("left")[-1:]
    things = sum(len(texts(row, k)) for row in left for k in ("processes", "namespaces", "files"))
    if things:
        said.append(f"{_plural(things, 'thing')} LEFT BEHIND after the end, listed below.")
    return said


def _violations(verdict: Row | None) -> int:
    listed = None if verdict is None else verdict.get("violations")
    return len(listed) if isinstance(listed, list) else 0


def _lost(verdict: Row | None) -> int | None:
    """Return how many acknowledged writes the checker found lost, None if that is not known.

    A checker that gives no number has still one violation for each loss that it found. One that
    found something else only is not taken to have found no loss.
    """
    if verdict is None:
        return None
    stats = verdict.get("stats")
    counted = stats.get("lost") if isinstance(stats, dict) else None
    if isinstance(counted, list):
        return len(counted)
    if isinstance(counted, int):
        return int(counted)
    listed = verdict.get("violations")
    found = [v for v in listed if isinstance(v, dict)] if isinstance(listed, list) else []
    named = sum("lost" in text(v, "check").lower() for v in found)
    return named if named or verdict.get("ok") is True else None


def grouped(count: int) -> str:
    """Return a number with narrow no-break spaces between thousands, as the SI writes them."""
    return f"{count:,}".replace(",", "\u202f")


def length(s: float) -> str:
    """Return a length of time in the units that a person would use."""
    if s < 1:
        return f"{s * 1000:.0f} ms"
    if s < 60:
        return f"{s:.2f} s"
    minutes, rest = divmod(round(s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _plural(count: int, one: str) -> str:
    return f"{grouped(count)} {one}{'' if count == 1 else 's'}"
