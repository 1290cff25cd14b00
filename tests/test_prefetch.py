"""Items made ahead by a thread: the same items, errors with their place, and no thread left behind."""

import threading
import time
import traceback

import pytest

from sae_core.prefetch import prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_the_items_come_in_order_and_the_thread_ends_with_them():
    assert list(prefetched(lambda: iter(range(100)), n_ahead=3)) == list(range(100))
    assert threads() == []


def test_items_are_made_ahead_but_not_more_than_allowed():
    made = []

    def make():
        for i in range(50):
            made.append(i)
            yield i

    items = prefetched(make, n_ahead=4)
    assert made == []
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    # One was taken, four wait, and the thread holds one that finds no room.
    assert made == list(range(6))
    items.close()
    assert threads() == []


def test_an_error_comes_after_the_items_before_it_with_the_place_where_it_was_raised():
    def fails():
        yield 1
        raise RuntimeError("the disk is gone")

    items = prefetched(fails)
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="the disk is gone") as told:
        next(items)
    assert "fails" in [frame.name for frame in traceback.extract_tb(told.value.__traceback__)]
    assert threads() == []


def test_an_error_of_the_maker_itself_is_forwarded():
    def refuses():
        raise ValueError("batch_size must be smaller")

    with pytest.raises(ValueError, match="batch_size must be smaller"):
        next(prefetched(refuses))


@pytest.mark.parametrize("n_taken", [0, 1, 7])
def test_closing_ends_the_thread_wherever_it_is(n_taken):
    closed = []

    def endless():
        try:
            i = 0
            while True:
                yield i
                i += 1
        finally:
            closed.append(True)

    for _ in range(20):
        items = prefetched(endless, n_ahead=2)
        for _ in range(n_taken):
            next(items)
        items.close()
        assert threads() == []
