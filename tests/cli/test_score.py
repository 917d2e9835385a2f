"""The demo's bookkeeping: it says that all is well only when it is."""

from daemon.cli.demo.life import Actor
from daemon.cli.demo.score import CHANGES, WAYS, Deed, Score

ALL = [Deed(7, way, change, way, f"{way}-1") for way in WAYS for change in CHANGES]


def played(deeds: list[Deed], told: list[Deed]) -> Score:
    """A score of what was done and then told."""
    score = Score()
    for deed in deeds:
        score.did(deed, 1.0)
    for deed in told:
        score.told(deed.key, 1.5)
    return score


def test_everything_told_once_is_good() -> None:
    """A created, an updated and a deleted change, each by poll and by webhook, each told once: good."""
    score = played(ALL, ALL)

    assert score.good
    assert [0.5] * 3 == score.latencies["poll"]


def test_one_that_is_missing_is_not_good() -> None:
    """Without any single one of the six it is not good, and the missing one is named."""
    for deed in ALL:
        others = [one for one in ALL if one != deed]
        assert not played(others, others).good
        assert [f"{deed.change} by {deed.way}"] == played(others, others).missing


def test_a_lost_one_is_not_good() -> None:
    """A change that was made and never told makes it not good, whatever else was told."""
    more = Deed(7, "poll", "CREATED", "poll", "poll-2")

    assert 1 == played([*ALL, more], ALL).lost
    assert not played([*ALL, more], ALL).good


def test_told_twice_is_wrong() -> None:
    """A change that is told a second time is counted and makes it wrong."""
    score = played(ALL, [*ALL, ALL[0]])

    assert (1, True, False) == (score.twice, score.wrong, score.good)


def test_out_of_nowhere_is_wrong() -> None:
    """A change that nobody made makes it wrong."""
    score = played(ALL, [*ALL, Deed(8, "poll", "CREATED", "poll", "x")])

    assert (1, True, False) == (score.surprises, score.wrong, score.good)


class Shelf:
    """Records in memory."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}

    def create(self, record_id: str, name: str) -> None:
        """Add one."""
        self.there[record_id] = name

    def update(self, record_id: str, value: str) -> None:
        """Change it."""
        self.there[record_id] = value

    def delete(self, record_id: str) -> None:
        """Remove it."""
        del self.there[record_id]


def test_an_actor_waits_until_it_was_told() -> None:
    """Nothing is done to an object while its last change is not told: a poll would see only the latest."""
    shelf, score = Shelf(), Score()
    actor = Actor(
        name="a", instance=7, way="poll", object_type="things", prefix="thing", records=shelf
    )
    seen = []
    for _ in range(6):
        step = actor.act(score)
        assert step is not None
        score.did(step[0], 0.0)
        assert actor.act(score) is None
        score.told(step[0].key, 0.0)
        seen.append(step[0].change)

    assert [*CHANGES, *CHANGES] == seen
    assert {} == shelf.there
