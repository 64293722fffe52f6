"""What is known of a worker outside of it: how it exits, where its lock and its door are.

Apart from the worker itself, so that the agent, which only starts and watches workers, need not
load what they are made of.
"""

from __future__ import annotations

from pathlib import Path

EXIT_STOPPED = 0
EXIT_CANNOT_LISTEN = 1
EXIT_PORT_IN_USE = 4  # as model.errors.PortInUseError
EXIT_CANNOT_ENCRYPT = 13  # the TLS files cannot be used; as launcher.ProxyError
EXIT_LOCKED = 14  # another worker with this number runs
EXIT_NO_GUARD = 15  # there was no guard to belong to


def lock_path(control: Path, index: int) -> Path:
    """Return the file whose lock says that worker `index` takes connections."""
    return control.with_name(f"{control.name}.worker-{index}")


def door_path(control: Path, index: int) -> Path:
    """Return the Unix socket at which worker `index` hears its siblings; see `door`."""
    return control.with_name(f"{control.name}.door-{index}")
