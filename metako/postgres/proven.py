"""What a step has proven of a server that runs, put into the picture that was taken before it.

An election and a promotion wait for each look, and a look would find what the step has just shown.
In: the last picture, and what the steps have noted. Out: the picture as the next look would be as
far as these facts go; what only a look can tell is as it was seen. And which steps may be begun by
such a picture. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from metako.model.lsn import Lsn
from metako.model.postgres import DataState, PostgresObserved, ReceiverState
from metako.postgres import steps
from metako.postgres.facts import Facts

YOUNG_S = 0.1
"""How old a picture may be for a step that does without a new one."""


def needs_no_look(step: steps.Step | None, observed: PostgresObserved, age_s: float) -> bool:
    """Return whether a step that follows from a picture of a running server may be begun by it.

    A server that was seen running is detached whatever a look would show. The others rest on what
    nobody but the steps changes, and prove themselves what safety asks for: settings are shown by
    a fresh backend, a promotion looks for a WAL receiver, a marker is acknowledged or not, a stop
    ends when everything is gone. If the server has ended since, they fail or have nothing to do.

    Args:
        step: what was planned.
        observed: the picture it was planned by.
        age_s: since it was taken, or a step has proven it; infinite if another step was done since.
    """
    match step:
        case steps.Detach():
            return True
        case (
            steps.ApplySettings()
            | steps.Promote()
            | steps.EmitMarker()
            | steps.Checkpoint()
            | steps.Stop()
        ):
            return age_s <= YOUNG_S and not observed.silent
        case _:
            return False


def proven(observed: PostgresObserved, facts: Facts) -> PostgresObserved:
    """Return `observed`, of a server that answers and is in recovery, or not, as it was then."""
    return _of_standby(observed, facts) if observed.in_recovery else _of_primary(observed, facts)


def _of_standby(observed: PostgresObserved, facts: Facts) -> PostgresObserved:
    written = facts.written
    if written is None or written.upstream is not None or not facts.verified:
        return observed  # how it streams, or whether, is for a look to tell
    if facts.position is None or facts.timeline != observed.timeline:
        return observed  # its history may be another than the one in the picture
    if observed.data is not DataState.PRESENT:
        return observed
    return replace(
        observed,
        receiver=ReceiverState.GONE,
        upstream=None,
        position=facts.position,
        detached_for=facts.detached_for,
        whole=facts.whole,
        sync_applied=written.sync,
        sync_barrier=facts.barrier if facts.barrier == written.sync else None,
        admitting=written.admit,
    )


def _of_primary(observed: PostgresObserved, facts: Facts) -> PostgresObserved:
    """Note marker and checkpoint, and settings that differ in nothing but whom they let in.

    The standbys in the picture are from before: nobody may conclude from both together. By what
    they had flushed then they have yet to confirm the checkpoint, of which the end is told with it.
    """
    written = facts.written
    same = written is not None and facts.verified and written.sync == observed.sync_applied
    admitting = written.admit if written is not None and same else observed.admitting
    return replace(
        observed,
        lsn=Lsn(max(observed.lsn, facts.wal_end)),
        replay_lsn=Lsn(max(observed.replay_lsn, facts.wal_end)),
        marker_term=facts.marker_term,
        checkpointed=facts.checkpointed,
        admitting=admitting,
    )
