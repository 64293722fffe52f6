"""The command `metako simulate`: hands its arguments to the simulator, a program of its own.

In: arguments. Out: whatever that program does, its exit code included. The simulator plays this
program, so nothing here may depend on it: it is found by name when it is asked for.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence

from metako.model.errors import MetakoError

SIMULATOR = "sim"
COMMANDS = "sim.cli.app"
"""A module that tells the simulator from some other package of the same short name."""


class NoSimulatorError(MetakoError):
    """The simulator is not installed. Nothing was played."""


def run_simulator(arguments: Sequence[str]) -> None:
    """Run `python -m sim` with these arguments, in this process; it ends in SystemExit.

    Raises:
        NoSimulatorError: the package is not there.
    """
    try:
        found = importlib.util.find_spec(COMMANDS)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise NoSimulatorError(
            f"the package {SIMULATOR} is not installed; it comes with metako's sources and "
            "wheels: install one of these again"
        )
    sys.argv[1:] = arguments
    runpy.run_module(SIMULATOR, {"PROGRAM": "metako simulate"}, run_name="__main__", alter_sys=True)
