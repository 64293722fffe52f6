"""Members in the explored model: lost records, the next version, and what must hold of them."""

from dataclasses import replace

import pytest

from sim.explorer import invariants
from sim.explorer.config import CONFIGS, Config
from sim.explorer.members import advance, lose, order
from sim.explorer.model import Model
from sim.explorer.search import Search, settled, successors, tidy
from sim.explorer.state import FORGOTTEN, NOBODY, REPLACED, UNTOLD

SMALL = Config("small", "one election and one commit", terms=2)


def with_node(state, number, **changes):
    nodes = list(state.nodes)
    nodes[number] = nodes[number]._replace(**changes)
    return state._replace(nodes=tuple(nodes))


class TestMembers:
    """Steps and checks on states that were made by hand."""

    @pytest.fixture
    def model(self):
        return Model(
            replace(SMALL, orders=("voter", "remove"), changes=3, losses=1, losers=(2,), listed=1)
        )

    @pytest.fixture
    def healthy(self, model):
        return settled(model, model.first_state())

    def lost(self, model, state):
        return next(after for _, after in lose(model, state))

    def test_a_record_that_was_lost_counts_no_more(self, model, healthy):
        state = self.lost(model, healthy)
        past, fresh = state.nodes[2], state.nodes[3]
        assert (past.past, past.upstream) == (FORGOTTEN, UNTOLD)
        assert (fresh.name, fresh.upstream, fresh.data) == (2, 0, 2)
        assert not model.counts(3, fresh)
        listed = fresh._replace(document=past.document)
        assert model.is_member(listed)
        assert not model.counts(3, listed)
        assert model.counts(2, past)

    def test_a_replaced_host_goes_on_without_its_primary(self, healthy):
        model = Model(replace(SMALL, orders=("voter",), losses=1, losers=(2,), loses=("host",)))
        state = self.lost(model, settled(model, model.first_state()))
        past, fresh = state.nodes[2], state.nodes[3]
        assert (past.past, past.upstream) == (REPLACED, NOBODY)
        assert not model.has_data(fresh)
        assert model.promise(fresh, detached=True).position is None

    def test_production_takes_the_vote_before_it_lists_another_record(self, model, healthy):
        state = self.lost(model, healthy)
        proposed = [
            model.documents[after.nodes[0].document]
            for _, after in order(model, state)
            if model.documents[after.nodes[0].document].joining
        ]
        assert [document.voters for document in proposed] == [("n1", "n2")]
        assert proposed[0].record_of("n3").record_id == model.record_id(3)
        assert proposed[0].record_of("n3").since == proposed[0].ref

    def test_a_listed_member_is_not_let_go(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        for name, goes in (("n2", False), ("n3", True)):
            leaving = model.document(replace(base, version=2, leaving=(name,)))
            state = with_node(healthy, 0, document=leaving, acks=7)
            assert bool(list(advance(model, state))) is goes

    def test_another_version_waits_for_the_one_before(self, model, healthy):
        assert list(order(model, healthy))
        assert not list(order(model, with_node(healthy, 0, acks=1)))

    def test_majorities_that_share_no_record(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        alone = model.document(replace(base, version=2, voters=("n1",)))
        name, text = invariants.broken(model, with_node(healthy, 0, document=alone))
        assert name == "control_quorums_meet"
        assert "1.1 and 1.2" in text
        two = model.document(replace(base, version=2, voters=("n1", "n2"), learners=("n3",)))
        assert invariants.broken(model, with_node(healthy, 0, document=two)) is None

    def test_two_documents_with_one_reference(self, model, healthy):
        base = model.documents[healthy.nodes[0].document]
        one = model.document(replace(base, version=2, leaving=("n2",)))
        other = model.document(replace(base, version=2, leaving=("n3",)))
        state = with_node(with_node(healthy, 0, document=one), 1, document=other)
        assert invariants.broken(model, state)[0] == "one_leader_a_term"

    @pytest.mark.slow
    def test_names_mean_nothing_where_members_change(self):
        """What a state leads to, with the standbys renamed, is what the renamed state leads to."""
        config = replace(
            CONFIGS["member-removed"],
            orders=("voter", "learner", "remove"),
            losses=1,
            losers=(1, 2),
            loses=("record", "host"),
        )
        search = Search(config)
        model = search.model
        other = next(renaming for renaming in search._renamings if not renaming._same)
        level = [settled(model, model.first_state())]
        seen = set()
        while level and len(seen) < 300:
            state = tidy(model, level.pop(0))
            numbers = [search._nodes.number(node) for node in state.nodes]
            renamed = search.state(other.key(numbers, search._acked.number(state.acked)))
            after = [full for _, full in successors(model, state)]
            keys = {search.key(tidy(model, full)) for full in after}
            assert keys == {search.key(tidy(model, full)) for _, full in successors(model, renamed)}
            level += [full for full in after if search.key(full) not in seen]
            seen |= {search.key(full) for full in after}
        assert len(seen) >= 300
