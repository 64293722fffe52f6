"""A Python of its own that runs a few lines with the project importable, and is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM_TIMEOUT_S = 30


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code`; what it printed and how it ended is in the result, whatever that is."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
