"""How an agent is to end: a stop wins over making way for a new one, whichever came first."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from metako.runtime.ending import REPLACE_TIMEOUT_S, Ending


def test_an_agent_makes_way_once_and_not_when_it_is_to_stop() -> None:
    ending = Ending()
    ending.replace()
    assert (ending.wanted.is_set(), ending.replaced) == (True, True)
    ending.stop()
    assert (ending.wanted.is_set(), ending.replaced) == (True, False)
    ending.replace()
    assert not ending.replaced


@pytest.mark.parametrize(("stops", "killed"), [(False, 1), (True, 0)])
async def test_one_that_hangs_while_it_makes_way_is_ended_but_not_amid_a_stop(
    stops: bool,
    killed: int,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    sent: list[tuple[int, int]] = []
    ending = Ending()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.watch_signals)
        await trio.sleep(0.1)
        signal.raise_signal(signal.SIGUSR2)
        await ending.wanted.wait()
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
        if stops:
            ending.stop()
        await trio.sleep(REPLACE_TIMEOUT_S + 1)
        nursery.cancel_scope.cancel()
    assert sent == [(os.getpid(), signal.SIGKILL)] * killed
