"""Items made ahead of time by one background thread, while the consumer works on those before."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End(Generic[T]):
    """What stands behind the last item."""

    error: BaseException | None = None


def prefetched(make: Callable[[], Iterator[T]], n_ahead: int = 4) -> Iterator[T]:
    """The items of an iterator, the same and in the same order; up to ``n_ahead`` are made before they are asked for.

    ``make`` is called, and what it returns is advanced, by a thread that begins with the first item and ends with the
    last one, or when the generator is closed; what is raised there is raised here, with its traceback. The thread
    draws no random numbers of its own, so what is yielded does not depend on its timing.

    Close the generator when it is left before its end (``contextlib.closing``): an exception that is being handled
    keeps it alive otherwise.
    """
    queue: Queue[T | _End[T]] = Queue(n_ahead)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(make, queue, stopped), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        with suppress(Empty):
            while True:  # room for what the thread may be waiting to put; it then sees that it is to stop
                queue.get_nowait()
        thread.join()


def _fill(make: Callable[[], Iterator[T]], queue: "Queue[T | _End[T]]", stopped: threading.Event) -> None:
    try:
        for item in make():
            queue.put(item)
            if stopped.is_set():
                return
    except BaseException as error:
        queue.put(_End(error))
    else:
        queue.put(_End())
