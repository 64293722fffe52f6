"""What is spared for speed changes nothing: a run without it is the same to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from metako.cluster import engine
from sim.play import play
from sim.postgres.observe import Observer
from sim.scenario import load_scenario

SCENARIOS = ("calm", "random-faults", "rolling-restart", "five-nodes-k2")
SHORTCUTS = (
    (engine, "take_spare", False),
    (engine, "take_repeated", False),
    (Observer, "look_again", None),
)
"""Functions that say by this value that they cannot tell, and all is done in full."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_without_shortcuts_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, list[bool]] = {shortcut: [] for _, shortcut, _ in SHORTCUTS}
    with monkeypatch.context() as patch:
        for owner, shortcut, _ in SHORTCUTS:
            patch.setattr(owner, shortcut, _noting(getattr(owner, shortcut), taken[shortcut]))
        quick = _trace_of(name)
    with monkeypatch.context() as patch:
        for owner, shortcut, refusal in SHORTCUTS:
            patch.setattr(owner, shortcut, lambda *_, refusal=refusal: refusal)
        slow = _trace_of(name)
    assert quick == slow
    for shortcut, answers in taken.items():
        assert answers.count(True) > 30, shortcut
        assert answers.count(False) > 0, shortcut


def _trace_of(name: str) -> list[str]:
    lines: list[str] = []
    play(load_scenario(name), 3, trace=lines.append, extra_faults=True)
    return lines


def _noting(shortcut: Callable[..., Any], taken: list[bool]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        answer = shortcut(*arguments)
        taken.append(bool(answer))
        return answer

    return noted
