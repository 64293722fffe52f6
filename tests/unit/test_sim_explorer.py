"""Exhaustive exploration: it ends, it is the same each time, and it notices each missing rule."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from metako.model.document import Phase
from metako.model.ids import Term, TimelineId
from metako.model.timeline import TimelineEntry
from sim.cli.app import build_app
from sim.explorer import invariants
from sim.explorer.config import CONFIGS, FULL, Config
from sim.explorer.model import Model
from sim.explorer.narrate import LINES
from sim.explorer.rules import RULES
from sim.explorer.search import Search, settled, successors
from sim.explorer.state import (
    CLOSED,
    NOBODY,
    OPEN,
    STANDBY,
    Record,
    State,
    holds,
    shared,
)

SMALL = Config("small", "one election and one commit", terms=2)

# The configuration in which the absence of each rule is noticed within a second or two.
NOTICED_IN = {
    "catch-up-uncounted": "catch-up",
    "follow-in-office": "five",
    "keep-change": "incumbent-sync-set",
    "remove-postgres-first": "sync-set",
    "add-document-first": "sync-set",
    "raise-postgres-first": "sync-set",
    "lower-document-first": "k-raised",
    "barrier": "sync-set",
    "barrier-position-last": "sync-set",
    "fresh-answers": "two-records",
    "lost-record-silent": "record-lost",
    "lost-vote-untold": "two-voters",
    "stranger-stands-down": "two-candidates",
    "one-version-at-a-time": "to-one-voter",
    "one-vote-at-a-time": "to-one-voter",
    "new-voters-too": "record-lost",
    "unlisted-first": "member-removed",
    "one-server-a-name": "replaced-listed",
    "votes-of-this-term": "two-branches",
    "readmit-unlisted": "learner",
    "decider-grants": "pair-takeover",
    "vote-ends-right": "pair-manual",
    "right-by-committed": "pair-takeover",
    "resumed-asks-both": "pair-takeover",
}
READMITTED = (
    ("member", 0, 2),
    ("accept", 3, 0, 2),
    ("accept", 4, 0, 2),
    ("accept", 5, 0, 2),
    ("advance", 0, 3),
    ("accept", 3, 0, 3),
)
FURTHER = {"fresh-answers": READMITTED, "lost-vote-untold": READMITTED}
"""Steps after the opening of the configuration, where the counterexample is long."""
STEPS = {
    "fresh-answers": 17,
    "lost-record-silent": 9,
    "lost-vote-untold": 18,
    "stranger-stands-down": 14,
    "one-version-at-a-time": 4,
    "one-vote-at-a-time": 5,
    "new-voters-too": 4,
    "unlisted-first": 5,
    "one-server-a-name": 14,
    "votes-of-this-term": 16,
    "readmit-unlisted": 12,
}
"""Of the shortest counterexample, its opening included; of those not named here 2 to 14."""
STATES_MAX = 20_000


def command(*arguments):
    return CliRunner().invoke(build_app(), ["explore", *arguments], prog_name="python -m sim")


@pytest.fixture
def model():
    return Model(SMALL)


@pytest.fixture
def healthy(model):
    return settled(model, model.first_state())


def with_node(state, number, **changes):
    nodes = list(state.nodes)
    nodes[number] = nodes[number]._replace(**changes)
    return state._replace(nodes=tuple(nodes))


def wal(model, *records):
    return model.wals.number(tuple(Record(*record) for record in records))


FIRST = (1, 1, 0)


class TestRules:
    @pytest.mark.parametrize("config", [SMALL, replace(SMALL, nodes=1, listed=0, acks=0)])
    def test_with_all_rules_no_promise_is_broken(self, config):
        explored = Search(config).run()
        assert explored.ok
        assert explored.taken["promote"] > 1
        assert explored.found is None

    @pytest.mark.slow
    @pytest.mark.parametrize("rule", RULES)
    def test_without_one_rule_a_promise_is_broken(self, rule):
        config = CONFIGS[NOTICED_IN.get(rule, "elections")]
        config = replace(config, opening=(*config.opening, *FURTHER.get(rule, ())))
        explored = Search(config, [rule]).run(states_max=STATES_MAX)
        assert explored.found is not None
        assert not explored.ok
        assert explored.found.text
        steps = len(explored.found.steps)
        assert steps == STEPS.get(rule, steps)
        assert 2 <= steps <= STEPS.get(rule, 14)

    def test_a_lost_vote_elects_two_leaders(self):
        explored = Search(replace(SMALL, terms=2), ["durable-vote"]).run()
        assert explored.found.check == "one_leader_a_term"
        assert any("forgotten its promise" in step for step in explored.found.steps)

    def test_too_many_states_are_no_proof(self):
        explored = Search(SMALL).run(states_max=100)
        assert not explored.complete
        assert not explored.ok


class TestSearch:
    def test_two_explorations_are_the_same(self):
        assert Search(SMALL).run() == Search(SMALL).run()
        rule = ["full-data-quorum"]
        assert Search(SMALL, rule).run() == Search(SMALL, rule).run()

    def test_states_that_differ_in_names_only_are_one(self, model, healthy):
        search = Search(SMALL)
        one = with_node(settled(search.model, search.model.first_state()), 1, upstream=NOBODY)
        other = with_node(settled(search.model, search.model.first_state()), 2, upstream=NOBODY)
        assert one != other
        assert search.key(one) == search.key(other)
        assert search.key(with_node(one, 2, upstream=NOBODY)) != search.key(one)

    def test_a_state_comes_back_from_its_key_up_to_names(self):
        search = Search(SMALL)
        for _, after in successors(search.model, search.model.first_state()):
            key = search.key(after)
            assert search.key(search.state(key)) == key

    def test_progress_is_told(self):
        told = []
        Search(replace(SMALL, commits=(2, 2))).run(lambda *numbers: told.append(numbers))
        assert told
        assert all(explored <= known for explored, known, _ in told)

    @pytest.mark.slow
    def test_every_action_is_taken(self):
        taken = set()
        for config in (
            replace(SMALL, changes=1, copies=True),
            replace(SMALL, terms=3, stands_again=True),
            replace(CONFIGS["member-added"], losses=1, losers=(1, 2), loses=("record", "host")),
            CONFIGS["catch-up"],
            CONFIGS["pair-takeover"],
        ):
            states_max = 3_000 if config.losses else 12_000
            taken |= set(Search(config).run(states_max=states_max).taken)
        assert taken == set(LINES) - {"forget", "catch up as itself"}  # by rules not kept

    def test_configurations_have_wider_bounds(self):
        assert set(FULL) == set(CONFIGS)
        assert all(FULL[name] != CONFIGS[name] for name in CONFIGS)
        assert all(config.about for config in FULL.values())


class TestInvariants:
    """Each one on a state that was made by hand."""

    def broken(self, model, state):
        name, text = invariants.broken(model, state)
        assert text == invariants.CHECKS[name](model, state)
        return name

    def test_nothing_is_wrong_with_a_healthy_cluster(self, model, healthy):
        assert healthy.acked == (((1, 0), 1),)
        assert invariants.broken(model, healthy) is None

    def test_a_later_primary_without_an_acknowledged_commit(self, model, healthy):
        state = with_node(healthy, 0, server=STANDBY, wal=wal(model, FIRST, FIRST))
        state = with_node(state, 1, server=CLOSED, wal=wal(model, FIRST, (2, 2, 1)))
        state = state._replace(acked=(((1, 0), 2),))
        assert self.broken(model, state) == "acknowledged_is_kept"

    def test_two_servers_that_can_acknowledge(self, model, healthy):
        state = with_node(healthy, 1, server=CLOSED, upstream=NOBODY)
        state = with_node(state, 1, wal=wal(model, FIRST, (2, 2, 1)))
        assert self.broken(model, state) == "one_acknowledges"
        assert invariants.broken(model, with_node(state, 2, upstream=NOBODY)) is None

    @pytest.mark.parametrize("behind", [(1, 2), (0,)])
    def test_a_data_quorum_without_an_acknowledged_commit(self, model, healthy, behind):
        state = healthy._replace(acked=(((1, 0), 2),))
        for number in range(3):
            records = (FIRST,) if number in behind else (FIRST, FIRST)
            state = with_node(state, number, wal=wal(model, *records))
        assert self.broken(model, state) == "data_quorums_cover"

    def test_a_document_that_nobody_can_judge_by_is_not_looked_at(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        empty = model.document(replace(base, version=2, sync=model.sync_set((0, 0))))
        state = with_node(healthy, 0, wal=wal(model, FIRST, FIRST), document=empty)
        state = state._replace(acked=(((1, 0), 2),))
        assert self.broken(model, state) == "data_quorums_cover"
        assert invariants.broken(model, with_node(state, 1, document=empty)) is None

    def test_two_leaders_of_a_term(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        state = healthy
        for number in (1, 2):
            document = replace(
                base, term=Term(2), version=2, phase=Phase.PROMOTING, primary=model.names[number]
            )
            state = with_node(state, number, document=model.document(document))
        assert self.broken(model, state) == "one_leader_a_term"

    def test_a_timeline_written_by_two(self, model, healthy):
        state = with_node(healthy, 1, wal=wal(model, FIRST, (2, 2, 1)))
        state = with_node(state, 2, wal=wal(model, FIRST, (2, 3, 2)))
        assert self.broken(model, state) == "timelines_are_unique"

    def test_a_record_that_goes_back(self, model, healthy):
        voted = with_node(healthy, 1, promised=2, vote=2)
        assert invariants.nothing_goes_back(model, healthy, voted) is None
        higher = with_node(healthy, 1, promised=3, vote=NOBODY)
        assert invariants.nothing_goes_back(model, voted, higher) is None
        for after in (healthy, with_node(voted, 1, vote=0), with_node(voted, 1, vote=NOBODY)):
            assert invariants.nothing_goes_back(model, voted, after) is not None


class TestModel:
    def test_servers_see_timelines_and_no_branches(self):
        one = (Record(1, 1, 0), Record(2, 2, 1))
        other = (Record(1, 1, 0), Record(2, 3, 2))
        assert shared(one, other) == 2
        assert holds(one, (2, 1), 2)
        assert not holds(other, (2, 1), 2)

    def test_a_position_off_the_history_does_not_count(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        fork = TimelineEntry(Term(2), TimelineId(2), TimelineId(1), begin_lsn=1)
        forked = model.document(
            replace(base, term=Term(2), version=2, timelines=(*base.timelines, fork))
        )
        at_the_fork, ahead = healthy.nodes[1].wal, wal(model, FIRST, FIRST)
        assert model.astray(forked, ahead)
        assert not model.astray(forked, at_the_fork)
        beyond = wal(model, FIRST, FIRST, (3, 3, 1))
        assert model.ranked(forked, beyond) is None
        node = healthy.nodes[1]._replace(document=forked, wal=beyond)
        answer = model.promise(node, detached=True)
        assert answer.position is None
        assert not answer.can_lead

    def test_a_deposed_primary_goes_on_and_acknowledges_nothing(self, model, healthy):
        state = with_node(healthy, 1, promised=2, vote=1, upstream=NOBODY)
        state = with_node(state, 2, promised=2, vote=1, upstream=NOBODY)
        writes = [after for step, after in successors(model, state) if step[0] == "write"]
        assert [after.acked for after in writes] == [healthy.acked]
        assert writes[0].nodes[0].server == OPEN

    def test_the_first_state_is_settled(self, model, healthy):
        assert isinstance(healthy, State)
        assert [node.upstream for node in healthy.nodes] == [NOBODY, 0, 0]


class TestCommand:
    def test_lists(self):
        result = command("--list")
        assert result.exit_code == 0
        assert "elections" in result.output
        data = json.loads(command("--list", "--json").output)
        assert set(data) == {"configs", "rules"}
        assert data["rules"] == RULES

    def test_a_broken_promise_is_told_with_its_steps(self):
        result = command("--config", "sync-set", "--without", "barrier")
        assert result.exit_code == 1
        assert "BROKEN: data_quorums_cover" in result.output
        steps = [line for line in result.output.splitlines() if line.startswith("  1. ")]
        assert steps[0].startswith("  1. n1's server")
        assert "acknowledges up to commit 2" in result.output

    def test_json(self):
        arguments = ("--without", "data-quorum", "--json")
        result = command(*arguments)
        assert result.exit_code == 1
        data = json.loads(result.stdout)
        assert data["ok"] is False
        explored = data["explored"][0]
        assert explored["config"] == "elections"
        assert explored["found"]["check"] == "one_acknowledges"
        assert explored["states"] > 0

    def test_no_broken_promise_is_a_success(self, monkeypatch):
        monkeypatch.setitem(CONFIGS, "k2", replace(SMALL, name="k2"))
        result = command("--config", "k2")
        assert result.exit_code == 0
        assert "k2: no promise is broken" in result.output

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (("--config", "election"), "did you mean 'elections'?"),
            (("--without", "barier"), "did you mean 'barrier'?"),
            (("--depth", "3"), "No such option: --depth"),
        ],
    )
    def test_wrong_arguments(self, arguments, hint):
        result = command(*arguments)
        assert result.exit_code == 2
        assert hint in result.output
