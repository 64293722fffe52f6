"""The matrix without a cluster: which cells there are, what is played, and what a result says."""

import json

import pytest
import trio

from chaos.history import Kind, Operation, Outcome, Run, encode
from chaos.matrix.cells import (
    Cell,
    Hit,
    chosen,
    pairs,
    parse,
    quorums_left,
    roles,
    scenario,
    singles,
    timed,
)
from chaos.matrix.look import Look, Tail, longest_gap
from chaos.matrix.play import Matrix, MatrixOutcome
from chaos.matrix.table import CellResult, limit_ms, line, markdown, summary
from chaos.options import parser
from chaos.rig import RigOptions
from chaos.round import RoundResult
from chaos.verdict import Verdict
from sim.faults import Fault, checked
from sim.heap import NS_PER_MS
from sim.scenario import Cluster

THREE = Cluster()
FIVE = Cluster(names=("n1", "n2", "n3", "n4", "n5"))
TWO = Cluster(names=("n1", "n2", "w1"), witnesses=("w1",))
HOLD_MS = 2000


def cell(*names):
    return Cell(tuple(Hit(*name.split(".")) for name in names))


def names_of(cells):
    return [each.name for each in cells]


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize(("cluster", "count"), [(THREE, 64), (FIVE, 108), (TWO, 53)])
def test_each_part_of_each_node_is_hit_in_every_way_once(cluster, count):
    found = names_of(singles(cluster))
    assert len(found) == count
    assert len(set(found)) == count


def test_parts_are_those_that_a_role_has():
    found = names_of(singles(TWO))
    assert "primary.sender.kill" in found
    assert "primary.receiver.kill" not in found
    assert "standby1.startup.stop" in found
    assert "witness1.host.cut-in" in found
    assert "witness1.postgres.kill" not in found
    assert "standby2.agent.kill" not in found


def test_pairs_are_drawn_by_the_seed_and_none_comes_twice():
    found = names_of(pairs(THREE, 7, 10_000))
    assert len(set(found)) == len(found) > 1500
    assert names_of(pairs(THREE, 7, 20)) == found[:20]
    assert names_of(pairs(THREE, 8, 20)) != found[:20]


def test_no_pair_hits_a_part_twice_or_a_host_and_what_is_on_it():
    for each in pairs(THREE, 1, 10_000):
        one, other = each.hits
        if one.role == other.role:
            assert one.part != other.part
            assert not {one.name, other.name} & {f"{one.role}.host.kill", f"{one.role}.host.stop"}


def test_a_cell_by_itself_is_the_cell_in_its_row():
    name = pairs(THREE, 3, 1)[0].name
    alone = parse(name, names_of(singles(THREE)))
    assert alone == pairs(THREE, 3, 1)[0]
    assert timed(alone, 3, HOLD_MS) == timed(pairs(THREE, 3, 1)[0], 3, HOLD_MS)


def test_cells_are_chosen_by_name_or_from_one_on():
    cells = singles(THREE)
    assert chosen(cells, only=("primary.host.kill",), first=None) == (cell("primary.host.kill"),)
    rest = chosen(cells, only=(), first="standby2.host.cut-in")
    assert names_of(rest) == ["standby2.host.cut-in", "standby2.host.cut-out"]
    assert chosen(cells, only=(), first=None) == cells


@pytest.mark.parametrize("wanted", [{"only": ("primary.x.kill",)}, {"first": "standby9.host.kill"}])
def test_a_cell_that_is_not_there_is_named(wanted):
    with pytest.raises(ValueError, match="no cell is called"):
        chosen(singles(THREE), **{"only": (), "first": None, **wanted})


def test_hits_last_between_a_hold_and_two_and_a_half_and_are_not_far_apart():
    for each in pairs(THREE, 5, 200):
        for found in timed(each, 5, HOLD_MS):
            if found.hit.lasts:
                assert HOLD_MS <= found.for_ns / NS_PER_MS <= 2.5 * HOLD_MS
            else:
                assert found.for_ns == 0
            assert found.at_ns / NS_PER_MS <= 0.5 * HOLD_MS


@pytest.mark.parametrize("cluster", [THREE, FIVE, TWO])
def test_every_step_of_every_cell_is_a_fault_with_the_right_arguments(cluster):
    who = roles(cluster, "n1")
    for each in singles(cluster):
        played = scenario(each, timed(each, 1, HOLD_MS), who)
        (step,) = played.timeline
        fault = Fault.make(step.when.low_ns, step.do, dict(step.args))
        assert checked(fault.to_json()).get("node") == (who[each.hits[0].role],)
        assert step.when.low_ns + (fault.for_ns or 0) < played.duration_ns


def test_roles_follow_the_primary():
    assert roles(TWO, "n2") == {"primary": "n2", "standby1": "n1", "witness1": "w1"}
    assert roles(THREE, "n2") == {"primary": "n2", "standby1": "n1", "standby2": "n3"}


@pytest.mark.parametrize(
    ("cluster", "hits", "left"),
    [
        (THREE, ("primary.host.kill",), True),
        (THREE, ("primary.host.kill", "standby1.agent.stop"), False),
        (THREE, ("primary.host.kill", "standby1.proxy.stop"), True),
        (THREE, ("primary.agent.kill", "primary.postgres.stop"), True),
        (TWO, ("primary.host.kill",), True),
        (TWO, ("primary.host.kill", "witness1.agent.kill"), False),
        (TWO, ("standby1.host.kill",), True),
        # Of five, a commit is on two: it may be on those two that are away.
        (FIVE, ("primary.host.kill", "standby1.host.kill"), False),
        (FIVE, ("primary.host.kill", "standby1.backend.stop"), True),
    ],
)
def test_quorums_are_counted_without_those_that_are_hit(cluster, hits, left):
    assert quorums_left(cell(*hits), cluster, roles(cluster, "n1")) is left


# ---------------------------------------------------------------- a first look


def test_a_gap_begins_with_the_acknowledgement_before_the_hit():
    found = longest_gap([1.0, 2.0, 2.1, 5.0, 5.1], 2.2, 5.2)
    assert (found.begin_s, found.end_s) == (2.1, 5.0)
    assert found.total_s == pytest.approx(2.9)


def test_a_gap_that_has_not_ended_lasts_until_now():
    assert longest_gap([1.0, 2.0], 2.5, 9.0).seconds == pytest.approx(7.0)
    assert longest_gap([], 2.5, 9.0).seconds == pytest.approx(6.5)


def test_all_gaps_of_more_than_half_a_second_are_summed():
    found = longest_gap([0.0, 1.0, 1.1, 3.1, 3.2], 0.0, 3.3)
    assert found.seconds == pytest.approx(2.0)
    assert found.total_s == pytest.approx(3.0)


RUN = Run(0.0, "abcd", "t", 1, "default", ("n1", "n2", "n3"), "", 0.0)


def write(value, begin, end, **changes):
    server = changes.pop("server", "10.77.0.11")
    return Operation(
        *(end, "c1", "proxy:n1", Kind.APPEND, (1,), (value,), begin, end),
        changes.pop("outcome", Outcome.OK),
        server=server,
        timeline=changes.pop("timeline", 1),
    )


@pytest.fixture
def look(tmp_path):
    path = tmp_path / "client-c1.jsonl"
    found = Look(RUN, [path])

    def tell(*operations, torn=""):
        with path.open("a", encoding="utf-8") as out:
            out.writelines(encode(each) + "\n" for each in operations)
            out.write(torn)
        found.read()
        return found

    return tell


def test_a_line_is_read_once_and_not_before_it_is_whole(tmp_path):
    path = tmp_path / "client-c1.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    first, second = encode(write("c1-1", 1, 2)), encode(write("c1-2", 2, 3))
    path.write_text(f"{first}\n{second[:20]}")
    assert [each.values for each in tail.new()] == [("c1-1",)]
    path.write_text(f"{first}\n{second}\n")
    assert [each.values for each in tail.new()] == [("c1-2",)]
    assert tail.new() == []


def test_an_acknowledged_value_that_the_primary_lacks_is_lost(look):
    found = look(write("c1-1", 1, 2), write("c1-2", 2, 3))
    assert found.findings(found.expected, ["c1-1", "c1-2", "c1-3"]) == []
    assert [each.check for each in found.findings(found.expected, ["c1-2"])] == ["lost"]


def test_a_value_of_an_earlier_cell_stays_expected(look):
    found = look(write("c1-1", 1, 2))
    found.next_cell()
    found.next_cell()
    found = look(write("c1-2", 3, 4))
    assert [each.check for each in found.findings(found.expected, ["c1-2"])] == ["lost"]


def test_what_was_not_acknowledged_may_be_missing(look):
    found = look(write("c1-1", 1, 2, outcome=Outcome.UNKNOWN))
    assert found.findings(found.expected, []) == []


def test_two_that_acknowledge_at_once_are_found(look):
    one = [write("c1-1", 1, 2), write("c1-3", 5, 6)]
    other = [write(f"c2-{n}", 2 + n, 3 + n, server="10.77.0.12", timeline=2) for n in range(4)]
    found = look(*one, *other)
    checks = {each.check for each in found.findings(frozenset(), [])}
    assert checks == {"two_acknowledge"}


def test_writes_count_from_a_moment_on(look):
    found = look(write("c1-1", 1, 2))
    assert found.acknowledged_since(0.5)
    assert not found.acknowledged_since(1.5)


# ---------------------------------------------------------------- results


def result(**changes):
    given = {
        "cell": cell("primary.host.kill"),
        "times": timed(cell("primary.host.kill"), 1, HOLD_MS),
        "faults": ("kill n1 for 3s",),
        "cluster": 1,
        "begin_s": 10.0,
        "lift_s": 14.0,
        "whole_s": 2.0,
        "outage_s": 3.0,
        "blocked_s": 3.0,
        "outage_end_s": 13.5,
        "quorums": True,
        "before": "n1",
        "after": "n2",
        "promoted": True,
        "violations": (),
        "limit_ms": limit_ms(HOLD_MS),
    }
    return CellResult(**{**given, **changes})


def test_an_outage_within_two_holds_and_an_election_is_expected():
    assert limit_ms(HOLD_MS) == 7000
    assert result(outage_s=7.0).ok
    assert not result(outage_s=7.1).ok
    assert not result(outage_s=7.1).broken


def test_without_both_quorums_the_outage_counts_from_the_end_of_the_hits():
    found = result(outage_s=9.0, outage_end_s=19.0, quorums=False)
    assert found.judged_ms == 5000
    assert found.ok
    assert not result(outage_s=12.0, outage_end_s=22.0, quorums=False).ok
    assert result(outage_s=0.1, outage_end_s=12.0, quorums=False).judged_ms == 0


@pytest.mark.parametrize(
    "changes", [{"violations": ("lost: 1",)}, {"whole_s": None}, {"after": ""}]
)
def test_a_cluster_that_is_not_whole_is_not_used_on(changes):
    assert result(**changes).broken
    assert not result(**changes).ok


def test_a_result_says_what_is_wrong_with_it():
    text = line(result(violations=("lost: 1",), whole_s=None, outage_s=8.0))
    assert "lost: 1; NOT WHOLE AGAIN; LONG: 8000 ms, 7000 expected" in text
    assert "1 found nothing to hit" in line(result(faults=()))


def test_tables_have_a_line_for_each_cell_and_one_for_each_part():
    results = [
        result(),
        result(cell=cell("standby1.agent.stop"), outage_s=0.1, promoted=False),
        result(cell=cell("standby2.agent.stop"), outage_s=0.3, promoted=False),
        result(cell=cell("primary.host.kill", "standby1.agent.stop")),
    ]
    assert len(markdown(results).splitlines()) == 2 + 4
    assert summary(results).splitlines() == [
        "| hit | kill | stop |",
        "|---|--:|--:|",
        "| primary host | 3000 * |  |",
        "| standby agent |  | 300 |",
    ]


def test_a_result_is_plain_json():
    found = json.loads(json.dumps(result().as_json()))
    assert found["cell"] == "primary.host.kill"
    assert found["outage_ms"] == found["judged_ms"] == 3000
    assert found["ok"] is True


def test_the_command_line_has_cells_pairs_and_a_beginning():
    options = parser().parse_args(["--matrix", "--pairs", "5", "--first", "a", "--only", "b"])
    assert (options.matrix, options.pairs, options.first, options.only) == (True, 5, "a", ["b"])


# ---------------------------------------------------------------- a whole run, on clusters of air


class Air(Matrix):
    """Plays nothing: each cell has the result that it is given."""

    def __init__(self, directory, results, **changes):
        self.given = {each.cell.name: each for each in results}
        self.clusters = 0
        self.said = []
        options = {"minutes": 0.0, "again": "play", "say": self.said.append, **changes}
        cells = [each.cell for each in results]
        super().__init__(cells, RigOptions(), directory, **options)

    async def _one(self, rig, look, found):
        return self.given[found.name]


class Rig:
    class clients:
        parts = ()

        @staticmethod
        def failures():
            return []


@pytest.fixture
def played(tmp_path, monkeypatch):
    def play(*results, findings=()):
        matrix = Air(tmp_path, results)

        class Session:
            stopped_by = 0

            def __init__(self, options, directory, say):
                self.directory = directory
                rig = Rig()
                rig.directory = directory
                (directory / "rig.jsonl").write_text(encode(RUN) + "\n")
                self.rig = rig

            async def run(self, play):
                await play(self.rig)
                judged = {"ok": not findings, "violations": list(findings)}
                return Verdict(self.directory, (RoundResult("x", 1, (), 0.0),), "text", judged)

        async def begun(rig, look):
            """Nobody writes here."""

        monkeypatch.setattr("chaos.matrix.play.begun", begun)
        monkeypatch.setattr("chaos.matrix.play.Session", Session)
        trio.run(matrix.main)
        return matrix

    return play


def three(**second):
    return (
        result(begin_s=10.0),
        result(cell=cell("primary.agent.kill"), begin_s=20.0, **second),
        result(cell=cell("primary.guard.kill"), begin_s=30.0),
    )


def test_one_cluster_serves_for_all_cells_as_long_as_it_is_whole(played, tmp_path):
    matrix = played(*three())
    assert isinstance(matrix.outcome, MatrixOutcome)
    assert matrix.outcome.ok
    assert len(matrix.outcome.verdicts) == 1
    assert len(json.loads((tmp_path / "matrix.json").read_text())) == 3


def test_a_cluster_that_is_not_whole_is_left_and_its_cell_told_how_to_be_played_alone(played):
    matrix = played(*three(whole_s=None))
    assert len(matrix.outcome.verdicts) == 2
    assert not matrix.outcome.ok
    assert [each.directory.name for each in matrix.outcome.verdicts] == ["cluster-1", "cluster-2"]
    assert "        again: play --only primary.agent.kill" in matrix.said
    assert "    again: play --only primary.agent.kill" in matrix.outcome.lines()


def test_a_long_outage_is_told_and_leaves_the_cluster_in_use(played):
    matrix = played(*three(outage_s=9.0))
    assert len(matrix.outcome.verdicts) == 1
    assert not matrix.outcome.ok


def test_what_the_checker_finds_is_told_beside_the_cell_in_whose_time_it_lies(played):
    finding = {"check": "lost", "text": "c1-7 is missing", "evidence": ["21.500–22.000: c1 …"]}
    matrix = played(*three(), findings=[finding])
    assert [each.violations for each in matrix.outcome.results] == [
        (),
        ("lost: c1-7 is missing",),
        (),
    ]
    assert not matrix.outcome.ok
