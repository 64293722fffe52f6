"""Planted bugs are planted where they belong, and are gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from metako.election import office
from sim.mutations import MUTATIONS, planted
from sim.mutations.base import Patch, edited


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_changes_something_and_is_taken_out_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: dict[tuple[int, str], tuple[Any, Any]] = {}
    honest = Patch.set

    def noted(patch: Patch, owner: Any, attribute: str, value: Any) -> None:
        replaced.setdefault((id(owner), attribute), (owner, vars(owner)[attribute]))
        honest(patch, owner, attribute, value)

    monkeypatch.setattr(Patch, "set", noted)
    with planted(name):
        assert replaced
        for (_, attribute), (owner, before) in replaced.items():
            assert vars(owner)[attribute] is not before
    for (_, attribute), (owner, before) in replaced.items():
        assert vars(owner)[attribute] is before
    assert MUTATIONS[name].doc


class Server:
    def answers(self, up: bool, hung: bool) -> bool:
        return up and not hung


def test_an_edit_replaces_the_function_and_can_be_undone() -> None:
    patch = Patch()
    edited(Server, "answers", (" and not hung", ""))(patch)
    assert Server().answers(up=True, hung=True)
    patch.undo()
    assert not Server().answers(up=True, hung=True)


@pytest.mark.parametrize("text", ["not there", "hung"])
def test_a_place_that_has_changed_or_is_not_the_only_one_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError, match="times"):
        edited(Server, "answers", (text, ""))(Patch())


def test_a_module_that_keeps_the_function_as_it_was_is_noticed() -> None:
    """`leader` has imported it by its name, and is the one that calls it."""
    change = ("version=document.version + 1,\n        phase=Phase.ACTIVE", "phase=Phase.ACTIVE")
    slip = edited(office, "activated_document", change)
    patch = Patch()
    with pytest.raises(AssertionError, match=r"metako\.election\.leader"):
        slip(patch)
    patch.undo()
