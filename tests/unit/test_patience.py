"""How long a leader bears with its own server."""

from dataclasses import replace

import pytest

from metako.election.patience import NEVER_NS, PROMOTE_TIMEOUT_MS, Patience
from metako.election.settings import ElectionSettings
from metako.model.instant import Instant, milliseconds
from metako.model.postgres import PostgresObserved, ProcessState

SETTINGS = ElectionSettings()
ANSWERS = PostgresObserved(process=ProcessState.RUNNING)
SILENT = replace(ANSWERS, silent=True)
HANG_MS = SETTINGS.hang_timeout_ms


def at(ms):
    return Instant(mono_ns=milliseconds(ms), boot_ns=milliseconds(ms) + 10**12)


@pytest.fixture
def patience():
    return Patience(SETTINGS, at(0))


def test_a_server_that_answers_is_never_lost(patience):
    patience.looked(at(1), ANSWERS)
    assert patience.lost(at(10**9), promoting=False) == ""
    assert patience.wakeup() == NEVER_NS


def test_silence_counts_from_the_first_look_without_an_answer(patience):
    patience.looked(at(1000), SILENT)
    patience.looked(at(3000), SILENT)
    assert patience.wakeup() == milliseconds(1000 + HANG_MS)
    assert patience.lost(at(999 + HANG_MS), promoting=False) == ""
    assert patience.lost(at(1000 + HANG_MS), promoting=False) == "PostgreSQL does not answer"


def test_one_answer_begins_it_anew(patience):
    patience.looked(at(1000), SILENT)
    patience.looked(at(1000 + HANG_MS - 1), ANSWERS)
    patience.looked(at(1000 + HANG_MS), SILENT)
    assert patience.lost(at(1000 + HANG_MS + 1), promoting=False) == ""


def test_a_new_leadership_of_the_same_server_goes_on_counting(patience):
    patience.looked(at(1000), SILENT)
    later = Patience(SETTINGS, at(2000))
    later.adopt(patience)
    assert later.wakeup() == patience.wakeup()


def test_a_server_that_ran_before_this_agent_does_not_start_for_ever(patience):
    starts = replace(ANSWERS, process=ProcessState.STARTING)
    patience.looked(at(0), starts)
    assert patience.wakeup() == NEVER_NS
    patience.resumed()
    patience.looked(at(1000), starts)
    assert patience.lost(at(1000 + HANG_MS), promoting=False) == "PostgreSQL does not answer"
    patience.looked(at(1001), ANSWERS)
    assert patience.wakeup() == NEVER_NS


def test_a_promotion_has_a_limit_and_only_a_promotion(patience):
    late = at(PROMOTE_TIMEOUT_MS + 1)
    assert patience.lost(at(PROMOTE_TIMEOUT_MS), promoting=True) == ""
    assert patience.lost(late, promoting=True) == "promotion did not finish in time"
    assert patience.lost(late, promoting=False) == ""
