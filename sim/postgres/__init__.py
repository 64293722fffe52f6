"""A PostgreSQL server on the event heap, with enough truth to make loss and split brain visible.

The rooms, each a file: what is on disk (`wal`, `data`, `slots`), the server process and its faults
(`server`), a primary's work (`primary`, `syncwait`, `sender`), a standby's (`startup`, `receiver`,
`cascade`), and the model of production's supervisor around it (`supervisor`, `observe`, `steps`,
`rebuild`, `leading`, `upkeep`), which plans with the production planner.

Not modelled: logical and temporary replication slots, archives, conflicts of hot standby, and the
contents of tables beyond what commits wrote.
"""
