"""A small agent for the tests of the guard: it does what the lines on its stdin say.

`start LOG PROGRAM ARGS…` (tab separated), `arm TERM MILLISECONDS`, `disarm TERM`, `signal N`,
`status`. Each is answered by one JSON line. It ends at the end of its input.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import trio

from metako.postgres.osuser import resolve_os_user
from metako.postgres.process import GuardLostError, GuardRefusedError, open_guard


def boottime_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def answer(guard, error):
    sys.stdout.write(json.dumps({**dataclasses.asdict(guard.status), "error": error}) + "\n")
    sys.stdout.flush()


async def carry_out(guard, line):
    what, *words = line.split("\t")
    match what:
        case "start":
            log = words.pop(0)
            await guard.start(words, {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, Path(log))
        case "arm":
            await guard.arm(int(words[0]), boottime_ns() + int(words[1]) * 1_000_000)
        case "disarm":
            await guard.disarm(int(words[0]))
        case "signal":
            await guard.signal(int(words[0]))
        case "status":
            await guard.refresh()
        case _:
            raise ValueError(what)


async def main(run_dir, data_dir, orphan_timeout_s):
    async with open_guard(
        run_dir=Path(run_dir),
        user=resolve_os_user(None),
        data_dir=Path(data_dir),
        orphan_timeout_s=float(orphan_timeout_s),
    ) as guard:
        answer(guard, "")
        stdin = trio.wrap_file(sys.stdin)
        async for line in stdin:
            error = ""
            try:
                await carry_out(guard, line.rstrip("\n"))
            except (GuardLostError, GuardRefusedError) as caught:
                error = str(caught)
            answer(guard, error)


trio.run(main, *sys.argv[1:])
