"""A deterministic simulator: the production engine and planner on an event heap.

Time is an integer, randomness is seeded, and nothing here waits. The same seed gives the same run.
"""
