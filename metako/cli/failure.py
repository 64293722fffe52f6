"""How commands fail: one line on stderr and an exit code, never a traceback.

In: whatever a command raised. Out: `typer.Exit`. The codes are those of `metako.model.errors`,
130 after an interrupt, 141 when the reader of our output has gone, 1 for anything else.

Deliberately unaware of what the commands do.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import ParamSpec

import typer

from metako.cli.main import EXIT_INTERRUPTED
from metako.model.errors import MetakoError

EXIT_FAILED = 1
EXIT_READER_GONE = 141  # 128 + SIGPIPE
TRACEBACK_VARIABLE = "METAKO_TRACEBACK"
"""Set to anything, it adds the traceback of an internal error: for a report to the developers."""

P = ParamSpec("P")


def reported(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a function that returns an exit code, or raises, into a command of the program."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:  # noqa: BLE001  # the one place where errors become codes
            code = report(error)
        raise typer.Exit(code)

    # The return annotation that typer reads must be the wrapper's.
    run.__annotations__ = {**command.__annotations__, "return": "None"}
    return run


def report(error: BaseException) -> int:
    """Tell the operator about `error` on stderr and return the exit code."""
    leaves = list(_leaves(error))
    known = next((leaf for leaf in leaves if isinstance(leaf, MetakoError)), None)
    if known is not None:
        _say(str(known))
        return known.exit_code
    # A task group may hold an interrupt beside errors that are only its consequence.
    for leaf in leaves:
        match leaf:
            case KeyboardInterrupt():
                return EXIT_INTERRUPTED
            case BrokenPipeError():
                _discard_output()
                return EXIT_READER_GONE
            case SystemExit():
                return _code_of(leaf)
    first = leaves[0]
    if isinstance(first, OSError) and first.strerror:
        where = f"{first.filename}: " if first.filename else ""
        _say(f"{where}{first.strerror}")
        return EXIT_FAILED
    if os.environ.get(TRACEBACK_VARIABLE):
        _write("".join(traceback.format_exception(error)))
    _say(
        f"internal error: {type(first).__name__}: {first} "
        f"(please report it; {TRACEBACK_VARIABLE}=1 shows where)"
    )
    return EXIT_FAILED


def _code_of(error: SystemExit) -> int:
    match error.code:
        case None:
            return 0
        case int():
            return error.code
        case str():
            _say(error.code)
            return EXIT_FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _say(message: str) -> None:
    # A configuration error lists every mistake, one a line; anything else is one line.
    for line in message.strip().splitlines() or [""]:
        _write(f"metako: {line}\n")


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # Nobody is left to be told; the exit code still says it.
        return


def _discard_output() -> None:
    """Point stdout at nothing, or the interpreter complains when it flushes at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return  # not a file: nothing is flushed at exit
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
