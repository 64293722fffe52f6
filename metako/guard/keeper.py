"""The guard's watchdog at work: a device, or the reason why there is none, and the rules of it.

Input: renewals, turns of the guard, and whether there is anything to protect the cluster from.
Output: calls of the device, and notes. Invariants: it runs only while a term is armed or its fence
is not complete; what it is kept alive by is decided by `watchdog.Leash` alone. A call that fails is
repeated at the next turn, and until one works the watchdog counts as not armed. One that cannot be
stopped is kept alive without any lease once there is nothing to protect, and is not used again.

Does not know of terms, of PostgreSQL, or whether anybody insists on it.
"""

from __future__ import annotations

import contextlib

from metako.guard.device import Device, Kernel, UnusableError, open_device
from metako.guard.watchdog import NS_PER_S, Leash, Wish

OFF = "off"  # nobody asked for one
IDLE = "idle"  # held, stopped: there is nothing to protect
ARMED = "armed"
FAILED = "failed"  # asked for, and not to be had

STUCK_PARTS = 4
"""One that cannot be stopped is kept alive so many times in its timeout, for nothing."""
STUCK_TIMEOUT_S = 4
"""What is taken for its timeout if it does not tell."""


class Keeper:
    """At most one watchdog."""

    def __init__(self, device: Device | None = None, why: str = "") -> None:
        """Hold a device that is stopped, or one that cannot be; without one, `why` says why not.

        Without either, nobody has asked for a watchdog.
        """
        self._device = device
        self._stuck = device is not None and device.runs  # it cannot be stopped
        self._fault = why  # of the last call, or for good if there is no device
        self._leash = Leash(device.timeout_s if device is not None else 0)
        self._stuck_kept_ns = 0
        self._notes: list[str] = []
        if device is not None and self._stuck:
            self._fault = (
                f"{device.path} cannot be stopped: it guards nothing and is kept alive while the "
                "guard lives; after that it resets the machine, if its driver has nowayout"
            )
        if self._fault:
            self._note(f"watchdog: not armed: {self._fault}")

    # ------------------------------------------------------------ what is shown

    @property
    def state(self) -> str:
        if self._fault:
            return FAILED
        if self._device is None:
            return OFF
        return ARMED if self._device.runs else IDLE

    @property
    def why(self) -> str:
        """Say why it is not armed; "" unless it failed."""
        return self._fault

    @property
    def identity(self) -> str:
        return "" if self._device is None else self._device.identity

    @property
    def timeout_s(self) -> int:
        return self._leash.timeout_s

    def take_notes(self) -> list[str]:
        """Return what has happened since the last call."""
        notes, self._notes = self._notes, []
        return notes

    # ------------------------------------------------------------ what is done

    def renew(self, now_boot_ns: int, lease_boot_ns: int) -> str:
        """Take a new end of the lease; return "" or why the machine is not guarded by it.

        Starts the watchdog if it is stopped and the lease is long enough.
        """
        device = self._device
        if device is None or self._stuck:
            return self._fault
        self._leash.renew(lease_boot_ns)
        if device.runs:
            self._keep(device, now_boot_ns)
            return self._fault
        if not self._leash.allows(now_boot_ns):
            left_ms = (lease_boot_ns - now_boot_ns) // 1_000_000
            return f"a lease of {left_ms} ms is left, its timeout is {self.timeout_s} s"
        try:
            device.start()
        except OSError as error:
            self._failed(error)
            return self._fault
        self._leash.started(now_boot_ns)
        self._fault = ""
        self._note(f"watchdog: armed, {self.timeout_s} s ({self.identity})")
        return ""

    def turn(self, now_boot_ns: int, *, protecting: bool) -> None:
        """Keep it alive if that is due, stop it once there is nothing to protect any more.

        Args:
            now_boot_ns: CLOCK_BOOTTIME.
            protecting: a term is armed, or what its end demands is not done yet.
        """
        device = self._device
        if device is None:
            return
        if device.runs and not protecting and not self._stuck:
            self._stop(device)
        if self._stuck:
            self._keep_stuck(device, now_boot_ns)
        elif device.runs:
            self._keep(device, now_boot_ns)

    def wakeup_boot_ns(self, now_boot_ns: int) -> int | None:
        """Return when a turn is needed, None if the guard's ticks are enough."""
        if self._device is not None and self._stuck:
            return self._stuck_due_ns()
        return self._leash.wakeup_boot_ns(now_boot_ns)

    def close(self, *, in_good_order: bool) -> None:
        """Give the device back as the guard ends.

        Args:
            in_good_order: nothing is left to protect. Otherwise it stays as it is, and its timeout
                is what remains of the machine.
        """
        if self._device is not None and in_good_order:
            if self._device.runs and not self._stuck:
                self._stop(self._device)
            self._device.close()

    # ------------------------------------------------------------ parts

    def _keep(self, device: Device, now_boot_ns: int) -> None:
        if not self._leash.is_due(now_boot_ns):
            return
        try:
            device.keep()
        except OSError as error:
            self._failed(error)
            return
        self._leash.kept(now_boot_ns)
        if self._fault:
            self._note("watchdog: kept alive again")
            self._fault = ""

    def _stop(self, device: Device) -> None:
        try:
            device.stop()
        except OSError as error:
            self._failed(error)
            # There is nothing to protect: it must not reset the machine for that.
            self._stuck, self._stuck_kept_ns = True, 0
            return
        self._leash.stopped()
        self._note("watchdog: stopped")

    def _stuck_due_ns(self) -> int:
        timeout_s = self._leash.timeout_s or STUCK_TIMEOUT_S
        return self._stuck_kept_ns + timeout_s * NS_PER_S // STUCK_PARTS

    def _keep_stuck(self, device: Device, now_boot_ns: int) -> None:
        if now_boot_ns < self._stuck_due_ns():
            return
        self._stuck_kept_ns = now_boot_ns
        with contextlib.suppress(OSError):  # it was noted when stopping it failed
            device.keep()

    def _failed(self, error: OSError) -> None:
        assert self._device is not None
        fault = f"{self._device.path}: {error.strerror or error}"
        if fault != self._fault:
            self._fault = fault
            self._note(f"watchdog: not armed: {fault}")

    def _note(self, text: str) -> None:
        self._notes.append(text)


def open_keeper(kernel: Kernel, wish: Wish | None) -> Keeper:
    """Return the keeper of the watchdog that is wished for. To be called while still root."""
    if wish is None:
        return Keeper()
    if wish.timeout_s <= 0:
        return Keeper(
            why="the lease is too short for any: a watchdog counts whole seconds; raise timing.hold"
        )
    try:
        return Keeper(open_device(kernel, wish.device, wish.timeout_s))
    except UnusableError as error:
        return Keeper(why=str(error))
