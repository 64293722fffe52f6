"""The commands of the simulator: output, files and exit codes; with runs that stand in."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sim_stand_ins
from typer.testing import CliRunner

from metako.model.errors import UsageError
from sim.cli import catalog
from sim.cli.app import build_app
from sim.cli.mutate import MutateOptions, mutate
from sim.cli.progress import PlainProgress
from sim.cli.run import Shown, replay, run
from sim.cli.swarm import SwarmOptions, swarm
from sim.cli.words import wrapped
from sim.faults import Fault
from sim.result import Violation
from sim.swarm import pool
from sim.swarm.job import Job
from sim.swarm.pool import SwarmError, Workers

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "unit"
BUGS = ("a", "b", "c")


def command(*arguments):
    return CliRunner().invoke(build_app(), list(arguments), prog_name="python -m sim")


def violation(check):
    at_ns = 12 * 10**9
    text = "n1 and n2 both acknowledge" if check == "one_acknowledger" else "otherwise"
    return Violation(check, text, at_ns, ("n1", "n2")) if check else None


class Library:
    """Stands in for scenarios, marks and planted bugs."""

    def __init__(self, monkeypatch):
        self.saved = []
        monkeypatch.setattr(catalog, "scenario", self.scenario)
        monkeypatch.setattr(catalog, "scenario_names", lambda: ("one", "two"))
        monkeypatch.setattr(catalog, "marks", lambda: {"always": "", "seed_0": "", "never": ""})
        monkeypatch.setattr(catalog, "sometimes", lambda names: {"one": ("always", "never")})
        monkeypatch.setattr(catalog, "mutations", self.mutations)
        monkeypatch.setattr(catalog, "save_run", self.save)
        monkeypatch.setattr(catalog, "saved_run", self.load)

    @staticmethod
    def scenario(name):
        if name not in ("one", "two"):
            raise catalog.BadFileError(f"no scenario is called {name!r}; did you mean 'one'?")
        return SimpleNamespace(name=name)

    @staticmethod
    def mutations(names=()):
        chosen = list(names) or list(BUGS)
        for name in chosen:
            if name not in BUGS:
                raise UsageError(f"no planted bug is called {name!r}")
        return [SimpleNamespace(name=n, rule=f"rule {n} | x", doc="breaks it") for n in chosen]

    def save(self, path, scenario, result, *, mutation, extra_faults):
        self.saved.append((str(path), result.seed))
        Path(path).write_text("saved")

    def load(self, path):
        return SimpleNamespace(
            scenario=SimpleNamespace(name="one"),
            seed=7,
            faults=(Fault.make(1, "kill", {"node": ("n1",), "what": "host"}),),
            mutation=None,
            extra_faults=True,
            violation=violation(path.read_text()),
        )


@pytest.fixture
def library(monkeypatch):
    return Library(monkeypatch)


@pytest.fixture
def played(monkeypatch):
    """Stand in for `play`: seed 7 breaks a promise. Return the calls."""
    calls = []

    def play(scenario, seed, *, trace=None, faults=None, mutation=None, extra_faults=False, **more):
        calls.append({"faults": faults, "mutation": mutation, "extra": extra_faults, **more})
        job = Job(scenario.name, seed, mutation, extra_faults)
        player = sim_stand_ins.every_seventh
        return player(job, trace)

    monkeypatch.setitem(sys.modules, "sim.play", SimpleNamespace(play=play))
    return calls


def options(player="every_seventh", **changes):
    workers = Workers(2, 20.0, f"sim_stand_ins:{player}")
    return SwarmOptions(**{"seeds": 20, "workers": workers} | changes)


class TestRun:
    def test_a_good_run_is_a_few_lines(self, library, played, capsys):
        assert run("one", 3, Shown(), mutation=None, extra_faults=False) == 0
        output = capsys.readouterr().out
        assert output.startswith("one, seed 3: ok\n")
        assert "2; 1 failover" in output
        assert "always ×3" in output
        assert len(output.splitlines()) < 10

    def test_a_broken_promise_says_what_who_and_what_to_type(self, library, played, capsys):
        assert run("one", 7, Shown(), mutation=None, extra_faults=True) == 1
        output = capsys.readouterr().out
        assert "VIOLATION of one_acknowledger at 12.000 s" in output
        assert "n1 and n2 both acknowledge" in output
        assert "concerns n1, n2" in output
        assert "2.000 s  kill n1" in output
        assert "python -m sim run one --seed 7 --extra-faults --html run.html" in output
        assert played[0]["extra"] is True

    def test_json_is_one_document(self, library, played, capsys):
        assert run("one", 7, Shown(as_json=True), mutation="a", extra_faults=False) == 1
        data = json.loads(capsys.readouterr().out)
        assert data["ok"] is False
        assert data["violation"]["check"] == "one_acknowledger"
        assert data["faults"] == [
            {"at_ns": 2 * 10**9, "do": "kill", "args": {"node": ["n1"], "what": "host"}}
        ]
        assert played[0]["mutation"] == "a"

    def test_trace_and_page_are_of_the_same_run(self, library, played, tmp_path, capsys):
        trace, html = tmp_path / "t.jsonl", tmp_path / "t.html"
        shown = Shown(trace=trace, html=html)
        assert run("one", 3, shown, mutation=None, extra_faults=False) == 0
        assert trace.read_text().splitlines()[4] == '{"i":4,"seed":3}'
        assert "<html" in html.read_text().lower()
        assert len(played) == 1
        assert len(played[0]["engine"]) == 12
        assert played[0]["command"] == "python -m sim run one --seed 3"

    def test_a_file_that_cannot_be_written_is_told_before_the_run(self, library, played, tmp_path):
        result = command("run", "one", "--trace", str(tmp_path / "missing" / "t.jsonl"))
        assert result.exit_code == 1
        assert "No such file or directory" in result.output
        assert "Traceback" not in result.output
        assert played == []

    def test_faults_can_be_saved_and_replayed(self, library, played, tmp_path, capsys):
        path = tmp_path / "run.json"
        assert run("one", 7, Shown(save=path), mutation=None, extra_faults=False) == 1
        assert f"python -m sim replay {path}" in capsys.readouterr().out
        assert library.saved == [(str(path), 7)]

    @pytest.mark.parametrize(
        ("check", "text"),
        [
            ("one_acknowledger", "the same violation again"),
            ("lost_write", "ANOTHER violation: the saved run broke lost_write at 12.000 s"),
            ("", "the saved run was ok"),
        ],
    )
    def test_replay_compares_with_the_saved_run(
        self, library, played, tmp_path, capsys, check, text
    ):
        path = tmp_path / "run.json"
        path.write_text(check)
        assert replay(path, Shown()) == 1
        assert text in capsys.readouterr().out
        assert [fault.do for fault in played[0]["faults"]] == ["kill"]
        assert played[0]["extra"] is True


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("run", "on"), 3, "no scenario is called 'on'; did you mean 'one'?"),
            (("run", "one", "--mutation", "z"), 2, "no planted bug is called 'z'"),
            (("run",), 2, "Missing argument"),
            (("run", "one", "--seed", "-1"), 2, "--seed"),
            (("run", "one", "--sed", "1"), 2, "--sed"),
            (("swarm", "--seeds", "0"), 2, "--seeds"),
            (("swarm", "--jobs", "0"), 2, "--jobs"),
            (("swarm", "--verify", "2"), 2, "--verify"),
            (("swarm", "--scenario", "on"), 3, "did you mean"),
            (("swarm", "--mutation", "z"), 2, "planted bug"),
            (("mutate", "--only", "z"), 2, "planted bug"),
            (("mutate", "--table", "/missing/t.md"), 2, "/missing is no directory"),
            (("dance",), 2, "dance"),
        ],
    )
    def test_they_are_told_in_one_line(self, library, played, arguments, code, text):
        result = command(*arguments)
        assert result.exit_code == code
        assert text in result.output
        assert "Traceback" not in result.output

    def test_a_corrupt_tally_is_told(self, library, tmp_path):
        path = tmp_path / "tally.json"
        path.write_text("{")
        result = command("swarm", "--resume", str(path))
        assert result.exit_code == 3
        assert f"metako: {path}, line 1: not the tally of a swarm" in result.output

    @pytest.mark.parametrize("name", ["run", "swarm", "replay", "mutate", "list"])
    def test_every_command_explains_itself(self, name):
        result = command(name, "--help")
        assert result.exit_code == 0
        assert len(result.output.splitlines()) > 5


@pytest.mark.slow
class TestSwarm:
    def test_failures_are_told_with_what_repeats_them(self, library, tmp_path, capsys):
        save_dir = tmp_path / "failures"
        assert swarm(options(save_dir=save_dir)) == 1
        output = capsys.readouterr().out
        assert "20, 2 failed" in output
        assert "seed 7, two, 12.000 s: one_acknowledger: n1 and n2 both acknowledge" in output
        assert "python -m sim run two --seed 7 --extra-faults\n" in output
        assert f"python -m sim replay {save_dir}/two-7.json" in output
        assert [seed for _, seed in library.saved] == [7, 14]
        assert "2 of 3 reached" in output
        assert "never: never" in output

    def test_the_output_does_not_depend_on_the_number_of_workers(self, library, capsys):
        found = []
        for jobs in (1, 3):
            workers = Workers(jobs, 20.0, "sim_stand_ins:every_seventh")
            assert swarm(options(workers=workers, as_json=True, verify=0.2, verbose=True)) == 1
            found.append(json.loads(capsys.readouterr().out, object_hook=without_cpu))
        assert found[0] == found[1]
        assert found[0]["total"]["runs"] == 20
        assert found[0]["marks_never_reached"] == ["never"]
        assert [failure["seed"] for failure in found[0]["failures"]] == [7, 14]
        assert found[0]["verification"]["runs"] >= 1
        assert found[0]["verification"]["differences"] == []

    def test_a_good_swarm_exits_with_0(self, library, capsys):
        assert swarm(options("steady", seeds=40, verbose=True)) == 0
        output = capsys.readouterr().out
        assert "40, 0 failed" in output
        assert any(line.split()[:3] == ["two", "20", "0"] for line in output.splitlines())
        assert output.splitlines()[-1].split() == ["one", "never"]  # promised, and not reached

    def test_a_planted_bug_that_is_caught_exits_with_1(self, library, capsys):
        assert swarm(options("planted", mutation="a", seeds=4)) == 1
        assert "--mutation a" in capsys.readouterr().out

    def test_runs_that_are_not_repeatable_exit_with_1(self, library, capsys):
        workers = Workers(1, 20.0, "sim_stand_ins:unrepeatable")
        assert swarm(options(workers=workers, seeds=6, verify=1.0)) == 1
        output = capsys.readouterr().out
        assert "NOT REPEATABLE: 1 of 6 runs" in output
        assert "seed 4, one: event 4 differs between PYTHONHASHSEED=1 and 2" in output
        assert "line 4, first run:  event 3" in output
        assert "line 4, second run: event 3" in output

    def test_it_goes_on_where_it_ended(self, library, tmp_path, capsys):
        path = tmp_path / "tally.json"
        assert swarm(options(seeds=8, resume=path)) == 1
        capsys.readouterr()
        assert swarm(options("steady", seeds=12, resume=path)) == 0
        output = capsys.readouterr().out
        assert "20 seeds of this engine in all" in output
        assert "failed: seed 7, two, 12.000 s: one_acknowledger" in output
        data = json.loads(path.read_text())
        (entry,) = data["entries"]
        assert len(entry["engine"]) == 12
        assert entry["done"] == [[0, 20]]
        assert [failure["seed"] for failure in entry["tally"]["failures"]] == [7]
        assert sum(row["runs"] for row in entry["tally"]["scenarios"].values()) == 20

    def test_another_plan_has_a_tally_of_its_own(self, library, tmp_path, capsys):
        path = tmp_path / "tally.json"
        swarm(options("steady", seeds=3, resume=path))
        swarm(options("steady", seeds=4, resume=path, scenarios=("one",)))
        swarm(options("steady", seeds=5, resume=path, extra_faults=False))
        entries = json.loads(path.read_text())["entries"]
        assert [entry["done"] for entry in entries] == [[[0, 3]], [[0, 4]], [[0, 5]]]

    def test_workers_that_keep_dying_end_it_with_what_was_played(
        self, library, capsys, monkeypatch
    ):
        monkeypatch.setattr(pool, "DEATHS_MAX", 1)
        workers = Workers(1, 20.0, "sim_stand_ins:dies_often")
        with pytest.raises(SwarmError, match="keep dying"):
            swarm(options(workers=workers, as_json=True))
        data = json.loads(capsys.readouterr().out)
        assert "keep dying" in data["error"]
        assert data["ok"] is False
        assert data["total"]["runs"] == 6  # the first five, and the one that died first

    def test_fail_fast_sums_up_to_the_first_failure(self, library, capsys):
        assert swarm(options(seeds=200, fail_fast=True, as_json=True)) == 1
        data = json.loads(capsys.readouterr().out)
        assert data["total"]["runs"] == 8
        assert data["total"]["failures"] == 1


def without_cpu(data):
    return {key: value for key, value in data.items() if key != "cpu_ns"}


@pytest.mark.slow
class TestMutate:
    def hunt(self, **changes):
        workers = Workers(2, 20.0, "sim_stand_ins:planted")
        return mutate(MutateOptions(**{"seeds": 12, "workers": workers} | changes))

    def test_a_bug_that_nobody_catches_fails_the_hunt(self, library, tmp_path, capsys):
        table = tmp_path / "bugs.md"
        assert self.hunt(table=table) == 1
        output = capsys.readouterr().out
        assert "2 of 3 planted bugs caught" in output
        assert "not caught: c" in output
        assert "a: 1 run failed without it too" in output
        assert "python -m sim run two --seed 3 --extra-faults --mutation a" in output
        lines = table.read_text().splitlines()
        assert lines[0] == "| bug | rule | seeds needed | CPU | caught by | what is wrong |"
        assert lines[2].startswith("| a | rule a \\| x | 4 | ")
        assert lines[4].endswith("| nobody | breaks it |")

    def test_an_interrupted_hunt_keeps_its_table(self, library, tmp_path, monkeypatch):
        table = tmp_path / "bugs.md"
        monkeypatch.setattr("sim.swarm.pool.Pool.run", lambda *_, **__: signal.SIGINT)
        assert self.hunt(table=table) == 128 + signal.SIGINT
        assert table.read_text().endswith("; interrupted.\n")

    def test_bugs_that_are_all_caught_are_a_success(self, library, capsys):
        assert self.hunt(only=("a", "b"), every_seed=True, as_json=True) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["ok"] is True
        assert [(bug["mutation"], bug["needed"], bug["caught"]) for bug in data["bugs"]] == [
            ("a", 4, 1),
            ("b", 5, 2),
        ]


class TestList:
    def test_lists_are_names_with_a_sentence(self, library):
        result = command("list", "--mutations", "--marks")
        assert result.exit_code == 0
        assert "mutations:\na  rule a | x: breaks it" in result.output
        assert "marks:\nalways" in result.output

    def test_lists_as_json(self, library):
        result = command("list", "--mutations", "--json")
        assert json.loads(result.output)["mutations"]["b"] == "rule b | x: breaks it"

    @pytest.mark.parametrize("name", ["faults", "marks", "checks"])
    def test_what_the_simulator_knows_is_listed(self, name):
        result = command("list", f"--{name}", "--json")
        entries = json.loads(result.output)[name]
        assert len(entries) > 10
        assert all(entries.values())


class TestProgress:
    def test_lines_are_seldom(self, capsys):
        plain = PlainProgress(interval_s=3600)
        plain.begin("seeds", 10)
        for done in range(10):
            plain.update(done)
        assert capsys.readouterr().err == ""
        plain = PlainProgress(interval_s=0)
        plain.begin("seeds", 10)
        plain.update(4, "1 failed")
        assert capsys.readouterr().err == "seeds: 4 of 10 in 0 s, 1 failed\n"


def test_words_are_wrapped_at_commas():
    assert wrapped(["aaa", "bbb", "ccc"], 8) == "aaa,\nbbb, ccc"
    assert wrapped([]) == ""


SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from types import SimpleNamespace
    from sim.cli import catalog
    from sim.cli.swarm import SwarmOptions, swarm
    from sim.swarm.pool import Workers

    catalog.scenario_names = lambda: ("one",)
    catalog.marks = dict
    catalog.sometimes = lambda names: {{}}
    if __name__ == "__main__":
        sys.exit(swarm(SwarmOptions(workers=Workers(2, 20.0, "sim_stand_ins:slow"))))
"""


@pytest.mark.slow
def test_an_interrupt_sums_up_what_was_played(tmp_path):
    script = tmp_path / "swarm.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(TESTS))))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(2.5)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "INTERRUPTED after" in output
    assert "Traceback" not in errors


@pytest.mark.slow
class TestRealRuns:
    """The commands with the simulator itself; a scenario that goes well is taken from it."""

    @pytest.fixture
    def calm(self, tmp_path):
        path = tmp_path / "calm.yaml"
        path.write_text(
            "name: calm\nsummary: Nothing happens.\nduration: 3s\nworkload: {clients: 1}\n"
        )
        return str(path)

    def test_a_run_its_trace_and_its_page(self, calm, tmp_path):
        trace, page = tmp_path / "t.jsonl", tmp_path / "t.html"
        result = command("run", calm, "--trace", str(trace), "--html", str(page), "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["acknowledged"] > 0
        lines = [json.loads(line) for line in trace.read_text().splitlines()]
        assert [line["i"] for line in lines] == list(range(len(lines)))
        assert (lines[0]["e"], lines[-1]["e"], lines[-1]["verdict"]) == ("run", "end", "ok")
        assert lines[0]["command"] == f"python -m sim run {calm} --seed 0"
        assert page.stat().st_size > 10_000

    def test_a_saved_run_is_replayed(self, calm, tmp_path):
        path = tmp_path / "run.json"
        played = command("run", calm, "--seed", "5", "--extra-faults", "--save", str(path))
        again = command("replay", str(path), "--json")
        assert again.exit_code == played.exit_code
        assert json.loads(again.output)["seed"] == 5

    def test_a_swarm_is_repeatable(self, calm):
        result = command(
            *("swarm", "-n", "3", "-s", calm, "--no-extra-faults", "--verify", "1", "--json")
        )
        assert result.exit_code == 0, result.output
        data = json.loads(result.stdout)
        assert data["total"]["runs"] == 3
        assert data["verification"] == {"runs": 3, "differences": []}

    def test_a_planted_bug_is_caught_by_a_swarm_and_by_a_hunt(self):
        bug = "acts_before_commit"
        swarmed = command("swarm", "-n", "40", "--mutation", bug, "--fail-fast", "--json")
        assert swarmed.exit_code == 1, swarmed.output
        assert json.loads(swarmed.stdout)["total"]["failures"] == 1
        hunted = command("mutate", "-n", "40", "--only", bug, "--json")
        assert hunted.exit_code == 0, hunted.output
        assert json.loads(hunted.stdout)["bugs"][0]["check"]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 7}', "\x00"])
    def test_a_file_that_is_no_saved_run_is_told(self, tmp_path, text):
        path = tmp_path / "run.json"
        path.write_text(text)
        result = command("replay", str(path))
        assert result.exit_code == 3
        assert f"metako: {path}" in result.output

    def test_a_scenario_with_mistakes_is_told_with_lines(self, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text("name: bad\nsummary: Wrong.\nduratoin: 3s\n")
        result = command("run", str(path))
        assert result.exit_code == 3
        assert f"metako: {path}:3: duratoin" in result.output


@pytest.mark.slow
class TestProgram:
    def program(self, *arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    def test_metako_simulate_is_the_same_program(self):
        module = self.program("-m", "sim", "list", "--marks", "--json")
        command = self.program("-m", "metako", "simulate", "list", "--marks", "--json")
        assert module.returncode == command.returncode == 0
        assert module.stdout == command.stdout
        assert self.program("-m", "metako", "simulate", "run").returncode == 2
        usage = self.program("-m", "metako", "simulate", "run", "-h").stdout
        assert usage.startswith("Usage: metako simulate run ")

    def test_without_the_simulator_it_says_so(self):
        code = (
            "import sys; sys.modules['sim'] = None; sys.argv = ['metako', 'simulate', 'run', 'x'];"
            "from metako.cli.main import main; main()"
        )
        result = self.program("-c", code)
        assert result.returncode == 1
        assert result.stderr.startswith("metako: the package sim is not installed")

    def test_a_run_loads_no_drawing_library(self):
        code = (
            "import sys, sim.cli.app, sim.cli.run, sim.cli.catalog; sim.cli.app.build_app();"
            "print(sorted(m for m in ('rich', 'trio', 'multiprocessing', 'asyncio')"
            " if m in sys.modules))"
        )
        assert self.program("-c", code).stdout.strip() == "[]"
