"""What agents of a simulated cluster answer to the orders of operators."""

from __future__ import annotations

from metako.model.orders import OrderAnswer
from sim.processes import Processes
from sim.settled import Stage
from sim.watch import Watcher


class _Answers(Watcher):
    def __init__(self) -> None:
        self.all: list[OrderAnswer] = []

    def answered(self, node: Processes, answers: object) -> None:
        self.all += answers  # type: ignore[arg-type]


def listen(world: Stage) -> list[OrderAnswer]:
    """Return a list to which every answer from now on is added."""
    answers = _Answers()
    world.watch.add(answers)
    return answers.all
