"""metako as it is, but that its guard sees a fake of the kernel's watchdog."""

import sys
from pathlib import Path

from metako.cli.main import main
from metako.postgres import guardlink

guardlink.GUARD_PROGRAM = str(Path(__file__).with_name("watchdog_guard"))
sys.exit(main())
