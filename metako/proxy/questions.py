"""What a worker asks its agent about roles, and who waits for the answers.

In: what the connection to the agent is and brings. Out: answers, each within a time limit, or None:
then it cannot be told now. Invariant: a question is answered by one connection or lost with it; a
lost one is asked again of the next agent for as long as its own time lasts.

Deliberately unknown here: sockets, and what an answer means.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

import trio

from metako.model.rolelogin import RoleLogin
from metako.proxy.loginframes import Verifier, VerifierWanted, Welcome
from metako.proxy.openquestions import OpenQuestions

ASK_TIMEOUT_S = 1.0  # for an agent to come and to answer
QUESTIONS_MAX = 64  # of one worker at a time; more cannot be told


class _Agent(enum.Enum):
    AWAY = enum.auto()
    NEW = enum.auto()  # connected, has not said yet whether it answers
    ANSWERS = enum.auto()
    SILENT = enum.auto()  # of a version that does not know these questions


class Questions:
    """See the module's docstring."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.welcome: Welcome | None = None  # the newest; kept while no agent is there
        self._wake = wake  # told that there is something to send
        self._agent = _Agent.AWAY
        self._agent_changed = trio.Event()  # replaced whenever it is set
        self._asking = 0
        self._unsent: deque[VerifierWanted] = deque()  # at most QUESTIONS_MAX, as they wait
        self._open = OpenQuestions[Verifier]()

    @property
    def answering(self) -> bool:
        """Whether an agent is connected that answers."""
        return self._agent is _Agent.ANSWERS

    async def ask(self, user: str) -> RoleLogin | None:
        """Return what is stored for a role, or None if that cannot be told within a second.

        If cancelled, the answer is thrown away when it comes.
        """
        if self._asking >= QUESTIONS_MAX:
            return None
        self._asking += 1
        try:
            with trio.move_on_after(ASK_TIMEOUT_S):
                while await self._wait_answering():
                    answer = await self._ask_this_agent(user)
                    if answer is not None:
                        return answer.role
        finally:
            self._asking -= 1
        return None

    async def wait_welcome(self) -> Welcome | None:
        """Return the newest welcome; wait a second for the first one, unless none will come."""
        if self.welcome is None:
            with trio.move_on_after(ASK_TIMEOUT_S):
                await self._wait_answering()
        return self.welcome

    async def _wait_answering(self) -> bool:
        while self._agent in (_Agent.AWAY, _Agent.NEW):
            await self._agent_changed.wait()
        return self.answering

    async def _ask_this_agent(self, user: str) -> Verifier | None:
        def send(number: int) -> None:
            self._unsent.append(VerifierWanted(user, number))
            self._wake()

        return await self._open.ask(send)

    # -- for the connection -------------------------------------------------------------------

    def connected(self) -> None:
        """An agent's socket accepted; it has not spoken yet."""
        self._become(_Agent.NEW)

    def disconnected(self) -> None:
        """The connection is over, and with it all that was asked over it."""
        self._become(_Agent.AWAY)
        self._unsent.clear()
        self._open.lose()

    def receive_welcome(self, welcome: Welcome) -> None:
        self.welcome = welcome
        self._become(_Agent.ANSWERS)

    def receive_table(self) -> None:
        """A table has come. Who answers has sent its welcome before the first one."""
        if self._agent is _Agent.NEW:
            self.welcome = None  # was another agent's, and may hold no more
            self._become(_Agent.SILENT)

    def receive_answer(self, verifier: Verifier) -> None:
        """Hand an answer to whoever waits for it; nobody does if it came too late."""
        self._open.answer(verifier.id, verifier)

    def next_unsent(self) -> VerifierWanted | None:
        """Return what is to be asked next. Who does not wait any more is left out."""
        while self._unsent:
            wanted = self._unsent.popleft()
            if wanted.id in self._open:
                return wanted
        return None

    def _become(self, agent: _Agent) -> None:
        self._agent = agent
        self._agent_changed.set()
        self._agent_changed = trio.Event()
