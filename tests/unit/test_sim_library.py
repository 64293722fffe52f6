"""The library of scenarios, played: each does what its file expects, with its own faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.play import play
from sim.result import Result
from sim.scenario import library_names, load_run, load_scenario, save_run

DEFAULT_SEED = 1
NOT_YET: dict[str, str] = {}
"""Scenarios whose expectation is right and that the engine does not meet yet."""
RULES = (
    ("freshest-standby-answers-late", "better_ignored", "no_recovery"),
    ("newest-standby-cannot-lead", "never_catches_up", "no_recovery"),
    ("newest-standby-has-no-vote", "never_catches_up", "expected"),
    ("newest-standby-cannot-lead", "source_position_taken", "lost_write"),
    ("strict-cut-off-and-nobody-better", "stepped_down_unproved", "expected"),
    ("strict-standbys-slow", "slow_standbys_depose", "expected"),
    ("strict-primary-cut-off-from-standbys", "hold_opposes_sounding", "expected"),
    ("stopped-while-it-hangs", "released_while_stopping", "promise_broken"),
    ("late-releases", "stale_release_heard", "beyond_lease"),
    ("cut-off-after-its-agent-restarted", "resumed_too_long", "beyond_lease"),
    ("witness-cut-off-for-a-while", "suspicion_irrefutable", "wrongly_dead"),
    ("answers-to-an-earlier-agent", "acks_of_former_boot", "beyond_lease"),
    ("office-never-held", "office_without_limit", "no_recovery"),
    ("promotion-outlives-its-agent", "disarmed_on_stale_picture", "guarded_promotion"),
    ("routes-end-with-what-an-agent-heard", "route_valid_from_now", "stale_route"),
    ("crashed-primary-cannot-recover-alone", "rewind_failed_forgotten", "not_converged"),
    ("one-of-two-lost", "accuses_only_with_nacks", "death_unnoticed"),
    ("sick-and-well-again", "health_not_regained", "death_unnoticed"),
    ("sick-and-well-again", "death_not_shown", "death_unnoticed"),
    ("suspended-and-well-again", "suspend_never_over", "death_unnoticed"),
    ("incumbent-stands-again", "fence_refuses_next_term", "fenced_in_vain"),
    ("promotion-cut-short-old-primary-ahead", "confirmed_is_unknown", "no_recovery"),
    ("postgres-hung", "hung_server_kept", "expected"),
    ("postgres-frozen", "hung_server_kept", "no_recovery"),
    ("incumbent-stands-again", "incumbent_without_committed", "expected"),
    ("incumbent-stands-again", "incumbent_without_lease", "expected"),
    ("strict-standby-cloned", "strict_through_empty", "strict_lowered"),
    ("foreign-that-does-not-start", "foreign_taken_over", "foreign_replaced"),
    ("lagging-standby-and-crashed-primary", "old_primary_ahead", "lost_write"),
    ("learner-misses-a-failover", "learners_left_behind", "not_converged"),
    ("hung-standby-answers", "any_detach_will_do", "promise_untrue"),
    ("stale-record-when-the-primary-is-lost", "voter_not_brought_up_to_date", "no_recovery"),
    ("standby-knows-a-timeline-that-came-to-nothing", "stray_standby_repointed", "not_converged"),
    ("late-answers-then-cut-off", "lease_from_newest_round", "beyond_lease"),
    ("short-break-of-the-last-standby", "no_grace_if_any_is_dead", "expected"),
    ("switchover", "intent_not_dropped", "expected"),
    ("switchover-cancelled", "standbys_let_go_at_planned_end", "switchover_rewound"),
    ("switchover-answers-lost", "answers_forgotten", "order_twice"),
    ("switchover-answers-lost", "order_given_to_the_next", "order_twice"),
    ("switchover-long-way-to-target", "heir_without_head_start", "expected"),
    ("switchover-of-two", "own_lease_held_for", "expected"),
    ("switchover-target-stands-still", "target_not_confirmed", "expected"),
    ("switchover-target-stands-still", "target_agent_from_before", "expected"),
    ("switchover-target-stands-still", "target_wal_from_before", "expected"),
    ("switchover-with-a-paused-standby", "paused_standby_waited_for", "expected"),
    ("two-nodes-added-at-once", "votes_given_together", "voters_step"),
    ("primary-lost-as-an-order-is-taken", "joining_forgotten", "unordered_change"),
    ("leaving-node-takes-over", "leaving_forgotten", "unordered_change"),
    ("leaving-node-takes-over", "removed_while_listed", "stale_listing"),
    ("member-removed", "removed_streams_on", "removed_serves"),
    ("member-removed", "leaving_stays_listed", "member_stuck"),
    ("needed-vote-stays", "needed_vote_taken", "vote_needed"),
    ("newcomer-misses-its-offer", "newcomer_offered_once", "member_stuck"),
    ("record-lost-under-a-running-server", "unadmitted_listed", "stale_listing"),
    ("replaced-host", "old_session_streams", "vote_given_early"),
    ("strict-record-lost", "readmitted_while_listed", "stale_listing"),
    ("replaced-host", "readmitted_with_its_vote", "expected"),
    ("lost-record-readmitted", "records_not_compared", "promise_broken"),
    ("member-added-under-load", "vote_before_caught_up", "vote_given_early"),
    ("misses-an-activation-and-more", "short_document_unproven", "one_document"),
    ("acknowledged-amid-a-record", "invited_amid_a_record", "sync_invariant"),
)
# Where the first seed does not bring the bug out.
SEEDS = {
    ("acknowledged-amid-a-record", "invited_amid_a_record"): 0,
    ("standby-knows-a-timeline-that-came-to-nothing", "stray_standby_repointed"): 2,
    ("switchover-cancelled", "standbys_let_go_at_planned_end"): 3,
}
"""Scenario, the planted bug that random faults hardly ever bring out, and what it breaks there."""


def runs() -> list[object]:
    """Return name and seed of every run that is played here."""
    found = []
    for name in library_names():
        scenario = load_scenario(name)
        seeds = scenario.known_good_seeds or (DEFAULT_SEED,)
        why = NOT_YET.get(name)
        marks = [pytest.mark.xfail(reason=why, strict=True)] if why else []
        for seed in (*seeds, *(regression.seed for regression in scenario.regressions)):
            found.append(pytest.param(name, seed, marks=marks))
    return found


def facts(result: Result) -> tuple[object, ...]:
    """Return what must be equal when a run is repeated by its faults alone."""
    return (
        *(result.violation, result.virtual_ns, result.messages, result.acknowledged),
        *(result.unknown, result.marks, result.faults),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), runs())
def test_scenario_does_what_its_file_expects(name: str, seed: int) -> None:
    violation = play(load_scenario(name), seed).violation
    assert violation is None, violation


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bug", "check"), RULES)
def test_scenario_needs_the_rule_that_it_is_about(name: str, bug: str, check: str) -> None:
    seed = SEEDS.get((name, bug), DEFAULT_SEED)
    violation = play(load_scenario(name), seed, mutation=bug).violation
    assert violation is not None
    assert violation.check == check


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isolated-primary", "swizzle-clog", "partition-mid-promotion"])
@pytest.mark.parametrize("extra_faults", [False, True])
def test_saved_faults_repeat_the_run(name: str, extra_faults: bool) -> None:
    scenario = load_scenario(name)
    first = play(scenario, 5, extra_faults=extra_faults)
    saved = load_run(save_run(first, scenario, extra_faults=extra_faults))
    again = play(saved.scenario, 5, faults=saved.faults, extra_faults=saved.extra_faults)
    assert facts(again) == facts(first)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_slot_decides_whether_a_standby_that_was_away_is_cloned(seed: int) -> None:
    """The two scenarios differ only in how much a slot may keep."""
    kept, lost = (
        play(load_scenario(name), seed).marks
        for name in ("slot-keeps-wal-for-one-that-is-away", "standby-far-behind-needs-clone")
    )
    assert kept["slot_kept_wal"] == 1
    assert lost["slot_invalidated"] == 1
    assert "wal_lost" not in kept
    assert "slot_kept_wal" not in lost
    assert lost["wal_lost"]
    assert lost["clone_used"] == kept["clone_used"] + 1


@pytest.mark.slow
def test_mark_that_is_never_to_be_reached_is_a_violation() -> None:
    scenario = load_scenario("standby-far-behind-needs-clone")
    never = replace(scenario, expect=replace(scenario.expect, never=("wal_lost",)))
    violation = play(never, DEFAULT_SEED).violation
    assert violation is not None
    assert violation.check == "expected"
    assert "wal_lost" in violation.text


@pytest.mark.slow
def test_same_seed_is_the_same_run_and_another_seed_is_not() -> None:
    scenario = load_scenario("random-faults")
    one = play(scenario, 3, extra_faults=True)
    assert play(scenario, 3, extra_faults=True) == one
    assert play(scenario, 4, extra_faults=True) != one
