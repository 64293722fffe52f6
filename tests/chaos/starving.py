"""Processes that keep every core busy, so that everybody else has to wait for one.

In: who wants how many of them for each core. Out: as many processes as the greediest one wants, at
the priority that everybody has. None of them outlives this process, whatever becomes of it.
"""

from __future__ import annotations

import os
import subprocess
import sys

BURNERS_PER_CORE = 2
"""Of a fault that names no number."""
KILL_TIMEOUT_S = 5.0
_BURNER = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,signal.SIGKILL,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1)\n"
    "while True: pass"
)


class Starving:
    """See the module's docstring. To be called from a thread that outlives the processes."""

    def __init__(self) -> None:
        self._wanted: dict[str, int] = {}  # by whom: processes for each core
        self._burners: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the processes that burn."""
        return tuple(burner.pid for burner in self._burners)

    def __call__(self, who: str, per_core: int) -> None:
        """Let somebody want so many processes for each core; 0: none any more."""
        if per_core:
            self._wanted[who] = per_core
        else:
            self._wanted.pop(who, None)
        count = max(self._wanted.values(), default=0) * (os.cpu_count() or 1)
        while len(self._burners) < count:
            argv = [sys.executable, "-I", "-S", "-c", _BURNER, str(os.getpid())]
            self._burners.append(subprocess.Popen(argv))
        self._end_down_to(count)

    def end(self) -> None:
        """End all of them, whoever wants them still."""
        self._wanted.clear()
        self._end_down_to(0)

    def _end_down_to(self, count: int) -> None:
        ended, self._burners = self._burners[count:], self._burners[:count]
        for burner in ended:
            burner.kill()
        for burner in ended:
            burner.wait(KILL_TIMEOUT_S)
