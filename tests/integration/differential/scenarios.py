"""Sequences that are known to be intricate, written out; each is a fact of DESIGN.md §4.3–§5."""

from __future__ import annotations

from differential.vocabulary import Command, parse

_FORK = """
        Detach('b')
        Commit('a', 'k1', 'v1')
        Promote('b', 4)
        Commit('b', 'k1', 'v2')
"""
"""`a` and `b` both write; `c` follows `a` beyond the fork."""

_TEXTS = {
    "cancelled wait is visible and not replicated": """
        SetSync('a', ('b',), 1)
        Detach('b')
        Commit('a', 'k1', 'v1')
        CancelCommit('v1')
        Read('a', 'k1')
        Promote('b', 4)
        Read('b', 'k1')
    """,
    "restart makes unacknowledged commits visible": """
        SetSync('a', ('b', 'c'), 1)
        Detach('b')
        Detach('c')
        Commit('a', 'k1', 'v1')
        Commit('a', 'k2', 'v2', 'remote_write')
        Stop('a', 'kill')
        Start('a', '')
        Read('a', 'k1')
        Promote('a', 3)
        Attach('b', 'a')
    """,
    "another setting releases waiters": """
        SetSync('a', ('b', 'c'), 2)
        Stop('b', 'fast')
        Commit('a', 'k1', 'v1')
        Commit('a', 'k1', 'v2', 'local')
        SetSync('a', ('c',), 1)
        SetSync('a', ('b',), 1)
        Commit('a', 'k2', 'v3', 'remote_apply')
        SetSync('a', (), 0)
    """,
    "two isolated promotions make the same timeline, and pg_rewind sees nothing": """
        Commit('a', 'k1', 'v1')
        Stop('a', 'kill')
        Promote('b')
        Promote('c')
        Commit('b', 'k1', 'v2')
        Commit('c', 'k1', 'v3')
        Stop('c', 'fast')
        Rewind('c', 'b')
        Clone('c', 'b')
        Start('c', 'b')
        Commit('b', 'k1', 'v4')
    """,
    "reserved timelines tell two promotions apart": """
        Commit('a', 'k1', 'v1')
        Stop('a', 'kill')
        Promote('b', 4)
        Promote('c', 6)
        Commit('b', 'k1', 'v2')
        Commit('c', 'k1', 'v3')
        Stop('c', 'immediate')
        Rewind('c', 'b')
        Start('c', 'b')
        Commit('b', 'k1', 'v4')
    """,
    "standby beyond the fork does not follow": """
        Detach('b')
        Commit('a', 'k1', 'v1')
        Promote('b', 5)
        Commit('b', 'k1', 'v2')
        Attach('c', 'b')
        Stop('c', 'fast')
        Rewind('c', 'b')
        Start('c', 'b')
        Commit('b', 'k1', 'v3')
    """,
    "standby beyond the fork acknowledges what it does not have": """
        Detach('b')
        Commit('a', 'k1', 'v1')
        Commit('a', 'k1', 'v2')
        Commit('a', 'k1', 'v3')
        Commit('a', 'k1', 'v4')
        Commit('a', 'k1', 'v5')
        Commit('a', 'k1', 'v6')
        Commit('a', 'k1', 'v7')
        Commit('a', 'k1', 'v8')
        Commit('a', 'k1', 'v9')
        Promote('b', 4)
        SetSync('b', ('c',), 1)
        Attach('c', 'b')
        Commit('b', 'k1', 'w1', 'remote_write')
        Commit('b', 'k1', 'w2', 'on')
        Settle()
        Read('c', 'k1')
    """,
    "standby killed beyond the fork keeps its rows on the new timeline": _FORK
    + """
        Attach('c', 'b')
        Stop('c', 'kill')
        Start('c', '')
        Promote('c', 9)
        Commit('c', 'k1', 'v3')
    """,
    "standby killed beyond the fork never follows again": _FORK
    + """
        Attach('c', 'b')
        Stop('c', 'kill')
        Start('c', 'b')
    """,
    "removed WAL forces a clone": """
        Detach('b')
        Commit('a', 'k1', 'v1')
        RemoveWal('a')
        Attach('b', 'a')
        Commit('a', 'k1', 'v2')
        Stop('b', 'fast')
        Clone('b', 'a')
        Start('b', 'a')
    """,
    "rewind fails without the target's own WAL from before the fork": _FORK
    + """
        RemoveWal('a')
        Stop('a', 'fast')
        Rewind('a', 'b')
    """,
    "rewound server without the source's WAL from before the fork never comes up": """
        Stop('c', 'fast')
        Detach('b')
        Commit('a', 'k1', 'v1')
        Promote('b', 4)
        Commit('b', 'k1', 'v2')
        RemoveWal('b')
        Stop('a', 'kill')
        Rewind('a', 'b')
        Start('a', 'b')
        Stop('a', 'fast')
        Start('a', '')
        Clone('a', 'b')
        Start('a', 'b')
    """,
    "server rewound to a quiet source is consistent without an upstream": """
        Commit('a', 'k1', 'v1')
        Promote('c', 4)
        Stop('b', 'kill')
        Commit('a', 'k2', 'v2', 'local')
        Commit('c', 'k1', 'v3')
        Rewind('b', 'c')
        Start('b', '')
        Read('b', 'k1')
    """,
    "frozen standby blocks a fast shutdown": """
        SetSync('a', ('b',), 1)
        Freeze('b', 'receiver')
        Commit('a', 'k1', 'v1')
        Stop('a', 'fast')
        Thaw('b')
        Start('a', '')
    """,
    "paused replay still acknowledges, also after a reload": """
        SetSync('a', ('b',), 1)
        PauseReplay('b')
        Commit('a', 'k1', 'v1', 'on')
        Commit('a', 'k1', 'v2', 'remote_apply')
        Detach('b')
        Commit('a', 'k1', 'v3', 'on')
        KillReceiver('b')
        Commit('a', 'k1', 'v4', 'on')
        ResumeReplay('b')
        Promote('b', 3)
    """,
    "placeholders of a fetched history stop no restart": """
        Stop('a', 'kill')
        Promote('b', 6)
        Attach('c', 'b')
        Commit('b', 'k1', 'v1')
        Stop('c', 'kill')
        Start('c', '')
        Promote('c')
        Start('a', 'b')
    """,
    "frozen standby counts as listed and acknowledges nothing": """
        SetSync('a', ('b', 'c'), 2)
        Freeze('b', 'server')
        Commit('a', 'k1', 'v1', 'on')
        Commit('a', 'k1', 'v2', 'remote_apply')
        Thaw('b')
        Freeze('c', 'receiver')
        Commit('a', 'k1', 'v3', 'remote_write')
        Thaw('c')
    """,
    "receiver reads what has arrived although its upstream has ended": """
        Freeze('b', 'receiver')
        Commit('a', 'k1', 'v1')
        Stop('a', 'kill')
        Thaw('b')
    """,
    "frozen standby is listed at once": """
        Freeze('b', 'server')
        SetSync('a', ('b',), 1)
    """,
    "standby beyond the fork holds up no shutdown": _FORK
    + """
        Attach('c', 'b')
        Stop('b', 'fast')
    """,
    "slot keeps WAL for a standby that is away, and nobody needs a clone": """
        CreateSlot('a', 's1', False)
        UseSlot('b', 's1')
        Stop('b', 'kill')
        Commit('a', 'k1', 'v1')
        RemoveWal('a')
        Start('b', 'a')
        Commit('a', 'k1', 'v2')
        DropSlot('a', 's1')
    """,
    "forgotten slot is lost at the first checkpoint beyond its limit, and good again once used": """
        CreateSlot('a', 's1')
        SwitchWal('a')
        RemoveWal('a')
        LimitSlots('a', 1)
        SwitchWal('a')
        Checkpoint('a')
        UseSlot('b', 's1')
        Commit('a', 'k1', 'v1')
    """,
    "standby that is too late for its slot is refused by its WAL and not by its slot": """
        CreateSlot('a', 's1')
        UseSlot('b', 's1')
        LimitSlots('a', 0)
        Detach('b')
        SwitchWal('a')
        SwitchWal('a')
        Checkpoint('a')
        Attach('b', 'a')
        CreateSlot('a', 's1')
        Stop('b', 'fast')
        Clone('b', 'a')
        Start('b', 'a')
    """,
    "slot that does not exist or is in use is refused, and had as soon as that ends": """
        UseSlot('b', 's1')
        Commit('a', 'k1', 'v1')
        CreateSlot('a', 's1')
        UseSlot('c', 's1')
        DropSlot('a', 's1')
        Commit('a', 'k1', 'v2')
        Stop('b', 'immediate')
        Commit('a', 'k1', 'v3')
    """,
    "shutdown leaves a slot where its checkpoint was, a crash where the one before": """
        CreateSlot('a', 's1')
        CreateSlot('a', 's2')
        UseSlot('b', 's1')
        UseSlot('c', 's2')
        Checkpoint('a')
        SwitchWal('a')
        Commit('a', 'k1', 'v1')
        Stop('a', 'kill')
        Detach('b')
        Detach('c')
        Start('a', '')
        Promote('a', 4)
        Attach('b', 'a')
        SwitchWal('a')
        Stop('a', 'fast')
        Detach('b')
        Start('a', '')
    """,
    "slots of a standby survive its promotion and keep WAL then": """
        CreateSlot('b', 's1')
        CreateSlot('b', 's2', False)
        SwitchWal('a')
        Checkpoint('a')
        Checkpoint('b')
        Detach('b')
        Promote('b', 4)
        RemoveWal('b')
        UseSlot('c', 's2')
        Attach('c', 'b')
        RemoveWal('b')
    """,
    "pg_rewind removes its target's slots and brings none along": _FORK
    + """
        CreateSlot('a', 's1')
        CreateSlot('b', 's2')
        Stop('a', 'fast')
        Detach('c')
        Rewind('a', 'b')
        Start('a', 'b')
        CreateSlot('a', 's1')
        Stop('a', 'fast')
        Clone('a', 'b')
        Start('a', 'b')
    """,
}

SCENARIOS: dict[str, tuple[Command, ...]] = {name: parse(text) for name, text in _TEXTS.items()}
