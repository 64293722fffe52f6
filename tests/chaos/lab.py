"""The lab: hosts in network namespaces of their own, joined by a switch in another one.

In: names of nodes. Out: for each a namespace with an address, and the argv that runs a program in
it. Nothing is made in the root namespace, nothing leads out of the lab, and a lab leaves nothing
behind: `close` ends what still runs inside and removes every namespace, however far the start had
come. A run that was killed could not; `Lab.sweep` does it for the next one, and knows from the
owner's file (pid and start time in RUN_DIRECTORY) which labs are somebody's who still lives.

The switch knows every host's hardware address from the start, and every host that of all others:
there is no ARP, no learning and no flooding, so the only frames are those that the hosts mean to
send, and a host that was cut off for a minute is missed as behind a router: after a timeout, and
not with "no route to host". IPv6 is off for the same reason.

It knows nothing of disturbances: `chaos.wire` has those.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.tools import LabError, run, tool
from metako.demo.processes import read_process

RUN_DIRECTORY = Path("/run/metako-chaos")
NAMESPACES = Path("/run/netns")
CLIENT = "c"
SWITCH = "sw"
NODES_MAX = 80
"""Addresses .11 to .90; the client host has .99."""
IDS_TRIED_MAX = 20
KILLS_MAX = 200
KILL_INTERVAL_S = 0.02

_NAMESPACE = re.compile(r"mk([0-9a-f]{4})-[a-z][a-z0-9]*")
_HOST = re.compile(r"[a-z][a-z0-9]{0,7}")  # with a prefix it must fit an interface's 15 characters
_QUIET = (
    # Missing files are fine: the kernel has no such thing then.
    "for key in ipv6/conf/all/disable_ipv6 ipv6/conf/default/disable_ipv6; do"
    " [ ! -e /proc/sys/net/$key ] || echo 1 > /proc/sys/net/$key; done;"
    " for key in bridge/bridge-nf-call-iptables bridge/bridge-nf-call-arptables; do"
    " [ ! -e /proc/sys/net/$key ] || echo 0 > /proc/sys/net/$key; done"
)


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the lab."""

    name: str
    address: str
    hardware: str  # address of its eth0
    namespace: str

    @property
    def port(self) -> str:
        """Return the switch's end of its cable."""
        return f"p-{self.name}"


class Lab:
    """The namespaces of one run, from `start` to `close`."""

    def __init__(self, nodes: Sequence[str], *, run_id: str | None = None) -> None:
        """Describe a lab; nothing is made yet.

        Args:
            nodes: names of the nodes, in the order of their addresses. The client host `c` is
                always there besides.
            run_id: 4 hex digits; None takes some that no other lab uses.
        """
        assert 1 <= len(nodes) <= NODES_MAX, nodes
        assert len({*nodes, CLIENT, SWITCH}) == len(nodes) + 2, nodes
        assert all(_HOST.fullmatch(name) for name in nodes), nodes
        assert run_id is None or re.fullmatch("[0-9a-f]{4}", run_id), run_id
        self.run_id = run_id or ""  # "" until `start` when it is free to choose
        self._numbers = {name: 11 + index for index, name in enumerate(nodes)} | {CLIENT: 99}
        self._claimed = False  # whether the owner's file is ours

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what it is ---

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Return the nodes in order, then the client host."""
        return tuple(self.host(name) for name in self._numbers)

    @property
    def addresses(self) -> dict[str, str]:
        """Return the address of every host by its name."""
        return {host.name: host.address for host in self.hosts}

    def host(self, name: str) -> Host:
        """Return the host of that name."""
        number = self._numbers[name]
        address, hardware = f"10.77.0.{number}", f"02:6d:6b:00:00:{number:02x}"
        return Host(name, address, hardware, self.namespace(name))

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return self.host(name).address

    def namespace(self, name: str) -> str:
        """Return the namespace of a host, or of the switch."""
        assert name in self._numbers or name == SWITCH, name
        assert self.run_id, "the lab was not started"
        return f"mk{self.run_id}-{name}"

    def argv(self, name: str, argv: Iterable[str]) -> list[str]:
        """Return what runs a program in a host's namespace, or in the switch's.

        Only the network is another one there. `ip netns exec` would make a mount namespace for
        every program, and a server's files would be seen through that. The caller needs to be
        root; a program that gives up root does so inside.
        """
        path = NAMESPACES / self.namespace(name)
        return [tool("nsenter"), f"--net={path}", "--", *argv]

    def leftovers(self) -> list[str]:
        """Return the namespaces of this lab that exist."""
        return [name for name in _namespaces() if _id_of(name) == self.run_id]

    def processes(self) -> dict[int, str]:
        """Return the processes that run inside, each with the name of its namespace."""
        return _inside(self.leftovers())

    # --- life ---

    def start(self) -> None:
        """Make everything.

        Raises:
            LabError: it cannot be made here; whatever had been made is gone again.
        """
        if os.geteuid() != 0:
            raise LabError("network namespaces need root: run it with sudo")
        for name in ("ip", "bridge", "nft", "nsenter"):
            tool(name)
        self._claim()
        try:
            for name in (SWITCH, *self._numbers):
                run([tool("ip"), "netns", "add", self.namespace(name)])
            self._make_switch()
            for host in self.hosts:
                self._configure(host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what still runs inside and remove every namespace; does nothing the second time.

        Raises:
            LabError: something would not go.
        """
        if not self._claimed:
            return
        _remove(self.leftovers())
        _owner_file(self.run_id).unlink(missing_ok=True)
        self._claimed = False

    @staticmethod
    def sweep() -> list[str]:
        """Remove what runs that are dead have left, and return the namespaces it found.

        Raises:
            LabError: something would not go.
        """
        found = _namespaces()
        ids = {_id_of(name) for name in found}
        ids |= {path.stem for path in RUN_DIRECTORY.glob("*.pid")}
        # The file is written before the first namespace is made and goes after the last one: a
        # namespace without one belongs to nobody.
        dead = {run_id for run_id in ids if not _owner_lives(run_id)}
        left = [name for name in found if _id_of(name) in dead]
        _remove(left)
        for run_id in dead:
            _owner_file(run_id).unlink(missing_ok=True)
        for draft in RUN_DIRECTORY.glob("*.draft"):
            if read_process(int(draft.stem)) is None:
                draft.unlink(missing_ok=True)
        return left

    def _claim(self) -> None:
        """Write the owner's file; of two labs that want an id, one gets it."""
        assert not self._claimed, "started twice"
        owner = read_process(os.getpid())
        assert owner is not None
        RUN_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        wanted = [self.run_id] if self.run_id else _some_ids()
        # A link appears whole or not at all: a sweeper never reads half a file.
        draft = RUN_DIRECTORY / f"{owner.pid}.draft"
        draft.write_text(f"{owner.pid} {owner.start_ticks}\n", encoding="ascii")
        try:
            for run_id in wanted:
                if any(_id_of(name) == run_id for name in _namespaces()):
                    continue
                with suppress(FileExistsError):
                    os.link(draft, _owner_file(run_id))
                    self.run_id, self._claimed = run_id, True
                    return
        finally:
            draft.unlink(missing_ok=True)
        raise LabError(f"the lab id {wanted[0]} is taken in {RUN_DIRECTORY}: choose another one")

    def _make_switch(self) -> None:
        links = ["link set lo up", "link add br0 type bridge mcast_snooping 0 stp_state 0"]
        addresses = []
        for host in self.hosts:
            links += [
                f"link add {host.port} type veth peer name eth0 address {host.hardware}"
                f" netns {host.namespace}",
                f"link set {host.port} master br0",
                f"link set {host.port} type bridge_slave learning off",
                f"link set {host.port} up",
            ]
            addresses.append(f"fdb add {host.hardware} dev {host.port} master static")
        self._quieten(SWITCH)
        self._batch("ip", SWITCH, [*links, "link set br0 up"])
        self._batch("bridge", SWITCH, addresses)

    def _configure(self, host: Host) -> None:
        self._quieten(host.name)
        lines = ["link set lo up", f"address add {host.address}/24 dev eth0", "link set eth0 up"]
        for other in self.hosts:
            if other != host:
                entry = f"{other.address} lladdr {other.hardware}"
                lines.append(f"neighbour add {entry} dev eth0 nud permanent")
        self._batch("ip", host.name, lines)

    def _quieten(self, name: str) -> None:
        # /proc/sys/net shows the namespace of whoever opens it.
        run(self.argv(name, ["/bin/sh", "-c", _QUIET]))

    def _batch(self, program: str, name: str, lines: Sequence[str]) -> None:
        argv = [tool(program), "-netns", self.namespace(name), "-batch", "-"]
        run(argv, "\n".join(lines) + "\n")


def _some_ids() -> list[str]:
    return [secrets.token_hex(2) for _ in range(IDS_TRIED_MAX)]


def _owner_file(run_id: str) -> Path:
    return RUN_DIRECTORY / f"{run_id}.pid"


def _owner_lives(run_id: str) -> bool:
    try:
        pid, start_ticks = map(int, _owner_file(run_id).read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return False
    owner = read_process(pid)
    return owner is not None and owner.start_ticks == start_ticks


def _namespaces() -> list[str]:
    """Return every namespace that some lab made."""
    try:
        names = os.listdir(NAMESPACES)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _NAMESPACE.fullmatch(name))


def _id_of(namespace: str) -> str:
    match = _NAMESPACE.fullmatch(namespace)
    assert match is not None, namespace
    return match[1]


def _inside(namespaces: Iterable[str]) -> dict[int, str]:
    """Return the processes in the namespaces, but for this one."""
    spaces = {}
    for name in namespaces:
        with suppress(FileNotFoundError):
            stat = os.stat(NAMESPACES / name)
            spaces[stat.st_dev, stat.st_ino] = name
    return {pid: spaces[key] for pid, key in _spaces_of_all() if key in spaces}


def _spaces_of_all() -> Iterator[tuple[int, tuple[int, int]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            # It has ended, or is a zombie, which is in no namespace any more.
            with suppress(OSError):
                stat = os.stat(f"/proc/{name}/ns/net")
                yield int(name), (stat.st_dev, stat.st_ino)


def _remove(namespaces: Sequence[str]) -> None:
    """Kill what runs in the namespaces, and remove them. Bounded to about four seconds."""
    inside: dict[int, str] = {}
    for _ in range(KILLS_MAX):
        inside = _inside(namespaces)
        if not inside:
            break
        for pid in inside:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(KILL_INTERVAL_S)
    for name in namespaces:
        try:
            run([tool("ip"), "netns", "delete", name])
        except LabError:
            # Another sweep was faster.
            if (NAMESPACES / name).exists():
                raise
    if inside:
        pids = ", ".join(f"{pid} in {name}" for pid, name in sorted(inside.items()))
        raise LabError(f"processes of the lab cannot be killed: {pids}")
