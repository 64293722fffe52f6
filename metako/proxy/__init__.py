"""The proxy: one port that leads every session to the current primary.

A separate process per worker, so that query load can never delay a heartbeat. `frames` and
`routes` are pure; the others do the I/O. Bytes pass through `reactor`, `transport` and `link`
without a task of their own; what is slow is ordinary structured code: `session`, `control`,
`worker` and `launcher`.
"""
