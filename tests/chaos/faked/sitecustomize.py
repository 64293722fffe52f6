"""What Python needs beside libfaketime: its `clock_nanosleep` refuses to sleep by MONOTONIC."""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    wanted_s = float(seconds)
    if wanted_s < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), wanted_s)


time.sleep = _sleep
