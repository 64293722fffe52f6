"""The guard as it is, on a fake of the kernel's watchdog: started in the place of the real one.

`python -I -S <this directory> …`, as the agent starts the guard itself.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[0:1] = []
sys.path += [str(TESTS.parent), str(TESTS)]

from fake_watchdog import FakeKernel  # noqa: E402 - found by the path above
from metako.guard.__main__ import main  # noqa: E402

sys.exit(main(FakeKernel()))
