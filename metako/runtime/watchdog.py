"""What can be said of a node's watchdog before the node runs, for `metako check`.

In: the configuration. Out: words. The device is not opened: that would start it. Whether somebody
else has it open therefore shows only as far as /sys tells that it counts.
"""

from __future__ import annotations

from metako.config import NodeConfig
from metako.config.node_config import WatchdogMode
from metako.guard.device import Kernel, Linux, runs, trouble
from metako.model.errors import ConfigError


def check_watchdog_device(config: NodeConfig, kernel: Kernel | None = None) -> str:
    """Return a remark on the device, "" if there is none to make.

    Raises:
        ConfigError: it is required and cannot be used; the text says what to do.
    """
    watchdog = config.watchdog
    if watchdog.mode is WatchdogMode.OFF or config.node.witness:
        return ""
    kernel = kernel or Linux()
    path = str(watchdog.device)
    if found := trouble(kernel, path):
        if watchdog.mode is WatchdogMode.REQUIRED:
            raise ConfigError(f"{config.path}: guard.watchdog.device: {found}")
        return f"guard.watchdog: will not be armed: {found}"
    if runs(kernel, path):
        return (
            f"guard.watchdog: {path} counts now, for this node's guard if that leads; otherwise "
            "something else has it, and the guard will not get it"
        )
    return ""
