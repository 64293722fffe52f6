"""Questions over a connection that have not been answered yet, by their numbers.

Invariant: a question is answered at most once. One whose connection is lost has no answer, and
neither has one that nobody waits for any more.

Deliberately unknown here: what is asked, of whom, how long it may take, and whether it is asked
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

Answer = TypeVar("Answer")


class _Question(Generic[Answer]):
    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None  # None when done: lost with the connection


class OpenQuestions(Generic[Answer]):
    """See the module's docstring. The caller bounds how many there are, and sets deadlines."""

    def __init__(self) -> None:
        self._last_id = 0
        self._open: dict[int, _Question[Answer]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        """Return whether somebody waits for the answer to this question."""
        return number in self._open

    async def ask(self, send: Callable[[int], None]) -> Answer | None:
        """Return the answer to what `send` sends under a number; None if it is lost.

        If cancelled, the answer is thrown away when it comes.
        """
        self._last_id += 1
        number, question = self._last_id, _Question[Answer]()
        self._open[number] = question
        try:
            send(number)
            await question.done.wait()
        finally:
            self._open.pop(number, None)
        return question.answer

    def answer(self, number: int, answer: Answer) -> None:
        """Hand an answer to whoever waits for it; nobody does if it came too late."""
        question = self._open.pop(number, None)
        if question is not None:
            question.answer = answer
            question.done.set()

    def lose(self) -> None:
        """The connection is over, and with it all that was asked over it."""
        for question in self._open.values():
            question.done.set()
        self._open.clear()
