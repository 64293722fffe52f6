"""The exam after the peace: a plain loss of the primary, a failover in time, a whole core again."""

import pytest

from metako.model.ids import NodeId
from sim.exam import TAKEN, Loss, take_exam
from sim.play import play
from sim.scenario import load_scenario
from sim.settled import document, settled
from sim.streams import stream
from sim.watch import ViolationError, Watcher

FIRST = 100


class Faults(Watcher):
    def __init__(self):
        self.told = []

    def fault_began(self, number, fault, text, nodes):
        self.told.append((number, text, nodes))


def seed_of(loss):
    """Return a seed whose exam is this one."""
    for seed in range(1000):
        rng = stream(seed, "exam")
        if rng.random() < TAKEN and rng.choice(list(Loss)) is loss:
            return seed
    raise AssertionError(loss)


def exam(world, loss):
    faults, wholes = Faults(), []
    world.watch.add(faults)
    take_exam(seed_of(loss), world, FIRST, world.names, lambda: wholes.append(world.primary()))
    return faults.told, wholes


@pytest.mark.parametrize("loss", Loss)
def test_the_primary_is_lost_and_replaced_and_all_have_to_be_whole_again(loss):
    world = settled()
    told, wholes = exam(world, loss)
    assert len(told) == 1
    assert told[0][0] == FIRST
    assert told[0][1].startswith("exam: ")
    assert told[0][2] == ("a",)
    assert document(world).term == 2
    assert wholes == [document(world).primary]
    assert wholes[0] != "a" or loss is Loss.POSTGRES


def test_a_failover_that_does_not_come_is_a_violation():
    world = settled()
    for name in ("b", "c"):
        world.nodes[NodeId(name)].pause_agent()
    with pytest.raises(ViolationError, match="slow_failover"):
        exam(world, Loss.HOST)


def test_who_cannot_do_without_the_primary_takes_no_exam():
    assert exam(settled("ab"), Loss.HOST) == ([], [])


def test_a_replay_of_the_faults_takes_the_same_exam():
    scenario = load_scenario("calm")
    seed = seed_of(Loss.CUT_OFF)
    result = play(scenario, seed, extra_faults=True)
    assert result.violation is None
    assert "exam_passed" in result.marks
    again = play(scenario, seed, faults=result.faults, extra_faults=True)
    facts = [(r.virtual_ns, r.messages, r.acknowledged, r.marks) for r in (result, again)]
    assert facts[0] == facts[1]


def test_a_fault_that_waits_for_its_moment_is_over_with_the_peace():
    """A write that was to be torn took a host away in the middle of the exam."""
    result = play(load_scenario("forgotten-slot-fills-disk"), 1210, extra_faults=True)
    assert any(fault.do == "torn_write" for fault in result.faults)
    assert "exam_passed" in result.marks
    assert result.violation is None
