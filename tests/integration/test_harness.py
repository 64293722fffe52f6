"""The witness itself: what it calls a proof of two writable servers, and what it does not."""

import pytest
from harness import Sample, two_writable
from writer import table_name


def samples(*items: tuple[str, float, bool | None]) -> list[Sample]:
    return [Sample(node, at, at + 0.4, writable) for node, at, writable in items]


def test_other_server_writable_between_two_answers_is_a_proof():
    assert two_writable(samples(("n1", 0, True), ("n2", 1, True), ("n1", 2, True)))


@pytest.mark.parametrize("gap", [None, False])
def test_silence_or_recovery_in_between_is_no_proof(gap):
    seen = samples(("n1", 0, True), ("n1", 1, gap), ("n2", 2, True), ("n1", 3, True))
    assert two_writable(seen) is None


def test_one_primary_after_the_other_is_no_proof():
    seen = samples(("n1", 0, True), ("n1", 1, True), ("n2", 2, True), ("n2", 3, True))
    assert two_writable(seen) is None


def test_answers_that_overlap_are_no_proof():
    seen = samples(("n1", 0, True), ("n2", 0.2, True), ("n1", 0.5, True))
    assert two_writable(seen) is None


def test_table_names_fit_into_postgresql():
    name = table_name("test_A[kill-host]" + "x" * 100)
    assert name.startswith("w_test_a_kill_host_x")
    assert len(name) <= 50
