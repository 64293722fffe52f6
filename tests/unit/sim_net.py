"""A simulated network for tests, with what arrived and the disturbances that Hypothesis draws."""

from functools import partial

from hypothesis import strategies as st

from sim.heap import NS_PER_S, Heap
from sim.network import LinkProperties, Network, Traffic
from sim.streams import stream


class Net:
    """A network and what arrived."""

    def __init__(self, seed=1, **base):
        self.heap = Heap()
        self.network = Network(self.heap, partial(stream, seed), base=LinkProperties(**base))
        self.got = []

    def send(self, src, dst, what="x", traffic=Traffic.GOSSIP):
        return self.network.datagram(src, dst, lambda bad: self.got.append((what, bad)), traffic)

    def wait(self, seconds):
        self.heap.run_until(self.heap.now_ns + round(seconds * NS_PER_S))

    def open(self, src="a", dst="b", traffic=Traffic.STREAM):
        results = self.dial(src, dst, traffic)
        self.wait(0.1)
        [(connection, why)] = results
        assert why == ""
        return connection

    def dial(self, src="a", dst="b", traffic=Traffic.STREAM, **options):
        results = []
        self.network.connect(src, dst, traffic, lambda *result: results.append(result), **options)
        return results

    def say(self, connection, frm, what):
        connection.send(frm, lambda: self.got.append(what))

    def note_closing(self, connection):
        for end in (connection.src, connection.dst):
            connection.on_closed[end] = partial(self.got.append, f"{end} closed")


ENDS = ("a", "b")
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "send", "send", "cut", "uncut", "clog", "unclog", "lossy", "heal"]
        ),
        st.sampled_from(ENDS),
        st.sampled_from([0, 0, 0, 1, 5, 100, 3000]),  # milliseconds until the next
    ),
    max_size=40,
)


def disturb(network, what, src, dst):
    if what in ("cut", "uncut", "clog", "unclog"):
        getattr(network, what)(src, dst)
    elif what == "lossy":
        network.set_link(src, dst, loss=0.3, reorder=0.5)
    elif what == "heal":
        network.heal()
