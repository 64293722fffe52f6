"""Loading a program that is to run for a long time, and may be waited for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def everything_kept() -> Iterator[None]:
    """Look for no garbage inside, and never among what is there at its end.

    What a program loads stays: looking through it again and again while it grows takes a sixth of
    the time of loading, and later a pause of its own every now and then.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
