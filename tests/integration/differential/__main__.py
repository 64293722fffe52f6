"""Run one sequence by hand, `python tests/integration/differential 7`, or many, `... 240..480`.

Of one it shows every command with what changes on the real servers, and the first difference to
the model; of many only the differences, and how often which explanation was needed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent.parent)]


def main() -> int:
    from differential.begin import open_programs
    from differential.compare import compare
    from differential.generate import generate
    from differential.minimise import minimise
    from differential.vocabulary import parse, render

    parser = argparse.ArgumentParser(prog="differential", description=__doc__)
    parser.add_argument("sequence", help="a seed, FIRST..END, or a file with a command a line")
    parser.add_argument("--bindir", help="as METAKO_TEST_BINDIR; else one is looked for")
    parser.add_argument("--slots", action="store_true", help="the family about replication slots")
    parser.add_argument("--minimise", action="store_true", help="shorten a sequence that differs")
    parser.add_argument("--logs", action="store_true", help="show the servers' logs as well")
    parser.add_argument("--print", action="store_true", help="print the sequence and run nothing")
    arguments = parser.parse_args()
    first, dots, end = arguments.sequence.partition("..")
    if dots and first.isdecimal() and end.isdecimal():
        return run_many(arguments.bindir, range(int(first), int(end)), slots=arguments.slots)
    seed = int(arguments.sequence) if arguments.sequence.isdecimal() else 0
    given = seed or arguments.sequence == "0"
    commands = generate(seed, slots=arguments.slots) if given else None
    if commands is None:
        commands = parse(Path(arguments.sequence).read_text())
    if arguments.print:
        sys.stdout.write(render(commands) + "\n")
        return 0
    with open_programs(arguments.bindir) as programs:
        report = compare(programs, seed, commands, say=lambda text: sys.stdout.write(text + "\n"))
        if report.moment is not None and arguments.minimise:
            report = minimise(report, lambda shorter: compare(programs, seed, shorter))
    sys.stdout.write(f"{report}\n{report.logs if arguments.logs else ''}\n")
    return 1 if report.moment is not None else 0


def run_many(bindir: str | None, seeds: range, *, slots: bool) -> int:
    """Compare the sequences of the seeds; return the exit status."""
    from differential.begin import open_programs
    from differential.generate import generate
    from differential.pool import compare_all

    with open_programs(bindir) as programs:
        sequences = ((seed, generate(seed, slots=slots)) for seed in seeds)
        reports = compare_all(programs, sequences)
    failed = [report for report in reports if report.moment is not None]
    explained = Counter(name for report in reports for name in report.explained)
    lines = [*map(str, failed), *(f"{count} × {name}" for name, count in explained.items())]
    lines.append(f"{len(reports)} sequences, {len(failed)} with an unexplained difference")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
