"""Two voters without a witness: what a file may ask for, and what is said of it."""

import pytest

from metako.config import load
from metako.model.document import PairMode
from metako.model.errors import ConfigError
from metako.runtime.settings import node_settings

PAIR = """\
node: {name: n1}
cluster:
  bootstrap_node: n1
  members:
    - {name: n1, host: 10.0.0.1}
    - {name: n2, host: 10.0.0.2}
"""
WITNESS = "    - {name: w, host: 10.0.0.3, witness: true}\n"


@pytest.fixture
def loaded(tmp_path):
    def _loaded(text, cluster=""):
        path = tmp_path / "node.yaml"
        path.write_text(text.replace("  bootstrap_node", f"{cluster}  bootstrap_node"))
        return load(path, environ={})

    return _loaded


def about(config, *keys):
    return [note for note in config.notes if note.startswith(keys)]


def test_an_unchosen_mode_is_explained_and_a_witness_recommended(loaded):
    config = loaded(PAIR)
    (note,) = about(config, "cluster.pair_mode: not chosen")
    assert "`manual` is in force" in note
    assert "`manual`: the primary goes on alone" in note
    assert "`takeover`: the synchronous standby takes over alone" in note
    assert "a witness as a third member" in note
    assert node_settings(config).cluster.pair_mode is PairMode.MANUAL


@pytest.mark.parametrize("mode", list(PairMode))
def test_a_chosen_mode_needs_no_remark(loaded, mode):
    config = loaded(PAIR, f"  pair_mode: {mode}\n")
    assert config.cluster.pair_mode is mode
    assert about(config, "cluster.", "durability.") == []
    assert about(loaded(PAIR + WITNESS), "cluster.") == []


@pytest.mark.parametrize("more", [WITNESS, "    - {name: n3, host: 10.0.0.3}\n"])
def test_a_mode_has_no_effect_with_three_voters(loaded, more):
    config = loaded(PAIR + more, "  pair_mode: takeover\n")
    (note,) = about(config, "cluster.pair_mode")
    assert "takeover has no effect" in note


def test_a_learner_makes_no_third_voter(loaded):
    learner = "    - {name: n3, host: 10.0.0.3, learner: true}\n"
    assert about(loaded(PAIR + learner), "cluster.pair_mode: not chosen")


def test_a_server_and_a_witness_are_no_pair(loaded):
    half = "".join(PAIR.splitlines(keepends=True)[:-1])
    config = loaded(half + WITNESS, "  pair_mode: manual\n")
    assert any("manual has no effect" in note for note in config.notes)
    assert any("nobody leads without both" in note for note in config.notes)


@pytest.mark.parametrize("key", ["takeover_delay: 3s", "takeover_failures: 5"])
def test_what_belongs_to_takeover_has_no_effect_without_it(loaded, key):
    name = key.partition(":")[0]
    for chosen in ("", "  pair_mode: manual\n"):
        notes = about(loaded(PAIR, f"{chosen}  {key}\n"), f"cluster.{name}: ")
        assert notes == [f"cluster.{name}: has no effect without cluster.pair_mode: takeover"]
    assert about(loaded(PAIR, f"  pair_mode: takeover\n  {key}\n"), f"cluster.{name}") == []


def test_takeover_with_strict_is_refused(loaded):
    strict = PAIR + "durability: {mode: strict}\n"
    with pytest.raises(ConfigError) as caught:
        loaded(strict, "  pair_mode: takeover\n")
    assert "node.yaml:3: cluster.pair_mode: takeover with durability strict" in str(caught.value)
    manual = loaded(strict, "  pair_mode: manual\n")
    assert any("while it is lost commits wait" in note for note in manual.notes)
    # With a witness nobody takes over alone, so nothing is wrong with either.
    assert loaded(strict.replace("durability", f"{WITNESS}durability"), "  pair_mode: takeover\n")


def test_takeover_with_async_is_said_to_be_manual(loaded):
    config = loaded(PAIR + "durability: {mode: async}\n", "  pair_mode: takeover\n")
    (note,) = about(config, "cluster.pair_mode")
    assert "never happens with durability async" in note


def test_two_votes_wanted_of_two_are_said_to_end_the_rule(loaded):
    config = loaded(PAIR, "  pair_mode: takeover\n  min_votes: 2\n")
    (note,) = about(config, "cluster.min_votes")
    assert "nobody is elected by its own vote" in note


def test_takeover_may_be_told_not_to_wait_beyond_the_hold(loaded):
    config = loaded(PAIR, "  pair_mode: takeover\n  takeover_delay: 0s\n")
    assert node_settings(config).cluster.takeover_wait_ms == 0
    failures = "  pair_mode: takeover\n  takeover_delay: 0s\n  takeover_failures: 12\n"
    assert node_settings(loaded(PAIR, failures)).cluster.takeover_wait_ms == 12 * 250 - 2000
