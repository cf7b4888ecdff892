"""Workers: everyone does its share, and what one raises is raised."""

import threading

import pytest

from vae_engine.workers import Workers, share_count


@pytest.mark.parametrize("count", [1, 3])
def test_every_worker_is_called_once(count: int) -> None:
    workers, seen = Workers(count), [0] * count
    for _ in range(3):
        workers.run(lambda k: seen.__setitem__(k, seen[k] + 1))

    assert seen == [3] * count


def test_an_error_is_raised_when_all_are_done_and_the_next_work_goes_on() -> None:
    workers, done = Workers(3), [False] * 3

    def work(k: int) -> None:
        done[k] = True
        if k == 1:
            raise ValueError("share 1")

    with pytest.raises(ValueError, match="share 1"):
        workers.run(work)
    assert all(done)
    workers.run(lambda k: done.__setitem__(k, False))
    assert not any(done)


def test_threads_end_with_their_workers() -> None:
    before = set(threading.enumerate())
    workers = Workers(2)
    (thread,) = set(threading.enumerate()) - before
    del workers
    thread.join(timeout=10)

    assert not thread.is_alive()


def test_rows_are_shared_by_their_number_alone() -> None:
    assert [share_count(rows) for rows in (1, 95, 96, 100, 192, 10_000)] == [1, 1, 2, 2, 4, 8]
