"""The same random command sequences on real PostgreSQL servers and on the simulator's model of it.

`vocabulary` says what can be done and what is seen; `tracker` what makes sense when; `generate`
turns a seed into a sequence; `real` and `model` carry sequences out; `compare` finds the first
difference; `minimise` shortens a sequence that shows one.
"""
