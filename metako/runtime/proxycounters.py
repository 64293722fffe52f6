"""What the proxy workers of a node count, as samples for the metrics.

In: their reports. Out: samples with the worker's number as a label. A counter begins anew with its
worker, as Prometheus expects of a process that was started again; one whose connection to the agent
broke keeps its values meanwhile.
"""

from __future__ import annotations

from metako.observability.metrics import Sample
from metako.proxy.control import WorkerReport
from metako.proxy.frames import Stats

# Of `Stats`: the metric and its help.
_TOTALS = {
    "total": ("connections", "Connections that were accepted."),
    "refused": ("refused", "Clients that were refused: no primary in time, too many, no login."),
    "malformed": ("malformed", "Connections that broke the protocol or said nothing."),
    "cut": ("cut", "Sessions that the proxy has ended."),
    "moved": ("moved", "Times that a session went on with another server."),
    "waits": ("waits", "Times that a client has waited for a server."),
    "timed_out": ("timed_out", "Statements cancelled and idle clients ended by a timeout."),
    "statements": ("requests", "Requests that were answered, one for each ReadyForQuery."),
    "reads": ("reads", "Statements that servers have done and that read, by their tags."),
    "writes": ("writes", "Statements that servers have done and that write, by their tags."),
    "failed": ("errors", "Errors that servers have told, of logins by the proxy."),
    "bytes_up": ("client_bytes", "Bytes from clients to servers."),
    "bytes_down": ("server_bytes", "Bytes from servers to clients."),
}
_GAUGES = {
    "sessions": ("sessions", "Clients that are connected."),
    "waiting": ("waiting", "Clients without a server at the moment."),
}


class ProxyCounters:
    """The newest report of each worker, of which there are few.

    While a worker is replaced there are two of its number: the newer one's counters are told, and
    the gauges of both together.
    """

    def __init__(self) -> None:
        self._reports: dict[int, WorkerReport] = {}  # by the worker's number
        self._elders: dict[int, WorkerReport] = {}  # by pid: others with the number of one of them

    def hear(self, report: WorkerReport) -> None:
        """Take note of a report."""
        index, pid = report.hello.index, report.hello.pid
        known = self._reports.get(index)
        if pid in self._elders:
            if report.connected:
                self._elders[pid] = report
            else:
                del self._elders[pid]
            return
        if known is not None and known.hello.pid != pid and known.connected:
            self._elders[known.hello.pid] = known
        elif known is not None and known.hello.pid == pid and report.stats == Stats():
            # A connection begins before anything is counted on it; the worker counted on.
            report = WorkerReport(report.hello, known.stats, connected=report.connected)
        self._reports[index] = report

    def samples(self) -> list[Sample]:
        """Return what is known, worker by worker."""
        found = []
        for index, report in sorted(self._reports.items()):
            labels = (("worker", str(index)),)
            for name, (metric, text) in _TOTALS.items():
                value = getattr(report.stats, name)
                full = f"metako_proxy_{metric}_total"
                found.append(Sample(full, value, text, "counter", labels))
            for name, (metric, text) in _GAUGES.items():
                value = sum(getattr(one.stats, name) for one in self._connected(index))
                found.append(Sample(f"metako_proxy_{metric}", value, text, labels=labels))
        return found

    def _connected(self, index: int) -> list[WorkerReport]:
        """Return the reports of all workers of a number that are there."""
        several = (self._reports[index], *self._elders.values())
        return [one for one in several if one.connected and one.hello.index == index]
