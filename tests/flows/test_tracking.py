"""The journal of champions in a registry of its own: nothing is lost, whoever writes beside us."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from flows import tracking
from flows.settings import Home
from flows.tracking import CHALLENGER, CHAMPION, champions, set_alias


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A registry with four versions of one model, which hold nothing."""
    home = Home(tmp_path_factory.mktemp("registry"))
    client = tracking.client(home)
    client.create_registered_model("m")
    for _ in range(4):
        client.create_model_version("m", source=str(home.root), run_id=None)
    return home


def test_the_journal_keeps_every_champion_in_order_and_says_one_twice_once(home: Home) -> None:
    set_alias(home, "m", CHALLENGER, 1)
    for version in (1, 1, 2, 1):
        set_alias(home, "m", CHAMPION, version)

    assert champions(home, "m") == [1, 2, 1]
    assert tracking.client(home).get_registered_model("m").aliases == {CHAMPION: 1}


def test_two_writers_at_once_lose_no_entry_and_the_alias_is_the_last(home: Home) -> None:
    before = champions(home, "m")

    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda version: set_alias(home, "m", CHAMPION, version), (3, 4)))

    after = champions(home, "m")
    present = tracking.client(home).get_registered_model("m").aliases[CHAMPION]
    assert after[: len(before)] == before
    assert {3, 4} <= set(after[len(before) :])
    assert after[-1] == int(present)


def test_an_alias_that_moved_without_us_is_the_present_champion(home: Home) -> None:
    tracking.client(home).set_registered_model_alias("m", CHAMPION, "2")

    assert champions(home, "m")[-1] == 2
