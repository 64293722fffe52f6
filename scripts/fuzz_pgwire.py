"""Random and mutated bytes into every parser and state machine that the proxy's peers can reach.

    python scripts/fuzz_pgwire.py [--cases 300000] [--seed 0] [--only KIND ...] [--json]

A case is made of its own seed, which is the first seed and its number. It fails if anything but
`PgWireError` is raised (`FrameError` for what workers and agents tell each other), or if a claim
does not hold: what a parser accepts is built to the same bytes again; how a stream is cut into
pieces changes nothing; no changed cancel key is ours; no SQL that leaves something behind is taken
for a mere query. Of who may log in: lines of pg_hba.conf decide as a second implementation of them
does, whatever only a server may know; a client is asked what a server would ask; nobody is let in
without the role's key, nor by a proof that was changed, repeated or made for another login; every
client that proves the key in a legal way is let in; a role that does not exist is told from others
neither by words nor by their lengths; a refusal is an error of PostgreSQL; and what a login makes
either side keep is bounded. The first failure ends the run with status 1 and names what repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence

from fuzzing.admissions import fuzz_admission
from fuzzing.logins import fuzz_login, fuzz_stranger
from fuzzing.parsers import fuzz_cancel, fuzz_parser, fuzz_reader, fuzz_verifier
from fuzzing.proofs import fuzz_proof, fuzz_stand_in
from fuzzing.rules import fuzz_rules
from fuzzing.workers import fuzz_console, fuzz_frame, fuzz_sql

KINDS = {
    "parser": fuzz_parser,
    "verifier": fuzz_verifier,
    "reader": fuzz_reader,
    "cancel": fuzz_cancel,
    "rules": fuzz_rules,
    "admission": fuzz_admission,
    "login": fuzz_login,
    "proof": fuzz_proof,
    "stand-in": fuzz_stand_in,
    "stranger": fuzz_stranger,
    "sql": fuzz_sql,
    "console": fuzz_console,
    "frame": fuzz_frame,
}
# There are many parsers, so they are drawn more often.
USUAL = (*KINDS, "parser", "parser")


def play(seed: int, kinds: Sequence[str] = USUAL) -> str:
    """Play the case of this seed, of one of these kinds; return what came of it.

    Raises:
        Broken: a claim does not hold. Whatever else is raised is a bug just as well.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    return KINDS[rng.choice(kinds)](rng)


def run(
    cases: int, first_seed: int, kinds: Sequence[str] = USUAL
) -> tuple[Counter[str], int | None]:
    """Play cases; return what came of them, and the seed of the one that failed, if any."""
    results: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + cases):
        try:
            results[play(seed, kinds)] += 1
        except Exception:  # noqa: BLE001 - every exception is what we look for
            traceback.print_exc()
            return results, seed
    return results, None


def main() -> int:
    """Print how many cases there were, of which outcome, and how fast."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--only", nargs="+", choices=sorted(KINDS), metavar="KIND", default=USUAL)
    parser.add_argument("--json", action="store_true")
    parser.epilog = f"KIND is one of {', '.join(KINDS)}."
    options = parser.parse_args()
    begun_s = time.perf_counter()
    results, failed = run(options.cases, options.seed, options.only)
    spent_s = time.perf_counter() - begun_s
    report = {
        "cases": results.total(),
        "seconds": round(spent_s, 3),
        "cases_per_second": round(results.total() / spent_s),
        "failed_seed": failed,
        "results": dict(sorted(results.items())),
    }
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for name, count in sorted(results.items()):
            sys.stdout.write(f"{count:9} {name}\n")
        sys.stdout.write(f"{report['cases']} cases, {report['cases_per_second']} a second\n")
    if failed is not None:
        sys.stdout.flush()
        # The kind is drawn from those that were asked for, so they belong to the case.
        only = "" if options.only is USUAL else f" --only {' '.join(options.only)}"
        sys.stderr.write(f"FAILED; repeat it by --seed {failed} --cases 1{only}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
