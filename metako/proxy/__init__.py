"""The proxy: one port that leads every session to the current primary.

A separate process per worker, so that query load can never delay a heartbeat. `frames` and
`routes` are pure; `sockets`, `relay`, `session`, `control`, `worker` and `launcher` do the I/O.
"""
