"""The command line of the simulator: `python -m sim`, or `metako simulate`.

It reads arguments, calls `sim.play` and `sim.swarm`, and words what they return. How commands
fail and how lines reach the terminal is shared with the program's own command line.
"""
