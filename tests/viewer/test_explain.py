"""What a fork was worth: values worked out by hand."""

from __future__ import annotations

import msgspec
import pytest

from asyncthink import think_sync
from asyncthink.episodes import measure
from asyncthink.viewer.explain import explain
from tests.episodes.episode_worlds import episode, organizer, worker


def test_counterfactuals_by_hand() -> None:
    """The organizer forks at 2 and 4, joins worker 1 at 6 (done at 12), worker 2 at 7 (done at 8), and ends with 9 tokens.

    T = 12 + 3 = 15. Without worker 1 the join at 6 costs nothing, and worker 2, done at 8, is waited for at 7: 8 + 2 = 10.
    If the organizer did its 10 ticks itself, it would join worker 2 at tick 17: 9 + 10 = 19. Worker 2 never cost a wait.
    """
    one = episode(3, organizer(9), worker("0/1", 10, 2, 6), worker("0/2", 4, 4, 7))
    told = explain(one)
    assert told.total == measure(one).critical_path == 15
    first, second = told.forks
    assert (first.worked, first.waited, first.without, first.alone) == (10, 6, 10, 19)
    assert (second.worked, second.waited, second.without, second.alone) == (4, 0, 15, 19)
    assert (first.joined, second.joined) == (True, True)
    # With one worker at a time the second begins at 12 and is waited for until 16: 16 + 2.
    assert told.by_capacity == ((2, 18), (3, 15))


def test_a_worker_that_was_never_joined_changes_nothing() -> None:
    one = episode(2, organizer(5), worker("0/1", 50, 1))
    (account,) = explain(one).forks
    assert (account.joined, account.without, account.alone, account.used) == (False, 5, 5, None)


def test_a_worker_s_own_workers_go_with_it() -> None:
    """0/1 works 4 ticks, forks 0/1/1 (10 ticks) at 1 and joins it at 2: its own T is 11 + 2 = 13."""
    one = episode(3, organizer(4), worker("0/1", 4, 1, 3), worker("0/1/1", 10, 1, 2), worker("0/2", 1, 2, 4))
    told = explain(one)
    assert told.total == 1 + 13 + 1
    assert (told.forks[0].without, told.forks[0].alone) == (4, 4 + 13)


def test_what_was_used_is_told_in_runs_of_three_words() -> None:
    """Of `it is 42`, `is 42 or` and `42 or 43` the answer has two, whatever their case."""
    returned = msgspec.structs.replace(worker("0/1", 2, 1, 2), result="It is 42 or 43")
    one = msgspec.structs.replace(episode(2, organizer(4), returned), answer="so it is 42 or so")
    assert explain(one).forks[0].used == 2 / 3


def test_of_many_forks_only_the_first_get_counterfactuals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncthink.viewer.explain.MOST_FORKS", 1)
    told = explain(episode(3, organizer(9), worker("0/1", 10, 2, 6), worker("0/2", 4, 4, 7)))
    assert [(one.without, one.alone) for one in told.forks] == [(10, 19), (None, None)]


def test_tags_and_what_was_used(tmp_path: object) -> None:
    script = {
        "organizer": "<FORK-1>six times seven</FORK-1> so <FORK-2>a joke</FORK-2> <JOIN-1> <JOIN-2> "
        "<ANSWER>it is 42 as they say</ANSWER>",
        "workers": {
            "six times seven": "<RETURN>it is 42 as</RETURN>",
            "a joke": "<RETURN>a horse walks into a bar</RETURN>",
        },
    }
    from json import dumps
    from pathlib import Path

    file = Path(str(tmp_path)) / "script.json"
    file.write_text(dumps(script))
    told = explain(think_sync("?", model=f"scripted:{file}", capacity=3))
    first, second = told.forks
    assert first.used == 1.0 and second.used == 0.0
    # <FORK-1> six times seven </FORK-1> are five tokens of the scripted engine, <JOIN-1> is one.
    assert first.written == 6
