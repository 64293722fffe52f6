"""Many seeds on many processes: jobs, workers, tallies, comparison, and hunts for planted bugs.

Nothing here changes what a run does: a run is fixed by scenario, seed and engine, and what the
commands print of it (but for CPU time) does not depend on the number of workers or their order.
"""
