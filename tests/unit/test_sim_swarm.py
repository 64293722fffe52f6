"""The swarm: workers, tallies, resuming, repeating, hunting; with players that stand in."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from pathlib import Path

import pytest
import sim_stand_ins

from sim.result import Result
from sim.swarm.campaign import WINDOW, Campaign, Plan, wants_verification
from sim.swarm.hunt import Hunt
from sim.swarm.job import EXCEPTION, TIME_LIMIT, WORKER_DIED, Job, Outcome, failed
from sim.swarm.ledger import Entry, Ledger, LedgerError, SeedSet
from sim.swarm.pool import Pool, SwarmError, Workers
from sim.swarm.tally import Tally, tally_from_json
from sim.swarm.verify import Listed, verify
from sim.swarm.version import engine_version, hash_of

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(("one", "two"))


def workers(player, number=2, **changes):
    return Workers(number, player=f"sim_stand_ins:{player}", **{"limit_s": 20.0} | changes)


def play(player, *, seeds=range(20), number=2, fail_fast=False, **changes):
    """Return the outcomes of a campaign, in the order in which they were handed on."""
    found = []
    work = Campaign(
        PLAN,
        iter(seeds),
        len(seeds),
        workers=number,
        handle=found.append,
        fail_fast=fail_fast,
    )
    with Pool(workers(player, number, **changes)) as pool:
        assert pool.run(work) == 0
    return found


def outcome(seed, player=sim_stand_ins.steady, scenario="one", cpu_ns=0):
    job = Job(scenario, seed)
    return Outcome(job, player(job), cpu_ns=cpu_ns)


class TestCampaign:
    def test_every_scenario_gets_its_turn(self):
        assert [PLAN.scenario(seed) for seed in range(4)] == ["one", "two", "one", "two"]

    def test_outcomes_are_handed_on_in_the_order_of_the_seeds(self):
        found = []
        work = Campaign(PLAN, count(), 4, workers=1, handle=found.append)
        jobs = [job for _ in range(4) for job in work.take()]
        for job in reversed(jobs):
            work.put(Outcome(job, sim_stand_ins.steady(job)))
        assert [each.job.seed for each in found] == [0, 1, 2, 3]
        assert work.take() == ()

    def test_batches_are_small_at_the_end(self):
        work = Campaign(PLAN, count(), 1000, workers=2, handle=lambda _: None)
        sizes = []
        while jobs := work.take():
            sizes.append(len(jobs))
            for job in jobs:
                work.put(outcome(job.seed))
        assert sizes[0] == 20
        assert sizes[-1] == 1
        assert sum(sizes) == 1000

    def test_a_slow_seed_holds_up_a_bounded_number_of_others(self):
        work = Campaign(PLAN, count(), WINDOW * 3, workers=2, handle=lambda _: None)
        first = True
        while jobs := work.take():
            for job in jobs[1 if first else 0 :]:
                work.put(outcome(job.seed))
            first = False
        assert work.received == WINDOW - 1
        work.put(outcome(0))
        assert work.take()

    def test_what_was_played_after_a_gap_counts_when_the_user_interrupts(self):
        found = []
        work = Campaign(PLAN, count(), 4, workers=1, handle=found.append)
        for _ in range(4):
            work.take()
        work.put(outcome(0))
        work.put(outcome(2))
        work.flush()
        assert [each.job.seed for each in found] == [0, 2]

    def test_about_the_fraction_is_repeated_and_always_the_same_seeds(self):
        chosen = [seed for seed in range(2000) if wants_verification(seed, 0.05)]
        assert 60 < len(chosen) < 140
        assert chosen == [seed for seed in range(2000) if wants_verification(seed, 0.05)]
        assert not any(wants_verification(seed, 0.0) for seed in range(100))
        assert all(wants_verification(seed, 1.0) for seed in range(100))


class TestTally:
    def test_the_order_of_outcomes_does_not_matter(self):
        seeds = [outcome(seed, sim_stand_ins.every_seventh) for seed in range(15)]
        forwards, backwards = Tally(), Tally()
        for each in seeds:
            forwards.add(each)
        for each in reversed(seeds):
            backwards.add(each)
        assert forwards.to_json() == backwards.to_json()
        assert forwards.total().runs == 15
        assert forwards.total().marks == {"always": 15, "seed_0": 5, "seed_1": 5, "seed_2": 5}
        assert [failure.seed for failure in forwards.failures] == [7, 14]

    def test_it_survives_its_file(self):
        tally = Tally()
        tally.add(outcome(7, sim_stand_ins.every_seventh, cpu_ns=5), "saved/one-7.json")
        tally.add(outcome(8, scenario="two"))
        again = tally_from_json(json.loads(json.dumps(tally.to_json())))
        assert again == tally

    def test_two_halves_are_the_whole(self):
        whole, left, right = Tally(), Tally(), Tally()
        for seed in range(20):
            whole.add(outcome(seed, sim_stand_ins.every_seventh))
            (left if seed < 10 else right).add(outcome(seed, sim_stand_ins.every_seventh))
        left.merge(right)
        assert left.to_json() == whole.to_json()

    def test_outages_are_counted_upwards(self):
        tally = Tally()
        for seed in range(10):
            tally.add(outcome(seed))  # 100 to 109 ms
        total = tally.total()
        assert total.outages == {100: 1, 110: 9}
        assert (total.outage_ms(0.1), total.outage_ms(0.5), total.outage_ms(1)) == (100, 110, 110)


class TestSeedSet:
    def test_ranges_grow_and_join(self):
        seeds = SeedSet()
        for seed in (5, 6, 3, 4, 10, 3, 0, 11, 9):
            seeds.add(seed)
        assert seeds.ranges == [(0, 1), (3, 7), (9, 12)]
        assert len(seeds) == 8
        missing = seeds.missing(0)
        assert [next(missing) for _ in range(6)] == [1, 2, 7, 8, 12, 13]
        missing = seeds.missing(10)
        assert [next(missing) for _ in range(2)] == [12, 13]

    @pytest.mark.parametrize("ranges", [[(3, 1)], [(0, 2), (2, 4)], [(5, 6), (0, 1)]])
    def test_ranges_that_make_no_sense_are_refused(self, ranges):
        with pytest.raises(ValueError, match="ascending"):
            SeedSet(ranges)


class TestLedger:
    def entry(self, engine="e1", scenarios=("one",), mutation=None):
        return Entry(engine, scenarios, mutation)

    def test_a_campaign_goes_on_where_it_ended(self, tmp_path):
        path = tmp_path / "tally.json"
        ledger = Ledger(path)
        entry = ledger.entry(self.entry())
        for seed in range(3):
            entry.done.add(seed)
            entry.tally.add(outcome(seed))
        ledger.save()
        again = Ledger(path).entry(self.entry())
        assert next(again.done.missing(0)) == 3
        assert again == entry or again.to_json() == entry.to_json()

    @pytest.mark.parametrize(
        "other",
        [
            {"engine": "e2"},
            {"scenarios": ("one", "two")},
            {"mutation": "a"},
        ],
    )
    def test_what_is_played_otherwise_begins_anew_and_keeps_the_old(self, tmp_path, other):
        path = tmp_path / "tally.json"
        ledger = Ledger(path)
        ledger.entry(self.entry()).done.add(0)
        ledger.save()
        ledger = Ledger(path)
        assert len(ledger.entry(self.entry(**other)).done) == 0
        ledger.save()
        assert len(Ledger(path).entry(self.entry()).done) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            '{"format": 2}',
            '{"format": 1, "entries": 5}',
            '{"format": 1, "entries": [{"engine": "e"}]}',
            '{"format": 1, "entries": [{"engine": "e", "scenarios": [], "mutation": null, '
            '"extra_faults": true, "done": [[1]], "tally": {}}]}',
            "[" * 100_000,
            "\x00\xff",
        ],
    )
    def test_a_corrupt_file_is_refused_and_left_alone(self, tmp_path, text):
        path = tmp_path / "tally.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(LedgerError, match=r"tally.json.*not the tally of a swarm") as error:
            Ledger(path)
        assert "\n" not in str(error.value)
        assert path.read_text(encoding="utf-8") == text

    def test_a_file_that_another_run_changed_is_not_overwritten(self, tmp_path):
        path = tmp_path / "tally.json"
        ledger = Ledger(path)
        ledger.save()
        other = Ledger(path)
        other.entry(self.entry())
        other.save()
        with pytest.raises(LedgerError, match="another run"):
            ledger.save()
        assert "e1" in path.read_text()

    def test_a_failed_save_leaves_nothing_behind(self, tmp_path):
        path = tmp_path / "missing" / "tally.json"
        with pytest.raises(LedgerError, match="No such file"):
            Ledger(path).save()
        assert list(tmp_path.iterdir()) == []


class TestVersion:
    def test_it_changes_with_names_and_contents(self, tmp_path):
        first, second = tmp_path / "a.py", tmp_path / "b.py"
        first.write_text("x = 1\n")
        second.write_text("")
        before = hash_of([first, second], tmp_path)
        assert hash_of([second, first], tmp_path) == before
        first.write_text("x = 2\n")
        changed = hash_of([first, second], tmp_path)
        assert changed != before
        first.rename(tmp_path / "c.py")
        assert hash_of([tmp_path / "c.py", second], tmp_path) not in (before, changed)

    def test_it_covers_everything_of_metako_that_a_run_uses(self):
        code = (
            "import sys, sim.swarm.player\n"
            "from sim.swarm.version import METAKO_PARTS\n"
            "used = {n.split('.')[1] for n in sys.modules if n.startswith('metako.')}\n"
            "hashed = {part.removesuffix('.py') for part in METAKO_PARTS}\n"
            "print(sorted(used - hashed))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"

    def test_it_is_twelve_digits(self):
        assert len(engine_version()) == 12
        assert int(engine_version(), 16) >= 0


@pytest.mark.slow
class TestPool:
    @pytest.mark.parametrize("number", [1, 3])
    def test_every_seed_is_played_once_whatever_the_number_of_workers(self, number):
        found = play("steady", number=number)
        assert [each.job.seed for each in found] == list(range(20))
        assert all(each.ok and each.result.digest == f"d{each.job.seed}" for each in found)

    def test_failures_bring_their_faults(self):
        found = {each.job.seed: each for each in play("every_seventh")}
        assert [seed for seed, each in found.items() if not each.ok] == [7, 14]
        assert found[7].result.faults[0].do == "kill"
        assert found[6].result.faults == ()

    @pytest.mark.parametrize("number", [1, 3])
    def test_fail_fast_ends_with_the_first_failing_seed(self, number):
        found = play("every_seventh", seeds=range(200), number=number, fail_fast=True)
        assert [each.job.seed for each in found] == list(range(8))

    @pytest.mark.parametrize(
        ("player", "check", "text"),
        [
            ("seed_two_dies", WORKER_DIED, "SIGKILL"),
            ("seed_two_raises", EXCEPTION, "AssertionError: too many events wait (in seed_two_"),
        ],
    )
    def test_a_bad_seed_costs_that_seed_only(self, player, check, text):
        found = {each.job.seed: each for each in play(player)}
        assert sorted(found) == list(range(20))
        assert [seed for seed, each in found.items() if not each.ok] == [2]
        assert found[2].result.violation.check == check
        assert text in found[2].result.violation.text

    def test_a_seed_that_does_not_end_is_ended(self):
        found = {each.job.seed: each for each in play("seed_two_never_ends", limit_s=0.3)}
        assert sorted(found) == list(range(20))
        assert found[2].result.violation.check == TIME_LIMIT
        assert "seed_two_never_ends" in found[2].result.violation.text
        assert all(each.ok for seed, each in found.items() if seed != 2)

    def test_a_seed_that_only_waits_is_ended_too(self):
        found = {each.job.seed: each for each in play("seed_two_sleeps", limit_s=0.1)}
        assert found[2].result.violation.check == WORKER_DIED
        assert "silent" in found[2].result.violation.text

    def test_workers_that_cannot_start_are_an_error_and_no_failure_of_seeds(self):
        with pytest.raises(SwarmError, match=r"could not start: .*no_such"):
            play("no_such_player")

    def test_no_process_is_left(self):
        before = children()
        with Pool(workers("steady")) as pool:
            pool.run(Campaign(PLAN, count(), 5, workers=2, handle=lambda _: None))
            # The helper of multiprocessing stays until we end.
            assert len(children() - before) >= 2
        assert len(children() - before) <= 1


def children():
    """Return the processes whose parent we are."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


@pytest.mark.slow
class TestVerify:
    def test_equal_runs_are_equal(self):
        jobs = [PLAN.job(seed) for seed in range(25)]
        found = verify(jobs, {seed: f"d{seed}" for seed in range(25)}, workers("steady"))
        assert (found.runs, found.differences) == (25, [])

    def test_the_first_differing_event_is_named(self):
        jobs = [PLAN.job(seed) for seed in range(6)]
        found = verify(jobs, {}, workers("hashes_differ"))
        (difference,) = found.differences
        assert difference.seed == 4
        assert difference.divergence.line == 4
        assert difference.divergence.expected.startswith("event 3 ")
        assert difference.divergence.got.startswith("event 3 ")
        assert difference.divergence.expected != difference.divergence.got

    def test_a_digest_that_was_another_without_the_trace_is_told(self):
        jobs = [PLAN.job(1)]
        found = verify(jobs, {1: "other"}, workers("steady"))
        assert "with a trace has another digest" in found.differences[0].text


class TestHunt:
    def hunt(self, **changes):
        return Hunt(["a", "b", "c"], PLAN, **{"first_seed": 0, "count": 12} | changes)

    def test_a_bug_is_given_to_one_worker_at_a_time(self):
        hunt = self.hunt()
        batches = [hunt.take() for _ in range(4)]
        assert [batch[0].mutation for batch in batches[:3]] == ["a", "b", "c"]
        assert batches[3] == ()

    def test_the_bug_that_was_hunted_least_is_next(self):
        hunt = self.hunt()
        first = hunt.take()
        for job in first[:-1]:
            hunt.put(Outcome(job, sim_stand_ins.steady(job)))
        assert hunt.take()[0].mutation == "b"
        hunt.put(Outcome(first[-1], sim_stand_ins.steady(first[-1])))
        assert [hunt.take()[0].mutation for _ in range(2)] == ["c", "a"]

    def test_every_scenario_is_played_alone_first(self):
        hunt = self.hunt(first_seed=40, count=1000)
        jobs = [hunt._job("a", seed) for seed in range(40, 60)]
        number = len(PLAN.scenarios)
        assert {job.scenario for job in jobs[:number]} == set(PLAN.scenarios)
        assert [job.extra_faults for job in jobs] == [False] * number + [True] * (20 - number)

    def test_a_catch_says_whether_the_scenario_was_played_alone(self):
        hunt = self.hunt()
        job = hunt.take()[0]
        hunt.put(failed(job, "expected", "slow"))
        assert not job.extra_faults
        assert hunt.catches[0].alone

    def test_a_run_that_fails_without_the_bug_is_no_catch(self):
        hunt = self.hunt()
        job = hunt.take()[0]
        failing = failed(job, "lost", "gone")
        control = failing.result.violation
        hunt.put(Outcome(job, failing.result, control_violation=control))
        assert hunt.catches[0].needed is None
        assert hunt.catches[0].unrelated == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [1, 3])
    def test_the_hunt_needs_the_same_seeds_whatever_the_number_of_workers(self, number):
        hunt = self.hunt()
        with Pool(workers("planted", number)) as pool:
            pool.run(hunt)
        a, b, c = hunt.catches
        assert (a.needed, a.seed, a.check, a.unrelated) == (4, 3, "one_acknowledger", 1)
        assert (b.needed, b.seed) == (5, 4)
        assert (c.needed, c.played, c.unrelated) == (None, 12, 1)

    @pytest.mark.slow
    def test_all_seeds_are_counted_if_wanted(self):
        hunt = self.hunt(every_seed=True)
        with Pool(workers("planted")) as pool:
            pool.run(hunt)
        assert [(each.caught, each.played) for each in hunt.catches] == [(1, 12), (2, 12), (0, 12)]
        assert hunt.catches[1].needed == 5


SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from itertools import count
    from sim.swarm.campaign import Campaign, Plan
    from sim.swarm.pool import Pool, Workers

    if __name__ == "__main__":
        work = Campaign(Plan(("one",)), count(), 1000, workers=2, handle=lambda each: None)
        with Pool(Workers(2, player="sim_stand_ins:slow")) as pool:
            print(pool.run(work, tick=lambda: print(work.received, flush=True)), "end", flush=True)
"""


@pytest.mark.slow
class TestSignals:
    @pytest.fixture
    def campaign(self, tmp_path):
        script = tmp_path / "campaign.py"
        script.write_text(textwrap.dedent(SCRIPT.format(tests=str(ROOT / "tests" / "unit"))))
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for line in process.stdout:
            if int(line) >= 2:
                break
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_the_campaign_and_its_workers_quietly(self, campaign, number):
        os.killpg(campaign.pid, number)  # as a terminal does: the workers get it too
        output, _ = campaign.communicate(timeout=20)
        assert output.splitlines()[-1] == f"{number} end"
        assert "Traceback" not in output
        assert group_is_gone(campaign.pid)

    def test_workers_end_with_a_parent_that_is_killed(self, campaign):
        campaign.kill()
        campaign.communicate(timeout=20)
        assert group_is_gone(campaign.pid)


def group_is_gone(group, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_the_stand_in_is_a_result():
    assert isinstance(sim_stand_ins.steady(Job("one", 1)), Result)
    assert Listed([]).take() == ()
