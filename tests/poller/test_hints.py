"""Hints: what webhooks spoke of, until a poll has looked."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.poller.hints import MOST, Hints


def test_what_is_named_again_meanwhile_is_kept():
    """A look that is done takes away what it named, but not what was named once more since: that is another change."""
    hints = Hints()
    hints.add(["a", "b"])
    look = hints.look()
    hints.add(["b", "c"])
    hints.done(look)

    assert ("a", "b") == look.ids
    assert {"b", "c"} == set(hints.look().ids)


def test_too_many_are_a_reason_to_look_at_everything():
    """Beyond MOST no name is kept, only that there were many, until a look that knew of it is done."""
    hints = Hints()
    before = hints.look()
    hints.add(map(str, range(MOST + 1)))
    hints.done(before)
    look = hints.look()

    assert ((), True) == (look.ids, look.many)
    hints.done(look)
    assert not hints.look().many


@given(st.lists(st.one_of(st.sets(st.integers(0, 400)), st.just("look"), st.just("done"))))
def test_nothing_named_is_forgotten_unseen(steps: list[object]):
    """However naming, looking and being done follow one another, what was named after the last look is there."""
    hints = Hints()
    look, since = hints.look(), set[str]()
    for step in steps:
        if step == "look":
            look, since = hints.look(), set()
        elif step == "done":
            hints.done(look)
        elif isinstance(step, set):
            hints.add(map(str, step))
            since |= set(map(str, step))
        now = hints.look()
        assert now.many or since <= set(now.ids)
        assert len(now.ids) <= MOST
