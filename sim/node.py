"""One host and the faults that befall it: each process alone, the whole machine, clock and disk.

A fault changes what is there and tells the watchers; what follows from it is nobody's decision
here. What survives what: an agent that is killed leaves guard, PostgreSQL and proxy; a host that
loses power leaves what was durable; a suspended host leaves everything, later.
"""

from __future__ import annotations

from dataclasses import replace

from metako.cluster.ready import StopRequested
from metako.model.orders import Order
from metako.model.postgres import ProcessState
from metako.wire.slots import SLOT_BYTES, SLOTS
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.rebuild import backup_of
from sim.processes import Processes
from sim.record import RECORD_NAME

PROXY_RESTART_NS = NS_PER_S // 3
SLICE_NS = 4 * NS_PER_MS
"""What Linux lets a process run while others of its priority wait for the core, rounded up."""
WAKE_GRACE_NS = 150 * NS_PER_MS
"""After a pause of the whole host the guard needs a tick to look at its clock, and PostgreSQL
some milliseconds to die: nobody can do anything about that."""


class SimNode(Processes):
    """See the module's docstring. Each method says whether there was anything to do."""

    _lost_record: bytes | None = None  # of the record that `lose_record` took last

    # ------------------------------------------------------------ ends of processes

    def kill_agent(self) -> bool:
        """kill -9: guard, PostgreSQL and proxy go on; programs that the agent ran die with it."""
        if not self.agent_up and not self.starting:
            return False
        self._end_agent()
        self.world.watch.node_changed(self)
        return True

    def kill_guard(self) -> bool:
        """kill -9: PostgreSQL gets PDEATHSIG, proxy workers exit, the agent starts over."""
        guard = self.guard
        if guard is None or not guard.alive:
            return False
        guard.kill()
        if self.proxy is not None:
            self.proxy.kill()
        if self.agent_up:
            self.heap.after(NS_PER_S // 2, self._start_over, self.agent)
        self.world.watch.node_changed(self)
        return True

    def guard_silent(self) -> None:
        self.kill_guard()

    def _start_over(self, agent: object) -> None:
        """The agent has noticed that its guard is gone: it begins again, as a new boot."""
        if self.agent is not agent or self.agent is None or not self.agent.alive:
            return
        if self.agent.paused:
            self.heap.after(NS_PER_S // 2, self._start_over, agent)
            return
        self._end_agent()
        self.start()

    def kill_postgres(self) -> bool:
        """kill -9 of the postmaster and all that it started."""
        if self.server.process is ProcessState.STOPPED:
            return False
        self.server.kill()
        return True

    def kill_backend(self) -> bool:
        """kill -9 of a session's process: the postmaster ends all others, and itself."""
        if self.server.process is not ProcessState.RUNNING or self.server.frozen:
            return False
        self.server.kill()
        return True

    def kill_receiver(self) -> bool:
        """kill -9 of the WAL receiver: like that of a session's process."""
        return self.server.receiver is not None and self.kill_backend()

    def kill_sender(self) -> bool:
        return bool(self.server.senders) and self.kill_backend()

    def kill_startup(self) -> bool:
        return self.server.startup is not None and self.kill_backend()

    def kill_proxy(self) -> bool:
        """kill -9 of the workers; a running agent starts new ones."""
        proxy = self.proxy
        if proxy is None or not proxy.alive:
            return False
        proxy.kill()
        self.heap.after(PROXY_RESTART_NS, self._restart_proxy)
        return True

    def _restart_proxy(self) -> None:
        if self.agent_up and self.proxy is not None and not self.proxy.alive:
            self._open_proxy()

    def kill_host(self) -> bool:
        """Power off: everything is gone at once, and peers are told nothing."""
        if not self.host_up:
            return False
        if self.suspended:
            self.wake()
        self._end_agent()
        if self.guard is not None:
            self.guard.power_off()
        self.seat.guard = None
        self.server.host_crash()
        if self.proxy is not None:
            self.proxy.kill()
        self.proxy = None
        # What a disk that lies has lost, its node had promised: nothing holds for it any more.
        if self.disk.lying:
            self._spoil_record()
        self.disk.crash()
        self.world.network.abandon_all(self.name)
        self.host_up = False
        self.lease = None
        self.world.watch.node_changed(self)
        return True

    def stop(self) -> bool:
        """SIGTERM to the agent: the clean way down."""
        if self.agent is None or not self.agent.alive:
            return False
        self.agent.give(StopRequested())
        return True

    def order(self, order: Order) -> bool:
        """Give the agent an operator's order, under an id of this node's; `at_ms` is from now."""
        if self.agent is None or not self.agent.alive:
            return False
        self.orders += 1
        at_ms = order.at_ms and self.clock.wall_ms(self.heap.now_ns) + order.at_ms
        order = replace(order, order_id=f"{self.name}-{self.orders}", at_ms=at_ms)
        self.world.watch.ordered(self, order)
        self.agent.give(order)
        return True

    def _torn(self) -> None:
        self.kill_host()

    # ------------------------------------------------------------ pauses

    def pause_agent(self) -> bool:
        if self.agent is None or not self.agent.alive or self.agent.paused:
            return False
        self.agent.pause()
        if self.supervisor is not None:
            self.supervisor.pause()
        if self.proxy is not None:
            self.proxy.agent_went()
        self.world.watch.node_changed(self)
        return True

    def resume_agent(self) -> bool:
        if self.agent is None or not self.agent.paused or self.suspended:
            return False
        if self.proxy is not None:
            self.proxy.agent_came()
        if self.supervisor is not None:
            self.supervisor.resume()
        self.agent.resume()
        self.world.watch.node_changed(self)
        return True

    def pause_guard(self) -> bool:
        """SIGSTOP of the guard alone: what rests on no clock must hold without it."""
        guard = self.guard
        if guard is None or not guard.answers:
            return False
        guard.freeze()
        self.world.watch.node_changed(self)
        return True

    def resume_guard(self) -> bool:
        guard = self.guard
        if guard is None or not guard.alive or not guard.frozen or self.suspended:
            return False
        self.excused_until_ns = self.heap.now_ns + WAKE_GRACE_NS
        guard.thaw()
        self.world.watch.node_changed(self)
        return True

    def pause_postgres(self) -> bool:
        """SIGSTOP of the postmaster and all that it started."""
        if self.server.process is ProcessState.STOPPED or self.server.frozen:
            return False
        self.server.freeze()
        return True

    def resume_postgres(self) -> bool:
        if not self.server.frozen or self.suspended:
            return False
        self.server.thaw()
        return True

    def pause_proxy(self) -> bool:
        """SIGSTOP of the workers."""
        return self.proxy is not None and self.proxy.freeze()

    def resume_proxy(self) -> bool:
        if self.proxy is None or not self.proxy.frozen or self.suspended:
            return False
        self.proxy.thaw()
        return True

    def pause_backend(self) -> bool:
        """SIGSTOP of a session's process concerns its client alone, and is not modelled."""
        return False

    def resume_backend(self) -> bool:
        return False

    # A WAL sender that stands still is not modelled: `stall_standby` is, at the stream's other end.
    pause_sender, resume_sender = pause_backend, resume_backend

    def pause_host(self) -> bool:
        """SIGSTOP of everything; clocks go on."""
        done = [self.pause_agent(), self.pause_guard(), self.pause_postgres()]
        if self.proxy is not None:
            done.append(self.proxy.freeze())
        return any(done)

    def resume_host(self) -> bool:
        """SIGCONT of everything; the guard and the server run on at the same moment."""
        agent, guard, proxy = self.agent, self.guard, self.proxy
        stands_still = (
            self.server.frozen
            or (guard is not None and guard.frozen)
            or (agent is not None and agent.paused)
            or (proxy is not None and proxy.frozen)
        )
        if self.suspended or not stands_still:
            return False
        self.excused_until_ns = self.heap.now_ns + WAKE_GRACE_NS
        if proxy is not None:
            proxy.thaw()
        self.resume_postgres()
        self.resume_guard()
        self.resume_agent()
        return True

    def slow_agent(self, step_ms: float) -> bool:
        """Starve the agent: each of its steps takes so long. 0 ends it."""
        self.slow_factor_ns = round(step_ms * NS_PER_MS)
        return self._starve()

    def burn(self, per_core: int) -> bool:
        """Let each step of the agent wait for the slices of so many others. 0 ends it."""
        self.burnt_ns = per_core * SLICE_NS
        return self._starve()

    def _starve(self) -> bool:
        if self.agent is not None:
            self.agent.step_ns = self.step_ns
        self.world.watch.node_changed(self)
        return True

    # ------------------------------------------------------------ clock

    def suspend(self, *, hidden: bool = False) -> bool:
        """Suspend the machine: MONOTONIC stands still. `hidden`: BOOTTIME does as well."""
        if self.suspended or not self.host_up:
            return False
        self.pause_host()
        self.suspended, self.hidden = True, hidden
        self.was_hidden = self.was_hidden or hidden
        self.clock.suspend(self.heap.now_ns, hidden=hidden)
        self.world.watch.node_changed(self)
        return True

    def wake(self) -> bool:
        if not self.suspended:
            return False
        self.clock.resume(self.heap.now_ns)
        self.suspended = False
        if self.hidden and self.lease is not None:
            # Its own clock says that the lease still runs: for as long as it does, a second
            # writable server is the pause's doing, which no process on this host can see.
            left = self.lease[1] - self.clock.instant(self.heap.now_ns).boot_ns
            self.resume_host()
            self.excused_until_ns += max(0, left)
        else:
            self.resume_host()
        self.hidden = False
        self._clock_changed()
        self.world.watch.node_changed(self)
        return True

    def set_clock_rate(self, ppm: int) -> bool:
        """Let the clocks of this host run fast (> 0) or slow by so many parts per million."""
        self.clock.set_rate(self.heap.now_ns, ppm)
        self._clock_changed()
        self.world.watch.node_changed(self)
        return True

    def _clock_changed(self) -> None:
        if self.guard is not None:
            self.guard.clock_changed()
        if self.agent is not None:
            self.agent.clock_changed()

    # ------------------------------------------------------------ record and data

    def lose_record(self) -> bool:
        """Lose the durable record of an agent that is down; its data stays."""
        if self.agent_up or self.starting:
            return False
        self._lost_record = self.disk.copy(RECORD_NAME) or self._lost_record
        self.disk.lose()
        self._spoil_record()
        self.hard, self.lost = None, True
        return True

    def rot_record(self) -> bool:
        """Let every slot of the durable record of an agent that is down rot."""
        if self.agent_up or self.starting or not self.disk.exists(RECORD_NAME):
            return False
        self.disk.rot(RECORD_NAME, 0, SLOTS * SLOT_BYTES)
        self._spoil_record()
        self.hard, self.lost = None, True
        return True

    def restore_old_record(self) -> bool:
        """Put an old copy of the record in its place, as a careless restore of a backup does."""
        if self.agent_up or self.starting or not self.disk.restore_old():
            return False
        self._spoil_record()
        self.hard = None
        return True

    def restore_lost_record(self) -> bool:
        """Put the record that was lost last back, as a disk does that comes back from repair."""
        if self.agent_up or self.starting or self._lost_record is None:
            return False
        self.disk.restore(RECORD_NAME, self._lost_record)
        self._spoil_record()
        # It votes, as far as it knows: what it says must count nowhere, and cannot be kept back.
        self.hard, self.lost = None, False
        return True

    def _spoil_record(self) -> None:
        """Take note that the record of this node does not hold what it has promised by it."""
        if self.hard is not None:
            self.void.add(self.hard.record_id)
        self.wiped, self.invited = True, False

    def lose_data(self) -> bool:
        """Lose the data directory of a server that is down; the record stays."""
        if not self._data_is_free():
            return False
        self.server.data = None
        self.world.watch.server_changed(self.server)
        return True

    def take_backup(self) -> bool:
        """Take a base backup of the server, with every file of its directory, and keep it aside."""
        data = self.server.data
        if self.server.process is not ProcessState.RUNNING or data is None:
            return False
        self.world.backup = backup_of(data, data.data_id)
        return True

    def restore_backup(self) -> bool:
        """Put the newest backup, of another node, in the place of the data, on a host that is down.

        A node that gets an old state of its own data back is what no rule notices so far: these
        data have the identity that the document lists.
        """
        backup, data = self.world.backup, self.server.data
        if backup is None or self.witness or not self._data_is_free():
            return False
        if data is not None and data.data_id == backup.data_id:
            return False
        self.server.data = backup_of(backup, backup.data_id)
        self.world.watch.server_changed(self.server)
        return True

    def _data_is_free(self) -> bool:
        running = self.server.process is not ProcessState.STOPPED
        return not (running or self.agent_up or self.starting)

    def foreign_data(self) -> bool:
        """Put the data directory of another system in place, on a host that is down."""
        if not self._data_is_free():
            return False
        self.server.make_foreign()
        self.world.watch.server_changed(self.server)
        return True
