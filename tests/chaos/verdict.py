"""What a run came to: the checker's judgement, and whether every round ended well.

In: the directory of a run. Out: `verdict.json`, as the checker printed it, `report.html`, and lines
for people. The checker runs as a process of its own, and sees the files only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.round import RoundResult
from chaos.tools import LabError

CHECKER_TIMEOUT_S = 1800.0
VERDICT = "verdict.json"
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Verdict:
    """See the module's docstring."""

    directory: Path
    rounds: tuple[RoundResult, ...]
    text: str  # the checker's own report
    judged: Mapping[str, object]  # the same as JSON

    @property
    def ok(self) -> bool:
        """Return whether nothing was broken, and every node came back after every round."""
        back = all(each.recovered_s is not None for each in self.rounds)
        return bool(self.judged.get("ok")) and back and bool(self.rounds)

    def as_json(self) -> dict[str, object]:
        """Return the verdict for programs."""
        return {
            "ok": self.ok,
            "directory": str(self.directory),
            "rounds": [
                {
                    "scenario": each.scenario,
                    "seed": each.seed,
                    "faults": list(each.faults),
                    "recovered_s": each.recovered_s,
                }
                for each in self.rounds
            ],
            "checker": self.judged,
        }

    def lines(self) -> list[str]:
        """Return the verdict for people."""
        found = [self.text.rstrip(), ""]
        faults = sum(len(each.faults) for each in self.rounds)
        found.append(f"{len(self.rounds)} rounds, {faults} faults")
        for each in self.rounds:
            if each.recovered_s is None:
                found.append(f"NOT RECOVERED after {each.scenario}, seed {each.seed}")
        found.append(f"report: {self.directory / REPORT}")
        return found


def judge(
    directory: Path, results: Sequence[RoundResult], *, recovery_limit_s: float, settle_s: float
) -> Verdict:
    """Let the checker judge a run, and write its report.

    Raises:
        LabError: the checker or the report could not be made; the evidence is still there.
    """
    limits = ["--recover", str(recovery_limit_s), "--settle", str(settle_s)]
    text = _python("chaos.checker", str(directory), *limits)
    judged = _python("chaos.checker", str(directory), *limits, "--json")
    (directory / VERDICT).write_text(judged, encoding="utf-8")
    _python("chaos.report", str(directory))
    return Verdict(directory, tuple(results), text, json.loads(judged))


def _python(module: str, *arguments: str) -> str:
    """Run one of the rig's own programs; exit status 1 is an answer like 0."""
    argv = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=CHECKER_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{module}: {error}") from error
    if done.returncode not in (0, 1):
        raise LabError(f"{module} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
