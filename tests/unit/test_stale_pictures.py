"""What a picture of the server proves of a promise, when the server was to follow meanwhile."""

from __future__ import annotations

import pytest
from resuming_kit import HARD, core_of

from metako.model.ids import Address, NodeId, Term, TimelineId
from metako.model.postgres import (
    DataState,
    Detached,
    Following,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    Upstream,
)

FOLLOWING = Following(
    Upstream(NodeId("b"), Address("h", 1), Term(4), (), tip=TimelineId(2), system_id=1)
)


@pytest.mark.parametrize("data", [DataState.EMPTY, DataState.TAINTED])
@pytest.mark.parametrize(
    ("under", "process", "kept"),
    [
        (Detached(Term(5)), ProcessState.STOPPED, True),
        (None, ProcessState.STOPPED, True),
        # A clone may be in place since then, and stream.
        (FOLLOWING, ProcessState.STOPPED, False),
        (Detached(Term(5)), ProcessState.STARTING, False),
    ],
)
def test_a_stopped_server_without_data_keeps_a_promise_unless_it_was_to_be_cloned(
    data: DataState, under: PostgresTarget | None, process: ProcessState, *, kept: bool
) -> None:
    core = core_of(HARD)
    core.observed = PostgresObserved(data=data, process=process, under=under)
    assert core.detached(Term(5)) is kept
