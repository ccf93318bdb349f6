"""A loop with one slow step, such as an engine run: everything else is done in another thread meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

START_S = 0.5
"""After an exception, the other thread is abandoned if it has not begun within this time."""
END_S = 0.5
"""After an exception, the other thread is abandoned if its present call takes longer than this."""

Item = TypeVar("Item")
Output = TypeVar("Output")


def run_overlapped(  # long: the steps of two threads that share two queues
    items: Iterator[Item], work: Callable[[Item], Output], complete: Callable[[Item, Output], None]
) -> None:
    """Like `for item in items: complete(item, work(item))`, in the same order; while `work` runs, the item before it is completed, and
    the next one is fetched.

    `work` is called in this thread, `items` and `complete` in another one, which has ended when this function returns. An exception of `items`
    is raised after the items before it were completed. After any other one, up to three items that were fetched are not completed.
    """
    fetched: SimpleQueue[tuple[Item, None] | tuple[None, BaseException]] = SimpleQueue()
    worked: SimpleQueue[tuple[Item, Output] | None] = SimpleQueue()
    has_begun, is_ending = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def fetch() -> bool:
        try:
            fetched.put((next(items), None))
        except BaseException as error:  # also StopIteration, and the KeyboardInterrupt of `frames`
            fetched.put((None, error))
            return False
        return True

    def do_the_rest() -> None:
        has_begun.set()
        has_more = fetch() and fetch()
        while (done := worked.get()) is not None:
            try:
                complete(*done)
            except BaseException as error:
                failures.append(error)
                fetched.put((None, error))
                return
            del done  # so that its memory can be used for the next item
            has_more = has_more and not is_ending.is_set() and fetch()

    thread = threading.Thread(target=do_the_rest, name="live", daemon=True)
    try:
        thread.start()
        while True:
            item, end = fetched.get()
            if end is not None:
                break
            worked.put((item, work(item)))  # type: ignore[arg-type]  # None only with an exception
        worked.put(None)
        thread.join()
    except BaseException:
        is_ending.set()
        worked.put(None)
        if has_begun.wait(START_S):  # Ctrl-C during `start` leaves a thread that begins later, or never
            thread.join(END_S)
        raise
    if failures:
        raise failures[0]
    if not isinstance(end, StopIteration):
        raise end
