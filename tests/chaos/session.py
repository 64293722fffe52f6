"""One cluster from its start to the verdict, ended in good order by a signal.

In: what the rig is to be, and what is to be played on it. Out: the verdict. The first SIGINT or
SIGTERM ends what is played, and what was seen until then is judged; the second one ends everything.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from chaos.rig import SETTLE_S, Rig, RigOptions
from chaos.round import RoundResult
from chaos.verdict import Verdict, judge


class Session:
    """See the module's docstring."""

    def __init__(self, options: RigOptions, directory: Path, say: Callable[[str], None]) -> None:
        self.stopped_by = 0  # number of the signal that ended it
        self._options = options
        self._directory = directory
        self._say = say

    async def run(self, play: Callable[[Rig], Awaitable[None]]) -> Verdict:
        """Start a cluster, play on it, and judge what came of it.

        Raises:
            KeyboardInterrupt: a second signal came; nothing is judged.
            MetakoError: it cannot be started, played or judged; nothing is left.
        """
        results: list[RoundResult] = []
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(self._watch_signals, scope)
            async with Rig.open(self._options, self._directory, self._say) as rig:
                with scope:
                    await play(rig)
                await rig.settle()
                results = rig.results
            rig.merge()
            nursery.cancel_scope.cancel()
        return judge(
            self._directory,
            results,
            recovery_limit_s=self._options.recovery_limit_s,
            settle_s=SETTLE_S,
        )

    async def _watch_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self.stopped_by:
                    raise KeyboardInterrupt
                self.stopped_by = int(number)
                self._say("stopping: the round is ended, the evidence is collected")
                scope.cancel()
