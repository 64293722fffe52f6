"""An operator's order to a node to stand for election, for as long as it is in force.

Pure value: what it changes about a candidacy is said where that is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.ids import NodeId

STAND_S = 20.0
"""For so long an order has its node stand again and again."""

LOST_TERMS, LOST_TIMELINES = 1000, 8
"""How far ahead of all that is known whoever does without a lost member takes its numbers.

It may not be lost after all, and have led, alone, terms and timelines that nobody else has heard
of. When it is heard again the greater term has to be the one that the operator wanted, and no
number may stand for two lines of WAL.
"""


@dataclass(frozen=True, slots=True)
class Errand:
    """What an operator has ordered this node to stand for, though nobody or a pause has it do so.

    It ends when somebody leads.
    """

    until_ns: int  # CLOCK_MONOTONIC
    forced: bool = False  # losing commits is better than waiting
    lost: tuple[NodeId, ...] = ()  # whose votes it does without
    resumes: bool = False  # it ends the pause


NO_ERRAND = Errand(0)
"""Nobody has ordered anything."""
