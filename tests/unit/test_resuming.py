"""When a restarted agent may lead on, and when it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resuming_kit import ALIVE, DOCUMENT, HARD, NOW, A, B, core_of

from metako.election.ends import End
from metako.election.resuming import resumed
from metako.election.settings import ElectionSettings
from metako.election.wants import FenceWish, GuardDeadline
from metako.model.durable import HardState
from metako.model.ids import Term
from metako.model.instant import seconds
from metako.model.postgres import (
    Detached,
    Leading,
    PostgresObserved,
    ProcessState,
    Stopped,
    Untouched,
)
from metako.wire.messages import DocumentAck


def test_armed_guard_of_the_documents_primary_is_led_on_under_its_rest_of_the_lease() -> None:
    leader = resumed(core_of(HARD), NOW, ALIVE)
    assert leader is not None
    assert leader.term == 4
    margin_ns = ElectionSettings().fence_margin_ms * 1_000_000
    assert leader.lease.until_boot_ns == seconds(501) + margin_ns
    # Until a majority has confirmed the document, the running server is not touched.
    assert leader.target() == Untouched()


@pytest.mark.parametrize(
    ("hard", "armed"),
    [
        (HARD, None),
        (HARD, GuardDeadline(Term(4), None)),
        (HARD, GuardDeadline(Term(4), NOW.boot_ns)),  # the lease is over
        (HARD, GuardDeadline(Term(3), seconds(501))),  # armed for an older term
        (replace(HARD, promised_term=Term(5)), ALIVE),  # somebody else was promised more
        (replace(HARD, released_term=Term(4)), ALIVE),  # released for good
        (replace(HARD, document=replace(DOCUMENT, primary=B)), ALIVE),
        (replace(HARD, document=replace(DOCUMENT, term=Term(3))), ALIVE),
        (replace(HARD, document=None), ALIVE),
    ],
)
def test_anything_else_is_no_right_to_lead(hard: HardState, armed: GuardDeadline | None) -> None:
    assert resumed(core_of(hard), NOW, armed) is None


def test_server_that_is_found_gone_ends_the_leadership_that_was_resumed() -> None:
    """The agent before may have begun to stop it; nobody else would ever be let lead."""
    core = core_of(HARD)
    leader = resumed(core, NOW, ALIVE)
    assert leader is not None
    leader.committed = DOCUMENT
    core.observed = PostgresObserved(process=ProcessState.STOPPING)
    assert leader.over(NOW) is None
    core.observed = PostgresObserved(process=ProcessState.STOPPED)
    assert leader.over(NOW) is End.SERVER


def test_node_that_is_its_own_majority_leads_on_at_once() -> None:
    alone = replace(DOCUMENT, voters=(A,))
    leader = resumed(core_of(replace(HARD, document=alone)), NOW, ALIVE)
    assert leader is not None
    assert leader.committed == alone
    assert isinstance(leader.target(), Leading)


def test_guard_that_was_left_armed_is_disarmed_once_the_server_is_gone() -> None:
    """It would end the standby that this agent starts next, at the end of a lease long released."""
    core = core_of(replace(HARD, released_term=Term(4)))
    fence = FenceWish(core, ALIVE)
    assert fence.change(None, Untouched()) is None
    core.observed = PostgresObserved(process=ProcessState.RUNNING, in_recovery=True)
    assert fence.change(None, Untouched()) is None  # it may be in the middle of its promotion
    core.observed = PostgresObserved(process=ProcessState.STOPPED)
    assert fence.change(None, Untouched()) == GuardDeadline(Term(4), None)
    assert fence.change(None, Untouched()) is None


def test_guard_that_was_not_armed_is_left_alone() -> None:
    core = core_of(HARD)
    core.observed = PostgresObserved(process=ProcessState.STOPPED)
    assert FenceWish(core).change(None, Untouched()) is None


def test_guard_stays_armed_while_a_promotion_may_have_begun_since() -> None:
    core = core_of(HARD)
    leader = resumed(core, NOW, ALIVE)
    assert leader is not None
    leader.heard_ack(NOW, B, DocumentAck(Term(4), DOCUMENT.ref))
    fence, wanted = FenceWish(core), Detached(Term(5))
    assert fence.change(leader, leader.target()) is not None
    standby = PostgresObserved(process=ProcessState.RUNNING, in_recovery=True)
    for under in (leader.target(), Detached(Term(4)), Stopped(fast=False)):
        core.observed = replace(standby, under=under)
        assert fence.change(None, wanted) is None
    core.observed = replace(standby, under=wanted)
    assert fence.change(None, wanted) == GuardDeadline(Term(4), None)


def test_server_that_was_seen_gone_has_to_stay_gone_before_the_lease_is_released() -> None:
    core = core_of(HARD)
    leader = resumed(core, NOW, ALIVE)
    assert leader is not None
    leader.heard_ack(NOW, B, DocumentAck(Term(4), DOCUMENT.ref))
    led = leader.target()
    assert isinstance(led, Leading)
    core.observed = PostgresObserved(process=ProcessState.STOPPED, under=led)
    leader.server_changed(NOW)
    assert leader.over(NOW) is None  # the supervisor may be starting it again
    assert leader.target() == Stopped(fast=False)
    core.observed = replace(core.observed, under=leader.target())
    assert leader.over(NOW) is End.SERVER
