"""The simulated record: answers of the asynchronous half, and what each kind of disk leaves.

What it has in common with the agent's is in `tests/driver/test_record_contract.py`.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId, Term
from metako.wire.slots import SLOT_BYTES, CorruptRecord
from sim.disk import SimDisk
from sim.heap import NS_PER_MS, Heap
from sim.record import RECORD_NAME, SimRecordStore

N1 = NodeId("n1")


def state(term):
    return HardState(N1, boot_epoch=1, term=Term(term), promised_term=Term(term))


class Agent:
    """A record on a disk, opened anew after each power loss."""

    def __init__(self, seed):
        self.heap = Heap()
        self.disk = SimDisk(self.heap, random.Random(seed))
        self.answers = []
        self.open()

    def open(self):
        self.store = SimRecordStore(self.heap, self.disk, N1)
        self.loaded = self.store.load()

    def persist(self, term):
        self.store.persist(state(term), self.answers.append)

    def wait(self, ms=100):
        self.heap.run_until(self.heap.now_ns + ms * NS_PER_MS)


def test_a_persist_answers_after_the_latency_of_the_disk():
    agent = Agent(1)
    agent.persist(1)
    assert agent.answers == []
    assert agent.store.durable is None
    agent.wait()
    assert agent.answers == [None]
    assert agent.store.durable == state(1)


def test_a_persist_of_what_is_durable_answers_without_the_disk():
    agent = Agent(1)
    agent.persist(1)
    agent.wait()
    syncs = agent.disk.syncs
    agent.persist(1)
    assert agent.answers == [None]
    agent.wait(0)
    assert agent.answers == [None, None]
    assert agent.disk.syncs == syncs


def test_two_persists_at_a_time_are_a_mistake():
    agent = Agent(1)
    agent.persist(1)
    with pytest.raises(AssertionError):
        agent.persist(2)
    agent.wait()
    agent.persist(2)
    agent.wait()
    assert agent.answers == [None, None]


def test_a_persist_that_fails_answers_with_the_error_and_so_does_every_later_one():
    agent = Agent(1)
    agent.persist(1)
    agent.wait()
    agent.disk.failing = True
    agent.persist(2)
    agent.wait()
    agent.disk.failing = False
    agent.persist(3)
    agent.wait()
    assert agent.answers[0] is None
    assert [type(answer) for answer in agent.answers[1:]] == [StateError, StateError]
    assert agent.store.durable == state(1)


def test_a_full_disk_lets_a_first_persist_fail():
    agent = Agent(1)
    agent.disk.full = True
    agent.persist(1)
    assert agent.answers == []
    agent.wait()
    assert isinstance(agent.answers[0], StateError)


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["whole", "power", "tear"]), max_size=8))
def test_an_honest_disk_never_takes_back_what_was_answered(seed, rounds):
    agent = Agent(seed)
    promised, term = 0, 0
    for how in rounds:
        term += 1
        before = len(agent.answers)
        agent.persist(term)
        if how == "whole":
            agent.wait()
        else:
            agent.disk.tear_next = how == "tear"
            agent.disk.crash()
            agent.open()
        if len(agent.answers) > before:
            promised = term
        record = agent.loaded.record if how != "whole" else agent.store.durable
        assert not isinstance(record, CorruptRecord)
        assert (record.term if record else 0) >= promised
        term = max(term, record.term if record else 0)


def test_a_lying_disk_can_lose_both_slots():
    found = set()
    for seed in range(100):
        agent = Agent(seed)
        agent.persist(1)
        agent.wait()
        agent.disk.lying = True
        for term in (2, 3):
            agent.persist(term)
            agent.wait()
        agent.disk.tear_next = True
        agent.disk.crash()
        agent.open()
        record = agent.loaded.record
        found.add(type(record) if isinstance(record, CorruptRecord) else record.term)
    # The write that is torn is of the first slot. The second is blank, or holds the one before.
    assert {CorruptRecord, 2} <= found


def test_a_rotten_newest_slot_leaves_the_older_one():
    agent = Agent(1)
    for term in (1, 2):
        agent.persist(term)
        agent.wait()
    agent.disk.rot(RECORD_NAME, SLOT_BYTES + 30)
    agent.open()
    assert agent.loaded.record == state(1)
    assert agent.loaded.note
