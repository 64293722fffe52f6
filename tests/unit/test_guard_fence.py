"""The rules of the fence."""

from hypothesis import given
from hypothesis import strategies as st

from metako.guard.fence import Fence


def test_newest_message_of_a_term_wins_also_when_it_shortens():
    fence = Fence()
    assert fence.arm(3, 100) == ""
    assert fence.arm(3, 300) == ""
    assert fence.deadline_boot_ns == 300
    assert fence.arm(3, 200) == ""
    assert fence.deadline_boot_ns == 200


def test_lower_term_is_refused_also_after_disarming():
    fence = Fence()
    fence.arm(3, 100)
    assert "lower" in fence.arm(2, 500)
    assert (fence.armed_term, fence.deadline_boot_ns) == (3, 100)
    assert fence.disarm(3) == ""
    assert "lower" in fence.arm(2, 500)
    assert (fence.armed_term, fence.deadline_boot_ns) == (0, None)


def test_only_the_armed_term_can_be_disarmed_and_twice_is_no_error():
    fence = Fence()
    fence.arm(3, 100)
    assert "term 3 is armed" in fence.disarm(4)
    assert fence.armed_term == 3
    assert fence.disarm(3) == ""
    assert fence.disarm(3) == ""


def test_fence_is_due_exactly_from_the_deadline_on():
    fence = Fence()
    assert not fence.is_due(10**18)
    fence.arm(1, 100)
    assert not fence.is_due(99)
    assert fence.is_due(100)


def test_term_zero_is_no_term():
    assert "not a term" in Fence().arm(0, 100)


REQUESTS = st.lists(
    st.tuples(st.sampled_from(["arm", "disarm"]), st.integers(0, 6), st.integers(0, 60)),
    max_size=40,
)


@given(REQUESTS)
def test_fenced_term_and_lower_ones_never_come_back(requests):
    """Time goes on by one with every request; the fence fires as soon as it is due."""
    fence = Fence()
    fenced = 0
    highest = 0
    for now, (what, term, deadline) in enumerate(requests):
        before = (fence.armed_term, fence.deadline_boot_ns)
        refusal = fence.arm(term, deadline) if what == "arm" else fence.disarm(term)
        if refusal:
            assert (fence.armed_term, fence.deadline_boot_ns) == before
        if fence.is_due(now):
            fenced = fence.fire()
        armed = fence.armed_term
        assert armed == 0 or armed > fenced
        assert armed == 0 or armed >= highest
        highest = max(highest, armed, fenced)
        assert fence.floor_term == highest
