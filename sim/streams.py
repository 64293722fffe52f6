"""Named random streams: one more draw in one place does not shift any other.

A stream is named by what it is for (`seed/node/incarnation/purpose`) and is a `random.Random`
seeded with that text, which gives the same numbers in every process and under every hash seed.
"""

from __future__ import annotations

import random


def stream(seed: int | str, *names: object) -> random.Random:
    """Return the generator of the stream with that name, from its beginning."""
    text = "/".join(str(name) for name in (seed, *names))
    return random.Random(text)  # noqa: S311 - a simulator is predictable on purpose
